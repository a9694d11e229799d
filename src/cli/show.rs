//! `mdl show`.

use clap::Args;

use super::{Global, table, write_out};
use crate::diagnostic::{Diagnostic, Result};
use crate::ir::{Array, Module, Value};
use crate::passes::{package, plan, resolve};
use crate::pipeline::models;
use crate::prompt::template_text;
use crate::store::{Document, Name, Store, Stored};
use crate::terminal::description::{self, Description};
use crate::world::SystemWorld;

/// Shows what a model is made of.
#[derive(Args)]
#[command(after_help = "\
Examples:
  mdl show story
  mdl show story --modelfile > Modelfile
  mdl show story --tensors
  mdl show story --json")]
pub(super) struct Show {
    /// The model
    name: String,

    #[command(flatten)]
    what: What,
}

#[derive(Args)]
#[group(multiple = false)]
struct What {
    /// The Modelfile that makes it again
    #[arg(long)]
    modelfile: bool,
    /// Its template
    #[arg(long)]
    template: bool,
    /// Its parameters
    #[arg(long)]
    parameters: bool,
    /// Its system prompt
    #[arg(long)]
    system: bool,
    /// Its licenses
    #[arg(long)]
    license: bool,
    /// Its tensors: name, type, shape, bytes
    #[arg(long)]
    tensors: bool,
    /// How it was built: the in-toto statement that `mdl build --provenance` wrote
    #[arg(long)]
    provenance: bool,
    /// What it was built of: the bill of materials of the same build
    #[arg(long)]
    bom: bool,
    /// Everything, as JSON
    #[arg(long)]
    json: bool,
}

impl Show {
    pub(super) fn run(self, global: &Global) -> Result<()> {
        let store = global.open_store()?;
        let model = store.read(&Name::parse(&self.name)?)?;
        let what = &self.what;
        for (asked, document) in [(what.provenance, Document::Statement), (what.bom, Document::Bom)] {
            if asked {
                return write_document(&store, &model, document);
            }
        }
        let module = resolve::open_stored(&SystemWorld, &store, &model)?;
        let prompt = &module.prompt;
        if what.modelfile {
            let (text, lost) = models::modelfile(&SystemWorld, &store, &model.name.full(), &module)?;
            global.print(&lost);
            write_out(&text)?;
        } else if what.template {
            write_out(&format!("{}\n", template_text(&module)))?;
        } else if what.parameters {
            write_out(&description::parameters(prompt))?;
        } else if what.system {
            write_out(&format!("{}\n", prompt.system.as_deref().unwrap_or("")))?;
        } else if what.license {
            write_out(&format!("{}\n", prompt.licenses.join("\n")))?;
        } else if what.tensors {
            write_out(&format!("{}\n", tensors(&module)))?;
        } else if what.json {
            write_out(&format!("{:#}\n", json(&model, &module)))?;
        } else {
            write_out(&Description::of(&module, String::new()).overview())?;
        }
        Ok(())
    }
}

fn write_document(store: &Store, model: &Stored, document: Document) -> Result<()> {
    match store.document(&model.id, document)? {
        Some(bytes) => write_out(&String::from_utf8_lossy(&bytes)),
        None => Err(Diagnostic::error(format!("it is not known how `{}` was built", model.name))
            .code("no-provenance")
            .help("`mdl build --provenance DIR` writes it down")
            .into()),
    }
}

fn tensors(module: &Module) -> String {
    let rows: Vec<Vec<String>> = module
        .tensors
        .iter()
        .map(|t| {
            let bytes = plan::bytes(&t.expr).1;
            vec![t.name.clone(), t.expr.dtype().to_string(), t.shape().to_string(), bytes.to_string()]
        })
        .collect();
    table::columns(&["NAME", "TYPE", "SHAPE", "BYTES"], &rows)
}

fn json(model: &Stored, module: &Module) -> serde_json::Value {
    let metadata: serde_json::Map<String, serde_json::Value> =
        module.metadata.iter().map(|(key, value)| (key.to_owned(), json_value(value))).collect();
    let tensors: Vec<serde_json::Value> = module
        .tensors
        .iter()
        .map(|t| serde_json::json!({"name": t.name, "type": t.expr.dtype().name(), "shape": t.shape().0}))
        .collect();
    let prompt = &module.prompt;
    serde_json::json!({
        "name": model.name.to_string(),
        "digest": model.id.to_string(),
        "size": model.manifest.size(),
        "architecture": module.architecture(),
        "parameter_count": module.parameter_count(),
        "quantization": package::file_type(&module.metadata),
        "template": prompt.template,
        "system": prompt.system,
        "parameters": description::parameters(prompt),
        "license": prompt.licenses,
        "adapters": module.adapters.len(),
        "messages": prompt.messages.iter()
            .map(|m| serde_json::json!({"role": m.role.name(), "content": m.content})).collect::<Vec<_>>(),
        "metadata": metadata,
        "tensors": tensors,
    })
}

/// Long arrays, such as a vocabulary, are given by their length.
fn json_value(value: &Value) -> serde_json::Value {
    use serde_json::json;
    match value {
        Value::String(s) => json!(s),
        Value::Bool(b) => json!(b),
        Value::F32(v) => json!(v),
        Value::F64(v) => json!(v),
        Value::I8(v) => json!(v),
        Value::I16(v) => json!(v),
        Value::I32(v) => json!(v),
        Value::I64(v) => json!(v),
        Value::Array(Array::String(v)) if v.len() <= 5 => v.iter().collect(),
        Value::Array(Array::U32(v)) if v.len() <= 5 => json!(v),
        Value::Array(Array::I32(v)) if v.len() <= 5 => json!(v),
        Value::Array(a) => json!({"length": a.len(), "of": format!("{:?}", a.element_type()).to_lowercase()}),
        other => json!(other.as_u64()),
    }
}
