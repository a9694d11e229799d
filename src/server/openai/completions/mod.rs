//! `POST /v1/completions`. The prompt goes through the model's template, as in Ollama; a suffix asks for the
//! text between.

mod assemble;
mod types;

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::embeddings::Text;
use super::failures::Failures;
use super::sampling::{self, Sampling};
use crate::prompt::{ChatMessage, Think};
use crate::server::answer::{Answer, Input, Job, prepare};
use crate::server::app::App;
use crate::server::body;
use crate::server::delivery::{self, Events, new_id, now};
use crate::server::error::ApiError;
use crate::server::fields::{self, integer, invalid};
use crate::server::limits::Limits;
use crate::server::scheduler::{Lease, Wish};
use assemble::{CompletionStream, completion};
use types::{Completion, CompletionRequest, Head};

/// The routes.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(create))
}

/// Completes prompts.
#[utoipa::path(
    post, path = "/v1/completions", tag = "openai", request_body = CompletionRequest,
    responses(
        (status = 200, description = "The completions; with `stream`, events of `text_completion` that end with `[DONE]`",
            content((Completion = "application/json"), (Events = "text/event-stream"))),
        Failures,
    )
)]
async fn create(
    State(app): State<Arc<App>>,
    body::Json(body): body::Json<serde_json::Value>,
) -> Result<Response, ApiError> {
    let request: CompletionRequest = fields::read(body, &[])?;
    let limits = app.config.limits;
    let n = sampling::choices(request.n, limits.choices)?;
    let mut template = request.job(&limits)?;
    let name = fields::model(&request.model)?;
    let lease = app.scheduler.lease(&app, &name, Wish::default(), None).await?;
    if let Some(bias) = &request.logit_bias {
        template.logit_bias = sampling::logit_bias(bias, &lease.model.loaded.tokenizer)?;
    }
    let prompts = request.prompts(&lease, limits.choices / n)?;
    let mut answers: Vec<Answer> = Vec::new();
    for prompt in prompts {
        // One lease for all: a second one could wait for the first to end.
        let job = Job { input: request.input(prompt), ..template.clone() };
        let prepared = prepare(&app, lease.again(), job).await.map_err(rename)?;
        answers.extend(prepared.start_all(&app, n).await?);
    }
    let head = Head { id: new_id("cmpl-"), created: now(), model: request.model.clone() };
    if request.stream == Some(true) {
        let usage = request.stream_options.as_ref().and_then(|o| o.include_usage).unwrap_or(false);
        let assembly = CompletionStream::new(head, answers.len(), n as usize, usage);
        return delivery::stream(answers, assembly).await;
    }
    let answers = delivery::collect(answers).await?;
    Ok(Json(completion(head, answers, n as usize)).into_response())
}

/// A prompt that is too long is in another field here.
fn rename(error: ApiError) -> ApiError {
    match error.param.as_deref() {
        Some("messages") => error.param("prompt"),
        _ => error,
    }
}

impl CompletionRequest {
    /// What to do with each prompt.
    fn job(&self, limits: &Limits) -> Result<Job, ApiError> {
        if self.echo == Some(true) {
            return Err(fields::unsupported_parameter("echo"));
        }
        if self.best_of.is_some_and(|n| n != 1) {
            return Err(fields::unsupported_parameter("best_of"));
        }
        let sampling = Sampling {
            temperature: self.temperature,
            top_p: self.top_p,
            frequency_penalty: self.frequency_penalty,
            presence_penalty: self.presence_penalty,
            seed: self.seed,
            stop: self.stop.as_ref(),
            most: self.max_tokens.map(|n| ("max_tokens", n)),
            stops: limits.stops,
        };
        let logprobs = self.logprobs.map(|n| integer("logprobs", n, 0, 20)).transpose()?;
        Ok(Job {
            parameters: sampling.parameters()?,
            // There is no field for it in the response, and few tokens are asked for.
            think: Some(Think::Off),
            truncate: false,
            shift: false,
            logprobs: logprobs.map(|n| n as usize),
            ..Job::new(Input::Raw(String::new()))
        })
    }

    /// The prompts as texts.
    fn prompts(&self, lease: &Lease, most: u32) -> Result<Vec<String>, ApiError> {
        let tokenizer = &lease.model.loaded.tokenizer;
        let prompts = self.prompt.clone().each("prompt", most as usize, tokenizer)?;
        let text = |prompt| match prompt {
            Text::Text(text) => text,
            Text::Tokens(tokens) => tokenizer.decode(&tokens),
        };
        let prompts: Vec<String> = prompts.into_iter().map(text).collect();
        match prompts.len() > 1 && !self.suffix().is_empty() {
            true => Err(invalid("suffix", "it goes with one prompt")),
            false => Ok(prompts),
        }
    }

    fn suffix(&self) -> &str {
        self.suffix.as_deref().unwrap_or_default()
    }

    fn input(&self, prompt: String) -> Input {
        match self.suffix() {
            "" => Input::Chat(vec![ChatMessage::new("user", prompt)]),
            suffix => Input::Infill { prompt, suffix: suffix.to_owned() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn job(more: Value) -> Result<Job, ApiError> {
        let mut body = json!({"model": "m", "prompt": "p"});
        if let (Value::Object(body), Value::Object(more)) = (&mut body, more) {
            body.extend(more);
        }
        fields::read::<CompletionRequest>(body, &[])?.job(&Limits::default())
    }

    #[test]
    fn mistakes_name_their_field() {
        for (more, param) in [
            (json!({"prompt": null}), "prompt"),
            (json!({"prompt": {"a": 1}}), "prompt"),
            (json!({"prompt": [-1]}), "prompt"),
            (json!({"echo": true}), "echo"),
            (json!({"echo": 1}), "echo"),
            (json!({"best_of": 2}), "best_of"),
            (json!({"logprobs": 21}), "logprobs"),
            (json!({"logprobs": true}), "logprobs"),
            (json!({"max_tokens": 0}), "max_tokens"),
            (json!({"temperature": 2.5}), "temperature"),
            (json!({"suffix": 1}), "suffix"),
            (json!({"messages": []}), "messages"),
        ] {
            assert_eq!(job(more.clone()).unwrap_err().param.as_deref(), Some(param), "{more}");
        }
        let good = job(json!({"echo": false, "best_of": 1, "logprobs": 0, "suffix": null})).unwrap();
        assert_eq!((good.logprobs, good.think), (Some(0), Some(Think::Off)));
    }
}
