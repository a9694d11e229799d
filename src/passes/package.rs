//! `package`: what a model is besides its weights, as the store keeps it.
//!
//! [`pack`] makes the small layers and the configuration, byte for byte as Ollama writes them;
//! [`unpack`] reads them back.

use crate::diagnostic::{Diagnostic, Result};
use crate::ir::{Message, Metadata, Module, ParameterValue, Prompt, Role};
use crate::modelfile::parameters;
use crate::store::{ConfigV2, Store, Stored, media, to_go_json};

use super::quantize::mixture;

/// A layer that is not weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextLayer {
    /// One of `store::media`.
    pub media_type: &'static str,
    /// What it says.
    pub bytes: Vec<u8>,
}

/// What a model is besides its weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Package {
    /// The layers that follow the weights, in order.
    pub layers: Vec<TextLayer>,
    /// The configuration.
    pub config: ConfigV2,
}

/// Runs the pass.
///
/// # Errors
/// A value cannot be written as JSON.
pub fn pack(module: &Module) -> Result<Package> {
    let prompt = &module.prompt;
    let mut layers = Vec::new();
    let mut push = |media_type, bytes: Vec<u8>| layers.push(TextLayer { media_type, bytes });
    if let Some(template) = prompt.template.as_deref().filter(|t| !t.is_empty()) {
        push(media::TEMPLATE, template.into());
    }
    if let Some(system) = prompt.system.as_deref().filter(|s| !s.is_empty()) {
        push(media::SYSTEM, system.into());
    }
    for license in &prompt.licenses {
        push(media::LICENSE, license.as_str().into());
    }
    if !prompt.parameters.is_empty() {
        push(media::PARAMS, parameters_json(&prompt.parameters)?);
    }
    if !prompt.messages.is_empty() {
        push(media::MESSAGES, messages_json(&prompt.messages)?);
    }
    Ok(Package { layers, config: config(module) })
}

fn config(module: &Module) -> ConfigV2 {
    let architecture = module.architecture().unwrap_or("").to_owned();
    let prompt = &module.prompt;
    ConfigV2 {
        model_format: "gguf".to_owned(),
        model_families: vec![architecture.clone()],
        model_family: architecture,
        model_type: human_number(module.parameter_count()),
        file_type: file_type(&module.metadata),
        renderer: prompt.renderer.clone().unwrap_or_default(),
        parser: prompt.parser.clone().unwrap_or_default(),
        requires: prompt.requires.clone().unwrap_or_default(),
        ..ConfigV2::default()
    }
}

/// The name of `general.file_type`: `Q4_K_M`, or `unknown`.
pub fn file_type(metadata: &Metadata) -> String {
    let number = metadata.u64("general.file_type");
    let preset = number.and_then(mixture::by_file_type);
    preset.map_or_else(|| "unknown".to_owned(), |p| p.name.to_uppercase())
}

/// A number of parameters as a model's size is called: `8.0B`, `134.52M`, `12K`.
pub fn human_number(n: u64) -> String {
    let (value, whole) = (n as f64, |unit: u64| n.is_multiple_of(unit));
    match n {
        1_000_000_000.. if whole(1_000_000_000) => format!("{:.0}B", value / 1e9),
        1_000_000_000.. => format!("{:.1}B", value / 1e9),
        1_000_000.. if whole(1_000_000) => format!("{:.0}M", value / 1e6),
        1_000_000.. => format!("{:.2}M", value / 1e6),
        1_000.. => format!("{:.0}K", value / 1e3),
        _ => n.to_string(),
    }
}

/// Parameters as Go writes a map: keys in order, whole floats without a point.
fn parameters_json(parameters: &[(String, ParameterValue)]) -> Result<Vec<u8>> {
    let mut sorted: Vec<_> = parameters.iter().collect();
    sorted.sort_by(|a, b| a.0.cmp(&b.0));
    let mut out = b"{".to_vec();
    for (i, (name, value)) in sorted.into_iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        out.extend(line(to_go_json(name)?));
        out.push(b':');
        out.extend(match value {
            ParameterValue::Int(v) => v.to_string().into_bytes(),
            ParameterValue::Float(v) => float_json(*v).into_bytes(),
            ParameterValue::Bool(v) => v.to_string().into_bytes(),
            ParameterValue::String(v) => line(to_go_json(v)?),
            ParameterValue::Strings(v) => line(to_go_json(v)?),
        });
    }
    out.extend(b"}\n");
    Ok(out)
}

