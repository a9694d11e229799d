//! One model in several files: `name-00001-of-00003.gguf`.
//!
//! The first shard has the model's key-values; each has `split.no`, `split.count` and
//! `split.tensors.count`, the number of tensors of all shards together.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::limits;
use super::super::quote::quoted;
use super::{ALIGNMENT_KEY, Gguf};
use crate::diagnostic::{Diagnostic, Result};
use crate::ir::Metadata;
use crate::world::{File, World};

const COUNT_KEY: &str = "split.count";
const NUMBER_KEY: &str = "split.no";
const TENSORS_KEY: &str = "split.tensors.count";

/// One file of a model.
#[derive(Clone)]
pub struct Shard {
    /// The path, beside the one that was named.
    pub path: PathBuf,
    /// The open file.
    pub file: Arc<dyn File>,
    /// Its header.
    pub gguf: Gguf,
}

impl std::fmt::Debug for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Shard({}, {} tensors)", self.path.display(), self.gguf.tensors.len())
    }
}

/// Reads the model that `path`, any one of its shards, belongs to: all its files in order, the one
/// file where it is not split.
///
/// # Errors
/// A file is missing or wrong, or the shards do not belong together.
pub fn read_shards(world: &dyn World, path: &Path) -> Result<Vec<Shard>> {
    let named = read_shard(world, path)?;
    let count = match number(&named, COUNT_KEY)? {
        None | Some(0 | 1) => return Ok(vec![named]),
        Some(count) => count,
    };
    let wrong = |message: String, key: &str| {
        Diagnostic::error(message).code("bad-split").in_file(path, format!("key `{key}`"))
    };
    if count > limits::SHARDS {
        let message = format!("{count} shards are declared; at most {} are allowed", limits::SHARDS);
        return Err(wrong(message, COUNT_KEY).into());
    }
    let Some((prefix, no)) = parse_name(path, count) else {
        let message = format!("the file says it is one of {count} shards, but its name does not say which");
        let help = format!("shards are named like `model-00001-of-{count:05}.gguf`");
        return Err(wrong(message, COUNT_KEY).help(help).into());
    };

    let mut shards = Vec::new();
    for i in 0..count {
        let shard = if i == no {
            named.clone()
        } else {
            let sibling = path.with_file_name(format!("{prefix}-{:05}-of-{count:05}.gguf", i + 1));
            if world.kind(&sibling).is_none() {
                let message = format!("shard {} of {count} is missing: {}", i + 1, sibling.display());
                return Err(Diagnostic::error(message)
                    .code("missing-shard")
                    .in_file(path, "")
                    .help("put all shards of the model in one directory")
                    .into());
            }
            read_shard(world, &sibling)?
        };
        for (key, expected) in [(NUMBER_KEY, i), (COUNT_KEY, count)] {
            let found = number(&shard, key)?;
            if found != Some(expected) {
                let found = found.map_or("none".to_owned(), |n| n.to_string());
                let message =
                    format!("expected {expected} from the file's name and its siblings, found {found}");
                return Err(Diagnostic::error(message)
                    .code("bad-split")
                    .in_file(&shard.path, format!("key `{key}`"))
                    .help("the shards belong to different models, or were renamed")
                    .into());
            }
        }
        shards.push(shard);
    }
    check_together(&shards)?;
    Ok(shards)
}

fn read_shard(world: &dyn World, path: &Path) -> Result<Shard> {
    let file = world.open(path).map_err(|e| Diagnostic::io("read", path, &e))?;
    let gguf = Gguf::read(path, &*file)?;
    Ok(Shard { path: path.to_owned(), file, gguf })
}

/// An integer key-value; an error where it has another type.
fn number(shard: &Shard, key: &str) -> Result<Option<u64>> {
    match shard.gguf.metadata.get(key) {
        None => Ok(None),
        Some(value) => value.as_u64().map(Some).ok_or_else(|| {
            Diagnostic::error("the value must be an integer of 0 or more")
                .code("bad-split")
                .in_file(&shard.path, format!("key `{key}`"))
                .into()
        }),
    }
}

