//! From messages to the tokens that a model is to go on from, the same for a server and a terminal.
//!
//! A [`Job`] says what to answer and how; [`ready`] renders it for a model, fits it into the context, and finds out
//! what the text must be and how it is read.

mod job;
mod ready;

pub use job::{Input, Job, ToolChoice};
pub use ready::{Bounds, Ready, Refusal, Truncation, ready};
