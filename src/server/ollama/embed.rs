//! `/api/embed` and `/api/embeddings`.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::failures::{self, Failures, stored};
use super::request::{keep_alive, parameters, wish};
use super::schema;
use super::types::nanoseconds;
use crate::runtime::batch::Embedding;
use crate::server::answer;
use crate::server::app::App;
use crate::server::body::Json;
use crate::server::error::ApiError;
use crate::server::scheduler::Lease;
use crate::tokenizer::EncodeOptions;

/// Texts to embed.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(as = ollama::EmbedRequest)]
pub struct EmbedRequest {
    /// The model.
    model: Option<String>,
    /// A text, or a list of texts.
    #[schema(schema_with = schema::texts, required = false)]
    input: Option<Value>,
    /// Cut texts that are longer than the context (the default), or refuse them.
    truncate: Option<bool>,
    /// Elements of an embedding, if not all.
    dimensions: Option<i64>,
    /// How long the model stays loaded.
    #[schema(schema_with = schema::keep_alive, required = false)]
    keep_alive: Option<Value>,
    /// Parameters, such as `num_ctx`.
    #[schema(value_type = Option<Object>)]
    options: Option<Map<String, Value>>,
}

/// Embeddings.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ollama::EmbedResponse)]
pub struct EmbedResponse {
    /// The model, as the request names it.
    model: String,
    /// One for each text, each of length 1.
    embeddings: Vec<Vec<f32>>,
    /// Nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    total_duration: Option<u64>,
    /// Nanoseconds, of them, of loading the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    load_duration: Option<u64>,
    /// Tokens that were read.
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_eval_count: Option<usize>,
}

/// A text to embed, in the older way.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(as = ollama::EmbeddingsRequest)]
pub struct EmbeddingsRequest {
    /// The model.
    model: Option<String>,
    /// The text.
    prompt: Option<String>,
    /// How long the model stays loaded.
    #[schema(schema_with = schema::keep_alive, required = false)]
    keep_alive: Option<Value>,
    /// Parameters, such as `num_ctx`.
    #[schema(value_type = Option<Object>)]
    options: Option<Map<String, Value>>,
}

/// An embedding, as the model computes it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ollama::EmbeddingsResponse)]
pub struct EmbeddingsResponse {
    /// Empty for an empty text.
    embedding: Vec<f64>,
}

/// Embeds texts.
#[utoipa::path(post, path = "/api/embed", tag = "ollama", request_body = EmbedRequest, responses(
    (status = 200, description = "The embeddings", body = EmbedResponse),
    Failures,
))]
pub async fn embed(
    State(app): State<Arc<App>>,
    Json(request): Json<EmbedRequest>,
) -> Result<axum::Json<EmbedResponse>, ApiError> {
    let started = Instant::now();
    let texts = texts(request.input)?;
    if texts.len() > app.config.limits.inputs {
        let most = app.config.limits.inputs;
        return Err(ApiError::bad_request(format!("more than {most} texts to embed")).param("input"));
    }
    let dimensions = dimensions(request.dimensions)?;
    let truncate = request.truncate.unwrap_or(true);
    let model = request.model.unwrap_or_default();
    let lease = lease(&app, &model, request.keep_alive.as_ref(), request.options.as_ref()).await?;
    let load_duration = nanoseconds(lease.load_duration);
    let all = compute(&app, lease, texts, truncate).await?;
    let tokens: usize = all.iter().map(|e| e.tokens).sum();
    let embeddings =
        all.into_iter().map(|e| answer::normalized(e.values, dimensions)).collect::<Result<_, _>>()?;
    Ok(axum::Json(EmbedResponse {
        model,
        embeddings,
        total_duration: nanoseconds(started.elapsed()),
        load_duration,
        prompt_eval_count: (tokens > 0).then_some(tokens),
    }))
}

/// Embeds a text, in the older way: the embedding is not normalised.
#[utoipa::path(post, path = "/api/embeddings", tag = "ollama", request_body = EmbeddingsRequest, responses(
    (status = 200, description = "The embedding", body = EmbeddingsResponse),
    Failures,
))]
pub async fn embeddings(
    State(app): State<Arc<App>>,
    Json(request): Json<EmbeddingsRequest>,
) -> Result<axum::Json<EmbeddingsResponse>, ApiError> {
    let model = request.model.unwrap_or_default();
    let lease = lease(&app, &model, request.keep_alive.as_ref(), request.options.as_ref()).await?;
    let texts = request.prompt.into_iter().filter(|p| !p.is_empty()).collect();
    let all = compute(&app, lease, texts, true).await?;
    let values = all.into_iter().next().map(|e| e.values).unwrap_or_default();
    answer::finite(&values)?;
    Ok(axum::Json(EmbeddingsResponse { embedding: values.into_iter().map(f64::from).collect() }))
}

