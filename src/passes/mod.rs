//! The passes. Each is `run(Module, &Context) -> Result<Module>`, rewrites the module and reads no
//! weight; `crate::pipeline` calls them in order with [`verify`] between them.
//!
//! | pass | what it does |
//! |---|---|
//! | [`resolve`] | FROM and ADAPTER to files: a module of loads |
//! | [`import`] | a checkpoint's names, metadata and tokenizer to GGUF's; before that, Mistral's own layout to Hugging Face's ([`consolidated`]), and FP8 and MXFP4 to values ([`dequantize`]) |
//! | [`fuse`] | adapters into the matrices they change |
//! | [`quantize`] | the type each tensor is written in |
//! | [`package`] | layers, configuration, manifest |

pub mod consolidated;
pub mod dequantize;
pub mod fuse;
pub mod import;
pub mod package;
pub mod plan;
pub mod quantize;
pub mod resolve;
pub mod unfused;
pub mod verify;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;

use crate::diagnostic::Diagnostic;
use crate::store::Store;
use crate::world::World;
use quantize::TensorTypeRule;
use quantize::mixture::Preset;

/// What the user asked of a build besides the Modelfile.
#[derive(Default)]
pub struct Options {
    /// `--quantize`.
    pub preset: Option<&'static Preset>,
    /// `--tensor-type`, in order; the first that matches decides.
    pub tensor_types: Vec<TensorTypeRule>,
    /// `--imatrix`: importance weights by tensor name.
    pub imatrix: Option<BTreeMap<String, Vec<f32>>>,
    /// `--allow-requantize`.
    pub allow_requantize: bool,
    /// `--no-fuse`: adapters stay beside the model.
    pub no_fuse: bool,
}

/// What a pass may see besides the module.
pub struct Context<'a> {
    /// Where files come from.
    pub world: &'a dyn World,
    /// Where named models come from; none in a build without a store.
    pub store: Option<&'a Store>,
    /// The directory that paths in the Modelfile start from.
    pub directory: PathBuf,
    /// What the user asked for.
    pub options: Options,
    notes: Mutex<Vec<Diagnostic>>,
}

impl<'a> Context<'a> {
    /// A context without notes.
    pub fn new(world: &'a dyn World, store: Option<&'a Store>, directory: PathBuf, options: Options) -> Self {
        Context { world, store, directory, options, notes: Mutex::default() }
    }

    /// Keeps a warning for the front end.
    pub fn note(&self, diagnostic: Diagnostic) {
        if let Ok(mut notes) = self.notes.lock() {
            notes.push(diagnostic);
        }
    }

    /// Takes the warnings kept so far.
    pub fn take_notes(&self) -> Vec<Diagnostic> {
        self.notes.lock().map(|mut n| std::mem::take(&mut *n)).unwrap_or_default()
    }
}
