//! Small models for the tests of this room.

use mdl_kernels::TensorType;

use super::weights::{Bytes, Tensor, Tensors};
use crate::families::spec::*;
use crate::ir::Shape;

/// A Llama of one block: 64 wide, 2 heads on 1, vocabulary 32, hidden 96.
pub fn spec(bias: bool) -> DecoderSpec {
    DecoderSpec {
        architecture: "test".to_owned(),
        block_count: 1,
        embedding_length: 64,
        vocab_size: 32,
        context_length: 64,
        embedding_scale: 1.0,
        embedding_extras: EmbeddingExtras::default(),
        residual_scale: 1.0,
        tied_embeddings: true,
        norm: Norm { kind: NormKind::Rms, epsilon: 1e-5, placement: NormPlacement::Pre },
        parallel: false,
        rope: Rope {
            kind: RopeKind::Norm,
            dims: 32,
            freq_base: 10_000.0,
            scaling: RopeScaling::None,
            local_freq_base: None,
        },
        attention: Attention {
            head_count: 2,
            head_count_kv: 1,
            key_length: 32,
            value_length: 32,
            scale: 32f32.sqrt().recip(),
            qkv_bias: bias,
            output_bias: bias,
            fused: false,
            qk_norm: None,
            causal: true,
            temperature: None,
            soft_cap: None,
            window: None,
        },
        feed_forward: FeedForward {
            length: 96,
            activation: Activation::Silu,
            gated: true,
            fused: false,
            bias,
            experts: None,
        },
        logit_scale: 1.0,
        logit_soft_cap: None,
        output: Output::Logits,
    }
}

/// The names and shapes of a spec's tensors.
pub fn shapes(spec: &DecoderSpec) -> Vec<(String, Vec<usize>)> {
    let a = &spec.attention;
    let (d, f) = (spec.embedding_length, spec.feed_forward.length);
    let (q, k, v) =
        (a.head_count * a.key_length, a.head_count_kv * a.key_length, a.head_count_kv * a.value_length);
    let mut all = vec![
        ("token_embd.weight".to_owned(), vec![spec.vocab_size, d]),
        ("output_norm.weight".to_owned(), vec![d]),
    ];
    if !spec.tied_embeddings {
        all.push(("output.weight".to_owned(), vec![spec.vocab_size, d]));
    }
    for b in 0..spec.block_count {
        let mut put = |name: &str, shape: &[usize]| all.push((format!("blk.{b}.{name}"), shape.to_vec()));
        put("attn_norm.weight", &[d]);
        put("ffn_norm.weight", &[d]);
        for (name, rows, cols, bias) in [
            ("attn_q", q, d, a.qkv_bias),
            ("attn_k", k, d, a.qkv_bias),
            ("attn_v", v, d, a.qkv_bias),
            ("attn_output", d, a.head_count * a.value_length, a.output_bias),
            ("ffn_gate", f, d, spec.feed_forward.bias),
            ("ffn_up", f, d, spec.feed_forward.bias),
            ("ffn_down", d, f, spec.feed_forward.bias),
        ] {
            put(&format!("{name}.weight"), &[rows, cols]);
            if bias {
                put(&format!("{name}.bias"), &[rows]);
            }
        }
        if a.qk_norm.is_some() {
            put("attn_q_norm.weight", &[a.key_length]);
            put("attn_k_norm.weight", &[a.key_length]);
        }
    }
    all
}

/// Tensors of a spec with small values that differ; matrices of type `ty(name)`.
pub fn tensors(spec: &DecoderSpec, ty: &dyn Fn(&str) -> TensorType) -> Tensors {
    Tensors::new(tensor_list(spec, ty)).unwrap()
}

/// As [`tensors`], as a list.
pub fn tensor_list(spec: &DecoderSpec, ty: &dyn Fn(&str) -> TensorType) -> Vec<Tensor> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let list = shapes(spec).into_iter().map(|(name, shape)| {
        let n: usize = shape.iter().product();
        let ty = if shape.len() == 1 { TensorType::F32 } else { ty(&name) };
        let mut float = |size: f32| ((random() >> 40) as f32 / (1 << 23) as f32 - 1.0) * size;
        let bytes: Vec<u8> = match ty {
            TensorType::F32 => (0..n).flat_map(|_| float(0.3).to_le_bytes()).collect(),
            TensorType::F16 => (0..n).flat_map(|_| half::f16::from_f32(float(0.3)).to_le_bytes()).collect(),
            TensorType::BF16 => (0..n).flat_map(|_| half::bf16::from_f32(float(0.3)).to_le_bytes()).collect(),
            TensorType::Q4_0 | TensorType::Q8_0 => {
                let d = if ty == TensorType::Q4_0 { 0.03 } else { 0.002 };
                (0..n / 32)
                    .flat_map(|_| {
                        let mut block = half::f16::from_f32(d).to_le_bytes().to_vec();
                        block.extend((2..ty.block_bytes()).map(|_| (random() >> 32) as u8));
                        block
                    })
                    .collect()
            }
            _ => panic!("tests make no {ty}"),
        };
        let shape = Shape(shape.into_iter().map(|d| d as u64).collect());
        Tensor { name, shape, ty, bytes: Bytes::memory(bytes) }
    });
    list.collect()
}

/// Compares with a committed snapshot.
pub fn snapshot(name: &str, text: &str) {
    insta::with_settings!({
        snapshot_path => concat!(env!("CARGO_MANIFEST_DIR"), "/snapshots"),
        prepend_module_to_snapshot => false,
    }, { insta::assert_snapshot!(name, text) });
}
