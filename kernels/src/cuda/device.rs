//! Which GPUs there are, and one that is open.

use std::sync::{Arc, OnceLock};

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute};

use super::error::Tried;
use super::kernels::Kernels;
use super::{CudaError, Stream};

/// The version of the driver's interface that is used: functions that are newer are not called.
const VERSION: i32 = 12_000;

/// The least compute capability that the kernels are made for.
const CAPABILITY: (i32, i32) = (8, 0);

/// Looks for the driver and starts it, once for the process.
fn driver() -> Result<(), CudaError> {
    static STARTED: OnceLock<Result<(), CudaError>> = OnceLock::new();
    let start = || {
        // SAFETY: loading the driver's library runs its initialisers, which is what a driver is for.
        if !unsafe { sys::is_culib_present() } {
            return Err(CudaError::NoDriver);
        }
        let mut found = 0;
        // SAFETY: the library is there; the pointer is to an integer.
        unsafe { sys::cuDriverGetVersion(&mut found) }.result().tried("ask the driver for its version")?;
        if found < VERSION {
            return Err(CudaError::OldDriver { found, needed: VERSION });
        }
        match result::init() {
            Err(DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE)) => Err(CudaError::NoDevice),
            started => started.tried("start the driver"),
        }
    };
    STARTED.get_or_init(start).clone()
}

/// What is known of a GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Its number, from 0 on, as the driver counts.
    pub ordinal: usize,
    /// What it is called.
    pub name: String,
    /// Its compute capability, major and minor.
    pub capability: (i32, i32),
    /// Bytes of its memory.
    pub memory: usize,
    /// Its multiprocessors.
    pub multiprocessors: usize,
}

fn info(ordinal: usize) -> Result<(sys::CUdevice, DeviceInfo), CudaError> {
    driver()?;
    let count = result::device::get_count().tried("count the GPUs")?.max(0) as usize;
    if count == 0 {
        return Err(CudaError::NoDevice);
    }
    if ordinal >= count {
        return Err(CudaError::Ordinal { ordinal, count });
    }
    let device = result::device::get(ordinal as i32).tried("find a GPU")?;
    let name = result::device::get_name(device).tried("ask a GPU for its name")?;
    // SAFETY: the device is one that the driver has just given.
    let attribute = |a| unsafe { result::device::get_attribute(device, a) }.tried("ask a GPU what it can do");
    let capability = (
        attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
        attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
    );
    let multiprocessors = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?.max(1) as usize;
    // SAFETY: as above.
    let memory = unsafe { result::device::total_mem(device) }.tried("ask a GPU for its memory")?;
    Ok((device, DeviceInfo { ordinal, name, capability, memory, multiprocessors }))
}

/// All GPUs, in the driver's order.
///
/// # Errors
/// There is no driver, it is too old, or it finds none.
pub fn devices() -> Result<Vec<DeviceInfo>, CudaError> {
    driver()?;
    let count = result::device::get_count().tried("count the GPUs")?.max(0) as usize;
    if count == 0 {
        return Err(CudaError::NoDevice);
    }
    (0..count).map(|ordinal| info(ordinal).map(|(_, info)| info)).collect()
}

/// A GPU that is open: copies of it are the same.
#[derive(Clone)]
pub struct Device {
    context: Arc<Context>,
}

/// The process's own context of a device, as long as anything of it is held.
pub(super) struct Context {
    device: sys::CUdevice,
    context: sys::CUcontext,
    pub(super) info: DeviceInfo,
    pub(super) kernels: Kernels,
}

// SAFETY: the driver may be called with a context from any thread; `Kernels` has a lock of its own.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Context {
    /// Makes the context the calling thread's.
    pub(super) fn enter(&self) -> Result<(), CudaError> {
        // SAFETY: the context is retained as long as `self` lives.
        unsafe { result::ctx::set_current(self.context) }.tried("use a GPU")
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        self.kernels.unload();
        // SAFETY: it was retained once, by `Device::open`, and everything that uses it holds the `Arc`.
        let _ = unsafe { result::primary_ctx::release(self.device) };
    }
}

impl Device {
    /// Opens GPU `ordinal`, counted from 0.
    ///
    /// # Errors
    /// There is no driver or no such GPU, one of them is too old, or the driver fails.
    pub fn open(ordinal: usize) -> Result<Device, CudaError> {
        let (device, info) = info(ordinal)?;
        if info.capability < CAPABILITY {
            return Err(CudaError::OldDevice { name: info.name, capability: info.capability });
        }
        // SAFETY: the device is one that the driver has just given.
        let context = unsafe { result::primary_ctx::retain(device) }.tried("open a GPU")?;
        let kernels = Kernels::new(info.capability);
        let context = Arc::new(Context { device, context, info, kernels });
        context.enter()?;
        Ok(Device { context })
    }

    /// What is known of it.
    pub fn info(&self) -> &DeviceInfo {
        &self.context.info
    }

    /// Bytes of its memory that are free, and all.
    ///
    /// # Errors
    /// The driver fails.
    pub fn memory(&self) -> Result<(usize, usize), CudaError> {
        self.context.enter()?;
        result::mem_get_info().tried("ask a GPU for its free memory")
    }

    /// A new order of work.
    ///
    /// # Errors
    /// The driver fails.
    pub fn stream(&self) -> Result<Stream, CudaError> {
        Stream::new(self.context.clone())
    }

    pub(super) fn context(&self) -> &Arc<Context> {
        &self.context
    }
}
