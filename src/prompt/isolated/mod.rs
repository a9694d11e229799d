//! Chat templates rendered in another process.
//!
//! A chat template comes with a model, and models come from anywhere. The engine for Jinja counts
//! most of what a template costs but not all: some work goes on for hours after a single step, and
//! a value that holds itself overflows the stack, which ends a process at once. A thread can be
//! neither stopped nor contained. A process can: a [`Renderer`] made by [`Renderer::in_children`]
//! keeps a few processes of this very program, each under limits of its own (`restrict`), and
//! ends one that takes too long.
//!
//! Go templates stay where they are: their engine is ours, and bounded in all it does.

mod child;
mod pool;
mod restrict;
mod wire;
mod worker;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::civil::DateTime;

use crate::diagnostic::{Diagnostic, Result};

use super::chat::{ChatRequest, SpecialTokens, Template, Think};
use super::jinja_values;
use super::limits::Limits;

pub use child::child_main;
use pool::Pool;

/// The argument that makes this program a process that renders: its first, where [`child_main`]
/// must be called before anything else.
pub const CHILD_ARGUMENT: &str = "__render";

/// How a process that renders is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildCommand {
    program: PathBuf,
}

impl ChildCommand {
    /// The program that runs now, even where its file was replaced meanwhile.
    ///
    /// # Errors
    /// The system does not tell where it is.
    pub fn current() -> Result<ChildCommand> {
        let running = Path::new("/proc/self/exe");
        if cfg!(target_os = "linux") && running.exists() {
            return Ok(ChildCommand { program: running.to_owned() });
        }
        let program = std::env::current_exe();
        let program = program
            .map_err(|e| Diagnostic::environment(format!("the path of this program is not known: {e}")))?;
        Ok(ChildCommand { program })
    }

    /// A program whose `main` calls [`child_main`] when its first argument is [`CHILD_ARGUMENT`].
    pub fn new(program: impl Into<PathBuf>) -> ChildCommand {
        let program = program.into();
        // Children start in another folder.
        ChildCommand { program: std::path::absolute(&program).unwrap_or(program) }
    }
}

/// How many processes render, and how long they work and their callers wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolOptions {
    /// The most processes at one time; at least 1.
    pub most: usize,
    /// How long a process without work is kept.
    pub idle: Duration,
    /// How long a caller waits for a process that is free.
    pub wait: Duration,
    /// The longest that one rendering may take, where a template's own limits do not say less.
    pub time: Duration,
}

impl Default for PoolOptions {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        PoolOptions {
            most: cores.clamp(2, 4),
            idle: Duration::from_secs(300),
            wait: Duration::from_secs(10),
            time: Limits::SERVER.time,
        }
    }
}

/// Renders templates, in this process or in others. Clones share the processes.
///
/// Every method blocks: asynchronous code calls it where blocking is allowed.
#[derive(Clone, Debug, Default)]
pub struct Renderer {
    pool: Option<Arc<Pool>>,
}

impl Renderer {
    /// Renders all templates in this process: for programs that end with their one conversation.
    pub fn in_process() -> Renderer {
        Renderer { pool: None }
    }

    /// Renders chat templates in processes that are started when they are first needed.
    pub fn in_children(command: ChildCommand) -> Renderer {
        Renderer::in_children_with(command, PoolOptions::default())
    }

    /// As [`Renderer::in_children`], with other numbers.
    pub fn in_children_with(command: ChildCommand, options: PoolOptions) -> Renderer {
        Renderer { pool: Some(Pool::new(command, options)) }
    }

    /// The text of a conversation.
    ///
    /// # Errors
    /// The template fails on it, says itself that it does not take it, or exceeds a budget. A chat
    /// template takes longer than it may (`template-time`), ends its process
    /// (`template-crashed`), or none is free or can be started (`template-busy`,
    /// `template-process`).
    pub fn render(
        &self,
        template: &Template,
        request: &ChatRequest<'_>,
        tokens: &SpecialTokens,
    ) -> Result<String> {
        match (template, &self.pool) {
            (Template::Jinja(template), Some(pool)) => {
                let nesting = template.limits().nesting.min(wire::MOST_NESTING);
                let variables = jinja_values::context(request, tokens, nesting)?;
                pool.render(template, Some(variables), request.now)
            }
            _ => template.render(request, tokens),
        }
    }

    /// The text for a completion between `prompt` and `suffix`: of Go templates only, which need no
    /// process.
    ///
    /// # Errors
    /// See [`Template::render_infill`].
    pub fn render_infill(
        &self,
        template: &Template,
        prompt: &str,
        suffix: &str,
        think: Option<&Think>,
        now: DateTime,
    ) -> Result<String> {
        template.render_infill(prompt, suffix, think, now)
    }

    /// Compiles a template, where that is still to be done: its errors, before there is a
    /// conversation.
    ///
    /// # Errors
    /// The text is no template; or as [`Renderer::render`].
    pub fn check(&self, template: &Template) -> Result<()> {
        match (template, &self.pool) {
            (Template::Go(_), _) => Ok(()),
            (Template::Jinja(template), None) => template.check(),
            (Template::Jinja(template), Some(pool)) => {
                pool.render(template, None, DateTime::default()).map(|_| ())
            }
        }
    }

    /// The ids of the processes that have no work now.
    pub fn idle_processes(&self) -> Vec<u32> {
        self.pool.as_ref().map_or_else(Vec::new, |pool| pool.idle_processes())
    }
}
