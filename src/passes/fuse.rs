//! `fuse`: adapters into the tensors they change.
//!
//! A low-rank change becomes a `LowRank` around its matrix, to be added in float32 before the one
//! rounding to the output type; DoRA's magnitudes a `WeightNorm` around that. A tensor that an adapter
//! brings whole takes the place of the base's. Where import put the rows of a matrix in another
//! order, the rows of what changes it go the same way. Several adapters are applied in order.
//!
//! The adapters stay listed in the module, their changes as they were placed: `codegen` refuses one whose
//! product is zero everywhere, which only the weights can tell. With `--no-fuse` that is all ([`keep`]).

use std::collections::HashMap;

use mdl_kernels::TensorType;

use crate::diagnostic::{Diagnostic, Errors, Result};
use crate::families::{self, Dim, Family, Make, Numbers, Presence, TensorRule, fill_pattern};
use crate::ir::{Adapter, AdapterChange, Change, Expr, Module, Shape, Tensor};

use super::Context;
use super::import::{tensors, usual};
use super::unfused;

/// The most differences between an adapter and the model that are named.
const MOST_NAMED: usize = 5;

/// The name of the embedding matrix in GGUF.
const EMBEDDING: &str = "token_embd.weight";

/// Runs the pass.
///
/// # Errors
/// An adapter was made for another model: a tensor it changes is not there, or has another shape.
pub fn run(mut module: Module, context: &Context<'_>) -> Result<Module> {
    if module.adapters.is_empty() {
        return Ok(module);
    }
    // The adapters that a stored model has beside it stay there, unless its weights are written anew.
    let options = &context.options;
    let stays = module.unfused && options.preset.is_none() && options.tensor_types.is_empty();
    if options.no_fuse || stays {
        return keep(module);
    }
    module.unfused = false;
    let family = families::by_architecture(module.architecture().unwrap_or(""))?;
    let mut problems = Vec::new();
    let mut adapters = std::mem::take(&mut module.adapters);
    for adapter in &mut adapters {
        match Placed::all(adapter, &module, family) {
            Ok(mut placed) => {
                if untie(&mut module, &mut placed, adapter, family) {
                    let message = "the model's output matrix is its embedding matrix, of which this adapter \
                                   changes one; the model that is built has both";
                    context
                        .note(Diagnostic::warning(message).in_file(&adapter.path, "").code("adapter-unties"));
                }
                let places = places(&module);
                adapter.changes =
                    placed.into_iter().map(|change| change.apply(&mut module, &places)).collect();
            }
            Err(errors) => problems.extend(errors.0),
        }
    }
    module.adapters = adapters;
    module.verbatim = None;
    if problems.is_empty() { Ok(module) } else { Err(Errors(problems)) }
}

/// Checks that the adapters of a module can be kept beside it, and puts their changes under GGUF's names
/// and in its order of rows.
///
/// # Errors
/// As [`run`]; or an adapter does more than to add products to matrices that are multiplied.
pub fn keep(mut module: Module) -> Result<Module> {
    let family = families::by_architecture(module.architecture().unwrap_or(""))?;
    let mut adapters = std::mem::take(&mut module.adapters);
    let mut problems = Vec::new();
    for adapter in &mut adapters {
        match Placed::all(adapter, &module, family) {
            Ok(placed) => {
                let part = placed.iter().find(|change| change.part.is_some());
                let of_part = part.map(|change| format!("it changes one expert of `{}`", change.name));
                let places = places(&module);
                adapter.changes = placed.iter().map(|change| change.beside(&module, &places)).collect();
                if let Some(why) = of_part.or_else(|| unfused::obstacle(&adapter.changes, EMBEDDING)) {
                    problems.push(unfused::refuse(adapter, &why));
                }
            }
            Err(errors) => problems.extend(errors.0),
        }
    }
    module.unfused = !adapters.is_empty();
    module.adapters = adapters;
    if problems.is_empty() { Ok(module) } else { Err(Errors(problems)) }
}

/// A change under the name that its tensor has in the module.
struct Placed {
    name: String,
    /// The matrix of a stack, such as one expert's.
    part: Option<usize>,
    change: Change,
}

impl Placed {
    /// Every change of an adapter, or how it differs from the model.
    fn all(adapter: &Adapter, module: &Module, family: &Family) -> Result<Vec<Placed>> {
        if let Some(made_for) = adapter.architecture.as_deref()
            && made_for != family.architecture
        {
            let message = format!(
                "the adapter was made for the architecture `{made_for}`, the model is `{}`",
                family.architecture
            );
            return Err(Diagnostic::error(message).in_file(&adapter.path, "").code("adapter-base").into());
        }
        let tensors: HashMap<&str, &Tensor> = module.tensors.iter().map(|t| (t.name.as_str(), t)).collect();
        let mut placed = Vec::with_capacity(adapter.changes.len());
        let mut differences = Vec::new();
        for change in &adapter.changes {
            match place(change, module, family, &tensors) {
                Ok(change) => placed.push(change),
                Err(difference) => differences.push(difference),
            }
        }
        if differences.is_empty() {
            return Ok(placed);
        }
        Err(another_base(adapter, &differences).into())
    }

