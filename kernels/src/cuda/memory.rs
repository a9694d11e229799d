//! Memory of a device, memory of the host that it reads quickly, and copies between them.

use std::sync::Arc;

use cudarc::driver::result;
use cudarc::driver::sys::CUdeviceptr;

use super::device::Context;
use super::error::{Tried, is_out_of_memory};
use super::{CudaError, Device, Stream};

/// Memory of a device, freed once nothing holds it and the device is done with it. Copies are the same memory: it is
/// read and written by the device, in the order of a stream.
#[derive(Clone)]
pub struct Memory {
    block: Arc<Block>,
}

struct Block {
    context: Arc<Context>,
    at: CUdeviceptr,
    bytes: usize,
}

impl Memory {
    /// So many bytes, all of them 0, aligned to 256 bytes.
    ///
    /// # Errors
    /// There is not so much memory, or the driver fails.
    pub fn zeroed(device: &Device, bytes: usize) -> Result<Memory, CudaError> {
        let context = device.context().clone();
        context.enter()?;
        // The driver gives no memory of no bytes.
        let size = bytes.max(1);
        // SAFETY: the context is current; what comes back is freed by `drop`.
        let at = match unsafe { result::malloc_sync(size) } {
            Ok(at) => at,
            Err(e) if is_out_of_memory(&e) => {
                let (free, total) = device.memory()?;
                return Err(CudaError::Memory { asked: bytes, free, total });
            }
            Err(e) => return Err(e).tried("allocate GPU memory"),
        };
        let memory = Memory { block: Arc::new(Block { context, at, bytes }) };
        // SAFETY: the memory has `size` bytes.
        unsafe { result::memset_d8_sync(at, 0, size) }.tried("clear GPU memory")?;
        // The host does not wait for that, nor do streams that are not the driver's own.
        result::ctx::synchronize().tried("clear GPU memory")?;
        Ok(memory)
    }

    /// Its bytes.
    pub fn len(&self) -> usize {
        self.block.bytes
    }

    /// True when it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its address on the device.
    pub(super) fn address(&self) -> u64 {
        self.block.at
    }

    pub(super) fn is_of(&self, context: &Arc<Context>) -> bool {
        Arc::ptr_eq(&self.block.context, context)
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            // SAFETY: it was allocated by `zeroed` and is freed once; the driver waits for work that uses it.
            let _ = unsafe { result::free_sync(self.at) };
        }
    }
}

/// Memory of the host that a device reads and writes without a copy in between.
pub struct Pinned {
    context: Arc<Context>,
    at: *mut u8,
    bytes: usize,
}

// SAFETY: it is plain memory that nothing else points to.
unsafe impl Send for Pinned {}

impl Pinned {
    /// So many bytes, all of them 0.
    ///
    /// # Errors
    /// There is not so much memory, or the driver fails.
    pub fn zeroed(device: &Device, bytes: usize) -> Result<Pinned, CudaError> {
        let context = device.context().clone();
        context.enter()?;
        let size = bytes.max(1);
        // SAFETY: the context is current; what comes back is freed by `drop`.
        let at = unsafe { result::malloc_host(size, 0) }.tried("allocate memory for copies")?.cast::<u8>();
        // SAFETY: it has `size` bytes.
        unsafe { at.write_bytes(0, size) };
        Ok(Pinned { context, at, bytes })
    }

    /// What is in it.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: it has so many bytes, which were set when it was made; copies to it are waited for
        // ([`Stream::download`]).
        unsafe { std::slice::from_raw_parts(self.at, self.bytes) }
    }

    /// What is in it, to change.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above; copies from it are waited for ([`Stream::upload`]).
        unsafe { std::slice::from_raw_parts_mut(self.at, self.bytes) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            // SAFETY: it was allocated by `zeroed` and is freed once; no copy of it is under way.
            let _ = unsafe { result::free_host(self.at.cast()) };
        }
    }
}

impl Stream {
    /// Copies `from` to `to`, from byte `at` on, after what is queued; `from` may be changed when this returns.
    ///
    /// # Errors
    /// The driver fails.
    ///
    /// # Panics
    /// If `to` has no room for it, or belongs to another device.
    pub fn upload(&self, from: &[u8], to: &Memory, at: usize) -> Result<(), CudaError> {
        assert!(at <= to.len() && from.len() <= to.len() - at, "a copy stays within its memory");
        self.check(to);
        if from.is_empty() {
            return Ok(());
        }
        self.enter()?;
        // SAFETY: both ranges have so many bytes, and the copy is waited for before `from` can change.
        unsafe { result::memcpy_htod_async(to.address() + at as u64, from, self.raw()) }
            .tried("copy to a GPU")?;
        self.wait()
    }

    /// Copies bytes from `at` on to `to`, after what is queued, and waits for it.
    ///
    /// # Errors
    /// The driver fails, or something that was queued did.
    ///
    /// # Panics
    /// If `from` has not so many bytes, or belongs to another device.
    pub fn download(&self, from: &Memory, at: usize, to: &mut [u8]) -> Result<(), CudaError> {
        assert!(at <= from.len() && to.len() <= from.len() - at, "a copy stays within its memory");
        self.check(from);
        if to.is_empty() {
            return Ok(());
        }
        self.enter()?;
        // SAFETY: both ranges have so many bytes, and the copy is waited for before `to` can be read.
        unsafe { result::memcpy_dtoh_async(to, from.address() + at as u64, self.raw()) }
            .tried("copy from a GPU")?;
        self.wait()
    }

    /// Sets all bytes to 0, after what is queued.
    ///
    /// # Errors
    /// The driver fails.
    ///
    /// # Panics
    /// If it belongs to another device.
    pub fn clear(&self, memory: &Memory) -> Result<(), CudaError> {
        self.check(memory);
        self.enter()?;
        // SAFETY: the memory has so many bytes.
        unsafe { result::memset_d8_async(memory.address(), 0, memory.len(), self.raw()) }
            .tried("clear GPU memory")?;
        self.hold(vec![memory.clone()]);
        Ok(())
    }
}
