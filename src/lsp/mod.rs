//! A language server for Modelfiles: `mdl lsp` speaks the Language Server Protocol 3.17 with an editor.
//!
//! ```text
//! editor ──text──▶ Document ──check──▶ diagnostics                the same as `mdl check`, as one types
//!                      └──Ast, Recipe──▶ completion, hover, definition, symbols, formatting
//! ```
//!
//! A document is checked as a whole whenever it changes: a Modelfile is small, and nothing can then be out of step.

mod complete;
mod describe;
mod document;
mod position;
mod report;
mod server;

pub use server::serve;
