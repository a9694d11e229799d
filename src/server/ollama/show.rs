//! `/api/show`.

use std::sync::Arc;

use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::failures::{self, Failures, stored};
use super::request::parameters;
use super::types::{Details, time};
use crate::ir::{ParameterValue, Prompt};
use crate::modelfile;
use crate::passes::package;
use crate::server::app::App;
use crate::server::body::Json;
use crate::server::describe::{self, Description};
use crate::server::error::ApiError;
use crate::store::Stored;

/// Which model to show.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(as = ollama::ShowRequest)]
pub struct ShowRequest {
    /// The model.
    model: Option<String>,
    /// What `model` was called before.
    name: Option<String>,
    /// Show it with this SYSTEM.
    system: Option<String>,
    /// Show it with these parameters.
    #[schema(value_type = Option<Object>)]
    options: Option<Map<String, Value>>,
    /// Tell long arrays of the metadata, too.
    verbose: Option<bool>,
}

/// What a model is.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ollama::ShowResponse)]
pub struct ShowResponse {
    /// Its licenses.
    #[serde(skip_serializing_if = "String::is_empty")]
    license: String,
    /// A Modelfile that makes it again.
    modelfile: String,
    /// Its parameters, one a line.
    #[serde(skip_serializing_if = "String::is_empty")]
    parameters: String,
    /// Its template.
    template: String,
    /// Its SYSTEM.
    #[serde(skip_serializing_if = "String::is_empty")]
    system: String,
    /// Its RENDERER.
    #[serde(skip_serializing_if = "Option::is_none")]
    renderer: Option<String>,
    /// Its PARSER.
    #[serde(skip_serializing_if = "Option::is_none")]
    parser: Option<String>,
    details: Details,
    /// Its MESSAGEs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    messages: Vec<ShownMessage>,
    /// Its metadata; long arrays are empty unless `verbose`.
    #[schema(value_type = Object)]
    model_info: Map<String, Value>,
    tensors: Vec<ShownTensor>,
    /// `completion`, `embedding`, `tools`, `insert`, `thinking`.
    capabilities: Vec<&'static str>,
    /// When it was made.
    modified_at: String,
    /// The least version that can run it.
    #[serde(skip_serializing_if = "Option::is_none")]
    requires: Option<String>,
}

/// A MESSAGE.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ollama::ShownMessage)]
struct ShownMessage {
    role: &'static str,
    content: String,
}

/// A tensor.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ollama::Tensor)]
struct ShownTensor {
    name: String,
    /// Such as `Q4_K`.
    #[serde(rename = "type")]
    ty: &'static str,
    /// Its dimensions, the contiguous one first.
    shape: Vec<u64>,
}

impl Details {
    /// Of a model that was opened.
    pub fn of(description: &Description) -> Details {
        Details {
            parent_model: "",
            format: description.format.clone(),
            family: description.family.clone(),
            families: description.families.clone(),
            parameter_size: description.parameter_size.clone(),
            quantization_level: description.quantization.clone(),
            context_length: description.context_length,
            embedding_length: description.embedding_length,
        }
    }
}

/// Refuses a model that only embeds.
///
/// # Errors
/// 400: the model only embeds.
pub async fn refuse_embedder(
    app: &Arc<App>,
    model: &Stored,
    shown: &str,
    what: &'static str,
) -> Result<(), ApiError> {
    let model = model.clone();
    // A model that cannot be described cannot be loaded either, which says why.
    let described = app.blocking(move |app| Ok(app.descriptions.of(&app.store, &model).ok())).await?;
    match described {
        Some(d) if !d.capabilities.contains(&"completion") => {
            Err(ApiError::bad_request(format!("{:?} does not support {what}", failures::excerpt(shown))))
        }
        _ => Ok(()),
    }
}

