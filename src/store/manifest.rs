//! Manifests: which blobs a model is made of.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::digest::Digest;
use super::json::to_go_json;
use crate::diagnostic::{Diagnostic, Result};

/// The media types of a model's layers and of the files that describe it.
#[allow(missing_docs)]
pub mod media {
    pub const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// What OCI calls a manifest.
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// A list of manifests, as OCI calls it.
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// The same, as Docker calls it.
    pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    pub const CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    pub const MODEL: &str = "application/vnd.ollama.image.model";
    pub const ADAPTER: &str = "application/vnd.ollama.image.adapter";
    pub const PROJECTOR: &str = "application/vnd.ollama.image.projector";
    pub const DRAFT: &str = "application/vnd.ollama.image.draft";
    pub const TEMPLATE: &str = "application/vnd.ollama.image.template";
    /// What [`TEMPLATE`] was called before.
    pub const PROMPT: &str = "application/vnd.ollama.image.prompt";
    pub const SYSTEM: &str = "application/vnd.ollama.image.system";
    pub const LICENSE: &str = "application/vnd.ollama.image.license";
    /// A JSON object and a line feed.
    pub const PARAMS: &str = "application/vnd.ollama.image.params";
    /// A JSON array and a line feed.
    pub const MESSAGES: &str = "application/vnd.ollama.image.messages";
    /// One tensor, of a model that is no GGUF; the layer's name is the tensor's.
    pub const TENSOR: &str = "application/vnd.ollama.image.tensor";
    /// One of such a model's configuration files; the layer's name is its path.
    pub const JSON: &str = "application/vnd.ollama.image.json";
    /// Embeddings, of old: to be ignored.
    pub const EMBED: &str = "application/vnd.ollama.image.embed";
}

/// The most bytes that are read of a manifest, or of a configuration. A model with a layer for
/// each of 15,000 tensors fits.
pub const MANIFEST_LIMIT: u64 = 4 << 20;

/// A blob in its role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Layer {
    /// The role; see [`media`].
    pub media_type: String,
    /// The blob.
    pub digest: Digest,
    /// The blob's bytes.
    #[serde(deserialize_with = "size")]
    pub size: u64,
    /// The model that the layer was taken from, by its shortest name; empty if from none.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "null_as_default")]
    pub from: String,
    /// What the layer is called within the model; empty if it has no name.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "null_as_default")]
    pub name: String,
}

impl Layer {
    /// A layer of this blob.
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Layer {
        Layer { media_type: media_type.to_owned(), digest, size, from: String::new(), name: String::new() }
    }
}

/// A model: its configuration and its layers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    schema_version: u32,
    /// Left out by some, since whoever refers to it says it too.
    #[serde(default, deserialize_with = "null_as_default")]
    media_type: String,
    /// The blob of the [`ConfigV2`](super::ConfigV2). Some registries serve models without one.
    #[serde(with = "optional_layer", default)]
    pub config: Option<Layer>,
    /// The layers, in the order in which they are applied.
    #[serde(default, deserialize_with = "null_as_default")]
    pub layers: Vec<Layer>,
}

impl Manifest {
    /// A manifest of these blobs.
    pub fn new(config: Layer, layers: Vec<Layer>) -> Manifest {
        Manifest { schema_version: 2, media_type: media::MANIFEST.to_owned(), config: Some(config), layers }
    }

    /// Reads a manifest. Layers of other programs' media types get those of their roles.
    ///
    /// # Errors
    /// It is no JSON, lacks a field, has one of a wrong type, a size that is negative or over
    /// 2^63 - 1, an invalid digest, or another schema version than 2.
    pub fn parse(bytes: &[u8]) -> Result<Manifest> {
        let invalid =
            |why: String| Diagnostic::error(format!("invalid manifest: {why}")).code("invalid-manifest");
        if bytes.len() as u64 > MANIFEST_LIMIT {
            return Err(invalid(format!("it has more than {MANIFEST_LIMIT} bytes")).into());
        }
        let mut manifest: Manifest = serde_json::from_slice(bytes).map_err(|e| invalid(e.to_string()))?;
        if manifest.schema_version != 2 {
            return Err(invalid(format!("its schemaVersion is {}, not 2", manifest.schema_version)).into());
        }
        super::roles::assign(&mut manifest, bytes);
        Ok(manifest)
    }

