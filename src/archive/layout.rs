//! The files of an OCI image layout that are JSON.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::store::{Digest, media};

/// The file that says what this is.
pub const LAYOUT: &str = "oci-layout";
/// The file that lists the manifests.
pub const INDEX: &str = "index.json";
/// Where blobs are, by the digits of their digests.
pub const BLOBS: &str = "blobs/sha256/";

/// A list of manifests.
pub const MEDIA_INDEX: &str = media::OCI_INDEX;
/// The same, as Docker calls it.
pub const MEDIA_LIST: &str = media::DOCKER_INDEX;
/// A manifest, as OCI calls it.
pub const MEDIA_MANIFEST: &str = media::OCI_MANIFEST;

/// What a manifest is called, in the order in which one is looked for.
pub const NAMES: [&str; 2] = ["io.containerd.image.name", REF_NAME];
/// What OCI calls a manifest's name.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// The content of [`LAYOUT`].
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Layout {
    /// `1.0.0`.
    pub image_layout_version: String,
}

/// The content of [`INDEX`].
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// 2.
    pub schema_version: u32,
    /// [`MEDIA_INDEX`].
    #[serde(default)]
    pub media_type: String,
    /// The manifests.
    pub manifests: Vec<Descriptor>,
}

/// A blob that is referred to.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    #[serde(default)]
    pub media_type: String,
    /// Its bytes' digest.
    pub digest: Digest,
    /// How many bytes.
    pub size: u64,
    /// What else is said of it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Descriptor {
    /// The descriptor of these bytes.
    pub fn new(media_type: &str, bytes: &[u8]) -> Descriptor {
        Descriptor {
            media_type: media_type.to_owned(),
            digest: Digest::of(bytes),
            size: bytes.len() as u64,
            annotations: BTreeMap::new(),
        }
    }
}
