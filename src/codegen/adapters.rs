//! Refuses an adapter that changes nothing, which only its weights can tell.

use super::evaluate::{Evaluator, chunk_rows};
use crate::diagnostic::{Diagnostic, Result};
use crate::ir::{Change, Expr, Module};

/// Checks that each fused adapter changes at least one matrix.
///
/// # Errors
/// The product of every pair of an adapter is zero, or the factors cannot be read.
pub(super) fn refuse_unchanging(module: &Module) -> Result<()> {
    for adapter in &module.adapters {
        let mut changes = false;
        for change in &adapter.changes {
            if changes_something(&change.change, module)? {
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
fn changes_something(change: &Change, module: &Module) -> Result<bool> {
    let Change::LowRank { a, b, scale, .. } = change else { return Ok(true) };
    if *scale == 0.0 {
        return Ok(false);
    }
    let mut met = Vec::new();
    each_row(a, module, &mut |row| {
        met.push(row.iter().any(|v| *v != 0.0));
        true
    })?;
    let mut changes = false;
    each_row(b, module, &mut |row| {
        changes |= row.iter().zip(&met).any(|(v, met)| *met && *v != 0.0);
        !changes
    })?;
    Ok(changes)
}

/// Calls `f` with each row, chunk by chunk, until it returns false.
fn each_row(expr: &Expr, module: &Module, f: &mut dyn FnMut(&[f32]) -> bool) -> Result<()> {
    let evaluator = Evaluator::new(expr, &module.files)?;
    let (rows, cols) = (evaluator.rows(), evaluator.cols());
    let step = chunk_rows(cols as u64);
    let mut start = 0;
    while start < rows {
        let end = rows.min(start + step);
        let values = evaluator.values(start..end)?;
        if !values.chunks_exact(cols.max(1)).all(&mut *f) {
            break;
        }
        start = end;
    }
    Ok(())
}
