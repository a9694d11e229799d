//! Registries: what they hold comes into the store and goes out again, and what they do wrong is told and changes
//! nothing.
#![allow(clippy::unwrap_used, missing_docs)]

mod double;
mod hostile;
mod login;
mod processes;
mod pull;
mod push;
mod real;

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use double::Registry;
use mdl::diagnostic::{Errors, Result};
use mdl::registry::{Client, Limits, Options, Progress, block_on};
use mdl::store::{Digest, Name, Published, Store, media};

/// A store of its own.
struct Place {
    dir: tempfile::TempDir,
    pub store: Store,
}

impl Place {
    pub fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("store")).unwrap();
        Place { dir, store }
    }

    /// A file beside the store.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Options that do not look at the machine's own logins, with limits for impatient tests.
    pub fn options(&self) -> Options {
        let limits = Limits {
            connect: Duration::from_secs(1),
            answer: Duration::from_secs(2),
            small: Duration::from_secs(5),
            stall: Duration::from_secs(1),
            retries: 1,
            small_retries: 0,
            pause: Duration::from_millis(5),
            longest_pause: Duration::from_millis(20),
            least_part: 1 << 16,
            most_part: 1 << 20,
            chunk: 1 << 16,
            record: Duration::from_millis(20),
            ..Limits::default()
        };
        Options {
            insecure: true,
            docker_config: Some(self.path("config.json")),
            key: Some(self.path("id_ed25519")),
            limits,
            ..Options::default()
        }
    }

    pub fn pull(&self, name: &str) -> Result<Published> {
        self.pull_with(self.options(), name, &Heard::default())
    }

    pub fn pull_with(&self, options: Options, name: &str, heard: &Heard) -> Result<Published> {
        let client = Client::new(options)?;
        block_on(client.pull(&self.store, &Name::parse(name)?, heard))
    }

    /// Every file of the store, but for locks: what must not change where a pull fails.
    pub fn files(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut pending = vec![self.store.root().to_owned()];
        while let Some(dir) = pending.pop() {
            for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                match entry.file_type().unwrap().is_dir() {
                    true => pending.push(entry.path()),
                    false => found
                        .push(entry.path().strip_prefix(self.store.root()).unwrap().display().to_string()),
                }
            }
        }
        found.retain(|f| !f.ends_with(".lock") && !f.starts_with("mdl/cache"));
        found.sort();
        found
    }
}

/// What a progress said: each status once, in order.
#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Heard {
    pub fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    fn hear(&self, text: String) {
        let mut all = self.0.lock().unwrap();
        if !all.contains(&text) {
            all.push(text);
        }
    }
}

impl Progress for Heard {
    fn status(&self, status: &str) {
        self.hear(status.to_owned());
    }

    fn transfer(&self, status: &str, _: &Digest, total: u64, completed: u64) {
        assert!(completed <= total, "{status}: {completed} of {total}");
        if completed == total {
            self.hear(format!("{status} {total}"));
        }
    }
}

/// Bytes that look random.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// A manifest of these layers as Ollama writes one.
pub fn manifest(registry: &Registry, layers: &[(&str, &[u8])]) -> String {
    let config = b"{\"model_format\":\"gguf\",\"architecture\":\"amd64\",\"os\":\"linux\"}\n";
    let one = |kind: &str, bytes: &[u8]| {
        format!(r#"{{"mediaType":"{kind}","digest":"{}","size":{}}}"#, registry.blob(bytes), bytes.len())
    };
    let layers: Vec<String> = layers.iter().map(|(kind, bytes)| one(kind, bytes)).collect();
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","config":{},"layers":[{}]}}"#,
        media::MANIFEST,
        one(media::CONFIG, config),
        layers.join(",")
    )
}

/// A registry with the model `me/story:latest`, whose weights are these.
pub fn shelf(weights: &[u8]) -> (Registry, Digest) {
    let registry = Registry::default();
    let text = manifest(&registry, &[(media::MODEL, weights), (media::SYSTEM, b"Be brief.")]);
    let digest = registry.manifest("me/story:latest", media::MANIFEST, text);
    (registry, digest)
}

/// The text of an error, with what differs from run to run replaced.
pub fn text(errors: &Errors, replace: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for d in &errors.0 {
        text += &format!("{d} [{}]\n", d.code);
        for help in &d.help {
            text += &format!("  help: {help}\n");
        }
    }
    for (from, to) in replace {
        text = text.replace(from, to);
    }
    text
}
