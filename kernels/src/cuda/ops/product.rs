//! Weights times columns, gates and experts.

use super::arrays::{Blocks, Floats, Output};
use super::weight::{DeviceWeight, UNIT, kernel_name};
use crate::TensorType;
use crate::cuda::launch::Launch;
use crate::cuda::{CudaError, Memory, Stream};

/// What a weight is multiplied with.
#[derive(Clone, Copy)]
pub enum Input<'a> {
    /// Floats, for a float weight.
    Floats(&'a Floats),
    /// Blocks, for a quantized one.
    Blocks(&'a Blocks),
}

/// Where the rows of a product go in a column.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// The columns.
    pub out: &'a Floats,
    /// The row of the product's first.
    pub at: usize,
    /// It is added to what is there.
    pub add: bool,
}

/// What a gate does to its values, in the order of the kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x / (1 + e^-x)`.
    Silu = 0,
    /// The Gaussian error linear unit, by `tanh`.
    GeluTanh = 1,
    /// The same, by the error function.
    GeluErf = 2,
    /// `max(x, 0)`.
    Relu = 3,
    /// Its square.
    ReluSquared = 4,
}

/// Threads of a block whose warps each take a segment of the columns.
fn segment_threads(cols: usize) -> usize {
    32 * cols.div_ceil(UNIT).clamp(1, 16)
}

/// Columns from which on a product goes through the matrix unit by tiles of 128 columns.
const MANY: usize = 64;

/// Adds the input's addresses; checks that it is what the weight takes.
fn input<'a>(launch: Launch<'a>, weight: &DeviceWeight, x: Input<'_>, columns: usize) -> Launch<'a> {
    match x {
        Input::Floats(x) => {
            assert!(!weight.takes_blocks(), "a quantized weight takes blocks");
            x.check(columns, weight.cols);
            launch.memory(&x.memory, 0)
        }
        Input::Blocks(x) => {
            assert!(weight.takes_blocks(), "a float weight takes floats");
            x.check(columns, weight.cols);
            launch.memory(&x.q, 0).memory(&x.meta, 0)
        }
    }
}

