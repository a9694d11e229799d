//! SentencePiece's `tokenizer.model`: what of it a tokenizer needs.
//!
//! A message is a list of fields, each a key, `number << 3 | kind`, and a value
//! (<https://protobuf.dev/programming-guides/encoding/>); the numbers are those of `sentencepiece_model.proto`.

/// One piece of the vocabulary.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Piece<'a> {
    pub(super) text: &'a str,
    pub(super) score: f32,
    /// 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte: the numbers of GGUF but for the order.
    pub(super) kind: u64,
}

/// `ModelProto`.
#[derive(Debug, PartialEq)]
pub(super) struct ModelProto<'a> {
    pub(super) pieces: Vec<Piece<'a>>,
    /// 1 Unigram, 2 BPE, 3 words, 4 characters.
    pub(super) model_type: u64,
    pub(super) treat_whitespace_as_suffix: bool,
    /// Ids of the unknown token, BOS, EOS and padding, where there are such.
    pub(super) special: [Option<u64>; 4],
    pub(super) charsmap: &'a [u8],
    pub(super) add_dummy_prefix: bool,
    pub(super) remove_extra_whitespaces: bool,
}

/// What is wrong with a message.
type Broken = &'static str;

/// A field's value.
#[derive(Clone, Copy)]
enum Field<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
    Fixed64,
}

impl<'a> ModelProto<'a> {
    /// # Errors
    /// What is wrong with the bytes.
    pub(super) fn read(bytes: &'a [u8]) -> Result<ModelProto<'a>, Broken> {
        let mut model = ModelProto {
            pieces: Vec::new(),
            model_type: 1,
            treat_whitespace_as_suffix: false,
            special: [Some(0), Some(1), Some(2), None],
            charsmap: &[],
            add_dummy_prefix: true,
            remove_extra_whitespaces: true,
        };
        each(bytes, |number, field| {
            match (number, field) {
                (1, Field::Bytes(piece)) => model.pieces.push(Piece::read(piece)?),
                (2, Field::Bytes(trainer)) => model.trainer(trainer)?,
                (3, Field::Bytes(normalizer)) => model.normalizer(normalizer)?,
                (1..=3, _) => return Err("a field has another type"),
                _ => {}
            }
            Ok(())
        })?;
        match model.pieces.is_empty() {
            true => Err("it has no pieces"),
            false => Ok(model),
        }
    }

    fn trainer(&mut self, bytes: &[u8]) -> Result<(), Broken> {
        each(bytes, |number, field| {
            match (number, field) {
                (3, Field::Varint(value)) => self.model_type = value,
                (24, Field::Varint(value)) => self.treat_whitespace_as_suffix = value != 0,
                // Negative, which is very long here, for none.
                (40..=43, Field::Varint(value)) => {
                    self.special[number as usize - 40] = i32::try_from(value).is_ok().then_some(value);
                }
                _ => {}
            }
            Ok(())
        })
    }

    fn normalizer(&mut self, bytes: &'a [u8]) -> Result<(), Broken> {
        each(bytes, |number, field| {
            match (number, field) {
                (2, Field::Bytes(value)) => self.charsmap = value,
                (3, Field::Varint(value)) => self.add_dummy_prefix = value != 0,
                (4, Field::Varint(value)) => self.remove_extra_whitespaces = value != 0,
                _ => {}
            }
            Ok(())
        })
    }
}

impl<'a> Piece<'a> {
    fn read(bytes: &'a [u8]) -> Result<Piece<'a>, Broken> {
        let mut piece = Piece { text: "", score: 0.0, kind: 1 };
        each(bytes, |number, field| {
            match (number, field) {
                (1, Field::Bytes(text)) => {
                    piece.text = std::str::from_utf8(text).map_err(|_| "a piece is no UTF-8")?;
                }
                (2, Field::Fixed32(bits)) => piece.score = f32::from_bits(bits),
                (3, Field::Varint(kind)) => piece.kind = kind,
                (1..=3, _) => return Err("a piece's field has another type"),
                _ => {}
            }
            Ok(())
        })?;
        Ok(piece)
    }
}

/// Calls `field` with each field of a message.
fn each<'a>(
    mut bytes: &'a [u8],
    mut field: impl FnMut(u64, Field<'a>) -> Result<(), Broken>,
) -> Result<(), Broken> {
    const SHORT: Broken = "it is cut short";
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let value = match key & 7 {
            0 => Field::Varint(varint(&mut bytes)?),
            1 => {
                bytes = bytes.get(8..).ok_or(SHORT)?;
                Field::Fixed64
            }
            2 => {
                let len = usize::try_from(varint(&mut bytes)?).map_err(|_| SHORT)?;
                let (value, rest) = bytes.split_at_checked(len).ok_or(SHORT)?;
                bytes = rest;
                Field::Bytes(value)
            }
            5 => {
                let (value, rest) = bytes.split_first_chunk::<4>().ok_or(SHORT)?;
                bytes = rest;
                Field::Fixed32(u32::from_le_bytes(*value))
            }
            _ => return Err("it is no protocol buffer"),
        };
        field(key >> 3, value)?;
    }
    Ok(())
}

/// Seven bits a byte, the lowest first.
fn varint(bytes: &mut &[u8]) -> Result<u64, Broken> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or("it is cut short")?;
        *bytes = rest;
        value |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err("a number is too long")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_model_is_read() {
        // Pieces `a` with -1.5, and `<s>` of type 3; BPE; no prefix; no padding.
        let bytes = b"\x0A\x08\x0A\x01a\x15\0\0\xC0\xBF\x0A\x07\x0A\x03<s>\x18\x03\x12\x0E\x18\x02\xD8\x02\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01\x1A\x02\x18\0";
        let model = ModelProto::read(bytes).unwrap();
        let piece = |text, score, kind| Piece { text, score, kind };
        assert_eq!(model.pieces, [piece("a", -1.5, 1), piece("<s>", 0.0, 3)]);
        assert_eq!((model.model_type, model.add_dummy_prefix, model.special[3]), (2, false, None));
        for len in 1..bytes.len() {
            // A message may end between fields, but nowhere else.
            let whole = [10, 19, 35].contains(&len);
            assert_eq!(ModelProto::read(&bytes[..len]).is_ok(), whole, "{len}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_to_an_end(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            _ = ModelProto::read(&bytes);
        }
    }
}
