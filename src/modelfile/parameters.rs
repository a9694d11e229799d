//! The parameters that PARAMETER and a request's `options` can set, as a table.

use crate::ir::ParameterValue;

/// The type of a parameter's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParameterType {
    /// A 64-bit integer.
    Int,
    /// A 32-bit float.
    Float,
    /// `true` or `false`.
    Bool,
    /// A list of strings; each PARAMETER line adds one.
    Strings,
}

impl ParameterType {
    /// The type's name in messages.
    pub fn name(self) -> &'static str {
        match self {
            ParameterType::Int => "an integer",
            ParameterType::Float => "a number",
            ParameterType::Bool => "`true` or `false`",
            ParameterType::Strings => "a string",
        }
    }
}

/// When a parameter takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// When the model is loaded: a change reloads it.
    Load,
    /// With each request.
    Predict,
    /// Never: it is accepted from old Modelfiles, warned about and ignored.
    Deprecated,
}

/// One parameter.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// Its name, spelled exactly so.
    pub name: &'static str,
    /// The type of its value.
    pub ty: ParameterType,
    /// The value where none is set; `None` where the runtime chooses.
    pub default: Option<ParameterValue>,
    /// The values that make sense, both ends included. Others are warned about, not refused.
    pub range: (f64, f64),
    /// When it takes effect.
    pub stage: Stage,
    /// What it does, in one line.
    pub doc: &'static str,
}

impl Parameter {
    /// True when Modelfiles should no longer set it.
    pub fn is_deprecated(&self) -> bool {
        self.stage == Stage::Deprecated
    }

    /// A value to show in help.
    pub fn example(&self) -> String {
        match (&self.default, self.ty) {
            _ if self.name == "num_ctx" => "4096".to_owned(),
            _ if self.name == "seed" => "42".to_owned(),
            (Some(ParameterValue::Int(v)), _) => v.to_string(),
            (Some(ParameterValue::Float(v)), _) => v.to_string(),
            (_, ParameterType::Int) => "1".to_owned(),
            (_, ParameterType::Float) => "0.5".to_owned(),
            (_, ParameterType::Bool) => "true".to_owned(),
            (_, ParameterType::Strings) => "<|end|>".to_owned(),
        }
    }

    /// True when a numeric value is outside `range`; never for other types.
    pub fn is_out_of_range(&self, value: &ParameterValue) -> bool {
        let value = match value {
            ParameterValue::Int(v) => *v as f64,
            ParameterValue::Float(v) => f64::from(*v),
            _ => return false,
        };
        !(self.range.0..=self.range.1).contains(&value)
    }

    /// The range in words: `from 0 to 1`, `at least 0`.
    pub fn range_in_words(&self) -> String {
        match self.range {
            (min, f64::INFINITY) => format!("at least {min}"),
            (min, max) => format!("from {min} to {max}"),
        }
    }

    /// Reads a value as PARAMETER writes it: integers in base 10, floats in decimal, the
    /// spellings of `true` and `false` that Go's `strconv.ParseBool` takes. A string becomes a
    /// list of one.
    ///
    /// # Errors
    /// The text is not a value of the parameter's type; the message says why, as in
    /// "`x` is not an integer".
    pub fn parse(&self, text: &str) -> Result<ParameterValue, String> {
        use std::num::IntErrorKind::{NegOverflow, PosOverflow};
        let shown = super::suggest::excerpt(text);
        if text.is_empty() && self.ty != ParameterType::Strings {
            return Err("the value is empty".to_owned());
        }
        match self.ty {
            ParameterType::Int => {
                text.parse().map(ParameterValue::Int).map_err(|e: std::num::ParseIntError| match e.kind() {
                    PosOverflow | NegOverflow => format!("`{shown}` does not fit in 64 bits"),
                    _ => format!("`{shown}` is not an integer"),
                })
            }
            // Go also takes NaN and infinities, which no sampler can use and no JSON can hold.
            ParameterType::Float => match text.parse::<f32>() {
                Ok(v) if v.is_finite() => Ok(ParameterValue::Float(v)),
                Ok(_) if text.contains(|c: char| c.is_ascii_digit()) => {
                    Err(format!("`{shown}` does not fit in a 32-bit float"))
                }
                Ok(_) => Err(format!("`{shown}` is not a finite number")),
                Err(_) => Err(format!("`{shown}` is not a number")),
            },
            ParameterType::Bool => match text {
                "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(ParameterValue::Bool(true)),
                "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(ParameterValue::Bool(false)),
                _ => Err(format!("`{shown}` is neither `true` nor `false`")),
            },
            ParameterType::Strings => Ok(ParameterValue::Strings(vec![text.to_owned()])),
        }
    }
}

/// The parameter with this name, spelled exactly.
pub fn find(name: &str) -> Option<&'static Parameter> {
    PARAMETERS.iter().find(|p| p.name == name)
}

/// Names that older releases knew and that are errors now.
pub(super) const REMOVED: [&str; 6] =
    ["numa", "num_gqa", "tfs_z", "embedding_only", "rope_frequency_base", "rope_frequency_scale"];