/// `out = weight * x + bias` for so many columns. `narrow` is room for the columns in the weight's type, for a float
/// weight and many columns: bytes of two for each value.
///
/// # Errors
/// The driver fails.
///
/// # Panics
/// If a length does not fit, or the weight is one of several.
pub fn matmul(
    stream: &Stream,
    weight: &DeviceWeight,
    bias: Option<&Floats>,
    x: Input<'_>,
    columns: usize,
    place: &Place<'_>,
    narrow: Option<&Memory>,
) -> Result<(), CudaError> {
    let (rows, cols, out) = (weight.rows, weight.cols, place.out);
    assert_eq!(weight.count, 1, "one weight");
    assert!(columns <= out.columns && place.at + rows <= out.width, "the product has its rows");
    if let Some(bias) = bias {
        bias.check(1, rows);
    }
    let (name, panels) = (kernel_name(weight.ty), rows.div_ceil(32));
    let bias = bias.map(|b| &b.memory);
    let to = (&out.memory, 4 * place.at);
    if let (Input::Floats(x), true, true, Some(narrow)) = (
        x,
        columns > 8 && cols.is_multiple_of(8),
        matches!(weight.ty, TensorType::F16 | TensorType::BF16),
        narrow,
    ) {
        x.check(columns, cols);
        let n = columns * cols;
        assert!(2 * n <= narrow.len(), "room for the narrowed columns");
        let kernel = format!("narrow_{name}");
        let launch = Launch::new(stream, &kernel, [n.div_ceil(256), 1, 1], 256);
        // SAFETY: both have `n` values.
        unsafe { launch.memory(&x.memory, 0).memory(narrow, 0).int(n).queue()? };
        let kernel = format!("matmul_{name}");
        let grid = [columns.div_ceil(64), rows.div_ceil(128), 1];
        let launch = Launch::new(stream, &kernel, grid, 256).memory(&weight.memory, 0).int(rows).int(cols);
        let launch = launch.memory(narrow, 0).option(bias).memory(to.0, to.1);
        // SAFETY: the weight has `rows` rows of `cols`, `narrow` the columns, and `out` the rows of each column.
        return unsafe { launch.int(out.width).int(columns).flag(place.add).queue() };
    }
    // SAFETY, of each launch below: the weight has `rows` rows of `cols`, the input `columns` columns of `cols` and
    // `out` as many with these rows, as checked above and by `input`.
    if columns == 1 {
        let kernel = format!("matvec_{name}_1");
        let launch = Launch::new(stream, &kernel, [panels, 1, 1], segment_threads(cols));
        let launch = input(launch.memory(&weight.memory, 0).int(rows).int(cols), weight, x, 1);
        let launch = launch.option(bias).memory(to.0, to.1).int(out.width).flag(place.add);
        // SAFETY: as said.
        return unsafe { launch.option(None).int(1).int(0).long(0).queue() };
    }
    let few = |kernel: String, grid: [usize; 3], threads: usize| {
        let launch = Launch::new(stream, &kernel, grid, threads);
        let launch = input(launch.memory(&weight.memory, 0).int(rows).int(cols), weight, x, columns);
        let launch = launch.option(bias).memory(to.0, to.1).int(out.width).int(columns).flag(place.add);
        // SAFETY: as said.
        unsafe { launch.queue() }
    };
    if columns <= 4 || !weight.takes_blocks() {
        let grid = [panels, columns.div_ceil(4), 1];
        return few(format!("matvec_{name}_4"), grid, segment_threads(cols));
    }
    if columns < MANY {
        let most = if columns <= 8 { 8 } else { 32 };
        return few(format!("matmul_{name}_{most}"), [panels, columns.div_ceil(most), 1], 256);
    }
    let kernel = format!("matmul_{name}");
    let grid = [columns.div_ceil(128), rows.div_ceil(128), 1];
    let launch = Launch::new(stream, &kernel, grid, 512).memory(&weight.memory, 0).int(rows).int(cols);
    let launch = input(launch, weight, x, columns).option(bias).memory(to.0, to.1);
    let launch = launch.int(out.width).int(columns).flag(place.add).option(None).option(None);
    // SAFETY: as said; without an order there are no experts.
    unsafe { launch.int(1).int(0).long(0).queue() }
}

/// `out = activation(gate * x + bias) * (up * x + bias)` for at most four columns; without `up`, the activation alone.
/// Where gate and up are the halves of one weight, `up` is none and `halves` is set.
///
/// # Errors
/// The driver fails.
///
/// # Panics
/// If a length does not fit, or the weights are no quantized ones of one type and shape.
#[expect(clippy::too_many_arguments, reason = "what the operation takes")]
pub fn gated(
    stream: &Stream,
    gate: &DeviceWeight,
    up: Option<&DeviceWeight>,
    halves: bool,
    biases: [Option<&Floats>; 2],
    x: &Blocks,
    columns: usize,
    activation: Activation,
    out: Output<'_>,
) -> Result<(), CudaError> {
    let rows = if halves { gate.rows / 2 } else { gate.rows };
    let up_panel = if halves { rows / 32 } else { 0 };
    assert!(gate.takes_blocks() && gate.count == 1 && (1..=4).contains(&columns), "a few columns of blocks");
    assert!(!halves || (gate.rows == 2 * rows && rows.is_multiple_of(32)), "halves of whole panels");
    if let Some(up) = up {
        assert!(
            !halves && (up.ty, up.rows, up.cols, up.count) == (gate.ty, gate.rows, gate.cols, 1),
            "of one shape"
        );
    }
    assert!(out.blocks().is_none() || rows.is_multiple_of(32), "whole blocks");
    x.check(columns, gate.cols);
    out.check(columns, rows);
    biases.iter().flatten().for_each(|b| b.check(1, rows));
    let c = if columns == 1 { 1 } else { 4 };
    let kernel = format!("gated_{}_{c}", kernel_name(gate.ty));
    let grid = [rows.div_ceil(32), columns.div_ceil(c), 1];
    let second = if halves { Some(&gate.memory) } else { up.map(|up| &up.memory) };
    let launch = Launch::new(stream, &kernel, grid, segment_threads(gate.cols)).memory(&gate.memory, 0);
    let launch = launch.option(second).int(gate.rows).int(up_panel).int(rows).int(gate.cols);
    let launch = launch.memory(&x.q, 0).memory(&x.meta, 0);
    let launch = launch.option(biases[0].map(|b| &b.memory)).option(biases[1].map(|b| &b.memory));
    let launch = launch.int(activation as usize).option(out.floats());
    let blocks = out.blocks();
    let launch = launch.option(blocks.map(|b| &b.q)).option(blocks.map(|b| &b.meta)).int(columns);
    // SAFETY: both weights have `rows` rows of `cols` from their panel on, and inputs and outputs their columns.
    unsafe { launch.queue() }
}

