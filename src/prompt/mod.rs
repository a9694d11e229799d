//! From messages to the text a model reads: Go templates, Jinja, chat rendering.
//!
//! [`Template::choose`] picks a model's template and [`Template::render`] turns a [`ChatRequest`]
//! into text. A template is hostile input: what it may cost is bounded by [`Limits`], and it can
//! reach nothing but its arguments. What the engine for Jinja does not bound, a process does: see
//! [`isolated`].

pub mod agreement;
mod capabilities;
mod chat;
pub mod check;
mod go;
mod go_values;
pub mod gotemplate;
mod jinja;
mod jinja_source;
mod jinja_values;
pub mod isolated;
pub mod known;
pub mod limits;
pub mod output;
pub mod standard;
mod python;
mod thread;
mod tojson;

pub use capabilities::{capabilities, template_text};
pub use chat::{ChatMessage, ChatRequest, SpecialTokens, Template, Think, ToolCall, conversation};
pub use go::GoTemplate;
pub use isolated::Renderer;
pub use jinja::JinjaTemplate;
pub use limits::Limits;
