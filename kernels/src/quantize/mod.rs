//! Single precision to blocks, plain or weighted by importance.
//!
//! The bytes are promised: they are what ggml's reference gives when it is compiled to plain IEEE
//! single precision, with no fused multiply-add and sums in the order written. They depend on the
//! numbers of a row and on the importance of its columns, and on nothing else: not on the
//! instruction set, not on threads, not on other rows.
//!
//! | file | what it holds |
//! |---|---|
//! | `round` | formats that round to a grid fixed by the block's extremes |
//! | `round_x86` | the same in AVX2 and AVX-512 |
//! | `scheme` | the others, as data: which search, over which sub-blocks, under which weights |
//! | `search` | the searches for a sub-block's scale |
//! | `lanes` | the vectors the searches run on |
//! | `row` | a row by its scheme: sub-blocks into lanes |
//! | `pack` | from the sub-blocks' scales to a block |

mod lanes;
mod pack;
mod round;
#[cfg(target_arch = "x86_64")]
mod round_x86;
mod row;
mod scheme;
mod search;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::fmt;

use crate::check::check;
use crate::{Level, TensorType};
use lanes::Lanes;
use round::Rounding;

/// Why numbers could not be quantized. Every index counts from 0.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum QuantizeError {
    /// There is no encoder for this type.
    Unsupported(TensorType),
    /// `cols` is no multiple of the type's block.
    Columns {
        /// The type asked for.
        ty: TensorType,
        /// Numbers in a row.
        cols: usize,
    },
    /// A slice has the wrong length.
    Length {
        /// Which: "rows", "importance" or "out".
        what: &'static str,
        /// How long it is.
        is: usize,
        /// How long it should be (for rows: of which it should be a multiple).
        should: usize,
    },
    /// A number is NaN or infinite.
    NotFinite {
        /// Its place among all the rows.
        index: usize,
        /// The number.
        value: f32,
    },
    /// An importance is NaN, infinite or negative.
    Importance {
        /// Its column.
        index: usize,
        /// The importance.
        value: f32,
    },
    /// A number is too large for the type: it, or the scale of its block, would become infinite.
    Overflow {
        /// The place of the block's greatest number among all the rows.
        index: usize,
        /// The number.
        value: f32,
        /// The type asked for.
        ty: TensorType,
    },
}

impl fmt::Display for QuantizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            QuantizeError::Unsupported(ty) => write!(f, "there is no quantizer for {ty}"),
            QuantizeError::Columns { ty, cols } => {
                write!(f, "rows of {cols} values are not whole blocks of {ty}, which hold {}", ty.block_len())
            }
            QuantizeError::Length { what, is, should } => {
                write!(f, "{what}: the length is {is}, which does not fit {should}")
            }
            QuantizeError::NotFinite { index, value } => write!(f, "the value at index {index} is {value}"),
            QuantizeError::Importance { index, value } => write!(
                f,
                "the importance of column {index} is {value}: it must be a finite number, not negative"
            ),
            QuantizeError::Overflow { index, value, ty } => {
                write!(f, "the value at index {index}, {value:e}, is too large for {ty}")
            }
        }
    }
}

impl std::error::Error for QuantizeError {}

/// Whether [`quantize`] knows the type.
pub const fn quantizable(ty: TensorType) -> bool {
    use TensorType::*;
    matches!(
        ty,
        F32 | F16
            | BF16
            | Q4_0
            | Q4_1
            | Q5_0
            | Q5_1
            | Q8_0
            | Q2_K
            | Q3_K
            | Q4_K
            | Q5_K
            | Q6_K
            | Q8_K
            | IQ4_NL
            | IQ4_XS
    )
}

/// Quantizes whole rows into `out`, on this thread and at the current [`Level`].
///
/// `rows` is `[rows, cols]` with `cols` contiguous; `importance`, if given, weighs each column
/// (formats that only round, and floats, do without it); `out` takes the blocks, row by row.
///
/// # Errors
/// When the type has no encoder, a length does not fit, a number or an importance is not finite,
/// or a number is so large that it or its scale would become infinite. `out` is then unspecified.
pub fn quantize(
    ty: TensorType,
    rows: &[f32],
    cols: usize,
    importance: Option<&[f32]>,
    out: &mut [u8],
) -> Result<(), QuantizeError> {
    quantize_at(Level::current(), ty, rows, cols, importance, out)
}

