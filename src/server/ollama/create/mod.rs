//! `/api/create`: the compiler behind `mdl build`, on files that were uploaded or on a model that is there.

mod progress;
mod recipe;
mod uploads;

pub use uploads::UPLOADS;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::mpsc;
use utoipa::ToSchema;

use super::failures::{self, WriteFailures};
use super::ndjson;
use super::schema;
use super::types::MessageIn;
use crate::passes::{Context, Options};
use crate::pipeline;
use crate::server::app::App;
use crate::server::body::Json;
use crate::server::error::ApiError;
use crate::store::{Digest, Name};
use progress::Lines;
use recipe::Plan;
use uploads::Uploads;

/// Lines that a slow client may leave unread; more are left out.
const UNREAD: usize = 1024;

/// How to make a model.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(as = ollama::CreateRequest)]
pub struct CreateRequest {
    /// The model's name.
    model: Option<String>,
    /// What `model` was called before.
    name: Option<String>,
    /// The model of the store to begin with.
    from: Option<String>,
    /// Or files to begin with: the digest of the uploaded blob by the file's relative name.
    files: Option<BTreeMap<String, String>>,
    /// Files of a LoRA adapter to fuse.
    adapters: Option<BTreeMap<String, String>>,
    /// A quantization, such as `q4_K_M`.
    quantize: Option<String>,
    /// What `quantize` was called before.
    quantization: Option<String>,
    /// TEMPLATE.
    template: Option<String>,
    /// LICENSE: a text or several.
    #[schema(schema_with = schema::texts, required = false)]
    license: Option<Value>,
    /// SYSTEM.
    system: Option<String>,
    /// PARAMETERs.
    #[schema(value_type = Option<Object>)]
    parameters: Option<Map<String, Value>>,
    /// MESSAGEs.
    messages: Option<Vec<MessageIn>>,
    /// RENDERER.
    renderer: Option<String>,
    /// PARSER.
    parser: Option<String>,
    /// REQUIRES.
    requires: Option<String>,
    /// A Modelfile as text: no longer read.
    modelfile: Option<String>,
    /// Line by line (the default), or the last line only.
    stream: Option<bool>,
}

/// How far the work is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
#[schema(as = ollama::CreateResponse)]
pub struct CreateResponse {
    /// What is done; `success` at the end.
    status: String,
    /// Of which blob; zeros where it is not known yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    /// Bytes to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<u64>,
    /// Bytes done.
    #[serde(skip_serializing_if = "Option::is_none")]
    completed: Option<u64>,
}

impl CreateResponse {
    fn status(status: impl Into<String>) -> CreateResponse {
        CreateResponse { status: status.into(), ..CreateResponse::default() }
    }
}

/// Makes a model. When the client goes away, the work ends and nothing is left of it.
#[utoipa::path(post, path = "/api/create", tag = "ollama", request_body = CreateRequest, responses(
    (status = 200, description = "Progress line by line, or its last line", content(
        (CreateResponse = "application/json"),
        (CreateResponse = "application/x-ndjson"),
    )),
    WriteFailures,
))]
pub async fn create(
    State(app): State<Arc<App>>,
    Json(request): Json<CreateRequest>,
) -> Result<Response, ApiError> {
    let streams = request.stream.unwrap_or(true);
    let plan = Plan::of(request)?;
    // A place in the line: too many that wait are too many.
    let waiting = app.scheduler.wait()?;
    let plan = app.blocking(move |app| plan.check(app)).await?;
    let permit = app.builds.clone().acquire_owned().await.map_err(ApiError::internal)?;
    drop(waiting);
    let (sender, lines) = mpsc::channel(UNREAD);
    tokio::spawn(async move {
        let client = sender.clone();
        let built = app.blocking(move |app| build(app, plan, &client)).await;
        // The next may begin, however slowly this client reads.
        drop(permit);
        let _ = sender.send(built.map(|()| CreateResponse::status("success"))).await;
    });
    let lines = stream::unfold(lines, |mut lines| async move { Some((lines.recv().await?, lines)) });
    match streams {
        true => ndjson::respond(lines).await,
        false => Ok(axum::Json(last(lines).await?).into_response()),
    }
}

async fn last(
    lines: impl futures_util::Stream<Item = Result<CreateResponse, ApiError>>,
) -> Result<CreateResponse, ApiError> {
    use futures_util::StreamExt as _;
    let mut lines = std::pin::pin!(lines);
    let mut last = Err(ApiError::internal("a build without a line"));
    while let Some(line) = lines.next().await {
        last = Ok(line?);
    }
    last
}

/// Compiles and publishes.
fn build(
    app: &App,
    plan: Plan,
    sender: &mpsc::Sender<Result<CreateResponse, ApiError>>,
) -> Result<(), ApiError> {
    let Plan { name, recipe, preset, files, first, .. } = plan;
    let store = &app.store;
    let lines = Lines::new(sender.clone());
    let refuse = |errors| match sender.is_closed() {
        // Nobody hears it: what it failed for is that nobody waits.
        true => ApiError::bad_request("the client has gone"),
        false => failures::refuse_build(app, errors),
    };
    lines.say(first);
    let mut world = Uploads::new(sender.clone());
    for (path, digest) in files {
        let found = store.find_whole_blob(&digest).map_err(refuse)?;
        // It was there a moment ago.
        let blob = found.ok_or_else(|| recipe::no_blob(&path.to_string_lossy(), &digest))?;
        world.insert(store, path, blob);
    }
    let options = Options { preset, ..Options::default() };
    let context = Context::new(&world, Some(store), PathBuf::from(UPLOADS), options);
    let module = pipeline::compile(&recipe, &context, &app.renderer, &mut |_, _| {});
    for note in context.take_notes() {
        lines.say(failures::told(app, &note));
    }
    let module = module.map_err(refuse)?;
    if let Some(preset) = preset {
        let from = source_type(&module);
        lines.quantizes(format!("quantizing {from} model to {}", preset.name.to_uppercase()));
    }
    let before: BTreeSet<Digest> = store.blobs().map_err(refuse)?.into_iter().map(|b| b.digest).collect();
    let published = pipeline::publish(&module, &world, store, &name, &lines).map_err(refuse)?;
    if let Some(stored) = store.find(&published.name).map_err(refuse)? {
        for layer in &stored.manifest.layers {
            let what = if before.contains(&layer.digest) { "using existing" } else { "creating new" };
            lines.say(format!("{what} layer {}", layer.digest));
        }
    }
    lines.say("writing manifest");
    tracing::info!(model = %published.name, id = %published.id.short(), "created");
    Ok(())
}

/// The type that most of the weights are read as.
fn source_type(module: &crate::ir::Module) -> &'static str {
    use crate::ir::Expr;
    let mut bytes: BTreeMap<&'static str, u64> = BTreeMap::new();
    for tensor in &module.tensors {
        let mut expr = &tensor.expr;
        while let Expr::Encode { of, .. } = expr {
            expr = of;
        }
        let count = bytes.entry(expr.dtype().name()).or_default();
        *count = count.saturating_add(tensor.shape().len());
    }
    bytes.into_iter().max_by_key(|(_, n)| *n).map_or("F32", |(name, _)| name)
}

/// Reads the model's name.
fn name(model: Option<String>, name: Option<String>) -> Result<Name, ApiError> {
    let text = model.filter(|m| !m.is_empty()).or(name).unwrap_or_default();
    Name::parse(&text).map_err(|_| ApiError::bad_request("invalid model name").param("model"))
}
