//! What a signature states: every file of a model and its digest, as an in-toto statement
//! (<https://github.com/in-toto/attestation/tree/main/spec/v1>).

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::diagnostic::{Diagnostic, Result};
use crate::store::Digest;

const TYPE: &str = "https://in-toto.io/Statement/v1";
const PREDICATE_TYPE: &str = "https://model_signing/signature/v1.0";

/// A model's files and their digests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// What the model is called; no more than a remark.
    pub name: String,
    /// How the resources were found.
    pub serialization: Serialization,
    /// Its files, or parts of files, each once.
    pub resources: Vec<Resource>,
}

/// How a directory becomes a list of resources.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Serialization {
    /// `files`, or `shards` for parts of files.
    pub method: String,
    /// `sha256`.
    pub hash_type: String,
    /// Whether symbolic links are followed.
    #[serde(default)]
    pub allow_symlinks: bool,
    /// Paths that are no part of the model, relative to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignore_paths: Vec<String>,
    /// Bytes of a part, where the method is `shards`.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "whole_number")]
    pub shard_size: Option<u64>,
}

impl Serialization {
    /// Whole files, SHA-256, no symbolic links.
    pub fn files(ignore_paths: Vec<String>) -> Serialization {
        Serialization {
            method: "files".to_owned(),
            hash_type: "sha256".to_owned(),
            allow_symlinks: false,
            ignore_paths,
            shard_size: None,
        }
    }
}

/// A file, or a part of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Its path in the model with `/`, `.` for a model that is one file; a part is `path:start:end`.
    pub name: String,
    /// The digest of its bytes.
    pub digest: Digest,
}

#[derive(Serialize, Deserialize)]
struct Raw {
    #[serde(rename = "_type")]
    kind: String,
    subject: Vec<Subject>,
    #[serde(rename = "predicateType")]
    predicate_type: String,
    predicate: serde_json::Value,
}

#[derive(Serialize, Deserialize)]
struct Subject {
    #[serde(default)]
    name: String,
    digest: RootDigest,
}

#[derive(Serialize, Deserialize)]
struct RootDigest {
    sha256: String,
}

#[derive(Serialize, Deserialize)]
struct Predicate {
    serialization: Serialization,
    resources: Vec<RawResource>,
}

#[derive(Serialize, Deserialize)]
struct RawResource {
    name: String,
    algorithm: String,
    digest: String,
}

impl Statement {
    /// A statement about these resources, which it puts in order.
    pub fn new(name: String, serialization: Serialization, mut resources: Vec<Resource>) -> Statement {
        // Component by component, as the specification's own program sorts.
        resources.sort_by(|a, b| a.name.split('/').cmp(b.name.split('/')));
        Statement { name, serialization, resources }
    }

    /// The digest over the resources' digests, in their order.
    fn root(&self) -> Digest {
        let mut sha = Sha256::new();
        self.resources.iter().for_each(|r| sha.update(r.digest.as_bytes()));
        Digest::from_bytes(sha.finalize().into())
    }

