//! Lazy tensor expressions.
//!
//! Matrices are row-major; a shape is written outermost dimension first and its last dimension is
//! contiguous, as in Safetensors (GGUF's `ne` is the reverse). Every operation but
//! [`Expr::Transpose`] can make any run of output rows from few input rows, which is what lets
//! `codegen` stream.

use std::fmt;
use std::sync::Arc;

use mdl_kernels::TensorType;

/// The number of a file in `Module::files`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId(pub usize);

/// Dimensions, outermost first. The last one is contiguous.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Shape(pub Vec<u64>);

impl Shape {
    /// The number of values; `u64::MAX` when it does not fit.
    pub fn len(&self) -> u64 {
        self.0.iter().fold(1, |n, d| n.saturating_mul(*d))
    }

    /// True when a dimension is 0.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of dimensions.
    pub fn rank(&self) -> usize {
        self.0.len()
    }

    /// Values in a row: the last dimension, 1 for a scalar.
    pub fn cols(&self) -> u64 {
        self.0.last().copied().unwrap_or(1)
    }

    /// The number of rows: the product of all dimensions but the last.
    pub fn rows(&self) -> u64 {
        match self.0.split_last() {
            Some((_, outer)) => outer.iter().fold(1, |n, d| n.saturating_mul(*d)),
            None => 1,
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, d) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{d}")?;
        }
        f.write_str("]")
    }
}

/// One importance weight per column.
#[derive(Clone, PartialEq)]
pub struct Imatrix(pub Arc<[f32]>);

impl fmt::Debug for Imatrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Imatrix({} columns)", self.0.len())
    }
}

/// What a tensor is made of.
#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    /// Bytes of a file, as they are.
    Load {
        /// The file.
        file: FileId,
        /// The first byte.
        offset: u64,
        /// Bytes.
        len: u64,
        /// How the bytes encode values.
        dtype: TensorType,
        /// The shape they have.
        shape: Shape,
    },
    /// Values known at compile time, such as RoPE frequency factors.
    Const {
        /// Row-major values.
        values: Arc<[f32]>,
        /// The shape they have.
        shape: Shape,
    },
    /// Rows of each head from half-split order `[2, d/2]` to interleaved order `[d/2, 2]`: the order
    /// in which GGUF's Llama stores q and k.
    PermuteRope {
        /// A matrix `[heads * d, cols]`, or a vector `[heads * d]`.
        of: Box<Expr>,
        /// The number of heads.
        heads: u64,
    },
    /// The inverse: rows of each head from interleaved order `[d/2, 2]` to half-split order `[2, d/2]`.
    HalveRope {
        /// A matrix `[heads * d, cols]`, or a vector `[heads * d]`.
        of: Box<Expr>,
        /// The number of heads.
        heads: u64,
    },
    /// `rows` rows of a matrix from row `start`.
    Split {
        /// The matrix.
        of: Box<Expr>,
        /// The first row.
        start: u64,
        /// The number of rows.
        rows: u64,
    },
    /// Matrices of one shape `[rows, cols]`, put together to `[n, rows, cols]`.
    Stack(Vec<Expr>),
    /// `[rows, cols]` to `[cols, rows]`.
    Transpose(Box<Expr>),
    /// The sum, element by element, in float32.
    Add(Box<Expr>, Box<Expr>),
    /// `base + scale * (b x a)`, in float32: a fused low-rank adapter.
    LowRank {
        /// `[rows, cols]`
        base: Box<Expr>,
        /// `[rank, cols]`
        a: Box<Expr>,
        /// `[rows, rank]`
        b: Box<Expr>,
        /// The factor of the product.
        scale: f32,
    },
    /// The values times one scale for each block of them, in float32: how checkpoints store FP8.
    ScaleBlocks {
        /// `[rows, cols]` or `[n, rows, cols]`
        of: Box<Expr>,
        /// `[ceil(rows / block[0]), ceil(cols / block[1])]`, with `n` before it where `of` has it.
        scales: Box<Expr>,
        /// Rows and columns of a block; those at the lower and the right edge may be smaller.
        block: [u64; 2],
    },
    /// MXFP4 as checkpoints store it, two neighbours in each byte and the scales apart, with the
    /// values `[..., cols]` put in GGUF's blocks: the same values, but that zero has one sign.
    Mxfp4 {
        /// A load of bytes `[..., cols / 32, 16]`; of each, the lower half comes first.
        blocks: Box<Expr>,
        /// A load of bytes `[..., cols / 32]`: exponents, as E8M0.
        scales: Box<Expr>,
    },
    /// `magnitude[r] * of[r] / ||of[r]||` for each row `r`: rows of a given Euclidean length. The
    /// weight normalization of Salimans and Kingma 2016 (arXiv 1602.07868), as DoRA has it (Liu et al.
    /// 2024, arXiv 2402.09353). The sum of squares is in float64, from left to right.
    WeightNorm {
        /// `[rows, cols]`
        of: Box<Expr>,
        /// `[rows]`
        magnitude: Box<Expr>,
    },
    /// The values, encoded as `dtype`.
    Encode {
        /// What to encode.
        of: Box<Expr>,
        /// The type to encode as.
        dtype: TensorType,
        /// Importance weights, where the type makes use of them.
        imatrix: Option<Imatrix>,
    },
}

