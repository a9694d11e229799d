//! The `options` of a request, by the table of parameters.

use serde_json::{Map, Value as Json};

use crate::ir::ParameterValue;
use crate::modelfile::parameters::{self, ParameterType};
use crate::server::error::ApiError;

/// Reads `options`. Names that no one knows are logged and left out, as Ollama does.
///
/// # Errors
/// 400: a value has the wrong type or is out of its range; the option is named.
pub fn parameters_from_json(options: &Map<String, Json>) -> Result<Vec<(String, ParameterValue)>, ApiError> {
    let mut all = Vec::with_capacity(options.len().min(64));
    let mut unknown = None;
    for (name, value) in options {
        let Some(known) = parameters::find(name) else {
            unknown.get_or_insert(name);
            continue;
        };
        if value.is_null() {
            continue;
        }
        let wrong = || {
            let message = format!("option \"{name}\" must be {}", type_in_words(known.ty));
            ApiError::bad_request(message).param(name.as_str())
        };
        let value = convert(known.ty, value).ok_or_else(wrong)?;
        if known.is_out_of_range(&value) {
            let message = format!("option \"{name}\" must be {}", known.range_in_words());
            return Err(ApiError::bad_request(message).param(name.as_str()));
        }
        all.push((name.clone(), value));
    }
    if let Some(name) = unknown {
        tracing::warn!(option = %name.chars().take(64).collect::<String>(), "invalid option provided");
    }
    Ok(all)
}

fn type_in_words(ty: ParameterType) -> &'static str {
    match ty {
        ParameterType::Strings => "a string or a list of strings",
        other => other.name(),
    }
}

fn convert(ty: ParameterType, value: &Json) -> Option<ParameterValue> {
    match (ty, value) {
        (ParameterType::Int, Json::Number(n)) => {
            // What Go's clients send for an integer may have a fraction of zero.
            let whole = |f: f64| (f.fract() == 0.0 && f.abs() < 9.0e15).then_some(f as i64);
            n.as_i64().or_else(|| n.as_f64().and_then(whole)).map(ParameterValue::Int)
        }
        (ParameterType::Float, Json::Number(n)) => {
            let value = n.as_f64()? as f32;
            value.is_finite().then_some(ParameterValue::Float(value))
        }
        (ParameterType::Bool, Json::Bool(b)) => Some(ParameterValue::Bool(*b)),
        (ParameterType::Strings, Json::String(s)) => Some(ParameterValue::Strings(vec![s.clone()])),
        (ParameterType::Strings, Json::Array(all)) if all.len() <= 128 => {
            let texts = all.iter().map(|v| v.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>();
            texts.map(ParameterValue::Strings)
        }
        _ => None,
    }
}
