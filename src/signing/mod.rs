//! Signatures of models, in the format of OpenSSF Model Signing 1.0
//! (<https://github.com/ossf/model-signing-spec>): who made this, and is it still what was made?
//!
//! A signature is a Sigstore bundle ([`bundle`]) around a DSSE envelope around an in-toto statement
//! ([`statement`]) that names every file and its digest. Keys are ECDSA's (P-256, P-384, P-521) or ed25519
//! ([`keys`]); nothing is looked up anywhere. Files and directories are signed as they lie ([`files`]);
//! a model of the store as the blobs of an OCI image layout ([`stored`]), so that what `mdl save` wrote can be
//! unpacked and verified by any program that knows the format.

pub mod bundle;
pub mod files;
pub mod keys;
pub mod statement;
pub mod stored;

pub use bundle::{open, seal};
pub use keys::{PrivateKey, PublicKey};
pub use statement::{Resource, Serialization, Statement};
