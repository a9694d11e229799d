//! Makes rows of an expression.
//!
//! An [`Evaluator`] is bound to one expression. Operations that only move rows (`Load`,
//! `PermuteRope`, `Split`, `Stack`) become a map from output row to input bytes; everything else
//! works on float32 rows. The arithmetic is plain IEEE single precision in a fixed order, so the
//! bytes do not depend on the machine or on how rows are cut into chunks.

use std::ops::Range;
use std::sync::Arc;

use mdl_kernels::TensorType;

use crate::diagnostic::{Diagnostic, Result};
use crate::ir::{Expr, Shape, SourceFile};

/// The most values that a chunk is meant to have: 1 MiB of float32.
const CHUNK_VALUES: u64 = 1 << 18;

/// Values that are encoded at a time: 128 KiB of float32, which stay close to the core.
const PIECE_VALUES: u64 = 1 << 15;

/// The most bytes a matrix may have that is read whole: the factors of adapters, and matrices that
/// are transposed.
const WHOLE_BYTES: u64 = 1 << 30;

/// Rows in a chunk of rows of `cols` values: at least one.
pub fn chunk_rows(cols: u64) -> u64 {
    (CHUNK_VALUES / cols.max(1)).max(1)
}

/// An expression, ready to make any of its rows.
pub struct Evaluator<'a> {
    node: Node<'a>,
    files: &'a [SourceFile],
    /// Values in a row.
    cols: usize,
    /// Rows of the whole value.
    rows: u64,
}

/// The expression with the matrices it needs whole already read.
enum Node<'a> {
    Load {
        file: usize,
        offset: u64,
        dtype: TensorType,
    },
    Const(&'a [f32]),
    /// Output row `h * d + 2 j + s` is input row `h * d + s * d/2 + j`, or the other way about.
    PermuteRope {
        of: Box<Node<'a>>,
        head_rows: u64,
        inverse: bool,
    },
    Split {
        of: Box<Node<'a>>,
        start: u64,
    },
    Stack {
        parts: Vec<Node<'a>>,
        rows_each: u64,
    },
    /// A whole matrix in memory.
    Whole(Arc<[f32]>),
    Add(Box<Node<'a>>, Box<Node<'a>>),
    /// `a` is whole, `[rank, cols]`; rows of `b` are made as needed.
    LowRank {
        base: Box<Node<'a>>,
        a: Arc<[f32]>,
        b: Box<Node<'a>>,
        rank: usize,
        scale: f32,
    },
    /// `scale_rows` rows of scales for each `rows_each` rows.
    ScaleBlocks {
        of: Box<Node<'a>>,
        scales: Box<Node<'a>>,
        block: [u64; 2],
        rows_each: u64,
        scale_rows: u64,
        scale_cols: usize,
    },
    /// Both are loads of bytes.
    Mxfp4 {
        blocks: Box<Node<'a>>,
        scales: Box<Node<'a>>,
    },
    /// `magnitude` is whole, a value for each row.
    WeightNorm {
        of: Box<Node<'a>>,
        magnitude: Arc<[f32]>,
    },
    Encode {
        of: Box<Node<'a>>,
        dtype: TensorType,
        imatrix: Option<&'a [f32]>,
        rows_each: u64,
    },
}

