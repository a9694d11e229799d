//! What differs between two models.
//!
//! Two models are equal when their metadata, their tensors and the texts of their layers are: the order of
//! keys and tensors is no difference, and neither is where the bytes lie. Tensors of one type are equal when
//! their bytes are.

mod metadata;
mod weights;

use std::collections::HashMap;

use super::models::Opened;
use crate::diagnostic::Result;
use crate::ir::{Module, ParameterValue, Prompt, Shape, Tensor};
use mdl_kernels::TensorType;

pub use metadata::{KeyDifference, compare as compare_metadata};
pub use weights::{WeightDifference, compare as compare_weights};

/// A tensor that is not the same in both.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorDifference {
    /// Its name.
    pub name: String,
    /// Shape and type in the first; `None` where it is missing.
    pub a: Option<(Shape, TensorType)>,
    /// In the second.
    pub b: Option<(Shape, TensorType)>,
}

impl TensorDifference {
    /// True when both have it in the same shape and type: its bytes differ.
    pub fn is_of_values(&self) -> bool {
        self.a == self.b
    }
}

/// A text layer that is not the same in both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerDifference {
    /// The Modelfile's instruction: `SYSTEM`, `TEMPLATE`; or `Other layers`, a line each.
    pub name: &'static str,
    /// The text in the first; empty where there is none.
    pub a: String,
    /// In the second.
    pub b: String,
}

/// All that differs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Difference {
    /// Metadata, by key.
    pub metadata: Vec<KeyDifference>,
    /// Tensors, in the order of the first model, then those that only the second has.
    pub tensors: Vec<TensorDifference>,
    /// Layers, in a Modelfile's order.
    pub layers: Vec<LayerDifference>,
}

impl Difference {
    /// True when nothing differs.
    pub fn is_empty(&self) -> bool {
        self.metadata.is_empty() && self.tensors.is_empty() && self.layers.is_empty()
    }
}

/// Compares two models. Bytes are read only of tensors that agree in shape and type, and only up to the
/// first that differs.
///
/// # Errors
/// A file cannot be read.
pub fn compare(a: &Opened, b: &Opened) -> Result<Difference> {
    Ok(Difference {
        metadata: metadata::compare(&a.module.metadata, &b.module.metadata),
        tensors: tensors(&a.module, &b.module)?,
        layers: layers(a, b),
    })
}

/// The tensors that both models have, in the order of the first.
fn pairs<'a>(a: &'a Module, b: &'a Module) -> Vec<(&'a Tensor, Option<&'a Tensor>)> {
    let by_name: HashMap<&str, &Tensor> = b.tensors.iter().map(|t| (t.name.as_str(), t)).collect();
    a.tensors.iter().map(|t| (t, by_name.get(t.name.as_str()).copied())).collect()
}

fn tensors(a: &Module, b: &Module) -> Result<Vec<TensorDifference>> {
    let what = |t: &Tensor| (t.shape(), t.expr.dtype());
    let mut found = Vec::new();
    for (left, right) in pairs(a, b) {
        if let Some(right) = right
            && what(left) == what(right)
            && weights::same_bytes((left, a), (right, b))?
        {
            continue;
        }
        found.push(TensorDifference { name: left.name.clone(), a: Some(what(left)), b: right.map(what) });
    }
    found.extend(pairs(b, a).into_iter().filter(|(_, left)| left.is_none()).map(|(t, _)| TensorDifference {
        name: t.name.clone(),
        a: None,
        b: Some(what(t)),
    }));
    Ok(found)
}

fn layers(a: &Opened, b: &Opened) -> Vec<LayerDifference> {
    let (a, b) = (texts(a), texts(b));
    let both = a.into_iter().zip(b).filter(|((_, a), (_, b))| a != b);
    both.map(|((name, a), (_, b))| LayerDifference { name, a, b }).collect()
}

/// The text of each layer; a layer of several values has a line, or a paragraph, for each.
fn texts(model: &Opened) -> [(&'static str, String); 9] {
    let prompt = &model.module.prompt;
    let text = |t: &Option<String>| t.clone().unwrap_or_default();
    let messages = prompt.messages.iter().map(|m| format!("{}: {}\n", m.role.name(), m.content)).collect();
    [
        ("TEMPLATE", text(&prompt.template)),
        ("SYSTEM", text(&prompt.system)),
        ("PARAMETER", parameters(prompt)),
        ("MESSAGE", messages),
        ("LICENSE", prompt.licenses.join("\n\n")),
        ("RENDERER", text(&prompt.renderer)),
        ("PARSER", text(&prompt.parser)),
        ("REQUIRES", text(&prompt.requires)),
        ("Other layers", model.other_layers.concat()),
    ]
}

/// A line for each value, by name: their order is of no meaning.
fn parameters(prompt: &Prompt) -> String {
    let mut lines = Vec::new();
    for (name, value) in &prompt.parameters {
        let mut line = |value: &str| lines.push(format!("{name} {value}\n"));
        match value {
            ParameterValue::Int(v) => line(&v.to_string()),
            ParameterValue::Float(v) => line(&v.to_string()),
            ParameterValue::Bool(v) => line(&v.to_string()),
            ParameterValue::String(v) => line(&format!("{v:?}")),
            ParameterValue::Strings(all) => all.iter().for_each(|v| line(&format!("{v:?}"))),
        }
    }
    lines.sort();
    lines.concat()
}
