//! LoRA adapters: pairs of low-rank matrices and the factor of their product.
//!
//! A weight `W [out, in]` becomes `W + scale * (B x A)`, with `A [rank, in]` and `B [out, rank]`. With
//! DoRA each row of that is then given the length that a magnitude vector says. Some adapters also
//! bring tensors whole, which take the place of the base's (PEFT's `modules_to_save` and `bias`, MLX's
//! `full`).
//!
//! | kind | files | names | `A`, `B` as stored | scale |
//! |---|---|---|---|---|
//! | PEFT | `adapter_config.json`, `adapter_model*.safetensors` | `base_model.model.X.lora_A.weight` | `[rank, in]`, `[out, rank]` | `alpha / r`, with rslora `alpha / sqrt(r)` |
//! | MLX | `adapter_config.json`, `adapters.safetensors` | `X.lora_a` | `[in, rank]`, `[rank, out]` | `scale` |
//! | PEFT, embeddings | the same | `X.lora_embedding_A` | `[rank, tokens]`, `[width, rank]`: the product is transposed | as above |
//! | MLX, embeddings | the same | `X.lora_a` | `[tokens, rank]`, `[rank, width]` | `scale` |
//! | GGUF | one `.gguf` of `general.type` `adapter` | `blk.0.attn_q.weight.lora_a` | `[rank, in]`, `[out, rank]` | `alpha / rank`, 1 where alpha is 0 |
//! | GGUF, `token_embd` | the same | `token_embd.weight.lora_a` | `[tokens, rank]`, `[width, rank]` | as above |

mod config;
mod gguf;
mod parts;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::config::AdapterConfig;
use super::checkpoint::{CheckpointFile, open_files};
use super::directory::{Directory, require_all_shards};
use super::hf_config::Config;
use super::quote::quoted;
use super::{TensorInfo, limits};
use crate::diagnostic::{Diagnostic, Result};
use crate::world::{EntryKind, File, World};

/// Who made an adapter, and so how it names and stores things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdapterKind {
    /// Hugging Face PEFT.
    Peft,
    /// Apple's MLX.
    Mlx,
    /// A GGUF file; its tensors have GGUF's names and the order of rows that GGUF has.
    Gguf,
}

/// A file of an adapter.
#[derive(Clone)]
pub struct AdapterFile {
    /// The path, as the user would recognise it.
    pub path: PathBuf,
    /// The open file.
    pub file: Arc<dyn File>,
}

impl std::fmt::Debug for AdapterFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AdapterFile({})", self.path.display())
    }
}

/// A tensor in one of an adapter's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorRef {
    /// The index of the file in [`Adapter::files`].
    pub file: usize,
    /// The tensor, as stored.
    pub tensor: TensorInfo,
}

/// One matrix of a product.
#[derive(Clone, Debug, PartialEq)]
pub struct Factor {
    /// The tensor.
    pub tensor: TensorRef,
    /// True when it is stored the other way round.
    pub transposed: bool,
}

impl Factor {
    /// Rows of the factor, once the right way round.
    pub fn rows(&self) -> u64 {
        let shape = &self.tensor.tensor.shape;
        if self.transposed { shape.cols() } else { shape.rows() }
    }

    /// Columns of the factor, once the right way round.
    pub fn columns(&self) -> u64 {
        let shape = &self.tensor.tensor.shape;
        if self.transposed { shape.rows() } else { shape.cols() }
    }
}

/// What an adapter adds to one weight: `scale * (B x A)`.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterPair {
    /// The weight: `model.layers.0.self_attn.q_proj`, without `.weight`, as the checkpoint names the
    /// module; of a GGUF adapter `blk.0.attn_q`.
    pub target: String,
    /// `[rank, columns]`
    pub a: Factor,
    /// `[rows, rank]`
    pub b: Factor,
    /// The rank of the product.
    pub rank: u64,
    /// The factor of the product.
    pub scale: f32,
    /// DoRA: the length of each row of the sum, `[rows]`.
    pub magnitude: Option<TensorRef>,
}

impl AdapterPair {
    /// Columns of the weight.
    pub fn columns(&self) -> u64 {
        self.a.columns()
    }

    /// Rows of the weight.
    pub fn rows(&self) -> u64 {
        self.b.rows()
    }
}

/// A tensor that takes the place of the base's.
#[derive(Clone, Debug, PartialEq)]
pub struct WholeTensor {
    /// The name in the base, `lm_head.weight`.
    pub name: String,
    /// The tensor.
    pub tensor: TensorRef,
}

