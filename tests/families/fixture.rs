//! The fixtures, and a checkpoint compiled.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use mdl::passes::resolve;
use mdl::runtime::device::Compute;
use mdl::runtime::loaded::Loaded;
use mdl::world::SystemWorld;
use serde_json::Value;

/// One folder of `testdata/families`.
pub struct Fixture {
    pub name: String,
    pub directory: PathBuf,
}

impl Fixture {
    /// Every folder with a checkpoint.
    pub fn all() -> Vec<Fixture> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/families");
        let mut all: Vec<Fixture> = std::fs::read_dir(root)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.join("config.json").is_file() || path.join("params.json").is_file())
            .map(|directory| Fixture {
                name: directory.file_name().unwrap().to_str().unwrap().to_owned(),
                directory,
            })
            .collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// A JSON file of the folder, if it is there.
    pub fn json(&self, name: &str) -> Option<Value> {
        let bytes = std::fs::read(self.directory.join(name)).ok()?;
        Some(serde_json::from_slice(&bytes).unwrap())
    }

    /// `architectures[0]` of the configuration; `None` in a maker's own layout.
    pub fn architecture(&self) -> Option<String> {
        Some(self.json("config.json")?["architectures"][0].as_str()?.to_owned())
    }

    /// Compiles the checkpoint to a GGUF file in `out`; else what the compiler says.
    pub fn compile(&self, preset: &str, out: &Path) -> Result<PathBuf, String> {
        let gguf = out.join(format!("{}-{preset}.gguf", self.name));
        let modelfile = out.join(format!("{}.Modelfile", self.name));
        std::fs::write(&modelfile, format!("FROM {}\n", self.directory.display())).unwrap();
        let output = assert_cmd::Command::cargo_bin("mdl")
            .unwrap()
            .args(["build", "--progress", "none", "-q", preset, "--emit", "gguf", "-o"])
            .arg(&gguf)
            .arg(&modelfile)
            .output()
            .unwrap();
        match output.status.success() {
            true => Ok(gguf),
            false => Err(format!("{} {preset}: {}", self.name, String::from_utf8_lossy(&output.stderr))),
        }
    }

    /// Compiles and opens.
    pub fn load(&self, preset: &str, out: &Path) -> Result<Loaded, String> {
        let gguf = self.compile(preset, out)?;
        let failed = |e: mdl::diagnostic::Errors| format!("{} {preset}: {e}", self.name);
        Loaded::open(&resolve::open_gguf(&SystemWorld, &gguf).map_err(failed)?, Compute::cpu(Some(2)))
            .map_err(failed)
    }
}

/// Base64 of little-endian float32.
pub fn floats(value: &Value) -> Vec<f32> {
    let bytes = base64::engine::general_purpose::STANDARD.decode(value.as_str().unwrap()).unwrap();
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// Token ids.
pub fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

/// Copies a folder to a path where nothing is.
pub fn copy_directory(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        match entry.path().is_dir() {
            true => copy_directory(&entry.path(), &to.join(entry.file_name())),
            false => drop(std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap()),
        }
    }
}
