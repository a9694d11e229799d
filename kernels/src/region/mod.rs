//! One parallel region per step: a list of operations over shared buffers, a barrier after each.
//!
//! A [`Planes`] holds the buffers. [`Team::run`] sends every thread of a team through the same list of
//! [`Operation`]s. An operation writes one plane and reads any others; its output is cut into a grid
//! of tiles, and each tile is given to one thread. So no two threads ever hold
//! the same value mutably, and nobody reads what is being written: a plane under change cannot be
//! asked for. What a tile's values are must not depend on the grid; then the number of threads
//! changes nothing.
//!
//! A model of a hundred million weights takes some two hundred operations in two milliseconds, so what
//! an operation costs beside its work counts: a tile is taken from the thread's own counter, a
//! barrier is one flag that goes from core to core, nothing is allocated, and between two regions the threads stay
//! awake for a while.

mod barrier;
mod crew;
mod grid;
mod planes;
mod spin;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use barrier::Barrier;
use crew::Crew;
pub use grid::Grid;
use grid::Shares;
use planes::Pointer;
pub use planes::{Kind, OutOfMemory, PlaneId, Planes, Reader, Tile};
use spin::Padded;

/// One operation of a region.
pub trait Operation: Sync {
    /// What a thread keeps from tile to tile.
    type Scratch: Send;

    /// The plane that is written.
    fn output(&self) -> PlaneId;

    /// How it is cut.
    fn grid(&self) -> Grid;

    /// Asks the cache for piece `piece` of what the tiles from `tile` (its columns and rows) on read and no
    /// operation writes; false when there is no such piece. A thread does so while it waits for the others.
    fn fetch(&self, tile: (Range<usize>, Range<usize>), piece: usize) -> bool {
        let _ = (tile, piece);
        false
    }

    /// Computes a tile.
    fn compute(&self, planes: &Reader<'_>, tile: &mut Tile<'_>, scratch: &mut Self::Scratch);
}

/// Threads that run regions together, each with its scratch. The caller's is one of them.
pub struct Team<S> {
    crew: Crew,
    barrier: Barrier,
    shares: Shares,
    scratch: Box<[Padded<Mutex<S>>]>,
    /// Held by the region that runs: two at once would wait for each other's threads at their
    /// barriers.
    turn: Mutex<Turn>,
}

/// What is kept from region to region.
#[derive(Default)]
struct Turn {
    /// Steps of the barrier so far.
    steps: u64,
    /// What each operation writes that has tiles; kept for its memory.
    outputs: Vec<Output>,
}

/// What an operation writes, asked once, so that what is checked is what is used.
struct Output {
    /// The number of the operation.
    operation: usize,
    plane: PlaneId,
    grid: Grid,
    tiles: u32,
    pointer: Pointer,
}

