//! What a request or a Modelfile says about sampling.

use crate::diagnostic::{Diagnostic, Result};

/// Ollama's options for sampling; [`Default`] has its defaults.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplerOptions {
    /// Divides the logits before the draw: 0 or more; 0 takes the likeliest token, always.
    pub temperature: f32,
    /// Keeps the k likeliest tokens; 0 or less keeps all.
    pub top_k: i64,
    /// Keeps the fewest likeliest tokens whose probabilities add up to this: 0 to 1; 1 keeps all.
    pub top_p: f32,
    /// Keeps tokens at least this times as likely as the likeliest: 0 to 1; 0 keeps all.
    pub min_p: f32,
    /// Keeps tokens whose information is closest to the entropy until their probabilities add up to
    /// this: 0 to 1; 1 keeps all. Meister et al. 2023, "Locally Typical Sampling".
    pub typical_p: f32,
    /// How many of the last tokens the penalties count: -1 for all, 0 for none.
    pub repeat_last_n: i64,
    /// Divides the logit of a token that was there if it is above 0, else multiplies it: 0.01 to 100;
    /// 1 does nothing. Keskar et al. 2019, "CTRL".
    pub repeat_penalty: f32,
    /// Taken off the logit of a token that was there: -100 to 100.
    pub presence_penalty: f32,
    /// Taken off the logit of a token for each time it was there: -100 to 100.
    pub frequency_penalty: f32,
    /// Where the random numbers begin; -1 for somewhere else each time.
    pub seed: i64,
}

impl Default for SamplerOptions {
    fn default() -> Self {
        SamplerOptions {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.9,
            min_p: 0.0,
            typical_p: 1.0,
            repeat_last_n: 64,
            repeat_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            seed: -1,
        }
    }
}

impl SamplerOptions {
    /// Checks every range.
    ///
    /// # Errors
    /// One diagnostic for each option that is out of its range.
    pub fn check(&self) -> Result<()> {
        let floats = [
            ("temperature", self.temperature, 0.0, f32::MAX),
            ("top_p", self.top_p, 0.0, 1.0),
            ("min_p", self.min_p, 0.0, 1.0),
            ("typical_p", self.typical_p, 0.0, 1.0),
            ("repeat_penalty", self.repeat_penalty, 0.01, 100.0),
            ("presence_penalty", self.presence_penalty, -100.0, 100.0),
            ("frequency_penalty", self.frequency_penalty, -100.0, 100.0),
        ];
        let mut errors = Vec::new();
        for (name, value, least, most) in floats {
            if !(least..=most).contains(&value) {
                let range = match most {
                    f32::MAX => format!("a number of {least} or more"),
                    _ => format!("a number from {least} to {most}"),
                };
                errors.push(out_of_range(name, &range, &value.to_string()));
            }
        }
        if self.repeat_last_n < -1 {
            errors.push(out_of_range("repeat_last_n", "-1 or more", &self.repeat_last_n.to_string()));
        }
        if errors.is_empty() { Ok(()) } else { Err(crate::diagnostic::Errors(errors)) }
    }
}

fn out_of_range(name: &str, range: &str, value: &str) -> Diagnostic {
    Diagnostic::error(format!("`{name}` must be {range}, not {value}")).code("parameter-range")
}
