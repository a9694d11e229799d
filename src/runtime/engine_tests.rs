//! The engine's tests: what logits depend on, and what they do not.

use super::super::testing;
use super::*;
use crate::families::spec::*;
use mdl_kernels::Level;

const TOKENS: [u32; 21] = [1, 5, 31, 0, 7, 7, 2, 30, 12, 19, 4, 4, 23, 8, 16, 9, 3, 27, 11, 6, 1];

fn model(spec: &DecoderSpec, ty: TensorType, threads: usize, level: Level) -> Model {
    let tensors = testing::tensor_list(spec, &|_| ty);
    Model::load(spec.clone(), tensors, &CpuOptions { threads: Some(threads), level: Some(level) }).unwrap()
}

fn options(columns: usize) -> SessionOptions {
    SessionOptions { context: 32, columns, outputs: columns, kv: Some(KvType::F16) }
}

fn all_logits(model: &Model, columns: usize) -> Vec<u32> {
    let mut bits = Vec::new();
    let mut session = model.session(&options(columns)).unwrap();
    session
        .logits_all(&TOKENS, |_, logits| {
            bits.extend(logits.iter().map(|v| v.to_bits()));
            Ok(())
        })
        .unwrap();
    bits
}

/// A spec that uses everything the runtime computes.
fn rich() -> DecoderSpec {
    let mut spec = testing::spec(true);
    spec.block_count = 2;
    spec.tied_embeddings = false;
    spec.embedding_scale = 8.0;
    spec.residual_scale = 0.5;
    spec.logit_scale = 0.25;
    spec.logit_soft_cap = Some(3.0);
    spec.rope = Rope {
        kind: RopeKind::Neox,
        dims: 16,
        freq_base: 5000.0,
        scaling: RopeScaling::Linear { factor: 2.0 },
        local_freq_base: None,
    };
    spec.attention.qk_norm = Some(QkNorm::Head);
    spec.attention.soft_cap = Some(20.0);
    spec.attention.window = Some(Window { size: 5, blocks: vec![true, false] });
    spec.feed_forward.activation = Activation::GeluTanh;
    spec
}

/// The same bits whatever the level, the threads and the size of a step.
#[test]
fn logits_depend_on_nothing_else() {
    for spec in [testing::spec(false), rich()] {
        for ty in [TensorType::F32, TensorType::F16, TensorType::Q4_0, TensorType::Q8_0] {
            let expected = all_logits(&model(&spec, ty, 1, Level::Portable), 1);
            assert!(expected.iter().any(|b| *b != expected[0]));
            let check = |level, threads, columns| {
                let logits = all_logits(&model(&spec, ty, threads, level), columns);
                assert!(logits == expected, "{ty} {level:?}, {threads} threads, {columns} columns");
            };
            for level in Level::available() {
                for columns in [1, 8, 21] {
                    check(level, 1, columns);
                }
            }
            check(Level::current(), 2, 1);
            check(Level::current(), 3, 8);
        }
    }
}

/// Several sequences in one step, in pages of any order: the same bits as each alone.
#[test]
fn a_sequence_does_not_depend_on_others() {
    let spec = rich();
    for level in Level::available() {
        let model = model(&spec, TensorType::Q4_0, 2, level);
        let expected = all_logits(&model, 1);
        let room = Room { pages: 12, context: 32, columns: 32, outputs: 32, kv: KvType::F16 };
        let mut state = model.state(&room).unwrap();
        let pages = |ids: [u32; 2]| ids.map(PageId);
        let tables = [pages([7, 3]), pages([0, 11]), pages([5, 2])];
        // How many tokens of each sequence a step takes, each time.
        let mut done = [0; 3];
        for round in [[3, 1, 5], [1, 8, 0], [9, 1, 1], [1, 1, 15], [7, 10, 0]] {
            let mut columns = Vec::new();
            for (sequence, n) in round.into_iter().enumerate() {
                for _ in 0..n {
                    let position = done[sequence];
                    columns.push(Column { token: TOKENS[position], position, sequence });
                    done[sequence] += 1;
                }
            }
            let tables: Vec<&[PageId]> = tables.iter().map(|t| t.as_slice()).collect();
            let outputs: Vec<usize> = (0..columns.len()).collect();
            state.step(&columns, &tables, &outputs).unwrap();
            for (column, logits) in columns.iter().zip(state.all_logits()) {
                let size = logits.len();
                let alone = &expected[column.position * size..(column.position + 1) * size];
                assert!(logits.iter().map(|v| v.to_bits()).eq(alone.iter().copied()), "{level:?} {column:?}");
            }
        }
        assert_eq!(done, [21; 3]);
    }
}

