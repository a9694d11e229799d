//! `Modelfile.lock`: what a build was made of, and what it made.
//!
//! JSON with sorted keys, so that equal builds write equal files. A locked build compares what it finds with
//! it, entry by entry, and names each difference.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::sources::{Named, Role, Source};
use crate::codegen::BYTE_FORMAT;
use crate::diagnostic::{Diagnostic, Errors, Result};
use crate::formats::imatrix;
use crate::ir::{ParameterValue, Prompt};
use crate::passes::Options;
use crate::passes::quantize::{TensorTypeRule, mixture};
use crate::store::Digest;
use crate::world::{World, read_file};

/// The version of the file's own form.
pub const FORMAT: u32 = 1;

/// The most bytes that are read of a lock.
const LIMIT: u64 = 16 << 20;

/// What a build was made of, and what it made. Fields are in the order of their names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// The digest of the model's manifest.
    pub artifact: Digest,
    /// The version of the bytes that expressions give.
    pub byte_format: String,
    /// [`FORMAT`].
    pub format: u32,
    /// What wrote the lock; a build by another version is held to the same bytes.
    pub generator: String,
    /// What the Modelfile says besides its sources: texts by digest, parameters by value.
    pub instructions: BTreeMap<String, String>,
    /// The options that change bytes.
    pub options: BTreeMap<String, String>,
    /// What FROM, ADAPTER and `--imatrix` led to.
    pub sources: Vec<Locked>,
}

/// A source in a lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Locked {
    /// Its files.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    files: BTreeMap<String, LockedFile>,
    /// The digest of the manifest, where it is a model of the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    manifest: Option<Digest>,
    role: String,
    value: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LockedFile {
    digest: Digest,
    size: u64,
}

impl Lock {
    /// The lock of a build that made `artifact`.
    pub fn new(artifact: Digest, prompt: &Prompt, options: &Options, sources: &[Source]) -> Lock {
        Lock {
            artifact,
            byte_format: BYTE_FORMAT.to_owned(),
            format: FORMAT,
            generator: generator(),
            instructions: instructions(prompt),
            options: options_that_change_bytes(options),
            sources: sources.iter().map(locked).collect(),
        }
    }

    /// The lock of a Modelfile stands beside it.
    pub fn path_of(modelfile: &Path) -> PathBuf {
        let mut name = modelfile.as_os_str().to_owned();
        name.push(".lock");
        name.into()
    }

    /// Reads a lock.
    ///
    /// # Errors
    /// There is none, or it is no lock of this format.
    pub fn read(world: &dyn World, path: &Path) -> Result<Lock> {
        if world.kind(path).is_none() {
            return Err(Diagnostic::error(format!("there is no lock at {}", path.display()))
                .code("no-lock")
                .help("`mdl build --lock` writes it")
                .into());
        }
        let bytes = read_file(world, path, LIMIT)?;
        let wrong = |why: String| {
            let d = Diagnostic::error(format!("not a lock: {why}")).code("bad-lock").in_file(path, "");
            d.help("`mdl build --lock` writes it anew")
        };
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let version: Version = serde_json::from_slice(&bytes).map_err(|e| wrong(e.to_string()))?;
        if version.format != FORMAT {
            return Err(wrong(format!("its format is {}, and {FORMAT} is read", version.format)).into());
        }
        Ok(serde_json::from_slice(&bytes).map_err(|e| wrong(e.to_string()))?)
    }

    /// Where the importance matrix is that the build was made with: in the Modelfile's directory.
    pub fn imatrix(&self, directory: &Path) -> Option<PathBuf> {
        let source = self.sources.iter().find(|s| s.role == Role::Imatrix.name())?;
        Path::new(&source.value).file_name().map(|name| directory.join(name))
    }

    /// The options that the build was made with.
    ///
    /// # Errors
    /// One of them is none of this version; the importance matrix cannot be read.
    pub fn options(&self, world: &dyn World, directory: &Path) -> Result<Options> {
        // What was quantized before was allowed to be, or there would be no lock.
        let mut options = Options { allow_requantize: true, ..Options::default() };
        let mut rules = BTreeMap::new();
        for (name, value) in &self.options {
            let unknown =
                || Diagnostic::error(format!("{name} {value}: no option of this version")).code("bad-lock");
            match name.as_str() {
                "--quantize" => options.preset = Some(mixture::find(value).ok_or_else(unknown)?),
                "--no-fuse" => options.no_fuse = true,
                _ => {
                    let number = name.strip_prefix("--tensor-type ").and_then(|n| n.parse::<usize>().ok());
                    let rule = TensorTypeRule::parse(value).map_err(|_| unknown())?;
                    rules.insert(number.ok_or_else(unknown)?, rule);
                }
            }
        }
        options.tensor_types = rules.into_values().collect();
        if let Some(path) = self.imatrix(directory) {
            let file = world.open(&path).map_err(|e| Diagnostic::io("read", &path, &e))?;
            options.imatrix = Some(imatrix::read(&path, &*file)?);
        }
        Ok(options)
    }

