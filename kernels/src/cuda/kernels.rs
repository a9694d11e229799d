//! The kernels that the binary carries, loaded when they are first needed.
//!
//! They are in an archive (tar, gzip) that `kernels/cuda/build.py` makes: `index`, the digest of the sources and a line
//! with the name of each kernel and of its module; for each module, PTX for a compute capability and what is newer (`NAME.compute_80.ptx`), which
//! the driver compiles and keeps, or code for a capability (`NAME.sm_90.cubin`), which it takes as it is.

use std::collections::HashMap;
use std::io::Read;
use std::sync::Mutex;

use cudarc::driver::result::{self, module};
use cudarc::driver::sys;
use flate2::read::GzDecoder;

use super::CudaError;
use super::error::Tried;

/// The archive. A release build names one with machine code, too, in `MDL_CUDA_KERNELS`.
const ARCHIVE: &[u8] = include_bytes!(env!("MDL_CUDA_ARCHIVE"));

/// Bytes of an image at most: more is no image of ours.
const MOST_IMAGE: u64 = 64 << 20;

/// A kernel that can be launched, as long as its context lives.
#[derive(Clone, Copy)]
pub(super) struct Function(pub(super) sys::CUfunction);

// SAFETY: the driver may be called with a function from any thread.
unsafe impl Send for Function {}

struct Module(sys::CUmodule);

// SAFETY: as above.
unsafe impl Send for Module {}

/// What has been loaded for a device.
pub(super) struct Kernels {
    capability: (i32, i32),
    loaded: Mutex<Loaded>,
}

#[derive(Default)]
struct Loaded {
    /// The module of each kernel.
    index: HashMap<String, String>,
    modules: HashMap<String, Module>,
    functions: HashMap<String, Function>,
}

impl Kernels {
    pub(super) fn new(capability: (i32, i32)) -> Kernels {
        Kernels { capability, loaded: Mutex::default() }
    }

    /// The kernel `name`, with leave for so many bytes of dynamic shared memory. The context is current.
    pub(super) fn function(&self, name: &str, shared: usize) -> Result<Function, CudaError> {
        let missing = || CudaError::Kernel(name.to_owned());
        let mut loaded = self.loaded.lock().unwrap_or_else(|e| e.into_inner());
        let function = match loaded.functions.get(name) {
            Some(function) => *function,
            None => {
                if loaded.index.is_empty() {
                    loaded.index = index()?;
                }
                let module = loaded.index.get(name).cloned().ok_or_else(missing)?;
                if !loaded.modules.contains_key(&module) {
                    let mut image = image(&module, self.capability)?.ok_or_else(missing)?;
                    // PTX is text that ends with a zero.
                    image.push(0);
                    // SAFETY: it is an image of ours, complete, and is copied by the driver.
                    let made =
                        unsafe { module::load_data(image.as_ptr().cast()) }.tried("load GPU kernels")?;
                    loaded.modules.insert(module.clone(), Module(made));
                }
                let c_name = std::ffi::CString::new(name).map_err(|_| missing())?;
                let Some(Module(module)) = loaded.modules.get(&module) else { return Err(missing()) };
                // SAFETY: the module is loaded and stays so.
                let function = unsafe { module::get_function(*module, c_name) }.tried("find a GPU kernel")?;
                loaded.functions.insert(name.to_owned(), Function(function));
                Function(function)
            }
        };
        if shared > 48 << 10 {
            let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            let bytes = i32::try_from(shared).unwrap_or(i32::MAX);
            // SAFETY: the function is one of a module that is loaded.
            unsafe { result::function::set_function_attribute(function.0, attribute, bytes) }
                .tried("give a GPU kernel its shared memory")?;
        }
        Ok(function)
    }

    /// Unloads all; the context is about to be released.
    pub(super) fn unload(&self) {
        let mut loaded = self.loaded.lock().unwrap_or_else(|e| e.into_inner());
        loaded.functions.clear();
        for (_, Module(module)) in loaded.modules.drain() {
            // SAFETY: nothing that is left uses its kernels.
            let _ = unsafe { module::unload(module) };
        }
    }
}

