//! SentencePiece's `precompiled_charsmap`: which character sequences become which others.
//!
//! A map is the length of an array in bytes, the array, and the replacements, each ended by a zero byte.
//! The array is a trie in darts-clone's double array (<https://github.com/s-yata/darts-clone>): a unit has
//! its label in bits 0 to 7, whether a value hangs below in bit 8, and the distance to its children in bits 10
//! to 30, shifted left by 8 if bit 9 is set; a value is bits 0 to 30, here a place in the replacements.

/// A map, checked.
#[derive(Debug)]
pub(super) struct Charsmap {
    units: Vec<u32>,
    replacements: String,
}

impl Charsmap {
    /// # Errors
    /// What is wrong with the bytes.
    pub(super) fn read(bytes: &[u8]) -> Result<Charsmap, &'static str> {
        let (len, rest) = bytes.split_first_chunk::<4>().ok_or("it is cut short")?;
        let len = usize::try_from(u32::from_le_bytes(*len)).map_err(|_| "it is too long")?;
        let (array, replacements) = rest.split_at_checked(len).ok_or("it is cut short")?;
        if array.is_empty() || !array.len().is_multiple_of(4) {
            return Err("its array is no array of 4 bytes each");
        }
        let replacements = String::from_utf8(replacements.to_vec()).map_err(|_| "it has no UTF-8")?;
        let unit = |b: &[u8]| u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        Ok(Charsmap { units: array.chunks_exact(4).map(unit).collect(), replacements })
    }

    /// The text with the longest sequences replaced, from left to right.
    pub(super) fn apply(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut left = text;
        while let Some(c) = left.chars().next() {
            match self.longest(left) {
                Some((len, replacement)) => {
                    out.push_str(replacement);
                    left = &left[len..];
                }
                None => {
                    out.push(c);
                    left = &left[c.len_utf8()..];
                }
            }
        }
        out
    }

    /// The length of the longest sequence that `text` begins with, and what it becomes.
    fn longest(&self, text: &str) -> Option<(usize, &str)> {
        let unit = |at: u32| self.units.get(at as usize).copied();
        let offset = |unit: u32| (unit >> 10) << ((unit & 1 << 9) >> 6);
        let mut found = None;
        let mut at = offset(unit(0)?);
        for (len, byte) in (1..).zip(text.bytes()) {
            at ^= u32::from(byte);
            let Some(node) = unit(at).filter(|unit| unit & (1 << 31 | 0xFF) == u32::from(byte)) else {
                break;
            };
            at ^= offset(node);
            if node & 1 << 8 != 0
                && let Some(value) = unit(at)
                && let Some(replacement) = self.replacements.get((value & !(1 << 31)) as usize..)
                && let Some((replacement, _)) = replacement.split_once('\0')
                && text.is_char_boundary(len)
            {
                found = Some((len, replacement));
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_no_map_is_refused() {
        for bytes in
            [&b""[..], b"\x04\0\0", b"\x04\0\0\0abc", b"\0\0\0\0", b"\x02\0\0\0ab", b"\x04\0\0\0abcd\xFF"]
        {
            assert!(Charsmap::read(bytes).is_err(), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn any_array_is_walked_to_an_end(units in prop::collection::vec(any::<u32>(), 1..64), text: String) {
            let mut bytes = (4 * units.len() as u32).to_le_bytes().to_vec();
            bytes.extend(units.iter().flat_map(|u| u.to_le_bytes()));
            bytes.extend(b"ab\0\0c");
            Charsmap::read(&bytes).unwrap().apply(&text);
        }
    }
}
