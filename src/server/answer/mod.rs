//! From messages to the parts of an answer, the same for every dialect.
//!
//! A dialect makes a [`Job`], [`prepare`]s it for a leased model (template, tokens, truncation, grammar), and
//! [`Prepared::start`]s one answer or several. An [`Answer`] gives [`Part`]s until its [`End`]; dropping it stops
//! the work.

mod embed;
mod options;
mod prepare;
mod stream;

pub use crate::runtime::answer::{Input, Job, ToolChoice, Truncation};
pub use embed::{embed, finite, normalized};
pub use options::parameters_from_json;
pub use prepare::{Prepared, prepare};
pub use stream::{Answer, End, Part};
