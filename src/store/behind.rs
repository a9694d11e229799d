//! Files that go to the disk while they are written.
//!
//! A build writes for seconds and then waits until the disk has it all. The system keeps what is written in memory
//! at first, so without this the disk would rest meanwhile and the wait would be for everything.

use std::fs::File;
use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

/// Bytes between one request to the disk and the next.
const STRIDE: u64 = 16 << 20;

/// Asks the disk, beside the writing, for what a file holds so far.
#[derive(Debug, Default)]
pub struct WriteBehind {
    /// Bytes since the last request.
    since: u64,
    worker: Option<Worker>,
}

#[derive(Debug)]
struct Worker {
    requests: SyncSender<()>,
    thread: JoinHandle<io::Result<()>>,
}

impl WriteBehind {
    /// Tells that `bytes` more were written to `file`, which is always the same.
    pub fn wrote(&mut self, file: &File, bytes: usize) {
        self.since = self.since.saturating_add(bytes as u64);
        if self.since < STRIDE {
            return;
        }
        self.since = 0;
        if self.worker.is_none() {
            self.worker = Worker::start(file);
        }
        // One request waits at most: it covers all that was written by then.
        if let Some(worker) = &self.worker {
            let _ = worker.requests.try_send(());
        }
    }

    /// Waits until `file` is on the disk. After a failure, be it one of an earlier request, its bytes must be
    /// taken as lost.
    ///
    /// # Errors
    /// The disk does not confirm.
    pub fn sync(&mut self, file: &File) -> io::Result<()> {
        // A failure is told once for all handles of a file, so it may have been told to the worker.
        self.stop()?;
        file.sync_all()
    }

    fn stop(&mut self) -> io::Result<()> {
        let Some(Worker { requests, thread }) = self.worker.take() else { return Ok(()) };
        drop(requests);
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread that writes to the disk panicked")))
    }
}

impl Worker {
    /// Nothing, where the system has no handle or thread to spare: then all is written in the end.
    fn start(file: &File) -> Option<Worker> {
        let file = file.try_clone().ok()?;
        let (requests, asked) = sync_channel(1);
        let work = move || asked.iter().try_for_each(|()| file.sync_data());
        let thread = std::thread::Builder::new().name("write-behind".to_owned()).spawn(work).ok()?;
        Some(Worker { requests, thread })
    }
}

/// A file may be removed once this is gone.
impl Drop for WriteBehind {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_file_is_on_the_disk_when_the_wait_is_over() {
        let mut file = tempfile::tempfile().unwrap();
        let mut behind = WriteBehind::default();
        let piece = vec![7; 1 << 20];
        for _ in 0..40 {
            file.write_all(&piece).unwrap();
            behind.wrote(&file, piece.len());
        }
        assert!(behind.worker.is_some());
        behind.sync(&file).unwrap();
        assert!(behind.worker.is_none());
        assert_eq!(file.metadata().unwrap().len(), 40 << 20);
    }

    #[test]
    fn a_small_file_needs_no_thread() {
        let file = tempfile::tempfile().unwrap();
        let mut behind = WriteBehind::default();
        behind.wrote(&file, (STRIDE - 1) as usize);
        assert!(behind.worker.is_none());
        behind.sync(&file).unwrap();
    }

    /// What a disk refuses is told by the wait, though the worker was told first.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_failure_beside_the_writing_is_not_lost() {
        // A device knows no `fdatasync`.
        let file = File::options().write(true).open("/dev/full").unwrap();
        let mut behind = WriteBehind::default();
        behind.wrote(&file, STRIDE as usize);
        let told = behind.stop();
        assert!(told.is_err());
    }
}