impl<'a> Evaluator<'a> {
    /// Prepares an expression. Reads the matrices that must be whole; a module that the verifier
    /// accepted has no others.
    ///
    /// # Errors
    /// A matrix that must be whole is too large or cannot be read.
    pub fn new(expr: &'a Expr, files: &'a [SourceFile]) -> Result<Evaluator<'a>> {
        let shape = expr.shape();
        // A vector `[n]` is `n` rows of one value: what moves the rows of a matrix moves the
        // elements of its bias.
        let (rows, cols) = if moves_elements(expr) { (shape.len(), 1) } else { (shape.rows(), shape.cols()) };
        let cols = usize::try_from(cols).map_err(|_| too_large(cols))?;
        Ok(Evaluator { node: node(expr, files)?, files, cols, rows })
    }

    /// The number of rows.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Values in a row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Rows as they are written: encoded, or the bytes of the source.
    ///
    /// # Errors
    /// The source cannot be read, or a value cannot be encoded.
    pub fn bytes(&self, rows: Range<u64>) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        self.append_bytes(rows, &mut out)?;
        Ok(out)
    }

    /// [`bytes`](Self::bytes), after what `out` holds.
    ///
    /// # Errors
    /// As [`bytes`](Self::bytes).
    pub fn append_bytes(&self, rows: Range<u64>, out: &mut Vec<u8>) -> Result<()> {
        self.bytes_of(&self.node, rows, out)
    }

    /// Rows as float32.
    ///
    /// # Errors
    /// The source cannot be read.
    pub fn values(&self, rows: Range<u64>) -> Result<Vec<f32>> {
        let mut out = vec![0.0; self.row_values(&rows, self.cols)?];
        self.values_of(&self.node, rows, self.cols, &mut out)?;
        Ok(out)
    }

    fn row_values(&self, rows: &Range<u64>, cols: usize) -> Result<usize> {
        let count = usize::try_from(rows.end.saturating_sub(rows.start)).ok();
        count.and_then(|n| n.checked_mul(cols)).ok_or_else(|| too_large(rows.end).into())
    }

    fn bytes_of(&self, node: &Node<'a>, rows: Range<u64>, out: &mut Vec<u8>) -> Result<()> {
        match node {
            Node::Load { file, offset, dtype } => {
                let width = self.row_width(*dtype)?;
                let count = self.row_values(&rows, width)?;
                let at = out.len();
                out.resize(at + count, 0);
                self.read(*file, offset + rows.start * width as u64, &mut out[at..])
            }
            Node::PermuteRope { of, head_rows, inverse } => {
                let (mut input, at) = (Vec::new(), out.len());
                for run in permuted_runs(rows.clone(), *head_rows, *inverse) {
                    input.clear();
                    self.bytes_of(of, run.input.clone(), &mut input)?;
                    let width = input.len() / (run.input.end - run.input.start).max(1) as usize;
                    out.resize(at + (rows.end - rows.start) as usize * width, 0);
                    for (to, from) in run.moves(&rows) {
                        out[at + to * width..][..width].copy_from_slice(&input[from * width..][..width]);
                    }
                }
                Ok(())
            }
            Node::Split { of, start } => self.bytes_of(of, rows.start + start..rows.end + start, out),
            Node::Stack { parts, rows_each } => {
                for (part, range) in stacked(rows, *rows_each) {
                    self.bytes_of(&parts[part], range, out)?;
                }
                Ok(())
            }
            Node::Encode { of, dtype, imatrix, rows_each } => {
                let piece = (PIECE_VALUES / (self.cols as u64).max(1)).max(1);
                let mut buffer = Vec::new();
                for (part, range) in stacked(rows, *rows_each) {
                    let first = part as u64 * rows_each;
                    let weights = imatrix.and_then(|w| match w.len() / self.cols {
                        0 | 1 => Some(w),
                        _ => w.get(part * self.cols..(part + 1) * self.cols),
                    });
                    for start in range.clone().step_by(piece as usize) {
                        let rows = first + start..first + range.end.min(start + piece);
                        let count = self.row_values(&rows, self.cols)?;
                        if buffer.len() < count {
                            buffer.resize(count, 0.0);
                        }
                        let values = &mut buffer[..count];
                        self.values_of(of, rows.clone(), self.cols, values)?;
                        self.encode(*dtype, values, weights, rows.start, out)?;
                    }
                }
                Ok(())
            }
            Node::Mxfp4 { blocks, scales } => self.mxfp4(blocks, scales, rows, self.cols, out),
            Node::Const(_)
            | Node::Whole(_)
            | Node::Add(..)
            | Node::LowRank { .. }
            | Node::ScaleBlocks { .. }
            | Node::WeightNorm { .. } => {
                let mut values = vec![0.0; self.row_values(&rows, self.cols)?];
                self.values_of(node, rows, self.cols, &mut values)?;
                out.extend(values.iter().flat_map(|v| v.to_le_bytes()));
                Ok(())
            }
        }
    }

    fn encode(
        &self,
        dtype: TensorType,
        values: &[f32],
        imatrix: Option<&[f32]>,
        first_row: u64,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let width = self.row_width(dtype)?;
        let at = out.len();
        out.resize(at + values.len() / self.cols.max(1) * width, 0);
        mdl_kernels::quantize(dtype, values, self.cols, imatrix, &mut out[at..]).map_err(|e| {
            let first = first_row * self.cols as u64;
            Diagnostic::error(format!("cannot encode as {dtype}, in values from {first}: {e}"))
                .code("encode")
                .help("the weights are damaged or overflow the type; look at the checkpoint")
        })?;
        Ok(())
    }

    fn values_of(&self, node: &Node<'a>, rows: Range<u64>, cols: usize, out: &mut [f32]) -> Result<()> {
        match node {
            Node::Load { dtype, .. } => {
                let mut bytes = Vec::new();
                self.load_bytes(node, *dtype, rows, cols, &mut bytes)?;
                mdl_kernels::dequantize(*dtype, &bytes, out)
                    .map_err(|e| Diagnostic::error(format!("cannot read {dtype} values: {e}")).into())
            }
            Node::Const(values) => copy_rows(values, rows, cols, out),
            Node::Whole(values) => copy_rows(values, rows, cols, out),
            Node::PermuteRope { of, head_rows, inverse } => {
                for run in permuted_runs(rows.clone(), *head_rows, *inverse) {
                    let mut input = vec![0.0; self.row_values(&run.input, cols)?];
                    self.values_of(of, run.input.clone(), cols, &mut input)?;
                    for (to, from) in run.moves(&rows) {
                        out[to * cols..][..cols].copy_from_slice(&input[from * cols..][..cols]);
                    }
                }
                Ok(())
            }
            Node::Split { of, start } => self.values_of(of, rows.start + start..rows.end + start, cols, out),
            Node::Stack { parts, rows_each } => {
                let mut rest = out;
                for (part, range) in stacked(rows, *rows_each) {
                    let (now, later) = rest.split_at_mut(self.row_values(&range, cols)?);
                    self.values_of(&parts[part], range, cols, now)?;
                    rest = later;
                }
                Ok(())
            }
            Node::Add(left, right) => {
                self.values_of(left, rows.clone(), cols, out)?;
                let mut other = vec![0.0; out.len()];
                self.values_of(right, rows, cols, &mut other)?;
                out.iter_mut().zip(&other).for_each(|(o, r)| *o += r);
                Ok(())
            }
            Node::LowRank { base, a, b, rank, scale } => {
                self.values_of(base, rows.clone(), cols, out)?;
                let mut factors = vec![0.0; self.row_values(&rows, *rank)?];
                self.values_of(b, rows, *rank, &mut factors)?;
                if !out.is_empty() && *rank > 0 {
                    mdl_kernels::add_low_rank(out, cols, &factors, a, *rank, *scale);
                }
                Ok(())
            }
            Node::ScaleBlocks { of, scales, block, rows_each, scale_rows, scale_cols } => {
                self.values_of(of, rows.clone(), cols, out)?;
                let scale_row = |row: u64| row / rows_each * scale_rows + row % rows_each / block[0];
                let Some(last) = rows.end.checked_sub(1) else { return Ok(()) };
                let needed = scale_row(rows.start)..scale_row(last) + 1;
                let mut factors = vec![0.0; self.row_values(&needed, *scale_cols)?];
                self.values_of(scales, needed.clone(), *scale_cols, &mut factors)?;
                let width = usize::try_from(block[1]).map_err(|_| too_large(block[1]))?;
                for (row, out) in rows.zip(out.chunks_exact_mut(cols)) {
                    let from = (scale_row(row) - needed.start) as usize * scale_cols;
                    let factors = &factors[from..from + scale_cols];
                    for (values, factor) in out.chunks_mut(width).zip(factors) {
                        values.iter_mut().for_each(|v| *v *= factor);
                    }
                }
                Ok(())
            }
            Node::Mxfp4 { blocks, scales } => {
                let mut bytes = Vec::new();
                self.mxfp4(blocks, scales, rows, cols, &mut bytes)?;
                mdl_kernels::dequantize(TensorType::MXFP4, &bytes, out)
                    .map_err(|e| Diagnostic::error(format!("cannot read MXFP4 values: {e}")).into())
            }
            Node::WeightNorm { of, magnitude } => {
                self.values_of(of, rows.clone(), cols, out)?;
                let lengths = magnitude.get(rows.start as usize..rows.end as usize);
                let lengths = lengths.ok_or_else(|| too_large(rows.end))?;
                for (row, length) in out.chunks_exact_mut(cols.max(1)).zip(lengths) {
                    let square = row.iter().fold(0.0, |sum, v| sum + f64::from(*v) * f64::from(*v));
                    let factor = f64::from(*length) / square.sqrt();
                    row.iter_mut().for_each(|v| *v = (f64::from(*v) * factor) as f32);
                }
                Ok(())
            }
            // An encoding inside an expression: what a reader of it would see.
            Node::Encode { dtype, .. } => {
                let mut bytes = Vec::new();
                self.bytes_of(node, rows, &mut bytes)?;
                mdl_kernels::dequantize(*dtype, &bytes, out)
                    .map_err(|e| Diagnostic::error(format!("cannot read {dtype} values: {e}")).into())
            }
        }
    }

    /// Rows of a checkpoint's MXFP4 as GGUF's blocks: a scale, then 16 bytes whose lower halves
    /// are the first 16 values and whose upper halves are the others.
    fn mxfp4(
        &self,
        blocks: &Node<'a>,
        scales: &Node<'a>,
        rows: Range<u64>,
        cols: usize,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        const BYTES: usize = TensorType::MXFP4.block_len() / 2;
        let mut pairs = Vec::new();
        self.load_bytes(blocks, TensorType::U8, rows.clone(), cols / 2, &mut pairs)?;
        let mut exponents = Vec::new();
        self.load_bytes(scales, TensorType::U8, rows, cols / TensorType::MXFP4.block_len(), &mut exponents)?;
        for (pairs, exponent) in pairs.as_chunks::<BYTES>().0.iter().zip(exponents) {
            out.push(exponent);
            let value = |i: usize| pairs[i / 2] >> (i % 2 * 4) & 15;
            out.extend((0..BYTES).map(|i| value(i) | value(i + BYTES) << 4));
        }
        Ok(())
    }

    fn load_bytes(
        &self,
        node: &Node<'a>,
        dtype: TensorType,
        rows: Range<u64>,
        cols: usize,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let Node::Load { file, offset, .. } = node else { return Ok(()) };
        let width = width_of(dtype, cols)?;
        out.resize(self.row_values(&rows, width)?, 0);
        self.read(*file, offset + rows.start * width as u64, out)
    }

    fn row_width(&self, dtype: TensorType) -> Result<usize> {
        width_of(dtype, self.cols)
    }

    fn read(&self, file: usize, offset: u64, buf: &mut [u8]) -> Result<()> {
        let source = &self.files[file];
        source.file.read_at(offset, buf).map_err(|e| Diagnostic::io("read", &source.path, &e).into())
    }
}

