//! Remembers the tokens of pieces, which repeat in every text.

use std::collections::HashMap;
use std::ops::Range;

/// The longest piece that is remembered, in bytes.
const MAX_PIECE: usize = 48;
/// The most pieces that are remembered.
const MAX_PIECES: usize = 1 << 16;

/// What the pieces of one text became.
#[derive(Default)]
pub(super) struct Words {
    places: HashMap<Box<str>, Range<usize>>,
    ids: Vec<u32>,
}

impl Words {
    /// Appends the tokens of `piece`: those of last time, else what `encode` appends.
    pub(super) fn encode(&mut self, piece: &str, ids: &mut Vec<u32>, encode: impl FnOnce(&mut Vec<u32>)) {
        if piece.len() > MAX_PIECE {
            return encode(ids);
        }
        if let Some(place) = self.places.get(piece) {
            ids.extend_from_slice(&self.ids[place.clone()]);
            return;
        }
        let start = ids.len();
        encode(ids);
        if self.places.len() < MAX_PIECES {
            let place = self.ids.len();
            self.ids.extend_from_slice(&ids[start..]);
            self.places.insert(piece.into(), place..self.ids.len());
        }
    }
}
