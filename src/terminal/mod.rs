//! What a person at a terminal sees and types.
//!
//! | file | what it holds |
//! |---|---|
//! | [`answers`] | what answers: the seam between a conversation and whoever computes |
//! | [`local`], [`remote`] | a model in this process; a model of a running server |
//! | [`conversation`] | the prompt loop |
//! | [`commands`] | the `/` commands, as a table: their help and their completion |
//! | `lines`, `editor` | a line editor with a history, and a person's own editor |
//! | [`view`], [`wrap`] | an answer as it comes: words wrapped, thinking dim |
//! | [`screen`] | standard output, and what may reach it |
//! | [`description`], [`listing`], [`figures`], [`table`] | a model, models, counts and times, as text |

pub mod answers;
pub mod commands;
pub mod conversation;
pub mod description;
mod editor;
pub mod figures;
mod lines;
pub mod listing;
pub mod local;
mod message;
pub mod remote;
pub mod screen;
mod set;
mod show;
pub mod table;
pub mod view;
pub mod wrap;
