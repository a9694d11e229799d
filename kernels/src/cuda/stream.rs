//! The order of work on a device, its recording as a graph, and times.

use std::sync::{Arc, Mutex, MutexGuard};

use cudarc::driver::result::{self, event};
use cudarc::driver::sys;

use super::device::Context;
use super::error::Tried;
use super::{CudaError, Memory};

/// Work on a device that is done in the order in which it was queued.
pub struct Stream {
    context: Arc<Context>,
    raw: sys::CUstream,
    /// The memory that what is being recorded uses.
    recorded: Mutex<Option<Vec<Memory>>>,
}

// SAFETY: the driver may be called with a stream from any thread.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}

impl Stream {
    pub(super) fn new(context: Arc<Context>) -> Result<Stream, CudaError> {
        context.enter()?;
        let raw = result::stream::create(result::stream::StreamKind::NonBlocking).tried("make a stream")?;
        Ok(Stream { context, raw, recorded: Mutex::default() })
    }

    /// Waits until all that was queued is done.
    ///
    /// # Errors
    /// Something that was queued failed.
    pub fn wait(&self) -> Result<(), CudaError> {
        self.enter()?;
        // SAFETY: the stream lives.
        unsafe { result::stream::synchronize(self.raw) }.tried("finish work on the GPU")
    }

    /// Records what `queue` queues, without doing it. The memory that it uses is held as long as the graph.
    ///
    /// # Errors
    /// That of `queue`, or the driver fails.
    pub fn record(&self, queue: impl FnOnce(&Stream) -> Result<(), CudaError>) -> Result<Graph, CudaError> {
        self.enter()?;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives.
        unsafe { result::stream::begin_capture(self.raw, mode) }.tried("record work")?;
        *self.recorded() = Some(Vec::new());
        let queued = queue(self);
        let held = self.recorded().take().unwrap_or_default();
        // SAFETY: recording has begun above, whatever became of it.
        let graph = unsafe { result::stream::end_capture(self.raw) };
        if let Err(e) = queued {
            if let Ok(graph) = graph
                && !graph.is_null()
            {
                // SAFETY: the graph is ours, and not used any more.
                let _ = unsafe { result::graph::destroy(graph) };
            }
            return Err(e);
        }
        let graph = graph.tried("record work")?;
        let mut executable = std::ptr::null_mut();
        // SAFETY: the graph is one that was just recorded; the pointer is to a handle.
        let made = unsafe { sys::cuGraphInstantiateWithFlags(&mut executable, graph, 0) };
        // SAFETY: the graph is ours; what was made of it does not need it.
        let _ = unsafe { result::graph::destroy(graph) };
        made.result().tried("prepare recorded work")?;
        Ok(Graph { context: self.context.clone(), executable, _held: held })
    }

    /// Queues what was recorded.
    ///
    /// # Errors
    /// The driver fails.
    ///
    /// # Panics
    /// If it was recorded on another device.
    pub fn replay(&self, graph: &Graph) -> Result<(), CudaError> {
        assert!(Arc::ptr_eq(&self.context, &graph.context), "a graph belongs to its device");
        self.enter()?;
        // SAFETY: the graph lives, and holds the memory that it uses.
        unsafe { result::graph::launch(graph.executable, self.raw) }.tried("start recorded work")
    }

    /// Holds memory as long as what is being recorded.
    pub(super) fn hold(&self, memory: Vec<Memory>) {
        if let Some(held) = self.recorded().as_mut() {
            held.extend(memory);
        }
    }

    fn recorded(&self) -> MutexGuard<'_, Option<Vec<Memory>>> {
        self.recorded.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// A point in the order of work, whose time is taken.
    ///
    /// # Errors
    /// The driver fails.
    pub fn stamp(&self) -> Result<Stamp, CudaError> {
        self.enter()?;
        let raw = event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).tried("take the time")?;
        let stamp = Stamp { context: self.context.clone(), raw };
        // SAFETY: both live.
        unsafe { event::record(raw, self.raw) }.tried("take the time")?;
        Ok(stamp)
    }

    pub(super) fn enter(&self) -> Result<(), CudaError> {
        self.context.enter()
    }

    pub(super) fn raw(&self) -> sys::CUstream {
        self.raw
    }

    pub(super) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// Memory of another device would be anything at all here.
    pub(super) fn check(&self, memory: &Memory) {
        assert!(memory.is_of(&self.context), "memory belongs to its device");
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.enter().is_ok() {
            // SAFETY: the stream is ours, and not used any more; work on it is finished first.
            unsafe {
                let _ = result::stream::synchronize(self.raw);
                let _ = result::stream::destroy(self.raw);
            }
        }
    }
}

/// Recorded work, and what it uses.
pub struct Graph {
    context: Arc<Context>,
    executable: sys::CUgraphExec,
    _held: Vec<Memory>,
}

// SAFETY: the driver may be called with a graph from any thread.
unsafe impl Send for Graph {}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            // SAFETY: the graph is ours, and not used any more; the driver keeps what still runs.
            let _ = unsafe { result::graph::exec_destroy(self.executable) };
        }
    }
}

/// A point in the order of work.
pub struct Stamp {
    context: Arc<Context>,
    raw: sys::CUevent,
}

// SAFETY: the driver may be called with an event from any thread.
unsafe impl Send for Stamp {}

impl Stamp {
    /// Seconds from this point to a later one, once both are reached.
    ///
    /// # Errors
    /// The driver fails, or work before them did.
    pub fn seconds_to(&self, later: &Stamp) -> Result<f64, CudaError> {
        self.context.enter()?;
        // SAFETY: both live, and were recorded when they were made.
        unsafe {
            event::synchronize(later.raw).tried("wait for the GPU")?;
            event::elapsed(self.raw, later.raw).map(|ms| f64::from(ms) / 1e3).tried("take the time")
        }
    }
}

impl Drop for Stamp {
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            // SAFETY: the event is ours, and not used any more.
            let _ = unsafe { event::destroy(self.raw) };
        }
    }
}