/// Which experts a product is of.
#[derive(Clone, Copy)]
pub struct ExpertsOf<'a> {
    /// `[columns, 2 used]`, from [`super::route`]: so each number is below the number of experts.
    pub chosen: &'a Floats,
    /// Each of the chosen has an input column for itself: `columns * used` of them.
    pub each: bool,
    /// Room for the pairs of columns and places, `[columns * used]` numbers of four bytes, and for `[experts + 1]`.
    pub order: (&'a Memory, &'a Memory),
}

/// Rows `at..` of each column of `out`: for each expert chosen for it, its product.
///
/// # Errors
/// The driver fails.
///
/// # Panics
/// If a length does not fit.
pub fn experts(
    stream: &Stream,
    weight: &DeviceWeight,
    of: &ExpertsOf<'_>,
    x: Input<'_>,
    columns: usize,
    place: &Place<'_>,
) -> Result<(), CudaError> {
    let (rows, cols, out, used) = (weight.rows, weight.cols, place.out, of.chosen.width / 2);
    assert!(
        columns <= out.columns && place.at + used * rows <= out.width && !place.add,
        "the products have rows"
    );
    assert!(columns <= of.chosen.columns && used > 0, "each column has its experts");
    let name = kernel_name(weight.ty);
    let inputs = if of.each { columns * used } else { columns };
    let few = columns < MANY || !weight.takes_blocks();
    if few {
        let kernel = format!("matvec_{name}_1");
        let grid = [rows.div_ceil(32), columns * used, 1];
        let launch = Launch::new(stream, &kernel, grid, segment_threads(cols));
        let launch = input(launch.memory(&weight.memory, 0).int(rows).int(cols), weight, x, inputs);
        let launch = launch.option(None).memory(&out.memory, 4 * place.at).int(out.width).flag(false);
        let launch = launch.memory(&of.chosen.memory, 0).int(used).flag(of.each).long(weight.bytes);
        // SAFETY: the weight has an expert of each number that `route` gives; the rest is checked above.
        return unsafe { launch.queue() };
    }
    let (pairs, offsets) = of.order;
    assert!(
        4 * columns * used <= pairs.len() && 4 * (weight.count + 1) <= offsets.len(),
        "room for the order"
    );
    let launch = Launch::new(stream, "experts_group", [1, 1, 1], 256).shared(4 * weight.count);
    let launch = launch.memory(&of.chosen.memory, 0).int(columns).int(used).int(weight.count);
    // SAFETY: the numbers in `chosen` are below the number of experts; there is room for the order.
    unsafe { launch.memory(pairs, 0).memory(offsets, 0).queue()? };
    let kernel = format!("matmul_{name}");
    let grid = [columns.div_ceil(128), rows.div_ceil(128), weight.count];
    let launch = Launch::new(stream, &kernel, grid, 512).memory(&weight.memory, 0).int(rows).int(cols);
    let launch = input(launch, weight, x, inputs);
    let launch =
        launch.option(None).memory(&out.memory, 4 * place.at).int(out.width).int(columns).flag(false);
    let launch = launch.memory(pairs, 0).memory(offsets, 0).int(used).flag(of.each).long(weight.bytes);
    // SAFETY: as above; an expert is chosen at most once for a column.
    unsafe { launch.queue() }
}
