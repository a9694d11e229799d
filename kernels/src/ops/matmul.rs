//! Weights times activations: `y[column, row] = sum over k of w[row, k] * x[column, k]`.
//!
//! A weight with superblocks or blocks is multiplied as 8-bit integers with activations in blocks
//! of int8 ([`super::activation`]); a float weight with float32 activations, which for BF16 are rounded to
//! BF16 first. Which one a type needs is [`Weight::takes_blocks`].

use std::fmt;
use std::ops::Range;

use super::activation::{ActivationBlock, BLOCK};
#[cfg(target_arch = "x86_64")]
use super::amx;
use super::dots::Dots;
use super::matmul_float;
pub use super::matmul_float::{PackedFloat, tile_of_floats};
use super::on_level;
pub use super::packed::Packed;
use super::packed::{self, Line};
pub use super::panel::Panel;
use super::simd::LANES;
use super::spread::Put;
use super::unpack::with_format;
use super::vectors;
use crate::{Level, TensorType};

/// A weight matrix `[rows, cols]`, each row contiguous, as it is stored in a GGUF file.
#[derive(Clone, Copy)]
pub struct Weight<'a> {
    ty: TensorType,
    rows: usize,
    cols: usize,
    row_bytes: usize,
    bytes: &'a [u8],
}

/// Why bytes are no weight that can be multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightError {
    /// No kernel multiplies this type.
    Type(TensorType),
    /// A row is no whole number of blocks, or nothing.
    Columns {
        /// Values in a row.
        cols: usize,
        /// What they must be a multiple of.
        multiple: usize,
    },
    /// The bytes are not what the shape takes.
    Length {
        /// Bytes there are.
        found: usize,
        /// Bytes there must be; `None` when the number does not fit.
        needed: Option<usize>,
    },
}

impl fmt::Display for WeightError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WeightError::Type(ty) => write!(f, "type {ty} cannot be multiplied"),
            WeightError::Columns { cols, multiple } => {
                write!(f, "rows of {cols} values, which is no positive multiple of {multiple}")
            }
            WeightError::Length { found, needed: Some(needed) } => {
                write!(f, "{found} bytes where the shape takes {needed}")
            }
            WeightError::Length { found, needed: None } => {
                write!(f, "{found} bytes for a shape that fits no memory")
            }
        }
    }
}

impl std::error::Error for WeightError {}

impl<'a> Weight<'a> {
    /// A weight of these bytes.
    ///
    /// # Errors
    /// The type has no kernel, or bytes and shape do not agree.
    pub fn new(ty: TensorType, rows: usize, cols: usize, bytes: &'a [u8]) -> Result<Self, WeightError> {
        let float = matches!(ty, TensorType::F32 | TensorType::F16 | TensorType::BF16);
        if !float && !with_format!(ty, _F => true, false) {
            return Err(WeightError::Type(ty));
        }
        if cols == 0 || !cols.is_multiple_of(ty.block_len()) {
            return Err(WeightError::Columns { cols, multiple: ty.block_len() });
        }
        let row_bytes = (cols / ty.block_len()).checked_mul(ty.block_bytes());
        let needed = row_bytes.and_then(|b| b.checked_mul(rows));
        match row_bytes {
            Some(row_bytes) if needed == Some(bytes.len()) => Ok(Weight { ty, rows, cols, row_bytes, bytes }),
            _ => Err(WeightError::Length { found: bytes.len(), needed }),
        }
    }

    /// How the bytes encode values.
    pub fn tensor_type(&self) -> TensorType {
        self.ty
    }

    /// The number of rows: the length of an output column.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Values in a row: the length of an input column.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The bytes of one row.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, row: usize) -> &'a [u8] {
        &self.bytes[row * self.row_bytes..(row + 1) * self.row_bytes]
    }

    /// The bytes of a range of rows.
    pub(crate) fn row_range(&self, rows: Range<usize>) -> &'a [u8] {
        &self.bytes[rows.start * self.row_bytes..rows.end * self.row_bytes]
    }

    /// True when the weight is multiplied with [`Activations::Blocks`].
    pub fn takes_blocks(&self) -> bool {
        takes_blocks(self.ty)
    }
}

