//! Float weights times float32 columns.
//!
//! A product is the sum of the sums of blocks of [`BLOCK`] terms. A block's sum starts at 0 and takes its
//! terms in order, each by one fused multiply-add; the product starts as the first block's sum, to which
//! the others are added in order. So a lane can be a row: no sum goes across lanes, a weight is one vector
//! of sixteen rows ([`pack`]), and an activation is one broadcast.
//!
//! Few columns take the weights as they come, in one pass over memory. More are multiplied block by block:
//! a block of two panels is widened to float32 once and stays in the first-level cache while all columns
//! pass, and a block of the columns stays in the second-level cache while all panels of the call pass.

mod pack;
mod tile;

use std::ops::Range;

use super::matmul::Weight;
use super::on_level;
use super::simd::{LANES, Simd};
use crate::{Level, TensorType};

pub use pack::PackedFloat;
use tile::{Bf16, F16, F32, Float, Line, Wide};

/// Terms of a block.
const BLOCK: usize = 128;

/// Panels that share a block of columns.
const PANELS: usize = 16;

/// Columns that share a widened block of a panel: a multiple of every tile's columns.
const COLUMNS: usize = 264;

/// Columns up to which the weights are taken as they come.
const FEW: usize = 24;

/// Room for a product, kept from call to call.
#[derive(Default)]
pub(super) struct Room {
    /// Columns, or a block of them, as tiles take them.
    x: Vec<Line>,
    /// Widened blocks of panels.
    wide: Vec<Line>,
    /// `[columns, panels]`.
    sums: Vec<Line>,
    /// A panel of a weight that has not been packed.
    panel: Vec<u8>,
}

impl Room {
    /// Bytes that it takes at most with rows of `cols` values.
    pub(super) const fn bytes(cols: usize) -> usize {
        let few = FEW * cols.next_multiple_of(LANES) * size_of::<f32>();
        let block = COLUMNS * BLOCK * size_of::<f32>();
        let x = if few > block { few } else { block };
        x + (2 * BLOCK + COLUMNS * PANELS) * size_of::<Line>() + cols * LANES * size_of::<f32>()
    }
}

/// Gives `put(row, column, values)` the products of consecutive rows with each of `n` columns. `packed` are
/// the panels of `weight`.
///
/// # Panics
/// If `x` does not have `n` columns, or `packed` are the panels of a weight of another shape or type.
#[allow(clippy::too_many_arguments)]
pub(super) fn multiply(
    level: Level,
    weight: &Weight<'_>,
    packed: Option<&PackedFloat>,
    rows: Range<usize>,
    x: &[f32],
    n: usize,
    room: &mut Room,
    put: &mut dyn FnMut(usize, usize, &[f32]),
) {
    assert_eq!(x.len(), n * weight.cols(), "an input column has a value for each of the weight's columns");
    let product = |panels: &[u8], first: usize, room: &mut Room, put: Put<'_>| {
        let input = Input { panels, cols: weight.cols(), x };
        multiply_panels(level, weight.tensor_type(), input, room, &mut |row, column, values| {
            // The lanes that are rows of the product.
            let first = first + row;
            let (start, end) = (first.max(rows.start), (first + values.len()).min(rows.end));
            if start < end {
                put(start, column, &values[start - first..end - first]);
            }
        });
    };
    if let Some(packed) = packed {
        assert!(packed.is_of(weight), "the panels are those of the weight");
        let mut panel = rows.start / LANES;
        let end = rows.end.div_ceil(LANES);
        while panel < end {
            let next = (panel + PANELS).min(end);
            product(packed.panels(panel..next), panel * LANES, room, put);
            panel = next;
        }
        return;
    }
    let mut panel = std::mem::take(&mut room.panel);
    panel.resize(pack::panel_bytes(weight), 0);
    for start in rows.clone().step_by(LANES) {
        pack::pack_panel(weight, start..(start + LANES).min(rows.end), &mut panel);
        product(&panel, start, room, put);
    }
    room.panel = panel;
}

/// Takes the products of a column: the first row, counted from that of the first panel, the column, and
/// the values of successive rows.
type Put<'a> = &'a mut dyn FnMut(usize, usize, &[f32]);

/// Panels and the columns that they are multiplied with.
#[derive(Clone, Copy)]
struct Input<'a> {
    /// `[panels, cols, 16]`.
    panels: &'a [u8],
    cols: usize,
    /// `[columns, cols]`.
    x: &'a [f32],
}

fn multiply_panels(level: Level, ty: TensorType, input: Input<'_>, room: &mut Room, put: Put<'_>) {
    macro_rules! run {
        ($float:ident) => {{
            #[inline(always)]
            fn body<S: Simd>(s: S, input: Input<'_>, room: &mut Room, put: Put<'_>) {
                // As many sums as leave registers for two or three factors.
                if S::WIDE_TILE {
                    columns::<S, $float, 2, 12, 8, 4>(s, input, room, put);
                } else {
                    columns::<S, $float, 1, 6, 4, 2>(s, input, room, put);
                }
            }
            on_level!(level, body(input: Input<'_>, room: &mut Room, put: Put<'_>))
        }};
    }
    match ty {
        TensorType::F32 => run!(F32),
        TensorType::F16 => run!(F16),
        TensorType::BF16 => run!(Bf16),
        ty => panic!("type {ty} takes blocks of activations"),
    }
}

