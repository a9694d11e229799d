//! `mdl diff`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use similar::{Algorithm, TextDiff};

use super::{Global, progress::Shown, table, write_out};
use crate::diagnostic::{Errors, Kind, Result};
use crate::pipeline::diff::{self, Difference, LayerDifference, WeightDifference};
use crate::pipeline::models;
use crate::world::SystemWorld;

/// Lines around a change of a text.
const CONTEXT: usize = 3;

/// The most time for the shortest diff of one text; then a longer one is shown.
const DEADLINE: Duration = Duration::from_secs(2);

/// Says what differs between two models: metadata, tensors, and the texts of their layers.
#[derive(Args)]
#[command(after_help = "\
Examples:
  mdl diff story:q4_K_M story:q5_K_M
  mdl diff story model.gguf --weights --top 20
  mdl diff before.gguf after.gguf --json

Exit codes: 0 nothing differs, 1 something does, 2 usage or no such model, 3 the environment failed.")]
pub(super) struct Diff {
    /// A model: a name of the store, or the path of a GGUF file
    a: String,

    /// The other
    b: String,

    /// Say how far the weights are apart, also of tensors whose types differ
    #[arg(long)]
    weights: bool,

    /// So many tensors of `--weights`, those furthest apart first
    #[arg(long, value_name = "N", default_value_t = 10, requires = "weights")]
    top: usize,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Diff {
    /// 0 when nothing differs, else 1. What is wrong with the input is an error of usage here: 1 is taken.
    pub(super) fn run(self, global: &Global) -> Result<ExitCode> {
        self.compare(global).map_err(|Errors(mut all)| {
            all.iter_mut().filter(|d| d.kind == Kind::Input).for_each(|d| d.kind = Kind::Usage);
            Errors(all)
        })
    }

    fn compare(&self, global: &Global) -> Result<ExitCode> {
        let store = global.open_store()?;
        let a = models::open_to_read(&SystemWorld, &store, &self.a)?;
        let b = models::open_to_read(&SystemWorld, &store, &self.b)?;
        let found = diff::compare(&a, &b)?;
        let weights = match self.weights {
            true => Some(diff::compare_weights(&a.module, &b.module, &Shown::new(global.progress))?),
            false => None,
        };
        match self.json {
            true => write_out(&format!("{:#}\n", self.document(&found, weights.as_deref())))?,
            false => write_out(&self.text(&found, weights.as_deref()))?,
        }
        Ok(if found.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
    }

    fn text(&self, found: &Difference, weights: Option<&[WeightDifference]>) -> String {
        if found.is_empty() {
            return format!("{} and {} do not differ\n", self.a, self.b);
        }
        let mut out = format!("--- {}\n+++ {}\n", self.a, self.b);
        let mut section = |title: &str, body: String| {
            if !body.is_empty() {
                out.push_str(&format!("\n{title}\n{body}"));
            }
        };
        section("Metadata", metadata(found));
        section("Tensors", tensors(found));
        for layer in &found.layers {
            section(layer.name, unified(layer));
        }
        if let Some(weights) = weights {
            section("Weights", self.furthest(weights));
        }
        out
    }

    fn furthest(&self, weights: &[WeightDifference]) -> String {
        if weights.is_empty() {
            return "  no value differs\n".to_owned();
        }
        let rows: Vec<Vec<String>> = weights
            .iter()
            .take(self.top)
            .map(|d| {
                let broken = if d.not_finite > 0 { d.not_finite.to_string() } else { String::new() };
                vec![
                    format!("  {}", d.name),
                    format!("{:.6}", d.relative),
                    format!("{:.6e}", d.largest),
                    broken,
                ]
            })
            .collect();
        let header = ["  TENSOR", "RELATIVE NORM", "LARGEST", "NOT FINITE"];
        let header = if weights.iter().any(|d| d.not_finite > 0) { &header[..] } else { &header[..3] };
        let rows: Vec<Vec<String>> = rows.into_iter().map(|r| r[..header.len()].to_vec()).collect();
        let left = weights.len().saturating_sub(self.top);
        let more = if left > 0 { format!("  ... and {left} more\n") } else { String::new() };
        format!("{}\n{more}", table::columns(header, &rows))
    }

    fn document(&self, found: &Difference, weights: Option<&[WeightDifference]>) -> Value {
        let tensor = |t: &Option<(crate::ir::Shape, mdl_kernels::TensorType)>| {
            t.as_ref().map(|(shape, ty)| json!({"shape": shape.0, "type": ty.name()}))
        };
        let mut out = json!({
            "a": self.a,
            "b": self.b,
            "equal": found.is_empty(),
            "metadata": found.metadata.iter()
                .map(|d| json!({"key": d.key, "a": d.a, "b": d.b, "elements": d.elements})).collect::<Vec<_>>(),
            "tensors": found.tensors.iter()
                .map(|d| json!({"name": d.name, "a": tensor(&d.a), "b": tensor(&d.b), "values": d.is_of_values()}))
                .collect::<Vec<_>>(),
            "layers": found.layers.iter()
                .map(|d| json!({"name": d.name, "diff": unified(d)})).collect::<Vec<_>>(),
        });
        if let Some(weights) = weights {
            let all = weights.iter().take(self.top);
            out["weights"] = all
                .map(|d| json!({"name": d.name, "relative_norm": d.relative, "largest": d.largest, "not_finite": d.not_finite}))
                .collect();
        }
        out
    }
}

fn metadata(found: &Difference) -> String {
    let mut out = String::new();
    for d in &found.metadata {
        out.push_str(&match (&d.a, &d.b, &d.elements) {
            (Some(_), Some(b), Some(elements)) => format!("  ~ {} = {b}; {elements}\n", d.key),
            (a, b, _) => {
                let line = |sign: char, v: &Option<String>| {
                    v.as_ref().map(|v| format!("  {sign} {} = {v}\n", d.key)).unwrap_or_default()
                };
                line('-', a) + &line('+', b)
            }
        });
    }
    out
}

fn tensors(found: &Difference) -> String {
    let mut out = String::new();
    for d in &found.tensors {
        out.push_str(&match (&d.a, &d.b) {
            (Some((shape, ty)), Some(_)) if d.is_of_values() => {
                format!("  ~ {} {ty} {shape}: other values\n", d.name)
            }
            (Some((old, a)), Some((new, b))) if old == new => format!("  ~ {} {old}: {a} to {b}\n", d.name),
            (Some((old, a)), Some((new, b))) => format!("  ~ {}: {a} {old} to {b} {new}\n", d.name),
            (Some((shape, ty)), None) => format!("  - {} {ty} {shape}\n", d.name),
            (None, Some((shape, ty))) => format!("  + {} {ty} {shape}\n", d.name),
            (None, None) => String::new(),
        });
    }
    out
}

/// The hunks of a text's change.
fn unified(layer: &LayerDifference) -> String {
    let ended = |text: &str| match text.is_empty() || text.ends_with('\n') {
        true => text.to_owned(),
        false => format!("{text}\n"),
    };
    let (a, b) = (ended(&layer.a), ended(&layer.b));
    if a == b {
        return "  the line end at the end differs\n".to_owned();
    }
    let diff = TextDiff::configure().algorithm(Algorithm::Myers).timeout(DEADLINE).diff_lines(&a, &b);
    diff.unified_diff().context_radius(CONTEXT).to_string()
}