/// A LoRA adapter, read and checked.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// Who made it.
    pub kind: AdapterKind,
    /// The model it was trained on, if it says so.
    pub base_model: Option<String>,
    /// `general.architecture` of a GGUF adapter: that of its base.
    pub architecture: Option<String>,
    /// Its files, open.
    pub files: Vec<AdapterFile>,
    /// Its pairs, sorted by target.
    pub pairs: Vec<AdapterPair>,
    /// Its whole tensors, sorted by name. They come first: a pair may change one of them.
    pub whole: Vec<WholeTensor>,
    /// Where the base's output matrix is its embedding matrix, a change of the embedding is one of both.
    pub keeps_tied: bool,
}

/// Names of weight files in a directory, in the order of preference.
const GROUPS: &[&str] = &["adapter_model", "adapters", "model"];
const CONFIG: &str = "adapter_config.json";

impl Adapter {
    /// Reads the adapter at `path`: a directory, a GGUF file, or a Safetensors file beside its
    /// `adapter_config.json`.
    ///
    /// # Errors
    /// There is no adapter; it makes use of something that is not supported, which the diagnostic
    /// names; or its tensors do not go together.
    pub fn open(world: &dyn World, path: &Path) -> Result<Adapter> {
        if world.kind(path) == Some(EntryKind::Directory) {
            return open_directory(world, path);
        }
        let file = world.open(path).map_err(|e| Diagnostic::io("read", path, &e))?;
        let mut magic = [0; 4];
        if file.len() >= 4 {
            file.read_at(0, &mut magic).map_err(|e| Diagnostic::io("read", path, &e))?;
        }
        if magic == super::gguf::MAGIC {
            return gguf::read(AdapterFile { path: path.to_owned(), file });
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str()))
        else {
            return Err(Diagnostic::error("the path names no file").in_file(path, "").into());
        };
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        open_safetensors(world, &Directory::new(world, parent)?, &[name.to_owned()])
    }
}

fn open_directory(world: &dyn World, path: &Path) -> Result<Adapter> {
    let directory = Directory::new(world, path)?;
    for group in GROUPS {
        let files =
            directory.find(false, |name| name.starts_with(group) && name.ends_with(".safetensors"))?;
        if !files.is_empty() {
            require_all_shards(path, &files)?;
            return open_safetensors(world, &directory, &files);
        }
    }
    let gguf = directory.find(false, |name| name.ends_with(".gguf"))?;
    match gguf.as_slice() {
        [only] => {
            let inside = directory.resolve(only)?;
            let path = path.join(only);
            let file = world.open(&inside).map_err(|e| Diagnostic::io("read", &path, &e))?;
            gguf::read(AdapterFile { path, file })
        }
        [] => {
            let pickle =
                directory.find(false, |name| name.starts_with("adapter_model") && name.ends_with(".bin"))?;
            let mut error = Diagnostic::error(
                "no adapter found: no adapter_model.safetensors, adapters.safetensors or .gguf file",
            )
            .code("no-adapter")
            .in_file(path, "");
            if !pickle.is_empty() {
                error = error
                    .label("adapter_model.bin is a Python pickle: a program, not data")
                    .help("load it with PEFT and save it with `safe_serialization=True`");
            }
            Err(error.into())
        }
        _ => Err(Diagnostic::error("the directory has several .gguf files")
            .code("no-adapter")
            .in_file(path, "")
            .help("name the one that is the adapter")
            .into()),
    }
}

fn open_safetensors(world: &dyn World, directory: &Directory<'_>, names: &[String]) -> Result<Adapter> {
    let config_path = directory.path().join(CONFIG);
    let Some(text) = directory.read(CONFIG, limits::CONFIG)? else {
        return Err(Diagnostic::error(format!(
            "{} is missing; it says the adapter's rank and scale",
            quoted(CONFIG)
        ))
        .code("no-config")
        .in_file(directory.path(), "")
        .into());
    };
    let config = AdapterConfig::read(&Config::parse(&config_path, &text)?)?;
    let opened = open_files(world, directory, names)?;
    let parts::Read { pairs, whole } = parts::read(&opened, &config)?;
    let files =
        opened.into_iter().map(|CheckpointFile { path, file, .. }| AdapterFile { path, file }).collect();
    let AdapterConfig { kind, base_model, keeps_tied, .. } = config;
    Ok(Adapter { kind, base_model, architecture: None, files, pairs, whole, keeps_tied })
}