/// Tiles of `P` panels and `C3`, `C2` or `C1` columns; the columns are filled up with zeros to a multiple
/// of the last.
#[inline(always)]
fn columns<S: Simd, T: Float, const P: usize, const C3: usize, const C2: usize, const C1: usize>(
    s: S,
    input: Input<'_>,
    room: &mut Room,
    put: Put<'_>,
) {
    let n = input.x.len() / input.cols;
    match n {
        0 => {}
        1 => one::<S, T>(s, input, put),
        2..=FEW => few::<S, T, P, C3, C2, C1>(s, input, room, put),
        _ => many::<S, T, P, C3, C2, C1>(s, input, room, put),
    }
}

/// One column: four panels at once, so that no sum waits for the one before it.
#[inline(always)]
fn one<S: Simd, T: Float>(s: S, input: Input<'_>, put: Put<'_>) {
    let panels = T::chunks(input.panels);
    let mut panel = 0;
    for four in panels.chunks(4 * input.cols) {
        let mut of = four.chunks_exact(input.cols);
        if let (Some(a), Some(b), Some(c), Some(d)) = (of.next(), of.next(), of.next(), of.next()) {
            let [sums] = tile::column::<S, T, 4>(s, [a, b, c, d], input.x);
            put(panel * LANES, 0, sums.as_flattened());
        } else {
            for (i, a) in four.chunks_exact(input.cols).enumerate() {
                let [sums] = tile::column::<S, T, 1>(s, [a], input.x);
                put((panel + i) * LANES, 0, sums.as_flattened());
            }
        }
        panel += 4;
    }
}

/// Calls `$tile!(C)` for the number of columns `$width`.
macro_rules! with_width {
    ($width:expr, $c3:ident, $c2:ident, $c1:ident, $tile:ident) => {
        match $width {
            w if w == $c3 => $tile!($c3),
            w if w == $c2 => $tile!($c2),
            _ => $tile!($c1),
        }
    };
}

/// Few columns: the weights as they come.
#[inline(always)]
fn few<S: Simd, T: Float, const P: usize, const C3: usize, const C2: usize, const C1: usize>(
    s: S,
    input: Input<'_>,
    room: &mut Room,
    put: Put<'_>,
) {
    let Input { panels, cols, x } = input;
    let n = x.len() / cols;
    let lines = cols.div_ceil(LANES);
    tile::arrange(x, cols, 0..cols, [C3, C2, C1], &mut room.x);
    let panels = T::chunks(panels);
    for (group, panels) in panels.chunks(P * cols).enumerate() {
        for (c, width) in tile::widths(n, [C3, C2, C1]) {
            let x = &room.x[c * lines..(c + width) * lines];
            macro_rules! tile {
                ($c:expr) => {
                    if panels.len() == P * cols {
                        let a = std::array::from_fn(|p| &panels[p * cols..(p + 1) * cols]);
                        let sums = tile::product::<S, T, P, $c>(s, a, x);
                        for (i, sums) in sums.iter().take(n - c).enumerate() {
                            put(group * P * LANES, c + i, sums.as_flattened());
                        }
                    } else {
                        let sums = tile::product::<S, T, 1, $c>(s, [panels], x);
                        for (i, sums) in sums.iter().take(n - c).enumerate() {
                            put(group * P * LANES, c + i, sums.as_flattened());
                        }
                    }
                };
            }
            with_width!(width, C3, C2, C1, tile);
        }
    }
}

/// Many columns: block by block.
#[inline(always)]
fn many<S: Simd, T: Float, const P: usize, const C3: usize, const C2: usize, const C1: usize>(
    s: S,
    input: Input<'_>,
    room: &mut Room,
    put: Put<'_>,
) {
    let Input { panels, cols, x } = input;
    let panels = T::chunks(panels);
    let count = panels.len() / cols;
    let Room { x: arranged, wide, sums, .. } = room;
    wide.resize(P * BLOCK, Line::ZERO);
    for (group, x) in x.chunks(COLUMNS * cols).enumerate() {
        let n = x.len() / cols;
        sums.resize(n.next_multiple_of(C1) * count, Line::ZERO);
        for start in (0..cols).step_by(BLOCK) {
            let terms = start..(start + BLOCK).min(cols);
            let lines = terms.len().div_ceil(LANES);
            tile::arrange(x, cols, terms.clone(), [C3, C2, C1], arranged);
            for first in (0..count).step_by(P) {
                let here = P.min(count - first);
                for p in 0..here {
                    let at = (first + p) * cols;
                    let from = &panels[at + terms.start..at + terms.end];
                    for (to, from) in wide[p * BLOCK..].iter_mut().zip(from) {
                        s.store(T::load(s, from), &mut to.0);
                    }
                }
                for (c, width) in tile::widths(n, [C3, C2, C1]) {
                    let x = &arranged[c * lines..(c + width) * lines];
                    let sums = &mut sums[c * count + first..];
                    macro_rules! tile {
                        ($c:expr) => {
                            if here == P {
                                let a = std::array::from_fn(|p| &wide[p * BLOCK..p * BLOCK + terms.len()]);
                                tile::add_block::<S, Wide, P, $c>(s, a, x, sums, count, start == 0);
                            } else {
                                let a = [&wide[..terms.len()]];
                                tile::add_block::<S, Wide, 1, $c>(s, a, x, sums, count, start == 0);
                            }
                        };
                    }
                    with_width!(width, C3, C2, C1, tile);
                }
            }
        }
        for (c, sums) in sums.chunks_exact(count).take(n).enumerate() {
            put(0, group * COLUMNS + c, bytemuck::cast_slice(sums));
        }
    }
}
