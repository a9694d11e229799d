//! `fuse`: adapters into the tensors they change.
//!
//! A low-rank change becomes a `LowRank` around its matrix, to be added in float32 before the one
//! rounding to the output type; DoRA's magnitudes a `WeightNorm` around that. A tensor that an adapter
//! brings whole takes the place of the base's. Where import put the rows of a matrix in another
//! order, the rows of what changes it go the same way. Several adapters are applied in order.
//!
//! The adapters stay listed in the module: `codegen` refuses one whose product is zero everywhere,
//! which only the weights can tell.

use std::collections::HashMap;

use crate::diagnostic::{Diagnostic, Errors, Result};
use crate::families::{self, Dim, Family, Make, Presence, TensorRule, fill_pattern};
use crate::ir::{Adapter, AdapterChange, Change, Expr, Module, Shape, Tensor};

use super::Context;

/// The most differences between an adapter and the model that are named.
const MOST_NAMED: usize = 5;

/// The name of the embedding matrix in GGUF.
const EMBEDDING: &str = "token_embd.weight";

/// What may stand before a checkpoint's names where an adapter was trained on a part of the model, or
/// on a model that has this one as a part: its prefix, and the model's.
const PREFIXES: &[(&str, &str)] = &[
    ("", ""),
    ("", "model."),
    ("model.", ""),
    ("model.language_model.", "model."),
    ("language_model.model.", "model."),
    ("language_model.", ""),
];

/// Runs the pass.
///
/// # Errors
/// An adapter was made for another model: a tensor it changes is not there, or has another shape.
pub fn run(mut module: Module, context: &Context<'_>) -> Result<Module> {
    if module.adapters.is_empty() {
        return Ok(module);
    }
    let family = families::by_architecture(module.architecture().unwrap_or(""))?;
    let mut problems = Vec::new();
    let adapters = std::mem::take(&mut module.adapters);
    for adapter in &adapters {
        match Placed::all(adapter, &module, family) {
            Ok(mut placed) => {
                if untie(&mut module, &mut placed, adapter, family) {
                    let message = "the model's output matrix is its embedding matrix, of which this adapter \
                                   changes one; the model that is built has both";
                    context
                        .note(Diagnostic::warning(message).in_file(&adapter.path, "").code("adapter-unties"));
                }
                placed.into_iter().for_each(|change| change.apply(&mut module));
            }
            Err(problem) => problems.push(problem),
        }
    }
    module.adapters = adapters;
    module.verbatim = None;
    if problems.is_empty() { Ok(module) } else { Err(Errors(problems)) }
}

/// A change under the name that its tensor has in the module.
struct Placed {
    name: String,
    change: Change,
}

impl Placed {
    /// Every change of an adapter, or how it differs from the model.
    fn all(adapter: &Adapter, module: &Module, family: &Family) -> Result<Vec<Placed>, Diagnostic> {
        if let Some(made_for) = adapter.architecture.as_deref()
            && made_for != family.architecture
        {
            let message = format!(
                "the adapter was made for the architecture `{made_for}`, the model is `{}`",
                family.architecture
            );
            return Err(Diagnostic::error(message).in_file(&adapter.path, "").code("adapter-base"));
        }
        let shapes: HashMap<&str, Shape> =
            module.tensors.iter().map(|t| (t.name.as_str(), t.shape())).collect();
        let mut placed = Vec::with_capacity(adapter.changes.len());
        let mut differences = Vec::new();
        for change in &adapter.changes {
            match place(change, module, family, &shapes) {
                Ok(change) => placed.push(change),
                Err(difference) => differences.push(difference),
            }
        }
        if differences.is_empty() {
            return Ok(placed);
        }
        Err(another_base(adapter, &differences))
    }

    fn apply(self, module: &mut Module) {
        let Some(tensor) = module.tensors.iter_mut().find(|t| t.name == self.name) else { return };
        let base = std::mem::replace(&mut tensor.expr, Expr::Stack(vec![]));
        tensor.expr = match self.change {
            Change::LowRank { a, b, scale, magnitude } => {
                let sum = Expr::LowRank { base: Box::new(base), a: Box::new(a), b: Box::new(b), scale };
                match magnitude {
                    Some(magnitude) => Expr::WeightNorm { of: Box::new(sum), magnitude: Box::new(magnitude) },
                    None => sum,
                }
            }
            // Written in the type that the base's tensor has, unless a preset says otherwise.
            Change::Replace(new) if new.dtype() == base.dtype() => new,
            Change::Replace(new) => Expr::Encode { dtype: base.dtype(), of: Box::new(new), imatrix: None },
        };
    }

    fn is_of(&self, name: &str) -> bool {
        self.name == name
    }
}

