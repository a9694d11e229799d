//! Checkpoints in every layout that is read become the same model, to the byte, as the plain one.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mdl::codegen::{self, Evaluator};
use mdl::diagnostic::Result;
use mdl::formats::gguf::{Gguf, GgufWriter, Layout};
use mdl::formats::quantization_config::Quantization;
use mdl::formats::safetensors::Safetensors;
use mdl::ir::{FileId, Metadata, Module, SourceFile, Tensor};
use mdl::passes::quantize::mixture::PRESETS;
use mdl::passes::{Context, Options, dequantize};
use mdl::prompt::Renderer;
use mdl::world::MemoryWorld;
use mdl::{modelfile, pipeline};

fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/sources").join(name)
}

fn bytes(name: &str) -> Vec<u8> {
    std::fs::read(testdata(name)).expect(name)
}

/// A directory of a model in memory.
struct Directory(MemoryWorld);

impl Directory {
    /// Files of testdata/sources/llama, by the names they get; a configuration and the tokenizer are
    /// put beside them.
    fn of(files: &[(&str, &str)]) -> Directory {
        let mut directory =
            Directory(MemoryWorld::default()).with("tokenizer.json", bytes("llama/tokenizer.json"));
        if !files.iter().any(|(name, _)| *name == "params.json") {
            directory = directory.with("config.json", bytes("llama/config.json"));
        }
        files.iter().fold(directory, |d, (name, source)| d.with(name, bytes(&format!("llama/{source}"))))
    }

    fn with(mut self, name: &str, bytes: Vec<u8>) -> Directory {
        self.0.insert(format!("/m/{name}"), bytes);
        self
    }

    /// The GGUF file that a build makes of it, in a type or as it is.
    fn build(&self, preset: Option<&str>) -> Result<Vec<u8>> {
        self.build_from(".", preset)
    }

    fn build_from(&self, from: &str, preset: Option<&str>) -> Result<Vec<u8>> {
        let preset = preset.map(|name| PRESETS.iter().find(|p| p.name.eq_ignore_ascii_case(name)).unwrap());
        let options = Options { preset, ..Options::default() };
        let context = Context::new(&self.0, None, PathBuf::from("/m"), options);
        let checked =
            modelfile::check(&self.0, Path::new("/m"), "Modelfile", format!("FROM {from}\n").as_bytes());
        let module = pipeline::compile(&checked.recipe, &context, &Renderer::in_process(), &mut |_, _| {})?;
        assert_eq!(context.take_notes(), []);
        let mut out = Vec::new();
        codegen::write_weights(&module, &mut out, Path::new("out.gguf"), &())?;
        Ok(out)
    }
}

fn plain() -> Directory {
    Directory::of(&[("model.safetensors", "plain/model.safetensors")])
}

#[test]
fn pytorch_shards_with_transposed_views_are_the_plain_model() {
    let shards = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"];
    let [first, second] = shards.map(|name| format!("torch/{name}"));
    let mut files = vec![(shards[0], first.as_str()), (shards[1], second.as_str())];
    for index in [false, true] {
        if index {
            files.push(("pytorch_model.bin.index.json", "torch/pytorch_model.bin.index.json"));
        }
        for preset in [None, Some("F16"), Some("F32")] {
            assert!(
                Directory::of(&files).build(preset) == Ok(plain().build(preset).unwrap()),
                "{preset:?}, index: {index}"
            );
        }
    }
}

#[test]
fn the_layout_of_mistral_and_meta_is_the_plain_model() {
    for (name, source) in [
        ("consolidated.safetensors", "mistral/consolidated.safetensors"),
        ("consolidated.00.pth", "meta/consolidated.00.pth"),
    ] {
        for preset in [None, Some("F16")] {
            assert!(
                Directory::of(&[(name, source)]).build(preset) == Ok(plain().build(preset).unwrap()),
                "{name}"
            );
        }
    }
}

/// Mistral's own settings make a configuration: only the key-values that it words otherwise differ.
#[test]
fn the_settings_of_mistral_are_a_configuration() {
    let names = [
        ("consolidated.safetensors", "mistral/consolidated.safetensors"),
        ("params.json", "mistral/params.json"),
    ];
    let built: Arc<[u8]> = Directory::of(&names).build(None).unwrap().into();
    let expected: Arc<[u8]> = plain().build(None).unwrap().into();
    let [ours, theirs] = [&built, &expected].map(|file| Gguf::read(Path::new("m.gguf"), file).unwrap());
    assert_eq!(ours.tensors.len(), theirs.tensors.len());
    for (a, b) in ours.tensors.iter().zip(&theirs.tensors) {
        assert_eq!((&a.name, &a.shape, a.dtype), (&b.name, &b.shape, b.dtype));
        assert!(
            built[a.offset as usize..][..a.len as usize] == expected[b.offset as usize..][..b.len as usize]
        );
    }
    for (key, value) in theirs.metadata.iter().filter(|(key, _)| key.starts_with("llama.")) {
        assert_eq!(ours.metadata.get(key), Some(value), "{key}");
    }
}

