//! What requests for an answer have in common. `null` means absent everywhere, as in Go.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value as Json};
use utoipa::ToSchema;

use super::failures::excerpt;
use super::schema;
use crate::ir::ParameterValue;
use crate::prompt::Think;
use crate::runtime::constrain::Grammar;
use crate::server::answer::{Job, parameters_from_json};
use crate::server::error::ApiError;
use crate::server::scheduler::{KeepAlive, Wish};

/// How to answer.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, ToSchema)]
#[schema(as = ollama::How)]
pub struct How {
    /// Line by line (the default), or as one object.
    pub stream: Option<bool>,
    /// `"json"`, or a JSON schema.
    #[schema(schema_with = schema::format, required = false)]
    pub format: Option<Json>,
    /// Seconds, or a duration such as `"5m"`, that the model stays loaded; negative for ever, 0 unloads it.
    #[schema(schema_with = schema::keep_alive, required = false)]
    pub keep_alive: Option<Json>,
    /// Parameters, such as `temperature`; see `mdl run --help`.
    #[schema(value_type = Option<Object>)]
    pub options: Option<Map<String, Json>>,
    /// `true`, `false`, `"low"`, `"medium"`, `"high"` or `"max"`.
    #[schema(schema_with = schema::think, required = false)]
    pub think: Option<Json>,
    /// Drop old messages where the context is too short (the default), or refuse.
    pub truncate: Option<bool>,
    /// Drop old tokens when the context is full (the default), or end.
    pub shift: Option<bool>,
    /// Tell the logarithm of each token's probability.
    pub logprobs: Option<bool>,
    /// And of so many likeliest ones, 0 to 20.
    #[schema(minimum = 0, maximum = 20)]
    pub top_logprobs: Option<i64>,
    /// Render the prompt and answer nothing.
    #[serde(rename = "_debug_render_only")]
    pub debug_render_only: Option<bool>,
}

/// A [`How`] that was checked.
#[derive(Debug)]
pub struct Checked {
    /// One line after the other.
    pub stream: bool,
    /// `None` for the server's.
    pub keep_alive: Option<KeepAlive>,
    /// Only the rendered prompt is wanted.
    pub debug_render_only: bool,
    parameters: Vec<(String, ParameterValue)>,
    format: Option<Grammar>,
    think: Option<Think>,
    truncate: bool,
    shift: bool,
    logprobs: Option<usize>,
}

impl How {
    /// Reads every value.
    ///
    /// # Errors
    /// 400, in Ollama's words where it has some.
    pub fn check(&self) -> Result<Checked, ApiError> {
        let top = match usize::try_from(self.top_logprobs.unwrap_or(0)) {
            Ok(top @ 0..=20) => top,
            _ => {
                let message = "top_logprobs must be between 0 and 20";
                return Err(ApiError::bad_request(message).param("top_logprobs"));
            }
        };
        Ok(Checked {
            stream: self.stream.unwrap_or(true),
            keep_alive: keep_alive(self.keep_alive.as_ref())?,
            debug_render_only: self.debug_render_only.unwrap_or(false),
            parameters: parameters(self.options.as_ref())?,
            format: format(self.format.as_ref())?,
            think: think(self.think.as_ref())?,
            truncate: self.truncate.unwrap_or(true),
            shift: self.shift.unwrap_or(true),
            logprobs: self.logprobs.unwrap_or(false).then_some(top),
        })
    }
}

impl Checked {
    /// True where the model is to be unloaded: no time to stay, and nothing to answer.
    pub fn unloads(&self) -> bool {
        self.keep_alive == Some(KeepAlive::For(Duration::ZERO))
    }

    /// What it asks of the way the model is loaded.
    pub fn wish(&self) -> Wish {
        wish(&self.parameters)
    }

    /// Tells a job.
    pub fn apply(self, job: &mut Job) {
        job.parameters = self.parameters;
        job.format = self.format;
        job.think = self.think;
        job.truncate = self.truncate;
        job.shift = self.shift;
        job.logprobs = self.logprobs;
    }
}

/// Reads `keep_alive`.
///
/// # Errors
/// 400: it is neither a number nor a duration.
pub fn keep_alive(value: Option<&Json>) -> Result<Option<KeepAlive>, ApiError> {
    let read = value.filter(|v| !v.is_null()).map(KeepAlive::from_json).transpose();
    read.map_err(|why| ApiError::bad_request(why).param("keep_alive"))
}

/// Reads `options`.
///
/// # Errors
/// 400: a value has the wrong type or is out of its range.
pub fn parameters(options: Option<&Map<String, Json>>) -> Result<Vec<(String, ParameterValue)>, ApiError> {
    options.map_or(Ok(Vec::new()), parameters_from_json)
}

/// What parameters ask of the way the model is loaded.
pub fn wish(parameters: &[(String, ParameterValue)]) -> Wish {
    let number = |wanted: &str| {
        let (_, value) = parameters.iter().rev().find(|(name, _)| name == wanted)?;
        match value {
            ParameterValue::Int(v) => u64::try_from(*v).ok().filter(|v| *v > 0),
            _ => None,
        }
    };
    let count = |wanted: &str| number(wanted).and_then(|v| usize::try_from(v).ok());
    let gpu = parameters.iter().rev().find_map(|(name, value)| match value {
        ParameterValue::Int(v) if name == "num_gpu" => Some(*v),
        _ => None,
    });
    Wish { context: number("num_ctx"), batch: count("num_batch"), threads: count("num_thread"), gpu }
}

