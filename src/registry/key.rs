//! The key that Ollama's registry knows a user by: `~/.ollama/id_ed25519`, as Ollama makes it.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};
use ssh_key::private::{Ed25519Keypair, KeypairData};
use ssh_key::{Algorithm, LineEnding, PrivateKey};

use crate::diagnostic::{Diagnostic, Result};

/// The most bytes that are read of a key.
const LIMIT: u64 = 64 << 10;

/// A key pair. Its private half is never shown.
pub struct Key(PrivateKey);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key({})", self.public().unwrap_or_default())
    }
}

impl Key {
    /// The key at `path`; where there is none, a new one is made, which only its user may read.
    ///
    /// # Errors
    /// It cannot be read or made, or is of another kind.
    pub fn open(path: &Path) -> Result<Key> {
        let failed = |doing: &str, e: &std::io::Error| {
            let mut diagnostic = Diagnostic::io(doing, path, e);
            diagnostic.kind = crate::diagnostic::Kind::Environment;
            diagnostic.code("key").help("it is how Ollama's registry knows you")
        };
        match fs::metadata(path) {
            Ok(metadata) if metadata.len() > LIMIT => {
                return Err(unfit(path, "it is too long for one").into());
            }
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                make(path).map_err(|e| failed("make the key", &e))?;
            }
            Err(e) => return Err(failed("read the key", &e).into()),
        }
        let text = fs::read_to_string(path).map_err(|e| failed("read the key", &e))?;
        let key = PrivateKey::from_openssh(&text).map_err(|e| unfit(path, &e.to_string()))?;
        match key.algorithm() {
            _ if key.is_encrypted() => Err(unfit(path, "it is locked by a passphrase").into()),
            Algorithm::Ed25519 => Ok(Key(key)),
            other => Err(unfit(path, &format!("it is of the kind {other}")).into()),
        }
    }

    /// The public half, as OpenSSH writes it.
    ///
    /// # Errors
    /// None that the kind of the key allows.
    pub fn public(&self) -> Result<String> {
        let text = self.0.public_key().to_openssh();
        let text = text.map_err(|e| Diagnostic::error(format!("the key cannot be written: {e}")))?;
        Ok(text.split(' ').take(2).collect::<Vec<_>>().join(" "))
    }

    /// The page on which the user tells Ollama that this key is theirs.
    ///
    /// # Errors
    /// As [`public`](Self::public).
    pub fn connect_address(&self, machine: &str) -> Result<String> {
        let key = URL_SAFE_NO_PAD.encode(self.public()?);
        let name: String = url::form_urlencoded::byte_serialize(machine.as_bytes()).collect();
        Ok(format!("https://ollama.com/connect?name={name}&key={key}"))
    }

    /// What goes into the header Authorization of a request without a body.
    ///
    /// # Errors
    /// As [`public`](Self::public).
    pub(super) fn authorize(&self, method: &str, address: &str) -> Result<String> {
        let failed = |e: &dyn std::fmt::Display| Diagnostic::error(format!("the key cannot sign: {e}"));
        let empty = Sha256::digest(b"").iter().map(|b| format!("{b:02x}")).collect::<String>();
        let text = format!("{method},{address},{}", STANDARD.encode(empty));
        let KeypairData::Ed25519(pair) = self.0.key_data() else {
            return Err(failed(&"it is of another kind").into());
        };
        let signature: ssh_key::Signature =
            signature::Signer::try_sign(pair, text.as_bytes()).map_err(|e| failed(&e))?;
        let public = self.public()?;
        let public = public.split(' ').nth(1).unwrap_or_default();
        Ok(format!("{public}:{}", STANDARD.encode(signature.as_bytes())))
    }
}

fn unfit(path: &Path, why: &str) -> Diagnostic {
    Diagnostic::error(format!("not an ed25519 key as OpenSSH writes it: {why}"))
        .in_file(path, "")
        .code("key")
        .help("move it away, and `mdl signin` makes another")
}

fn make(path: &Path) -> std::io::Result<()> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(std::io::Error::other)?;
    let pair = KeypairData::from(Ed25519Keypair::from_seed(&seed));
    let key = PrivateKey::new(pair, "").map_err(std::io::Error::other)?;
    let private = key.to_openssh(LineEnding::LF).map_err(std::io::Error::other)?;
    let public = key.public_key().to_openssh().map_err(std::io::Error::other)?;
    let dir = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(dir)?;
    // Whole or not at all: another process may be making one too, and one of them stays.
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(private.as_bytes())?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(path) {
        Ok(_) => fs::write(path.with_extension("pub"), format!("{}\n", public.trim())),
        Err(e) if e.error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(e.error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_only_its_user_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/id_ed25519");
        let key = Key::open(&path).unwrap();
        assert_eq!(Key::open(&path).unwrap().public().unwrap(), key.public().unwrap());
        let public = fs::read_to_string(path.with_extension("pub")).unwrap();
        assert_eq!(public.trim(), key.public().unwrap());
        assert!(public.starts_with("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA"), "{public}");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        let address = key.connect_address("my box").unwrap();
        assert!(
            address.starts_with("https://ollama.com/connect?name=my+box&key=c3NoLWVkMjU1MTkg"),
            "{address}"
        );
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("id");
        for text in
            ["", "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n", "x"]
        {
            fs::write(&path, text).unwrap();
            assert!(Key::open(&path).is_err(), "{text}");
        }
    }
}
