//! What a build was made of: recorded while it reads, identified by digests, locked, and stated for others.
//!
//! [`Recording`] is a [`World`](crate::world::World) that remembers what was opened; [`identify`] gives each file to the line of the
//! Modelfile that led to it, with its digest; [`Lock`] is that as a file which a later build is held to.

mod lock;
mod recording;
mod sources;

pub use lock::{FORMAT, Lock};
pub use recording::Recording;
pub use sources::{FileState, Named, Role, Source, identify};