/// Calls `take` for each file of the archive, until it returns something.
fn find<T>(mut take: impl FnMut(&str, &mut dyn Read) -> Option<T>) -> Result<Option<T>, CudaError> {
    let broken = |_| CudaError::Kernel("(the archive of kernels cannot be read)".to_owned());
    let mut archive = tar::Archive::new(GzDecoder::new(ARCHIVE));
    for entry in archive.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        let name = entry.path().map_err(broken)?.to_string_lossy().into_owned();
        if let Some(found) = take(&name, &mut entry) {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn index() -> Result<HashMap<String, String>, CudaError> {
    let text = find(|name, read| {
        let mut text = String::new();
        (name == "index" && read.take(MOST_IMAGE).read_to_string(&mut text).is_ok()).then_some(text)
    })?;
    let lines = text.unwrap_or_default();
    let pairs = lines.lines().filter_map(|line| line.split_once(' '));
    Ok(pairs.map(|(kernel, module)| (kernel.to_owned(), module.to_owned())).collect())
}

/// How well an image of `module` fits a device: code for it, or for an older one of its generation, before PTX, and
/// the newer before the older.
fn fit(file: &str, module: &str, (major, minor): (i32, i32)) -> Option<(bool, i32)> {
    let (kind, rest) = file.strip_prefix(module)?.strip_prefix('.')?.split_once('_')?;
    let (number, extension) = rest.split_once('.')?;
    let number: i32 = number.parse().ok()?;
    let device = 10 * major + minor;
    let fits = match (kind, extension) {
        ("sm", "cubin") => number / 10 == major && number <= device,
        ("compute", "ptx") => number <= device,
        _ => false,
    };
    fits.then_some((kind == "sm", number))
}

fn image(module: &str, capability: (i32, i32)) -> Result<Option<Vec<u8>>, CudaError> {
    let mut best = None;
    find(|name, read| {
        let fit = fit(name, module, capability)?;
        let mut bytes = Vec::new();
        if best.as_ref().is_none_or(|(of, _)| *of < fit)
            && read.take(MOST_IMAGE).read_to_end(&mut bytes).is_ok()
        {
            best = Some((fit, bytes));
        }
        None::<()>
    })?;
    Ok(best.map(|(_, bytes)| bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_for_the_device_goes_before_ptx() {
        let ada = (8, 9);
        assert_eq!(fit("norm.sm_89.cubin", "norm", ada), Some((true, 89)));
        assert_eq!(fit("norm.sm_80.cubin", "norm", ada), Some((true, 80)));
        assert_eq!(fit("norm.compute_80.ptx", "norm", ada), Some((false, 80)));
        for other in
            ["norm.sm_90.cubin", "norm.compute_90.ptx", "normal.sm_89.cubin", "norm.sm_89.ptx", "index"]
        {
            assert_eq!(fit(other, "norm", ada), None, "{other}");
        }
        assert_eq!(fit("norm.sm_80.cubin", "norm", (9, 0)), None);
        assert!(fit("norm.compute_90.ptx", "norm", (12, 0)) > fit("norm.compute_80.ptx", "norm", (12, 0)));
    }

    #[test]
    fn the_archive_is_of_these_sources() {
        use sha2::{Digest, Sha256};
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/cuda");
        let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
        files.retain(|p| p.extension().is_some_and(|e| e == "cu" || e == "cuh"));
        files.sort();
        let mut digest = Sha256::new();
        for path in files {
            let text = std::fs::read(&path).unwrap();
            digest.update(format!("{} {}\n", path.file_name().unwrap().display(), text.len()));
            digest.update(&text);
        }
        let hex: String = digest.finalize().iter().map(|b| format!("{b:02x}")).collect();
        let told = index().unwrap().remove("sources");
        assert_eq!(told, Some(hex), "kernels have changed: python kernels/cuda/build.py --archive");
    }

    #[test]
    fn every_kernel_has_an_image_for_every_device() {
        let mut index = index().unwrap();
        index.remove("sources");
        assert!(index.len() > 100, "{} kernels", index.len());
        let modules: std::collections::BTreeSet<&String> = index.values().collect();
        for module in modules {
            for capability in [(8, 0), (8, 6), (8, 9), (9, 0), (12, 0)] {
                assert!(image(module, capability).unwrap().is_some(), "{module} {capability:?}");
            }
        }
    }
}