/// Tokens one at a time over a context of several chunks, by several threads: the same bits as in one step by one.
#[test]
fn a_long_context_is_cut_without_a_trace() {
    let mut spec = rich();
    spec.context_length = 1024;
    spec.attention.window = Some(Window { size: 700, blocks: vec![true, false] });
    let pages: Vec<PageId> = (0..50).map(PageId).collect();
    let tables = [pages.as_slice()];
    let column = |position: usize| Column { token: TOKENS[position % TOKENS.len()], position, sequence: 0 };
    let columns: Vec<Column> = (0..800).map(column).collect();
    for kv in [KvType::F16, KvType::F32, KvType::Q8_0] {
        let room = Room { pages: 50, context: 800, columns: 800, outputs: 8, kv };
        let bits = |logits: &[f32]| logits.iter().map(|v| v.to_bits()).collect::<Vec<u32>>();
        let mut whole = model(&spec, TensorType::F32, 1, Level::current()).state(&room).unwrap();
        whole.step(&columns, &tables, &[792, 793, 794, 795, 796, 797, 798, 799]).unwrap();
        let expected: Vec<Vec<u32>> = whole.all_logits().into_iter().map(|l| bits(l)).collect();
        let mut parts = model(&spec, TensorType::F32, 3, Level::current()).state(&room).unwrap();
        // Prompts that end and begin within pages.
        for range in [0..5, 5..301, 301..792] {
            parts.step(&columns[range], &tables, &[]).unwrap();
        }
        for (column, expected) in columns[792..].iter().zip(&expected) {
            parts.step(&[*column], &tables, &[0]).unwrap();
            assert!(bits(parts.logits(0)) == *expected, "{kv:?} {column:?}");
        }
    }
}

/// A copied page and a shift into other pages leave what they read as it was.
#[test]
fn pages_are_copied_and_shifted_apart() {
    let model = model(&rich(), TensorType::Q8_0, 2, Level::current());
    let room = Room { pages: 8, context: 32, columns: 32, outputs: 1, kv: KvType::F16 };
    let mut state = model.state(&room).unwrap();
    let columns = |sequence, range: std::ops::Range<usize>| -> Vec<Column> {
        range.map(|position| Column { token: TOKENS[position], position, sequence }).collect()
    };
    let own = [PageId(1), PageId(2)];
    state.step(&columns(0, 0..20), &[&own], &[]).unwrap();
    state.copy_page(PageId(2), PageId(6));
    let shared = [PageId(1), PageId(6)];
    let mut next = |tables: &[&[PageId]]| {
        state.step(&columns(0, 20..21), tables, &[0]).unwrap();
        let logits = state.logits(0).to_vec();
        let hidden = state.hidden(0);
        (logits, hidden)
    };
    let expected = next(&[&own]);
    assert_eq!(next(&[&shared]), expected);
    let mut session = model.session(&options(32)).unwrap();
    assert_eq!(session.prefill(&TOKENS).unwrap(), expected.0);
    let shift = Shift { keep: 3, discard: 9, len: 20 };
    let apart = [PageId(4)];
    state.shift(shift, &own, &apart);
    let column = [Column { token: 2, position: 11, sequence: 0 }];
    state.step(&column, &[&apart], &[0]).unwrap();
    session.truncate(20);
    assert_eq!(session.shift(3), 9);
    assert_eq!(session.decode(2).unwrap(), state.logits(0));
    state.step(&columns(0, 20..21), &[&own], &[0]).unwrap();
    assert_eq!(state.logits(0), expected.0);
}

/// A cache of fewer bits gives logits that are close, the same on every level and whatever the steps.
#[test]
fn fewer_bits_are_close() {
    let mut spec = testing::spec(false);
    spec.attention.key_length = 32;
    spec.attention.value_length = 32;
    spec.rope.dims = 32;
    let logits = |kv, level, columns| {
        let model = model(&spec, TensorType::Q8_0, 2, level);
        let mut session = model.session(&SessionOptions { kv: Some(kv), ..options(columns) })?;
        session.prefill(&TOKENS).map(|l| l.to_vec())
    };
    let exact = logits(KvType::F16, Level::current(), 8).unwrap();
    let size = exact.iter().map(|v| v.abs()).fold(0.0, f32::max);
    for (kv, close) in [(KvType::Q8_0, 0.02), (KvType::Q4_0, 0.25)] {
        let expected = logits(kv, Level::Portable, 1).unwrap();
        for (a, b) in expected.iter().zip(&exact) {
            assert!((a - b).abs() < close * size, "{kv:?} {a} {b} of {size}");
        }
        for level in Level::available() {
            assert_eq!(logits(kv, level, 21).unwrap(), expected);
        }
    }
    spec.attention.key_length = 24;
    spec.rope.dims = 24;
    let model = model(&spec, TensorType::F32, 1, Level::current());
    let error = model.session(&SessionOptions { kv: Some(KvType::Q8_0), ..options(8) }).err().unwrap();
    assert!(error.to_string().contains("multiple of 32"));
}

