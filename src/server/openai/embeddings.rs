//! `POST /v1/embeddings`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::failures::Failures;
use crate::server::answer;
use crate::server::app::App;
use crate::server::body;
use crate::server::error::ApiError;
use crate::server::fields::{self, integer, invalid, shown};
use crate::server::scheduler::{Served, Wish};
use crate::tokenizer::{EncodeOptions, Tokenizer};

/// The routes.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(create))
}

/// Texts to embed.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = openai::EmbeddingRequest)]
struct EmbeddingRequest {
    /// The model's name.
    model: String,
    /// A text, texts, tokens, or lists of tokens.
    input: Inputs,
    /// `float` or `base64`, the bytes of little-endian 32-bit floats.
    encoding_format: Option<String>,
    /// The values to keep of each embedding.
    #[schema(minimum = 1)]
    dimensions: Option<i64>,
    /// Accepted; it says nothing here.
    #[allow(dead_code)]
    user: Option<String>,
}

/// What a model reads: a text, texts, tokens, or lists of tokens.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(
    untagged,
    expecting = "it is neither a string, a list of strings, a list of tokens nor a list of those"
)]
#[schema(as = openai::Inputs)]
pub enum Inputs {
    /// One.
    Text(String),
    /// Several.
    Texts(Vec<String>),
    /// One, as tokens.
    Tokens(Vec<u32>),
    /// Several, as tokens.
    TokenLists(Vec<Vec<u32>>),
}

/// A text, or tokens.
#[derive(Clone, Debug, PartialEq)]
pub enum Text {
    /// A text.
    Text(String),
    /// Tokens, which are in the vocabulary.
    Tokens(Vec<u32>),
}

impl Inputs {
    /// One by one.
    ///
    /// # Errors
    /// 400: there are none, or more than `most`, or a token is not in the vocabulary.
    pub fn each(self, field: &str, most: usize, tokenizer: &Tokenizer) -> Result<Vec<Text>, ApiError> {
        let all: Vec<Text> = match self {
            Inputs::Text(text) => vec![Text::Text(text)],
            Inputs::Texts(texts) => texts.into_iter().map(Text::Text).collect(),
            Inputs::Tokens(tokens) if tokens.is_empty() => Vec::new(),
            Inputs::Tokens(tokens) => vec![Text::Tokens(tokens)],
            Inputs::TokenLists(lists) => lists.into_iter().map(Text::Tokens).collect(),
        };
        if all.is_empty() {
            return Err(ApiError::bad_request(format!("invalid {field}: it is empty")).param(field));
        }
        if all.len() > most {
            return Err(invalid(field, &format!("there are {} of them, more than {most}", all.len())));
        }
        let size = tokenizer.vocab_size();
        let tokens = all.iter().flat_map(|text| match text {
            Text::Tokens(tokens) => tokens.as_slice(),
            Text::Text(_) => &[],
        });
        match tokens.into_iter().find(|&&id| id as usize >= size) {
            Some(id) => Err(invalid(field, &format!("{id} is not a token: ids are below {size}"))),
            None => Ok(all),
        }
    }
}

/// The embeddings.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = openai::Embeddings)]
struct Embeddings {
    /// `list`.
    object: &'static str,
    /// One for each text.
    data: Vec<Item>,
    /// The model.
    model: String,
    /// Counts of tokens.
    usage: EmbeddingUsage,
}

/// An embedding.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = openai::Embedding)]
struct Item {
    /// `embedding`.
    object: &'static str,
    /// Its values; its length is 1.
    embedding: Values,
    /// The number of its text.
    index: usize,
}

/// The values of an embedding.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = openai::EmbeddingValues)]
enum Values {
    /// Numbers.
    Float(Vec<f32>),
    /// Their bytes in base64.
    Base64(String),
}

/// Counts of tokens.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[schema(as = openai::EmbeddingUsage)]
struct EmbeddingUsage {
    /// Of the texts.
    prompt_tokens: usize,
    /// The same.
    total_tokens: usize,
}

