//! Models as one file: a tar of an OCI image layout, for machines without a network.
//!
//! ```text
//! oci-layout                {"imageLayoutVersion": "1.0.0"}
//! index.json                which manifests, and what they are called
//! blobs/sha256/<64 hex>     manifests, configurations, layers; signatures and provenance
//! ```
//!
//! [`save`] writes one whose bytes depend on the models alone. [`load`] reads that, and what other programs write: nothing has a
//! name in the store before every digest and size is checked.

pub mod attached;
mod layout;
mod load;
mod save;
mod tar;

pub use load::{Loaded, Wanted, load};
pub use save::{Saved, save};
