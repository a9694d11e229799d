//! Refuses an adapter that changes nothing, which only its weights can tell.

use super::evaluate::Evaluator;
use crate::diagnostic::{Diagnostic, Result};
use crate::ir::{AdapterPair, Expr, Module};

/// Checks that each fused adapter changes at least one matrix.
///
/// # Errors
/// The product of every pair of an adapter is zero, or the factors cannot be read.
pub(super) fn refuse_unchanging(module: &Module) -> Result<()> {
    for adapter in &module.adapters {
        let mut changes = false;
        for pair in &adapter.pairs {
            if changes_something(pair, module)? {
                changes = true;
                break;
            }
        }
        if !changes {
            return Err(Diagnostic::error("the adapter changes nothing: each of its products is zero")
                .in_file(&adapter.path, "")
                .code("adapter-zero")
                .help("was it saved before it was trained?")
                .into());
        }
    }
    Ok(())
}

/// A product of factors that each have a value other than zero may still be zero; that is looked at as
/// far as each rank on its own: a column of `b` and the row of `a` that it meets.
fn changes_something(pair: &AdapterPair, module: &Module) -> Result<bool> {
    if pair.scale == 0.0 {
        return Ok(false);
    }
    let a = values(&pair.a, module)?;
    let b = values(&pair.b, module)?;
    let rank = pair.a.shape().rows() as usize;
    let cols = pair.a.shape().cols() as usize;
    Ok((0..rank).any(|r| {
        let row = a.get(r * cols..(r + 1) * cols).unwrap_or(&[]);
        let met = row.iter().any(|v| *v != 0.0);
        met && b.iter().skip(r).step_by(rank).any(|v| *v != 0.0)
    }))
}

fn values(expr: &Expr, module: &Module) -> Result<Vec<f32>> {
    let evaluator = Evaluator::new(expr, &module.files)?;
    evaluator.values(0..evaluator.rows())
}
