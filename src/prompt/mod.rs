//! From messages to the text a model reads: Go templates, Jinja, chat rendering.

pub mod gotemplate;
pub mod limits;
mod thread;
