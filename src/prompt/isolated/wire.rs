//! What the two processes say to each other: frames, each a length and as many bytes.
//!
//! A request is JSON. A reply is a byte that says what follows: [`READY`], [`TEXT`] and the text
//! as it is, or [`ERROR`] and JSON.

use std::borrow::Cow;
use std::io::{self, Read, Write};
use std::sync::Arc;

use jiff::civil::DateTime;
use serde::{Deserialize, Serialize};
use serde_json::{Number, Value as Json};

use crate::diagnostic::{Diagnostic, Errors, Kind, Location, Result, Source, Span};
use crate::prompt::jinja_values::Variables;
use crate::prompt::limits::Limits;

/// Bytes of a request.
pub const REQUEST_BYTES: usize = 32 << 20;
/// Nesting of a value in a request: the reader of JSON takes no more than 128 in all.
pub const MOST_NESTING: usize = 112;

/// The reply of a process that is under its limits and waits for requests.
pub const READY: &[u8] = b"mdl-render 1";
/// Begins a reply that is the text.
pub const TEXT: u8 = b't';
/// Begins a reply that is a [`Failure`].
pub const ERROR: u8 = b'e';
/// Bytes of a reply that is a [`Failure`]: more than its texts can become in JSON.
pub const ERROR_BYTES: usize = 1 << 20;
/// Bytes of a message or a line of help.
const MESSAGE_BYTES: usize = 16 << 10;

/// Writes a frame.
///
/// # Errors
/// The other side is gone.
pub fn write_frame(out: &mut impl Write, parts: &[&[u8]]) -> io::Result<()> {
    let len = parts.iter().map(|part| part.len()).sum::<usize>();
    let len = u32::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    out.write_all(&len.to_le_bytes())?;
    parts.iter().try_for_each(|part| out.write_all(part))?;
    out.flush()
}

/// Reads a frame of at most `most` bytes; nothing where the other side has ended between two.
///
/// # Errors
/// The frame is longer, or ends early.
pub fn read_frame(input: &mut impl Read, most: usize) -> io::Result<Option<Vec<u8>>> {
    let mut len = [0; 4];
    match input.read(&mut len[..1])? {
        0 => return Ok(None),
        _ => input.read_exact(&mut len[1..])?,
    }
    let len = u32::from_le_bytes(len) as usize;
    if len > most {
        return Err(io::Error::from(io::ErrorKind::InvalidData));
    }
    let mut bytes = Vec::new();
    input.take(len as u64).read_to_end(&mut bytes)?;
    if bytes.len() < len {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
    }
    Ok(Some(bytes))
}

/// A template to render.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Request<'a> {
    /// What errors call it.
    pub name: Cow<'a, str>,
    /// Its text.
    pub source: Cow<'a, str>,
    /// What it may cost, except for time.
    pub limits: Limits,
    /// Its variables; without, it is only compiled.
    variables: Option<Variables>,
    /// The bits of every number in the variables that is a float, in order: JSON's decimals need not
    /// be read as what was written.
    floats: Vec<u64>,
    /// The time that date functions tell.
    now: String,
}

impl<'a> Request<'a> {
    /// A request.
    pub fn new(
        source: &'a Source,
        limits: Limits,
        variables: Option<Variables>,
        now: DateTime,
    ) -> Request<'a> {
        let mut floats = Vec::new();
        for (_, json) in variables.iter().flatten() {
            collect_floats(json, &mut floats);
        }
        let (name, source) = (source.name.as_str().into(), source.text.as_str().into());
        Request { name, source, limits, variables, floats, now: now.to_string() }
    }

    /// Its bytes.
    ///
    /// # Errors
    /// They are too many.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let bytes = serde_json::to_vec(self)
            .map_err(|e| Diagnostic::environment(format!("the conversation has no JSON form: {e}")))?;
        if bytes.len() > REQUEST_BYTES {
            let message = format!(
                "the conversation and its template have {} bytes; a template is given at most {REQUEST_BYTES}",
                bytes.len()
            );
            return Err(Diagnostic::error(message).code("template-budget").into());
        }
        Ok(bytes)
    }

    /// The request that was encoded; nothing where the bytes are none.
    pub fn decode(bytes: &[u8]) -> Option<Request<'static>> {
        serde_json::from_slice(bytes).ok()
    }

    /// The variables as they were given, and the time.
    pub fn into_input(self) -> Option<(Option<Variables>, DateTime)> {
        let (mut variables, mut floats) = (self.variables, self.floats.into_iter());
        for (_, json) in variables.iter_mut().flatten() {
            restore_floats(json, &mut floats)?;
        }
        Some((variables, self.now.parse().ok()?))
    }
}

fn collect_floats(json: &Json, floats: &mut Vec<u64>) {
    match json {
        Json::Number(n) if n.is_f64() => floats.extend(n.as_f64().map(f64::to_bits)),
        Json::Array(items) => items.iter().for_each(|v| collect_floats(v, floats)),
        Json::Object(members) => members.values().for_each(|v| collect_floats(v, floats)),
        _ => {}
    }
}

