//! The table of a ZIP archive whose entries are stored as they are, as PyTorch writes it.
//!
//! Source: PKWARE's APPNOTE 6.3 (sections 4.3 and 4.4), with its 64-bit extension. Nothing is
//! unpacked: an entry is a range of the file, so that tensors are read where they lie. What only an
//! unpacker could read (compression, encryption, several disks) is refused, and so are entries that
//! share bytes: PyTorch writes none of it.

use std::collections::HashSet;
use std::path::Path;

use crate::diagnostic::{Diagnostic, Result};
use crate::formats::limits;
use crate::formats::quote::quoted;
use crate::world::File;

/// A stored entry: its bytes are a range of the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The whole name, with `/` between folders.
    pub name: String,
    /// The first byte of its contents, from the start of the archive.
    pub offset: u64,
    /// Bytes of its contents.
    pub len: u64,
}

/// The table of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archive {
    /// The entries in the order of their bytes, folders left out. No two share a byte.
    pub entries: Vec<Entry>,
}

const END: &[u8; 4] = b"PK\x05\x06";
const END_64: &[u8; 4] = b"PK\x06\x06";
const END_64_LOCATOR: &[u8; 4] = b"PK\x06\x07";
const CENTRAL: &[u8; 4] = b"PK\x01\x02";
const LOCAL: &[u8; 4] = b"PK\x03\x04";

/// Bytes of the records' fixed parts.
const END_BYTES: u64 = 22;
const END_64_BYTES: u64 = 56;
const END_64_LOCATOR_BYTES: u64 = 20;
const CENTRAL_BYTES: usize = 46;
const LOCAL_BYTES: u64 = 30;

/// Bytes of a comment at the archive's end, at most.
const COMMENT: u64 = 0xffff;
/// The id of the extra field that holds what does not fit in 32 bits.
const EXTRA_64: u16 = 1;
/// Bits of an entry's flags: encrypted; its names encrypted.
const ENCRYPTED: u16 = 1 | 1 << 13;

impl Archive {
    /// Reads the table of `file`, which errors call `path`. No contents are read.
    ///
    /// # Errors
    /// The file is no ZIP archive or is damaged, or has what PyTorch's archives do not have.
    pub fn read(path: &Path, file: &dyn File) -> Result<Archive> {
        Reader { path, file }.archive()
    }

    /// The entry with this name.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.name == name)
    }
}

struct Reader<'a> {
    path: &'a Path,
    file: &'a dyn File,
}

/// Where the central directory is.
struct Directory {
    offset: u64,
    len: u64,
    entries: u64,
    /// The record that follows it: the directory ends here or before.
    end: u64,
}

/// An entry as the central directory has it.
struct Header {
    name: String,
    flags: u16,
    method: u16,
    compressed: u64,
    len: u64,
    local: u64,
}

