//! `/api/generate`.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use futures_util::{Stream, StreamExt as _};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::chunk::{self, Chunk, Parts};
use super::failures::{self, Failures, lease, stored};
use super::ndjson;
use super::request::How;
use super::types::{DebugInfo, Logprob, Metrics, done_reason, now};
use crate::prompt::ChatMessage;
use crate::server::answer::{Input, Job, prepare};
use crate::server::app::App;
use crate::server::body::Json;
use crate::server::error::ApiError;

/// A text to go on from.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(as = ollama::GenerateRequest)]
pub struct GenerateRequest {
    /// The model.
    model: Option<String>,
    /// The text; empty only loads the model, or unloads it where `keep_alive` is 0.
    prompt: Option<String>,
    /// The text after the answer: the model writes what is between.
    suffix: Option<String>,
    /// Instead of the model's SYSTEM.
    system: Option<String>,
    /// Instead of the model's TEMPLATE.
    template: Option<String>,
    /// The `context` of an earlier answer.
    context: Option<Vec<i64>>,
    /// The prompt as it is, without a template.
    raw: Option<bool>,
    /// Images in base64.
    images: Option<Vec<String>>,
    /// How to answer.
    #[serde(flatten)]
    how: How,
}

/// A part of an answer; the last one is `done`. Without streaming it is all of it.
#[derive(Debug, Default, Serialize, ToSchema)]
#[schema(as = ollama::GenerateResponse)]
pub struct GenerateResponse {
    /// The model, as the request names it.
    model: String,
    /// When this was written.
    created_at: String,
    /// Text.
    response: String,
    /// What the model thinks.
    #[serde(skip_serializing_if = "String::is_empty")]
    thinking: String,
    /// The answer is over.
    done: bool,
    /// `stop`, `length`, `load` or `unload`.
    #[serde(skip_serializing_if = "Option::is_none")]
    done_reason: Option<&'static str>,
    /// The tokens of prompt and answer, to go on from; not of a raw prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<Vec<u32>>,
    #[serde(flatten)]
    metrics: Metrics,
    /// One for each token, if asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    logprobs: Vec<Logprob>,
    /// The rendered prompt, if nothing else was asked for.
    #[serde(rename = "_debug_info", skip_serializing_if = "Option::is_none")]
    debug_info: Option<DebugInfo>,
}

/// What every line of an answer needs.
#[derive(Clone)]
struct Head {
    model: String,
    /// The prompt, where the answer is to be gone on from.
    prompt: Option<Vec<u32>>,
}

impl Head {
    fn empty(&self, done_reason: &'static str) -> GenerateResponse {
        GenerateResponse {
            model: self.model.clone(),
            created_at: now(),
            done: true,
            done_reason: Some(done_reason),
            ..GenerateResponse::default()
        }
    }

    fn line(&self, chunk: Chunk) -> GenerateResponse {
        let mut line = GenerateResponse {
            model: self.model.clone(),
            created_at: now(),
            response: chunk.text,
            thinking: chunk.thinking,
            logprobs: chunk.logprobs,
            ..GenerateResponse::default()
        };
        if let Some(end) = chunk.end {
            line.done = true;
            line.done_reason = done_reason(end.done);
            line.metrics = Metrics::of(&end);
            line.context = self.prompt.clone().map(|mut all| {
                all.extend(end.tokens);
                all
            });
        }
        line
    }

    fn lines(
        self,
        answer: impl Parts + 'static,
    ) -> impl Stream<Item = Result<GenerateResponse, ApiError>> + Send + 'static {
        chunk::chunks(answer).map(move |chunk| chunk.map(|c| self.line(c)))
    }
}

/// Goes on from a text.
#[utoipa::path(post, path = "/api/generate", tag = "ollama", request_body = GenerateRequest, responses(
    (status = 200, description = "The answer, whole or line by line", content(
        (GenerateResponse = "application/json"),
        (GenerateResponse = "application/x-ndjson"),
    )),
    Failures,
))]
pub async fn generate(
    State(app): State<Arc<App>>,
    Json(request): Json<GenerateRequest>,
) -> Result<Response, ApiError> {
    let how = request.how.check()?;
    let model = request.model.clone().unwrap_or_default();
    let stored = stored(&app, &model, failures::no_model(&model)).await?;
    let (loads, images) = (request.prompt.as_deref().unwrap_or("").is_empty(), has_images(&request));
    let mut head = Head { model, prompt: None };
    if loads && how.unloads() {
        app.scheduler.unload(&stored.id);
        return Ok(axum::Json(head.empty("unload")).into_response());
    }
    super::show::refuse_embedder(&app, &stored, &head.model, "generate").await?;
    let mut job = Job::new(input(request)?);
    let lease = lease(&app, &stored.name, how.wish(), how.keep_alive).await?;
    if loads {
        return Ok(axum::Json(head.empty("load")).into_response());
    }
    if images && !matches!(job.input, Input::Continue { .. }) {
        // What is no conversation has no place for them.
        let message = format!("{} does not support vision", lease.model.name);
        return Err(ApiError::bad_request(message).param("images"));
    }
    let (streams, debug, raw) = (how.stream, how.debug_render_only, matches!(job.input, Input::Raw(_)));
    how.apply(&mut job);
    let prepared = prepare(&app, lease, job).await.map_err(|e| failures::without_paths(&app, e))?;
    if debug {
        let debug_info = Some(DebugInfo::of(&prepared));
        let rendered = GenerateResponse {
            model: head.model,
            created_at: now(),
            debug_info,
            ..GenerateResponse::default()
        };
        return Ok(axum::Json(rendered).into_response());
    }
    head.prompt = (!raw).then(|| prepared.ready.tokens.clone());
    let answer = prepared.start(&app).await?;
    match streams {
        true => ndjson::respond(head.lines(answer)).await,
        false => Ok(axum::Json(head.line(chunk::whole(chunk::chunks(answer)).await?)).into_response()),
    }
}