/// What Hugging Face's files beside them say counts: the contract's order.
#[test]
fn hugging_face_files_come_before_consolidated_ones() {
    let both = Directory::of(&[("model.safetensors", "plain/model.safetensors")])
        .with("consolidated.safetensors", b"not looked at".to_vec())
        .with("params.json", b"neither is this".to_vec());
    assert!(both.build(None).unwrap() == plain().build(None).unwrap());
}

#[test]
fn fp8_is_what_pytorch_computes_of_it() {
    for name in ["fp8-block", "fp8-channel", "fp8-tensor"] {
        let source = format!("{name}/model.safetensors");
        let directory = Directory::of(&[("model.safetensors", &source)])
            .with("config.json", bytes(&format!("llama/{name}/config.json")));
        let built: Arc<[u8]> = directory.build(None).unwrap().into();
        let gguf = Gguf::read(Path::new("built.gguf"), &built).unwrap();
        // Torch's values, under the names of the plain model, whose other tensors they keep.
        let expected: Arc<[u8]> = bytes(&format!("llama/{name}/expected.safetensors")).into();
        let header = Safetensors::read(Path::new("expected"), &expected).unwrap();
        for (theirs, ours) in [
            ("self_attn.v_proj", "attn_v"),
            ("self_attn.o_proj", "attn_output"),
            ("mlp.gate_proj", "ffn_gate"),
            ("mlp.down_proj", "ffn_down"),
        ] {
            let theirs = header.tensor(&format!("model.layers.0.{theirs}.weight")).unwrap();
            let ours = gguf.tensor(&format!("blk.0.{ours}.weight")).unwrap();
            assert_eq!(ours.dtype.name(), "BF16", "{name}: {}", ours.name);
            let of = |file: &[u8], at: u64, len: u64| file[at as usize..][..len as usize].to_vec();
            assert_eq!(
                of(&built, ours.offset, ours.len),
                of(&expected, theirs.offset, theirs.len),
                "{name}: {}",
                ours.name
            );
        }
        assert_eq!(gguf.tensors.len(), 12, "no scale is left");
        // In another type the values are rounded once, from float32.
        let Ok(single) = directory.build(Some("F32")) else { panic!("{name} in F32") };
        let single: Arc<[u8]> = single.into();
        let gguf = Gguf::read(Path::new("single.gguf"), &single).unwrap();
        let down = gguf.tensor("blk.0.ffn_down.weight").unwrap();
        let values = &single[down.offset as usize..][..down.len as usize];
        let (chunks, _) = values.as_chunks::<4>();
        assert!(chunks.iter().any(|v| v[..2] != [0, 0]), "{name}: float32 holds more than BF16");
    }
}