/// True for a vector whose elements are moved one by one.
fn moves_elements(expr: &Expr) -> bool {
    match expr {
        Expr::PermuteRope { of, .. } | Expr::HalveRope { of, .. } => of.shape().rank() == 1,
        Expr::Encode { of, dtype, .. } => dtype.block_len() == 1 && moves_elements(of),
        _ => false,
    }
}

fn width_of(dtype: TensorType, cols: usize) -> Result<usize> {
    dtype.row_bytes(cols as u64).and_then(|w| usize::try_from(w).ok()).ok_or_else(|| {
        Diagnostic::error(format!("rows of {cols} values are no whole blocks of {dtype}")).into()
    })
}

fn too_large(size: u64) -> Diagnostic {
    Diagnostic::error(format!("a matrix of {size} rows or columns does not fit in memory"))
}

/// The input row of an output row of `PermuteRope`, `head_rows` rows a head, or of its inverse.
fn permuted_from(row: u64, head_rows: u64, inverse: bool) -> u64 {
    let (head, within) = (row / head_rows * head_rows, row % head_rows);
    let half = (head_rows / 2).max(1);
    match inverse {
        false => head + within % 2 * half + within / 2,
        true => head + within % half * 2 + within / half,
    }
}

/// Rows of a `PermuteRope` that come from one run of its input.
struct PermutedRun {
    input: Range<u64>,
    /// Each output row and its input row.
    rows: Vec<(u64, u64)>,
}

