//! A model of a running server.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde_json::{Map, Value as Json, json};

use super::answers::{Answered, Answers, Embedded, Names};
use super::description::Description;
use super::figures::Figures;
use super::listing::{self, Listed};
use crate::client::{Client, Place};
use crate::diagnostic::{Diagnostic, Result};
use crate::ir::{ParameterValue, Prompt};
use crate::prompt::output::Piece;
use crate::prompt::{ChatMessage, Think};
use crate::runtime::answer::{Input, Job};
use crate::runtime::constrain::Grammar;
use crate::runtime::generate::Done;
use crate::store::Store;

/// The server of this machine that serves this store, if one answers at the configured place.
///
/// # Errors
/// The place cannot be read.
pub fn server_of(store: &Store, env: &dyn Fn(&str) -> Option<String>) -> Result<Option<Client>> {
    let place = Place::find(None, env)?;
    if !place.loopback {
        return Ok(None);
    }
    let Some(ours) = store.identity() else { return Ok(None) };
    let client = Client::new(place, env)?;
    Ok((client.store_identity() == Some(ours)).then_some(client))
}

/// A model of a running server.
pub struct Remote {
    client: Arc<Client>,
    model: String,
    keep_alive: Option<Json>,
    /// What the server says of the model, once it was asked.
    description: Option<Description>,
}

impl Remote {
    /// A model of the server, which is asked whether there is one. `keep_alive` says how long it stays loaded.
    ///
    /// # Errors
    /// No server answers, or it has no such model.
    pub fn new(client: Client, model: &str, keep_alive: Option<&str>) -> Result<Remote> {
        // A number of seconds is a number, all else a duration.
        let keep_alive =
            keep_alive.map(|text| text.parse::<f64>().map_or_else(|_| json!(text), |n| json!(n)));
        let mut remote =
            Remote { client: Arc::new(client), model: model.to_owned(), keep_alive, description: None };
        remote.description()?;
        Ok(remote)
    }

    /// A request for this model.
    fn request(&self, job: &Job) -> (&'static str, Json) {
        let mut body = Map::new();
        let mut set = |name: &str, value: Json| drop(body.insert(name.to_owned(), value));
        set("model", json!(self.model));
        let path = match &job.input {
            Input::Chat(messages) => {
                set("messages", messages.iter().map(message).collect());
                "/api/chat"
            }
            Input::Raw(text) => {
                set("prompt", json!(text));
                set("raw", json!(true));
                "/api/generate"
            }
            Input::Infill { prompt, suffix } => {
                set("prompt", json!(prompt));
                set("suffix", json!(suffix));
                "/api/generate"
            }
            Input::Continue { messages, .. } => {
                set("messages", messages.iter().map(message).collect());
                "/api/chat"
            }
        };
        let options = parameters(&job.parameters);
        set("options", Json::Object(options));
        set("truncate", json!(job.truncate));
        set("shift", json!(job.shift));
        match &job.format {
            Some(Grammar::Json) => set("format", json!("json")),
            Some(Grammar::Schema(schema)) => set("format", schema.clone()),
            Some(Grammar::Tools { .. }) | None => {}
        }
        match &job.think {
            Some(Think::Off) => set("think", json!(false)),
            Some(Think::On) => set("think", json!(true)),
            Some(Think::Level(level)) => set("think", json!(level)),
            None => {}
        }
        if let Some(keep_alive) = &self.keep_alive {
            set("keep_alive", keep_alive.clone());
        }
        (path, Json::Object(body))
    }
}

fn message(message: &ChatMessage) -> Json {
    let mut value = json!({"role": message.role, "content": message.content});
    if !message.thinking.is_empty() {
        value["thinking"] = json!(message.thinking);
    }
    value
}

/// Parameters as JSON; of equal names the last counts.
fn parameters(all: &[(String, ParameterValue)]) -> Map<String, Json> {
    let value = |value: &ParameterValue| match value {
        ParameterValue::Int(v) => json!(v),
        ParameterValue::Float(v) => json!(v),
        ParameterValue::Bool(v) => json!(v),
        ParameterValue::String(v) => json!(v),
        ParameterValue::Strings(v) => json!(v),
    };
    all.iter().map(|(name, v)| (name.clone(), value(v))).collect()
}

/// The pieces of a line, thinking first.
fn pieces(line: &Json) -> impl Iterator<Item = Piece> {
    let (thinking, text) = match line.get("message") {
        Some(message) => (&message["thinking"], &message["content"]),
        None => (&line["thinking"], &line["response"]),
    };
    let said = |value: &Json| value.as_str().filter(|t| !t.is_empty()).map(str::to_owned);
    said(thinking).map(Piece::Thinking).into_iter().chain(said(text).map(Piece::Text))
}

fn figures(line: &Json) -> Figures {
    let count = |name: &str| line[name].as_u64().unwrap_or(0);
    let time = |name: &str| Duration::from_nanos(count(name));
    Figures {
        total: time("total_duration"),
        load: time("load_duration"),
        prompt_count: count("prompt_eval_count"),
        prompt: time("prompt_eval_duration"),
        count: count("eval_count"),
        answer: time("eval_duration"),
    }
}

