//! How a model was built, as an in-toto Statement v1 with SLSA provenance v1.

use serde_json::{Value, json};

use super::sources::{Named, Source};
use super::{instructions, options_that_change_bytes};
use crate::codegen::BYTE_FORMAT;
use crate::ir::Module;
use crate::passes::Options;
use crate::store::{Digest, Name};

/// What a build was, for those who were not there.
#[derive(Clone, Copy)]
pub struct Build<'a> {
    /// What the model is called.
    pub name: &'a Name,
    /// The digest of its manifest.
    pub id: &'a Digest,
    /// What was compiled.
    pub module: &'a Module,
    /// What the Modelfile says besides its sources.
    pub prompt: &'a crate::ir::Prompt,
    /// What was asked for.
    pub options: &'a Options,
    /// What was read.
    pub sources: &'a [Source],
    /// Who built it: a URI.
    pub builder: &'a str,
    /// When, in seconds since 1970. Without it nothing says so, and the same build has the same bytes.
    pub time: Option<i64>,
}

/// The passes of a build, in order.
const PASSES: [&str; 5] = ["resolve", "import", "fuse", "quantize", "package"];

/// The builder where nobody says which.
pub const LOCAL: &str = "urn:mdl:builder:local";

/// The statement of a build.
pub fn statement(build: &Build<'_>) -> Value {
    let dependencies: Vec<Value> = build.sources.iter().flat_map(dependencies).collect();
    let mut run = json!({
        "builder": { "id": build.builder, "version": { "mdl": env!("CARGO_PKG_VERSION") } },
    });
    if let Some(time) = build.time.and_then(super::timestamp) {
        run["metadata"] = json!({ "startedOn": time, "finishedOn": time });
    }
    json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{ "name": build.name.to_string(), "digest": { "sha256": build.id.hex() } }],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": "urn:mdl:build:1",
                "externalParameters": {
                    "instructions": instructions(build.prompt),
                    "options": options_that_change_bytes(build.options),
                    "sources": build.sources.iter().map(|s| format!("{} {}", s.role.name(), s.shown())).collect::<Vec<_>>(),
                },
                "internalParameters": { "byteFormat": BYTE_FORMAT, "passes": PASSES },
                "resolvedDependencies": dependencies,
            },
            "runDetails": run,
        },
    })
}

fn dependencies(source: &Source) -> Vec<Value> {
    let entry = |name: String, digest: &Digest| {
        json!({
            "name": name, "digest": { "sha256": digest.hex() },
            "annotations": { "role": source.role.name(), "line": source.shown() },
        })
    };
    match &source.named {
        Named::Model(manifest) => vec![entry(source.shown(), manifest)],
        Named::Files(files) => files.iter().map(|(name, f)| entry(name.clone(), &f.digest)).collect(),
    }
}