async fn lease(
    app: &Arc<App>,
    model: &str,
    stay: Option<&Value>,
    options: Option<&Map<String, Value>>,
) -> Result<Lease, ApiError> {
    let (keep_alive, parameters) = (keep_alive(stay)?, parameters(options)?);
    let missing = failures::no_model_to(model, ", try pulling it first");
    let stored = stored(app, model, missing).await?;
    failures::lease(app, &stored.name, wish(&parameters), keep_alive).await
}

/// Reads `input`. One empty text is none.
fn texts(input: Option<Value>) -> Result<Vec<String>, ApiError> {
    let wrong = || ApiError::bad_request("invalid input type").param("input");
    match input {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(text)) if text.is_empty() => Ok(Vec::new()),
        Some(Value::String(text)) => Ok(vec![text]),
        Some(Value::Array(all)) => {
            let text = |value| match value {
                Value::String(text) => Ok(text),
                _ => Err(wrong()),
            };
            all.into_iter().map(text).collect()
        }
        Some(_) => Err(wrong()),
    }
}

fn dimensions(asked: Option<i64>) -> Result<Option<usize>, ApiError> {
    match asked {
        None | Some(0) => Ok(None),
        Some(n) => usize::try_from(n)
            .map(Some)
            .map_err(|_| ApiError::bad_request("dimensions must not be negative").param("dimensions")),
    }
}

async fn compute(
    app: &Arc<App>,
    lease: Lease,
    texts: Vec<String>,
    truncate: bool,
) -> Result<Vec<Embedding>, ApiError> {
    let model = lease.model.clone();
    let inputs = app
        .blocking(move |_| {
            // What a user wrote: no text of it means a control token.
            let options = EncodeOptions { add_special: true, parse_special: false };
            let one =
                |text: String| fit(model.loaded.tokenizer.encode(&text, options), model.context, truncate);
            texts.into_iter().map(one).collect::<Result<Vec<_>, _>>()
        })
        .await?;
    answer::embed(app, &lease, inputs).await.map_err(|e| failures::without_paths(app, e))
}

/// Cuts a text to the context, or refuses it.
fn fit(mut tokens: Vec<u32>, context: usize, truncate: bool) -> Result<Vec<u32>, ApiError> {
    if tokens.is_empty() {
        return Err(ApiError::bad_request("a text to embed has no tokens").param("input"));
    }
    if tokens.len() > context {
        if !truncate {
            return Err(ApiError::bad_request("the input length exceeds the context length").param("input"));
        }
        tokens.truncate(context);
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn inputs_are_a_text_or_texts() {
        assert_eq!(texts(None).unwrap(), Vec::<String>::new());
        assert_eq!(texts(Some(json!(""))).unwrap(), Vec::<String>::new());
        assert_eq!(texts(Some(json!("a"))).unwrap(), ["a"]);
        assert_eq!(texts(Some(json!(["a", ""]))).unwrap(), ["a", ""]);
        for bad in [json!(5), json!({}), json!(["a", 1]), json!([["a"]]), json!([null]), json!(true)] {
            assert_eq!(texts(Some(bad)).unwrap_err().message, "invalid input type");
        }
    }

    #[test]
    fn texts_are_cut_or_refused() {
        assert_eq!(fit(vec![1, 2, 3], 2, true).unwrap(), [1, 2]);
        assert_eq!(fit(vec![1, 2], 2, false).unwrap(), [1, 2]);
        assert_eq!(
            fit(vec![1, 2, 3], 2, false).unwrap_err().message,
            "the input length exceeds the context length"
        );
        assert!(fit(vec![], 2, true).is_err());
    }

    #[test]
    fn dimensions_are_of_the_embedding() {
        assert_eq!(dimensions(Some(0)).unwrap(), None);
        assert!(dimensions(Some(-1)).is_err());
    }
}