impl Expr {
    /// [`Expr::PermuteRope`] of `of`; where it undoes an [`Expr::HalveRope`], what that was made of.
    pub fn permute_rope(of: Expr, heads: u64) -> Expr {
        match of {
            Expr::HalveRope { of, heads: same } if same == heads => *of,
            of => Expr::PermuteRope { of: Box::new(of), heads },
        }
    }

    /// The shape of the value.
    pub fn shape(&self) -> Shape {
        match self {
            Expr::Load { shape, .. } | Expr::Const { shape, .. } => shape.clone(),
            Expr::PermuteRope { of, .. }
            | Expr::HalveRope { of, .. }
            | Expr::ScaleBlocks { of, .. }
            | Expr::WeightNorm { of, .. }
            | Expr::Encode { of, .. } => of.shape(),
            Expr::Mxfp4 { scales, .. } => {
                let mut shape = scales.shape();
                if let Some(cols) = shape.0.last_mut() {
                    *cols = cols.saturating_mul(TensorType::MXFP4.block_len() as u64);
                }
                shape
            }
            Expr::Split { of, rows, .. } => {
                let mut shape = of.shape();
                if let Some(first) = shape.0.first_mut() {
                    *first = *rows;
                }
                shape
            }
            Expr::Stack(parts) => {
                let mut shape = parts.first().map(Expr::shape).unwrap_or(Shape(vec![]));
                shape.0.insert(0, parts.len() as u64);
                shape
            }
            Expr::Transpose(of) => {
                let mut shape = of.shape();
                shape.0.reverse();
                shape
            }
            Expr::Add(left, _) => left.shape(),
            Expr::LowRank { base, .. } => base.shape(),
        }
    }

    /// The type the value has when it is written: an encoding's, a load's own, else F32.
    pub fn dtype(&self) -> TensorType {
        match self {
            Expr::Load { dtype, .. } | Expr::Encode { dtype, .. } => *dtype,
            Expr::Split { of, .. } | Expr::PermuteRope { of, .. } | Expr::HalveRope { of, .. } => of.dtype(),
            Expr::Stack(parts) => parts.first().map_or(TensorType::F32, Expr::dtype),
            Expr::Mxfp4 { .. } => TensorType::MXFP4,
            Expr::Const { .. }
            | Expr::Transpose(_)
            | Expr::Add(..)
            | Expr::LowRank { .. }
            | Expr::ScaleBlocks { .. }
            | Expr::WeightNorm { .. } => TensorType::F32,
        }
    }

    /// The bytes of the value as written; `None` when rows are no whole blocks or it does not fit.
    pub fn byte_len(&self) -> Option<u64> {
        let shape = self.shape();
        self.dtype().row_bytes(shape.cols())?.checked_mul(shape.rows())
    }

