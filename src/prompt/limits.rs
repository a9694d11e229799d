//! What a template may cost: every limit in one table.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The limits under which templates are read and executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of a template's source.
    pub source_bytes: usize,
    /// Steps of one execution: actions, operands, loop iterations.
    pub fuel: u64,
    /// Bytes of text that one execution may make, output and intermediate strings together.
    pub output_bytes: usize,
    /// Depth of blocks and of parentheses in a source, and of values given to a template.
    pub nesting: usize,
    /// Actions, commands and operands in a source.
    pub nodes: usize,
    /// Variables in scope at one place of a source.
    pub variables: usize,
    /// Bytes of one action or Jinja tag, strings in it aside; and `elif`s in a source times four.
    /// The engine for Jinja recurses on both.
    pub tag_bytes: usize,
    /// Depth of blocks and template calls of an execution.
    pub depth: usize,
    /// The longest that one execution may take, for what fuel misses.
    pub time: Duration,
    /// Bytes of stack of the thread that a template is read and executed on.
    pub stack_bytes: usize,
}

impl Limits {
    /// The limits in force where none are set.
    pub const DEFAULT: Limits = Limits {
        source_bytes: 1 << 20,
        fuel: 500_000,
        output_bytes: 16 << 20,
        nesting: 128,
        nodes: 100_000,
        variables: 256,
        tag_bytes: 8 << 10,
        depth: 500,
        time: Duration::from_secs(5),
        stack_bytes: 16 << 20,
    };

    /// The limits of a server: many wait for each other, and none for long.
    pub const SERVER: Limits = Limits { time: Duration::from_secs(1), ..Limits::DEFAULT };
}

impl Default for Limits {
    fn default() -> Self {
        Limits::DEFAULT
    }
}