    /// The bytes of the manifest's file. Their digest is the model's identity.
    ///
    /// # Errors
    /// None that the type allows.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        to_go_json(self)
    }

    /// Every blob that the model needs, the configuration first.
    pub fn blobs(&self) -> impl Iterator<Item = &Layer> {
        self.config.iter().chain(&self.layers)
    }

    /// What it says that it is. One that does not is OCI's: Docker's always say it.
    pub fn media_type(&self) -> &str {
        if self.media_type.is_empty() { media::OCI_MANIFEST } else { &self.media_type }
    }

    /// The first layer of this media type.
    pub fn layer(&self, media_type: &str) -> Option<&Layer> {
        self.layers.iter().find(|l| l.media_type == media_type)
    }

    /// The layers of this media type, in order.
    pub fn layers_of<'a>(&'a self, media_type: &'a str) -> impl Iterator<Item = &'a Layer> {
        self.layers.iter().filter(move |l| l.media_type == media_type)
    }

    /// The bytes of all blobs, as stated.
    pub fn size(&self) -> u64 {
        self.blobs().fold(0, |sum, l| sum.saturating_add(l.size))
    }
}

/// Sizes are Go's `int64`.
fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let size = i64::deserialize(deserializer)?;
    u64::try_from(size).map_err(|_| serde::de::Error::custom(format_args!("the size {size} is negative")))
}

/// Go writes `null` for a slice without elements that nobody made.
pub(super) fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// A layer that is not there is written as Go's zero value: all fields empty.
mod optional_layer {
    use super::*;

    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Raw {
        #[serde(default)]
        media_type: String,
        #[serde(default)]
        digest: String,
        #[serde(default, deserialize_with = "size")]
        size: u64,
        #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "null_as_default")]
        from: String,
        #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "null_as_default")]
        name: String,
    }

