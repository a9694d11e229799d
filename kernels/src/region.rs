//! One parallel region per step: a list of operations over shared buffers, a barrier after each.
//!
//! A [`Planes`] holds the buffers. [`Team::run`] sends every thread of a pool through the same list of
//! [`Operation`]s. An operation writes one plane and reads any others; its output is cut into a grid
//! of tiles, and each tile is given to one thread, whichever is free. So no two threads ever hold
//! the same value mutably, and nobody reads what is being written: a plane under change cannot be
//! asked for. What a tile's values are must not depend on the grid; then the number of threads
//! changes nothing.

use std::cell::UnsafeCell;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::ops::activation::ActivationBlock;
use crate::ops::matmul::Columns;

/// The number of a plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PlaneId(pub usize);

/// What the values of a plane are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    F32,
    F16,
    Blocks,
}

impl Kind {
    /// Bytes of one value.
    pub const fn bytes(self) -> usize {
        match self {
            Kind::F32 => 4,
            Kind::F16 => 2,
            Kind::Blocks => size_of::<ActivationBlock>(),
        }
    }
}

enum Data {
    F32(Vec<f32>),
    F16(Vec<u16>),
    Blocks(Vec<ActivationBlock>),
}

/// A buffer of `columns` times `width` values; a column is contiguous.
struct Plane {
    data: UnsafeCell<Data>,
    kind: Kind,
    columns: usize,
    width: usize,
}

// SAFETY: a plane is changed only through `&mut Planes`, or in a region through tiles that do not
// overlap while nobody reads the plane (see `run`).
unsafe impl Sync for Plane {}

/// The buffers of a program.
#[derive(Default)]
pub struct Planes {
    planes: Vec<Plane>,
}

/// The memory for a plane was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory {
    /// Bytes that were asked for; `None` when the number does not fit.
    pub bytes: Option<usize>,
}

/// Zeros that take memory only once they are touched: a cache may be much larger than what is used of it.
fn zeroed<T: bytemuck::Zeroable>(len: usize) -> Option<Vec<T>> {
    bytemuck::allocation::try_zeroed_vec(len).ok()
}

impl Planes {
    /// Adds a plane of zeros.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn add(&mut self, kind: Kind, columns: usize, width: usize) -> Result<PlaneId, OutOfMemory> {
        let bytes = columns.checked_mul(width).and_then(|n| n.checked_mul(kind.bytes()));
        let error = OutOfMemory { bytes };
        let len = bytes.ok_or(error)? / kind.bytes();
        let data = match kind {
            Kind::F32 => zeroed(len).map(Data::F32),
            Kind::F16 => zeroed(len).map(Data::F16),
            Kind::Blocks => zeroed(len).map(Data::Blocks),
        };
        let data = UnsafeCell::new(data.ok_or(error)?);
        self.planes.push(Plane { data, kind, columns, width });
        Ok(PlaneId(self.planes.len() - 1))
    }

    /// The values of a plane of float32, `[columns, width]`.
    ///
    /// # Panics
    /// If the plane is none of float32.
    pub fn f32(&mut self, id: PlaneId) -> &mut [f32] {
        match self.planes[id.0].data.get_mut() {
            Data::F32(v) => v,
            _ => panic!("plane {} holds no float32", id.0),
        }
    }

    /// The values of a plane of half precision, `[columns, width]`.
    ///
    /// # Panics
    /// If the plane is none of half precision.
    pub fn f16(&mut self, id: PlaneId) -> &mut [u16] {
        match self.planes[id.0].data.get_mut() {
            Data::F16(v) => v,
            _ => panic!("plane {} holds no half precision", id.0),
        }
    }
}

/// What an operation reads: every plane but the one it writes.
pub struct Reader<'a> {
    planes: &'a Planes,
    output: PlaneId,
}

