//! What answers: the seam between a conversation and whoever computes.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::description::Description;
use super::figures::Figures;
use super::listing::Listed;
use crate::diagnostic::{Diagnostic, Result};
use crate::ir::Prompt;
use crate::prompt::output::Piece;
use crate::runtime::answer::Job;
use crate::runtime::generate::Done;

/// How an answer went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered {
    /// Why it ended.
    pub done: Done,
    /// What it took.
    pub figures: Figures,
}

/// How a text is embedded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Embedded {
    /// A text longer than the context is cut; else it is refused.
    pub truncate: bool,
    /// The first so many values only.
    pub dimensions: Option<usize>,
}

/// Tells the names of the models there are.
pub type Names = Box<dyn Fn() -> Vec<String> + Send + Sync>;

/// Prints diagnostics.
pub type Report<'a> = dyn Fn(&[Diagnostic]) + 'a;

/// A model that is talked with, and the store it is of.
pub trait Answers {
    /// What the model is called.
    fn model(&self) -> &str;

    /// Takes another model.
    ///
    /// # Errors
    /// There is none of this name, or it cannot be loaded. The model is the one before, then.
    fn open(&mut self, model: &str) -> Result<()>;

    /// What the model is.
    ///
    /// # Errors
    /// Nobody tells.
    fn description(&mut self) -> Result<Description>;

    /// Does a job; `tell` takes the parts of the answer as they come. It ends early once `cancelled` is set.
    ///
    /// # Errors
    /// The job is refused, the model fails, or `tell` does.
    fn answer(
        &mut self,
        job: &Job,
        cancelled: &Arc<AtomicBool>,
        tell: &mut dyn FnMut(Piece) -> Result<()>,
    ) -> Result<Answered>;

    /// The embedding of a text, of length 1.
    ///
    /// # Errors
    /// The text is too long, or has fewer dimensions than asked for.
    fn embed(&mut self, text: &str, how: Embedded) -> Result<Vec<f32>>;

    /// The models of the store, the newest first.
    ///
    /// # Errors
    /// The store cannot be read.
    fn models(&mut self) -> Result<Vec<Listed>>;

    /// Tells the names of the models whenever it is asked.
    fn names(&self) -> Names;

    /// Makes a model of this one: `over` goes before its system prompt, parameters and messages.
    ///
    /// # Errors
    /// The name is none, or the store cannot be written.
    fn save(&mut self, name: &str, over: Prompt) -> Result<()>;
}