fn format(value: Option<&Json>) -> Result<Option<Grammar>, ApiError> {
    match value {
        None | Some(Json::Null) => Ok(None),
        Some(Json::String(text)) if text.is_empty() => Ok(None),
        Some(Json::String(text)) if text == "json" => Ok(Some(Grammar::Json)),
        Some(schema @ Json::Object(_)) => Ok(Some(Grammar::Schema(schema.clone()))),
        Some(other) => {
            let text = other.to_string();
            let message = format!(
                "invalid format: {}; expected \"json\" or a valid JSON Schema object",
                excerpt(&text)
            );
            Err(ApiError::bad_request(message).param("format"))
        }
    }
}

fn think(value: Option<&Json>) -> Result<Option<Think>, ApiError> {
    match value {
        None | Some(Json::Null) => Ok(None),
        Some(Json::Bool(false)) => Ok(Some(Think::Off)),
        Some(Json::Bool(true)) => Ok(Some(Think::On)),
        Some(Json::String(level)) if matches!(level.as_str(), "low" | "medium" | "high" | "max") => {
            Ok(Some(Think::Level(level.clone())))
        }
        Some(other) => {
            let text = other.to_string();
            let message = format!(
                "invalid think value: {} (must be \"high\", \"medium\", \"low\", \"max\", true, or false)",
                excerpt(&text)
            );
            Err(ApiError::bad_request(message).param("think"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(value: Json) -> Result<Checked, ApiError> {
        let how: How = serde_json::from_value(value).map_err(|e| ApiError::bad_request(e.to_string()))?;
        how.check()
    }

    #[test]
    fn null_is_absent() {
        let all = json!({
            "stream": null, "format": null, "keep_alive": null, "options": null, "think": null,
            "truncate": null, "shift": null, "logprobs": null, "top_logprobs": null, "_debug_render_only": null,
        });
        let checked = check(all).unwrap();
        assert!(checked.stream && checked.truncate && checked.shift && !checked.debug_render_only);
        assert!(checked.keep_alive.is_none() && checked.logprobs.is_none() && checked.think.is_none());
        assert!(checked.format.is_none() && checked.parameters.is_empty() && !checked.unloads());
        assert_eq!(checked.wish(), Wish::default());
    }

    #[test]
    fn values_are_read() {
        let checked = check(json!({
            "stream": false, "format": {"type": "object"}, "keep_alive": 0, "think": "high", "shift": false,
            "options": {"num_ctx": 2048.0, "num_batch": 7, "num_thread": 0, "stop": "x", "nonsense": [1]},
            "logprobs": true, "top_logprobs": 20,
        }))
        .unwrap();
        assert!(!checked.stream && checked.unloads());
        assert_eq!(checked.wish(), Wish { context: Some(2048), batch: Some(7), threads: None, gpu: None });
        assert_eq!(checked.think, Some(Think::Level("high".to_owned())));
        assert_eq!(checked.format, Some(Grammar::Schema(json!({"type": "object"}))));
        assert_eq!(checked.logprobs, Some(20));
        assert_eq!(checked.parameters.len(), 4);
        let mut job = Job::new(crate::server::answer::Input::Raw(String::new()));
        checked.apply(&mut job);
        assert!(!job.shift && job.truncate);
        assert_eq!(check(json!({"format": "json"})).unwrap().format, Some(Grammar::Json));
        assert_eq!(check(json!({"format": ""})).unwrap().format, None);
        assert_eq!(check(json!({"top_logprobs": 3})).unwrap().logprobs, None);
    }

    #[test]
    fn what_is_wrong_is_400_and_says_what() {
        let mut told = String::new();
        for value in [
            json!({"stream": "yes"}),
            json!({"top_logprobs": 21}),
            json!({"top_logprobs": -1}),
            json!({"top_logprobs": 1e300}),
            json!({"format": "yaml"}),
            json!({"format": 5}),
            json!({"format": ["json"]}),
            json!({"think": "very"}),
            json!({"think": 1}),
            json!({"keep_alive": "-1"}),
            json!({"keep_alive": {}}),
            json!({"keep_alive": "5 minutes"}),
            json!({"options": []}),
            json!({"options": {"temperature": "hot"}}),
            json!({"options": {"num_ctx": 1.5}}),
            json!({"options": {"seed": 1e30}}),
            json!({"options": {"top_p": 7}}),
            json!({"options": {"stop": [1]}}),
        ] {
            let error = check(value.clone()).unwrap_err();
            assert_eq!(error.status, 400, "{value}");
            told.push_str(&format!("{value}\n    {}\n", error.message));
        }
        insta::with_settings!({
            snapshot_path => concat!(env!("CARGO_MANIFEST_DIR"), "/snapshots"),
            prepend_module_to_snapshot => false,
        }, {
            insta::assert_snapshot!("server_ollama_wrong_requests", told);
        });
    }
}