impl<'a> Reader<'a> {
    fn data(&self, id: PlaneId) -> &'a Data {
        assert_ne!(id, self.output, "an operation cannot read the plane it writes");
        // SAFETY: in this operation only tiles of `output` are changed, and `id` is another plane;
        // barriers order this after the operation that wrote it and before the next that does.
        unsafe { &*self.planes.planes[id.0].data.get() }
    }

    /// The values of a plane of float32, `[columns, width]`.
    ///
    /// # Panics
    /// If the plane is the output, or none of float32.
    pub fn f32(&self, id: PlaneId) -> &'a [f32] {
        match self.data(id) {
            Data::F32(v) => v,
            _ => panic!("plane {} holds no float32", id.0),
        }
    }

    /// The values of a plane of half precision, `[columns, width]`.
    ///
    /// # Panics
    /// If the plane is the output, or none of half precision.
    pub fn f16(&self, id: PlaneId) -> &'a [u16] {
        match self.data(id) {
            Data::F16(v) => v,
            _ => panic!("plane {} holds no half precision", id.0),
        }
    }

    /// The values of a plane of activations, `[columns, width]`.
    ///
    /// # Panics
    /// If the plane is the output, or none of activations.
    pub fn blocks(&self, id: PlaneId) -> &'a [ActivationBlock] {
        match self.data(id) {
            Data::Blocks(v) => v,
            _ => panic!("plane {} holds no activations", id.0),
        }
    }

    /// Values in a column of a plane.
    pub fn width(&self, id: PlaneId) -> usize {
        self.planes.planes[id.0].width
    }
}

/// A rectangle of the output plane, this thread's alone.
pub struct Tile<'a> {
    plane: &'a Plane,
    data: Pointer,
    /// The columns of the plane that the tile covers.
    pub columns: Range<usize>,
    /// The values of each column that the tile covers.
    pub rows: Range<usize>,
}

#[derive(Clone, Copy)]
enum Pointer {
    F32(*mut f32),
    F16(*mut u16),
    Blocks(*mut ActivationBlock),
}

impl Tile<'_> {
    /// The first value of column `c` of the tile, counted in the plane.
    fn start(&self, c: usize) -> usize {
        assert!(c < self.columns.len(), "column {c} of a tile of {}", self.columns.len());
        (self.columns.start + c) * self.plane.width + self.rows.start
    }

    /// The rows of column `columns.start + c`.
    ///
    /// # Panics
    /// If there is no such column, or the plane is none of float32.
    pub fn f32(&mut self, c: usize) -> &mut [f32] {
        let start = self.start(c);
        let Pointer::F32(data) = self.data else { panic!("the tile holds no float32") };
        // SAFETY: the range lies in the plane (`run` checks the grid) and in no other tile.
        unsafe { std::slice::from_raw_parts_mut(data.add(start), self.rows.len()) }
    }

    /// As [`Tile::f32`], of half precision.
    ///
    /// # Panics
    /// If there is no such column, or the plane is none of half precision.
    pub fn f16(&mut self, c: usize) -> &mut [u16] {
        let start = self.start(c);
        let Pointer::F16(data) = self.data else { panic!("the tile holds no half precision") };
        // SAFETY: as in `f32`.
        unsafe { std::slice::from_raw_parts_mut(data.add(start), self.rows.len()) }
    }

    /// As [`Tile::f32`], of activations.
    ///
    /// # Panics
    /// If there is no such column, or the plane is none of activations.
    pub fn blocks(&mut self, c: usize) -> &mut [ActivationBlock] {
        let start = self.start(c);
        let Pointer::Blocks(data) = self.data else { panic!("the tile holds no activations") };
        // SAFETY: as in `f32`.
        unsafe { std::slice::from_raw_parts_mut(data.add(start), self.rows.len()) }
    }
}

impl Columns for Tile<'_> {
    fn column(&mut self, c: usize) -> &mut [f32] {
        self.f32(c)
    }
}

/// How an operation's output is cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grid {
    /// The columns that are written.
    pub columns: Range<usize>,
    /// Columns of a tile.
    pub tile_columns: usize,
    /// The values of each column that are written.
    pub rows: Range<usize>,
    /// Values of a tile's column.
    pub tile_rows: usize,
}

impl Grid {
    fn tiles(&self) -> usize {
        self.columns.len().div_ceil(self.tile_columns) * self.rows.len().div_ceil(self.tile_rows)
    }

    /// Columns and rows of tile `i`; tiles of one range of rows follow each other.
    fn tile(&self, i: usize) -> (Range<usize>, Range<usize>) {
        let down = self.columns.len().div_ceil(self.tile_columns);
        let cut = |range: &Range<usize>, size: usize, i: usize| {
            let start = range.start + i * size;
            start..(start + size).min(range.end)
        };
        (cut(&self.columns, self.tile_columns, i % down), cut(&self.rows, self.tile_rows, i / down))
    }
}

