//! Bytes of tokens to text, as they come.

/// Turns bytes into text piece by piece: a character that tokens share waits until it is whole, and
/// bytes that are no UTF-8 become U+FFFD, as [`String::from_utf8_lossy`] would have it for the whole.
#[derive(Clone, Debug, Default)]
pub struct Utf8Stream {
    /// The start of a character, at most 3 bytes.
    pending: Vec<u8>,
}

impl Utf8Stream {
    /// With nothing waiting.
    pub fn new() -> Utf8Stream {
        Utf8Stream::default()
    }

    /// Takes the next bytes and returns the text that is complete with them.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let mut text = String::new();
        let mut rest = self.pending.as_slice();
        loop {
            let error = match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => error,
            };
            let (valid, after) = rest.split_at(error.valid_up_to());
            text.push_str(std::str::from_utf8(valid).unwrap_or_default());
            rest = after;
            match error.error_len() {
                Some(invalid) => {
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &rest[invalid..];
                }
                // It may yet become a character.
                None => break,
            }
        }
        self.pending = rest.to_vec();
        text
    }

    /// Ends the stream: what still waits is no character, and becomes U+FFFD.
    pub fn finish(&mut self) -> String {
        let pending = std::mem::take(&mut self.pending);
        String::from_utf8_lossy(&pending).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn characters_are_never_split() {
        let mut stream = Utf8Stream::new();
        let emoji = "🙂".as_bytes();
        assert_eq!(stream.push(b"a"), "a");
        assert_eq!(stream.push(&emoji[..1]), "");
        assert_eq!(stream.push(&emoji[1..3]), "");
        assert_eq!(stream.push(&emoji[3..]), "🙂");
        assert_eq!(stream.push(&emoji[..2]), "");
        assert_eq!(stream.push(b"x"), "\u{FFFD}x");
        assert_eq!(stream.push(&emoji[..2]), "");
        assert_eq!(stream.finish(), "\u{FFFD}");
        assert_eq!(stream.finish(), "");
    }

    proptest! {
        #[test]
        fn it_says_what_the_whole_would(
            parts in prop::collection::vec(
                prop_oneof![any::<Vec<u8>>(), any::<String>().prop_map(String::into_bytes)], 0..8),
            size in 1usize..5,
        ) {
            let bytes = parts.concat();
            let mut stream = Utf8Stream::new();
            let mut text = String::new();
            for chunk in bytes.chunks(size) {
                text += &stream.push(chunk);
                prop_assert!(stream.pending.len() <= 3);
            }
            text += &stream.finish();
            prop_assert_eq!(text, String::from_utf8_lossy(&bytes));
        }
    }
}