impl<S: Send> Team<S> {
    /// A team of `threads` threads, at least one.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub fn new(threads: usize, mut scratch: impl FnMut() -> S) -> Result<Team<S>, String> {
        let threads = threads.max(1);
        Ok(Team {
            crew: Crew::new(threads)?,
            barrier: Barrier::new(threads),
            shares: Shares::new(threads),
            scratch: (0..threads).map(|_| Padded(Mutex::new(scratch()))).collect(),
            turn: Mutex::default(),
        })
    }

    /// The number of threads.
    pub fn threads(&self) -> usize {
        self.scratch.len()
    }

    /// Runs `operations` in order over `planes`; one whose grid is empty costs nothing. Regions of several
    /// callers run one after the other.
    ///
    /// # Panics
    /// If an operation panics, or its grid is not within its plane. The planes are then as they
    /// were left.
    pub fn run<O: Operation<Scratch = S>>(&self, planes: &mut Planes, operations: &[O]) {
        self.run_region(planes, operations, None);
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
        let clock = Mutex::new(Clock::new(operations.len()));
        self.run_region(planes, operations, Some(&clock));
        let mut clock = clock.into_inner().unwrap_or_else(|e| e.into_inner());
        clock.stop();
        clock.times
    }

    fn run_region<O: Operation<Scratch = S>>(
        &self,
        planes: &mut Planes,
        operations: &[O],
        clock: Option<&Mutex<Clock>>,
    ) {
        // A panic of an earlier region poisons nothing: what is kept is made anew.
        let mut turn = self.turn.lock().unwrap_or_else(|e| e.into_inner());
        let Turn { steps, outputs } = &mut *turn;
        outputs.clear();
        for (i, operation) in operations.iter().enumerate() {
            let (plane, grid) = (operation.output(), operation.grid());
            let pointer = planes.output(plane, &grid);
            let tiles = grid.tiles();
            if tiles > 0 {
                outputs.push(Output { operation: i, plane, grid, tiles, pointer });
            }
        }
        let (outputs, planes) = (&outputs[..], &*planes);
        let Some(first) = outputs.first() else { return };
        let begin = *steps;
        *steps += outputs.len() as u64;
        let last = *steps;
        self.barrier.mend();
        (0..self.threads()).for_each(|thread| self.shares.deal(thread, 0, first.tiles));
        self.crew.run(&|thread| {
            let presence = self.barrier.enter(thread, last);
            // Scratch has no state that matters, so here too a panic poisons nothing.
            let mut scratch = self.scratch[thread].lock().unwrap_or_else(|e| e.into_inner());
            let clock = clock.filter(|_| thread == 0);
            let mut clock = clock.map(|clock| clock.lock().unwrap_or_else(|e| e.into_inner()));
            let mut ahead = Ahead::default();
            for (i, output) in outputs.iter().enumerate() {
                let operation = &operations[output.operation];
                if let Some(clock) = &mut clock {
                    clock.start(output.operation);
                }
                let reader = Reader::new(planes, output.plane);
                while let Some(tile) = self.shares.take(thread, i) {
                    let (columns, rows) = output.grid.tile(tile as usize);
                    // SAFETY: the grid lies in the plane, and no other thread takes this tile.
                    let mut tile = unsafe { Tile::new(planes, output.plane, output.pointer, columns, rows) };
                    operation.compute(&reader, &mut tile, &mut scratch);
                }
                // The last operation ends when every thread has left.
                let Some(next) = outputs.get(i + 1) else { break };
                self.shares.deal(thread, i + 1, next.tiles);
                let idle =
                    || ahead.fetch(i + 1, operations, outputs, |tiles| self.shares.first(thread, tiles));
                if !self.barrier.wait(thread, begin + i as u64 + 1, idle) {
                    break;
                }
            }
            presence.end();
        });
    }
}

/// How far a thread has fetched what it will read.
#[derive(Default)]
struct Ahead {
    /// Of the operation with this number among those with tiles.
    output: usize,
    piece: usize,
}

impl Ahead {
    /// Fetches a piece of the first operation from `next` on that has any; false when all are fetched.
    fn fetch<O: Operation>(
        &mut self,
        next: usize,
        operations: &[O],
        outputs: &[Output],
        first: impl Fn(u32) -> u32,
    ) -> bool {
        if self.output < next {
            *self = Ahead { output: next, piece: 0 };
        }
        while let Some(output) = outputs.get(self.output) {
            let tile = output.grid.tile(first(output.tiles) as usize);
            if operations[output.operation].fetch(tile, self.piece) {
                self.piece += 1;
                return true;
            }
            if self.piece > 0 {
                break;
            }
            self.output += 1;
        }
        false
    }
}

/// Times operations that follow each other.
struct Clock {
    /// The operation that runs, and since when.
    running: Option<(usize, Instant)>,
    times: Vec<Duration>,
}

impl Clock {
    fn new(operations: usize) -> Clock {
        Clock { running: None, times: vec![Duration::ZERO; operations] }
    }

    /// The operation before has ended, and this one begins.
    fn start(&mut self, operation: usize) {
        self.stop();
        self.running = Some((operation, Instant::now()));
    }

    /// The last operation has ended.
    fn stop(&mut self) {
        if let Some((operation, since)) = self.running.take() {
            self.times[operation] = since.elapsed();
        }
    }
}