fn described(shown: &Json) -> Description {
    let text = |value: &Json| value.as_str().unwrap_or_default().to_owned();
    let details = &shown["details"];
    let mut model =
        vec![("architecture", text(&details["family"])), ("parameters", text(&details["parameter_size"]))];
    let number = |name: &str| details[name].as_u64().map(|n| n.to_string());
    model.extend(number("context_length").map(|n| ("context length", n)));
    model.extend(number("embedding_length").map(|n| ("embedding length", n)));
    model.push(("quantization", text(&details["quantization_level"])));
    model.extend(shown["requires"].as_str().map(|r| ("requires", r.to_owned())));
    let all = |value: &Json| value.as_array().cloned().unwrap_or_default();
    let mut parameters = text(&shown["parameters"]);
    if !parameters.is_empty() && !parameters.ends_with('\n') {
        parameters.push('\n');
    }
    Description {
        model,
        capabilities: all(&shown["capabilities"]).iter().map(text).collect(),
        system: text(&shown["system"]),
        template: text(&shown["template"]),
        parameters,
        licenses: shown["license"].as_str().map(str::to_owned).into_iter().collect(),
        messages: all(&shown["messages"]).iter().map(|m| (text(&m["role"]), text(&m["content"]))).collect(),
        modelfile: text(&shown["modelfile"]),
    }
}

fn listed(model: &Json) -> Listed {
    let text = |name: &str| model[name].as_str().unwrap_or_default();
    let id: String = text("digest").chars().take(12).collect();
    Listed {
        name: text("name").to_owned(),
        damaged: id.is_empty(),
        id: (!id.is_empty()).then_some(id),
        size: model["size"].as_u64().unwrap_or(0),
        modified: listing::time(text("modified_at")),
    }
}

fn malformed(what: &str) -> Diagnostic {
    Diagnostic::environment(format!("the server's answer has no {what}")).code("server-malformed")
}

impl Answers for Remote {
    fn model(&self) -> &str {
        &self.model
    }

    fn open(&mut self, model: &str) -> Result<()> {
        let shown = self.client.post("/api/show", &json!({"model": model}))?;
        (self.model, self.description) = (model.to_owned(), Some(described(&shown)));
        Ok(())
    }

    fn description(&mut self) -> Result<Description> {
        if let Some(known) = &self.description {
            return Ok(known.clone());
        }
        let read = described(&self.client.post("/api/show", &json!({"model": self.model}))?);
        Ok(self.description.insert(read).clone())
    }

    fn answer(
        &mut self,
        job: &Job,
        cancelled: &Arc<AtomicBool>,
        tell: &mut dyn FnMut(Piece) -> Result<()>,
    ) -> Result<Answered> {
        let (path, body) = self.request(job);
        let mut answered = None;
        let whole = self.client.lines(path, &body, cancelled, &mut |line| {
            pieces(&line).try_for_each(&mut *tell)?;
            if line["done"] == true {
                let done = if line["done_reason"] == "length" { Done::Length } else { Done::Stop };
                answered = Some(Answered { done, figures: figures(&line) });
            }
            Ok(())
        })?;
        match whole {
            true => answered.ok_or_else(|| malformed("end").into()),
            false => Ok(Answered { done: Done::Cancelled, figures: Figures::default() }),
        }
    }

    fn embed(&mut self, text: &str, how: Embedded) -> Result<Vec<f32>> {
        let mut body = json!({"model": self.model, "input": text, "truncate": how.truncate});
        if let Some(dimensions) = how.dimensions {
            body["dimensions"] = json!(dimensions);
        }
        if let Some(keep_alive) = &self.keep_alive {
            body["keep_alive"] = keep_alive.clone();
        }
        let answer = self.client.post("/api/embed", &body)?;
        let values = answer["embeddings"][0].as_array().ok_or_else(|| malformed("embedding"))?;
        Ok(values.iter().map(|v| v.as_f64().unwrap_or(f64::NAN) as f32).collect())
    }

    fn models(&mut self) -> Result<Vec<Listed>> {
        let answer = self.client.get("/api/tags")?;
        Ok(answer["models"].as_array().into_iter().flatten().map(listed).collect())
    }

    fn names(&self) -> Names {
        let client = self.client.clone();
        Box::new(move || {
            let answer = client.get("/api/tags").unwrap_or_default();
            let models = answer["models"].as_array().into_iter().flatten();
            models.filter_map(|m| m["name"].as_str().map(str::to_owned)).collect()
        })
    }

    fn save(&mut self, name: &str, over: Prompt) -> Result<()> {
        let mut body = json!({"model": name, "from": self.model, "stream": false});
        if let Some(system) = &over.system {
            body["system"] = json!(system);
        }
        if !over.parameters.is_empty() {
            body["parameters"] = Json::Object(parameters(&over.parameters));
        }
        if !over.messages.is_empty() {
            let message = |m: &crate::ir::Message| json!({"role": m.role.name(), "content": m.content});
            body["messages"] = over.messages.iter().map(message).collect();
        }
        self.client.post("/api/create", &body).map(drop)
    }
}
