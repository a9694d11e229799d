//! The small trained model of `testdata/storyteller` against its float64 reference outputs.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use half::bf16;
use mdl::families::spec::*;
use mdl::ir::Shape;
use mdl::runtime::backend::cpu::CpuOptions;
use mdl::runtime::chunks::Chunks;
use mdl::runtime::engine::{Model, Session, SessionOptions};
use mdl::runtime::generate::{Greedy, Sampler};
use mdl::runtime::kv::KvType;
use mdl::runtime::perplexity::perplexity;
use mdl::runtime::weights::{Bytes, Tensor};
use mdl_kernels::{Level, TensorType};
use serde_json::Value;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/storyteller")
}

fn reference() -> &'static Value {
    static REFERENCE: OnceLock<Value> = OnceLock::new();
    REFERENCE.get_or_init(|| {
        let text = std::fs::read_to_string(directory().join("reference.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    })
}

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

fn spec(rope: RopeKind) -> DecoderSpec {
    DecoderSpec {
        architecture: "llama".to_owned(),
        block_count: 4,
        embedding_length: 256,
        vocab_size: 2048,
        context_length: 512,
        embedding_scale: 1.0,
        embedding_extras: EmbeddingExtras::default(),
        residual_scale: 1.0,
        tied_embeddings: true,
        norm: Norm { kind: NormKind::Rms, epsilon: 1e-5, placement: NormPlacement::Pre },
        parallel: false,
        rope: Rope {
            kind: rope,
            dims: 32,
            freq_base: 10_000.0,
            scaling: RopeScaling::None,
            local_freq_base: None,
        },
        attention: Attention {
            head_count: 8,
            head_count_kv: 4,
            key_length: 32,
            value_length: 32,
            scale: 32f32.sqrt().recip(),
            qkv_bias: false,
            output_bias: false,
            fused: false,
            qk_norm: None,
            causal: true,
            temperature: None,
            soft_cap: None,
            window: None,
        },
        feed_forward: FeedForward {
            length: 768,
            activation: Activation::Silu,
            gated: true,
            fused: false,
            bias: false,
            experts: None,
        },
        logit_scale: 1.0,
        logit_soft_cap: None,
        output: Output::Logits,
    }
}

fn gguf_name(name: &str) -> String {
    let name = name.strip_prefix("model.").unwrap();
    let Some(rest) = name.strip_prefix("layers.") else {
        return match name {
            "embed_tokens.weight" => "token_embd.weight",
            "norm.weight" => "output_norm.weight",
            _ => panic!("{name}"),
        }
        .to_owned();
    };
    let (block, part) = rest.split_once('.').unwrap();
    let part = match part.strip_suffix(".weight").unwrap() {
        "input_layernorm" => "attn_norm",
        "post_attention_layernorm" => "ffn_norm",
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.o_proj" => "attn_output",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" => "ffn_up",
        "mlp.down_proj" => "ffn_down",
        _ => panic!("{part}"),
    };
    format!("blk.{block}.{part}.weight")
}

/// Rows of each head of 32 from two halves to pairs.
fn interleave(values: &[f32], cols: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(values.len());
    for head in values.chunks(32 * cols) {
        for i in 0..16 {
            out.extend_from_slice(&head[i * cols..(i + 1) * cols]);
            out.extend_from_slice(&head[(i + 16) * cols..(i + 17) * cols]);
        }
    }
    out
}

/// Round to nearest of 127 steps, blocks of 32: enough for a test of the integer path.
fn q8_0(values: &[f32]) -> Vec<u8> {
    let mut out = Vec::new();
    for block in values.chunks(32) {
        let largest = block.iter().fold(0f32, |m, v| m.max(v.abs()));
        let d = half::f16::from_f32(largest / 127.0);
        out.extend(d.to_le_bytes());
        out.extend(block.iter().map(|v| (v / d.to_f32()).round().clamp(-127.0, 127.0) as i8 as u8));
    }
    out
}

fn tensors(rope: RopeKind, ty: TensorType) -> Vec<Tensor> {
    let file = std::fs::read(directory().join("model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&file).unwrap();
    let list = tensors.tensors().into_iter().map(|(name, view)| {
        let values: Vec<f32> = view
            .data()
            .as_chunks::<2>()
            .0
            .iter()
            .map(|b| bf16::from_bits(u16::from_le_bytes(*b)).to_f32())
            .collect();
        let shape = view.shape().to_vec();
        let turned = name.contains("q_proj") || name.contains("k_proj");
        let values = match rope {
            RopeKind::Norm if turned => interleave(&values, shape[1]),
            _ => values,
        };
        let ty = if shape.len() == 1 { TensorType::F32 } else { ty };
        let bytes: Vec<u8> = match ty {
            TensorType::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            TensorType::BF16 => values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
            TensorType::Q8_0 => q8_0(&values),
            _ => panic!("{ty}"),
        };
        let shape = Shape(shape.into_iter().map(|d| d as u64).collect());
        Tensor { name: gguf_name(&name), shape, ty, bytes: Bytes::memory(bytes) }
    });
    list.collect()
}

fn model(rope: RopeKind, ty: TensorType, options: CpuOptions) -> Model {
    Model::load(spec(rope), tensors(rope, ty), &options).unwrap()
}

fn session(model: &Model, kv: KvType) -> Session {
    model.session(&SessionOptions { context: 512, columns: 128, outputs: 128, kv: Some(kv) }).unwrap()
}

/// Of all prompts: the worst difference of logits, relative to the largest. With `excuse`, greedy
/// tokens must be equal up to the first gap below it.
fn worst(session: &mut Session, excuse: Option<f64>) -> f64 {
    let mut worst = 0f64;
    for prompt in reference()["prompts"].as_array().unwrap() {
        let (prompt_ids, expected) = (ids(&prompt["ids"]), floats(&prompt["logits"]));
        session.truncate(0);
        let logits = session.prefill(&prompt_ids).unwrap();
        let largest = expected.iter().fold(0f64, |m, v| m.max(v.abs()));
        let off = logits.iter().zip(&expected).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
        worst = worst.max(off / largest);
        let Some(excuse) = excuse else { continue };
        let gaps = floats(&prompt["greedy_gaps"]);
        let mut token = Greedy.sample(logits).unwrap();
        for (step, (expected, gap)) in ids(&prompt["greedy_ids"]).iter().zip(gaps).enumerate() {
            if gap < excuse {
                break;
            }
            assert_eq!(token, *expected, "{} step {step}, gap {gap}", prompt["name"]);
            token = Greedy.sample(session.decode(token).unwrap()).unwrap();
        }
    }
    worst
}

#[test]
fn float32_is_the_reference() {
    let norm = model(RopeKind::Norm, TensorType::F32, CpuOptions::default());
    let off = worst(&mut session(&norm, KvType::F32), Some(4e-4));
    println!("cache in F32: {off:.2e}");
    assert!(off < 2e-6, "{off:e}");
    let off = worst(&mut session(&norm, KvType::F16), None);
    println!("cache in F16: {off:.2e}");
    assert!(off < 1e-3, "{off:e}");
    let neox = model(RopeKind::Neox, TensorType::F32, CpuOptions::default());
    let off = worst(&mut session(&neox, KvType::F32), None);
    println!("cache in F32, other order of rows: {off:.2e}");
    assert!(off < 2e-6, "{off:e}");
}

#[test]
fn bfloat16_activations_are_close() {
    let run = |ty| {
        let model = model(RopeKind::Neox, ty, CpuOptions::default());
        let ids = ids(&reference()["prompts"][0]["ids"]);
        session(&model, KvType::F16).prefill(&ids).unwrap().to_vec()
    };
    // The weights are the same numbers; what they are multiplied with is rounded.
    let off = run(TensorType::BF16)
        .iter()
        .zip(run(TensorType::F32))
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    println!("BF16: {off:.2e}");
    assert!(off > 0.0 && off < 2e-2, "{off:e}");
}

#[test]
fn eight_bits_are_close() {
    let model = model(RopeKind::Norm, TensorType::Q8_0, CpuOptions::default());
    let off = worst(&mut session(&model, KvType::F16), Some(0.5));
    println!("Q8_0: {off:.2e}");
    assert!(off < 3e-2, "{off:e}");
}

/// The same tokens on every level, number of threads and size of a step.
#[test]
fn greedy_tokens_depend_on_nothing_else() {
    let prompt = ids(&reference()["prompts"][1]["ids"]);
    for ty in [TensorType::F32, TensorType::BF16, TensorType::Q8_0] {
        let mut seen: Vec<(Vec<u32>, Vec<u32>)> = Vec::new();
        for level in Level::available() {
            for (threads, columns) in [(1, 512), (2, 5)] {
                let options = CpuOptions { threads: Some(threads), level: Some(level) };
                let model = model(RopeKind::Norm, ty, options);
                let options = SessionOptions { context: 64, columns, outputs: 1, kv: None };
                let mut session = model.session(&options).unwrap();
                let mut tokens = Vec::new();
                let mut token = Greedy.sample(session.prefill(&prompt).unwrap()).unwrap();
                for _ in 0..12 {
                    tokens.push(token);
                    token = Greedy.sample(session.decode(token).unwrap()).unwrap();
                }
                let last = session.decode(token).unwrap().iter().map(|v| v.to_bits()).collect();
                seen.push((tokens, last));
            }
        }
        assert!(seen.iter().all(|s| *s == seen[0]), "{ty}");
    }
}

#[test]
fn perplexity_is_the_reference() {
    let bos = 2043;
    let tokenizer = tokenizers::Tokenizer::from_file(directory().join("tokenizer.json")).unwrap();
    let text = String::from_utf8(std::fs::read(directory().join("heldout.txt")).unwrap()).unwrap();
    let mut tokens = vec![bos];
    tokens.extend(tokenizer.encode(text, false).unwrap().get_ids());
    let expected = &reference()["perplexity"][0];
    assert_eq!(tokens.len() as u64, expected["ids_including_bos"].as_u64().unwrap());
    let model = model(RopeKind::Norm, TensorType::F32, CpuOptions::default());
    let mut session = session(&model, KvType::F16);
    let chunks = Chunks::new(tokens, Some(bos), 512, None).unwrap();
    let result = perplexity(&mut session, &chunks, |_, _| ()).unwrap();
    let value = result.value();
    println!("perplexity {:.6} +- {:.4}", value.value, value.error);
    let exact = expected["perplexity"].as_f64().unwrap();
    assert!((value.value / exact - 1.0).abs() < 1e-5, "{} {exact}", value.value);
    for (chunk, expected) in result.chunks.iter().zip(floats(&expected["chunk_mean_nll"])) {
        assert!((chunk - expected).abs() < 1e-4, "{chunk} {expected}");
    }
}
