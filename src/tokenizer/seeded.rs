//! A fast hash with a random seed, so that no vocabulary can be written to make its keys collide.

use std::hash::{BuildHasher, Hasher, RandomState};

/// Hashes eight bytes at a time: a multiplication by a random odd number, and a fold.
#[derive(Clone, Debug)]
pub(super) struct Seeded(u64);

impl Seeded {
    pub(super) fn new() -> Seeded {
        Seeded(RandomState::new().hash_one(0u64) | 1)
    }

    /// The hash of a text.
    pub(super) fn text(&self, text: &str) -> u64 {
        let mut hasher = self.build_hasher();
        hasher.write(text.as_bytes());
        hasher.finish()
    }
}

impl BuildHasher for Seeded {
    type Hasher = Fold;

    fn build_hasher(&self) -> Fold {
        Fold { state: self.0.rotate_left(32), factor: self.0 }
    }
}

pub(super) struct Fold {
    state: u64,
    factor: u64,
}

impl Hasher for Fold {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|word| self.write_u64(u64::from_le_bytes(*word)));
        // At most seven bytes above their number.
        self.write_u64(rest.iter().fold(rest.len() as u64, |word, &byte| word << 8 | u64::from(byte)));
    }

    fn write_u64(&mut self, value: u64) {
        let wide = u128::from(value ^ self.state) * u128::from(self.factor);
        self.state = (wide as u64) ^ (wide >> 64) as u64;
    }

    fn finish(&self) -> u64 {
        self.state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_and_the_length_count() {
        let seeded = Seeded::new();
        let hash = |bytes: &[u8]| {
            let mut hasher = seeded.build_hasher();
            hasher.write(bytes);
            hasher.finish()
        };
        let mut texts = vec![vec![]];
        for len in 1..40 {
            texts.push(vec![0u8; len]);
            texts.extend((0..len).map(|at| (0..len).map(|i| u8::from(i == at)).collect()));
        }
        let mut hashes: Vec<u64> = texts.iter().map(|text| hash(text)).collect();
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), texts.len());
    }
}
