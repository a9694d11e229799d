//! The OpenAI dialect.
//!
//! What OpenAI defines is honoured where a local model can; what cannot be honoured is an error that names the
//! field. Defaults, ids and error texts that clients of Ollama see are Ollama's.
//!
//! | file | what it holds |
//! |---|---|
//! | [`chat`] | `POST /v1/chat/completions` |
//! | [`completions`] | `POST /v1/completions` |
//! | [`responses`] | `POST /v1/responses` |
//! | [`embeddings`] | `POST /v1/embeddings` |
//! | [`models`] | `GET /v1/models` and `GET /v1/models/{model}` |
//! | [`messages`], [`tools`], [`sampling`], [`format`] | from a request to a job |
//! | [`logprobs`], [`failures`] | parts of responses |

mod chat;
mod completions;
mod embeddings;
mod failures;
mod format;
mod logprobs;
mod messages;
mod models;
mod responses;
mod sampling;
mod tools;

use std::sync::Arc;

use utoipa_axum::router::OpenApiRouter;

use super::app::App;

/// The routes of this dialect.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .merge(chat::routes())
        .merge(completions::routes())
        .merge(responses::routes())
        .merge(embeddings::routes())
        .merge(models::routes())
}

#[cfg(test)]
mod tests {
    use super::super::{config::Config, router};
    use super::*;
    use crate::store::Store;
    use axum::body::Body;
    use axum::http::{Request, StatusCode};
    use http_body_util::BodyExt as _;
    use serde_json::{Value, json};
    use tower::ServiceExt as _;

    /// Every `$ref` of a document.
    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str).map(str::to_owned));
                fields.values().for_each(|v| references(v, found));
            }
            Value::Array(all) => all.iter().for_each(|v| references(v, found)),
            _ => {}
        }
    }

    #[test]
    fn the_description_is_whole() {
        let routes = routes().merge(crate::server::anthropic::routes());
        let (_, api) = routes.split_for_parts();
        let api = serde_json::to_value(api).unwrap();
        let mut found = Vec::new();
        references(&api, &mut found);
        assert!(!found.is_empty());
        for reference in found {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(api.pointer(pointer).is_some(), "{reference} leads nowhere");
        }
        for (path, operations) in api["paths"].as_object().unwrap() {
            for operation in operations.as_object().unwrap().values() {
                let statuses: Vec<_> = operation["responses"].as_object().unwrap().keys().collect();
                assert_eq!(
                    statuses,
                    ["200", "400", "401", "403", "404", "408", "413", "500", "503"],
                    "{path}"
                );
            }
        }
    }

    #[tokio::test]
    async fn errors_have_the_shape_of_their_dialect() {
        let directory = tempfile::tempdir().unwrap();
        let app = App::new(Store::open(directory.path()).unwrap(), Config::default()).unwrap();
        let router = router(&app);
        let chat = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
        let message = json!({"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}]});
        for (path, body, status, told) in [
            ("/v1/models", Value::Null, 200, r#"{"object":"list","data":[]}"#),
            ("/v1/models/a%2Fb:c", Value::Null, 404, "model 'a/b:c' not found"),
            ("/v1/models/a/b:c", Value::Null, 404, "model 'a/b:c' not found"),
            ("/v1/models/h/a/b:c", Value::Null, 404, "model 'h/a/b:c' not found"),
            ("/v1/models/%FF", Value::Null, 400, r#""param":"model""#),
            ("/v1/models/a%20b", Value::Null, 400, r#""param":"model""#),
            ("/v1/chat/completions", chat, 404, r#""code":"model_not_found""#),
            ("/v1/chat/completions", json!({"model": "m"}), 400, "Missing required parameter: 'messages'."),
            ("/v1/completions", json!({"model": "m", "prompt": "p"}), 404, r#""type":"not_found_error""#),
            ("/v1/responses", json!({"model": "m", "input": "p"}), 404, r#""type":"not_found_error""#),
            ("/v1/embeddings", json!({"model": "m", "input": "p"}), 404, r#""type":"not_found_error""#),
            ("/v1/embeddings", json!({"model": "", "input": "p"}), 400, "model is required"),
            ("/v1/embeddings", json!([]), 400, r#""type":"invalid_request_error""#),
            ("/v1/messages", message, 404, r#"{"type":"error","error":{"type":"not_found_error""#),
            (
                "/v1/messages",
                json!({"model": "m"}),
                400,
                r#"{"type":"error","error":{"type":"invalid_request_error""#,
            ),
            ("/v1/messages/count_tokens", json!({"model": "m", "messages": []}), 400, "'messages'"),
        ] {
            let method = if body.is_null() { "GET" } else { "POST" };
            let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
            let request = Request::builder().method(method).uri(path).body(body).unwrap();
            let response = router.clone().oneshot(request).await.unwrap();
            let got = response.status();
            let bytes = response.into_body().collect().await.unwrap().to_bytes();
            let text = String::from_utf8(bytes.to_vec()).unwrap();
            assert_eq!(got, StatusCode::from_u16(status).unwrap(), "{path}: {text}");
            assert!(text.contains(told), "{path}: {text}");
        }
    }
}
