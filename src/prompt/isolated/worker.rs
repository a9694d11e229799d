//! A process that renders, as its parent has it.

use std::io;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender};
use std::thread;
use std::time::Duration;

use super::wire;
use super::{CHILD_ARGUMENT, ChildCommand};

/// The longest that a process may take to start.
const START: Duration = Duration::from_secs(10);

/// Stack of the thread that talks to a process.
const STACK_BYTES: usize = 256 << 10;

/// A process, and a thread that talks to it: pipes have no time limit, so the caller waits for the
/// thread and ends the process when it has waited enough, which frees the thread too.
#[derive(Debug)]
pub struct Worker {
    child: Child,
    asked: Sender<Asked>,
    /// Its number among the workers of its pool.
    pub number: u64,
    /// False until it has answered a request.
    pub has_served: bool,
}

/// A request on its way to the process.
struct Asked {
    frame: Arc<Vec<u8>>,
    /// Bytes of the reply.
    most: usize,
    reply: SyncSender<io::Result<Vec<u8>>>,
}

/// Why there is no answer. The worker is of no use any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    /// The time is over.
    Time,
    /// The process has ended, or speaks nonsense.
    Died,
}

impl Worker {
    /// Starts a process. `on_idle` is asked whenever it had no work for `idle`: whether it was
    /// given up.
    ///
    /// # Errors
    /// It does not start, or is not the program it should be.
    pub fn start(
        command: &ChildCommand,
        number: u64,
        idle: Duration,
        on_idle: impl Fn() -> bool + Send + 'static,
    ) -> io::Result<Worker> {
        let mut process = Command::new(&command.program);
        // With one heap per thread, glibc reserves more address space than the process may have.
        process.arg(CHILD_ARGUMENT).env_clear().env("MALLOC_ARENA_MAX", "1").current_dir("/");
        if cfg!(windows) {
            process.envs(std::env::vars_os().filter(|(name, _)| name.eq_ignore_ascii_case("SystemRoot")));
        }
        process.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = process.spawn()?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (asked, receiver) = mpsc::channel();
        let worker = Worker { child, asked, number, has_served: false };
        let (input, output) = pipes.ok_or(io::ErrorKind::BrokenPipe)?;
        let (sender, ready) = mpsc::sync_channel(1);
        thread::Builder::new().name("template process".to_owned()).stack_size(STACK_BYTES).spawn(
            move || {
                let mut pipes = Pipes { input, output };
                let is_ready = pipes.greet();
                let goes_on = is_ready.is_ok();
                let _ = sender.send(is_ready);
                if goes_on {
                    pipes.serve(&receiver, idle, &on_idle);
                }
            },
        )?;
        match ready.recv_timeout(START) {
            Ok(is_ready) => is_ready.map(|()| worker),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// The process's id.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// True while its process runs.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// The reply to a request, of at most `most` bytes.
    ///
    /// # Errors
    /// There is none within `time`, or ever.
    pub fn ask(&mut self, frame: &Arc<Vec<u8>>, most: usize, time: Duration) -> Result<Vec<u8>, Failed> {
        let (reply, receiver) = mpsc::sync_channel(1);
        self.asked.send(Asked { frame: frame.clone(), most, reply }).map_err(|_| Failed::Died)?;
        match receiver.recv_timeout(time) {
            Ok(Ok(bytes)) => {
                self.has_served = true;
                Ok(bytes)
            }
            Ok(Err(_)) | Err(RecvTimeoutError::Disconnected) => Err(Failed::Died),
            Err(RecvTimeoutError::Timeout) => Err(Failed::Time),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Pipes {
    input: ChildStdin,
    output: ChildStdout,
}

impl Pipes {
    /// Waits until the process is under its limits.
    fn greet(&mut self) -> io::Result<()> {
        match wire::read_frame(&mut self.output, wire::READY.len())? {
            Some(said) if said == wire::READY => Ok(()),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "it is not a process that renders")),
        }
    }

    fn serve(&mut self, requests: &Receiver<Asked>, idle: Duration, on_idle: &dyn Fn() -> bool) {
        loop {
            match requests.recv_timeout(idle) {
                Ok(asked) => {
                    let reply = self.exchange(&asked);
                    let failed = reply.is_err();
                    // Nobody listens any more when the time is over.
                    let _ = asked.reply.send(reply);
                    if failed {
                        return;
                    }
                }
                Err(RecvTimeoutError::Timeout) if !on_idle() => {}
                Err(_) => return,
            }
        }
    }

    fn exchange(&mut self, asked: &Asked) -> io::Result<Vec<u8>> {
        wire::write_frame(&mut self.input, &[&asked.frame])?;
        wire::read_frame(&mut self.output, asked.most)?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}
