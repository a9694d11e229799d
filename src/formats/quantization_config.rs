//! `quantization_config` of a checkpoint: whether its weights are read, and how.
//!
//! Read are the formats whose values are exact products of a stored number and a scale: FP8 and
//! MXFP4. A checkpoint in any other format was rounded once already, for another program's kernels;
//! it is refused, with what to take instead.

use std::path::Path;

use super::hf_config::Config;
use super::quote::quoted;
use crate::diagnostic::{Diagnostic, Result};

/// How a checkpoint stores the weights that it has quantized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantization {
    /// As numbers.
    None,
    /// As FP8 with scales beside it: one for each block of so many rows and columns, or, where no
    /// block is given, one for each matrix or row.
    Fp8 {
        /// Rows and columns.
        block: Option<[u64; 2]>,
    },
    /// Some of them as MXFP4, in blocks with scales beside them.
    Mxfp4,
}

/// Keys of `config.json` that this reader answers for.
pub const KEYS: &[&str] = &["quantization_config", "compression_config", "quantization"];

/// Methods that are refused: `quant_method`, and what it is.
const REFUSED: &[(&str, &str)] = &[
    ("aqlm", "AQLM, sums of codebooks"),
    ("auto-round", "AutoRound, integers of 2 to 8 bits"),
    ("awq", "AWQ, integers of 4 bits"),
    ("bitnet", "BitNet, packed ternary weights"),
    ("bitsandbytes", "bitsandbytes, NF4 or integers of 8 bits"),
    ("eetq", "EETQ, integers of 8 bits"),
    ("exl2", "EXL2, integers of mixed widths"),
    ("exl3", "EXL3, trellis codes"),
    ("fp_quant", "FP-Quant, FP4 of rotated weights"),
    ("gptq", "GPTQ, integers of 2 to 8 bits"),
    ("higgs", "HIGGS, codebooks"),
    ("hqq", "HQQ, integers of 1 to 8 bits"),
    ("quanto", "Quanto, integers of 2 to 8 bits"),
    ("quark", "Quark"),
    ("spqr", "SpQR, sparse integers"),
    ("torchao", "torchao"),
    ("vptq", "VPTQ, codebooks"),
];

/// Endings of the names of tensors that only such formats have, and the format: a configuration may
/// be silent.
const MARKS: &[(&str, &str)] = &[
    (".qweight", "GPTQ or AWQ"),
    (".q_weight", "EXL2"),
    (".trellis", "EXL3"),
    (".weight_packed", "compressed-tensors' packed integers"),
    (".weight_scale_2", "NVFP4"),
    (".weight.absmax", "bitsandbytes"),
    (".weight.quant_map", "bitsandbytes"),
    (".SCB", "bitsandbytes"),
    (".W_q", "HQQ"),
    (".codebooks", "AQLM"),
    (".biases", "MLX"),
];

/// Refuses a checkpoint by the names of its tensors, where its configuration has not said it.
///
/// # Errors
/// A tensor has a name that only a quantized format has.
pub fn refuse_marked<'a>(names: impl Iterator<Item = &'a str>) -> Result<()> {
    for name in names {
        if let Some((_, what)) = MARKS.iter().find(|(ending, _)| name.ends_with(ending)) {
            let message =
                format!("the weights are quantized already, as {what}, which is not read: {}", quoted(name));
            return Err(original(Diagnostic::error(message)).into());
        }
    }
    Ok(())
}

/// What `config.json` says of its weights' quantization. `text` is the file's; `path` names it in
/// errors.
///
/// # Errors
/// The file is no configuration, or the weights are stored in a format that is not read.
pub fn read(path: &Path, text: &[u8]) -> Result<Quantization> {
    let config = Config::parse(path, text)?;
    if config.has("quantization") {
        let error = config.error("quantization", "the weights are quantized for MLX, which is not read");
        return Err(original(error).into());
    }
    if let Some(section) = config.section(["quantization_config", "compression_config"])? {
        return of_section(&section);
    }
    // Models of several parts say it of their text model.
    if let Some(nested) = config.section("text_config")?
        && let Some(section) = nested.section("quantization_config")?
    {
        return of_section(&section);
    }
    Ok(Quantization::None)
}

