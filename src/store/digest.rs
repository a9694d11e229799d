//! SHA-256 digests: the names of blobs and the identity of models.

use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use super::name::quoted;
use crate::diagnostic::{Diagnostic, Errors};

/// A SHA-256 digest. Written `sha256:<64 hex>`, and `sha256-<64 hex>` as a file's name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// A digest computed elsewhere.
    pub fn from_bytes(bytes: [u8; 32]) -> Digest {
        Digest(bytes)
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Hashes bytes in memory.
    pub fn of(bytes: &[u8]) -> Digest {
        Digest(Sha256::digest(bytes).into())
    }

    /// Hashes all that `reader` gives; `progress` hears the size of each piece.
    ///
    /// # Errors
    /// Reading fails.
    pub fn of_reader(mut reader: impl Read, progress: &dyn Fn(u64)) -> io::Result<Digest> {
        let mut sha = Sha256::new();
        let mut piece = vec![0; 1 << 18];
        loop {
            match reader.read(&mut piece) {
                Ok(0) => return Ok(Digest(sha.finalize().into())),
                Ok(n) => {
                    sha.update(piece.get(..n).unwrap_or_default());
                    progress(n as u64);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// The 64 hexadecimal digits, in lower case.
    pub fn hex(&self) -> String {
        self.0
            .iter()
            .flat_map(|b| [b >> 4, b & 15])
            .map(|d| char::from(b"0123456789abcdef"[d as usize]))
            .collect()
    }

    /// The first 12 digits, as lists show a model's identity.
    pub fn short(&self) -> String {
        let mut hex = self.hex();
        hex.truncate(12);
        hex
    }

    /// The name of the blob's file.
    pub fn file_name(&self) -> String {
        format!("sha256-{}", self.hex())
    }

    /// The digest a blob's file is named by: exactly [`file_name`](Self::file_name), or the name
    /// with a colon that Ollama gave until 2024.
    pub(super) fn of_file_name(name: &str) -> Option<Digest> {
        let digest = Digest::try_parse(name)?;
        (name.get(7..) == Some(digest.hex().as_str())).then_some(digest)
    }

    fn try_parse(text: &str) -> Option<Digest> {
        let hex = text.strip_prefix("sha256:").or_else(|| text.strip_prefix("sha256-"))?.as_bytes();
        if hex.len() != 64 {
            return None;
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
            for digit in pair {
                *byte = *byte << 4 | char::from(*digit).to_digit(16)? as u8;
            }
        }
        Some(Digest(bytes))
    }
}

impl FromStr for Digest {
    type Err = Errors;

    /// Reads `sha256:` or `sha256-` and 64 hexadecimal digits of either case.
    fn from_str(text: &str) -> Result<Digest, Errors> {
        Digest::try_parse(text).ok_or_else(|| {
            Diagnostic::error(format!("{} is not a digest", quoted(text)))
                .code("invalid-digest")
                .help("a digest is `sha256:` and 64 hexadecimal digits")
                .into()
        })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Passes bytes on and hashes those that were taken.
pub struct HashingWriter<W> {
    inner: W,
    sha: Sha256,
    len: u64,
}

impl<W: Write> HashingWriter<W> {
    /// Hashes what is written to `inner`.
    pub fn new(inner: W) -> Self {
        HashingWriter { inner, sha: Sha256::new(), len: 0 }
    }

    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.len
    }

    /// The writer, the digest of all that it was given, and how many bytes that was.
    pub fn finish(self) -> (W, Digest, u64) {
        (self.inner, Digest(self.sha.finalize().into()), self.len)
    }
}

impl<W: Write> Write for HashingWriter<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(buf)?;
        self.sha.update(buf.get(..n).unwrap_or_default());
        self.len += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SHA-256 of "abc" (FIPS 180-2, appendix B.1).
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn a_digest_is_read_and_printed_in_both_forms() {
        let digest = Digest::of(b"abc");
        assert_eq!(digest.to_string(), format!("sha256:{ABC}"));
        assert_eq!(digest.file_name(), format!("sha256-{ABC}"));
        assert_eq!(digest.short(), "ba7816bf8f01");
        assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
        assert_eq!(digest.file_name().parse::<Digest>().unwrap(), digest);
        assert_eq!(format!("sha256:{}", ABC.to_uppercase()).parse::<Digest>().unwrap(), digest);
    }

    #[test]
    fn what_is_no_digest_is_refused() {
        let long = "a".repeat(10_000);
        for bad in [
            "",
            "sha256",
            "sha256:",
            ABC,
            &format!("sha256:{}", &ABC[1..]),
            &format!("sha256:{ABC}0"),
            &format!("sha256:{}g", &ABC[1..]),
            &format!("sha256_{ABC}"),
            &format!("SHA256:{ABC}"),
            &format!("sha256: {}", &ABC[1..]),
            &format!("sha256:+{}", &ABC[1..]),
            &format!("sha512:{ABC}"),
            "sha256:../../../../../../../../../../../../../../../../../etc/passwd00",
            "sha256:ÿÿÿÿÿÿÿÿÿÿÿÿÿÿÿÿÿÿÿÿÿÿÿÿÿÿÿÿÿÿÿÿ",
            &long,
        ] {
            let error = bad.parse::<Digest>().unwrap_err().to_string();
            assert!(error.len() < 200, "{bad:?}: {error}");
        }
    }

    #[test]
    fn only_the_canonical_name_is_a_blobs() {
        let digest = Digest::of(b"abc");
        assert_eq!(Digest::of_file_name(&format!("sha256-{ABC}")), Some(digest));
        assert_eq!(Digest::of_file_name(&format!("sha256:{ABC}")), Some(digest));
        assert_eq!(Digest::of_file_name(&format!("sha256-{}", ABC.to_uppercase())), None);
        assert_eq!(Digest::of_file_name(&format!("sha256-{ABC}-partial")), None);
        assert_eq!(Digest::of_file_name("sha256-12345"), None);
    }

    #[test]
    fn a_hashing_writer_hashes_what_was_taken() {
        let mut writer = HashingWriter::new(Vec::new());
        writer.write_all(b"a").unwrap();
        writer.write_all(b"bc").unwrap();
        assert_eq!(writer.finish(), (b"abc".to_vec(), Digest::of(b"abc"), 3));
        let seen = std::cell::Cell::new(0);
        let digest = Digest::of_reader(&b"abc"[..], &|n| seen.set(seen.get() + n)).unwrap();
        assert_eq!((digest, seen.get()), (Digest::of(b"abc"), 3));
    }
}