/// Factors that are all alike are linear scaling.
#[test]
fn rope_factors_divide_the_frequencies() {
    let logits = |scaling: RopeScaling, factor: Option<f32>| {
        let mut spec = testing::spec(false);
        spec.rope.scaling = scaling;
        let mut tensors = testing::tensor_list(&spec, &|_| TensorType::F32);
        if let Some(factor) = factor {
            tensors.push(Tensor {
                name: "rope_freqs.weight".to_owned(),
                shape: crate::ir::Shape(vec![16]),
                ty: TensorType::F32,
                bytes: crate::runtime::weights::Bytes::memory(factor.to_le_bytes().repeat(16)),
            });
        }
        let model = Model::load(spec, tensors, &CpuOptions::default())?;
        Ok::<_, crate::diagnostic::Errors>(model.session(&options(8))?.prefill(&TOKENS)?.to_vec())
    };
    let plain = logits(RopeScaling::None, None).unwrap();
    assert_eq!(logits(RopeScaling::Factors, Some(1.0)).unwrap(), plain);
    let linear = logits(RopeScaling::Linear { factor: 4.0 }, None).unwrap();
    assert_eq!(logits(RopeScaling::Factors, Some(4.0)).unwrap(), linear);
    assert_ne!(linear, plain);
    let error = |scaling, factor| logits(scaling, Some(factor)).err().unwrap().to_string();
    assert_eq!(error(RopeScaling::Factors, 0.0), "tensor `rope_freqs.weight` value 0 is 0");
    assert!(error(RopeScaling::None, 1.0).contains("does not ask for it"));
}

#[test]
fn a_kept_prefix_changes_nothing() {
    let model = model(&rich(), TensorType::Q8_0, 2, Level::current());
    let mut session = model.session(&options(4)).unwrap();
    let mut fresh = model.session(&options(4)).unwrap();
    session.prefill(&TOKENS).unwrap();
    let mut other = TOKENS;
    other[9] = 2;
    assert_eq!(session.reuse(&other), 9);
    assert_eq!(session.prefill(&other).unwrap(), fresh.prefill(&other).unwrap());
    // The whole prompt again: its last token is computed again.
    assert_eq!(session.reuse(&other), other.len() - 1);
    assert_eq!(session.prefill(&other).unwrap(), fresh.prefill(&other).unwrap());
    assert_eq!(session.tokens(), other);
}

/// Without rotation a shifted cache of one block is that of the tokens that are left.
#[test]
fn a_shift_moves_the_cache() {
    for (kv, rope) in [
        (KvType::F16, RopeKind::None),
        (KvType::Q8_0, RopeKind::None),
        (KvType::Q4_0, RopeKind::None),
        (KvType::F32, RopeKind::None),
        (KvType::F32, RopeKind::Norm),
        (KvType::F32, RopeKind::Neox),
    ] {
        let mut spec = testing::spec(false);
        spec.rope.kind = rope;
        let model = model(&spec, TensorType::F32, 2, Level::current());
        let options = SessionOptions { kv: Some(kv), ..options(8) };
        let mut shifted = model.session(&options).unwrap();
        shifted.prefill(&TOKENS[..20]).unwrap();
        assert_eq!(shifted.shift(3), 9);
        let left = [&TOKENS[..3], &TOKENS[12..20]].concat();
        assert_eq!(shifted.tokens(), left);
        let mut fresh = model.session(&options).unwrap();
        fresh.prefill(&left).unwrap();
        let (a, b) = (shifted.decode(2).unwrap(), fresh.decode(2).unwrap());
        for (a, b) in a.iter().zip(b) {
            assert!((*a - *b).abs() <= if rope == RopeKind::None { 0.0 } else { 1e-4 }, "{rope:?} {a} {b}");
        }
        assert_eq!(fresh.shift(99), 0);
    }
}

