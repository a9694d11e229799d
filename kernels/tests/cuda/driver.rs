//! Builds the stand-in for the NVIDIA driver (`driver/README.md`), once for the same sources.
//!
//! Tests of this crate and of `mdl` include this file, and start what they test with `LD_LIBRARY_PATH` at
//! [`folder`]. The folder is named by a hash of all that goes into it and appears when it is whole; a lock keeps
//! test processes from building it at the same time.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::fs::{self, File};
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};

const FLAGS: &[&str] = &[
    "-std=c++17",
    "-O2",
    "-fPIC",
    "-fvisibility=hidden",
    "-fno-strict-aliasing",
    "-ffp-contract=off",
    // A fault in a kernel jumps from the stack of its thread to that of its caller.
    "-U_FORTIFY_SOURCE",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-unknown-pragmas",
    "-Wno-unused-function",
];

/// An index beyond an array, or an address that is not aligned, is an error of the launch.
#[cfg(target_arch = "x86_64")]
const MACHINE: &[&str] =
    &["-march=native", "-fsanitize=bounds,alignment", "-fsanitize-undefined-trap-on-error"];
#[cfg(not(target_arch = "x86_64"))]
const MACHINE: &[&str] = &[];

struct Build {
    compiler: String,
    cuda: PathBuf,
    tests: PathBuf,
    /// Where objects and libraries lie.
    out: PathBuf,
    /// Of what every object is made of: headers, flags, the compiler, the processor.
    common: u64,
}

/// The folder with `libcuda.so.1` and `libcuda.so`.
pub fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let build = Build::new();
        let sources = build.sources();
        let objects: BTreeMap<&Path, PathBuf> =
            sources.iter().map(|s| (s.as_path(), build.object(s))).collect();
        let folder = build.out.join(format!("{:016x}", hash(&objects)));
        if !folder.join("libcuda.so").exists() {
            let lock = File::create(build.out.join("lock")).unwrap();
            lock.lock().unwrap();
            if !folder.join("libcuda.so").exists() {
                build.compile(&objects);
                build.link(&objects, &folder);
            }
        }
        folder
    })
}

fn hash(what: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

fn files(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
    let mut found: Vec<PathBuf> = entries.map(|e| e.unwrap().path()).collect();
    found.retain(|p| p.extension().is_some_and(|e| e == extension));
    found.sort();
    found
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn run(command: &mut Command, compiler: &str) -> Vec<u8> {
    let output = command.output().unwrap_or_else(|e| {
        panic!("{compiler} does not start ({e}): install g++, or name a C++17 compiler in CXX")
    });
    assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

impl Build {
    fn new() -> Build {
        // The root crate's tests include this file too.
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let kernels = if root.join("kernels/cuda").is_dir() { root.join("kernels") } else { root };
        let (cuda, tests) = (kernels.join("cuda"), kernels.join("tests/cuda"));
        let out = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("cuda-driver");
        fs::create_dir_all(&out).unwrap();
        let compiler = std::env::var("CXX").unwrap_or_else(|_| "g++".to_owned());
        let version = run(Command::new(&compiler).arg("--version"), &compiler);
        let headers = [files(&cuda, "cuh"), files(&tests, "h"), files(&tests.join("driver"), "h")].concat();
        let texts: Vec<Vec<u8>> = headers.iter().map(|p| read(p)).collect();
        let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let processor: Vec<&str> = processor.lines().filter(|l| l.starts_with("flags")).take(1).collect();
        let registers = read(&cuda.join("registers.txt"));
        let common = hash(&(texts, registers, FLAGS, MACHINE, &compiler, version, processor));
        Build { compiler, cuda, tests, out, common }
    }

    fn sources(&self) -> Vec<PathBuf> {
        let mut sources = files(&self.cuda, "cu");
        sources.push(self.tests.join("shim.cpp"));
        sources.extend(files(&self.tests.join("driver"), "cpp"));
        sources
    }

    fn object(&self, source: &Path) -> PathBuf {
        let name = source.file_name().unwrap().to_string_lossy();
        self.out.join(format!("{name}-{:016x}.o", hash(&(self.common, read(source)))))
    }

    /// Compiles what has no object yet, with all processors.
    fn compile(&self, objects: &BTreeMap<&Path, PathBuf>) {
        for stale in files(&self.out, "o") {
            if !objects.values().any(|o| *o == stale) {
                fs::remove_file(stale).unwrap();
            }
        }
        let missing: Vec<_> = objects.iter().filter(|(_, object)| !object.exists()).collect();
        let next = Mutex::new(missing.iter());
        let one = || {
            loop {
                let Some((source, object)) = next.lock().unwrap().next() else { return };
                let partial = object.with_extension("part");
                let mut command = Command::new(&self.compiler);
                command.args(FLAGS).arg("-I").arg(&self.cuda);
                if source.extension().is_some_and(|e| e == "cu") {
                    command.args(MACHINE).arg("-include").arg(self.tests.join("driver/entry.h"));
                }
                let registers = self.cuda.join("registers.txt");
                command.arg(format!("-DREGISTERS=\"{}\"", registers.display()));
                command.args(["-x", "c++", "-c"]).arg(source).arg("-o").arg(&partial);
                run(&mut command, &self.compiler);
                fs::rename(&partial, object).unwrap();
            }
        };
        let jobs = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| {
            for _ in 0..jobs {
                scope.spawn(one);
            }
        });
    }

    fn link(&self, objects: &BTreeMap<&Path, PathBuf>, folder: &Path) {
        let partial = folder.with_extension("part");
        let _ = fs::remove_dir_all(&partial);
        fs::create_dir_all(&partial).unwrap();
        let mut command = Command::new(&self.compiler);
        // Looking whether the library is there opens and closes it: what it knows must stay.
        command.args([
            "-shared",
            "-pthread",
            "-Wl,-z,nodelete",
            "-Wl,-Bsymbolic",
            "-Wl,-soname,libcuda.so.1",
        ]);
        command.arg("-o").arg(partial.join("libcuda.so.1")).args(objects.values());
        run(&mut command, &self.compiler);
        std::os::unix::fs::symlink("libcuda.so.1", partial.join("libcuda.so")).unwrap();
        let _ = fs::remove_dir_all(folder);
        fs::rename(&partial, folder).unwrap();
    }
}
