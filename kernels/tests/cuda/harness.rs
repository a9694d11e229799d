//! Compiles the kernels for the shim once, and launches them.

use std::ffi::{CStr, CString, c_char, c_void};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};

use libloading::Library;

type Launch = unsafe extern "C" fn(
    *const c_char,
    *const u32,
    *const u32,
    usize,
    *const *const c_void,
    *const usize,
    usize,
    i32,
) -> *const c_char;

struct Shim {
    launch: Launch,
    allocate: unsafe extern "C" fn(usize) -> *mut u8,
    release: unsafe extern "C" fn(*mut u8, usize),
    /// The machine runs one kernel at a time.
    turn: Mutex<()>,
}

fn files(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
    let mut found: Vec<PathBuf> = entries.map(|e| e.unwrap().path()).collect();
    found.retain(|p| p.extension().is_some_and(|e| e == extension));
    found.sort();
    found
}

/// Compiles what is newer than its object; returns the library.
fn compile() -> PathBuf {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let (cuda, shim) = (root.join("cuda"), root.join("tests/cuda"));
    let out = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("cuda-shim");
    fs::create_dir_all(&out).unwrap();
    let time = |p: &Path| fs::metadata(p).and_then(|m| m.modified()).ok();
    let headers = [files(&cuda, "cuh"), files(&shim, "h"), vec![shim.join("../cuda/harness.rs")]].concat();
    let newest = headers.iter().filter_map(|p| time(p)).max();
    let mut sources = [files(&cuda, "cu"), files(&shim, "cu")].concat();
    sources.push(shim.join("shim.cpp"));
    let objects: Vec<PathBuf> =
        sources.iter().map(|s| out.join(s.file_name().unwrap()).with_extension("o")).collect();
    let library = out.join("libshim.so");
    let stale: Vec<(&PathBuf, &PathBuf)> = sources
        .iter()
        .zip(&objects)
        .filter(|(s, o)| time(o).is_none_or(|built| Some(built) < newest || Some(built) < time(s)))
        .collect();
    let next = Mutex::new(stale.iter());
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "g++".to_owned());
    let one = || {
        loop {
            let Some((source, object)) = next.lock().unwrap().next() else { return };
            let mut command = Command::new(&compiler);
            command.args(["-std=c++17", "-O1", "-fPIC", "-fno-strict-aliasing", "-ffp-contract=off"]);
            command.args(["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-Wno-unused-function"]);
            if cfg!(target_arch = "x86_64") {
                // An index beyond an array, or an address that is not aligned, ends the test.
                command.args([
                    "-march=native",
                    "-fsanitize=bounds,alignment",
                    "-fsanitize-undefined-trap-on-error",
                ]);
            }
            command.arg("-I").arg(&cuda).arg("-include").arg(shim.join("shim.h"));
            command.args(["-x", "c++", "-c"]).arg(source).arg("-o").arg(object);
            run(&mut command, &compiler);
        }
    };
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(one);
        }
    });
    if !stale.is_empty() || !library.exists() {
        run(Command::new(&compiler).args(["-shared", "-o"]).arg(&library).args(&objects), &compiler);
    }
    library
}

fn run(command: &mut Command, compiler: &str) {
    let output = command.output().unwrap_or_else(|e| {
        panic!("{compiler} does not start ({e}): install g++, or name a C++17 compiler in CXX")
    });
    assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
}

fn shim() -> &'static Shim {
    static SHIM: OnceLock<Shim> = OnceLock::new();
    SHIM.get_or_init(|| {
        let library = compile();
        // SAFETY: the library is ours; its initialisers only fill a table.
        let library = unsafe { Library::new(&library) }.unwrap_or_else(|e| panic!("{e}"));
        let library: &'static Library = Box::leak(Box::new(library));
        // SAFETY: the functions have these types (shim.cpp), and the library is never unloaded.
        unsafe {
            Shim {
                launch: *library.get(b"shim_launch").unwrap(),
                allocate: *library.get(b"shim_allocate").unwrap(),
                release: *library.get(b"shim_release").unwrap(),
                turn: Mutex::new(()),
            }
        }
    })
}

/// Memory of the device; reading or writing beyond its end is a fault.
pub struct Buffer {
    at: *mut u8,
    bytes: usize,
}

impl Buffer {
    /// Memory with these values.
    pub fn of<T: bytemuck::Pod>(values: &[T]) -> Buffer {
        let bytes = bytemuck::cast_slice::<T, u8>(values);
        let buffer = Buffer::filled(bytes.len(), 0);
        // SAFETY: the buffer has so many bytes.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), buffer.at, bytes.len()) };
        buffer
    }

