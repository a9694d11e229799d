//! What a process that renders denies itself before it reads a template.

use std::io;

/// Bytes of memory it may take beyond what it has when it starts: a request, its values, and what
/// fuel lets a template make.
const MEMORY_BYTES: u64 = (256 << 20) + 2 * (16 << 20);

/// Gives up, for good: more memory than [`MEMORY_BYTES`], opening anything, writing to a file,
/// starting a process or a thread (as far as the system counts those of its user), and leaving a
/// core dump. Time is the business of the parent, which counts it by request.
///
/// # Errors
/// The system refuses a limit.
#[cfg(unix)]
pub fn restrict() -> io::Result<()> {
    use rustix::process::{Resource, Rlimit, setrlimit};

    let set = |resource, most| {
        setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) }).map_err(io::Error::from)
    };
    if cfg!(target_os = "linux") {
        set(Resource::As, memory_now()?.saturating_add(MEMORY_BYTES))?;
        set(Resource::Nproc, 0)?;
    }
    set(Resource::Core, 0)?;
    set(Resource::Fsize, 0)?;
    set(Resource::Nofile, 0)
}

/// Nothing: the system has no limits that a process gives itself.
///
/// # Errors
/// None.
#[cfg(not(unix))]
pub fn restrict() -> io::Result<()> {
    let _ = MEMORY_BYTES;
    Ok(())
}

/// Bytes of address space that the process has.
#[cfg(unix)]
fn memory_now() -> io::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let kibibytes = status
        .lines()
        .find_map(|line| line.strip_prefix("VmSize:")?.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kibibytes.ok_or(io::ErrorKind::InvalidData)?.saturating_mul(1024))
}
