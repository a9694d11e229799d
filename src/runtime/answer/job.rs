//! What to answer, and how.

use serde_json::Value as Json;

use crate::ir::ParameterValue;
use crate::prompt::{ChatMessage, Think};
use crate::runtime::constrain::Grammar;

/// What to answer, and how.
#[derive(Clone, Debug)]
pub struct Job {
    /// What the model reads.
    pub input: Input,
    /// Parameters of the request; they go before the model's own.
    pub parameters: Vec<(String, ParameterValue)>,
    /// What the text must be.
    pub format: Option<Grammar>,
    /// Tools on offer, each `{"type": "function", "function": {...}}`.
    pub tools: Vec<Json>,
    /// Whether one must be called.
    pub tool_choice: ToolChoice,
    /// More than one call in an answer where a call is enforced.
    pub parallel_tool_calls: bool,
    /// Nothing where the request does not say.
    pub think: Option<Think>,
    /// Drop the oldest messages of a conversation that is longer than the context; else it is refused.
    pub truncate: bool,
    /// Drop old tokens when the context is full; else the answer ends there.
    pub shift: bool,
    /// Logarithms of probabilities to tell: of each token, and of so many likeliest ones.
    pub logprobs: Option<usize>,
    /// Added to logits.
    pub logit_bias: Vec<(u32, f32)>,
}

impl Job {
    /// A job with the defaults of the Ollama dialect.
    pub fn new(input: Input) -> Job {
        Job {
            input,
            parameters: Vec::new(),
            format: None,
            tools: Vec::new(),
            tool_choice: ToolChoice::Auto,
            parallel_tool_calls: true,
            think: None,
            truncate: true,
            shift: true,
            logprobs: None,
            logit_bias: Vec::new(),
        }
    }
}

/// What the model reads.
#[derive(Clone, Debug)]
pub enum Input {
    /// A conversation; the model's own SYSTEM and MESSAGEs come first.
    Chat(Vec<ChatMessage>),
    /// A conversation after tokens of an earlier one (`context`), in another template where one is given.
    Continue {
        /// The tokens before it.
        context: Vec<u32>,
        /// The conversation.
        messages: Vec<ChatMessage>,
        /// A Go template instead of the model's.
        template: Option<String>,
    },
    /// A text as it is.
    Raw(String),
    /// The text between two texts.
    Infill {
        /// Before it.
        prompt: String,
        /// After it.
        suffix: String,
    },
}

/// Whether a tool must be called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ToolChoice {
    /// The model decides.
    #[default]
    Auto,
    /// None: the model does not hear of them.
    None,
    /// One at least.
    Required,
    /// This one.
    Function(String),
}