/// True when a weight of this type is multiplied with [`Activations::Blocks`].
pub fn takes_blocks(ty: TensorType) -> bool {
    ty.is_quantized()
}

/// The input columns, one after the other.
#[derive(Clone, Copy)]
pub enum Activations<'a> {
    /// `[columns, cols]`.
    F32(&'a [f32]),
    /// `[columns, cols / 32]`.
    Blocks(&'a [ActivationBlock]),
}

/// Where output columns lie.
pub trait Columns {
    /// The rows of column `c` that are computed.
    fn column(&mut self, c: usize) -> &mut [f32];
}

impl Columns for [Vec<f32>] {
    fn column(&mut self, c: usize) -> &mut [f32] {
        &mut self[c]
    }
}

/// What happens to a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// It replaces what was there.
    Set,
    /// It is added to what was there.
    Add,
}

/// A product to compute.
#[derive(Clone)]
pub struct Product<'a> {
    /// The weight.
    pub weight: Weight<'a>,
    /// The same weight in panels, where it has been packed.
    pub packed: Option<&'a Packed>,
    /// The rows of it that are wanted.
    pub rows: Range<usize>,
    /// All input columns.
    pub x: Activations<'a>,
    /// The columns that are wanted.
    pub columns: Range<usize>,
    /// What happens to the result.
    pub store: Store,
}

/// Multiplies. `out.column(c)` is column `columns.start + c`, one value for each of the product's
/// rows. `panel` is room that is kept from call to call.
///
/// # Panics
/// If `rows`, `columns`, the kind or the length of `x` or the length of an output column do not fit.
pub fn matmul<O: Columns + ?Sized>(level: Level, product: &Product<'_>, out: &mut O, panel: &mut Panel) {
    let Product { weight, packed, rows, x, columns, store } = product;
    assert!(rows.start <= rows.end && rows.end <= weight.rows, "rows {rows:?} of {}", weight.rows);
    let mut put = |row: usize, c: usize, values: &[f32]| {
        let column = out.column(c);
        assert_eq!(column.len(), rows.len(), "an output column has a value for each row");
        let to = &mut column[row - rows.start..row - rows.start + values.len()];
        match store {
            Store::Set => to.copy_from_slice(values),
            Store::Add => to.iter_mut().zip(values).for_each(|(to, v)| *to += v),
        }
    };
    match x {
        Activations::F32(x) => {
            let x = &x[columns.start * weight.cols..columns.end * weight.cols];
            let packed = packed.and_then(Packed::floats);
            matmul_float::multiply(level, weight, packed, rows.clone(), x, &mut panel.floats, &mut put);
        }
        Activations::Blocks(x) => {
            let blocks = weight.cols / BLOCK;
            let x = &x[columns.start * blocks..columns.end * blocks];
            let packed = packed.and_then(Packed::blocks);
            if let Some(packed) = packed {
                assert!(packed.is_of(weight), "the panels are those of the weight");
            }
            let units = weight.cols / BLOCK;
            let panels = rows.start / LANES..rows.end.div_ceil(LANES);
            let mut put = |panel: usize, c: usize, values: &[f32]| {
                let first = panel * LANES;
                let (start, end) = (first.max(rows.start), (first + values.len()).min(rows.end));
                put(start, c, &values[start - first..end - first]);
            };
            match packed {
                Some(packed) => {
                    multiply_panels(
                        level,
                        weight.ty,
                        packed.from(panels.start),
                        panels,
                        units,
                        x,
                        panel,
                        &mut put,
                    );
                }
                None => {
                    let mut room = std::mem::take(&mut panel.packed);
                    for i in panels {
                        room.clear();
                        room.resize(packed::panel_lines(weight.ty, weight.cols).unwrap_or(0), [0; 64]);
                        packed::pack(weight, i, &mut room);
                        multiply_panels(level, weight.ty, &room, i..i + 1, units, x, panel, &mut put);
                    }
                    panel.packed = room;
                }
            }
        }
    }
}