fn of_section(section: &Config) -> Result<Quantization> {
    match section.optional_str("quant_method")? {
        // Per tensor or per row where there is no size of blocks.
        Some("fp8" | "fbgemm_fp8") => fp8(section),
        Some("mxfp4") => Ok(Quantization::Mxfp4),
        Some("compressed-tensors" | "sparseml") => compressed_tensors(section),
        Some("modelopt") => modelopt(section),
        None if section.has("quant_algo") => modelopt(section),
        Some(method) => {
            let what = REFUSED.iter().find(|(name, _)| method.eq_ignore_ascii_case(name));
            let what = what.map_or_else(|| quoted(method), |(_, what)| (*what).to_owned());
            Err(refuse(section, "quant_method", &what))
        }
        None => Err(refuse(section, "quant_method", "a format that it does not name")),
    }
}

fn refuse(section: &Config, key: &str, what: &str) -> crate::diagnostic::Errors {
    let message = format!("the weights are quantized already, as {what}, which is not read");
    original(section.error(key, message)).into()
}

fn original(error: Diagnostic) -> Diagnostic {
    error
        .code("quantized-checkpoint")
        .help("name the original checkpoint, in BF16, F16 or F32, and let the build quantize it")
        .help("or a GGUF file of the model")
}

fn fp8(section: &Config) -> Result<Quantization> {
    section.require("fmt", &["e4m3".into(), "float8_e4m3fn".into(), "float8_e4m3".into(), "e5m2".into()])?;
    let block = match section.optional_u64s("weight_block_size")? {
        None => None,
        Some(sizes) => match <[u64; 2]>::try_from(sizes) {
            Ok(block) if !block.contains(&0) => Some(block),
            _ => return Err(section.error("weight_block_size", "must be two sizes of 1 or more").into()),
        },
    };
    Ok(Quantization::Fp8 { block })
}

/// ModelOpt's: `quant_algo` says all.
fn modelopt(section: &Config) -> Result<Quantization> {
    match section.optional_str("quant_algo")? {
        Some("FP8" | "FP8_PER_CHANNEL_PER_TOKEN") => Ok(Quantization::Fp8 { block: None }),
        Some("FP8_PB_WO") => Ok(Quantization::Fp8 { block: Some([128, 128]) }),
        Some(algo) => Err(refuse(section, "quant_algo", &format!("ModelOpt's {}", quoted(algo)))),
        None => Err(refuse(section, "quant_algo", "a format that it does not name")),
    }
}

/// The format of llm-compressor: groups of layers, each with how its weights are stored.
fn compressed_tensors(section: &Config) -> Result<Quantization> {
    let formats = ["dense", "float-quantized", "naive-quantized"];
    if let Some(format) = section.optional_str("format")?
        && !formats.contains(&format)
    {
        return Err(refuse(section, "format", &format!("compressed-tensors' {}", quoted(format))));
    }
    if let Some(sparsity) = section.section("sparsity_config")?
        && let Some(format) = sparsity.optional_str("format")?
        && format != "dense"
    {
        return Err(refuse(&sparsity, "format", &format!("sparse weights ({})", quoted(format))));
    }
    let Some(groups) = section.section("config_groups")? else { return Ok(Quantization::None) };
    let mut found: Option<Quantization> = None;
    for name in groups.unread() {
        let Some(group) = groups.section(name)? else { continue };
        let Some(weights) = group.section("weights")? else { continue };
        let this = compressed_group(&weights)?;
        if found.is_some_and(|other| other != this) {
            let message = "groups of different blocks of FP8 are not read";
            return Err(original(groups.error(name, message)).into());
        }
        found = Some(this);
    }
    Ok(found.unwrap_or(Quantization::None))
}