#[test]
fn what_does_not_fit_is_an_error() {
    let model = model(&testing::spec(false), TensorType::F32, 1, Level::current());
    let mut session = model.session(&options(8)).unwrap();
    let message = |r: Result<&mut [f32]>| r.err().map(|e| e.to_string()).unwrap_or_default();
    assert_eq!(message(session.extend(&[])), "there are no tokens to evaluate");
    assert_eq!(message(session.extend(&[0; 33])), "33 tokens do not fit in a context of 32");
    assert_eq!(message(session.extend(&[32])), "token 32 is beyond the vocabulary of 32");
    assert!(session.tokens().is_empty());
    session.extend(&[0; 32]).unwrap();
    assert_eq!(message(session.decode(0)), "33 tokens do not fit in a context of 32");
    let huge = SessionOptions { context: usize::MAX / 2, ..options(8) };
    assert_eq!(model.memory(&huge).kv, u64::MAX);
    assert!(model.session(&huge).err().unwrap().to_string().contains("no memory for the cache"));
}

#[test]
fn memory_is_what_the_buffers_take() {
    let model = model(&testing::spec(false), TensorType::Q4_0, 1, Level::current());
    let room = model.room(&options(8));
    let memory = model.program().memory(&room);
    assert_eq!(memory.kv, 2 * 32 * 32 * 2);
    // x, qkv, selected, logits as floats; inputs of matrices as blocks.
    let floats = 64 + 128 + 64 + 32;
    let blocks = (64 + 64 + 96 + 64) / 32;
    assert_eq!(memory.buffers, 8 * (4 * floats + 40 * blocks));
}

#[test]
fn what_is_not_finite_is_named() {
    let spec = testing::spec(false);
    let mut tensors = testing::tensor_list(&spec, &|_| TensorType::F32);
    for tensor in &mut tensors {
        if tensor.name == "blk.0.ffn_up.weight" {
            let mut bytes = tensor.bytes.to_vec();
            bytes[..4].copy_from_slice(&f32::INFINITY.to_le_bytes());
            tensor.bytes = crate::runtime::weights::Bytes::memory(bytes);
        }
    }
    let model = Model::load(spec, tensors, &CpuOptions::default()).unwrap();
    let error = model.session(&options(4)).unwrap().prefill(&[1, 2]).err().unwrap();
    assert_eq!(
        error.to_string(),
        "the model computes values that are not finite: first in `gated` of block 0, at positions 0 to 1"
    );
}

#[test]
fn what_does_not_fit_is_refused() {
    let refused = |change: &dyn Fn(&mut DecoderSpec)| {
        let mut spec = testing::spec(false);
        let tensors = testing::tensor_list(&spec, &|_| TensorType::F32);
        change(&mut spec);
        Model::load(spec, tensors, &CpuOptions::default()).err().map(|e| e.to_string()).unwrap_or_default()
    };
    let messages = [
        refused(&|s| s.norm.placement = NormPlacement::PreAndPost),
        refused(&|s| s.feed_forward.gated = false),
        refused(&|s| {
            s.feed_forward.experts = Some(Experts { count: 8, used: 2, length: 96, normalised: true });
        }),
        refused(&|s| s.rope.scaling = RopeScaling::Factors),
        refused(&|s| s.rope.dims = 33),
        refused(&|s| s.attention.head_count_kv = 0),
        refused(&|s| s.attention.head_count = 1 << 40),
        refused(&|s| s.norm.epsilon = f32::NAN),
    ];
    testing::snapshot("runtime_refusals", &messages.join("\n"));
}

#[test]
fn tensors_without_a_place_are_refused() {
    let with_bias = testing::spec(true);
    let tensors = testing::tensor_list(&with_bias, &|_| TensorType::F32);
    let error = Model::load(testing::spec(false), tensors, &CpuOptions::default()).err().unwrap();
    assert_eq!(
        error.to_string(),
        "tensor `blk.0.attn_q.bias` is there, but the metadata does not ask for it"
    );
    let spec = testing::spec(false);
    let mut tensors = testing::tensor_list(&spec, &|_| TensorType::F32);
    tensors[0].name = "blk.0.attn_sinks.weight".to_owned();
    let again = testing::tensor_list(&spec, &|_| TensorType::F32).into_iter().take(1);
    let error = Model::load(spec, tensors.into_iter().chain(again), &CpuOptions::default()).err().unwrap();
    assert_eq!(
        error.to_string(),
        "tensor `blk.0.attn_sinks.weight` has no place in a model of architecture `test`"
    );
}
