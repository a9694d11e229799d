//! `mdl eval`.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::progress::Chunked;
use super::{Global, usage, write_out};
use crate::diagnostic::Result;
use crate::pipeline::measure::{self, Measured, Reading};
use crate::pipeline::models;
use crate::runtime::device::DeviceChoice;
use crate::runtime::perplexity::Estimate;
use crate::world::SystemWorld;

/// Measures how well a model predicts a text: its perplexity, as llama-perplexity defines it, and with
/// `--against` how far its predictions are from those of another model, such as its float weights.
#[derive(Args)]
#[command(after_help = "\
Examples:
  mdl eval story -f heldout.txt
  mdl eval story:q4_K_M --against story:f16 -f heldout.txt
  mdl eval model.gguf --against f16.gguf --json
  mdl eval story:q4_0 --against story:f16 --max-kld 0.05      fails above it, for a pipeline
  mdl eval story --device cuda --against story --against-device cpu      how far a GPU is from the CPU")]
pub(super) struct Eval {
    /// The model: a name of the store, or the path of a GGUF file
    model: String,

    /// The text [default: a sample of prose, dialogue and code that mdl brings]
    #[arg(short, long, value_name = "TEXT")]
    file: Option<PathBuf>,

    /// The model it was made of, or any other that reads text as the same tokens
    #[arg(long, value_name = "SOURCE")]
    against: Option<String>,

    /// Where SOURCE computes, as --device [default: where the model does]
    #[arg(long, value_name = "DEVICE", requires = "against")]
    against_device: Option<DeviceChoice>,

    #[command(flatten)]
    chunks: ChunkOptions,

    /// Fail when the mean KL divergence from SOURCE is above this many nats
    #[arg(long, value_name = "NATS", value_parser = super::build::nats, requires = "against")]
    max_kld: Option<f64>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// How a text is cut.
#[derive(Args, Clone, Copy)]
pub(super) struct ChunkOptions {
    /// Tokens of a chunk [default: 512]
    #[arg(long, value_name = "N")]
    ctx: Option<usize>,

    /// Read so many chunks only
    #[arg(long, value_name = "N")]
    chunks: Option<usize>,
}

impl ChunkOptions {
    pub(super) fn reading(self, global: &Global) -> Result<Reading> {
        if self.chunks == Some(0) {
            return Err(usage("`--chunks 0` leaves nothing to read"));
        }
        Ok(Reading { context: self.ctx, chunks: self.chunks, compute: global.compute(), source_device: None })
    }
}

impl Eval {
    pub(super) fn run(self, global: &Global) -> Result<()> {
        let reading = Reading { source_device: self.against_device, ..self.chunks.reading(global)? };
        let store = global.open_store()?;
        let text = match &self.file {
            Some(path) => measure::read_text(&SystemWorld, path)?,
            None => measure::TEXT.to_owned(),
        };
        let model = models::open_to_run(&SystemWorld, &store, &self.model)?;
        let source = match &self.against {
            Some(source) => Some(models::open_to_run(&SystemWorld, &store, source)?),
            None => None,
        };
        let figure = if source.is_some() { "KL divergence" } else { "perplexity" };
        let mut progress = Chunked::new(global.progress, figure);
        let mut tell = |s: measure::Step| progress.tell(s.done, s.total, Some(s.figure));
        let measured = measure::measure(&model, source.as_ref(), &text, &reading, &mut tell)?;
        match self.json {
            true => write_out(&format!("{:#}\n", self.json(&measured)))?,
            false => write_out(&table(&measured))?,
        }
        self.max_kld.map_or(Ok(()), |most| measured.limit_divergence(most))
    }

    /// One document; what is not measured is not there.
    fn json(&self, measured: &Measured) -> Value {
        let file = self.file.as_ref().map(|f| f.display().to_string());
        let mut out = json!({
            "model": self.model,
            "text": file,
            "context": measured.context,
            "chunks": measured.chunks,
            "scored_tokens": measured.scored,
            "perplexity": estimate(measured.perplexity),
        });
        if let Some(d) = &measured.divergence {
            out["against"] = json!({"model": self.against, "perplexity": estimate(d.source_perplexity)});
            out["perplexity_ratio"] = estimate(d.ratio);
            out["kl_divergence"] = estimate(d.mean);
            for (name, _, part) in QUANTILES {
                out["kl_divergence"][*name] = json!(d.quantile(*part));
            }
            out["same_top"] = estimate(d.same_top);
            out["delta_p"] = json!({"mean": estimate(d.delta_p), "rms": estimate(d.delta_p_rms)});
        }
        out
    }
}

/// Name in JSON, name in the table, part of the predictions.
const QUANTILES: &[(&str, &str, f64)] = &[
    ("median", "median", 0.5),
    ("p90", "90 %", 0.9),
    ("p99", "99 %", 0.99),
    ("p99_9", "99.9 %", 0.999),
    ("max", "largest", 1.0),
];

fn estimate(e: Estimate) -> Value {
    json!({"value": e.value, "error": e.error})
}

/// One figure a line.
fn table(measured: &Measured) -> String {
    let Measured { context, chunks, scored, .. } = measured;
    let mut lines = Lines(format!("{chunks} chunks of {context} tokens, {scored} predictions scored\n\n"));
    lines.estimate("perplexity", measured.perplexity, 4, "");
    if let Some(d) = &measured.divergence {
        lines.estimate("perplexity of the source", d.source_perplexity, 4, "");
        lines.estimate("ratio", d.ratio, 5, "");
        lines.estimate("KL divergence, mean", d.mean, 6, " nats");
        for (_, name, part) in QUANTILES {
            lines.figure(&format!("  {name}"), d.quantile(*part), 6);
        }
        lines.percent("same likeliest token", d.same_top);
        lines.percent("change of p, mean", d.delta_p);
        lines.percent("change of p, RMS", d.delta_p_rms);
    }
    lines.0
}

struct Lines(String);

impl Lines {
    fn figure(&mut self, name: &str, value: f64, digits: usize) {
        self.0.push_str(&format!("{name:<26} {value:>12.digits$}\n"));
    }

    fn estimate(&mut self, name: &str, of: Estimate, digits: usize, unit: &str) {
        let Estimate { value, error } = of;
        self.0.push_str(&format!("{name:<26} {value:>12.digits$} ± {error:.digits$}{unit}\n"));
    }

    fn percent(&mut self, name: &str, of: Estimate) {
        self.estimate(name, Estimate { value: 100.0 * of.value, error: 100.0 * of.error }, 3, " %");
    }
}