/// Shows what a model is.
#[utoipa::path(post, path = "/api/show", tag = "ollama", request_body = ShowRequest, responses(
    (status = 200, description = "The model", body = ShowResponse),
    Failures,
))]
pub async fn show(
    State(app): State<Arc<App>>,
    Json(request): Json<ShowRequest>,
) -> Result<axum::Json<ShowResponse>, ApiError> {
    let text = request.model.filter(|m| !m.is_empty()).or(request.name).unwrap_or_default();
    if text.is_empty() {
        return Err(ApiError::bad_request("model is required").param("model"));
    }
    let over = Prompt {
        system: request.system.filter(|s| !s.is_empty()),
        parameters: parameters(request.options.as_ref())?,
        ..Prompt::default()
    };
    let verbose = request.verbose.unwrap_or(false);
    let stored = stored(&app, &text, failures::no_model(&text)).await?;
    app.blocking(move |app| {
        let refuse = |errors| failures::refuse(app, errors);
        let description = app.descriptions.of(&app.store, &stored).map_err(refuse)?;
        let model_info = match verbose {
            true => describe::full_metadata(&app.store, &stored).map_err(refuse)?,
            false => description.metadata.clone(),
        };
        Ok(axum::Json(response(&stored, &description, over, model_info)))
    })
    .await
}

fn response(
    stored: &Stored,
    description: &Description,
    over: Prompt,
    model_info: Map<String, Value>,
) -> ShowResponse {
    let prompt = package::overlay(description.prompt.clone(), over);
    let tensors = description.tensors.iter();
    ShowResponse {
        license: prompt.licenses.join("\n"),
        modelfile: modelfile_text(&stored.name.to_string(), &prompt),
        parameters: parameter_lines(&prompt.parameters),
        template: description.template.clone(),
        system: prompt.system.unwrap_or_default(),
        renderer: prompt.renderer,
        parser: prompt.parser,
        details: Details::of(description),
        messages: prompt
            .messages
            .into_iter()
            .map(|m| ShownMessage { role: m.role.name(), content: m.content })
            .collect(),
        model_info,
        tensors: tensors
            .map(|t| ShownTensor { name: t.name.clone(), ty: t.ty, shape: t.shape.clone() })
            .collect(),
        capabilities: description.capabilities.clone(),
        modified_at: time(stored.modified),
        requires: prompt.requires,
    }
}

/// Programs look for the first lines as Ollama writes them. FROM is the model's name: no path of the host
/// is told.
fn modelfile_text(name: &str, prompt: &Prompt) -> String {
    let (text, _) = modelfile::print(&[name], &[], None, prompt);
    format!(
        "# Modelfile generated by \"ollama show\"\n\
         # To build a new Modelfile based on this, replace FROM with:\n\
         # FROM {name}\n\n{text}"
    )
}

/// A name and a value a line, texts in quotes.
fn parameter_lines(parameters: &[(String, ParameterValue)]) -> String {
    let quoted = |text: &String| Value::from(text.as_str()).to_string();
    let mut lines = Vec::new();
    for (name, value) in parameters {
        let texts = match value {
            ParameterValue::Strings(all) => all.iter().map(quoted).collect(),
            ParameterValue::String(text) => vec![quoted(text)],
            ParameterValue::Int(v) => vec![v.to_string()],
            ParameterValue::Float(v) => vec![v.to_string()],
            ParameterValue::Bool(v) => vec![v.to_string()],
        };
        lines.extend(texts.into_iter().map(|text| format!("{name:<30} {text}")));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_ollamas() {
        let prompt = Prompt {
            system: Some("Be brief.".to_owned()),
            template: Some("{{ .Prompt }}\n".to_owned()),
            parameters: vec![
                ("temperature".to_owned(), ParameterValue::Float(0.7)),
                ("num_ctx".to_owned(), ParameterValue::Int(4096)),
                ("use_mmap".to_owned(), ParameterValue::Bool(true)),
                ("stop".to_owned(), ParameterValue::Strings(vec!["</s>".to_owned(), "a\n\"b\"".to_owned()])),
            ],
            licenses: vec!["MIT".to_owned()],
            ..Prompt::default()
        };
        let text = format!("{}\n---\n{}", modelfile_text("m:latest", &prompt), parameter_lines(&prompt.parameters));
        insta::with_settings!({
            snapshot_path => concat!(env!("CARGO_MANIFEST_DIR"), "/snapshots"),
            prepend_module_to_snapshot => false,
        }, {
            insta::assert_snapshot!("server_ollama_show_texts", text);
        });
    }
}
