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
use tile::{Bf16, F16, F32, Line, Stored, Wide};

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
    put: &mut dyn FnMut(usize, usize, &[f32]),
) {
    assert!(
        x.len().is_multiple_of(weight.cols()),
        "an input column has a value for each of the weight's columns"
    );
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
                match S::REGISTERS {
                    32 => columns::<S, $float, 2, 12, 8, 4>(s, input, room, put),
                    16 => columns::<S, $float, 1, 6, 4, 2>(s, input, room, put),
                    _ => columns::<S, $float, 1, 1, 1, 1>(s, input, room, put),
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
fn columns<S: Simd, T: Stored, const P: usize, const C3: usize, const C2: usize, const C1: usize>(
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
fn one<S: Simd, T: Stored>(s: S, input: Input<'_>, put: Put<'_>) {
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
fn few<S: Simd, T: Stored, const P: usize, const C3: usize, const C2: usize, const C1: usize>(
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
fn many<S: Simd, T: Stored, const P: usize, const C3: usize, const C2: usize, const C1: usize>(
    s: S,
    input: Input<'_>,
    room: &mut Room,
    put: Put<'_>,
) {
    let Input { panels, cols, x } = input;
    let panels = T::chunks(panels);
    let count = panels.len() / cols;
    let Room { x: arranged, wide, sums, column, .. } = room;
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
                    // The next block of weights comes while this one is used, some of it with each tile.
                    for p in 0..P {
                        let at = (first + P + p) * cols + terms.start;
                        let next = panels.get(at + c..at + terms.len()).unwrap_or_default();
                        for chunk in next.iter().take(width) {
                            s.prefetch(chunk);
                        }
                    }
                    let x = &arranged[c * lines..(c + width) * lines];
                    let sums = &mut sums[c * count + first * width..][..width * here];
                    macro_rules! tile {
                        ($c:expr) => {
                            if here == P {
                                let mut a = [&wide[..terms.len()]; P];
                                for p in 1..P {
                                    a[p] = &wide[p * BLOCK..p * BLOCK + terms.len()];
                                }
                                tile::add_block::<S, Wide, P, $c>(s, a, x, sums, start == 0);
                            } else {
                                let a = [&wide[..terms.len()]];
                                tile::add_block::<S, Wide, 1, $c>(s, a, x, sums, start == 0);
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
mod tests {
    use super::super::tests::{Random, bits};
    use super::*;

    const TYPES: [TensorType; 3] = [TensorType::F32, TensorType::F16, TensorType::BF16];

    /// The bytes of these values, rounded to the type.
    fn encode(ty: TensorType, values: &[f32]) -> Vec<u8> {
        match ty {
            TensorType::F16 => {
                values.iter().flat_map(|v| half::f16::from_f32_const(*v).to_le_bytes()).collect()
            }
            TensorType::BF16 => {
                values.iter().flat_map(|v| half::bf16::from_f32_const(*v).to_le_bytes()).collect()
            }
            _ => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        }
    }

    /// The values of the bytes.
    fn decode(ty: TensorType, bytes: &[u8]) -> Vec<f32> {
        let two = bytes.as_chunks().0.iter().copied();
        match ty {
            TensorType::F16 => two.map(|b| half::f16::from_le_bytes(b).to_f32_const()).collect(),
            TensorType::BF16 => two.map(|b| half::bf16::from_le_bytes(b).to_f32_const()).collect(),
            _ => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        }
    }

    /// The definition, as the head of this file has it.
    fn defined(w: &[f32], x: &[f32]) -> f32 {
        let block = |(w, x): (&[f32], &[f32])| w.iter().zip(x).fold(0.0f32, |sum, (w, x)| w.mul_add(*x, sum));
        w.chunks(BLOCK).zip(x.chunks(BLOCK)).map(block).reduce(|a, b| a + b).unwrap_or(0.0)
    }

    /// `[columns, rows]`.
    fn run(
        level: Level,
        weight: &Weight<'_>,
        packed: Option<&PackedFloat>,
        rows: Range<usize>,
        x: &[f32],
    ) -> Vec<Vec<f32>> {
        let n = x.len() / weight.cols();
        let mut out = vec![vec![f32::NAN; rows.len()]; n];
        let mut times = vec![vec![0; rows.len()]; n];
        let mut put = |row: usize, c: usize, values: &[f32]| {
            let at = row - rows.start;
            out[c][at..at + values.len()].copy_from_slice(values);
            times[c][at..at + values.len()].iter_mut().for_each(|n| *n += 1);
        };
        multiply(level, weight, packed, rows.clone(), x, &mut Room::default(), &mut put);
        assert!(times.iter().flatten().all(|n| *n == 1), "each value is put once");
        out
    }

    /// Every level, packed or not, on whole and odd shapes, with few columns and many.
    #[test]
    fn products_are_those_of_the_definition() {
        let mut random = Random(21);
        let shapes = [
            (1, 1, 1),
            (5, 15, 3),
            (16, 128, 1),
            (80, 129, 1),
            (33, 300, 2),
            (48, 127, 5),
            (17, 256, 13),
            (35, 40, 24),
            (35, 40, 25),
            (20, 300, 39),
            (300, 17, 26),
            (17, 130, COLUMNS + 27),
        ];
        for (i, (rows, cols, n)) in shapes.into_iter().enumerate() {
            let ty = TYPES[i % 3];
            for hostile in [false, true] {
                let bytes = match hostile {
                    true => encode(ty, &random.hostile(rows * cols)),
                    false => encode(ty, &random.floats(rows * cols)),
                };
                let x = if hostile { random.hostile(n * cols) } else { random.floats(n * cols) };
                let weight = Weight::new(ty, rows, cols, &bytes).unwrap();
                let packed = PackedFloat::new(&weight).unwrap().unwrap();
                let w = decode(ty, &bytes);
                let expected: Vec<Vec<u32>> = x
                    .chunks(cols)
                    .map(|x| bits(&w.chunks(cols).map(|w| defined(w, x)).collect::<Vec<_>>()))
                    .collect();
                for level in Level::available() {
                    for packed in [None, Some(&packed)] {
                        let what = format!("{ty} {level:?} {rows}x{cols}x{n} packed {}", packed.is_some());
                        for (c, out) in run(level, &weight, packed, 0..rows, &x).iter().enumerate() {
                            assert_eq!(bits(out), expected[c], "{what} column {c}");
                        }
                        // Part of the rows, from the midst of a panel, and of the columns.
                        let (r, c) = (rows / 3..rows - rows / 4, n / 2);
                        let part = run(level, &weight, packed, r.clone(), &x[c * cols..]);
                        for (out, expected) in part.iter().zip(&expected[c..]) {
                            assert_eq!(bits(out), expected[r.clone()], "{what} part");
                        }
                    }
                }
            }
        }
    }

    /// Not less exact on long rows than sixteen interleaved sums.
    #[test]
    fn sums_of_blocks_are_exact_enough() {
        let mut random = Random(4);
        let cols = 8192;
        let (mut ours, mut lanes) = (0.0, 0.0);
        for _ in 0..100 {
            let (w, x) = (random.floats(cols), random.floats(cols));
            let exact: f64 = w.iter().zip(&x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
            let bytes = encode(TensorType::F32, &w);
            let weight = Weight::new(TensorType::F32, 1, cols, &bytes).unwrap();
            let sum = run(Level::detect(), &weight, None, 0..1, &x)[0][0];
            ours += (f64::from(sum) - exact).powi(2);
            let mut sums = [0.0f32; LANES];
            for (i, (w, x)) in w.iter().zip(&x).enumerate() {
                sums[i % LANES] = w.mul_add(*x, sums[i % LANES]);
            }
            lanes += (f64::from(sums.iter().sum::<f32>()) - exact).powi(2);
        }
        assert!(ours <= lanes, "squares of errors: {ours:e}, {lanes:e} in lanes");
    }

    #[test]
    fn a_tile_of_floats_leaves_work_for_all_threads() {
        assert_eq!(tile_of_floats(576, FEW, 2), None);
        assert_eq!(tile_of_floats(576, 512, 2), Some((192, 264)));
        assert_eq!(tile_of_floats(1536, 512, 16), Some((256, 48)));
        assert_eq!(tile_of_floats(1, 4096, 2), Some((32, COLUMNS)));
        for width in [12, 6] {
            assert_eq!(COLUMNS % width, 0, "a full block of columns has no cut tile");
        }
    }
}