    /// The payload of an envelope.
    ///
    /// # Errors
    /// None that the type allows.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        let failed =
            |e: serde_json::Error| Diagnostic::environment(format!("cannot write the statement: {e}"));
        let resources = self.resources.iter().map(|r| RawResource {
            name: r.name.clone(),
            algorithm: "sha256".to_owned(),
            digest: r.digest.hex(),
        });
        let predicate =
            Predicate { serialization: self.serialization.clone(), resources: resources.collect() };
        let raw = Raw {
            kind: TYPE.to_owned(),
            subject: vec![Subject {
                name: self.name.clone(),
                digest: RootDigest { sha256: self.root().hex() },
            }],
            predicate_type: PREDICATE_TYPE.to_owned(),
            predicate: serde_json::to_value(predicate).map_err(failed)?,
        };
        Ok(serde_json::to_vec(&raw).map_err(failed)?)
    }

    /// Reads a payload.
    ///
    /// # Errors
    /// It is another statement, one about several models, hashed otherwise than with SHA-256, or not consistent.
    pub fn parse(payload: &[u8]) -> Result<Statement> {
        let raw: Raw = serde_json::from_slice(payload).map_err(|e| invalid(e.to_string()))?;
        if raw.kind != TYPE {
            return Err(invalid(format!("its type is {:?}, not {TYPE:?}", raw.kind)).into());
        }
        if raw.predicate_type != PREDICATE_TYPE {
            return Err(invalid(format!("it states {:?}, not {PREDICATE_TYPE:?}", raw.predicate_type)).into());
        }
        let [subject] = raw.subject.as_slice() else {
            return Err(invalid(format!("it is about {} models, not one", raw.subject.len())).into());
        };
        let predicate: Predicate =
            serde_json::from_value(raw.predicate).map_err(|e| invalid(e.to_string()))?;
        let serialization = predicate.serialization;
        if serialization.hash_type != "sha256" || !matches!(serialization.method.as_str(), "files" | "shards")
        {
            let (method, hash) = (&serialization.method, &serialization.hash_type);
            return Err(Diagnostic::error(format!("this signature is over {method} hashed with {hash}"))
                .code("unknown-serialization")
                .help("mdl reads signatures over files or shards that are hashed with sha256")
                .into());
        }
        let mut resources = Vec::new();
        for resource in predicate.resources {
            if resource.algorithm != "sha256" {
                let hash = resource.algorithm;
                return Err(invalid(format!("the digest of {:?} is a {hash}", resource.name)).into());
            }
            let digest = format!("sha256:{}", resource.digest)
                .parse()
                .map_err(|_| invalid(format!("the digest of {:?} is none", resource.name)))?;
            resources.push(Resource { name: resource.name, digest });
        }
        let mut names: Vec<&str> = resources.iter().map(|r| r.name.as_str()).collect();
        names.sort_unstable();
        if let Some([twice, _]) = names.array_windows::<2>().find(|[a, b]| a == b) {
            return Err(invalid(format!("it names {twice:?} twice")).into());
        }
        let statement = Statement { name: subject.name.clone(), serialization, resources };
        if statement.root().hex() != subject.digest.sha256.to_lowercase() {
            return Err(invalid("its resources are not those of its digest".to_owned()).into());
        }
        Ok(statement)
    }

    /// What `found` has otherwise than this statement says: a diagnostic each.
    pub fn differences(&self, found: &[Resource], unsigned: Unsigned) -> Vec<Diagnostic> {
        let by_name = |resources: &[Resource]| -> std::collections::BTreeMap<String, Digest> {
            resources.iter().map(|r| (r.name.clone(), r.digest)).collect()
        };
        let (signed, there) = (by_name(&self.resources), by_name(found));
        let mut differences = Vec::new();
        let mut differs = |code, message: String| {
            differences.push(
                Diagnostic::error(message)
                    .code(code)
                    .help("do not use the model; get it again, or sign it again if the change is meant"),
            );
        };
        for (name, digest) in &signed {
            match there.get(name) {
                None => differs("missing-file", format!("`{name}` was signed and is not there")),
                Some(is) if is != digest => {
                    differs(
                        "changed-file",
                        format!("`{name}` was changed: it has {is}, signed was {digest}"),
                    );
                }
                Some(_) => {}
            }
        }
        if unsigned == Unsigned::Refused {
            for name in there.keys().filter(|name| !signed.contains_key(*name)) {
                differs("unsigned-file", format!("`{name}` was not signed"));
            }
        }
        differences
    }
}

/// What of files that no signature names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsigned {
    /// They are a difference.
    Refused,
    /// They do not matter.
    Ignored,
}

fn invalid(why: String) -> Diagnostic {
    Diagnostic::error(format!("this signature states nothing about a model: {why}"))
        .code("invalid-statement")
        .help("a signature is what `mdl sign` or `model_signing sign key` wrote")
}

/// Numbers of a protobuf structure are written as floats by some.
fn whole_number<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let number = Option::<f64>::deserialize(deserializer)?;
    number
        .map(|n| {
            let whole = (1.0..=9e15).contains(&n) && n.fract() == 0.0;
            whole.then_some(n as u64).ok_or_else(|| serde::de::Error::custom("no whole number"))
        })
        .transpose()
}
