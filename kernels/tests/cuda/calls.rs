//! Calls of the driver for tests: each test in a process of its own, and short names of what they do.

use std::ffi::{CStr, CString, c_void};
use std::process::Command;
use std::ptr::null_mut;

use cudarc::driver::sys::{self, CUdeviceptr, CUfunction, CUmodule, CUstream};

use crate::driver;

/// What a process said.
pub struct Said {
    pub log: Vec<String>,
    pub stderr: String,
}

/// Runs `body` in a process that has the stand-in, with these settings; `None` is what that process gets.
pub fn driven(test: &str, settings: &str, body: impl FnOnce()) -> Option<Said> {
    if std::env::var_os("MDL_STANDIN_TEST").is_some_and(|t| t == test) {
        body();
        return None;
    }
    let log = format!("{}/cuda-driver/{test}.log", env!("CARGO_TARGET_TMPDIR"));
    let _ = std::fs::remove_file(&log);
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env("LD_LIBRARY_PATH", driver::folder())
        .env("MDL_STANDIN_TEST", test)
        .env("MDL_STANDIN_CUDA", format!("log={log},{settings}"))
        .env_remove("CUDA_VISIBLE_DEVICES")
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && stdout.contains("1 passed"), "{stdout}\n{stderr}");
    let log = std::fs::read_to_string(&log).unwrap_or_default();
    Some(Said { log: log.lines().map(str::to_owned).collect(), stderr })
}

impl Said {
    pub fn has(&self, line: &str) {
        assert!(self.log.iter().any(|l| l == line), "no `{line}` in {:#?}", self.log);
    }
}

/// Calls the driver: the code that it answers.
macro_rules! cu {
    ($name:ident($($arg:expr),* $(,)?)) => {
        // SAFETY: the stand-in checks what it gets; what it writes to are variables of the test.
        unsafe { sys::$name($($arg),*) as u32 }
    };
}

pub const OK: u32 = 0;
pub const INVALID: u32 = 1;
pub const OUT_OF_MEMORY: u32 = 2;
pub const BAD_HANDLE: u32 = 400;
pub const ILLEGAL_ADDRESS: u32 = 700;

/// A context that is current.
pub fn begin() {
    let mut context = null_mut();
    assert_eq!(cu!(cuInit(0)), OK);
    assert_eq!(cu!(cuDevicePrimaryCtxRetain(&mut context, 0)), OK);
    assert_eq!(cu!(cuCtxSetCurrent(context)), OK);
}

pub fn allocate(bytes: usize) -> CUdeviceptr {
    let mut at = 0;
    assert_eq!(cu!(cuMemAlloc_v2(&mut at, bytes)), OK);
    at
}

pub fn upload(values: &[f32]) -> CUdeviceptr {
    let at = allocate(4 * values.len());
    write(at, values);
    at
}

pub fn write(to: CUdeviceptr, values: &[f32]) {
    assert_eq!(cu!(cuMemcpyHtoD_v2(to, values.as_ptr().cast(), 4 * values.len())), OK);
}

pub fn floats(from: CUdeviceptr, n: usize) -> Vec<f32> {
    let mut values = vec![0.0f32; n];
    assert_eq!(cu!(cuMemcpyDtoH_v2(values.as_mut_ptr().cast(), from, 4 * n)), OK);
    values
}

pub fn stream(flags: u32) -> CUstream {
    let mut stream = null_mut();
    assert_eq!(cu!(cuStreamCreate(&mut stream, flags)), OK);
    stream
}

/// PTX without code, which is what the stand-in needs of it.
pub fn ptx(version: &str, target: &str, kernels: &[&str]) -> CString {
    let entries: String = kernels.iter().map(|k| format!(".visible .entry {k}(\n)\n{{\n}}\n")).collect();
    CString::new(format!(".version {version}\n.target {target}\n.address_size 64\n{entries}")).unwrap()
}

pub fn load(image: &CStr) -> Result<CUmodule, u32> {
    let mut module = null_mut();
    match cu!(cuModuleLoadData(&mut module, image.as_ptr().cast())) {
        OK => Ok(module),
        code => Err(code),
    }
}

pub fn function(name: &str) -> CUfunction {
    let module = load(&ptx("8.0", "sm_80", &["other", name])).unwrap();
    let (mut function, name) = (null_mut(), CString::new(name).unwrap());
    assert_eq!(cu!(cuModuleGetFunction(&mut function, module, name.as_ptr())), OK);
    function
}

/// Launches a kernel with blocks in a row.
pub fn launch(
    f: CUfunction,
    grid: [u32; 2],
    threads: u32,
    shared: u32,
    on: CUstream,
    args: &[*mut c_void],
) -> u32 {
    let args = args.as_ptr().cast_mut();
    cu!(cuLaunchKernel(f, grid[0], grid[1], 1, threads, 1, 1, shared, on, args, null_mut()))
}

pub fn argument<T>(value: &T) -> *mut c_void {
    std::ptr::from_ref(value).cast_mut().cast()
}

/// `out += factor * x`, by the kernel `add`.
pub fn add(f: CUfunction, x: CUdeviceptr, out: CUdeviceptr, n: i32, factor: f32, on: CUstream) -> u32 {
    let args = [argument(&x), argument(&out), argument(&n), argument(&factor)];
    launch(f, [(n as u32).div_ceil(256), 1], 256, 0, on, &args)
}

#[derive(Default)]
#[repr(C)]
pub struct Report {
    pub allocations: u64,
    pub bytes: u64,
    pub host_allocations: u64,
    pub streams: u64,
    pub events: u64,
    pub modules: u64,
    pub graphs: u64,
    pub launches: u64,
    pub peak_bytes: u64,
}

pub fn report() -> Report {
    let mut out = Report::default();
    // SAFETY: the function has this type (driver.h), and the library is never unloaded.
    unsafe { (sys::culib().get::<unsafe extern "C" fn(&mut Report)>(b"standin_report").unwrap())(&mut out) };
    out
}

pub(crate) use cu;