fn another_base(adapter: &Adapter, differences: &[String]) -> Diagnostic {
    let mut error = Diagnostic::error(format!(
        "the adapter was made for another model: {} of its {} changes do not fit",
        differences.len(),
        adapter.changes.len()
    ))
    .in_file(&adapter.path, "")
    .code("adapter-base");
    for difference in differences.iter().take(MOST_NAMED) {
        error = error.help(difference.clone());
    }
    let more = differences.len().saturating_sub(MOST_NAMED);
    if more > 0 {
        error = error.help(format!("and {more} more"));
    }
    match &adapter.base_model {
        Some(base) if adapter.architecture.is_none() => error.help(format!("it was trained on `{base}`")),
        _ => error,
    }
}

/// Finds the tensor of a change and checks that the change fits it; otherwise says what does not.
fn place(
    change: &AdapterChange,
    module: &Module,
    family: &Family,
    shapes: &HashMap<&str, Shape>,
) -> Result<Placed, String> {
    let target = change.target.as_str();
    let (rule, block, heads) = find(target, module, family)
        .ok_or_else(|| format!("`{target}` is no tensor of the family `{}`", family.architecture))?;
    match (rule.make, &change.change) {
        (Make::Stack, _) => {
            return Err(format!("`{target}` is one of many experts: they cannot be adapted yet"));
        }
        (Make::PlusOne, Change::Replace(_)) => {
            return Err(format!(
                "`{target}` is a norm that GGUF stores with one added: it cannot be replaced yet"
            ));
        }
        _ => {}
    }
    let name = fill_pattern(rule.gguf, block);
    // The output matrix may be the embedding matrix.
    let shape = shapes
        .get(name.as_str())
        .or_else(|| shapes.get(EMBEDDING).filter(|_| rule.presence == Presence::Untied))
        .ok_or_else(|| format!("the model has no `{target}`"))?;
    let order = |of: &Expr| match heads {
        Some(heads) => Expr::PermuteRope { of: Box::new(of.clone()), heads },
        None => of.clone(),
    };
    let (found, change) = match &change.change {
        Change::LowRank { a, b, scale, magnitude } => {
            let found = Shape(vec![b.shape().rows(), a.shape().cols()]);
            let magnitude = magnitude.as_ref().map(order);
            (found, Change::LowRank { a: a.clone(), b: order(b), scale: *scale, magnitude })
        }
        Change::Replace(new) => (new.shape(), Change::Replace(order(new))),
    };
    if found == *shape {
        return Ok(Placed { name, change });
    }
    let tokens = if found.rank() == 2 && found.cols() == shape.cols() && rule.shape.contains(&Dim::Vocabulary)
    {
        ": tokens were added to the vocabulary it was trained with"
    } else {
        ""
    };
    Err(format!("`{target}` is {found} in the adapter and {shape} in the model{tokens}"))
}

/// The rule of a tensor by its checkpoint's name or by GGUF's, its block, and the number of heads whose
/// rows import puts in another order.
fn find(
    target: &str,
    module: &Module,
    family: &Family,
) -> Option<(&'static TensorRule, Option<u64>, Option<u64>)> {
    let by_checkpoint = PREFIXES.iter().find_map(|(theirs, ours)| {
        let rest = target.strip_prefix(theirs)?;
        if ours.is_empty() && theirs.is_empty() {
            return family.by_checkpoint_name(rest);
        }
        family.by_checkpoint_name(&format!("{ours}{rest}"))
    });
    match by_checkpoint {
        Some((rule, numbers)) => Some((rule, numbers.block, family.heads(rule.rows, &module.metadata))),
        // GGUF's order of rows already.
        None => family.by_gguf_name(target).map(|(rule, block)| (rule, block, None)),
    }
}

/// Where the output matrix is the embedding matrix, sees to it that a change of one of them is one of
/// both if the adapter says so, and otherwise gives the model an output matrix of its own; true if it
/// did.
fn untie(module: &mut Module, changes: &mut Vec<Placed>, adapter: &Adapter, family: &Family) -> bool {
    let Some(output) = family.rules().find(|r| r.presence == Presence::Untied).map(|r| r.gguf) else {
        return false;
    };
    let of_embedding = changes.iter().any(|c| c.is_of(EMBEDDING));
    let of_output = changes.iter().any(|c| c.is_of(output));
    if module.tensor(output).is_some() || !of_embedding && !of_output {
        return false;
    }
    if adapter.keeps_tied {
        if of_embedding {
            changes.retain(|c| !c.is_of(output));
        }
        changes.iter_mut().filter(|c| c.is_of(output)).for_each(|c| c.name = EMBEDDING.to_owned());
        return false;
    }
    let Some(at) = module.tensors.iter().position(|t| t.name == EMBEDDING) else { return false };
    let expr = module.tensors[at].expr.clone();
    module.tensors.insert(at, Tensor { name: output.to_owned(), expr });
    true
}