impl PermutedRun {
    /// The place of each row among the output `rows`, and that among the input of this run.
    fn moves(&self, rows: &Range<u64>) -> impl Iterator<Item = (usize, usize)> {
        let (first, input) = (rows.start, self.input.start);
        self.rows.iter().map(move |(to, from)| ((to - first) as usize, (from - input) as usize))
    }
}

/// The input of a run of rows of a `PermuteRope`. Each head's rows come from both halves of its input, of which no
/// more is named than is needed.
fn permuted_runs(rows: Range<u64>, head_rows: u64, inverse: bool) -> impl Iterator<Item = PermutedRun> {
    let half = (head_rows / 2).max(1);
    let heads = rows.start / head_rows..rows.end.div_ceil(head_rows);
    let halves = heads.flat_map(move |head| {
        let (first, end) = (head * head_rows, (head + 1) * head_rows);
        [(head, first..end.min(first + half)), (head, end.min(first + half)..end)]
    });
    halves.filter_map(move |(head, of)| {
        let within = rows.start.max(head * head_rows)..rows.end.min((head + 1) * head_rows);
        let moved = within.map(|row| (row, permuted_from(row, head_rows, inverse)));
        let rows: Vec<(u64, u64)> = moved.filter(|(_, from)| of.contains(from)).collect();
        let start = rows.iter().map(|(_, from)| *from).min()?;
        let end = rows.iter().map(|(_, from)| from + 1).max()?;
        Some(PermutedRun { input: start..end, rows })
    })
}