fn has_images(request: &GenerateRequest) -> bool {
    request.images.as_ref().is_some_and(|images| !images.is_empty())
}

/// What the model is to read.
fn input(request: GenerateRequest) -> Result<Input, ApiError> {
    let some = |text: Option<String>| text.filter(|t| !t.is_empty());
    let prompt = request.prompt.unwrap_or_default();
    let (system, template) = (some(request.system), some(request.template));
    let context = request.context.unwrap_or_default();
    if request.raw == Some(true) {
        if system.is_some() || template.is_some() || !context.is_empty() {
            return Err(ApiError::bad_request("raw mode does not support template, system, or context"));
        }
        return Ok(Input::Raw(prompt));
    }
    if let Some(suffix) = some(request.suffix) {
        return Ok(Input::Infill { prompt, suffix });
    }
    let token =
        |id: i64| u32::try_from(id).map_err(|_| ApiError::bad_request("invalid context").param("context"));
    let context = context.into_iter().map(token).collect::<Result<Vec<u32>, _>>()?;
    let user = ChatMessage { images: request.images.unwrap_or_default(), ..ChatMessage::new("user", prompt) };
    let messages = system.map(|s| ChatMessage::new("system", s)).into_iter().chain([user]).collect();
    Ok(Input::Continue { context, messages, template })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::ollama::chunk::tests::{example, fixed, lines};

    fn read(text: &str) -> Result<Input, String> {
        let request: GenerateRequest = serde_json::from_str(text).map_err(|e| e.to_string())?;
        request.how.check().map_err(|e| e.message)?;
        input(request).map_err(|e| e.message)
    }

    #[test]
    fn requests_become_inputs() {
        assert!(matches!(read(r#"{"raw":true,"prompt":"x"}"#), Ok(Input::Raw(p)) if p == "x"));
        assert!(
            matches!(read(r#"{"prompt":"x","suffix":"y"}"#), Ok(Input::Infill { suffix, .. }) if suffix == "y")
        );
        assert!(matches!(read(r#"{"prompt":"x","suffix":""}"#), Ok(Input::Continue { .. })));
        let Ok(Input::Continue { context, messages, template }) = read(
            r#"{"prompt":"x","system":"s","template":null,"context":[1,2],"images":["aGk="],"other":{}}"#,
        ) else {
            panic!()
        };
        assert_eq!((context, template), (vec![1, 2], None));
        assert_eq!(messages.iter().map(|m| m.role.as_str()).collect::<Vec<_>>(), ["system", "user"]);
        assert_eq!(messages[1].images, ["aGk="]);
        assert!(matches!(read("{}"), Ok(Input::Continue { .. })));
    }

    #[test]
    fn what_is_wrong_is_refused() {
        let raw = "raw mode does not support template, system, or context";
        for conflict in [r#""system":"s""#, r#""template":"t""#, r#""context":[1]"#] {
            assert_eq!(read(&format!(r#"{{"raw":true,{conflict}}}"#)).unwrap_err(), raw);
        }
        for bad in [
            r#"{"context":[-1]}"#,
            r#"{"context":[4294967296]}"#,
            r#"{"context":[1.5]}"#,
            r#"{"context":"1"}"#,
            r#"{"prompt":1}"#,
            r#"{"model":{}}"#,
            r#"{"raw":"true"}"#,
            r#"{"images":{}}"#,
            r#"{"stream":1}"#,
            r#"{"top_logprobs":99999999999999999999}"#,
            "[]",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn hostile_values_are_read_or_refused() {
        let fields = [
            "model",
            "prompt",
            "suffix",
            "system",
            "template",
            "context",
            "raw",
            "images",
            "stream",
            "format",
            "keep_alive",
            "options",
            "think",
            "truncate",
            "shift",
            "logprobs",
            "top_logprobs",
            "_debug_render_only",
        ];
        let base = serde_json::json!({"model": "m", "prompt": "x", "logprobs": true});
        crate::server::ollama::hostile::each_field(&fields, &base, |request: GenerateRequest| {
            let checked = request.how.check().err();
            checked.or_else(|| input(request).err()).map(|e| {
                assert_eq!(e.status, 400);
                e.message
            })
        });
    }

    #[test]
    fn lines_are_ollamas() {
        let head = Head { model: "m".to_owned(), prompt: Some(vec![1, 2]) };
        let mut text = lines(head.clone().lines(example()));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let whole = runtime.block_on(chunk::whole(chunk::chunks(example()))).unwrap();
        text.push_str(&format!("\nwhole:\n{}\n", fixed(&head.line(whole))));
        text.push_str(&format!("\nunload:\n{}\n", fixed(&head.empty("unload"))));
        insta::with_settings!({
            snapshot_path => concat!(env!("CARGO_MANIFEST_DIR"), "/snapshots"),
            prepend_module_to_snapshot => false,
        }, {
            insta::assert_snapshot!("server_ollama_generate", text);
        });
    }
}