    pub fn serialize<S: Serializer>(layer: &Option<Layer>, serializer: S) -> Result<S::Ok, S::Error> {
        match layer {
            Some(layer) => layer.serialize(serializer),
            None => {
                let empty = String::new;
                Raw { media_type: empty(), digest: empty(), size: 0, from: empty(), name: empty() }
                    .serialize(serializer)
            }
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Layer>, D::Error> {
        let Some(Raw { media_type, digest, size, from, name }) = Option::deserialize(deserializer)? else {
            return Ok(None);
        };
        if digest.is_empty() {
            return Ok(None);
        }
        let digest = digest.parse().map_err(serde::de::Error::custom)?;
        Ok(Some(Layer { media_type, digest, size, from, name }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOLDEN: &[u8] = include_bytes!("../../testdata/store/manifest.json");

    #[test]
    fn a_manifest_has_the_bytes_that_ollama_writes() {
        let manifest = Manifest::parse(GOLDEN).unwrap();
        assert_eq!(manifest.to_bytes().unwrap(), GOLDEN);
        assert_eq!(manifest.layers.len(), 6);
        assert_eq!(manifest.layer(media::MODEL).unwrap().from, "me/base<&>:latest");
        assert_eq!(manifest.layers_of(media::LICENSE).count(), 2);
        assert_eq!(manifest.size(), 4_920_738_944 + 1481 + 12 + 7 + 1065 + 11_358 + 485);
        let blobs: Vec<Layer> = manifest.blobs().cloned().collect();
        assert_eq!(Manifest::new(blobs[0].clone(), blobs[1..].to_vec()), manifest);
    }

    #[test]
    fn what_other_versions_left_out_or_added_is_read() {
        let hex = "a".repeat(64);
        let layer =
            format!(r#"{{"mediaType":"m","digest":"sha256-{hex}","size":1,"annotations":{{"x":[1]}}}}"#);
        for (text, config, layers) in [
            (format!(r#"{{"schemaVersion":2,"mediaType":"m","config":{layer},"layers":null}}"#), true, 0),
            (
                format!(r#"{{"schemaVersion":2,"mediaType":"m","config":{layer},"layers":[{layer}]}}"#),
                true,
                1,
            ),
            (
                r#"{"schemaVersion":2,"mediaType":"m","config":{"mediaType":"","digest":"","size":0}}"#
                    .into(),
                false,
                0,
            ),
            (r#"{"schemaVersion":2,"mediaType":"m","config":null,"layers":[]}"#.into(), false, 0),
            (
                format!(r#" {{"layers":[{layer},{layer}],"x":{{}},"mediaType":"m","schemaVersion":2}} "#),
                false,
                2,
            ),
        ] {
            let manifest = Manifest::parse(text.as_bytes()).unwrap();
            assert_eq!((manifest.config.is_some(), manifest.layers.len()), (config, layers), "{text}");
            assert_eq!(Manifest::parse(&manifest.to_bytes().unwrap()).unwrap(), manifest);
        }
        let empty = Manifest { config: None, ..Manifest::parse(GOLDEN).unwrap() };
        let text = String::from_utf8(empty.to_bytes().unwrap()).unwrap();
        assert!(text.contains(r#""config":{"mediaType":"","digest":"","size":0},"layers""#), "{text}");
    }

    /// A field of a good manifest, and what to put in its place.
    #[test]
    fn hostile_manifests_are_refused() {
        let good = String::from_utf8(GOLDEN.to_vec()).unwrap();
        let long = format!("\"{}\"", "a".repeat(10_000));
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        for bad in [
            "-1",
            "-9223372036854775808",
            "9223372036854775808",
            "1e400",
            "1.5",
            "\"1\"",
            "null",
            "[]",
            &deep,
        ] {
            refused(&good.replacen("\"size\":485", &format!("\"size\":{bad}"), 1));
            refused(&good.replacen("\"size\":12", &format!("\"size\":{bad}"), 1));
        }
        let digest = good.find("sha256:").map(|i| &good[i - 1..i + 72]).unwrap();
        for bad in ["\"sha256:../../../../etc/passwd\"", "\"\\u0000\"", "\"..\"", "12", "{}", &long, &deep] {
            refused(&good.replacen(digest, bad, 1));
        }
        for bad in ["1", "3", "-2", "2.0", "\"2\"", "99999999999999999999", "null"] {
            refused(&good.replacen("\"schemaVersion\":2", &format!("\"schemaVersion\":{bad}"), 1));
        }
        for bad in ["{}", "3", "\"x\"", "[null]", "[[]]", "[{}]", &deep] {
            refused(&format!(r#"{{"schemaVersion":2,"mediaType":"m","layers":{bad}}}"#));
        }
        for bad in [
            "",
            " ",
            "{",
            "[]",
            "null",
            "2",
            "\u{feff}{}",
            "{}{}",
            "{}",
            "\0",
            &deep,
            &"{\"a\":".repeat(100_000),
        ] {
            refused(bad);
        }
        refused(&" ".repeat(MANIFEST_LIMIT as usize + 1));
        assert!(Manifest::parse(b"\xff\xfe{}").is_err());
    }

    fn refused(text: &str) {
        let error = Manifest::parse(text.as_bytes()).expect_err(&text[..text.len().min(300)]).to_string();
        assert!(error.starts_with("invalid manifest: "), "{error}");
        assert!(error.len() < 400, "{} bytes: {error:.400}", error.len());
    }

    #[test]
    fn every_truncation_is_refused() {
        // All but the line feed at the end is needed.
        for end in 0..GOLDEN.len() - 1 {
            assert!(Manifest::parse(&GOLDEN[..end]).is_err(), "{end}");
        }
        assert!(Manifest::parse(&GOLDEN[..GOLDEN.len() - 1]).is_ok());
    }

    fn any_layer() -> impl Strategy<Value = Layer> {
        ("\\PC{0,20}", any::<[u8; 32]>(), 0..=i64::MAX as u64, "\\PC{0,9}", "\\PC{0,9}").prop_map(
            |(media_type, digest, size, from, name)| Layer {
                media_type,
                digest: Digest::from_bytes(digest),
                size,
                from,
                name,
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(config in any_layer(), layers in prop::collection::vec(any_layer(), 0..5)) {
            let manifest = Manifest::new(config, layers);
            prop_assert_eq!(Manifest::parse(&manifest.to_bytes().unwrap()).unwrap(), manifest);
        }

        #[test]
        fn damage_never_panics(at in 0..GOLDEN.len(), byte in any::<u8>()) {
            let mut bytes = GOLDEN.to_vec();
            bytes[at] = byte;
            if let Ok(manifest) = Manifest::parse(&bytes) {
                prop_assert_eq!(Manifest::parse(&manifest.to_bytes().unwrap()).unwrap(), manifest);
            }
        }
    }
}