/// Panels, with which `lines` begin, times every column of `x`.
#[expect(clippy::too_many_arguments, reason = "one call for each level needs them apart")]
fn multiply_panels(
    level: Level,
    ty: TensorType,
    lines: &[Line],
    panels: Range<usize>,
    units: usize,
    x: &[ActivationBlock],
    room: &mut Panel,
    put: Put<'_>,
) {
    if x.is_empty() || panels.is_empty() {
        return;
    }
    #[cfg(target_arch = "x86_64")]
    if super::available(level) == Level::Amx && x.len() / units >= amx::FROM {
        with_format!(
            ty,
            F => {
                if amx::pays::<F>() {
                    // SAFETY: the level is available.
                    unsafe { amx::columns_of_panels::<F>(lines, panels, units, x, room, put) };
                    return;
                }
            },
            panic!("type {ty} takes no blocks of activations")
        );
    }
    with_format!(
        ty,
        F => {
            #[inline(always)]
            fn body<D: Dots>(d: D, lines: &[Line], panels: Range<usize>, units: usize, x: &[ActivationBlock], room: &mut Panel, put: Put<'_>) {
                vectors::columns_of_panels::<D, F>(d, lines, panels, units, x, room, put);
            }
            on_level!(level, body(lines: &[Line], panels: Range<usize>, units: usize, x: &[ActivationBlock], room: &mut Panel, put: Put<'_>))
        },
        panic!("type {ty} takes no blocks of activations")
    );
}

#[cfg(test)]
mod tests {
    use super::super::activation::quantize_activations;
    use super::super::row::dequantize_row;
    use super::super::tests::{Random, bits};
    use super::*;

    const TYPES: [TensorType; 15] = [
        TensorType::F32,
        TensorType::F16,
        TensorType::BF16,
        TensorType::Q4_0,
        TensorType::Q4_1,
        TensorType::Q5_0,
        TensorType::Q5_1,
        TensorType::Q8_0,
        TensorType::Q2_K,
        TensorType::Q3_K,
        TensorType::Q4_K,
        TensorType::Q5_K,
        TensorType::Q6_K,
        TensorType::IQ4_NL,
        TensorType::IQ4_XS,
    ];

    /// Where the half-precision scales of a block are.
    fn scales(ty: TensorType) -> &'static [usize] {
        match ty {
            TensorType::Q4_1 | TensorType::Q5_1 | TensorType::Q4_K | TensorType::Q5_K => &[0, 2],
            TensorType::Q2_K => &[80, 82],
            TensorType::Q3_K => &[108],
            TensorType::Q6_K => &[208],
            TensorType::F32 | TensorType::F16 | TensorType::BF16 => &[],
            _ => &[0],
        }
    }

    /// Random bytes with scales of a sane size; with `hostile`, any bytes at all.
    fn weight_bytes(random: &mut Random, ty: TensorType, rows: usize, cols: usize, hostile: bool) -> Vec<u8> {
        let blocks = rows * cols / ty.block_len();
        if hostile {
            return random.bytes(blocks * ty.block_bytes());
        }
        match ty {
            TensorType::F32 => return random.floats(blocks).iter().flat_map(|v| v.to_le_bytes()).collect(),
            TensorType::F16 => {
                return random
                    .floats(blocks)
                    .iter()
                    .flat_map(|v| half::f16::from_f32(*v).to_le_bytes())
                    .collect();
            }
            TensorType::BF16 => {
                return random
                    .floats(blocks)
                    .iter()
                    .flat_map(|v| half::bf16::from_f32(*v).to_le_bytes())
                    .collect();
            }
            _ => {}
        }
        let mut bytes = random.bytes(blocks * ty.block_bytes());
        for block in bytes.chunks_mut(ty.block_bytes()) {
            for &at in scales(ty) {
                let scale = half::f16::from_f32(random.float() * 0.02).to_le_bytes();
                block[at..at + 2].copy_from_slice(&scale);
            }
        }
        bytes
    }

    struct Case {
        ty: TensorType,
        rows: usize,
        cols: usize,
        bytes: Vec<u8>,
        x: Vec<f32>,
        blocks: Vec<ActivationBlock>,
    }

    impl Case {
        fn new(
            random: &mut Random,
            ty: TensorType,
            rows: usize,
            cols: usize,
            n: usize,
            hostile: bool,
        ) -> Case {
            let bytes = weight_bytes(random, ty, rows, cols, hostile);
            let x = if hostile { random.hostile(n * cols) } else { random.floats(n * cols) };
            let mut blocks = vec![ActivationBlock::default(); n * cols / BLOCK];
            if cols.is_multiple_of(BLOCK) {
                quantize_activations(Level::Portable, &x, &mut blocks);
            }
            Case { ty, rows, cols, bytes, x, blocks }
        }

        fn weight(&self) -> Weight<'_> {
            Weight::new(self.ty, self.rows, self.cols, &self.bytes).unwrap()
        }

        fn run(&self, level: Level, rows: Range<usize>, columns: Range<usize>) -> Vec<Vec<f32>> {
            let mut out = vec![vec![f32::NAN; rows.len()]; columns.len()];
            let x = if self.weight().takes_blocks() {
                Activations::Blocks(&self.blocks)
            } else {
                Activations::F32(&self.x)
            };
            let mut panel = Panel::default();
            let weight = self.weight();
            let product = Product {
                weight,
                packed: None,
                rows: rows.clone(),
                x,
                columns: columns.clone(),
                store: Store::Set,
            };
            matmul(level, &product, &mut out[..], &mut panel);
            let packed = Packed::new(&weight).unwrap();
            assert!(packed.is_some());
            let mut from_panels = vec![vec![f32::NAN; rows.len()]; columns.len()];
            let product = Product { weight, packed: packed.as_ref(), rows, x, columns, store: Store::Set };
            matmul(level, &product, &mut from_panels[..], &mut panel);
            for (a, b) in out.iter().zip(&from_panels) {
                assert_eq!(bits(a), bits(b), "{} in panels", self.ty);
            }
            out
        }
    }

    /// Against float64 on the dequantized weight and the dequantized activations.
    #[test]
    fn products_are_those_of_the_dequantized_weight() {
        let mut random = Random(11);
        for ty in TYPES {
            let case = Case::new(&mut random, ty, 19, 512, 3, false);
            let out = case.run(Level::Portable, 0..19, 0..3);
            let mut row = vec![0.0; 512];
            for r in 0..19 {
                dequantize_row(Level::Portable, &case.weight(), r, &mut row);
                for (c, column) in out.iter().enumerate() {
                    let x = |k: usize| match ty.is_quantized() {
                        true => {
                            let block = &case.blocks[(c * 512 + k) / BLOCK];
                            f64::from(block.d) * f64::from(block.q[k % BLOCK])
                        }
                        false if ty == TensorType::BF16 => half::bf16::from_f32(case.x[c * 512 + k]).to_f64(),
                        false => f64::from(case.x[c * 512 + k]),
                    };
                    let exact: f64 = row.iter().enumerate().map(|(k, w)| f64::from(*w) * x(k)).sum();
                    let size: f64 = row.iter().enumerate().map(|(k, w)| (f64::from(*w) * x(k)).abs()).sum();
                    // With minima, what cancels in the sum is larger than the terms.
                    let allowed = size * if case.ty.is_quantized() { 1e-5 } else { 1e-6 };
                    assert!(
                        (f64::from(column[r]) - exact).abs() <= allowed,
                        "{ty} {r} {c}: {} {exact}",
                        column[r]
                    );
                }
            }
        }
    }

    /// Every level, every split of rows and columns: the same bits, on sane and on hostile input.
    #[test]
    fn levels_and_partitions_agree() {
        let mut random = Random(5);
        for ty in TYPES {
            let unit = ty.block_len().max(32);
            for (rows, cols, n) in
                [(1, unit, 1), (15, unit, 2), (16, 2 * unit, 3), (17, 3 * unit, 11), (37, unit, 8)]
            {
                for hostile in [false, true] {
                    let case = Case::new(&mut random, ty, rows, cols, n, hostile);
                    let whole = case.run(Level::Portable, 0..rows, 0..n);
                    for level in Level::available() {
                        for (c, column) in case.run(level, 0..rows, 0..n).iter().enumerate() {
                            assert_eq!(bits(column), bits(&whole[c]), "{ty} {level:?} {rows}x{cols} {c}");
                        }
                        let (r, c) = (rows / 3, n - 1);
                        let part = case.run(level, r..rows, c..n);
                        assert_eq!(bits(&part[0]), bits(&whole[c][r..]), "{ty} {level:?} part");
                    }
                }
            }
        }
    }

    /// Rows that are spread out in parts, one of which is shorter, and columns that fill no tile.
    #[test]
    fn long_rows_are_those_of_the_portable_level() {
        let mut random = Random(15);
        for ty in TYPES {
            let case = Case::new(&mut random, ty, 33, 4096 + 256, 21, false);
            let expected = case.run(Level::Portable, 0..33, 0..21);
            for level in Level::available() {
                for (c, column) in case.run(level, 0..33, 0..21).iter().enumerate() {
                    assert_eq!(bits(column), bits(&expected[c]), "{ty} {level:?} {c}");
                }
            }
        }
    }

    #[test]
    fn float_rows_need_not_be_whole_vectors() {
        let mut random = Random(9);
        for ty in [TensorType::F32, TensorType::F16, TensorType::BF16] {
            for cols in [1, 15, 16, 17, 31, 33, 100] {
                let case = Case::new(&mut random, ty, 5, cols, 5, false);
                let expected = case.run(Level::Portable, 0..5, 0..5);
                for level in Level::available() {
                    for (a, b) in case.run(level, 0..5, 0..5).iter().zip(&expected) {
                        assert_eq!(bits(a), bits(b));
                    }
                }
            }
        }
    }

    #[test]
    fn a_weight_is_checked() {
        let error =
            |ty, rows, cols, len| Weight::new(ty, rows, cols, &vec![0; len]).err().map(|e| e.to_string());
        assert_eq!(error(TensorType::Q4_0, 1, 32, 18), None);
        assert_eq!(error(TensorType::Q4_0, 0, 32, 0), None);
        assert_eq!(error(TensorType::I8, 1, 1, 1).as_deref(), Some("type I8 cannot be multiplied"));
        assert_eq!(
            error(TensorType::Q4_0, 1, 33, 18).as_deref(),
            Some("rows of 33 values, which is no positive multiple of 32")
        );
        assert_eq!(error(TensorType::F32, 2, 3, 23).as_deref(), Some("23 bytes where the shape takes 24"));
        assert!(error(TensorType::F32, usize::MAX, 8, 23).is_some());
    }

    #[test]
    #[should_panic(expected = "rows 0..3 of 2")]
    fn rows_beyond_the_weight_are_refused() {
        Case::new(&mut Random(1), TensorType::Q4_0, 2, 32, 1, false).run(Level::detect(), 0..3, 0..1);
    }

    #[test]
    #[should_panic(expected = "range end index")]
    fn columns_beyond_the_input_are_refused() {
        Case::new(&mut Random(1), TensorType::F32, 2, 32, 1, false).run(Level::detect(), 0..2, 0..2);
    }
}