/// What other programs call our parameters.
pub(super) const ELSEWHERE: [(&str, &str); 12] = [
    ("max_tokens", "num_predict"),
    ("max_new_tokens", "num_predict"),
    ("n_predict", "num_predict"),
    ("n_ctx", "num_ctx"),
    ("ctx_size", "num_ctx"),
    ("context_length", "num_ctx"),
    ("max_seq_len", "num_ctx"),
    ("n_gpu_layers", "num_gpu"),
    ("threads", "num_thread"),
    ("batch_size", "num_batch"),
    ("repetition_penalty", "repeat_penalty"),
    ("stop_sequences", "stop"),
];

const ANY: (f64, f64) = (f64::NEG_INFINITY, f64::INFINITY);

const fn at_least(min: f64) -> (f64, f64) {
    (min, f64::INFINITY)
}

const fn int(
    name: &'static str,
    default: Option<i64>,
    range: (f64, f64),
    stage: Stage,
    doc: &'static str,
) -> Parameter {
    let default = match default {
        Some(v) => Some(ParameterValue::Int(v)),
        None => None,
    };
    Parameter { name, ty: ParameterType::Int, default, range, stage, doc }
}

const fn float(name: &'static str, default: f32, range: (f64, f64), doc: &'static str) -> Parameter {
    let default = Some(ParameterValue::Float(default));
    Parameter { name, ty: ParameterType::Float, default, range, stage: Stage::Predict, doc }
}

const fn deprecated(name: &'static str, ty: ParameterType) -> Parameter {
    let doc = "no longer has any effect";
    Parameter { name, ty, default: None, range: ANY, stage: Stage::Deprecated, doc }
}

/// Every parameter: those of loading first, then those of a request, then the deprecated ones.
pub static PARAMETERS: [Parameter; 29] = {
    use ParameterType::{Bool, Float, Int, Strings};
    use Stage::{Load, Predict};
    [
        int("num_ctx", None, at_least(0.0), Load, "tokens of context; 0 lets the runtime choose by memory"),
        int("num_batch", Some(512), at_least(1.0), Load, "prompt tokens evaluated at a time"),
        int("num_gpu", Some(-1), at_least(-1.0), Load, "layers on the GPU; -1 lets the runtime choose"),
        int("main_gpu", None, at_least(0.0), Load, "the GPU that holds what is not split"),
        Parameter {
            name: "use_mmap",
            ty: Bool,
            default: None,
            range: ANY,
            stage: Load,
            doc: "map the weights into memory instead of reading them",
        },
        int("num_thread", Some(0), at_least(0.0), Load, "CPU threads; 0 lets the runtime choose"),
        int(
            "draft_num_predict",
            Some(4),
            at_least(0.0),
            Load,
            "tokens that the draft model proposes at a time",
        ),
        int(
            "num_keep",
            Some(4),
            at_least(-1.0),
            Predict,
            "first tokens kept when the context overflows; -1 keeps the prompt",
        ),
        int("seed", Some(-1), ANY, Predict, "seed of the sampler; -1 takes another one each time"),
        int(
            "num_predict",
            Some(-1),
            at_least(-2.0),
            Predict,
            "most tokens to generate; -1 no limit, -2 until the context is full",
        ),
        int(
            "top_k",
            Some(40),
            at_least(0.0),
            Predict,
            "sample among the k most probable tokens; 0 among all",
        ),
        float("top_p", 0.9, (0.0, 1.0), "sample among the most probable tokens that together reach p"),
        float("min_p", 0.0, (0.0, 1.0), "drop tokens less probable than this share of the most probable one"),
        float(
            "typical_p",
            1.0,
            (0.0, 1.0),
            "sample among the tokens of typical information up to p; 1 turns it off",
        ),
        int(
            "repeat_last_n",
            Some(64),
            at_least(-1.0),
            Predict,
            "tokens looked back for repetition; 0 none, -1 the context",
        ),
        float("temperature", 0.8, (0.0, 5.0), "divides the logits: 0 always takes the most probable token"),
        float("repeat_penalty", 1.0, (0.0, 5.0), "divides the logits of tokens already seen; 1 turns it off"),
        float("presence_penalty", 0.0, (-2.0, 2.0), "subtracted from the logits of tokens already seen"),
        float(
            "frequency_penalty",
            0.0,
            (-2.0, 2.0),
            "subtracted from a token's logit for each time it was seen",
        ),
        Parameter {
            name: "stop",
            ty: Strings,
            default: Some(ParameterValue::Strings(Vec::new())),
            range: ANY,
            stage: Predict,
            doc: "text that ends the generation and is not printed; may be set several times",
        },
        deprecated("penalize_newline", Bool),
        deprecated("low_vram", Bool),
        deprecated("f16_kv", Bool),
        deprecated("logits_all", Bool),
        deprecated("vocab_only", Bool),
        deprecated("use_mlock", Bool),
        deprecated("mirostat", Int),
        deprecated("mirostat_tau", Float),
        deprecated("mirostat_eta", Float),
    ]
};
