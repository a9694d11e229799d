//! Who builds, and when, as provenance says it.

use super::usage;
use crate::diagnostic::Result;

/// A URI, as far as a look at its beginning tells.
pub(super) fn builder(text: &str) -> Result<String, String> {
    let scheme = text.split_once(':').map_or("", |(scheme, _)| scheme);
    let letters = scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    match !scheme.is_empty() && letters && text.chars().all(|c| c.is_ascii_graphic()) {
        true => Ok(text.to_owned()),
        false => Err("a URI is expected, such as https://example.com/runner".to_owned()),
    }
}

/// The time that SOURCE_DATE_EPOCH gives. No other clock is asked, so that equal builds have equal documents.
pub(super) fn source_date() -> Result<Option<i64>> {
    let Some(text) = std::env::var_os("SOURCE_DATE_EPOCH").filter(|v| !v.is_empty()) else { return Ok(None) };
    let seconds = text.to_str().and_then(|t| t.parse::<u32>().ok());
    let wrong = || usage("SOURCE_DATE_EPOCH is no number of seconds since 1970");
    seconds.map(|s| Some(i64::from(s))).ok_or_else(wrong)
}
