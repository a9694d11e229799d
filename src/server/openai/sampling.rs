//! Sampling, lengths and stop texts: from the fields of a request to parameters.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ir::ParameterValue;
use crate::server::error::ApiError;
use crate::server::fields::{integer, invalid, number};
use crate::tokenizer::Tokenizer;

/// One text or a list of texts.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(untagged, expecting = "it is neither a string nor a list of strings")]
#[schema(as = openai::OneOrMany)]
pub enum OneOrMany {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

/// What every route that generates says about sampling.
#[derive(Clone, Debug, Default)]
pub struct Sampling<'a> {
    /// 0 to 2; 1 where it is not said.
    pub temperature: Option<f64>,
    /// 0 to 1; 1 where it is not said.
    pub top_p: Option<f64>,
    /// -2 to 2.
    pub frequency_penalty: Option<f64>,
    /// -2 to 2.
    pub presence_penalty: Option<f64>,
    /// Any integer; -1 for another one each time.
    pub seed: Option<i64>,
    /// Texts that end the answer.
    pub stop: Option<&'a OneOrMany>,
    /// The field for the most tokens, and its value.
    pub most: Option<(&'static str, i64)>,
    /// Stop texts of a request at most.
    pub stops: usize,
}

impl Sampling<'_> {
    /// The parameters of the job.
    ///
    /// # Errors
    /// 400: a value is out of its range.
    pub fn parameters(&self) -> Result<Vec<(String, ParameterValue)>, ApiError> {
        let mut all = Vec::new();
        let mut set = |name: &str, value| all.push((name.to_owned(), value));
        let temperature = number("temperature", self.temperature.unwrap_or(1.0), 0.0, 2.0)?;
        set("temperature", ParameterValue::Float(temperature));
        set("top_p", ParameterValue::Float(number("top_p", self.top_p.unwrap_or(1.0), 0.0, 1.0)?));
        let penalties =
            [("frequency_penalty", self.frequency_penalty), ("presence_penalty", self.presence_penalty)];
        for (name, value) in penalties {
            if let Some(value) = value {
                set(name, ParameterValue::Float(number(name, value, -2.0, 2.0)?));
            }
        }
        if let Some(seed) = self.seed {
            // Negative ones but -1 are seeds like any other.
            let seed = if seed < -1 { seed & i64::MAX } else { seed };
            set("seed", ParameterValue::Int(seed));
        }
        if let Some((field, most)) = self.most {
            set("num_predict", ParameterValue::Int(integer(field, most, 1, i64::MAX)?));
        }
        if let Some(stop) = self.stop {
            let stop = stops("stop", stop, self.stops)?;
            if !stop.is_empty() {
                set("stop", ParameterValue::Strings(stop));
            }
        }
        Ok(all)
    }
}

/// Stop texts.
fn stops(field: &str, stop: &OneOrMany, most: usize) -> Result<Vec<String>, ApiError> {
    let texts = match stop {
        OneOrMany::One(text) => vec![text.clone()],
        OneOrMany::Many(texts) => texts.clone(),
    };
    if texts.len() > most {
        return Err(invalid(field, &format!("there are more than {most} stop texts")));
    }
    match texts.iter().any(String::is_empty) {
        true => Err(invalid(field, "a stop text is empty")),
        false => Ok(texts),
    }
}

/// What is added to the logits of tokens: `-100` to `100`, by id.
///
/// # Errors
/// 400: an id is no token of the vocabulary, or a value is out of its range.
pub fn logit_bias(bias: &BTreeMap<String, f64>, tokenizer: &Tokenizer) -> Result<Vec<(u32, f32)>, ApiError> {
    let one = |(id, value): (&String, &f64)| {
        let token = id.parse::<u32>().ok().filter(|&id| (id as usize) < tokenizer.vocab_size());
        let token = token.ok_or_else(|| {
            let (id, size) = (crate::server::fields::shown(id), tokenizer.vocab_size());
            invalid("logit_bias", &format!("`{id}` is not a token: ids are below {size}"))
        })?;
        Ok((token, number("logit_bias", *value, -100.0, 100.0)?))
    };
    bias.iter().map(one).collect()
}

/// How many answers to give, and the check that there may be so many.
///
/// # Errors
/// 400.
pub fn choices(n: Option<i64>, most: u32) -> Result<u32, ApiError> {
    let n = integer("n", n.unwrap_or(1), 1, i64::from(most))?;
    Ok(n as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(sampling: Sampling<'_>) -> String {
        sampling.parameters().unwrap_err().message
    }

    #[test]
    fn hostile_values_are_refused_by_name() {
        let default = || Sampling { stops: 2, ..Sampling::default() };
        for value in [f64::NAN, f64::INFINITY, 1e308, -1.0] {
            assert!(error(Sampling { temperature: Some(value), ..default() }).contains("'temperature'"));
            assert!(error(Sampling { top_p: Some(value), ..default() }).contains("'top_p'"));
        }
        for value in [f64::NEG_INFINITY, -2.5, 1e308] {
            assert!(error(Sampling { frequency_penalty: Some(value), ..default() }).contains("'frequency_"));
            assert!(error(Sampling { presence_penalty: Some(value), ..default() }).contains("'presence_"));
        }
        for most in [0, -1, i64::MIN] {
            assert!(
                error(Sampling { most: Some(("max_tokens", most)), ..default() }).contains("'max_tokens'")
            );
        }
        let stop = OneOrMany::Many(vec!["a".into(), "b".into(), "c".into()]);
        assert!(error(Sampling { stop: Some(&stop), ..default() }).contains("more than 2 stop texts"));
        let stop = OneOrMany::One(String::new());
        assert!(error(Sampling { stop: Some(&stop), ..default() }).contains("a stop text is empty"));
    }

    #[test]
    fn defaults_are_those_of_openai() {
        let all = Sampling::default().parameters().unwrap();
        let float = |v| ParameterValue::Float(v);
        assert_eq!(all, [("temperature".to_owned(), float(1.0)), ("top_p".to_owned(), float(1.0))]);
        let seed = Sampling { seed: Some(i64::MIN), ..Sampling::default() }.parameters().unwrap();
        assert_eq!(seed[2], ("seed".to_owned(), ParameterValue::Int(0)));
    }

    #[test]
    fn choices_have_a_limit() {
        assert_eq!(choices(None, 128).unwrap(), 1);
        for bad in [0, -1, 129, i64::MAX] {
            assert!(choices(Some(bad), 128).is_err());
        }
    }
}
