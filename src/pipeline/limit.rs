//! Publishes a model only if it is near enough to what it was made of.

use super::measure::{Measured, Reading, Step, measure};
use super::{Held, publish_held};
use crate::codegen::{self, Progress, Shares};
use crate::diagnostic::Result;
use crate::ir::{Expr, Module};
use crate::passes::resolve;
use crate::runtime::device::Compute;
use crate::store::{Digest, Name, Published, Store, Writer};
use crate::world::World;

/// What a model is held to.
#[derive(Clone, Copy)]
pub struct Limit<'a> {
    /// The same recipe in the types of its sources.
    pub source: &'a Module,
    /// The text it is measured on.
    pub text: &'a str,
    /// The largest mean KL divergence from `source`, in nats.
    pub most: f64,
    /// What the model computes with.
    pub compute: Compute,
    /// Caches that are shared with other builds.
    pub shares: Shares<'a>,
    /// The digest that the manifest must have.
    pub expected: Option<&'a Digest>,
}

impl<'a> Limit<'a> {
    fn held(&self) -> Held<'a> {
        Held { expected: self.expected, shares: self.shares }
    }
}

/// Makes the artifacts of a module, measures them against their source, and gives them a name in the
/// store when they are within the limit. Artifacts do not depend on what was measured. `tell` is told
/// after each chunk of the text.
///
/// # Errors
/// As [`publish_held`]; a model cannot be run; or the divergence is above the limit. The store has the models
/// that it had, then.
pub fn publish_within(
    module: &Module,
    limit: &Limit<'_>,
    world: &dyn World,
    store: &Store,
    name: &Name,
    progress: &dyn Progress,
    tell: &mut dyn FnMut(Step),
) -> Result<(Published, Measured)> {
    let writer = store.writer()?;
    let mut made = Vec::new();
    let measured = measure_made(module, limit, world, &writer, progress, &mut made, tell);
    drop(writer);
    let published = measured.and_then(|measured| {
        measured.limit_divergence(limit.most)?;
        // The weights are found, not made again.
        Ok((publish_held(module, world, store, name, limit.held(), progress)?, measured))
    });
    // Of what was made to be measured, what no model needs goes. Where that fails, `mdl gc` will do it.
    let _ = store.prune(&made);
    published
}

/// Makes both models as blobs, which are noted in `made`, and measures the one against the other.
fn measure_made(
    module: &Module,
    limit: &Limit<'_>,
    world: &dyn World,
    writer: &Writer,
    progress: &dyn Progress,
    made: &mut Vec<Digest>,
    tell: &mut dyn FnMut(Step),
) -> Result<Measured> {
    let mut as_blob = |module: &Module| -> Result<Module> {
        let layer = codegen::weights_layer(module, world, writer, limit.shares, progress)?;
        made.push(layer.digest);
        resolve::open_gguf(world, &writer.store().blob_path(&layer.digest))
    };
    let model = as_blob(module)?;
    // What is in its files as it is can be run from there.
    let is_load = |module: &Module| module.tensors.iter().all(|t| matches!(t.expr, Expr::Load { .. }));
    let source = if is_load(limit.source) { limit.source.clone() } else { as_blob(limit.source)? };
    let reading = Reading { compute: limit.compute, ..Reading::default() };
    measure(&model, Some(&source), limit.text, &reading, tell)
}
