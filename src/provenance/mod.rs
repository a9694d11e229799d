//! What a build was made of: recorded while it reads, identified by digests, locked, and stated for others.
//!
//! [`Recording`] is a [`World`](crate::world::World) that remembers what was opened; [`identify`] gives each file to the line of the
//! Modelfile that led to it, with its digest and the licences beside it; [`Lock`] is that as a file which a later build is held to; [`statement()`] and [`bom()`] say it in the words of SLSA and CycloneDX.

mod bom;
mod licenses;
mod lock;
mod recording;
mod sources;
mod statement;

pub use bom::bom;
pub use licenses::License;
pub use lock::{FORMAT, Lock, instructions, options_that_change_bytes};
pub use recording::Recording;
pub use sources::{FileState, Named, Role, Source, identify};
pub use statement::{Build, LOCAL, statement};

use jiff::Timestamp;

/// A time in seconds since 1970, as both standards write it; `None` if it is beyond the calendar.
fn timestamp(seconds: i64) -> Option<String> {
    Timestamp::from_second(seconds).ok().map(|t| t.to_string())
}
