//! `mdl run` on a terminal: a real pseudo-terminal, keys as a person presses them.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod answers;
mod commands;
mod keys;
mod remote;
mod terminal;
