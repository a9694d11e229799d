//! Measures a model on a text: its perplexity, and how far it is from its source.

use std::path::Path;

use crate::diagnostic::{Diagnostic, Result};
use crate::ir::Module;
use crate::runtime::chunks::{self, Chunks};
use crate::runtime::device::{Compute, DeviceChoice};
use crate::runtime::divergence::{Divergence, divergence};
use crate::runtime::loaded::Loaded;
use crate::runtime::perplexity::{Estimate, perplexity};
use crate::world::{self, World};

/// What is measured on where nobody names a text: prose, dialogue, facts, code and data, some 8 KB.
pub const TEXT: &str = include_str!("measure.txt");

/// The most bytes of a text.
const TEXT_LIMIT: u64 = 256 << 20;

/// Reads a text to measure on, as it is: llama-perplexity and llama-imatrix read `\n` and other escapes
/// in it unless they are given `--no-escape`.
///
/// # Errors
/// It cannot be read, is larger than 256 MiB, or is no UTF-8.
pub fn read_text(world: &dyn World, path: &Path) -> Result<String> {
    let bytes = world::read_file(world, path, TEXT_LIMIT)?;
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        Diagnostic::error("the text is no UTF-8")
            .code("text-encoding")
            .in_file(path, format!("byte {at}"))
            .into()
    })
}

/// How a text is read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reading {
    /// Tokens of a chunk; `None` for 512.
    pub context: Option<usize>,
    /// Chunks at most; `None` for all.
    pub chunks: Option<usize>,
    /// What the model computes with.
    pub compute: Compute,
    /// Where its source computes; `None` for the same place.
    pub source_device: Option<DeviceChoice>,
}

/// How far a measurement is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Chunks that are done.
    pub done: usize,
    /// All of them.
    pub total: usize,
    /// The figure so far: perplexity; the mean divergence where there is a source.
    pub figure: f64,
}

/// What was measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// Tokens of a chunk.
    pub context: usize,
    /// Chunks.
    pub chunks: usize,
    /// Predictions that were scored.
    pub scored: usize,
    /// The model's perplexity.
    pub perplexity: Estimate,
    /// The model held against its source, where there is one.
    pub divergence: Option<Divergence>,
}

impl Measured {
    /// Refuses a model whose mean divergence is above `most` nats.
    ///
    /// # Errors
    /// It is, or is no number.
    pub fn limit_divergence(&self, most: f64) -> Result<()> {
        let Some(d) = &self.divergence else { return Ok(()) };
        if d.mean.value <= most {
            return Ok(());
        }
        Err(Diagnostic::error(format!(
            "the mean KL divergence from the source is {:.6} nats, above the {most} that `--max-kld` allows",
            d.mean.value
        ))
        .code("divergence")
        .label(format!(
            "over {} tokens: median {:.6}, 99.9 % {:.6}, largest {:.6}; perplexity {:.4} where the source has {:.4}; \
             the same likeliest token for {:.2} %",
            self.scored,
            d.quantile(0.5),
            d.quantile(0.999),
            d.quantile(1.0),
            d.perplexity.value,
            d.source_perplexity.value,
            100.0 * d.same_top.value
        ))
        .help("choose a larger quantization, keep some tensors larger with `--tensor-type`, or build with an importance matrix, which `mdl imatrix` makes")
        .into())
    }
}

/// Measures `model` on a text, and against `source` where there is one. `progress` is told after each
/// chunk.
///
/// # Errors
/// A model cannot be loaded or fails, the two read the text as other tokens, or the text is too short.
pub fn measure(
    model: &Module,
    source: Option<&Module>,
    text: &str,
    reading: &Reading,
    progress: &mut dyn FnMut(Step),
) -> Result<Measured> {
    let context = reading.context.unwrap_or(chunks::CONTEXT);
    let model = Loaded::open(model, reading.compute)?;
    let chunks = Chunks::of_text(&model, text, context, reading.chunks)?;
    let total = chunks.len();
    let (perplexity, divergence) = match source {
        None => {
            let mut session = chunks.session(&model.model)?;
            let tell = |done, figure| progress(Step { done, total, figure });
            (perplexity(&mut session, &chunks, tell)?.value(), None)
        }
        Some(source) => {
            let device = reading.source_device.unwrap_or(reading.compute.device);
            let source = Loaded::open(source, Compute { device, ..reading.compute })?;
            if Chunks::of_text(&source, text, context, reading.chunks).ok().as_ref() != Some(&chunks) {
                return Err(Diagnostic::error("the model and its source read the text as other tokens")
                    .code("other-vocabulary")
                    .help("only models of one tokenizer can be held against each other")
                    .into());
            }
            let mut sessions = (chunks.session(&model.model)?, chunks.session(&source.model)?);
            let tell = |done, figure| progress(Step { done, total, figure });
            let found = divergence(&mut sessions.0, &mut sessions.1, &chunks, tell)?;
            (found.perplexity, Some(found))
        }
    };
    let scored = total * chunks.scored_per_chunk();
    Ok(Measured { context, chunks: total, scored, perplexity, divergence })
}