    /// Makes the change, and returns it with what was there before.
    fn apply(self, module: &mut Module, places: &HashMap<String, usize>) -> AdapterChange {
        let tensor = places.get(&self.name).and_then(|at| module.tensors.get_mut(*at));
        let place = tensor.and_then(|tensor| match (&mut tensor.expr, self.part) {
            (Expr::Stack(parts), Some(part)) => {
                // The parts of a stack are of one type, and what is computed is float32.
                parts.iter_mut().for_each(as_float32);
                parts.get_mut(part)
            }
            (expr, _) => Some(expr),
        });
        let base = place.map(|place| {
            let base = place.clone();
            *place = self.change.clone().applied(base.clone());
            base
        });
        AdapterChange { target: self.name, change: self.change, base }
    }

    /// The change, with what it would change.
    fn beside(&self, module: &Module, places: &HashMap<String, usize>) -> AdapterChange {
        let base = places.get(&self.name).map(|at| module.tensors[*at].expr.clone());
        AdapterChange { target: self.name.clone(), change: self.change.clone(), base }
    }

    fn is_of(&self, name: &str) -> bool {
        self.name == name
    }
}

/// Widens an expression to float32, unless it is that.
fn as_float32(expr: &mut Expr) {
    if expr.dtype() != TensorType::F32 {
        let of = Box::new(std::mem::replace(expr, Expr::Stack(vec![])));
        *expr = Expr::Encode { of, dtype: TensorType::F32, imatrix: None };
    }
}

/// Where each tensor is.
fn places(module: &Module) -> HashMap<String, usize> {
    module.tensors.iter().enumerate().map(|(i, t)| (t.name.clone(), i)).collect()
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
        Some(base) => error.help(format!("it was trained on `{base}`")),
        None => error,
    }
}

/// Finds the tensor of a change and checks that the change fits it; otherwise says what does not.
fn place(
    change: &AdapterChange,
    module: &Module,
    family: &Family,
    tensors: &HashMap<&str, &Tensor>,
) -> Result<Placed, String> {
    let target = change.target.as_str();
    let found = find(target, family)
        .ok_or_else(|| format!("`{target}` is no tensor of the family `{}`", family.architecture))?;
    let rule = found.rule;
    let name = fill_pattern(rule.gguf, found.numbers.block);
    // The output matrix may be the embedding matrix.
    let tensor = tensors
        .get(name.as_str())
        .or_else(|| tensors.get(EMBEDDING).filter(|_| rule.presence == Presence::Untied))
        .ok_or_else(|| format!("the model has no `{target}`"))?;
    let (shape, part) = match (rule.make, found.numbers.part) {
        (Make::Stack, Some(number)) => {
            let Expr::Stack(parts) = &tensor.expr else {
                return Err(format!("`{target}` is a part of `{name}`, which is stored in one piece"));
            };
            let part = usize::try_from(number).ok().filter(|part| *part < parts.len());
            let part = part.ok_or_else(|| format!("the model has no `{target}`"))?;
            (parts[part].shape(), Some(part))
        }
        _ => (tensor.shape(), None),
    };
    // Rows go the way that import sends those of the tensor.
    let import = |of: &Expr, rule: &TensorRule| match found.is_imported {
        true => tensors::make(rule, of.clone(), family, &module.metadata),
        false => of.clone(),
    };
    let (is, change) = match &change.change {
        Change::LowRank { a, b, scale, magnitude } => {
            let is = Shape(vec![b.shape().rows(), a.shape().cols()]);
            let magnitude = magnitude.as_ref().map(|m| import(m, rule));
            (is, Change::LowRank { a: a.clone(), b: import(b, rule), scale: *scale, magnitude })
        }
        Change::Replace(new) => (new.shape(), Change::Replace(import(new, rule))),
    };
    let becomes = match &change {
        Change::LowRank { a, b, .. } => Shape(vec![b.shape().rows(), a.shape().cols()]),
        Change::Replace(new) => new.shape(),
    };
    if becomes == shape {
        return Ok(Placed { name, part, change });
    }
    let tokens = if is.rank() == 2 && is.cols() == shape.cols() && rule.shape.contains(&Dim::Vocabulary) {
        ": tokens were added to the vocabulary it was trained with"
    } else {
        ""
    };
    Err(format!("`{target}` is {is} in the adapter and {shape} in the model{tokens}"))
}

/// What a name stands for.
struct Found {
    rule: &'static TensorRule,
    numbers: Numbers,
    /// It is a checkpoint's name, so that what it names is imported.
    is_imported: bool,
}

/// The rule of a tensor by its checkpoint's name or by GGUF's.
fn find(target: &str, family: &Family) -> Option<Found> {
    let by_checkpoint =
        family.by_checkpoint_name(target).or_else(|| family.by_checkpoint_name(&usual(target)));
    match by_checkpoint {
        Some((rule, numbers)) => Some(Found { rule, numbers, is_imported: true }),
        None => family.by_gguf_name(target).map(|(rule, block)| Found {
            rule,
            numbers: Numbers { block, part: None },
            is_imported: false,
        }),
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