/// Cuts a run of rows of a stack into runs of its parts.
fn stacked(rows: Range<u64>, rows_each: u64) -> impl Iterator<Item = (usize, Range<u64>)> {
    let each = rows_each.max(1);
    let parts = rows.start / each..rows.end.div_ceil(each);
    parts.map(move |part| {
        let start = rows.start.max(part * each) - part * each;
        let end = rows.end.min((part + 1) * each) - part * each;
        (part as usize, start..end)
    })
}

fn copy_rows(values: &[f32], rows: Range<u64>, cols: usize, out: &mut [f32]) -> Result<()> {
    let range = rows.start as usize * cols..rows.end as usize * cols;
    let values = values.get(range).ok_or_else(|| too_large(rows.end))?;
    out.copy_from_slice(values);
    Ok(())
}

fn node<'a>(expr: &'a Expr, files: &'a [SourceFile]) -> Result<Node<'a>> {
    let boxed = |e: &'a Expr| node(e, files).map(Box::new);
    Ok(match expr {
        Expr::Load { file, offset, dtype, .. } => Node::Load { file: file.0, offset: *offset, dtype: *dtype },
        Expr::Const { values, .. } => Node::Const(values),
        Expr::PermuteRope { of, heads } | Expr::HalveRope { of, heads } => {
            let rows = if of.shape().rank() == 1 { of.shape().len() } else { of.shape().rows() };
            Node::PermuteRope {
                of: boxed(of)?,
                head_rows: rows.checked_div(*heads).unwrap_or(rows).max(1),
                inverse: matches!(expr, Expr::HalveRope { .. }),
            }
        }
        Expr::Split { of, start, .. } => Node::Split { of: boxed(of)?, start: *start },
        Expr::Stack(parts) => Node::Stack {
            rows_each: parts.first().map_or(1, |p| p.shape().rows()),
            parts: parts.iter().map(|p| node(p, files)).collect::<Result<_>>()?,
        },
        Expr::Transpose(of) => Node::Whole(transposed(of, files)?),
        Expr::Add(left, right) => Node::Add(boxed(left)?, boxed(right)?),
        Expr::LowRank { base, a, b, scale } => Node::LowRank {
            base: boxed(base)?,
            a: whole(a, files)?,
            b: boxed(b)?,
            rank: a.shape().rows() as usize,
            scale: *scale,
        },
        Expr::ScaleBlocks { of, scales, block } => {
            let (shape, scale_shape) = (of.shape(), scales.shape());
            let second_last = |shape: &Shape| shape.rank().checked_sub(2).map_or(1, |at| shape.0[at]);
            let cols = scale_shape.cols();
            Node::ScaleBlocks {
                of: boxed(of)?,
                scales: boxed(scales)?,
                block: block.map(|n| n.max(1)),
                rows_each: second_last(&shape).max(1),
                scale_rows: second_last(&scale_shape),
                scale_cols: usize::try_from(cols).map_err(|_| too_large(cols))?,
            }
        }
        Expr::Mxfp4 { blocks, scales } => Node::Mxfp4 { blocks: boxed(blocks)?, scales: boxed(scales)? },
        Expr::WeightNorm { of, magnitude } => {
            Node::WeightNorm { of: boxed(of)?, magnitude: whole(magnitude, files)? }
        }
        Expr::Encode { of, dtype, imatrix } => {
            let shape = of.shape();
            let experts = if shape.rank() == 3 { shape.0[0].max(1) } else { 1 };
            let rows = if moves_elements(expr) { shape.len() } else { shape.rows() };
            Node::Encode {
                of: boxed(of)?,
                dtype: *dtype,
                imatrix: imatrix.as_ref().map(|i| &*i.0),
                rows_each: (rows / experts).max(1),
            }
        }
    })
}

fn whole(expr: &Expr, files: &[SourceFile]) -> Result<Arc<[f32]>> {
    let bytes = expr.shape().len().saturating_mul(4);
    if bytes > WHOLE_BYTES {
        return Err(too_large(expr.shape().len()).into());
    }
    let evaluator = Evaluator::new(expr, files)?;
    Ok(evaluator.values(0..evaluator.rows())?.into())
}

fn transposed(expr: &Expr, files: &[SourceFile]) -> Result<Arc<[f32]>> {
    let values = whole(expr, files)?;
    let shape = expr.shape();
    let (rows, cols) = (shape.rows() as usize, shape.cols() as usize);
    let mut out = vec![0.0; values.len()];
    for (row, values) in values.chunks_exact(cols.max(1)).enumerate() {
        for (col, v) in values.iter().enumerate() {
            out[col * rows + row] = *v;
        }
    }
    Ok(out.into())
}

#[cfg(test)]
mod tests;