/// Embeds texts.
#[utoipa::path(post, path = "/v1/embeddings", tag = "openai", request_body = EmbeddingRequest,
    responses((status = 200, description = "The embeddings, in the order of the texts", body = Embeddings), Failures))]
async fn create(
    State(app): State<Arc<App>>,
    body::Json(body): body::Json<serde_json::Value>,
) -> Result<Json<Embeddings>, ApiError> {
    let request: EmbeddingRequest = fields::read(body, &[])?;
    let base64 = match request.encoding_format.as_deref() {
        None | Some("float") => false,
        Some("base64") => true,
        Some(other) => {
            let why = format!("`{}` is neither `float` nor `base64`", shown(other));
            return Err(invalid("encoding_format", &why));
        }
    };
    let dimensions =
        request.dimensions.map(|n| integer("dimensions", n, 1, i64::from(i32::MAX))).transpose()?;
    let name = fields::model(&request.model)?;
    let lease = app.scheduler.lease(&app, &name, Wish::default(), None).await?;
    let (model, most) = (lease.model.clone(), app.config.limits.inputs);
    let texts = app.blocking(move |_| tokens(&model, request.input, most)).await?;
    let embeddings = answer::embed(&app, &lease, texts).await?;
    let count = embeddings.iter().map(|e| e.tokens).sum();
    let mut data = Vec::with_capacity(embeddings.len());
    for (index, embedding) in embeddings.into_iter().enumerate() {
        let values = answer::normalized(embedding.values, dimensions.map(|n| n as usize))?;
        let embedding = if base64 { Values::Base64(encode(&values)) } else { Values::Float(values) };
        data.push(Item { object: "embedding", embedding, index });
    }
    let usage = EmbeddingUsage { prompt_tokens: count, total_tokens: count };
    Ok(Json(Embeddings { object: "list", data, model: request.model, usage }))
}

/// The tokens of each text.
fn tokens(model: &Served, input: Inputs, most: usize) -> Result<Vec<Vec<u32>>, ApiError> {
    let tokenizer = &model.loaded.tokenizer;
    let one = |text: Text| {
        let tokens = match text {
            Text::Tokens(tokens) => tokens,
            // No text at all: as much of one as the vocabulary has.
            Text::Text(text) if text.is_empty() => tokenizer.bos().or(tokenizer.eos()).into_iter().collect(),
            // A text that a user wrote leads to no control token.
            Text::Text(text) => {
                tokenizer.encode(&text, EncodeOptions { add_special: true, parse_special: false })
            }
        };
        match tokens.len() {
            0 => Err(invalid("input", "a text has no tokens")),
            n if n > model.context => {
                let message = format!(
                    "the input length exceeds the context length: {n} tokens, but the context of the model holds {}",
                    model.context
                );
                Err(ApiError::bad_request(message).param("input").code("context_length_exceeded"))
            }
            _ => Ok(tokens),
        }
    };
    input.each("input", most, tokenizer)?.into_iter().map(one).collect()
}

fn encode(values: &[f32]) -> String {
    STANDARD.encode(values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn base64_is_little_endian() {
        assert_eq!(encode(&[1.0, -2.0]), "AACAPwAAAMA=");
    }

    #[test]
    fn inputs_of_four_kinds() {
        let read = |value| serde_json::from_value::<Inputs>(value);
        assert!(matches!(read(json!("a")).unwrap(), Inputs::Text(_)));
        assert!(matches!(read(json!(["a"])).unwrap(), Inputs::Texts(_)));
        assert!(matches!(read(json!([1, 2])).unwrap(), Inputs::Tokens(_)));
        assert!(matches!(read(json!([[1], [2]])).unwrap(), Inputs::TokenLists(_)));
        for bad in
            [json!(1), json!([-1]), json!([4_294_967_296_u64]), json!(["a", 1]), json!({}), json!([[1.5]])]
        {
            assert!(read(bad.clone()).is_err(), "{bad}");
        }
        let error =
            fields::read::<EmbeddingRequest>(json!({"model": "m", "input": [true]}), &[]).unwrap_err();
        assert_eq!(error.param.as_deref(), Some("input"));
    }
}