fn compressed_group(weights: &Config) -> Result<Quantization> {
    let bits = weights.optional_u64("num_bits")?.unwrap_or(8);
    let kind = weights.optional_str("type")?.unwrap_or("int");
    if (bits, kind) != (8, "float") {
        return Err(refuse(weights, "type", &format!("{} of {bits} bits", quoted(kind))));
    }
    match weights.optional_str("strategy")?.unwrap_or("tensor") {
        "tensor" | "channel" => Ok(Quantization::Fp8 { block: None }),
        "block" => match weights.optional_u64s("block_structure")?.as_deref() {
            Some(&[rows, cols]) if rows > 0 && cols > 0 => {
                Ok(Quantization::Fp8 { block: Some([rows, cols]) })
            }
            _ => Err(weights.error("block_structure", "must be two sizes of 1 or more").into()),
        },
        other => Err(refuse(weights, "strategy", &format!("FP8 with scales by {}", quoted(other)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Quantization> {
        read(Path::new("config.json"), text.as_bytes())
    }

    #[test]
    fn what_is_read_is_told_from_what_is_not() {
        let fp8 = |block| Quantization::Fp8 { block };
        let section = |text: &str| of(&format!(r#"{{"quantization_config": {text}}}"#)).unwrap();
        assert_eq!(of("{}").unwrap(), Quantization::None);
        assert_eq!(of(r#"{"quantization_config": null, "text_config": {}}"#).unwrap(), Quantization::None);
        assert_eq!(
            section(
                r#"{"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 64], "activation_scheme": "dynamic"}"#
            ),
            fp8(Some([128, 64]))
        );
        assert_eq!(section(r#"{"quant_method": "fp8", "weight_block_size": null}"#), fp8(None));
        assert_eq!(section(r#"{"quant_method": "mxfp4"}"#), Quantization::Mxfp4);
        assert_eq!(section(r#"{"quant_algo": "FP8"}"#), fp8(None));
        let group = r#"{"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups":
            {"group_0": {"weights": {"num_bits": 8, "type": "float", "strategy": "channel"}, "input_activations": null}}}"#;
        assert_eq!(section(group), fp8(None));
        let nested = r#"{"text_config": {"quantization_config": {"quant_method": "fp8"}}}"#;
        assert_eq!(of(nested).unwrap(), fp8(None));
    }

    #[test]
    fn names_tell_what_a_configuration_does_not() {
        let plain = ["model.norm.weight", "model.layers.0.mlp.gate_proj.weight_scale", "x.bias"];
        assert!(refuse_marked(plain.into_iter()).is_ok());
        let errors = refuse_marked(["model.norm.weight", "a.qweight"].into_iter()).unwrap_err();
        assert!(errors.to_string().contains("GPTQ or AWQ"), "{errors}");
    }

    #[test]
    fn the_others_are_refused_with_a_reason() {
        let mut text = String::new();
        let methods = REFUSED.iter().map(|(method, _)| format!(r#"{{"quant_method": "{method}"}}"#));
        let others = [
            r#"{"quant_method": "new-one"}"#,
            r#"{"bits": 4}"#,
            r#"{"quant_method": "modelopt", "quant_algo": "NVFP4"}"#,
            r#"{"quant_method": "fp8", "weight_block_size": [128]}"#,
            r#"{"quant_method": "fp8", "weight_block_size": [0, 128]}"#,
            r#"{"quant_method": "fp8", "fmt": "e3m4"}"#,
            r#"{"quant_method": "compressed-tensors", "format": "pack-quantized"}"#,
            r#"{"quant_method": "compressed-tensors", "sparsity_config": {"format": "sparse-24-bitmask"}}"#,
            r#"{"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": {"num_bits": 8, "type": "int"}}}}"#,
            r#"{"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": {"type": "float", "strategy": "group"}}}}"#,
        ];
        for section in methods.chain(others.map(str::to_owned)) {
            text += &format!("{section}\n");
            for d in of(&format!(r#"{{"quantization_config": {section}}}"#)).unwrap_err().0 {
                text += &format!("  {d} ({})\n", d.code);
                assert!(d.code == "bad-config" || d.help.len() == 2);
            }
        }
        for d in of(r#"{"quantization": {"group_size": 64, "bits": 4}}"#).unwrap_err().0 {
            text += &format!("MLX\n  {d} ({})\n", d.code);
        }
        insta::with_settings!({
            snapshot_path => concat!(env!("CARGO_MANIFEST_DIR"), "/snapshots"),
            prepend_module_to_snapshot => false,
            omit_expression => true,
        }, { insta::assert_snapshot!("formats_quantization_config", text) });
    }
}
