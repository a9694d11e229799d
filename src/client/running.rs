//! The models in a server's memory.

use serde_json::{Value as Json, json};

use super::http::Client;
use crate::diagnostic::{Diagnostic, Errors, Result};

/// A model in a server's memory.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Running {
    /// Its name.
    pub name: String,
    /// What it is known by.
    pub digest: String,
    /// Bytes that it takes.
    pub size: u64,
    /// Bytes of them on an accelerator.
    pub on_accelerator: u64,
    /// Tokens that its context holds.
    pub context: u64,
    /// When it goes, as RFC 3339.
    pub expires: String,
}

impl Client {
    /// The models in the server's memory.
    ///
    /// # Errors
    /// No server answers.
    pub fn running(&self) -> Result<Vec<Running>> {
        let answer = self.get("/api/ps")?;
        let text = |model: &Json, key: &str| model[key].as_str().unwrap_or_default().to_owned();
        let one = |model: &Json| Running {
            name: text(model, "name"),
            digest: text(model, "digest"),
            size: model["size"].as_u64().unwrap_or(0),
            on_accelerator: model["size_vram"].as_u64().unwrap_or(0),
            context: model["context_length"].as_u64().unwrap_or(0),
            expires: text(model, "expires_at"),
        };
        Ok(answer["models"].as_array().into_iter().flatten().map(one).collect())
    }

    /// Takes a model out of the server's memory, once its answers are done.
    ///
    /// # Errors
    /// No server answers, or it knows no such model.
    pub fn stop(&self, model: &str) -> Result<()> {
        let request = json!({"model": model, "keep_alive": 0});
        self.post("/api/generate", &request).map(drop).map_err(|errors| {
            match errors.0.iter().any(|d| d.code == "server-not-found") {
                true => Errors::from(Diagnostic::error(format!("couldn't find model \"{model}\" to stop"))),
                false => errors,
            }
        })
    }
}