/// The name before `-00001-of-00003.gguf`, and the shard's number counted from 0.
fn parse_name(path: &Path, count: u64) -> Option<(String, u64)> {
    let name = path.file_name()?.to_str()?;
    let rest = name.strip_suffix(&format!("-of-{count:05}.gguf"))?;
    let (prefix, number) = rest.rsplit_once('-')?;
    if number.len() != 5 || !number.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let no = number.parse::<u64>().ok()?.checked_sub(1)?;
    (no < count).then(|| (prefix.to_owned(), no))
}

/// Checks that no tensor is in two shards, that none is missing and that key-values agree.
fn check_together(shards: &[Shard]) -> Result<()> {
    let mut found: HashMap<&str, &Shard> = HashMap::new();
    for shard in shards {
        for tensor in &shard.gguf.tensors {
            if let Some(other) = found.insert(&tensor.name, shard) {
                let message = format!("the tensor is also in {}", other.path.display());
                return Err(Diagnostic::error(message)
                    .code("duplicate-tensor")
                    .in_file(&shard.path, format!("tensor {}", quoted(&tensor.name)))
                    .into());
            }
        }
    }
    let total = found.len() as u64;
    let Some((first, rest)) = shards.split_first() else { return Ok(()) };
    for shard in shards {
        if let Some(declared) = number(shard, TENSORS_KEY)?.filter(|declared| *declared != total) {
            let message = format!("{declared} tensors are declared, but the shards have {total}");
            return Err(Diagnostic::error(message)
                .code("bad-split")
                .in_file(&shard.path, format!("key `{TENSORS_KEY}`"))
                .into());
        }
    }
    for shard in rest {
        for (key, value) in shard.gguf.metadata.iter().filter(|(key, _)| !is_of_the_file(key)) {
            if first.gguf.metadata.get(key).is_some_and(|other| other != value) {
                return Err(Diagnostic::error("the value differs from the first shard's")
                    .code("bad-split")
                    .in_file(&shard.path, format!("key {}", quoted(key)))
                    .help("the shards belong to different models")
                    .into());
            }
        }
    }
    Ok(())
}

/// True for keys that speak of one file, not of the model.
fn is_of_the_file(key: &str) -> bool {
    key.starts_with("split.") || key == ALIGNMENT_KEY
}

/// The key-values of the whole model: those of the first shard, then those that only later ones
/// have, without the keys that speak of one file.
///
/// Takes them out of the shards, which have none afterwards.
pub fn take_metadata(shards: &mut [Shard]) -> Metadata {
    let mut merged = Metadata::default();
    if let [only] = shards {
        merged = std::mem::take(&mut only.gguf.metadata);
        for key in [COUNT_KEY, NUMBER_KEY, TENSORS_KEY] {
            merged.remove(key);
        }
        return merged;
    }
    for (key, value) in shards.iter_mut().flat_map(|shard| std::mem::take(&mut shard.gguf.metadata)) {
        if !is_of_the_file(&key) && merged.get(&key).is_none() {
            merged.set(key, value);
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_is_known_by_its_name() {
        let name = |name: &str, count| parse_name(Path::new(name), count);
        assert_eq!(name("/m/qwen-00002-of-00003.gguf", 3), Some(("qwen".to_owned(), 1)));
        assert_eq!(name("/m/a-b-00001-of-00002.gguf", 2), Some(("a-b".to_owned(), 0)));
        for bad in ["a-00000-of-00003.gguf", "a-00004-of-00003.gguf", "a-1-of-00003.gguf", "a.gguf"] {
            assert_eq!(name(bad, 3), None, "{bad}");
        }
        assert_eq!(name("a-00001-of-00003.gguf", 4), None);
    }
}