impl Reader<'_> {
    fn error(&self, at: u64, message: impl Into<String>) -> Diagnostic {
        Diagnostic::error(message).code("bad-zip").in_file(self.path, format!("byte {at}"))
    }

    fn entry_error(&self, name: &str, message: impl Into<String>) -> Diagnostic {
        Diagnostic::error(message).code("bad-zip").in_file(self.path, format!("entry {}", quoted(name)))
    }

    /// `len` bytes at `at`, which the caller has bounded.
    fn bytes(&self, at: u64, len: u64) -> Result<Vec<u8>> {
        if at.checked_add(len).is_none_or(|end| end > self.file.len()) {
            let message = format!("{len} bytes are needed here; the file has {}", self.file.len());
            return Err(self.error(at, message).help("the file is damaged; fetch it again").into());
        }
        let mut bytes = vec![0; len as usize];
        self.file.read_at(at, &mut bytes).map_err(|e| Diagnostic::io("read", self.path, &e))?;
        Ok(bytes)
    }

    fn archive(&self) -> Result<Archive> {
        let directory = self.directory()?;
        let headers = self.headers(&directory)?;
        let mut names = HashSet::new();
        let mut entries = Vec::with_capacity(headers.len());
        for header in &headers {
            if !names.insert(header.name.as_str()) {
                return Err(self.entry_error(&header.name, "two entries have this name").into());
            }
            let (start, entry) = self.place(header, directory.offset)?;
            entries.push((start, entry));
        }
        entries.sort_unstable_by_key(|(start, entry)| (*start, entry.offset + entry.len));
        for pair in entries.windows(2) {
            let [(_, before), (start, entry)] = pair else { continue };
            if *start < before.offset + before.len {
                let message = format!("it shares bytes with the entry {}", quoted(&before.name));
                return Err(self.entry_error(&entry.name, message).into());
            }
        }
        let entries = entries.into_iter().map(|(_, entry)| entry);
        Ok(Archive { entries: entries.filter(|entry| !entry.name.ends_with('/')).collect() })
    }

    /// Finds the end record, which a comment may follow, and what it says of the directory.
    fn directory(&self) -> Result<Directory> {
        let len = self.file.len();
        let tail_len = len.min(END_BYTES + COMMENT);
        let tail_start = len - tail_len;
        let tail = self.bytes(tail_start, tail_len)?;
        // The last record whose comment ends with the file: a comment may hold anything.
        let found = (0..tail.len()).rev().find(|at| {
            let record = &tail[*at..];
            record.len() as u64 >= END_BYTES
                && record.starts_with(END)
                && END_BYTES + u64::from(u16_at(record, 20)) == record.len() as u64
        });
        let Some(at) = found else {
            let message = "the file does not end as a ZIP archive does";
            return Err(self
                .error(len, message)
                .help("the file is damaged or its download was cut short; fetch it again")
                .into());
        };
        let record = &tail[at..];
        let end = tail_start + at as u64;
        let mut directory = Directory {
            entries: u64::from(u16_at(record, 10)),
            len: u64::from(u32_at(record, 12)),
            offset: u64::from(u32_at(record, 16)),
            end,
        };
        let mut disks = [u32::from(u16_at(record, 4)), u32::from(u16_at(record, 6))];
        let mut entries_here = u64::from(u16_at(record, 8));
        if let Some(locator_at) = end.checked_sub(END_64_LOCATOR_BYTES)
            && let locator = self.bytes(locator_at, END_64_LOCATOR_BYTES)?
            && locator.starts_with(END_64_LOCATOR)
        {
            let at = u64_at(&locator, 8);
            if at.checked_add(END_64_BYTES).is_none_or(|end| end > locator_at) {
                return Err(self.error(locator_at, "the 64-bit end record is not before here").into());
            }
            let record = self.bytes(at, END_64_BYTES)?;
            if !record.starts_with(END_64) {
                return Err(self.error(at, "there is no 64-bit end record here").into());
            }
            disks = [u32_at(&record, 16), u32_at(&record, 20)];
            entries_here = u64_at(&record, 24);
            directory = Directory {
                entries: u64_at(&record, 32),
                len: u64_at(&record, 40),
                offset: u64_at(&record, 48),
                end: at,
            };
        }
        if disks != [0, 0] || entries_here != directory.entries {
            return Err(self.error(end, "an archive in several parts is not read").into());
        }
        if directory.offset.checked_add(directory.len).is_none_or(|end| end > directory.end) {
            let message =
                format!("a table of {} bytes at {} is not before here", directory.len, directory.offset);
            return Err(self.error(end, message).into());
        }
        if directory.len > limits::ZIP_TABLE {
            let message = format!("a table of {} bytes; at most {}", directory.len, limits::ZIP_TABLE);
            return Err(self.error(end, message).into());
        }
        // Each entry takes as much in the table, which is read below and bounded above.
        if directory.entries > directory.len / CENTRAL_BYTES as u64 {
            let message = format!("{} entries do not fit in {} bytes", directory.entries, directory.len);
            return Err(self.error(end, message).into());
        }
        Ok(directory)
    }

    fn headers(&self, directory: &Directory) -> Result<Vec<Header>> {
        let table = self.bytes(directory.offset, directory.len)?;
        let mut rest = &table[..];
        let mut headers = Vec::new();
        for _ in 0..directory.entries {
            let at = directory.offset + (table.len() - rest.len()) as u64;
            let (header, tail) = self.header(at, rest)?;
            headers.push(header);
            rest = tail;
        }
        if !rest.is_empty() {
            let at = directory.offset + (table.len() - rest.len()) as u64;
            return Err(self.error(at, "the table has more than its entries").into());
        }
        Ok(headers)
    }

    /// The entry of the central directory at the start of `bytes`, which lie at `at`, and the rest.
    fn header<'a>(&self, at: u64, bytes: &'a [u8]) -> Result<(Header, &'a [u8])> {
        if bytes.len() < CENTRAL_BYTES || !bytes.starts_with(CENTRAL) {
            return Err(self.error(at, "there is no entry of the table here").into());
        }
        let lens = [28, 30, 32].map(|field| usize::from(u16_at(bytes, field)));
        let [name_len, extra_len, comment_len] = lens;
        let (fixed, rest) = bytes.split_at(CENTRAL_BYTES);
        if rest.len() < name_len + extra_len + comment_len {
            return Err(self.error(at, "the entry is longer than the table").into());
        }
        let (name, rest) = rest.split_at(name_len);
        let (extra, rest) = rest.split_at(extra_len);
        let name =
            std::str::from_utf8(name).map_err(|_| self.error(at, "the entry's name is not valid UTF-8"))?;
        let mut header = Header {
            name: name.to_owned(),
            flags: u16_at(fixed, 8),
            method: u16_at(fixed, 10),
            compressed: u64::from(u32_at(fixed, 20)),
            len: u64::from(u32_at(fixed, 24)),
            local: u64::from(u32_at(fixed, 42)),
        };
        // In the order of the 64-bit field, which has only those that do not fit here.
        let mut wide = extra_64(extra).unwrap_or_default();
        for value in [&mut header.len, &mut header.compressed, &mut header.local] {
            if *value == u64::from(u32::MAX) {
                let Some((eight, tail)) = wide.split_first_chunk::<8>() else {
                    return Err(self.entry_error(name, "its 64-bit size is missing").into());
                };
                *value = u64::from_le_bytes(*eight);
                wide = tail;
            }
        }
        if u16_at(fixed, 34) != 0 {
            return Err(self.entry_error(name, "it lies on another disk").into());
        }
        Ok((header, &rest[comment_len..]))
    }

    /// Where an entry begins, and its contents, which lie before the central directory.
    fn place(&self, header: &Header, directory: u64) -> Result<(u64, Entry)> {
        let name = &header.name;
        let wrong = |message: String| self.entry_error(name, message);
        if header.flags & ENCRYPTED != 0 {
            return Err(wrong("it is encrypted".to_owned()).into());
        }
        if header.method != 0 || header.compressed != header.len {
            return Err(wrong(format!("it is compressed (method {})", header.method))
                .help("PyTorch stores entries as they are; save the file again with `torch.save`")
                .into());
        }
        if header.local.checked_add(LOCAL_BYTES).is_none_or(|end| end > directory) {
            return Err(wrong(format!("it begins at {}, outside of the entries", header.local)).into());
        }
        let local = self.bytes(header.local, LOCAL_BYTES)?;
        if !local.starts_with(LOCAL) {
            return Err(wrong(format!("no entry begins at byte {}", header.local)).into());
        }
        if u16_at(&local, 8) != header.method || u16_at(&local, 6) & ENCRYPTED != 0 {
            return Err(wrong("the table and the entry differ".to_owned()).into());
        }
        let (name_len, extra_len) = (u16_at(&local, 26), u16_at(&local, 28));
        let name_at = header.local + LOCAL_BYTES;
        let offset = name_at + u64::from(name_len) + u64::from(extra_len);
        if offset.checked_add(header.len).is_none_or(|end| end > directory) {
            let message = format!("its {} bytes from {offset} run into the table", header.len);
            return Err(wrong(message).into());
        }
        if self.bytes(name_at, u64::from(name_len))? != name.as_bytes() {
            return Err(wrong("the table and the entry differ in the name".to_owned()).into());
        }
        Ok((header.local, Entry { name: name.clone(), offset, len: header.len }))
    }
}

/// The contents of the 64-bit field among extra fields.
fn extra_64(mut extra: &[u8]) -> Option<&[u8]> {
    while extra.len() >= 4 {
        let (id, len) = (u16_at(extra, 0), usize::from(u16_at(extra, 2)));
        let body = extra.get(4..4 + len)?;
        if id == EXTRA_64 {
            return Some(body);
        }
        extra = &extra[4 + len..];
    }
    None
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
