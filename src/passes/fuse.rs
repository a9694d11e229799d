//! `fuse`: adapters into the matrices they change.
//!
//! Each pair becomes a `LowRank` around its matrix, to be added in float32 before the one rounding
//! to the output type. Where import put the rows of a matrix in another order, the rows of `b` go
//! the same way. The adapters stay listed in the module: `codegen` refuses one whose product is
//! zero everywhere, which only the weights can tell.

use std::collections::HashMap;

use crate::diagnostic::{Diagnostic, Errors, Result};
use crate::families::{self, Family, fill_pattern};
use crate::ir::{AdapterPair, Expr, Module};

use super::Context;

/// The most tensors without a target that are named.
const MOST_NAMED: usize = 5;

/// Runs the pass.
///
/// # Errors
/// An adapter tensor has no matrix to change, or does not fit it.
pub fn run(mut module: Module, _context: &Context<'_>) -> Result<Module> {
    if module.adapters.is_empty() {
        return Ok(module);
    }
    let family = families::by_architecture(module.architecture().unwrap_or(""))?;
    let mut problems = Vec::new();
    let places: HashMap<String, usize> =
        module.tensors.iter().enumerate().map(|(i, t)| (t.name.clone(), i)).collect();
    for adapter in module.adapters.clone() {
        if adapter.pairs.is_empty() {
            problems.push(Diagnostic::error("the adapter changes nothing").in_file(&adapter.path, ""));
        }
        let mut lost = Vec::new();
        for pair in &adapter.pairs {
            if !fuse_pair(&mut module, &places, family, pair) {
                lost.push(pair.target.as_str());
            }
        }
        if !lost.is_empty() {
            problems.push(no_target(&lost, adapter.pairs.len()).in_file(&adapter.path, ""));
        }
    }
    module.verbatim = None;
    if problems.is_empty() { Ok(module) } else { Err(Errors(problems)) }
}

fn no_target(lost: &[&str], total: usize) -> Diagnostic {
    let named: Vec<String> = lost.iter().take(MOST_NAMED).map(|t| format!("`{t}`")).collect();
    let more = lost.len().saturating_sub(MOST_NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Diagnostic::error(format!(
        "{} of the adapter's {total} targets are not in the model: {}{more}",
        lost.len(),
        named.join(", ")
    ))
    .code("adapter-target")
    .help("is this the model that the adapter was trained on?")
}

/// Wraps the matrix a pair changes; false where there is none.
fn fuse_pair(
    module: &mut Module,
    places: &HashMap<String, usize>,
    family: &Family,
    pair: &AdapterPair,
) -> bool {
    let weight = format!("{}.weight", pair.target);
    let (rule, block) = match family.by_checkpoint_name(&weight) {
        Some((rule, numbers)) => (rule, numbers.block),
        None => match family.by_gguf_name(&weight) {
            Some(found) => {
                return wrap(module, places, &fill_pattern(found.0.gguf, found.1), pair, pair.b.clone());
            }
            None => return false,
        },
    };
    // GGUF's order of rows is not the order the adapter was trained in.
    let b = match family.heads(rule.rows, &module.metadata) {
        Some(heads) => Expr::PermuteRope { of: Box::new(pair.b.clone()), heads },
        None => pair.b.clone(),
    };
    wrap(module, places, &fill_pattern(rule.gguf, block), pair, b)
}

fn wrap(
    module: &mut Module,
    places: &HashMap<String, usize>,
    name: &str,
    pair: &AdapterPair,
    b: Expr,
) -> bool {
    let Some(tensor) = places.get(name).and_then(|i| module.tensors.get_mut(*i)) else { return false };
    let base = std::mem::replace(&mut tensor.expr, Expr::Stack(vec![]));
    tensor.expr = Expr::LowRank {
        base: Box::new(base),
        a: Box::new(pair.a.clone()),
        b: Box::new(b),
        scale: pair.scale,
    };
    true
}
