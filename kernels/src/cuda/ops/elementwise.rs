//! Norms, rows of tables, and one value at a time.

use super::arrays::{Field, Floats, Output};
use super::product::Activation;
use super::weight::{DeviceWeight, kernel_name};
use crate::cuda::launch::Launch;
use crate::cuda::{CudaError, Memory, Stream};

/// Blocks of 256 threads for so many values of each of so many columns.
fn grid(n: usize, columns: usize) -> [usize; 3] {
    [n.div_ceil(256), columns, 1]
}

/// `out = scale * row` for the row of each index, or `out += row`.
///
/// # Errors
/// The driver fails.
///
/// # Panics
/// If a length does not fit, or an index may be beyond the rows.
pub fn embed(
    stream: &Stream,
    table: &DeviceWeight,
    ids: &Field,
    columns: usize,
    scale: f32,
    add: bool,
    out: &Floats,
) -> Result<(), CudaError> {
    assert_eq!(table.count, 1, "one table");
    ids.check(columns, table.rows);
    out.check(columns, table.cols);
    let kernel = format!("embed_{}", kernel_name(table.ty));
    let launch = Launch::new(stream, &kernel, grid(table.cols, columns), 256).memory(&table.memory, 0);
    let launch = launch.int(table.rows).int(table.cols).memory(&ids.memory, ids.at).memory(&out.memory, 0);
    // SAFETY: the indices are below the rows, and `out` has so many columns of `cols`.
    unsafe { launch.float(scale).flag(add).queue() }
}

/// Which norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// By the root of the mean of squares.
    Rms = 0,
    /// By the deviation, less the mean.
    Layer = 1,
}

/// A norm's vectors, and what it takes beside them.
#[derive(Clone, Copy)]
pub struct Norm<'a> {
    /// Which.
    pub kind: NormKind,
    /// What is multiplied with, `[width]`.
    pub weight: &'a Floats,
    /// What is added.
    pub bias: Option<&'a Floats>,
    /// Added to the mean of squares.
    pub epsilon: f32,
}

/// `out = norm(x)` of so many columns.
///
/// # Errors
/// The driver fails.
///
/// # Panics
/// If a length does not fit.
pub fn norm(
    stream: &Stream,
    of: &Norm<'_>,
    x: &Floats,
    columns: usize,
    out: Output<'_>,
) -> Result<(), CudaError> {
    let n = x.width;
    x.check(columns, n);
    out.check(columns, n);
    of.weight.check(1, n);
    if let Some(bias) = of.bias {
        bias.check(1, n);
    }
    let threads = if columns <= 8 { 1024 } else { 256 };
    let kernel = if out.blocks().is_some() { "norm_quantize" } else { "norm_columns" };
    let launch = Launch::new(stream, kernel, [columns, 1, 1], threads).shared(4 * n).memory(&x.memory, 0);
    let launch = launch.memory(&of.weight.memory, 0).option(of.bias.map(|b| &b.memory));
    let launch = match out {
        Output::Floats(out) => launch.memory(&out.memory, 0),
        Output::Blocks(out) => launch.memory(&out.q, 0).memory(&out.meta, 0),
    };
    // SAFETY: all have so many columns of `n`, and the vectors `n` values.
    unsafe { launch.int(n).int(of.kind as usize).float(of.epsilon).queue() }
}

/// `out = blocks of x` for so many columns.
///
/// # Errors
/// The driver fails.
///
/// # Panics
/// If a length does not fit.
pub fn quantize(stream: &Stream, x: &Floats, columns: usize, out: &super::Blocks) -> Result<(), CudaError> {
    x.check(columns, out.width);
    out.check(columns, x.width);
    let launch = Launch::new(stream, "quantize", grid(x.width, columns), 256).memory(&x.memory, 0);
    // SAFETY: both have so many columns of `width`.
    unsafe { launch.memory(&out.q, 0).memory(&out.meta, 0).int(x.width).queue() }
}

/// `out = activation(first half of x) * second half`; without a gate, `out = activation(x)`.
///
/// # Errors
/// The driver fails.
///
/// # Panics
/// If a length does not fit.
pub fn gate(
    stream: &Stream,
    activation: Activation,
    x: &Floats,
    gated: bool,
    columns: usize,
    out: Output<'_>,
) -> Result<(), CudaError> {
    let n = if gated { x.width / 2 } else { x.width };
    x.check(columns, if gated { 2 * n } else { n });
    out.check(columns, n);
    let kernel = if out.blocks().is_some() { "gate_quantize" } else { "gate" };
    let launch = Launch::new(stream, kernel, grid(n, columns), 256).memory(&x.memory, 0);
    let launch = match out {
        Output::Floats(out) => launch.memory(&out.memory, 0),
        Output::Blocks(out) => launch.memory(&out.q, 0).memory(&out.meta, 0),
    };
    // SAFETY: the input has so many columns of `n` or twice as many values, the output of `n`.
    unsafe { launch.int(n).int(activation as usize).flag(gated).queue() }
}

