//! Why something on a GPU failed.

use std::fmt;

use cudarc::driver::result::DriverError;
use cudarc::driver::sys::CUresult;

/// Why something on a GPU failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CudaError {
    /// No driver is installed: its library is not found.
    NoDriver,
    /// The driver is older than what is needed; versions as 1000 * major + 10 * minor.
    OldDriver {
        /// What the driver supports.
        found: i32,
        /// What is needed.
        needed: i32,
    },
    /// The driver is there and no GPU.
    NoDevice,
    /// There is no GPU of this number.
    Ordinal {
        /// The number, from 0 on.
        ordinal: usize,
        /// GPUs there are.
        count: usize,
    },
    /// The GPU is older than what the kernels are made for.
    OldDevice {
        /// What it is called.
        name: String,
        /// Its compute capability, major and minor.
        capability: (i32, i32),
    },
    /// There is not so much memory left.
    Memory {
        /// Bytes that were asked for.
        asked: usize,
        /// Bytes that were free.
        free: usize,
        /// Bytes there are.
        total: usize,
    },
    /// The binary carries no such kernel.
    Kernel(String),
    /// A call of the driver failed.
    Call {
        /// What was tried.
        what: &'static str,
        /// The driver's code, its name, and its explanation.
        code: u32,
        /// The name of the code.
        name: String,
        /// What the driver says about it.
        text: String,
    },
}

/// A version as people write it.
struct Version(i32);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0 / 1000, self.0 % 1000 / 10)
    }
}

impl fmt::Display for CudaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CudaError::NoDriver => write!(f, "the NVIDIA driver is not installed (there is no libcuda)"),
            CudaError::OldDriver { found, needed } => {
                write!(
                    f,
                    "the NVIDIA driver supports CUDA {}, {} is needed",
                    Version(*found),
                    Version(*needed)
                )
            }
            CudaError::NoDevice => write!(f, "the NVIDIA driver finds no GPU"),
            CudaError::Ordinal { ordinal, count } => {
                write!(f, "there is no GPU {ordinal}: {count} found, counted from 0")
            }
            CudaError::OldDevice { name, capability: (major, minor) } => {
                write!(f, "{name} has compute capability {major}.{minor}; 8.0 is needed")
            }
            CudaError::Memory { asked, free, total } => {
                write!(f, "{asked} bytes of GPU memory were asked for, {free} of {total} are free")
            }
            CudaError::Kernel(name) => write!(f, "this build carries no GPU kernel `{name}`"),
            CudaError::Call { what, code, name, text } => write!(f, "cannot {what}: {text} ({name}, {code})"),
        }
    }
}

impl std::error::Error for CudaError {}

/// Says what was tried when a call of the driver failed.
pub(super) trait Tried<T> {
    fn tried(self, what: &'static str) -> Result<T, CudaError>;
}

impl<T> Tried<T> for Result<T, DriverError> {
    fn tried(self, what: &'static str) -> Result<T, CudaError> {
        self.map_err(|e| {
            let text = |s: Result<&std::ffi::CStr, DriverError>| {
                s.map(|s| s.to_string_lossy().into_owned()).unwrap_or_else(|_| "unknown".to_owned())
            };
            CudaError::Call {
                what,
                code: e.0 as u32,
                name: text(e.error_name()),
                text: text(e.error_string()),
            }
        })
    }
}

/// True when the driver said that there is no memory.
pub(super) fn is_out_of_memory(error: &DriverError) -> bool {
    error.0 == CUresult::CUDA_ERROR_OUT_OF_MEMORY
}