fn restore_floats(json: &mut Json, floats: &mut impl Iterator<Item = u64>) -> Option<()> {
    match json {
        Json::Number(n) if n.is_f64() => *n = Number::from_f64(f64::from_bits(floats.next()?))?,
        Json::Array(items) => return items.iter_mut().try_for_each(|v| restore_floats(v, floats)),
        Json::Object(members) => return members.values_mut().try_for_each(|v| restore_floats(v, floats)),
        _ => {}
    }
    Some(())
}

/// The codes that a reply may have.
const CODES: [&str; 5] =
    ["template-budget", "template-raised", "template-syntax", "template-execution", "template-time"];

/// An error as a reply has it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    code: String,
    message: String,
    help: Vec<String>,
    /// The bytes of the source that it is about.
    range: Option<(usize, usize)>,
    environment: bool,
}

impl Failure {
    /// The first of several errors.
    pub fn new(errors: &Errors) -> Failure {
        let Some(first) = errors.0.first() else {
            return Failure {
                code: String::new(),
                message: "the template fails".to_owned(),
                help: Vec::new(),
                range: None,
                environment: false,
            };
        };
        let range = match &first.location {
            Some(Location::Text(span)) => Some((span.range.start, span.range.end)),
            _ => None,
        };
        Failure {
            code: first.code.to_owned(),
            message: cut(&first.message).to_owned(),
            help: first.help.iter().take(4).map(|line| cut(line).to_owned()).collect(),
            range,
            environment: first.kind == Kind::Environment,
        }
    }

    /// The error, about `source`. A reply is not trusted: what makes no sense is left out.
    pub fn diagnostic(self, source: &Arc<Source>) -> Diagnostic {
        let code = CODES.iter().find(|c| **c == self.code).copied().unwrap_or_default();
        let make = if self.environment { Diagnostic::environment } else { Diagnostic::error };
        let mut diagnostic = make(self.message).code(code);
        diagnostic.help = self.help;
        match self.range {
            Some((start, end)) if source.text.get(start..end).is_some() => {
                diagnostic.at(&Span { source: source.clone(), range: start..end })
            }
            _ => diagnostic,
        }
    }
}

fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(MESSAGE_BYTES)).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use jiff::civil::datetime;
    use proptest::prelude::*;

    use super::*;

    fn source() -> Arc<Source> {
        Arc::new(Source { name: "t".to_owned(), text: "é{{ x }}".to_owned() })
    }

    #[test]
    fn a_frame_is_bounded_and_whole() {
        let mut bytes = Vec::new();
        write_frame(&mut bytes, &[b"ab", b"c"]).unwrap();
        assert_eq!(read_frame(&mut bytes.as_slice(), 3).unwrap().unwrap(), b"abc");
        assert!(read_frame(&mut bytes.as_slice(), 2).is_err());
        assert!(read_frame(&mut &bytes[..6], 3).is_err());
        assert!(read_frame(&mut &bytes[..2], 3).is_err());
        assert!(read_frame(&mut &bytes[..0], 3).unwrap().is_none());
        assert!(read_frame(&mut [255; 9].as_slice(), usize::MAX).is_err());
    }

    #[test]
    fn an_error_comes_back_with_its_place_and_nothing_that_is_not_there() {
        let source = source();
        let sent = Diagnostic::error("no")
            .code("template-syntax")
            .help("do")
            .at(&Span { source: source.clone(), range: 2..4 });
        let bytes = serde_json::to_vec(&Failure::new(&sent.clone().into())).unwrap();
        let failure: Failure = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(failure.diagnostic(&source), sent);
        for range in [(1, 2), (0, 99), (4, 2), (usize::MAX, 0)] {
            let failure =
                Failure { range: Some(range), code: "x".into(), ..Failure::new(&sent.clone().into()) };
            let diagnostic = failure.diagnostic(&source);
            assert_eq!((diagnostic.location, diagnostic.code), (None, ""), "{range:?}");
        }
        let long = Diagnostic::error("é".repeat(MESSAGE_BYTES)).help("\u{1}".repeat(MESSAGE_BYTES * 2));
        let long = serde_json::to_vec(&Failure::new(&long.into())).unwrap();
        assert!(long.len() < ERROR_BYTES);
    }

    proptest! {
        #[test]
        fn variables_come_back_to_the_bit(floats in prop::collection::vec(any::<f64>(), 0..9), n in any::<i64>(), u in any::<u64>()) {
            let json = serde_json::json!({"f": floats, "n": [n, u], "s": "é\u{0}", "one": 1.0});
            let variables = vec![("a".to_owned(), json.clone()), ("b".to_owned(), Json::Array(vec![json]))];
            let now = datetime(2026, 11, 24, 13, 5, 9, 7);
            let text = source();
            let request = Request::new(&text, Limits::SERVER, Some(variables.clone()), now);
            let decoded = Request::decode(&request.encode().unwrap()).unwrap();
            prop_assert_eq!(&decoded.source, &request.source);
            prop_assert_eq!(decoded.limits, Limits::SERVER);
            prop_assert_eq!(decoded.into_input().unwrap(), (Some(variables), now));
        }
    }
}
