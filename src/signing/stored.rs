//! Signatures of the store's models.
//!
//! A model's resources are its manifest and its blobs, under the names that they have in an OCI image layout
//! (`blobs/sha256/<hex>`). So a signature holds wherever the model goes by its digest: by `mdl save`, by a registry,
//! by another name.

use super::bundle;
use super::keys::{PrivateKey, PublicKey};
use super::statement::{Resource, Serialization, Statement, Unsigned};
use crate::diagnostic::{Diagnostic, Errors, Result};
use crate::store::{Digest, Store, Stored, Writer};

/// Files of a layout that say nothing of the model itself.
const OF_THE_LAYOUT: [&str; 2] = ["index.json", "oci-layout"];

/// A statement about a model of the store.
pub fn statement(model: &Stored) -> Statement {
    let ignored = OF_THE_LAYOUT.iter().map(|&name| name.to_owned()).collect();
    Statement::new(model.name.to_string(), Serialization::files(ignored), resources(model))
}

/// Signs a model and keeps the signature in the store; its bytes.
///
/// # Errors
/// The model's blobs are not those of their digests; the disk refuses.
pub fn sign(writer: &Writer, model: &Stored, key: &PrivateKey) -> Result<Vec<u8>> {
    intact(writer.store(), model)?;
    let bytes = bundle::seal(&statement(model), key)?;
    writer.add_signature(&model.id, &bytes)?;
    Ok(bytes)
}

/// Verifies that one of the store's signatures of this model is by `key`, and that the model is, to the last byte,
/// what was signed.
///
/// # Errors
/// There is no signature by this key; the model differs from what was signed.
pub fn verify(store: &Store, model: &Stored, key: &PublicKey) -> Result<()> {
    let signatures = store.signatures(&model.id)?;
    let mut why = Vec::new();
    for bytes in &signatures {
        match verify_with(store, model, key, bytes) {
            Ok(()) => return Ok(()),
            Err(Errors(errors)) => why.extend(errors.into_iter().filter(|d| d.code != "other-key")),
        }
    }
    if why.is_empty() {
        let others = match signatures.len() {
            0 => "it has no signature".to_owned(),
            n => format!("its signatures ({n}) are by other keys"),
        };
        why.push(
            Diagnostic::error(format!("`{}` is not signed with this key: {others}", model.name))
                .code("not-signed")
                .help(format!("sign it with `mdl sign --key KEY {}`, or get its signature", model.name)),
        );
    }
    Err(Errors(why))
}

/// Verifies a model against a signature that is at hand.
///
/// # Errors
/// The signature is not by this key; the model differs from what was signed.
pub fn verify_with(store: &Store, model: &Stored, key: &PublicKey, signature: &[u8]) -> Result<()> {
    covers(model, key, signature)?;
    intact(store, model)
}

/// Verifies that a signature is by `key` and of this manifest and its blobs, by their digests: whether the blobs have
/// these is for the caller to know.
///
/// # Errors
/// The signature is not by this key; the model differs from what was signed.
pub fn covers(model: &Stored, key: &PublicKey, signature: &[u8]) -> Result<()> {
    let signed = bundle::open(signature, key)?;
    let differences = signed.differences(&resources(model), Unsigned::Refused);
    if differences.is_empty() { Ok(()) } else { Err(Errors(differences)) }
}

/// The model's files in an OCI image layout.
fn resources(model: &Stored) -> Vec<Resource> {
    let mut digests: Vec<Digest> = model.manifest.blobs().map(|l| l.digest).chain([model.id]).collect();
    digests.sort_unstable();
    digests.dedup();
    digests
        .into_iter()
        .map(|digest| Resource { name: format!("blobs/sha256/{}", digest.hex()), digest })
        .collect()
}

/// Hashes every blob.
fn intact(store: &Store, model: &Stored) -> Result<()> {
    let report = store.verify(std::slice::from_ref(&model.name), &|_| {})?;
    if report.damage.is_empty() { Ok(()) } else { Err(Errors(report.damage)) }
}
