//! Merges neighbouring symbols, the best merge first: what every kind of byte-pair encoding does.
//!
//! Candidates wait in a heap ordered by rank and then by place, so that n symbols take O(n log n) however
//! hostile they are.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use super::seeded::Seeded;

/// How good a merge is; less is better.
pub(super) type Rank = u32;

/// The most symbols that are merged as one piece: more than any context, and few enough to count in
/// 32 bits.
pub(super) const MAX_SYMBOLS: usize = 1 << 30;

/// What two neighbours become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Merge {
    pub(super) rank: Rank,
    pub(super) made: u32,
}

/// The merges of a vocabulary, by the pair of symbols.
#[derive(Debug)]
pub(super) struct Merges {
    pairs: HashMap<u64, Merge, Seeded>,
    /// For each rank, what a candidate of that rank must still lead to when its turn comes.
    outcome: Vec<u32>,
}

impl Merges {
    /// `outcome` has an entry for each rank: a pair whose neighbours changed while it waited is merged if
    /// its rank's outcome is still the same.
    pub(super) fn new(pairs: usize, outcome: Vec<u32>) -> Merges {
        Merges { pairs: HashMap::with_capacity_and_hasher(pairs, Seeded::new()), outcome }
    }

    /// Adds one; the one that was there for the pair, if any.
    pub(super) fn insert(&mut self, left: u32, right: u32, merge: Merge) -> Option<Merge> {
        self.pairs.insert(key(left, right), merge)
    }

    fn get(&self, left: u32, right: u32) -> Option<Merge> {
        self.pairs.get(&key(left, right)).copied()
    }

    fn outcome(&self, rank: Rank) -> Option<u32> {
        self.outcome.get(rank as usize).copied()
    }

    /// Merges `symbols`, of which there are at most [`MAX_SYMBOLS`], and gives what is left to `each`, in
    /// order.
    pub(super) fn merge(
        &self,
        symbols: impl Iterator<Item = u32>,
        scratch: &mut Scratch,
        mut each: impl FnMut(u32),
    ) {
        let list = &mut scratch.symbols;
        list.clear();
        list.extend(symbols.take(MAX_SYMBOLS).zip(0u32..).map(|(id, at)| Symbol {
            id,
            previous: at.checked_sub(1).unwrap_or(NONE),
            next: at + 1,
        }));
        match list.last_mut() {
            Some(last) => last.next = NONE,
            None => return,
        }
        let mut first = std::mem::take(&mut scratch.heap);
        first.clear();
        let pairs = list.windows(2).zip(0..);
        first.extend(pairs.filter_map(|(pair, left)| self.candidate(left, pair[0].id, pair[1].id)));
        let mut heap = BinaryHeap::from(first);
        while let Some(Reverse(candidate)) = heap.pop() {
            let left = candidate.left();
            let Symbol { id: left_id, previous, next: right } = list[left as usize];
            if right == NONE || right == left {
                continue;
            }
            let Symbol { id: right_id, next, .. } = list[right as usize];
            // Neighbours may have changed since.
            let Some(merge) = self.get(left_id, right_id) else { continue };
            if self.outcome(merge.rank) != self.outcome(candidate.rank()) {
                continue;
            }
            list[right as usize].next = right;
            list[left as usize].id = merge.made;
            list[left as usize].next = next;
            if next != NONE {
                list[next as usize].previous = left;
                heap.extend(self.candidate(left, merge.made, list[next as usize].id));
            }
            if previous != NONE {
                heap.extend(self.candidate(previous, list[previous as usize].id, merge.made));
            }
        }
        scratch.heap = heap.into_vec();
        list.iter().zip(0..).filter(|(s, at)| s.next != *at).for_each(|(s, _)| each(s.id));
    }

    fn candidate(&self, left: u32, left_id: u32, right_id: u32) -> Option<Reverse<Candidate>> {
        self.get(left_id, right_id).map(|merge| Reverse(Candidate::new(merge.rank, left)))
    }
}

/// Buffers that the pieces of a text share.
#[derive(Default)]
pub(super) struct Scratch {
    symbols: Vec<Symbol>,
    heap: Vec<Reverse<Candidate>>,
}

/// A symbol of a piece under way, in a doubly linked list.
#[derive(Clone, Copy)]
struct Symbol {
    id: u32,
    previous: u32,
    /// The symbol itself once it has been merged into the one before.
    next: u32,
}

/// No symbol.
const NONE: u32 = u32::MAX;

/// A merge that may happen, as one number: better merges are less, then those further left.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate(u64);

impl Candidate {
    fn new(rank: Rank, left: u32) -> Candidate {
        Candidate(u64::from(rank) << 32 | u64::from(left))
    }

    fn rank(self) -> Rank {
        (self.0 >> 32) as u32
    }

    fn left(self) -> u32 {
        self.0 as u32
    }
}

fn key(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}