/// One operation of a region.
pub trait Operation: Sync {
    /// What a thread keeps from tile to tile.
    type Scratch: Send;

    /// The plane that is written.
    fn output(&self) -> PlaneId;

    /// How it is cut.
    fn grid(&self) -> Grid;

    /// Computes a tile.
    fn compute(&self, planes: &Reader<'_>, tile: &mut Tile<'_>, scratch: &mut Self::Scratch);
}

/// Threads that run regions together, each with its scratch.
pub struct Team<S> {
    /// `None` for a team of one, which works on the caller's thread.
    pool: Option<rayon::ThreadPool>,
    scratch: Vec<Mutex<S>>,
    /// Held by the region that runs. Two at once would wait for each other's threads at their
    /// barriers.
    turn: Mutex<()>,
}

impl<S: Send> Team<S> {
    /// A team of `threads` threads, at least one.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub fn new(threads: usize, mut scratch: impl FnMut() -> S) -> Result<Team<S>, String> {
        let threads = threads.max(1);
        let pool = match threads {
            1 => None,
            _ => {
                let builder = rayon::ThreadPoolBuilder::new().num_threads(threads);
                let named = builder.thread_name(|i| format!("mdl-compute-{i}"));
                Some(named.build().map_err(|e| e.to_string())?)
            }
        };
        let scratch = (0..threads).map(|_| Mutex::new(scratch())).collect();
        Ok(Team { pool, scratch, turn: Mutex::new(()) })
    }

    /// The number of threads.
    pub fn threads(&self) -> usize {
        self.scratch.len()
    }

    /// Runs `operations` in order over `planes`. Regions of several callers run one after the other.
    ///
    /// # Panics
    /// If an operation panics, or its grid is not within its plane. The planes are then as they
    /// were left.
    pub fn run<O: Operation<Scratch = S>>(&self, planes: &mut Planes, operations: &[O]) {
        self.run_region(planes, operations, &mut []);
    }

    /// As [`Team::run`], and returns how long each operation took, its barrier with it: the same region, whose
    /// first thread looks at the clock after each operation.
    ///
    /// # Panics
    /// As [`Team::run`].
    pub fn run_timed<O: Operation<Scratch = S>>(
        &self,
        planes: &mut Planes,
        operations: &[O],
    ) -> Vec<Duration> {
        let mut times = vec![Duration::ZERO; operations.len()];
        self.run_region(planes, operations, &mut times);
        times
    }

    /// Adds the time of operation `i` to `times[i]`, where there is one.
    fn run_region<O: Operation<Scratch = S>>(
        &self,
        planes: &mut Planes,
        operations: &[O],
        times: &mut [Duration],
    ) {
        let grids: Vec<Grid> = operations.iter().map(Operation::grid).collect();
        // Asked once, so that what is checked here is what is used below.
        let outputs: Vec<PlaneId> = operations.iter().map(Operation::output).collect();
        let mut pointers = Vec::with_capacity(grids.len());
        for (output, grid) in outputs.iter().zip(&grids) {
            let plane = &mut planes.planes[output.0];
            assert!(
                grid.columns.start <= grid.columns.end
                    && grid.columns.end <= plane.columns
                    && grid.rows.start <= grid.rows.end
                    && grid.rows.end <= plane.width
                    && grid.tile_columns > 0
                    && grid.tile_rows > 0,
                "a grid lies in its plane of {:?}",
                plane.kind
            );
            // The vectors are not touched, only what they point to, until the region ends.
            pointers.push(SharedPointer(match plane.data.get_mut() {
                Data::F32(v) => Pointer::F32(v.as_mut_ptr()),
                Data::F16(v) => Pointer::F16(v.as_mut_ptr()),
                Data::Blocks(v) => Pointer::Blocks(v.as_mut_ptr()),
            }));
        }
        let planes = &*planes;
        let _turn = self.turn.lock().unwrap_or_else(|e| e.into_inner());
        let next: Vec<AtomicUsize> = grids.iter().map(|_| AtomicUsize::new(0)).collect();
        let barrier = Barrier::new(self.threads());
        // Only the first thread uses it, all the time.
        let times = Mutex::new(times);
        let work = |index: usize| {
            let mut leaves = barrier.guard();
            // A panic of an earlier region poisons nothing: scratch has no state that matters.
            let mut scratch = self.scratch[index].lock().unwrap_or_else(|e| e.into_inner());
            let mut clock = (index == 0).then(|| Clock::new(&times));
            for (i, (operation, grid)) in operations.iter().zip(&grids).enumerate() {
                let reader = Reader { planes, output: outputs[i] };
                let tiles = grid.tiles();
                loop {
                    let tile = next[i].fetch_add(1, Ordering::Relaxed);
                    if tile >= tiles {
                        break;
                    }
                    let (columns, rows) = grid.tile(tile);
                    let plane = &planes.planes[outputs[i].0];
                    let mut tile = Tile { plane, data: pointers[i].0, columns, rows };
                    operation.compute(&reader, &mut tile, &mut scratch);
                }
                if !barrier.wait() {
                    break;
                }
                if let Some(clock) = &mut clock {
                    clock.stop(i);
                }
            }
            leaves.done = true;
        };
        match &self.pool {
            None => work(0),
            Some(pool) => {
                pool.broadcast(|context| work(context.index()));
            }
        }
    }
}

