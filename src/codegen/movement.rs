//! How much adapters move the tensors of a model.

use rayon::prelude::*;

use super::evaluate::{Evaluator, chunk_rows};
use crate::diagnostic::Result;
use crate::ir::{Change, Expr, Module};

/// The greatest rank whose Gram matrix is made; above it the change itself is.
const MOST_RANK: u64 = 1024;

/// How much an adapter moves a tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Moved {
    /// The tensor's GGUF name.
    pub tensor: String,
    /// The Frobenius norm of what is added.
    pub by: f64,
    /// The Frobenius norm of what it is added to.
    pub of: f64,
}

/// For each adapter of a module that `fuse` has seen, its changes in their order. Adapters of one tensor
/// each move what those before have made of it.
///
/// # Errors
/// A source cannot be read.
pub fn movement(module: &Module) -> Result<Vec<Vec<Moved>>> {
    let mut all = Vec::with_capacity(module.adapters.len());
    for adapter in &module.adapters {
        let mut moved = Vec::with_capacity(adapter.changes.len());
        for change in &adapter.changes {
            let Some(base) = &change.base else { continue };
            let by = match &change.change {
                Change::LowRank { a, b, scale, magnitude: None } if a.shape().rows() <= MOST_RANK => {
                    f64::from(scale.abs()) * norm_of_product(a, b, module)?
                }
                other => {
                    let after = other.clone().applied(base.clone());
                    let after = Evaluator::new(&after, &module.files)?;
                    let before = Evaluator::new(base, &module.files)?;
                    sum_of_rows(&before, &|rows| {
                        let (old, new) = (before.values(rows.clone())?, after.values(rows)?);
                        Ok(old.iter().zip(&new).map(|(o, n)| square(f64::from(*n) - f64::from(*o))).sum())
                    })?
                    .sqrt()
                }
            };
            let before = Evaluator::new(base, &module.files)?;
            let of = sum_of_rows(&before, &|rows| {
                Ok(before.values(rows)?.iter().map(|v| square(f64::from(*v))).sum())
            })?
            .sqrt();
            moved.push(Moved { tensor: change.target.clone(), by, of });
        }
        all.push(moved);
    }
    Ok(all)
}

fn square(v: f64) -> f64 {
    v * v
}

/// `||b x a||`: the root of the sum over `(b^T b) * (a a^T)`, element by element, which takes no product as
/// large as the tensor.
fn norm_of_product(a: &Expr, b: &Expr, module: &Module) -> Result<f64> {
    let rank = a.shape().rows() as usize;
    let a = Evaluator::new(a, &module.files)?;
    let b = Evaluator::new(b, &module.files)?;
    let (a_rows, cols) = (a.values(0..a.rows())?, a.cols());
    let mut of_b = vec![0.0; rank * rank];
    for row in b.values(0..b.rows())?.chunks_exact(rank.max(1)) {
        for (i, left) in row.iter().enumerate() {
            for (j, right) in row.iter().enumerate() {
                of_b[i * rank + j] += f64::from(*left) * f64::from(*right);
            }
        }
    }
    let row = |i: usize| &a_rows[i * cols..(i + 1) * cols];
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    let cells = of_b.iter().enumerate().map(|(at, b)| b * dot(row(at / rank), row(at % rank)));
    Ok(cells.sum::<f64>().max(0.0).sqrt())
}

/// The sum over chunks of rows, made in parallel and added in order.
fn sum_of_rows(
    of: &Evaluator<'_>,
    sum: &(dyn Fn(std::ops::Range<u64>) -> Result<f64> + Sync),
) -> Result<f64> {
    let (rows, step) = (of.rows(), chunk_rows(of.cols() as u64));
    let chunks = rows.div_ceil(step);
    let sums: Result<Vec<f64>> =
        (0..chunks).into_par_iter().map(|i| sum(i * step..rows.min((i + 1) * step))).collect();
    Ok(sums?.into_iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{Adapter, AdapterChange, Shape};

    fn matrix(rows: u64, cols: u64, values: &[f32]) -> Expr {
        Expr::Const { values: values.into(), shape: Shape(vec![rows, cols]) }
    }

    #[test]
    fn norms_are_those_of_the_dense_product() {
        // b x a = [[3, 4], [0, 0], [-6, -8]] is of norm sqrt(125), halved by the scale.
        let (a, b) = (matrix(2, 2, &[3.0, 4.0, 1.0, 1.0]), matrix(3, 2, &[1.0, 0.0, 0.0, 0.0, -2.0, 0.0]));
        let base = matrix(3, 2, &[1.0, 2.0, 2.0, 0.0, 0.0, 4.0]);
        let low_rank = |magnitude| Change::LowRank { a: a.clone(), b: b.clone(), scale: -0.5, magnitude };
        let replace = Change::Replace(matrix(3, 2, &[1.0, 2.0, 2.0, 3.0, 0.0, 0.0]));
        let lengths = Expr::Const { values: [1.0, 2.0, 1.0].as_slice().into(), shape: Shape(vec![3]) };
        let changes = [low_rank(None), replace, low_rank(Some(lengths))].map(|change| AdapterChange {
            target: "t".to_owned(),
            change,
            base: Some(base.clone()),
        });
        let adapter = Adapter {
            path: "a".into(),
            base_model: None,
            architecture: None,
            keeps_tied: false,
            changes: changes.to_vec(),
        };
        let module = Module { adapters: vec![adapter], ..Module::default() };
        let moved = movement(&module).unwrap();
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-6, "{a} {b}");
        close(moved[0][0].by, 125f64.sqrt() / 2.0);
        close(moved[0][0].of, 5.0);
        close(moved[0][1].by, 5.0);
        // Rows [-0.5, 0], [2, 0], [3, 8] at lengths 1, 2 and 1.
        let last = 1.0 / 73f64.sqrt();
        close(moved[0][2].by, (4.0 + 4.0 + (3.0 * last).powi(2) + (8.0 * last - 4.0).powi(2)).sqrt());
    }
}