    /// Every `Load` in the expression, from left to right.
    pub fn loads(&self) -> Vec<&Expr> {
        let mut found = Vec::new();
        self.visit(&mut |e| {
            if matches!(e, Expr::Load { .. }) {
                found.push(e);
            }
        });
        found
    }

    /// Calls `f` for the expression and all its parts.
    pub fn visit<'a>(&'a self, f: &mut dyn FnMut(&'a Expr)) {
        f(self);
        match self {
            Expr::Load { .. } | Expr::Const { .. } => {}
            Expr::PermuteRope { of, .. }
            | Expr::HalveRope { of, .. }
            | Expr::Split { of, .. }
            | Expr::Encode { of, .. } => of.visit(f),
            Expr::Transpose(of) => of.visit(f),
            Expr::Stack(parts) => parts.iter().for_each(|p| p.visit(f)),
            Expr::Add(left, right) => {
                left.visit(f);
                right.visit(f);
            }
            Expr::LowRank { base, a, b, .. } => {
                base.visit(f);
                a.visit(f);
                b.visit(f);
            }
            Expr::ScaleBlocks { of: left, scales: right, .. }
            | Expr::Mxfp4 { blocks: left, scales: right } => {
                left.visit(f);
                right.visit(f);
            }
            Expr::WeightNorm { of, magnitude } => {
                of.visit(f);
                magnitude.visit(f);
            }
        }
    }
}

/// As a plan prints it: `encode Q4_K (permute 9 (load 0 BF16 +1024))`.
impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Expr::Load { file, offset, dtype, .. } => write!(f, "load {dtype} #{}+{offset}", file.0),
            Expr::Const { values, .. } => write!(f, "const {} values", values.len()),
            Expr::PermuteRope { of, heads } => write!(f, "permute_rope {heads} ({of})"),
            Expr::HalveRope { of, heads } => write!(f, "halve_rope {heads} ({of})"),
            Expr::Split { of, start, rows } => write!(f, "split {start}..{} ({of})", start + rows),
            Expr::Stack(parts) => {
                write!(f, "stack {} (", parts.len())?;
                if let Some(first) = parts.first() {
                    write!(f, "{first}, ...")?;
                }
                f.write_str(")")
            }
            Expr::Transpose(of) => write!(f, "transpose ({of})"),
            Expr::Add(left, right) => write!(f, "add ({left}) ({right})"),
            Expr::LowRank { base, a, b, scale } => {
                write!(f, "low_rank x{scale} ({base}) a=({a}) b=({b})")
            }
            Expr::ScaleBlocks { of, scales, block: [rows, cols] } => {
                write!(f, "scale {rows}x{cols} ({of}) by ({scales})")
            }
            Expr::Mxfp4 { blocks, scales } => write!(f, "mxfp4 ({blocks}) by ({scales})"),
            Expr::WeightNorm { of, magnitude } => write!(f, "weight_norm ({of}) to ({magnitude})"),
            Expr::Encode { of, dtype, imatrix } => {
                let weighted = if imatrix.is_some() { " imatrix" } else { "" };
                write!(f, "encode {dtype}{weighted} ({of})")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(shape: &[u64]) -> Expr {
        let shape = Shape(shape.to_vec());
        Expr::Load { file: FileId(0), offset: 0, len: shape.len() * 2, dtype: TensorType::BF16, shape }
    }

    #[test]
    fn shapes_follow_the_operations() {
        let stacked = Expr::Stack(vec![load(&[4, 8]), load(&[4, 8])]);
        assert_eq!(stacked.shape().0, [2, 4, 8]);
        assert_eq!(Expr::Transpose(Box::new(load(&[4, 8]))).shape().0, [8, 4]);
        let split = Expr::Split { of: Box::new(load(&[4, 8])), start: 1, rows: 2 };
        assert_eq!((split.shape().0, split.dtype()), (vec![2, 8], TensorType::BF16));
        let encoded = Expr::Encode { of: Box::new(load(&[4, 64])), dtype: TensorType::Q4_0, imatrix: None };
        assert_eq!(encoded.byte_len(), Some(4 * 36));
    }
}