/// `out += factor * x`.
///
/// # Errors
/// The driver fails.
///
/// # Panics
/// If a length does not fit.
pub fn add(stream: &Stream, x: &Floats, factor: f32, columns: usize, out: &Floats) -> Result<(), CudaError> {
    x.check(columns, out.width);
    out.check(columns, x.width);
    let launch = Launch::new(stream, "add", grid(x.width, columns), 256).memory(&x.memory, 0);
    // SAFETY: both have so many columns of `width`.
    unsafe { launch.memory(&out.memory, 0).int(x.width).float(factor).queue() }
}

/// `out[at..] += bias` in each column.
///
/// # Errors
/// The driver fails.
///
/// # Panics
/// If a length does not fit.
pub fn add_bias(
    stream: &Stream,
    bias: &Floats,
    columns: usize,
    out: &Floats,
    at: usize,
) -> Result<(), CudaError> {
    assert!(columns <= out.columns && at + bias.width <= out.width, "the bias is within a column");
    let launch = Launch::new(stream, "add_bias", grid(bias.width, columns), 256).memory(&bias.memory, 0);
    // SAFETY: each column has `bias.width` values from `at` on.
    unsafe { launch.memory(&out.memory, 4 * at).int(bias.width).int(out.width).queue() }
}

/// Column i of `out` is column `which[i]` of `x`.
///
/// # Errors
/// The driver fails.
///
/// # Panics
/// If a length does not fit, or an index may be beyond the columns.
pub fn select(
    stream: &Stream,
    x: &Floats,
    which: &Field,
    count: usize,
    out: &Floats,
) -> Result<(), CudaError> {
    which.check(count, x.columns);
    out.check(count, x.width);
    let launch = Launch::new(stream, "select_columns", grid(x.width, count), 256).memory(&x.memory, 0);
    // SAFETY: the indices are below the columns of `x`, and `out` has so many columns.
    unsafe { launch.memory(&which.memory, which.at).memory(&out.memory, 0).int(x.width).queue() }
}

/// `x = cap * tanh(scale * x / cap)`; without a cap, `x = scale * x`.
///
/// # Errors
/// The driver fails.
///
/// # Panics
/// If there are not so many columns.
pub fn scale_logits(
    stream: &Stream,
    x: &Floats,
    scale: f32,
    cap: Option<f32>,
    columns: usize,
) -> Result<(), CudaError> {
    x.check(columns, x.width);
    let launch = Launch::new(stream, "scale_logits", grid(x.width, columns), 256).memory(&x.memory, 0);
    // SAFETY: there are so many columns.
    unsafe { launch.int(x.width).float(scale).float(cap.unwrap_or(0.0)).queue() }
}

/// Sets the int32 at the start of `flag` where a value is not finite.
///
/// # Errors
/// The driver fails.
///
/// # Panics
/// If there are not so many columns, or no flag.
pub fn check_finite(stream: &Stream, x: &Floats, columns: usize, flag: &Memory) -> Result<(), CudaError> {
    x.check(columns, x.width);
    assert!(flag.len() >= 4, "an int32");
    let blocks = x.width.div_ceil(256).min(64);
    let launch = Launch::new(stream, "check_finite", [blocks, columns, 1], 256).memory(&x.memory, 0);
    // SAFETY: there are so many columns, and a flag.
    unsafe { launch.int(x.width).memory(flag, 0).queue() }
}

/// A mixture of experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mixture {
    /// Experts there are.
    pub experts: usize,
    /// Experts that a column goes through.
    pub used: usize,
    /// The weights of the chosen sum up to 1.
    pub normalised: bool,
}

/// `out`: the experts with the highest probability, as numbers, then their weights.
///
/// # Errors
/// The driver fails.
///
/// # Panics
/// If a length does not fit.
pub fn route(
    stream: &Stream,
    logits: &Floats,
    mixture: &Mixture,
    columns: usize,
    out: &Floats,
) -> Result<(), CudaError> {
    let Mixture { experts, used, normalised } = *mixture;
    assert!((1..=experts).contains(&used), "some of the experts");
    logits.check(columns, experts);
    out.check(columns, 2 * used);
    let launch =
        Launch::new(stream, "route", [columns, 1, 1], 32).shared(4 * experts).memory(&logits.memory, 0);
    // SAFETY: both have so many columns.
    unsafe { launch.memory(&out.memory, 0).int(experts).int(used).flag(normalised).queue() }
}

/// `out`: the sum of the parts of `x`, each by its expert's weight.
///
/// # Errors
/// The driver fails.
///
/// # Panics
/// If a length does not fit.
pub fn mix(
    stream: &Stream,
    x: &Floats,
    chosen: &Floats,
    columns: usize,
    out: &Floats,
) -> Result<(), CudaError> {
    let used = chosen.width / 2;
    x.check(columns, used * out.width);
    chosen.check(columns, 2 * used);
    out.check(columns, out.width);
    let launch = Launch::new(stream, "mix", grid(out.width, columns), 256).memory(&x.memory, 0);
    // SAFETY: all have so many columns.
    unsafe { launch.memory(&chosen.memory, 0).memory(&out.memory, 0).int(out.width).int(used).queue() }
}
