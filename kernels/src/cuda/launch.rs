//! A kernel's arguments.

use std::ffi::c_void;

use cudarc::driver::result;

use super::error::Tried;
use super::{CudaError, Memory, Stream};

/// An argument, as the kernel takes it.
#[derive(Clone, Copy)]
enum Argument {
    Address(u64),
    Int(i32),
    Long(i64),
    Float(f32),
}

/// A launch in the making.
pub(super) struct Launch<'a> {
    stream: &'a Stream,
    name: &'a str,
    grid: [usize; 3],
    threads: usize,
    shared: usize,
    arguments: Vec<Argument>,
    held: Vec<Memory>,
}

impl<'a> Launch<'a> {
    pub(super) fn new(stream: &'a Stream, name: &'a str, grid: [usize; 3], threads: usize) -> Self {
        Launch { stream, name, grid, threads, shared: 0, arguments: Vec::with_capacity(20), held: Vec::new() }
    }

    /// Bytes of dynamic shared memory.
    pub(super) fn shared(mut self, bytes: usize) -> Self {
        self.shared = bytes;
        self
    }

    /// Memory from byte `at` on.
    pub(super) fn memory(mut self, memory: &Memory, at: usize) -> Self {
        self.stream.check(memory);
        self.arguments.push(Argument::Address(memory.address() + at as u64));
        self.held.push(memory.clone());
        self
    }

    /// Memory, or null.
    pub(super) fn option(self, memory: Option<&Memory>) -> Self {
        self.option_at(memory.map(|m| (m, 0)))
    }

    /// Memory from a byte on, or null.
    pub(super) fn option_at(mut self, memory: Option<(&Memory, usize)>) -> Self {
        match memory {
            Some((memory, at)) => self.memory(memory, at),
            None => {
                self.arguments.push(Argument::Address(0));
                self
            }
        }
    }

    /// A number that the kernel takes as int32.
    ///
    /// # Panics
    /// If it is greater.
    pub(super) fn int(mut self, v: usize) -> Self {
        assert!(v <= i32::MAX as usize, "{v} is no int32");
        self.arguments.push(Argument::Int(v as i32));
        self
    }

    pub(super) fn flag(self, v: bool) -> Self {
        self.int(usize::from(v))
    }

    pub(super) fn long(mut self, v: usize) -> Self {
        self.arguments.push(Argument::Long(v as i64));
        self
    }

    pub(super) fn float(mut self, v: f32) -> Self {
        self.arguments.push(Argument::Float(v));
        self
    }

    /// Queues the launch; one of no blocks is nothing.
    ///
    /// # Safety
    /// The arguments are those of the kernel, and with them it reads and writes within its memory only.
    pub(super) unsafe fn queue(mut self) -> Result<(), CudaError> {
        if self.grid.contains(&0) {
            return Ok(());
        }
        self.stream.enter()?;
        let function = self.stream.context().kernels.function(self.name, self.shared)?;
        let mut addresses: Vec<*mut c_void> = Vec::with_capacity(self.arguments.len());
        for argument in &mut self.arguments {
            addresses.push(match argument {
                Argument::Address(v) => std::ptr::from_mut(v).cast(),
                Argument::Int(v) => std::ptr::from_mut(v).cast(),
                Argument::Long(v) => std::ptr::from_mut(v).cast(),
                Argument::Float(v) => std::ptr::from_mut(v).cast(),
            });
        }
        let [x, y, z] = self.grid.map(|n| n as u32);
        // SAFETY: the caller answers for the arguments, each of which lives until the call returns; the driver copies
        // them. The function and the stream are of the context, which is current.
        unsafe {
            result::launch_kernel(
                function.0,
                (x, y, z),
                (self.threads as u32, 1, 1),
                self.shared as u32,
                self.stream.raw(),
                &mut addresses,
            )
        }
        .tried("start a GPU kernel")?;
        self.stream.hold(self.held);
        Ok(())
    }
}
