//! A model's configuration: what lists and servers say of it without reading its weights.

use serde::{Deserialize, Serialize, Serializer};

use super::json::to_go_json;
use super::manifest::null_as_default;
use crate::diagnostic::{Diagnostic, Result};

/// The configuration blob of a model. Fields that were not there are empty or zero; fields of
/// other versions are ignored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConfigV2 {
    /// `gguf` or `safetensors`.
    #[serde(deserialize_with = "null_as_default")]
    pub model_format: String,
    /// The GGUF's `general.architecture`.
    #[serde(deserialize_with = "null_as_default")]
    pub model_family: String,
    /// The architectures of the model and its projectors.
    #[serde(serialize_with = "empty_as_null", deserialize_with = "null_as_default")]
    pub model_families: Vec<String>,
    /// The number of parameters for people, such as `8.0B`.
    #[serde(deserialize_with = "null_as_default")]
    pub model_type: String,
    /// The file type, such as `Q4_K_M`.
    #[serde(deserialize_with = "null_as_default")]
    pub file_type: String,
    /// RENDERER: a built-in prompt renderer.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_as_default")]
    pub renderer: String,
    /// PARSER: a built-in output parser.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_as_default")]
    pub parser: String,
    /// REQUIRES: the least version that can run the model.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_as_default")]
    pub requires: String,
    /// The server that runs the model, if it is not run here.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_as_default")]
    pub remote_host: String,
    /// The model's name there.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_as_default")]
    pub remote_model: String,
    /// What the model can do, such as `tools`.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub capabilities: Vec<String>,
    /// Tokens that the model was trained to see.
    #[serde(skip_serializing_if = "zero", deserialize_with = "null_as_default")]
    pub context_length: i64,
    /// Elements of an embedding.
    #[serde(skip_serializing_if = "zero", deserialize_with = "null_as_default")]
    pub embedding_length: i64,
    /// The model this one was made from.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_as_default")]
    pub base_name: String,
    /// The draft model (`model_format`, `architecture`, `tensor_prefix`, `config`), kept as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub draft: Option<serde_json::Value>,
    /// `amd64`; the container image format asks for it.
    #[serde(deserialize_with = "null_as_default")]
    pub architecture: String,
    /// `linux`; the container image format asks for it.
    #[serde(deserialize_with = "null_as_default")]
    pub os: String,
}

impl Default for ConfigV2 {
    fn default() -> Self {
        ConfigV2 {
            model_format: String::new(),
            model_family: String::new(),
            model_families: Vec::new(),
            model_type: String::new(),
            file_type: String::new(),
            renderer: String::new(),
            parser: String::new(),
            requires: String::new(),
            remote_host: String::new(),
            remote_model: String::new(),
            capabilities: Vec::new(),
            context_length: 0,
            embedding_length: 0,
            base_name: String::new(),
            draft: None,
            architecture: "amd64".to_owned(),
            os: "linux".to_owned(),
        }
    }
}

impl ConfigV2 {
    /// Reads a configuration.
    ///
    /// # Errors
    /// It is no JSON object, or a field has a wrong type.
    pub fn parse(bytes: &[u8]) -> Result<ConfigV2> {
        // Serde would take an array for the fields in their order.
        let object = bytes.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'{');
        let why = match serde_json::from_slice(bytes) {
            Ok(config) if object => return Ok(of_modelpack(bytes).unwrap_or(config)),
            Ok(_) => "it is not an object".to_owned(),
            Err(e) => e.to_string(),
        };
        Err(Diagnostic::error(format!("invalid model configuration: {why}")).code("invalid-config").into())
    }

    /// The bytes of the configuration's blob.
    ///
    /// # Errors
    /// None that the type allows.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        to_go_json(self)
    }
}

/// A configuration of the CNCF model specification, as far as it says the same; `None` where it is none.
fn of_modelpack(bytes: &[u8]) -> Option<ConfigV2> {
    let json: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    json.get("modelfs")?;
    let text = |part: &str, name: &str| {
        json.get(part).and_then(|p| p.get(name)?.as_str()).unwrap_or_default().to_owned()
    };
    Some(ConfigV2 {
        model_format: text("config", "format"),
        model_family: text("descriptor", "family"),
        model_type: text("config", "paramSize"),
        file_type: text("config", "quantization"),
        ..ConfigV2::default()
    })
}

fn zero(number: &i64) -> bool {
    *number == 0
}

/// Go writes `null` for a slice that nobody made.
fn empty_as_null<S: Serializer>(list: &[String], serializer: S) -> Result<S::Ok, S::Error> {
    if list.is_empty() { serializer.serialize_none() } else { serializer.collect_seq(list) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOLDEN: &[u8] = include_bytes!("../../testdata/store/config.json");
    const FULL: &[u8] = include_bytes!("../../testdata/store/config-full.json");
    const OLD: &[u8] = include_bytes!("../../testdata/store/config-rootfs.json");

    #[test]
    fn a_configuration_has_the_bytes_that_ollama_writes() {
        for golden in [GOLDEN, FULL] {
            assert_eq!(ConfigV2::parse(golden).unwrap().to_bytes().unwrap(), golden);
        }
        let config = ConfigV2::parse(GOLDEN).unwrap();
        assert_eq!((config.model_type.as_str(), config.file_type.as_str()), ("8.0B", "Q4_K_M"));
        let empty = String::from_utf8(ConfigV2::default().to_bytes().unwrap()).unwrap();
        assert_eq!(
            empty,
            "{\"model_format\":\"\",\"model_family\":\"\",\"model_families\":null,\"model_type\":\"\",\
             \"file_type\":\"\",\"architecture\":\"amd64\",\"os\":\"linux\"}\n"
        );
    }

    #[test]
    fn an_older_configuration_is_read() {
        let config = ConfigV2::parse(OLD).unwrap();
        assert_eq!(config.model_family, "llama");
        assert!(config.model_families.is_empty());
    }

    #[test]
    fn hostile_configurations_are_refused() {
        let deep = format!("{{\"draft\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        for bad in [
            "",
            "[]",
            "null",
            "1",
            "{",
            "{\"os\":1}",
            "{\"model_families\":\"llama\"}",
            "{\"model_families\":[1]}",
            "{\"context_length\":\"8k\"}",
            "{\"context_length\":1e30}",
            "{\"context_length\":9223372036854775808}",
            "{\"os\":\"a\",\"os\":\"b\"}",
            &deep,
        ] {
            let error = ConfigV2::parse(bad.as_bytes()).expect_err(&bad[..bad.len().min(60)]).to_string();
            assert!(error.starts_with("invalid model configuration: ") && error.len() < 300, "{error}");
        }
    }

    proptest! {
        #[test]
        fn damage_never_panics(at in 0..FULL.len(), byte in any::<u8>()) {
            let mut bytes = FULL.to_vec();
            bytes[at] = byte;
            if let Ok(config) = ConfigV2::parse(&bytes) {
                // `1.0` is written as `1`, as Go does, and is another number to serde.
                let written = config.to_bytes().unwrap();
                prop_assert_eq!(ConfigV2::parse(&written).unwrap().to_bytes().unwrap(), written);
            }
        }
    }
}
