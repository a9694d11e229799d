//! The layers of manifests that other programs wrote, in the roles that they have here.
//!
//! Ollama's media types say what a layer is. Others say less: the CNCF model specification that it is weights,
//! configuration or a document, and a file's path says the rest.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::manifest::{Manifest, media};

/// The media types of the CNCF model specification, as far as models here have a use for them.
#[allow(missing_docs)]
pub mod modelpack {
    pub const MANIFEST: &str = "application/vnd.cncf.model.manifest.v1+json";
    pub const CONFIG: &str = "application/vnd.cncf.model.config.v1+json";
    pub const WEIGHT: &str = "application/vnd.cncf.model.weight.v1.raw";
    pub const WEIGHT_CONFIG: &str = "application/vnd.cncf.model.weight.config.v1.raw";
    pub const DOC: &str = "application/vnd.cncf.model.doc.v1.raw";
    /// The annotation that says which file a layer is.
    pub const FILE: &str = "org.cncf.model.filepath";
}

/// Which file a layer is, for readers that know nothing of its media type.
pub const TITLE: &str = "org.opencontainers.image.title";

/// A role, its layer's file, and what the CNCF specification calls it.
const FILES: &[(&str, &str, &str)] = &[
    (media::MODEL, "model.gguf", modelpack::WEIGHT),
    (media::ADAPTER, "adapter.gguf", modelpack::WEIGHT),
    (media::PROJECTOR, "mmproj.gguf", modelpack::WEIGHT),
    (media::DRAFT, "draft.gguf", modelpack::WEIGHT),
    (media::TEMPLATE, "template", modelpack::WEIGHT_CONFIG),
    (media::PROMPT, "template", modelpack::WEIGHT_CONFIG),
    (media::SYSTEM, "system", modelpack::WEIGHT_CONFIG),
    (media::PARAMS, "params.json", modelpack::WEIGHT_CONFIG),
    (media::MESSAGES, "messages.json", modelpack::WEIGHT_CONFIG),
    (media::LICENSE, "LICENSE", modelpack::DOC),
];

/// The file and the CNCF media type of a layer in this role; `number` counts those of the role from 0.
pub fn file_of(media_type: &str, number: usize) -> Option<(String, &'static str)> {
    let (_, file, kind) = FILES.iter().find(|(role, _, _)| *role == media_type)?;
    let name = match (number, file.rsplit_once('.')) {
        (0, _) => (*file).to_owned(),
        (n, Some((stem, extension))) => format!("{stem}-{}.{extension}", n + 1),
        (n, None) => format!("{file}-{}", n + 1),
    };
    Some((name, kind))
}

/// Media types that are a role by themselves.
const WHOLE: &[(&str, &str)] = &[
    ("application/vnd.docker.ai.gguf.v3", media::MODEL),
    ("application/vnd.docker.ai.license", media::LICENSE),
];

#[derive(Deserialize)]
struct Annotated {
    #[serde(default)]
    layers: Option<Vec<AnnotatedLayer>>,
}

#[derive(Deserialize)]
struct AnnotatedLayer {
    #[serde(default)]
    annotations: Option<BTreeMap<String, serde_json::Value>>,
}

/// Gives the layers of `manifest`, which these bytes are, the media types of their roles.
pub(super) fn assign(manifest: &mut Manifest, bytes: &[u8]) {
    for layer in &mut manifest.layers {
        if let Some((_, role)) = WHOLE.iter().find(|(foreign, _)| *foreign == layer.media_type) {
            (*role).clone_into(&mut layer.media_type);
        }
    }
    if !manifest.layers.iter().any(|l| l.media_type.starts_with("application/vnd.cncf.model.")) {
        return;
    }
    let annotated =
        serde_json::from_slice::<Annotated>(bytes).ok().and_then(|a| a.layers).unwrap_or_default();
    for (layer, AnnotatedLayer { annotations }) in manifest.layers.iter_mut().zip(annotated) {
        let annotations = annotations.unwrap_or_default();
        let text = |name: &str| annotations.get(name)?.as_str();
        let path = text(modelpack::FILE).or_else(|| text(TITLE)).unwrap_or_default();
        if let Some(role) = role_of(&layer.media_type, path) {
            role.clone_into(&mut layer.media_type);
        }
    }
}

/// The role of a file of the CNCF specification; `None` for one that has none here.
fn role_of(media_type: &str, path: &str) -> Option<&'static str> {
    let file = path.rsplit('/').next().unwrap_or_default();
    // `adapter-2.gguf` is the second adapter.
    let is = |name: &str| {
        let stem = |text: &str| text.rsplit_once('.').map_or(text, |(stem, _)| stem).to_ascii_lowercase();
        let (file, name) = (stem(file), stem(name));
        file == name || file.strip_prefix(&name).is_some_and(|rest| rest.starts_with('-'))
    };
    let weights = |name: &str| name.to_ascii_lowercase().ends_with(".gguf");
    let fits = |name: &str| is(name) && weights(name) == weights(file);
    let known = FILES.iter().find(|(_, name, kind)| *kind == media_type && fits(name));
    match known {
        Some((role, _, _)) => Some(role),
        None if media_type == modelpack::WEIGHT && weights(file) => {
            Some(if file.starts_with("mmproj") { media::PROJECTOR } else { media::MODEL })
        }
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_read_back_in_its_role() {
        for (role, _, _) in FILES.iter().filter(|(role, _, _)| *role != media::PROMPT) {
            for number in [0, 1, 9] {
                let (file, kind) = file_of(role, number).unwrap();
                assert_eq!(role_of(kind, &file), Some(*role), "{file}");
            }
        }
        assert_eq!(role_of(modelpack::WEIGHT, "a/Llama-3-Q4_K_M.gguf"), Some(media::MODEL));
        assert_eq!(role_of(modelpack::WEIGHT, "model.safetensors"), None);
        assert_eq!(role_of(modelpack::WEIGHT, "x.safetensors"), None);
        assert_eq!(role_of(modelpack::DOC, "README.md"), None);
        assert_eq!(role_of(modelpack::DOC, "LICENSE.txt"), Some(media::LICENSE));
        assert_eq!(file_of("text/plain", 0), None);
    }

    #[test]
    fn a_foreign_manifest_has_roles() {
        let hex = "a".repeat(64);
        let layer = |kind: &str, path: &str| {
            format!(
                r#"{{"mediaType":"{kind}","digest":"sha256:{hex}","size":1,"annotations":{{"org.cncf.model.filepath":"{path}"}}}}"#
            )
        };
        let layers = [
            layer(modelpack::WEIGHT, "m/x.gguf"),
            layer(modelpack::DOC, "README.md"),
            layer(modelpack::WEIGHT_CONFIG, "system"),
        ];
        let text = format!(r#"{{"schemaVersion":2,"layers":[{}]}}"#, layers.join(","));
        let manifest = Manifest::parse(text.as_bytes()).unwrap();
        let kinds: Vec<&str> = manifest.layers.iter().map(|l| l.media_type.as_str()).collect();
        assert_eq!(kinds, [media::MODEL, modelpack::DOC, media::SYSTEM]);
    }
}
