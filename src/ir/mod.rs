//! The intermediate representation: data and nothing else.
//!
//! A [`Module`] is what a Modelfile means: GGUF metadata (the tokenizer's arrays among them), a
//! [`Prompt`], and a list of [`Tensor`]s whose contents are expressions ([`Expr`]) that nobody has
//! evaluated yet. Passes rewrite it; only `codegen` reads weights.

mod expr;
mod metadata;
mod prompt;
mod strings;

pub use expr::{Expr, FileId, Imatrix, Shape};
pub use metadata::{Array, Metadata, Value, ValueType};
pub use prompt::{Message, ParameterValue, Prompt, Role};
pub use strings::Strings;

use std::path::PathBuf;
use std::sync::Arc;

use crate::world::File;

/// A file that expressions load from.
#[derive(Clone)]
pub struct SourceFile {
    /// The path, as the user would recognise it.
    pub path: PathBuf,
    /// The open file.
    pub file: Arc<dyn File>,
}

impl std::fmt::Debug for SourceFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SourceFile({}, {} bytes)", self.path.display(), self.file.len())
    }
}

/// A named tensor whose value is an expression.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Its name: GGUF's once imported (`blk.0.attn_q.weight`), the checkpoint's before.
    pub name: String,
    /// What it is made of.
    pub expr: Expr,
}

impl Tensor {
    /// The shape, outermost dimension first; the last one is contiguous.
    pub fn shape(&self) -> Shape {
        self.expr.shape()
    }
}

/// A text of a checkpoint that has not been imported yet: `config.json`, `tokenizer.json`.
#[derive(Clone, PartialEq, Eq)]
pub struct SourceText {
    /// Its name inside the checkpoint.
    pub name: String,
    /// The path, as the user would recognise it.
    pub path: PathBuf,
    /// What it says.
    pub bytes: Arc<[u8]>,
}

impl std::fmt::Debug for SourceText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SourceText({}, {} bytes)", self.name, self.bytes.len())
    }
}

/// What an adapter does to a tensor.
#[derive(Clone, Debug)]
pub enum Change {
    /// Adds `scale * (b x a)`.
    LowRank {
        /// `[rank, cols]`
        a: Expr,
        /// `[rows, rank]`
        b: Expr,
        /// The factor of the product.
        scale: f32,
        /// DoRA: the length of each row of the sum, `[rows]`.
        magnitude: Option<Expr>,
    },
    /// Takes the tensor's place.
    Replace(Expr),
}

impl Change {
    /// What the change makes of a tensor.
    pub fn applied(self, base: Expr) -> Expr {
        match self {
            Change::LowRank { a, b, scale, magnitude } => {
                let sum = Expr::LowRank { base: Box::new(base), a: Box::new(a), b: Box::new(b), scale };
                match magnitude {
                    Some(magnitude) => Expr::WeightNorm { of: Box::new(sum), magnitude: Box::new(magnitude) },
                    None => sum,
                }
            }
            // Written in the type that the base's tensor has, unless a preset says otherwise.
            Change::Replace(new) if new.dtype() == base.dtype() => new,
            Change::Replace(new) => Expr::Encode { dtype: base.dtype(), of: Box::new(new), imatrix: None },
        }
    }
}

/// A change of one tensor.
#[derive(Clone, Debug)]
pub struct AdapterChange {
    /// The tensor: the checkpoint's or GGUF's name.
    pub target: String,
    /// What happens to it.
    pub change: Change,
    /// Once it is placed: what the tensor was before.
    pub base: Option<Expr>,
}

/// An adapter, not fused yet.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// Where it came from.
    pub path: PathBuf,
    /// The model that it says it was trained on.
    pub base_model: Option<String>,
    /// The architecture of its base, if it says so.
    pub architecture: Option<String>,
    /// The output matrix follows the embeddings where the base ties them.
    pub keeps_tied: bool,
    /// Its changes, in the order they are made.
    pub changes: Vec<AdapterChange>,
}

/// A model under compilation.
#[derive(Clone, Debug, Default)]
pub struct Module {
    /// GGUF key-values, in the order they are written.
    pub metadata: Metadata,
    /// Template, system prompt, messages, parameters, licenses.
    pub prompt: Prompt,
    /// The tensors, in the order they are written.
    pub tensors: Vec<Tensor>,
    /// The files that [`Expr::Load`] refers to by index.
    pub files: Vec<SourceFile>,
    /// The texts of a checkpoint; `import` turns them into metadata and leaves none.
    pub texts: Vec<SourceText>,
    /// Adapters. `fuse` leaves them here, their changes under GGUF's names and in its order of rows, so that
    /// `codegen` can refuse one that changes nothing.
    pub adapters: Vec<Adapter>,
    /// The adapters are beside the tensors and act when the model runs; they have not been fused.
    pub unfused: bool,
    /// The GGUF file that holds exactly this metadata and these tensors. A pass that changes
    /// either clears it; while it is set, the file itself is the artifact.
    pub verbatim: Option<FileId>,
}

impl Module {
    /// Adds a source file and returns the number expressions use for it.
    pub fn add_file(&mut self, path: impl Into<PathBuf>, file: Arc<dyn File>) -> FileId {
        self.files.push(SourceFile { path: path.into(), file });
        FileId(self.files.len() - 1)
    }

    /// `general.architecture`, once there is one.
    pub fn architecture(&self) -> Option<&str> {
        self.metadata.str("general.architecture")
    }

    /// The tensor with this name.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensors.iter().find(|t| t.name == name)
    }

    /// The text of a checkpoint with this name.
    pub fn text(&self, name: &str) -> Option<&SourceText> {
        self.texts.iter().find(|t| t.name == name)
    }

    /// The number of weights: the product of each tensor's shape, added up.
    pub fn parameter_count(&self) -> u64 {
        self.tensors.iter().map(|t| t.shape().len()).fold(0, u64::saturating_add)
    }
}