    /// The bytes of the lock's file.
    ///
    /// # Errors
    /// None that the type allows.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec_pretty(self)
            .map_err(|e| Diagnostic::environment(format!("cannot write the lock: {e}")))?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// Fails where a build that is about to begin would not be the one that was locked. `path` is the lock's.
    ///
    /// # Errors
    /// An error for each source, option and instruction that differs.
    pub fn require(&self, path: &Path, prompt: &Prompt, options: &Options, sources: &[Source]) -> Result<()> {
        let now = Lock::new(self.artifact, prompt, options, sources);
        let (then, now) = (self.entries(), now.entries());
        let mut names: Vec<&String> = then.keys().chain(now.keys()).collect();
        names.sort();
        names.dedup();
        let different = names.into_iter().filter(|name| then.get(*name) != now.get(*name));
        let mut errors: Vec<Diagnostic> = different
            .map(|name| {
                let message = match (then.get(name), now.get(name)) {
                    (Some(old), Some(new)) => format!("{name} changed: {old} → {new}"),
                    (Some(old), None) => format!("{name} is gone: it was {old}"),
                    (None, new) => format!("{name} is new: {}", new.map_or("", String::as_str)),
                };
                Diagnostic::error(message).code("locked").in_file(path, "")
            })
            .collect();
        match errors.last_mut() {
            None => Ok(()),
            Some(last) => {
                last.help.push(
                    "`mdl build --lock` with the options that are meant accepts what is there".to_owned(),
                );
                Err(Errors(errors))
            }
        }
    }

    /// Everything that a build is held to, as names and values.
    fn entries(&self) -> BTreeMap<String, String> {
        let mut all = BTreeMap::new();
        all.insert("the byte format".to_owned(), self.byte_format.clone());
        all.extend(self.instructions.clone());
        all.extend(self.options.iter().map(|(name, value)| (format!("the option {name}"), value.clone())));
        let mut count: BTreeMap<&str, usize> = BTreeMap::new();
        for source in &self.sources {
            let role = source.role.as_str();
            let number = count.entry(role).and_modify(|n| *n += 1).or_insert(1);
            let of_several = self.sources.iter().filter(|s| s.role == role).count() > 1;
            let place = if of_several { format!("{role} {number}") } else { role.to_owned() };
            if role != Role::Imatrix.name() {
                all.insert(place.clone(), source.value.clone());
            }
            for (name, file) in &source.files {
                // Only the bytes of a matrix count, whatever its file is called.
                let name =
                    if role == Role::Imatrix.name() { "the file" } else { &format!("the file `{name}`") };
                all.insert(format!("{name} of {place}"), file.digest.to_string());
            }
            if let Some(manifest) = &source.manifest {
                all.insert(format!("the model of {place}"), manifest.to_string());
            }
        }
        all
    }
}

/// This program and its version.
pub fn generator() -> String {
    format!("mdl {}", env!("CARGO_PKG_VERSION"))
}

fn locked(source: &Source) -> Locked {
    let (files, manifest) = match &source.named {
        Named::Model(manifest) => (BTreeMap::new(), Some(*manifest)),
        Named::Files(files) => {
            let file = |name: &String, size, digest| (name.clone(), LockedFile { digest, size });
            (files.iter().map(|(name, f)| file(name, f.size, f.digest)).collect(), None)
        }
    };
    Locked { files, manifest, role: source.role.name().to_owned(), value: source.shown() }
}

/// What a prompt says, each instruction under its own name.
pub fn instructions(prompt: &Prompt) -> BTreeMap<String, String> {
    let digest = |text: &str| Digest::of(text.as_bytes()).to_string();
    let mut all = BTreeMap::new();
    for (name, text) in [("TEMPLATE", &prompt.template), ("SYSTEM", &prompt.system)] {
        all.extend(text.as_deref().map(|text| (name.to_owned(), digest(text))));
    }
    let words = [("RENDERER", &prompt.renderer), ("PARSER", &prompt.parser), ("REQUIRES", &prompt.requires)];
    for (name, word) in words {
        all.extend(word.clone().map(|word| (name.to_owned(), word)));
    }
    for (name, value) in &prompt.parameters {
        let value = match value {
            ParameterValue::Int(v) => v.to_string(),
            ParameterValue::Float(v) => v.to_string(),
            ParameterValue::Bool(v) => v.to_string(),
            ParameterValue::String(v) => format!("{v:?}"),
            ParameterValue::Strings(v) => format!("{v:?}"),
        };
        all.insert(format!("PARAMETER {name}"), value);
    }
    for (i, text) in prompt.licenses.iter().enumerate() {
        all.insert(format!("LICENSE {}", i + 1), digest(text));
    }
    for (i, message) in prompt.messages.iter().enumerate() {
        let text = format!("{} {}", message.role.name(), message.content);
        all.insert(format!("MESSAGE {}", i + 1), digest(&text));
    }
    all
}

/// The options of a build that change what it makes, by the names they are given by.
pub fn options_that_change_bytes(options: &Options) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    all.extend(options.preset.map(|p| ("--quantize".to_owned(), p.name.to_owned())));
    for (i, rule) in options.tensor_types.iter().enumerate() {
        let value = format!("{}={}", rule.pattern.as_str(), rule.dtype.name());
        all.insert(format!("--tensor-type {}", i + 1), value);
    }
    if options.no_fuse {
        all.insert("--no-fuse".to_owned(), "true".to_owned());
    }
    all
}
