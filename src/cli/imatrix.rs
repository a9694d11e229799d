//! `mdl imatrix`.

use std::path::PathBuf;

use clap::Args;

use super::eval::ChunkOptions;
use super::progress::Chunked;
use super::{Global, write_out};
use crate::diagnostic::Result;
use crate::formats::imatrix::Collected;
use crate::pipeline::{self, importance, measure, models};
use crate::world::SystemWorld;

/// Computes an importance matrix: how much each column of each matrix matters, on a text that is like
/// what the model will be used for. `mdl build --imatrix`, llama-quantize and others read it.
#[derive(Args)]
#[command(after_help = "\
Examples:
  mdl build -q f16 -t story:f16 .
  mdl imatrix -f calibration.txt story:f16
  mdl build -q q4_K_M --imatrix imatrix.gguf -t story .
  mdl eval story --against story:f16 -f heldout.txt         what it was good for")]
pub(super) struct Imatrix {
    /// The model, best with float weights: a name of the store, or the path of a GGUF file
    model: String,

    /// The text; some hundred KB that are not those it will be tested on
    #[arg(short, long, value_name = "TEXT")]
    file: PathBuf,

    /// Where to write
    #[arg(short, long, value_name = "FILE", default_value = "imatrix.gguf")]
    output: PathBuf,

    #[command(flatten)]
    chunks: ChunkOptions,
}

impl Imatrix {
    pub(super) fn run(self, global: &Global) -> Result<()> {
        let reading = self.chunks.reading(global)?;
        let store = global.open_store()?;
        let text = measure::read_text(&SystemWorld, &self.file)?;
        let model = models::open_to_run(&SystemWorld, &store, &self.model)?;
        let mut progress = Chunked::new(global.progress, "");
        let mut tell = |done, total| progress.tell(done, total, None);
        let mut collected = importance::collect(&model, &text, &reading, &mut tell)?;
        collected.datasets = vec![self.file.display().to_string()];
        pipeline::write_file(&self.output, |out| collected.write(out, &self.output))?;
        write_out(&summary(&collected, &self.output.display().to_string()))
    }
}

fn summary(collected: &Collected, path: &str) -> String {
    let Collected { chunks, context, matrices, .. } = collected;
    let mut out = format!("{path}: {} tensors, {chunks} chunks of {context} tokens\n", matrices.len());
    let unseen = |counts: &[u64]| counts.iter().filter(|n| **n == 0).count();
    for (name, sums) in matrices.iter().filter(|(_, sums)| unseen(sums.counts()) > 0) {
        let (unseen, all) = (unseen(sums.counts()), sums.counts().len());
        out.push_str(&format!(
            "{name}: {unseen} of {all} matrices saw no token; a longer text may reach them\n"
        ));
    }
    out
}
