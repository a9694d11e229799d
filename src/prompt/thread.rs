//! A thread for one piece of work on hostile input.

use std::thread;

use crate::diagnostic::{Diagnostic, Result};

/// Runs `work` on a thread whose stack has `stack_bytes`, however deep the caller already is, and
/// waits for it. A panic becomes an error.
pub fn on_own_stack<T: Send>(stack_bytes: usize, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let worker = thread::Builder::new()
            .name("template".to_owned())
            .stack_size(stack_bytes)
            .spawn_scoped(scope, work)
            .map_err(|e| Diagnostic::environment(format!("cannot start a thread for the template: {e}")))?;
        worker.join().unwrap_or_else(|_| {
            Err(Diagnostic::error("the template made its engine fail")
                .help("this is a defect of mdl; please report it with the template")
                .into())
        })
    })
}