/// Times operations that follow each other.
struct Clock<'a, 'b> {
    times: MutexGuard<'a, &'b mut [Duration]>,
    last: Option<Instant>,
}

impl<'a, 'b> Clock<'a, 'b> {
    /// Starts; a clock without times to keep stands still and costs nothing.
    fn new(times: &'a Mutex<&'b mut [Duration]>) -> Clock<'a, 'b> {
        let times = times.lock().unwrap_or_else(|e| e.into_inner());
        Clock { last: (!times.is_empty()).then(Instant::now), times }
    }

    /// Operation `i` has ended, and the next begins.
    fn stop(&mut self, i: usize) {
        if let (Some(last), Some(time)) = (&mut self.last, self.times.get_mut(i)) {
            let now = Instant::now();
            *time += now - *last;
            *last = now;
        }
    }
}

/// A pointer that threads share.
struct SharedPointer(Pointer);
// SAFETY: it is dereferenced only through tiles, which do not overlap.
unsafe impl Sync for SharedPointer {}
// SAFETY: as above.
unsafe impl Send for SharedPointer {}

/// A barrier that spins before it yields, and lets everybody go when a thread has panicked.
struct Barrier {
    threads: usize,
    arrived: AtomicUsize,
    generation: AtomicUsize,
    broken: AtomicBool,
}

/// Breaks the barrier if its thread leaves before it is done.
struct Leaves<'a> {
    barrier: &'a Barrier,
    done: bool,
}

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.barrier.broken.store(true, Ordering::Release);
        }
    }
}

impl Barrier {
    /// Turns of the loop before a waiting thread gives its core away: 10 to 30 microseconds (a pause is
    /// 40 to 140 cycles), about what an operation of a small model takes. Longer would keep the
    /// core from the thread that is waited for where there are fewer cores than threads.
    const SPINS: u32 = 500;

    fn new(threads: usize) -> Barrier {
        Barrier {
            threads,
            arrived: AtomicUsize::new(0),
            generation: AtomicUsize::new(0),
            broken: AtomicBool::new(false),
        }
    }

    fn guard(&self) -> Leaves<'_> {
        Leaves { barrier: self, done: false }
    }

    /// Waits until every thread is here; false if one will not come.
    fn wait(&self) -> bool {
        let generation = self.generation.load(Ordering::Acquire);
        // Release what this thread wrote; the last to arrive acquires everybody's.
        if self.arrived.fetch_add(1, Ordering::AcqRel) + 1 == self.threads {
            self.arrived.store(0, Ordering::Relaxed);
            self.generation.store(generation.wrapping_add(1), Ordering::Release);
            return !self.broken.load(Ordering::Acquire);
        }
        let mut spins = 0;
        while self.generation.load(Ordering::Acquire) == generation {
            if self.broken.load(Ordering::Acquire) {
                return false;
            }
            spins += 1;
            if spins < Self::SPINS {
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
        true
    }
}

#[cfg(test)]
mod tests;