    /// So many bytes, each with this value.
    pub fn filled(bytes: usize, value: u8) -> Buffer {
        // SAFETY: any size is fine; the result has at least so many bytes.
        let at = unsafe { (shim().allocate)(bytes) };
        // SAFETY: as above.
        unsafe { std::ptr::write_bytes(at, value, bytes) };
        Buffer { at, bytes }
    }

    /// `n` floats that are NaN: what is not written shows.
    pub fn floats(n: usize) -> Buffer {
        Buffer::filled(4 * n, 0xff)
    }

    /// What is in it.
    pub fn read<T: bytemuck::Pod>(&self) -> Vec<T> {
        // SAFETY: the buffer has so many bytes, all of them initialised.
        let bytes = unsafe { std::slice::from_raw_parts(self.at, self.bytes) };
        bytemuck::pod_collect_to_vec(bytes)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: it was allocated with this size.
        unsafe { (shim().release)(self.at, self.bytes) }
    }
}

/// An address within a buffer.
#[derive(Clone, Copy)]
pub struct Place(u64);

impl Buffer {
    /// The address of a byte of it.
    pub fn at(&self, byte: usize) -> Place {
        assert!(byte <= self.bytes);
        Place(self.at as u64 + byte as u64)
    }
}

impl From<Place> for Arg {
    fn from(place: Place) -> Arg {
        Arg(place.0.to_ne_bytes(), 8)
    }
}

/// An argument of a kernel.
pub struct Arg([u8; 8], usize);

impl From<&Buffer> for Arg {
    fn from(buffer: &Buffer) -> Arg {
        Arg((buffer.at as u64).to_ne_bytes(), 8)
    }
}

impl From<Option<&Buffer>> for Arg {
    fn from(buffer: Option<&Buffer>) -> Arg {
        buffer.map_or(Arg([0; 8], 8), Arg::from)
    }
}

macro_rules! number {
    ($($ty:ty)*) => {$(
        impl From<$ty> for Arg {
            fn from(v: $ty) -> Arg {
                let (mut bytes, value) = ([0; 8], v.to_ne_bytes());
                bytes[..value.len()].copy_from_slice(&value);
                Arg(bytes, value.len())
            }
        }
    )*};
}
number! { i32 u32 f32 f64 u64 i64 }

impl From<usize> for Arg {
    fn from(v: usize) -> Arg {
        Arg::from(i32::try_from(v).unwrap())
    }
}

/// The order of threads.
#[derive(Clone, Copy, Debug)]
pub struct Order(i32);

/// Calls `f` for both orders of threads.
pub fn both(f: impl Fn(Order)) {
    f(Order(1));
    f(Order(-1));
}

impl Order {
    /// Launches a kernel; returns what was wrong.
    pub fn try_launch(
        self,
        name: &str,
        grid: [usize; 3],
        threads: usize,
        shared: usize,
        args: &[Arg],
    ) -> Result<(), String> {
        let shim = shim();
        let name = CString::new(name).unwrap();
        let grid = grid.map(|n| u32::try_from(n).unwrap());
        let block = [u32::try_from(threads).unwrap(), 1, 1];
        let values: Vec<*const c_void> = args.iter().map(|a| a.0.as_ptr().cast()).collect();
        let sizes: Vec<usize> = args.iter().map(|a| a.1).collect();
        let turn = shim.turn.lock().unwrap_or_else(|e| e.into_inner());
        // SAFETY: the shim checks the number and the sizes of the arguments; each points to eight bytes. What the
        // kernel does with pointers is what is tested.
        let error = unsafe {
            (shim.launch)(
                name.as_ptr(),
                grid.as_ptr(),
                block.as_ptr(),
                shared,
                values.as_ptr(),
                sizes.as_ptr(),
                values.len(),
                self.0,
            )
        };
        let result = match error.is_null() {
            true => Ok(()),
            // SAFETY: not null, so a text that stands until the next launch.
            false => Err(unsafe { CStr::from_ptr(error) }.to_string_lossy().into_owned()),
        };
        drop(turn);
        result
    }

    /// Launches a kernel.
    pub fn launch(self, name: &str, grid: [usize; 3], threads: usize, shared: usize, args: &[Arg]) {
        self.try_launch(name, grid, threads, shared, args).unwrap_or_else(|e| panic!("{e}"));
    }
}

/// The arguments of a launch.
#[macro_export]
macro_rules! args {
    ($($arg:expr),* $(,)?) => { &[$($crate::harness::Arg::from($arg)),*] };
}
