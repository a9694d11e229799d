//! A tar as a table: which file is where. Nothing is unpacked.
//!
//! Headers are read one by one from a file that may be hostile, so the table is bounded, every range lies in the file,
//! and whatever is no plain file or directory is refused.

use std::collections::BTreeMap;
use std::ops::Range;

use ::tar::{EntryType, Header};

use crate::diagnostic::{Diagnostic, Result};
use crate::world::File;

/// A tar is made of blocks.
pub const BLOCK: usize = 512;

/// The most entries, directories among them.
const MOST: usize = 50_000;

/// The most bytes of an extended header or a long name.
const EXTENDED: u64 = 64 << 10;

/// The longest path.
const LONGEST: usize = 4096;

/// The header of a plain file whose bytes depend on these two alone.
///
/// # Errors
/// The name is too long.
pub fn header(name: &str, size: u64) -> Result<[u8; BLOCK]> {
    let mut header = Header::new_ustar();
    header
        .set_path(name)
        .map_err(|e| Diagnostic::environment(format!("`{name}` cannot be in an archive: {e}")))?;
    header.set_size(size);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_entry_type(EntryType::Regular);
    header.set_cksum();
    Ok(*header.as_bytes())
}

/// The zeros that follow a file of this size.
pub fn padding(size: u64) -> usize {
    (size.next_multiple_of(BLOCK as u64) - size) as usize
}

/// The files of a tar, and where their bytes are.
///
/// # Errors
/// It is no tar, or one that is not to be trusted; the diagnostic has no place yet.
pub fn files(file: &dyn File) -> Result<BTreeMap<String, Range<u64>>> {
    let mut files = BTreeMap::new();
    let mut extended = Extended::default();
    let mut at = 0;
    let mut ended = false;
    for _ in 0..MOST {
        let mut block = [0; BLOCK];
        if at == file.len() && at > 0 {
            ended = true;
            break;
        }
        read(file, at, &mut block)?;
        if block == [0; BLOCK] {
            ended = true;
            break;
        }
        let header = Header::from_byte_slice(&block);
        check_sum(header, &block)?;
        let size = match extended.size.take() {
            Some(size) => size,
            None => header.entry_size().map_err(|_| refused("a size in it is no number"))?,
        };
        let start = at + BLOCK as u64;
        let end = start
            .checked_add(size)
            .filter(|end| *end <= file.len())
            .ok_or_else(|| refused("it is cut short"))?;
        at = end
            .checked_next_multiple_of(BLOCK as u64)
            .ok_or_else(|| refused("it is cut short"))?
            .min(file.len());
        match header.entry_type() {
            EntryType::Regular | EntryType::Continuous => {
                let name = match extended.path.take() {
                    Some(name) => name,
                    None => String::from_utf8(header.path_bytes().into_owned())
                        .map_err(|_| refused("a path in it is no Unicode"))?,
                };
                let name = plain(&name)?;
                if files.insert(name.clone(), start..end).is_some() {
                    return Err(refused(&format!("`{name}` is in it twice")).into());
                }
            }
            EntryType::Directory => {
                let name = extended.path.take();
                let name = name.unwrap_or_else(|| String::from_utf8_lossy(&header.path_bytes()).into_owned());
                if !matches!(name.as_str(), "." | "./" | "/") {
                    plain(name.trim_end_matches('/'))?;
                }
            }
            EntryType::XGlobalHeader | EntryType::XHeader | EntryType::GNULongName => {
                if size > EXTENDED {
                    return Err(refused("a header in it is too long").into());
                }
                let mut bytes = vec![0; size as usize];
                read(file, start, &mut bytes)?;
                match header.entry_type() {
                    EntryType::XHeader => extended.read(&bytes)?,
                    EntryType::GNULongName => {
                        extended.path = Some(text(bytes.split(|b| *b == 0).next().unwrap_or(&[]))?)
                    }
                    // Comments, of git for one: nothing here depends on them.
                    _ => {}
                }
            }
            EntryType::Symlink | EntryType::Link | EntryType::GNULongLink => {
                return Err(refused("a link is in it").into());
            }
            _ => return Err(refused("something is in it that is neither a file nor a directory").into()),
        }
    }
    if !ended {
        return Err(refused(&format!("more than {MOST} entries are in it")).into());
    }
    Ok(files)
}

/// What an extended header says of the entry after it.
#[derive(Default)]
struct Extended {
    path: Option<String>,
    size: Option<u64>,
}

impl Extended {
    /// Records of `LENGTH KEY=VALUE` and a line feed.
    fn read(&mut self, mut bytes: &[u8]) -> Result<()> {
        let wrong = || refused("an extended header in it is malformed");
        while !bytes.is_empty() {
            let blank = bytes.iter().take(8).position(|b| *b == b' ').ok_or_else(wrong)?;
            let length: usize = text(&bytes[..blank])?.parse().map_err(|_| wrong())?;
            let record = bytes.get(blank + 1..length).ok_or_else(wrong)?;
            let record = record.strip_suffix(b"\n").ok_or_else(wrong)?;
            let equals = record.iter().position(|b| *b == b'=').ok_or_else(wrong)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            match key {
                b"path" => self.path = Some(text(value)?),
                b"size" => self.size = Some(text(value)?.parse().map_err(|_| wrong())?),
                b"linkpath" => return Err(refused("a link is in it").into()),
                key if key.starts_with(b"GNU.sparse") => {
                    return Err(refused("a file with holes is in it").into());
                }
                _ => {}
            }
            bytes = bytes.get(length..).unwrap_or(&[]);
        }
        Ok(())
    }
}

/// A path that stays in the archive, without `./` before it.
fn plain(name: &str) -> Result<String> {
    let name = name.strip_prefix("./").unwrap_or(name);
    let bad = name.is_empty()
        || name.len() > LONGEST
        || name.contains(['\\', '\0', ':'])
        || name.split('/').any(|part| matches!(part, "" | "." | ".."));
    match bad {
        true => Err(refused(&format!("the path {name:?} leads out of it")).into()),
        false => Ok(name.to_owned()),
    }
}

/// The sum of a header's bytes, the sum itself taken as blanks.
fn check_sum(header: &Header, block: &[u8; BLOCK]) -> Result<()> {
    let sum = block[..148].iter().chain(&block[156..]).map(|b| u32::from(*b)).sum::<u32>() + 8 * 32;
    match header.cksum() {
        Ok(stated) if stated == sum => Ok(()),
        _ => Err(refused("a header in it is damaged, or it is no tar").into()),
    }
}

fn text(bytes: &[u8]) -> Result<String> {
    Ok(std::str::from_utf8(bytes).map_err(|_| refused("a header in it is no Unicode"))?.to_owned())
}

fn read(file: &dyn File, at: u64, bytes: &mut [u8]) -> Result<()> {
    Ok(file.read_at(at, bytes).map_err(|e| match e.kind() {
        std::io::ErrorKind::UnexpectedEof => refused("it is cut short"),
        _ => Diagnostic::environment(format!("cannot read the archive: {e}")),
    })?)
}

/// Why an archive is not read.
pub fn refused(why: &str) -> Diagnostic {
    Diagnostic::error(format!("the archive is refused: {why}")).code("bad-archive")
}
