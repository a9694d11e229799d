//! How far the weights of two models are apart.
//!
//! Tensors are read in chunks of rows on all cores; what is kept of a chunk is three numbers.

use std::ops::Range;

use rayon::prelude::*;

use super::pairs;
use crate::codegen::{Evaluator, Progress, chunk_rows};
use crate::diagnostic::Result;
use crate::ir::{Expr, Module, Tensor};

/// How far the values of one tensor are apart.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightDifference {
    /// Its name.
    pub name: String,
    /// The largest absolute difference of two values.
    pub largest: f64,
    /// The Frobenius norm of the difference over that of the first; infinite where the first is all zeros.
    pub relative: f64,
    /// Values that differ and are not finite in one of them; they are in no other figure.
    pub not_finite: u64,
}

/// The differences of all tensors that both have in one shape, the largest relative one first; tensors
/// without any are left out. Values of other types are compared as float32.
///
/// # Errors
/// A file cannot be read.
pub fn compare(a: &Module, b: &Module, progress: &dyn Progress) -> Result<Vec<WeightDifference>> {
    let both: Vec<(&Tensor, &Tensor)> = pairs(a, b)
        .into_iter()
        .filter_map(|(left, right)| Some((left, right?)))
        .filter(|(left, right)| left.shape() == right.shape())
        .collect();
    let total = both.iter().map(|(t, _)| t.shape().len().saturating_mul(4)).fold(0, u64::saturating_add);
    progress.begin("comparing weights", total);
    let mut found = Vec::new();
    for (i, (left, right)) in both.iter().enumerate() {
        progress.tensor(&left.name, i, both.len());
        if !same_place((left, a), (right, b)) {
            found.extend(difference((left, a), (right, b))?);
        }
        progress.advance(left.shape().len().saturating_mul(4));
    }
    progress.end();
    let order = |d: &WeightDifference| if d.not_finite > 0 { f64::INFINITY } else { d.relative };
    found.sort_by(|x, y| order(y).total_cmp(&order(x)).then_with(|| x.name.cmp(&y.name)));
    Ok(found)
}

#[derive(Default)]
struct Sums {
    largest: f64,
    squares: f64,
    first_squares: f64,
    not_finite: u64,
}

fn difference(left: (&Tensor, &Module), right: (&Tensor, &Module)) -> Result<Option<WeightDifference>> {
    let a = Evaluator::new(&left.0.expr, &left.1.files)?;
    let b = Evaluator::new(&right.0.expr, &right.1.files)?;
    let chunks: Vec<Sums> = chunks(&a)
        .into_par_iter()
        .map(|rows| {
            let (x, y) = (a.values(rows.clone())?, b.values(rows)?);
            Ok(sums(&x, &y))
        })
        .collect::<Result<_>>()?;
    // In order, so that the figure does not depend on who finished first.
    let all = chunks.into_iter().fold(Sums::default(), |all, one| Sums {
        largest: all.largest.max(one.largest),
        squares: all.squares + one.squares,
        first_squares: all.first_squares + one.first_squares,
        not_finite: all.not_finite + one.not_finite,
    });
    if all.largest == 0.0 && all.not_finite == 0 {
        return Ok(None);
    }
    let relative = if all.squares == 0.0 { 0.0 } else { (all.squares / all.first_squares).sqrt() };
    Ok(Some(WeightDifference {
        name: left.0.name.clone(),
        largest: all.largest,
        relative,
        not_finite: all.not_finite,
    }))
}

fn sums(a: &[f32], b: &[f32]) -> Sums {
    let mut sums = Sums::default();
    for (a, b) in a.iter().zip(b) {
        let (x, y) = (f64::from(*a), f64::from(*b));
        if !(x.is_finite() && y.is_finite()) {
            sums.not_finite += u64::from(a.to_bits() != b.to_bits());
            continue;
        }
        let d = (x - y).abs();
        sums.largest = sums.largest.max(d);
        sums.squares += d * d;
        sums.first_squares += x * x;
    }
    sums
}

fn chunks(of: &Evaluator<'_>) -> Vec<Range<u64>> {
    let (rows, step) = (of.rows(), chunk_rows(of.cols() as u64));
    (0..rows).step_by(step as usize).map(|start| start..rows.min(start + step)).collect()
}

/// True when two tensors of one shape and type have the same bytes.
pub(super) fn same_bytes(left: (&Tensor, &Module), right: (&Tensor, &Module)) -> Result<bool> {
    if same_place(left, right) {
        return Ok(true);
    }
    let a = Evaluator::new(&left.0.expr, &left.1.files)?;
    let b = Evaluator::new(&right.0.expr, &right.1.files)?;
    // An error or a difference ends the search; where there are both, the first in order counts.
    let found = chunks(&a).into_par_iter().find_map_first(|rows| {
        match a.bytes(rows.clone()).and_then(|x| Ok(x == b.bytes(rows)?)) {
            Ok(true) => None,
            other => Some(other),
        }
    });
    found.unwrap_or(Ok(true))
}

/// True when both are the same range of the same file.
fn same_place(left: (&Tensor, &Module), right: (&Tensor, &Module)) -> bool {
    let place = |(tensor, module): (&Tensor, &Module)| match &tensor.expr {
        Expr::Load { file, offset, len, dtype, .. } => {
            let stamp = module.files.get(file.0)?.file.stamp().ok()?;
            // Without an identity, as in memory, files cannot be told apart.
            (stamp.identity != (0, 0)).then_some((stamp, *offset, *len, *dtype))
        }
        _ => None,
    };
    place(left).is_some_and(|l| place(right) == Some(l))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::Shape;
    use std::sync::Arc;

    fn module(values: &[f32]) -> Module {
        let expr = Expr::Const { values: Arc::from(values), shape: Shape(vec![1, values.len() as u64]) };
        Module { tensors: vec![Tensor { name: "t".to_owned(), expr }], ..Module::default() }
    }

    fn of(a: &[f32], b: &[f32]) -> Vec<WeightDifference> {
        compare(&module(a), &module(b), &()).unwrap()
    }

    #[test]
    fn figures_are_as_defined() {
        let d = &of(&[3.0, 4.0, 0.0], &[3.0, 4.5, -1.0])[0];
        assert_eq!((d.largest, d.not_finite), (1.0, 0));
        assert!((d.relative - (1.25f64 / 25.0).sqrt()).abs() < 1e-12);
        assert_eq!(of(&[1.0, f32::NAN], &[1.0, f32::NAN]), []);
        let broken = &of(&[1.0, f32::NAN, f32::INFINITY], &[1.0, 0.0, f32::INFINITY])[0];
        assert_eq!((broken.largest, broken.relative, broken.not_finite), (0.0, 0.0, 1));
        assert_eq!(of(&[0.0], &[1.0])[0].relative, f64::INFINITY);
    }

    #[test]
    fn bytes_are_equal_or_not() {
        let (a, b) = (module(&[1.0, 0.0]), module(&[1.0, -0.0]));
        assert!(same_bytes((&a.tensors[0], &a), (&a.tensors[0], &a)).unwrap());
        assert!(!same_bytes((&a.tensors[0], &a), (&b.tensors[0], &b)).unwrap());
    }
}
