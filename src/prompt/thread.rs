//! A thread for one piece of work on hostile input.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

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
        worker.join().unwrap_or_else(|_| Err(engine_failed().into()))
    })
}

/// As [`on_own_stack`], but waits no longer than `time`. Work that takes longer is given up: its thread
/// goes on until it is done or the process ends, and its result is dropped.
pub fn within<T: Send + 'static>(
    time: Duration,
    stack_bytes: usize,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let (sender, receiver) = mpsc::sync_channel(1);
    thread::Builder::new()
        .name("template".to_owned())
        .stack_size(stack_bytes)
        .spawn(move || {
            // Nobody listens any more when the time is over.
            let _ = sender.send(work());
        })
        .map_err(|e| Diagnostic::environment(format!("cannot start a thread for the template: {e}")))?;
    match receiver.recv_timeout(time) {
        Ok(result) => result,
        Err(mpsc::RecvTimeoutError::Timeout) => Err(over_time(time).into()),
        Err(mpsc::RecvTimeoutError::Disconnected) => Err(engine_failed().into()),
    }
}

/// What is said of a template that takes longer than `time`.
pub fn over_time(time: Duration) -> Diagnostic {
    let message = format!("the template takes more than {} seconds", time.as_secs_f32());
    Diagnostic::error(message)
        .code("template-time")
        .help("a template for a conversation takes milliseconds: this one loops, or does harm")
}

fn engine_failed() -> Diagnostic {
    Diagnostic::error("the template made its engine fail")
        .help("this is a defect of mdl; please report it with the template")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_takes_too_long_is_given_up() {
        let slow = within(Duration::from_millis(20), 1 << 20, || {
            thread::sleep(Duration::from_secs(2));
            Ok(1)
        });
        assert!(slow.unwrap_err().to_string().contains("takes more than"));
        assert_eq!(within(Duration::from_secs(30), 1 << 20, || Ok(7)).unwrap(), 7);
        assert!(within::<u8>(Duration::from_secs(30), 1 << 20, || panic!("a defect")).is_err());
    }
}
