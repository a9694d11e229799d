//! Float weights times float32 columns; those of BF16 times columns rounded to BF16, if they may be ([`pairs`]).
//!
//! A product is the sum of the sums of blocks of [`BLOCK`] terms. A block's sum starts at 0 and takes its
//! terms in order, each by one fused multiply-add; the product starts as the first block's sum, to which
//! the others are added in order. With rounded columns, the terms go in pairs, in order, the second of a pair
//! first. (Rows of BF16 with an odd number of terms have a term of zeros more.) So a lane can be a row: no sum
//! goes across lanes, a weight is one vector of sixteen rows ([`pack`]), and an activation is one broadcast.
//!
//! Few columns take the weights as they come, in one pass over memory. More are multiplied block by block:
//! a block of two panels, widened to float32 once unless it is multiplied as it is, stays in the first-level cache
//! while all columns pass, and a block of the columns stays in the second-level cache while all panels of the call
//! pass.

mod pack;
mod pairs;
mod tile;

use std::ops::Range;

use super::matmul::Weight;
use super::on_level;
#[cfg(target_arch = "x86_64")]
use super::simd::Avx512;
use super::simd::{LANES, Simd};
use crate::{Level, TensorType};

pub use pack::PackedFloat;
#[cfg(target_arch = "x86_64")]
use pairs::Dot;
use pairs::{Exact, Rounded};
use tile::{F16, F32, Line, Stored, Wide};

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
    /// Words of the columns, or of a block of them, as tiles take them.
    x: Vec<Line>,
    /// Widened blocks of panels.
    wide: Vec<Line>,
    /// Of each tile of columns, of each tile of panels: `[columns, panels]` of the tile.
    sums: Vec<Line>,
    /// The panels of a column.
    column: Vec<Line>,
    /// A panel of a weight that has not been packed.
    panel: Vec<u8>,
}

impl Room {
    /// Bytes that it takes at most with rows of `cols` values.
    pub(super) const fn bytes(cols: usize) -> usize {
        let few = FEW * cols.next_multiple_of(LANES) * size_of::<f32>();
        let block = COLUMNS * BLOCK * size_of::<f32>();
        let x = if few > block { few } else { block };
        x + (2 * BLOCK + COLUMNS * PANELS + PANELS) * size_of::<Line>() + cols * LANES * size_of::<f32>()
    }
}

/// Rows and columns of a tile of a product of floats, where threads share one `[columns, rows]`; `None` for
/// so few columns that weights are taken as they come, and any rows will do.
///
/// The rows of a tile share the arranged columns and the columns the widened weights, so a tile has as many
/// of both as leave each thread some tiles.
pub fn tile_of_floats(rows: usize, columns: usize, threads: usize) -> Option<(usize, usize)> {
    if columns <= FEW {
        return None;
    }
    let most = PANELS * LANES;
    let tile_rows = rows.div_ceil(rows.div_ceil(most).max(1)).next_multiple_of(2 * LANES);
    let share = columns.div_ceil(threads.max(1)).next_multiple_of(12);
    Some((tile_rows.clamp(2 * LANES, most), share.clamp(48, COLUMNS)))
}

/// How a weight is multiplied.
#[derive(Clone, Copy)]
enum Way {
    F32,
    F16,
    /// Pairs of BF16 and float32 columns.
    Exact,
    /// Pairs of BF16 and rounded columns.
    Rounded,
    /// The same with the machine's instruction for it.
    #[cfg(target_arch = "x86_64")]
    Dot(Avx512<true>),
}

impl Way {
    /// A weight that is not packed is looked through for what tells it.
    fn of(level: Level, weight: &Weight<'_>, packed: Option<&PackedFloat>) -> Way {
        match weight.tensor_type() {
            TensorType::F32 => Way::F32,
            TensorType::F16 => Way::F16,
            TensorType::BF16 => match packed {
                Some(packed) if packed.rounds() => Way::rounded(level),
                None if pairs::round(level, weight, 0..weight.rows()) => Way::rounded(level),
                _ => Way::Exact,
            },
            ty => panic!("type {ty} takes blocks of activations"),
        }
    }

    fn rounded(level: Level) -> Way {
        #[cfg(target_arch = "x86_64")]
        if let Some(token) = Avx512::available(level) {
            return Way::Dot(token);
        }
        let _ = level;
        Way::Rounded
    }
}

