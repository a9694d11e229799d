//! Bytes to text: UTF-8, or UTF-16 with a byte order mark.

use std::sync::Arc;

use crate::diagnostic::{Diagnostic, Result, Source, Span};

/// The longest Modelfile that is read, in bytes.
pub const MAX_BYTES: usize = 8 << 20;

/// Decodes a Modelfile. A byte order mark chooses the encoding and is dropped; without one the
/// text is UTF-8.
///
/// # Errors
/// The text is longer than [`MAX_BYTES`], is not valid in its encoding, or holds a NUL. (Ollama
/// replaces what is invalid by U+FFFD and drops NUL; both are signs of a damaged or binary file.)
pub fn decode(name: &str, bytes: &[u8]) -> Result<Arc<Source>> {
    if bytes.len() > MAX_BYTES {
        let message = format!("the Modelfile has {} bytes; at most {MAX_BYTES} are read", bytes.len());
        return Err(Diagnostic::error(message)
            .code("file-too-large")
            .in_file(name, "")
            .help("a Modelfile names weights, it does not hold them: is this the path of a model file?")
            .into());
    }
    let text = match bytes {
        [0xEF, 0xBB, 0xBF, rest @ ..] => utf8(name, rest)?,
        [0xFF, 0xFE, rest @ ..] => utf16(name, rest, "UTF-16LE", u16::from_le_bytes)?,
        [0xFE, 0xFF, rest @ ..] => utf16(name, rest, "UTF-16BE", u16::from_be_bytes)?,
        _ => utf8(name, bytes)?,
    };
    let source = Arc::new(Source { name: name.to_owned(), text });
    match source.text.find('\0') {
        Some(at) => Err(nul(source, at, bytes).into()),
        None => Ok(source),
    }
}

fn utf8(name: &str, bytes: &[u8]) -> Result<String> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(error) => {
            // The text before the error is unchanged by the lossy decoding, so its offset holds.
            let at = error.valid_up_to();
            let text = String::from_utf8_lossy(bytes).into_owned();
            let byte = bytes.get(at).copied().unwrap_or(0);
            Err(invalid(name, text, at, format!("byte {at} (0x{byte:02X}) is not valid UTF-8"))
                .code("invalid-utf8")
                .help("save the file as UTF-8, or as UTF-16 with a byte order mark")
                .into())
        }
    }
}

fn utf16(name: &str, bytes: &[u8], encoding: &str, unit: fn([u8; 2]) -> u16) -> Result<String> {
    let mut text = String::with_capacity(bytes.len());
    let (pairs, odd) = bytes.as_chunks::<2>();
    let mut offset = 2; // the byte order mark
    for c in char::decode_utf16(pairs.iter().map(|pair| unit(*pair))) {
        match c {
            Ok(c) => {
                offset += 2 * c.len_utf16();
                text.push(c);
            }
            Err(error) => {
                let at = text.len();
                text.push(char::REPLACEMENT_CHARACTER);
                let half = error.unpaired_surrogate();
                let message =
                    format!("byte {offset}: 0x{half:04X} is half of a surrogate pair, not valid {encoding}");
                return Err(invalid(name, text, at, message).code("invalid-utf16").into());
            }
        }
    }
    if !odd.is_empty() {
        let at = text.len();
        text.push(char::REPLACEMENT_CHARACTER);
        let message =
            format!("the file ends in the middle of a character: {encoding} has two bytes for each");
        return Err(invalid(name, text, at, message).code("invalid-utf16").into());
    }
    Ok(text)
}

/// An error at the replacement character that stands at byte `at` of `text`.
fn invalid(name: &str, text: String, at: usize, message: String) -> Diagnostic {
    let end = at + text.get(at..).and_then(|t| t.chars().next()).map_or(0, char::len_utf8);
    let source = Arc::new(Source { name: name.to_owned(), text });
    Diagnostic::error(message).at(&Span { source, range: at..end }).label("shown as \u{FFFD}")
}

fn nul(source: Arc<Source>, at: usize, bytes: &[u8]) -> Diagnostic {
    let head = bytes.get(..64).unwrap_or(bytes);
    let zeros = |parity: usize| head.iter().skip(parity).step_by(2).all(|b| *b == 0);
    let help = if head.len() >= 4 && (zeros(0) || zeros(1)) {
        "this looks like UTF-16 without a byte order mark: save it with one, or as UTF-8"
    } else if bytes.starts_with(b"GGUF") {
        "this is a GGUF file: write a Modelfile with a `FROM` line that names it"
    } else {
        "a Modelfile is text: is this the path of a binary file?"
    };
    Diagnostic::error("the file holds a NUL character")
        .code("nul-character")
        .at(&Span { source, range: at..at + 1 })
        .help(help)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(bytes: &[u8]) -> Diagnostic {
        decode("Modelfile", bytes).unwrap_err().0.remove(0)
    }

    fn utf16(text: &str, mark: [u8; 2], bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
        mark.into_iter().chain(text.encode_utf16().flat_map(bytes)).collect()
    }

    #[test]
    fn a_byte_order_mark_chooses_the_encoding() {
        let text = "FROM a\nSYSTEM \u{1F600} é\r\n";
        assert_eq!(decode("m", text.as_bytes()).unwrap().text, text);
        assert_eq!(decode("m", format!("\u{FEFF}{text}").as_bytes()).unwrap().text, text);
        let little = utf16(text, [0xFF, 0xFE], u16::to_le_bytes);
        assert_eq!(decode("m", &little).unwrap().text, text);
        assert_eq!(decode("m", &utf16(text, [0xFE, 0xFF], u16::to_be_bytes)).unwrap().text, text);
        assert_eq!(decode("m", &[0xFF, 0xFE]).unwrap().text, "");
    }

    #[test]
    fn an_invalid_byte_is_named_with_its_place() {
        let e = error(b"FROM a\nSYSTEM caf\xE9 au lait\n");
        assert_eq!(e.to_string(), "Modelfile:2:11: byte 17 (0xE9) is not valid UTF-8");
        let e = error(&utf16("FROM a\nSYSTEM x", [0xFF, 0xFE], u16::to_le_bytes)[..29]);
        assert!(e.to_string().starts_with("Modelfile:2:7: the file ends in the middle"), "{e}");
        let e = error(&[0xFE, 0xFF, 0, b'a', 0xD8, 0x00, 0, b'b']);
        assert!(e.to_string().contains("1:2: byte 4: 0xD800 is half of a surrogate pair"), "{e}");
    }

    #[test]
    fn a_nul_is_an_error_that_guesses_why() {
        assert!(error(&utf16("FROM a", [b'F', 0], u16::to_le_bytes)).help[0].contains("UTF-16 without"));
        assert!(error(b"GGUF\x03\0\0\0\x01").help[0].contains("GGUF file"));
        assert!(error(b"FROM a\0b").help[0].contains("binary"));
        assert_eq!(error(b"FROM a\0b").to_string(), "Modelfile:1:7: the file holds a NUL character");
    }

    #[test]
    fn the_length_is_bounded() {
        assert!(decode("m", &vec![b'#'; MAX_BYTES]).is_ok());
        assert_eq!(error(&vec![b'#'; MAX_BYTES + 1]).code, "file-too-large");
    }
}