/// A float32 as Go's `encoding/json` writes one: the fewest digits that read back as it, with an exponent
/// below 1e-6 and from 1e21 on.
fn float_json(v: f32) -> String {
    let size = v.abs();
    match size != 0.0 && !(1e-6..1e21).contains(&size) {
        // Rust writes no plus sign, Go does.
        true => format!("{v:e}").replace('e', "e+").replace("e+-", "e-"),
        false => v.to_string(),
    }
}

/// JSON without the line feed at its end.
fn line(mut json: Vec<u8>) -> Vec<u8> {
    if json.last() == Some(&b'\n') {
        json.pop();
    }
    json
}

fn messages_json(messages: &[Message]) -> Result<Vec<u8>> {
    #[derive(serde::Serialize)]
    struct Written<'a> {
        role: &'a str,
        content: &'a str,
    }
    let written: Vec<Written<'_>> =
        messages.iter().map(|m| Written { role: m.role.name(), content: &m.content }).collect();
    to_go_json(&written)
}

/// The most bytes that a layer of text may have.
const TEXT_LIMIT: u64 = 16 << 20;

/// The prompt of a model in the store.
///
/// # Errors
/// A layer is missing or damaged.
pub fn read(store: &Store, model: &Stored) -> Result<Prompt> {
    let mut layers = Vec::new();
    for layer in model.manifest.layers.iter().filter(|l| is_text(&l.media_type)) {
        layers.push((layer.media_type.clone(), store.read_layer(&model.name, layer, TEXT_LIMIT)?));
    }
    unpack(&layers, &store.config(model)?)
}

/// True for a layer that is read into a prompt.
pub fn is_text(media_type: &str) -> bool {
    [media::TEMPLATE, media::PROMPT, media::SYSTEM, media::LICENSE, media::PARAMS, media::MESSAGES]
        .contains(&media_type)
}

/// Reads layers back into a prompt. `layers` gives media types and bytes in the manifest's order.
///
/// # Errors
/// A layer is no UTF-8 or no JSON of its kind.
pub fn unpack(layers: &[(String, Vec<u8>)], config: &ConfigV2) -> Result<Prompt> {
    let some = |s: &str| (!s.is_empty()).then(|| s.to_owned());
    let mut prompt = Prompt {
        renderer: some(&config.renderer),
        parser: some(&config.parser),
        requires: some(&config.requires),
        ..Prompt::default()
    };
    for (media_type, bytes) in layers {
        match media_type.as_str() {
            media::TEMPLATE | media::PROMPT => prompt.template = Some(text(media_type, bytes)?),
            media::SYSTEM => prompt.system = Some(text(media_type, bytes)?),
            media::LICENSE => prompt.licenses.push(text(media_type, bytes)?),
            media::PARAMS => prompt.parameters = read_parameters(bytes)?,
            media::MESSAGES => prompt.messages = read_messages(bytes)?,
            _ => {}
        }
    }
    Ok(prompt)
}

fn damaged(media_type: &str, why: impl std::fmt::Display) -> Diagnostic {
    let kind = media_type.rsplit('.').next().unwrap_or(media_type);
    Diagnostic::error(format!("the model's {kind} layer is damaged: {why}"))
        .code("damaged-layer")
        .help("run `mdl verify`, and build or pull the model again")
}

fn text(media_type: &str, bytes: &[u8]) -> Result<String> {
    String::from_utf8(bytes.to_vec()).map_err(|e| damaged(media_type, e).into())
}

fn read_parameters(bytes: &[u8]) -> Result<Vec<(String, ParameterValue)>> {
    let object: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(bytes).map_err(|e| damaged(media::PARAMS, e))?;
    let mut read = Vec::new();
    for (name, value) in object {
        // A name that this version does not know says nothing that it could obey.
        let Some(parameter) = parameters::find(&name) else { continue };
        let texts: Vec<String> = match &value {
            serde_json::Value::Null => continue,
            serde_json::Value::Array(items) => {
                items.iter().filter_map(|i| i.as_str().map(str::to_owned)).collect()
            }
            serde_json::Value::String(s) => vec![s.clone()],
            other => vec![other.to_string()],
        };
        let mut all = Vec::new();
        for text in texts {
            let value =
                parameter.parse(&text).map_err(|e| damaged(media::PARAMS, format!("`{name}`: {e}")))?;
            all.push(value);
        }
        read.extend(joined(all).map(|v| (name, v)));
    }
    Ok(read)
}

/// Several values of one name: lists are put together, of anything else the last counts.
fn joined(values: Vec<ParameterValue>) -> Option<ParameterValue> {
    values.into_iter().reduce(|before, next| match (before, next) {
        (ParameterValue::Strings(mut all), ParameterValue::Strings(more)) => {
            all.extend(more);
            ParameterValue::Strings(all)
        }
        (_, last) => last,
    })
}

