//! GPT-2's byte alphabet: each of the 256 bytes is one printable character.
//!
//! Bytes that print in Latin-1 (`!`..`~`, `¡`..`¬`, `®`..`ÿ`) stand for themselves; the other 68, in
//! order, are U+0100 and up, so that a space is `Ġ` and a newline `Ċ`. Vocabularies and merges
//! of byte-level BPE are written in it.

const fn prints(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF)
}

const CHARS: [char; 256] = {
    let mut chars = ['\0'; 256];
    let mut byte = 0;
    let mut shifted = 0;
    while byte < 256 {
        let code = if prints(byte as u8) {
            byte as u32
        } else {
            shifted += 1;
            0xFF + shifted
        };
        chars[byte] = match char::from_u32(code) {
            Some(c) => c,
            None => panic!("a code point below U+0200 is a character"),
        };
        byte += 1;
    }
    chars
};

const SHIFTED: [u8; 68] = {
    let mut bytes = [0; 68];
    let mut byte = 0;
    let mut n = 0;
    while byte < 256 {
        if !prints(byte as u8) {
            bytes[n] = byte as u8;
            n += 1;
        }
        byte += 1;
    }
    bytes
};

/// The character that stands for a byte.
pub(super) fn char_of(byte: u8) -> char {
    CHARS[byte as usize]
}

/// The byte that a character stands for; `None` for one outside the alphabet.
pub(super) fn byte_of(c: char) -> Option<u8> {
    let code = c as u32;
    match u8::try_from(code) {
        Ok(byte) => prints(byte).then_some(byte),
        Err(_) => SHIFTED.get((code - 0x100) as usize).copied(),
    }
}

/// Appends `bytes` to `text`, written in the alphabet.
pub(super) fn write(bytes: &[u8], text: &mut String) {
    text.extend(bytes.iter().map(|&b| char_of(b)));
}

/// The bytes that `text` stands for; `None` for a character outside the alphabet.
pub(super) fn read(text: &str) -> impl Iterator<Item = Option<u8>> {
    text.chars().map(byte_of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_its_own_character() {
        for byte in 0..=255 {
            assert_eq!(byte_of(char_of(byte)), Some(byte));
        }
        let known = (0..=0x10FFFF).filter_map(char::from_u32).filter(|&c| byte_of(c).is_some()).count();
        assert_eq!(known, 256);
    }

    #[test]
    fn it_is_the_alphabet_of_the_field() {
        let theirs = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet();
        assert_eq!(theirs.len(), 256);
        assert!(theirs.iter().all(|&c| byte_of(c).is_some()));
        let mut text = String::new();
        write(" a\n\u{7F}é".as_bytes(), &mut text);
        assert_eq!(text, "ĠaĊġÃ©");
        assert_eq!(read(&text).collect::<Option<Vec<u8>>>().unwrap(), " a\n\u{7F}é".as_bytes());
        assert!(read("a b").any(|byte| byte.is_none()));
    }
}
