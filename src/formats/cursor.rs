//! Reads a header from front to back through a small buffer.

use std::path::Path;

use crate::diagnostic::{Diagnostic, Errors, Result};
use crate::world::File;

/// Bytes read at once.
const BUFFER: u64 = 64 << 10;

/// A position in a file. Every read is checked against what is left, and every error names the
/// place: the entry being read and the byte.
pub(crate) struct Cursor<'a> {
    path: &'a Path,
    file: &'a dyn File,
    buffer: Vec<u8>,
    /// The file offset of `buffer[0]`.
    buffer_start: u64,
    position: u64,
    len: u64,
    /// No byte from here on is read.
    limit: u64,
    entry: String,
}

impl<'a> Cursor<'a> {
    /// At the start of `file`, of which at most `limit` bytes may be read.
    pub fn new(path: &'a Path, file: &'a dyn File, limit: u64) -> Cursor<'a> {
        let len = file.len();
        Cursor {
            path,
            file,
            buffer: Vec::new(),
            buffer_start: 0,
            position: 0,
            len,
            limit,
            entry: String::new(),
        }
    }

    /// The offset of the next byte.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Bytes from here to the end of the file.
    pub fn left(&self) -> u64 {
        self.len - self.position
    }

    /// Names what is being read from here on, for errors: ``key `x` ``; empty for nothing.
    pub fn entry(&mut self, entry: String) {
        self.entry = entry;
    }

    /// An error at byte `offset` of the current entry.
    pub fn error_at(&self, offset: u64, message: impl Into<String>) -> Diagnostic {
        let place = match self.entry.as_str() {
            "" => format!("byte {offset}"),
            entry => format!("{entry}, byte {offset}"),
        };
        Diagnostic::error(message).in_file(self.path, place)
    }

    /// An error at the next byte.
    pub fn error(&self, message: impl Into<String>) -> Diagnostic {
        self.error_at(self.position, message)
    }

    /// Fails unless `n` more bytes are there and may be read.
    fn require(&self, n: u64) -> Result<()> {
        if n > self.left() {
            let left = self.left();
            return Err(self
                .error(format!("the file ends too early: {n} bytes are needed here, {left} are left"))
                .code("truncated-file")
                .help("the file is damaged or its download was cut short; fetch it again")
                .into());
        }
        if n > self.limit.saturating_sub(self.position) {
            return Err(self
                .error(format!("the header is longer than {} MiB, the most that is read", self.limit >> 20))
                .code("header-too-large")
                .into());
        }
        Ok(())
    }

    /// Fails unless `count`, read at `offset`, is `most` or less.
    pub fn at_most(&self, offset: u64, count: u64, most: u64, what: &str) -> Result<()> {
        if count > most {
            let message = format!("{count} {what} are declared; at most {most} are allowed");
            return Err(self.error_at(offset, message).code("count-too-large").into());
        }
        Ok(())
    }

    /// Fails unless `count` items of at least `min_bytes` each are there. `what` names them.
    pub fn require_items(&self, offset: u64, count: u64, min_bytes: u64, what: &str) -> Result<()> {
        let left = self.left().min(self.limit.saturating_sub(self.position));
        if count.checked_mul(min_bytes).is_none_or(|bytes| bytes > left) {
            return Err(self
                .error_at(
                    offset,
                    format!("{count} {what} are declared, but only {left} bytes are left for them"),
                )
                .code("count-too-large")
                .help("the file is damaged, or was made to mislead")
                .into());
        }
        Ok(())
    }

    /// The next `n` bytes; `n` is at most the buffer's size.
    fn take(&mut self, n: u64) -> Result<&[u8]> {
        self.require(n)?;
        let buffered = self.buffer_start + self.buffer.len() as u64;
        if self.position < self.buffer_start || self.position + n > buffered {
            let fill = BUFFER.max(n).min(self.left());
            self.buffer.resize(fill as usize, 0);
            self.buffer_start = self.position;
            self.file
                .read_at(self.position, &mut self.buffer)
                .map_err(|e| Diagnostic::io("read", self.path, &e))?;
        }
        let start = (self.position - self.buffer_start) as usize;
        self.position += n;
        Ok(&self.buffer[start..start + n as usize])
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N as u64)?);
        Ok(bytes)
    }

    /// A byte.
    pub fn u8(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    /// A little-endian integer.
    pub fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// A little-endian integer.
    pub fn i32(&mut self) -> Result<i32> {
        Ok(i32::from_le_bytes(self.array()?))
    }

    /// A little-endian integer.
    pub fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// `count` values of `N` bytes each. The caller has bounded `count` by
    /// [`Cursor::require_items`].
    pub fn values<const N: usize, T>(&mut self, count: u64, decode: fn([u8; N]) -> T) -> Result<Vec<T>> {
        let mut values = Vec::with_capacity(count as usize);
        let mut left = count;
        while left > 0 {
            let now = left.min(BUFFER / N as u64);
            let bytes = self.take(now * N as u64)?;
            values.extend(bytes.as_chunks::<N>().0.iter().map(|chunk| decode(*chunk)));
            left -= now;
        }
        Ok(values)
    }

    /// `len` bytes of UTF-8, where `len` was read at `offset`; `what` names the text.
    pub fn text(&mut self, offset: u64, len: u64, limit: u64, what: &str) -> Result<String> {
        if len > limit {
            return Err(self
                .error_at(offset, format!("{what} of {len} bytes; at most {limit} are allowed"))
                .code("string-too-long")
                .into());
        }
        self.require(len)?;
        let start = self.position;
        let bytes = self.values(len, |[byte]: [u8; 1]| byte)?;
        String::from_utf8(bytes).map_err(|e| self.no_text(start, what, &e.utf8_error()))
    }

    /// As [`Cursor::text`], lent to `each`: a text that is short is not copied.
    pub fn text_with(
        &mut self,
        offset: u64,
        len: u64,
        limit: u64,
        what: &str,
        each: impl FnOnce(&str),
    ) -> Result<()> {
        if len > limit.min(BUFFER) {
            each(&self.text(offset, len, limit, what)?);
            return Ok(());
        }
        let start = self.position;
        match std::str::from_utf8(self.take(len)?) {
            Ok(text) => each(text),
            Err(e) => return Err(self.no_text(start, what, &e)),
        }
        Ok(())
    }

    fn no_text(&self, start: u64, what: &str, e: &std::str::Utf8Error) -> Errors {
        let at = start + e.valid_up_to() as u64;
        self.error_at(at, format!("{what} is not valid UTF-8")).code("invalid-utf8").into()
    }
}