/// [`quantize`] at a given level, or the best this machine has if that is lower.
///
/// # Errors
/// As [`quantize`].
pub fn quantize_at(
    level: Level,
    ty: TensorType,
    rows: &[f32],
    cols: usize,
    importance: Option<&[f32]>,
    out: &mut [u8],
) -> Result<(), QuantizeError> {
    validate(ty, rows, cols, importance, out.len())?;
    if rows.is_empty() {
        return Ok(());
    }
    match level.min(Level::detect()) {
        Level::Portable => encode::<lanes::Eight>(ty, rows, cols, importance, out),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `Level::detect` found every feature of the level.
        Level::Avx2 => unsafe { encode_avx2(ty, rows, cols, importance, out) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Level::Avx512Vnni | Level::Amx => unsafe { encode_avx512(ty, rows, cols, importance, out) },
        #[cfg(not(target_arch = "x86_64"))]
        _ => encode::<lanes::Eight>(ty, rows, cols, importance, out),
    }
    check(ty, out).map_err(|bad| {
        let len = ty.block_len();
        let block = &rows[bad.index * len..][..len];
        let greatest = (0..len).fold(0, |g, i| if block[i].abs() > block[g].abs() { i } else { g });
        QuantizeError::Overflow { index: bad.index * len + greatest, value: block[greatest], ty }
    })
}

fn validate(
    ty: TensorType,
    rows: &[f32],
    cols: usize,
    importance: Option<&[f32]>,
    out: usize,
) -> Result<(), QuantizeError> {
    if !quantizable(ty) {
        return Err(QuantizeError::Unsupported(ty));
    }
    if !cols.is_multiple_of(ty.block_len()) {
        return Err(QuantizeError::Columns { ty, cols });
    }
    if !rows.len().is_multiple_of(cols) {
        return Err(QuantizeError::Length { what: "rows", is: rows.len(), should: cols });
    }
    if let Some(importance) = importance
        && importance.len() != cols
    {
        return Err(QuantizeError::Length { what: "importance", is: importance.len(), should: cols });
    }
    let should = rows.len() / ty.block_len() * ty.block_bytes();
    if out != should {
        return Err(QuantizeError::Length { what: "out", is: out, should });
    }
    if let Some(index) = first_not_finite(rows) {
        return Err(QuantizeError::NotFinite { index, value: rows[index] });
    }
    match importance.and_then(first_unfit) {
        Some((index, value)) => Err(QuantizeError::Importance { index, value }),
        None => Ok(()),
    }
}

fn first_unfit(importance: &[f32]) -> Option<(usize, f32)> {
    // As in `first_not_finite`; a sign is looked at more closely, since zero may have one.
    let suspects =
        importance.iter().fold(0, |c, v| c | v.to_bits() | ((v.to_bits() & 0x7fff_ffff) + 0x0080_0000));
    if suspects >> 31 == 0 {
        return None;
    }
    importance.iter().copied().enumerate().find(|(_, v)| !(v.is_finite() && *v >= 0.0))
}

fn first_not_finite(values: &[f32]) -> Option<usize> {
    // A run at a time without a branch: the numbers are almost always finite. One more exponent
    // carries into the sign bit of exactly those that are not.
    let run = values.chunks(1024).position(|run| {
        let carries = run.iter().fold(0, |c, v| c | ((v.to_bits() & 0x7fff_ffff) + 0x0080_0000));
        carries >> 31 != 0
    })?;
    values[run * 1024..].iter().position(|v| !v.is_finite()).map(|at| run * 1024 + at)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,f16c")]
fn encode_avx2(ty: TensorType, rows: &[f32], cols: usize, importance: Option<&[f32]>, out: &mut [u8]) {
    encode::<x86::Avx2>(ty, rows, cols, importance, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
fn encode_avx512(ty: TensorType, rows: &[f32], cols: usize, importance: Option<&[f32]>, out: &mut [u8]) {
    encode::<x86::Avx512>(ty, rows, cols, importance, out);
}

/// What [`validate`] let through.
#[inline(always)]
fn encode<S: Lanes + Rounding>(
    ty: TensorType,
    rows: &[f32],
    cols: usize,
    importance: Option<&[f32]>,
    out: &mut [u8],
) {
    match scheme::scheme(ty, importance.is_some()) {
        Some(scheme) => {
            let row_bytes = cols / ty.block_len() * ty.block_bytes();
            for (row, out) in rows.chunks_exact(cols).zip(out.chunks_exact_mut(row_bytes)) {
                row::encode::<S>(ty, &scheme, row, importance, out);
            }
        }
        None => round::encode::<S>(ty, rows, out),
    }
}