/// Gives `put(row, column, values)` the products of consecutive rows with each column of `x`, which is
/// `[columns, cols]`. `packed` are the panels of `weight`.
///
/// # Panics
/// If `x` is no whole number of columns, or `packed` are the panels of a weight of another shape or type.
pub(super) fn multiply(
    level: Level,
    weight: &Weight<'_>,
    packed: Option<&PackedFloat>,
    rows: Range<usize>,
    x: &[f32],
    room: &mut Room,
    put: Put<'_>,
) {
    assert!(
        x.len().is_multiple_of(weight.cols()),
        "an input column has a value for each of the weight's columns"
    );
    assert!(packed.is_none_or(|packed| packed.is_of(weight)), "the panels are those of the weight");
    let way = Way::of(level, weight, packed);
    multiply_in(way, level, weight, packed, rows, x, room, put);
}

#[expect(clippy::too_many_arguments, reason = "those of `multiply`, and the way")]
fn multiply_in(
    way: Way,
    level: Level,
    weight: &Weight<'_>,
    packed: Option<&PackedFloat>,
    rows: Range<usize>,
    x: &[f32],
    room: &mut Room,
    put: Put<'_>,
) {
    let product = |panels: &[u8], first: usize, room: &mut Room, put: Put<'_>| {
        let input = Input { panels, cols: weight.cols(), x };
        multiply_panels(way, level, input, room, &mut |row, column, values| {
            // The lanes that are rows of the product.
            let first = first + row;
            let (start, end) = (first.max(rows.start), (first + values.len()).min(rows.end));
            if start < end {
                put(start, column, &values[start - first..end - first]);
            }
        });
    };
    if let Some(packed) = packed {
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
    panel.resize(pack::panel_bytes(weight.tensor_type(), weight.cols()).unwrap_or(0), 0);
    for start in rows.clone().step_by(LANES) {
        pack::pack_panel(level, weight, start..(start + LANES).min(rows.end), &mut panel);
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
    /// Whole panels, as [`PackedFloat`] has them.
    panels: &'a [u8],
    cols: usize,
    /// `[columns, cols]`.
    x: &'a [f32],
}

fn multiply_panels(way: Way, level: Level, input: Input<'_>, room: &mut Room, put: Put<'_>) {
    macro_rules! run {
        ($float:ident) => {{
            #[inline(always)]
            fn body<S: Simd>(s: S, input: Input<'_>, room: &mut Room, put: Put<'_>) {
                // As many sums as leave registers for two or three factors.
                match S::REGISTERS {
                    32 => columns::<S, $float, 2, 12, 8, 4>(s, input, room, put),
                    16 => columns::<S, $float, 1, 6, 4, 2>(s, input, room, put),
                    _ => columns::<S, $float, 1, 1, 1, 1>(s, input, room, put),
                }
            }
            on_level!(level, body(input: Input<'_>, room: &mut Room, put: Put<'_>))
        }};
    }
    match way {
        Way::F32 => run!(F32),
        Way::F16 => run!(F16),
        Way::Exact => run!(Exact),
        Way::Rounded => run!(Rounded),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the token is proof of all these features.
        Way::Dot(token) => unsafe { dot(token, input, room, put) },
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16")]
fn dot(s: Avx512<true>, input: Input<'_>, room: &mut Room, put: Put<'_>) {
    columns::<Avx512<true>, Dot, 2, 12, 8, 4>(s, input, room, put);
}

/// Tiles of `P` panels and `C3`, `C2` or `C1` columns; the columns are filled up with zeros to a multiple
/// of the last.
#[inline(always)]
fn columns<S: Simd, T: Stored<S>, const P: usize, const C3: usize, const C2: usize, const C1: usize>(
    s: S,
    input: Input<'_>,
    room: &mut Room,
    put: Put<'_>,
) {
    let n = input.x.len() / input.cols;
    match n {
        0 => {}
        1 => one::<S, T>(s, input, room, put),
        // With few registers, the largest tile leaves none to widen in.
        2..=FEW if T::WIDEN && S::REGISTERS == 16 => few::<S, T, P, C2, C2, C1>(s, input, room, put),
        2..=FEW => few::<S, T, P, C3, C2, C1>(s, input, room, put),
        _ => many::<S, T, P, C3, C2, C1>(s, input, room, put),
    }
}

/// One column: four panels at once, so that no sum waits for the one before it.
#[inline(always)]
fn one<S: Simd, T: Stored<S>>(s: S, input: Input<'_>, room: &mut Room, put: Put<'_>) {
    let Input { panels, cols, x } = input;
    tile::arrange::<S, T>(s, x, cols, 0..cols, [1; 3], &mut room.x);
    let chunks = cols.div_ceil(T::TERMS);
    let mut panel = 0;
    for four in T::chunks(panels).chunks(4 * chunks) {
        let mut of = four.chunks_exact(chunks);
        if let (Some(a), Some(b), Some(c), Some(d)) = (of.next(), of.next(), of.next(), of.next()) {
            let [sums] = tile::column::<S, T, 4>(s, [a, b, c, d], &room.x);
            put(panel * LANES, 0, sums.as_flattened());
        } else {
            for (i, a) in four.chunks_exact(chunks).enumerate() {
                let [sums] = tile::column::<S, T, 1>(s, [a], &room.x);
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
fn few<S: Simd, T: Stored<S>, const P: usize, const C3: usize, const C2: usize, const C1: usize>(
    s: S,
    input: Input<'_>,
    room: &mut Room,
    put: Put<'_>,
) {
    let Input { panels, cols, x } = input;
    let n = x.len() / cols;
    let (lines, chunks) = (cols.div_ceil(T::LINE), cols.div_ceil(T::TERMS));
    tile::arrange::<S, T>(s, x, cols, 0..cols, [C3, C2, C1], &mut room.x);
    for (group, panels) in T::chunks(panels).chunks(P * chunks).enumerate() {
        for (c, width) in tile::widths(n, [C3, C2, C1]) {
            let x = &room.x[c * lines..(c + width) * lines];
            macro_rules! tile {
                ($c:expr) => {
                    if panels.len() == P * chunks {
                        let a = std::array::from_fn(|p| &panels[p * chunks..(p + 1) * chunks]);
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
fn many<S: Simd, T: Stored<S>, const P: usize, const C3: usize, const C2: usize, const C1: usize>(
    s: S,
    input: Input<'_>,
    room: &mut Room,
    put: Put<'_>,
) {
    let Input { panels, cols, x } = input;
    let panels = T::chunks(panels);
    let chunks = cols.div_ceil(T::TERMS);
    let count = panels.len() / chunks;
    let Room { x: arranged, wide, sums, column, .. } = room;
    wide.resize(P * BLOCK, Line::ZERO);
    for (group, x) in x.chunks(COLUMNS * cols).enumerate() {
        let n = x.len() / cols;
        sums.resize(n.next_multiple_of(C1) * count, Line::ZERO);
        for start in (0..cols).step_by(BLOCK) {
            let terms = start..(start + BLOCK).min(cols);
            let lines = terms.len().div_ceil(T::LINE);
            // The block's chunks in a panel.
            let (from, len) = (start / T::TERMS, terms.len().div_ceil(T::TERMS));
            tile::arrange::<S, T>(s, x, cols, terms, [C3, C2, C1], arranged);
            for first in (0..count).step_by(P) {
                let here = P.min(count - first);
                if T::WIDEN {
                    for p in 0..here {
                        let from = &panels[(first + p) * chunks + from..][..len];
                        for (to, from) in wide[p * BLOCK..].chunks_exact_mut(T::STEPS).zip(from) {
                            for (step, to) in to.iter_mut().enumerate() {
                                s.store(T::load(s, from, step), &mut to.0);
                            }
                        }
                    }
                }
                for (c, width) in tile::widths(n, [C3, C2, C1]) {
                    // The next block of weights comes while this one is used, some of it with each tile.
                    for p in 0..P {
                        let at = (first + P + p) * chunks + from;
                        let next = panels.get(at + c..at + len).unwrap_or_default();
                        for chunk in next.iter().take(width) {
                            s.prefetch(chunk);
                        }
                    }
                    let x = &arranged[c * lines..(c + width) * lines];
                    let sums = &mut sums[c * count + first * width..][..width * here];
                    // Of panels that are `$step` chunks apart, `$len` from `$at` on.
                    macro_rules! add_block {
                        ($float:ident, $panels:expr, $step:expr, $at:expr, $len:expr, $c:expr) => {
                            if here == P {
                                let mut a = [&$panels[$at..$at + $len]; P];
                                for p in 1..P {
                                    a[p] = &$panels[$at + p * $step..$at + p * $step + $len];
                                }
                                tile::add_block::<S, $float, P, $c>(s, a, x, sums, start == 0);
                            } else {
                                let a = [&$panels[$at..$at + $len]];
                                tile::add_block::<S, $float, 1, $c>(s, a, x, sums, start == 0);
                            }
                        };
                    }
                    macro_rules! tile {
                        ($c:expr) => {
                            if T::WIDEN {
                                add_block!(Wide, wide, BLOCK, 0, len * T::STEPS, $c);
                            } else {
                                add_block!(T, panels, chunks, first * chunks + from, len, $c);
                            }
                        };
                    }
                    with_width!(width, C3, C2, C1, tile);
                }
            }
        }
        for (c, width) in tile::widths(n, [C3, C2, C1]) {
            let tile = &sums[c * count..(c + width) * count];
            for i in 0..width.min(n - c) {
                column.clear();
                for sums in tile.chunks(P * width) {
                    let here = sums.len() / width;
                    column.extend_from_slice(&sums[i * here..(i + 1) * here]);
                }
                put(0, group * COLUMNS + c + i, bytemuck::cast_slice(column));
            }
        }
    }
}

#[cfg(test)]
mod tests;