fn read_messages(bytes: &[u8]) -> Result<Vec<Message>> {
    #[derive(serde::Deserialize)]
    struct Stored {
        role: String,
        #[serde(default)]
        content: String,
    }
    let stored: Vec<Stored> = serde_json::from_slice(bytes).map_err(|e| damaged(media::MESSAGES, e))?;
    let mut messages = Vec::with_capacity(stored.len());
    for m in stored {
        let role = Role::from_name(&m.role)
            .ok_or_else(|| damaged(media::MESSAGES, format!("`{}` is no role", m.role)))?;
        messages.push(Message { role, content: m.content });
    }
    Ok(messages)
}

/// `over` where it says something, `base` elsewhere: how a Modelfile changes the model it is FROM.
/// Licenses add up; parameters are replaced one by one; messages as a whole.
pub fn overlay(base: Prompt, over: Prompt) -> Prompt {
    let mut parameters = base.parameters;
    for (name, value) in over.parameters {
        match parameters.iter_mut().find(|(n, _)| *n == name) {
            Some(entry) => entry.1 = value,
            None => parameters.push((name, value)),
        }
    }
    let mut licenses = base.licenses;
    licenses.extend(over.licenses);
    Prompt {
        template: over.template.or(base.template),
        system: over.system.or(base.system),
        messages: if over.messages.is_empty() { base.messages } else { over.messages },
        parameters,
        licenses,
        renderer: over.renderer.or(base.renderer),
        parser: over.parser.or(base.parser),
        requires: over.requires.or(base.requires),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_called_as_models_are() {
        assert_eq!(human_number(8_000_000_000), "8B");
        assert_eq!(human_number(8_030_261_312), "8.0B");
        assert_eq!(human_number(134_515_008), "134.52M");
        assert_eq!(human_number(12_345), "12K");
        assert_eq!(human_number(999), "999");
    }

    #[test]
    fn floats_are_written_as_go_writes_them() {
        for (value, text) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (0.7, "0.7"),
            (0.1, "0.1"),
            (1e-6, "0.000001"),
            (9.99e-7, "9.99e-7"),
            (1e-7, "1e-7"),
            (-2.5e-10, "-2.5e-10"),
            (f32::from_bits(1), "1e-45"),
            (1e20, "100000000000000000000"),
            (1e21, "1e+21"),
            (3.402_823_5e38, "3.4028235e+38"),
            (16_777_216.0, "16777216"),
        ] {
            assert_eq!(float_json(value), text);
        }
    }

    #[test]
    fn what_is_packed_is_unpacked() {
        let prompt = Prompt {
            template: Some("{{ .Prompt }}".into()),
            system: Some("Be <brief> & kind".into()),
            messages: vec![Message { role: Role::User, content: "hi <b>".into() }],
            parameters: vec![
                ("temperature".into(), ParameterValue::Float(0.7)),
                ("stop".into(), ParameterValue::Strings(vec!["</s>".into(), "x".into()])),
                ("seed".into(), ParameterValue::Int(7)),
                ("top_p".into(), ParameterValue::Float(1.0)),
            ],
            licenses: vec!["MIT".into(), "CC0".into()],
            ..Prompt::default()
        };
        let module = Module { prompt: prompt.clone(), ..Module::default() };
        let package = pack(&module).unwrap();
        let params = package.layers.iter().find(|l| l.media_type == media::PARAMS).unwrap();
        assert_eq!(
            std::str::from_utf8(&params.bytes).unwrap(),
            "{\"seed\":7,\"stop\":[\"\\u003c/s\\u003e\",\"x\"],\"temperature\":0.7,\"top_p\":1}\n"
        );
        let layers: Vec<_> =
            package.layers.iter().map(|l| (l.media_type.to_owned(), l.bytes.clone())).collect();
        let mut back = unpack(&layers, &package.config).unwrap();
        back.parameters.sort_by(|a, b| a.0.cmp(&b.0));
        let mut sorted = prompt;
        sorted.parameters.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(back, sorted);
    }

    #[test]
    fn a_modelfile_changes_what_it_names() {
        let base = Prompt {
            system: Some("base".into()),
            parameters: vec![("seed".into(), ParameterValue::Int(1))],
            licenses: vec!["MIT".into()],
            ..Prompt::default()
        };
        let over = Prompt {
            parameters: vec![("seed".into(), ParameterValue::Int(2))],
            licenses: vec!["CC0".into()],
            ..Prompt::default()
        };
        let both = overlay(base, over);
        assert_eq!(both.system.as_deref(), Some("base"));
        assert_eq!(both.parameter("seed"), Some(&ParameterValue::Int(2)));
        assert_eq!(both.licenses, ["MIT", "CC0"]);
    }
}
