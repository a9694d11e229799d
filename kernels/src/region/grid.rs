//! How an output is cut, and how its tiles are shared out.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use super::spin::Padded;

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
    /// The number of tiles.
    ///
    /// # Panics
    /// If there are 2^32 or more.
    pub(super) fn tiles(&self) -> u32 {
        let across = self.rows.len().div_ceil(self.tile_rows);
        let tiles = self.columns.len().div_ceil(self.tile_columns).checked_mul(across);
        match tiles.and_then(|n| u32::try_from(n).ok()) {
            Some(tiles) => tiles,
            None => panic!("a grid of too many tiles"),
        }
    }

    /// Columns and rows of tile `i`; tiles of one range of rows follow each other.
    pub(super) fn tile(&self, i: usize) -> (Range<usize>, Range<usize>) {
        let down = self.columns.len().div_ceil(self.tile_columns);
        let cut = |range: &Range<usize>, size: usize, i: usize| {
            let start = range.start + i * size;
            start..(start + size).min(range.end)
        };
        (cut(&self.columns, self.tile_columns, i % down), cut(&self.rows, self.tile_rows, i / down))
    }
}

/// The tiles that each thread still has to compute. A thread's share is the same part of the grid every
/// time, so that it reads the weights that are in its cache; it is taken from the front by its
/// thread, and from the back by those that have finished theirs.
pub(super) struct Shares {
    /// For each thread two shares, of operations with even and odd numbers: a thread sets its share of
    /// the next operation while others still look for tiles of this one. The first tile in the high
    /// half, the one after the last in the low half.
    left: Box<[Padded<[AtomicU64; 2]>]>,
}

impl Shares {
    pub(super) fn new(threads: usize) -> Shares {
        Shares { left: (0..threads).map(|_| Padded::default()).collect() }
    }

    /// The first tile of the share of `thread`.
    pub(super) fn first(&self, thread: usize, tiles: u32) -> u32 {
        (thread as u64 * u64::from(tiles) / self.left.len() as u64) as u32
    }

    /// Gives `thread` its share of the `tiles` of an operation.
    pub(super) fn deal(&self, thread: usize, operation: usize, tiles: u32) {
        let share = u64::from(self.first(thread, tiles)) << 32 | u64::from(self.first(thread + 1, tiles));
        // Relaxed here and below: a barrier is between this and the first to take of it, and what
        // tiles read and write is ordered by the barriers alone.
        self.left[thread].0[operation % 2].store(share, Ordering::Relaxed);
    }

    /// A tile of an operation for `thread`: of its own share, or of another's; `None` when all are taken.
    pub(super) fn take(&self, thread: usize, operation: usize) -> Option<u32> {
        let (before, from) = self.left.split_at(thread);
        let mut shares = from.iter().chain(before).map(|share| &share.0[operation % 2]);
        let own = shares.next().and_then(|own| {
            let front = |share: u64| split(share).map(|_| share + (1 << 32));
            own.fetch_update(Ordering::Relaxed, Ordering::Relaxed, front).ok()
        });
        if let Some((first, _)) = own.and_then(split) {
            return Some(first);
        }
        shares.find_map(|share| {
            let back = |share: u64| split(share).map(|_| share - 1);
            let taken = share.fetch_update(Ordering::Relaxed, Ordering::Relaxed, back).ok();
            taken.and_then(split).map(|(_, end)| end - 1)
        })
    }
}

/// The first tile and the end of a share that is not empty.
fn split(share: u64) -> Option<(u32, u32)> {
    let (first, end) = ((share >> 32) as u32, share as u32);
    (first < end).then_some((first, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tile_is_taken_once() {
        for (threads, tiles) in [(1, 0), (1, 5), (2, 1), (3, 2), (4, 1000)] {
            let shares = Shares::new(threads);
            (0..threads).for_each(|thread| shares.deal(thread, 7, tiles));
            let take = |thread: usize| {
                let shares = &shares;
                move || std::iter::from_fn(|| shares.take(thread, 7)).collect::<Vec<u32>>()
            };
            let mut taken = std::thread::scope(|scope| {
                let each: Vec<_> = (0..threads).map(|thread| scope.spawn(take(thread))).collect();
                each.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<u32>>()
            });
            taken.sort();
            assert_eq!(taken, (0..tiles).collect::<Vec<u32>>(), "{threads} threads");
        }
    }

    #[test]
    fn a_thread_takes_its_own_in_order_then_from_the_back() {
        let shares = Shares::new(2);
        (0..2).for_each(|thread| shares.deal(thread, 0, 5));
        let order: Vec<u32> = std::iter::from_fn(|| shares.take(1, 0)).collect();
        assert_eq!(order, [2, 3, 4, 1, 0]);
    }
}
