//! A name by which two programs know that they use the same store.

use std::io::Write as _;

use sha2::{Digest as _, Sha256};

use super::Store;

/// The file, below what is ours alone.
const FILE: &str = "id";

/// Random bytes in it.
const BYTES: usize = 16;

impl Store {
    /// What this store is called: a digest of a random text that it keeps and of where it is, so a copy of it elsewhere
    /// is called otherwise, and nobody learns where it is. `None` where there is no store, or it cannot be written.
    pub fn identity(&self) -> Option<String> {
        let root = std::fs::canonicalize(self.root()).ok()?;
        let secret = self.secret()?;
        let mut hash = Sha256::new();
        hash.update(secret.trim().as_bytes());
        hash.update([0]);
        hash.update(root.as_os_str().as_encoded_bytes());
        Some(hex(&hash.finalize()[..BYTES]))
    }

    /// The random text; it is made when it is first needed.
    fn secret(&self) -> Option<String> {
        let path = self.own_dir().join(FILE);
        if let Some(kept) = read(&path) {
            return Some(kept);
        }
        let mut random = [0; BYTES];
        getrandom::fill(&mut random).ok()?;
        std::fs::create_dir_all(self.own_dir()).ok()?;
        // Whole or not at all, and the first of several that make one at the same time counts.
        let mut file = tempfile::NamedTempFile::new_in(self.own_dir()).ok()?;
        writeln!(file, "{}", hex(&random)).ok()?;
        match file.persist_noclobber(&path) {
            Ok(_) => Some(hex(&random)),
            Err(_) => read(&path),
        }
    }
}

/// The text, unless it is none that was written here.
fn read(path: &std::path::Path) -> Option<String> {
    let length = std::fs::metadata(path).ok()?.len();
    let text = (length <= 256).then(|| std::fs::read_to_string(path).ok()).flatten()?;
    (text.trim().len() == 2 * BYTES).then_some(text)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_has_one_name_and_a_copy_another() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| Store::open(place.path().join(name)).unwrap();
        assert_eq!(at("a").identity(), None, "there is no store yet");
        std::fs::create_dir_all(place.path().join("a")).unwrap();
        let name = at("a").identity().unwrap();
        assert_eq!(at("a").identity().unwrap(), name);
        assert_eq!(name.len(), 32);
        let kept = place.path().join("a/mdl/id");
        assert!(!std::fs::read_to_string(&kept).unwrap().contains(&name));
        std::fs::create_dir_all(place.path().join("b/mdl")).unwrap();
        std::fs::copy(&kept, place.path().join("b/mdl/id")).unwrap();
        assert_ne!(at("b").identity().unwrap(), name);
        // A file that is none of ours is left alone.
        std::fs::write(&kept, "x").unwrap();
        assert_eq!(at("a").identity(), None);
    }
}