#[test]
fn fp8_without_the_right_scales_is_refused() {
    let config = bytes("llama/fp8-block/config.json");
    let edited = |from: &str, to: &str| {
        let text = String::from_utf8(config.clone()).unwrap();
        assert!(text.contains(from));
        Directory::of(&[("model.safetensors", "fp8-block/model.safetensors")])
            .with("config.json", text.replace(from, to).into_bytes())
            .build(None)
            .unwrap_err()
            .to_string()
    };
    let sizes = edited("[16, 16]", "[16, 8]");
    assert!(sizes.contains("neither the scales of"), "{sizes}");
    let mut plain = bytes("llama/fp8-block/model.safetensors");
    // The scales of one matrix get another name of the same length.
    let (from, to) = (b"q_proj.weight_scale_inv", b"q_proj.weight_scale_xxx");
    let at = plain.windows(from.len()).position(|w| w == from).unwrap();
    plain[at..at + to.len()].copy_from_slice(to);
    let directory = Directory::of(&[]).with("config.json", config.clone()).with("model.safetensors", plain);
    let missing = directory.build(None).unwrap_err().to_string();
    assert!(missing.contains("its scales are missing"), "{missing}");
    let refused = edited(r#""quant_method": "fp8""#, r#""quant_method": "awq""#);
    assert!(refused.contains("AWQ"), "{refused}");
}

/// `model` in two shards, as llama.cpp splits: all key-values in the first.
fn shards(model: &Arc<[u8]>) -> [Vec<u8>; 2] {
    let gguf = Gguf::read(Path::new("model.gguf"), model).unwrap();
    [0u16, 1].map(|no| {
        let mut metadata = if no == 0 { gguf.metadata.clone() } else { Metadata::default() };
        metadata.set("split.no", no);
        metadata.set("split.count", 2u16);
        metadata.set("split.tensors.count", gguf.tensors.len() as i32);
        let (first, second) = gguf.tensors.split_at(5);
        let part = if no == 0 { first } else { second };
        let tensors = part.iter().map(|t| (t.name.clone(), t.shape.clone(), t.dtype)).collect();
        let mut writer = GgufWriter::new(Vec::new(), Layout::new(&metadata, tensors).unwrap()).unwrap();
        for t in part {
            writer.write_data(&model[t.offset as usize..][..t.len as usize]).unwrap();
        }
        writer.finish().unwrap()
    })
}

#[test]
fn shards_of_gguf_are_the_whole_file() {
    let whole: Arc<[u8]> = plain().build(None).unwrap().into();
    let [first, second] = shards(&whole);
    let names = ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"];
    let both = Directory(MemoryWorld::default()).with(names[0], first).with(names[1], second.clone());
    for from in [".", names[0], names[1]] {
        assert!(both.build_from(from, None).unwrap()[..] == whole[..], "FROM {from}");
        assert!(both.build_from(from, Some("F16")) == plain().build(Some("F16")), "FROM {from} as F16");
    }
    let lost = Directory(MemoryWorld::default()).with(names[1], second).build(None).unwrap_err();
    assert!(lost.to_string().contains("first shard"), "{lost}");
}

/// Matrices of float64 and float32 and norms of BF16 among the others: the same values.
#[test]
fn mixed_types_are_the_plain_model() {
    let mixed = Directory::of(&[("model.safetensors", "mixed/model.safetensors")]);
    for preset in ["F32", "F16"] {
        assert!(mixed.build(Some(preset)) == Ok(plain().build(Some(preset)).unwrap()), "{preset}");
    }
    let built: Arc<[u8]> = mixed.build(None).unwrap().into();
    let gguf = Gguf::read(Path::new("built.gguf"), &built).unwrap();
    let dtype = |name: &str| gguf.tensor(name).unwrap().dtype.name();
    assert_eq!(
        ["blk.0.attn_q.weight", "token_embd.weight", "blk.0.attn_k.weight"].map(dtype),
        ["F32", "F32", "BF16"]
    );
    assert_eq!(dtype("blk.0.ffn_norm.weight"), "F32");
}

/// The vocabulary has fewer tokens than the embedding has rows, as in models that were padded for
/// speed: the tokens are filled up, and no row is lost.
#[test]
fn a_padded_vocabulary_keeps_its_rows() {
    let built: Arc<[u8]> = plain().build(None).unwrap().into();
    let gguf = Gguf::read(Path::new("built.gguf"), &built).unwrap();
    assert_eq!(gguf.tensor("token_embd.weight").unwrap().shape.0, [272, 40]);
    assert_eq!(gguf.metadata.array("tokenizer.ggml.tokens").map(|t| t.len()), Some(272));
    // Norms are F32 among matrices of BF16, and the buffer of float64 is left out.
    let types: BTreeSet<_> = gguf.tensors.iter().map(|t| (t.dtype.name(), t.shape.rank())).collect();
    assert_eq!(types, BTreeSet::from([("BF16", 2), ("F32", 1)]));
}

/// The values of a tensor.
fn values(tensor: &Tensor, files: &[SourceFile]) -> Vec<f32> {
    let evaluator = Evaluator::new(&tensor.expr, files).unwrap();
    evaluator.values(0..evaluator.rows()).unwrap()
}

fn module_of(name: &str) -> Module {
    let file: Arc<[u8]> = bytes(name).into();
    let header = Safetensors::read(Path::new(name), &file).unwrap();
    let mut module = Module::default();
    let id: FileId = module.add_file(name, Arc::new(file));
    module.tensors =
        header.tensors.iter().map(|t| Tensor { name: t.name.clone(), expr: t.load(id) }).collect();
    module
}

#[test]
fn mxfp4_is_what_transformers_makes_of_it() {
    let source = module_of("mxfp4.safetensors");
    let tensors = dequantize::run(source.tensors, Quantization::Mxfp4).unwrap();
    let expected = module_of("mxfp4.expected.safetensors");
    let [ours] = &tensors[..] else { panic!("{} tensors", tensors.len()) };
    let [theirs] = &expected.tensors[..] else { panic!("one is expected") };
    assert_eq!((&ours.name, ours.shape()), (&theirs.name, theirs.shape()));
    // Zero has one sign in GGUF's blocks, so values are compared, and not their bits.
    let wrong = values(ours, &source.files)
        .into_iter()
        .zip(values(theirs, &expected.files))
        .position(|(a, b)| a != b);
    assert_eq!(wrong, None);
    assert_eq!(ours.expr.dtype().name(), "MXFP4", "and it is written as it is");
}
