//! Which columns of each matrix matter: the sums of squares of what they are multiplied with, by the
//! rule of llama-imatrix.
//!
//! Each chunk of a text is read from an empty context, and every token of it counts. What is observed are
//! floats, before a quantized model rounds them to blocks. The matrices of the blocks are observed and
//! the output matrix is not, whose errors weigh on all tokens alike.

use std::collections::BTreeMap;

use super::backend::Observer;
use super::chunks::Chunks;
use super::engine::Session;
use super::program::MatrixId;
use crate::diagnostic::{Diagnostic, Result};
use crate::formats::imatrix::{Collected, ColumnSums};

/// The matrices that are observed.
const OBSERVED: &str = "blk.";

/// Collects the sums of a model over the chunks of a text. `progress` is told after each chunk how many
/// are done.
///
/// # Errors
/// The session is smaller than a chunk or cannot be observed, the model fails, or a sum is not finite.
pub fn importance(
    session: &mut Session,
    chunks: &Chunks,
    mut progress: impl FnMut(usize),
) -> Result<Collected> {
    let model = session.model().clone();
    let program = model.program();
    // By name, which the experts of a stack share.
    let mut matrices: BTreeMap<String, ColumnSums> = BTreeMap::new();
    let mut see = |id: MatrixId, nth: usize, columns: &[f32]| {
        let matrix = &program.matrices[id.0];
        if matrix.name().starts_with(OBSERVED) {
            match matrices.get_mut(matrix.name()) {
                Some(sums) => sums.add(nth, columns),
                None => {
                    let mut sums = ColumnSums::new(matrix.cols());
                    sums.add(nth, columns);
                    matrices.insert(matrix.name().to_owned(), sums);
                }
            }
        }
    };
    let see: &mut Observer<'_> = &mut see;
    for (i, chunk) in chunks.iter().enumerate() {
        session.truncate(0);
        session.extend_observed(&chunk, see)?;
        progress(i + 1);
    }
    let collected =
        Collected { datasets: Vec::new(), chunks: chunks.len(), context: chunks.context(), matrices };
    match collected.not_finite() {
        None => Ok(collected),
        Some(name) => {
            let message = format!("the sums of `{name}` are not finite");
            Err(Diagnostic::error(message).code("not-finite").into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::backend::cpu::CpuOptions;
    use super::super::engine::Model;
    use super::super::testing;
    use super::*;
    use mdl_kernels::TensorType;

    const OPTIONS: CpuOptions = CpuOptions { threads: Some(1), level: None };

    fn collect(ty: TensorType, tokens: &[u32], context: usize) -> Collected {
        let spec = testing::spec(false);
        let model =
            Model::load_observable(spec.clone(), testing::tensor_list(&spec, &|_| ty), &OPTIONS).unwrap();
        let chunks = Chunks::new(tokens.to_vec(), Some(1), context, None).unwrap();
        importance(&mut chunks.session(&model).unwrap(), &chunks, |_| ()).unwrap()
    }

    #[test]
    fn every_matrix_of_the_blocks_is_counted_once_a_token() {
        let tokens: Vec<u32> = (0..35).map(|i| i * 7 % 32).collect();
        for ty in [TensorType::F32, TensorType::Q8_0] {
            let found = collect(ty, &tokens, 16);
            let names: Vec<&str> = found.matrices.keys().map(String::as_str).collect();
            let parts = ["attn_k", "attn_output", "attn_q", "attn_v", "ffn_down", "ffn_gate", "ffn_up"];
            assert_eq!(names, parts.map(|p| format!("blk.0.{p}.weight")));
            assert!(found.matrices.values().all(|s| s.counts() == [32]), "{ty}");
            let of = |part: &str| found.matrices[&format!("blk.0.{part}.weight")].sums();
            assert_eq!(of("attn_q"), of("attn_k"), "one input");
            assert_eq!(of("ffn_down").len(), 96);
            assert_ne!(of("attn_q"), of("ffn_up"));
        }
    }

    /// The first norm's output is known without the model: that of the embeddings.
    #[test]
    fn what_is_observed_are_the_floats_before_rounding() {
        use mdl_kernels::ops::{norm::rms_norm, row::dequantize_row};
        let tokens: Vec<u32> = (0..8).map(|i| i * 5 % 32).collect();
        let spec = testing::spec(false);
        for ty in [TensorType::F32, TensorType::Q4_0] {
            let model = Model::load_observable(spec.clone(), testing::tensor_list(&spec, &|_| ty), &OPTIONS);
            let model = model.unwrap();
            let program = model.program();
            let level = mdl_kernels::Level::Portable;
            let mut expected = vec![0.0; 64];
            let mut chunk = tokens.clone();
            chunk[0] = 1;
            for token in chunk {
                let (mut x, mut y) = ([0.0; 64], [0.0; 64]);
                dequantize_row(level, &program.matrices[0].weight(), token as usize, &mut x);
                rms_norm(level, &x, &program.vectors[0], spec.norm.epsilon, &mut y);
                expected.iter_mut().zip(y).for_each(|(sum, y)| *sum += f64::from(y) * f64::from(y));
            }
            let found = collect(ty, &tokens, 8);
            for (found, expected) in found.matrices["blk.0.attn_q.weight"].sums().iter().zip(expected) {
                assert!((found / expected - 1.0).abs() < 1e-5, "{ty}: {found} {expected}");
            }
        }
    }

    /// The sums of a stack are under its one name, and each column counts for those it went through.
    #[test]
    fn experts_count_what_they_are_chosen_for() {
        use super::super::weights::{Bytes, Tensor};
        use crate::{families::spec::Experts, ir::Shape};
        let mut spec = testing::spec(false);
        let mut tensors = testing::tensor_list(&spec, &|_| TensorType::F32);
        tensors.retain(|t| !t.name.contains("ffn_") || t.name.contains("norm"));
        let (count, used, length, width) = (4, 2, 32, 64);
        spec.feed_forward.experts = Some(Experts { count, used, length, normalised: true });
        for (part, shape) in [
            ("ffn_gate_inp", vec![count, width]),
            ("ffn_gate_exps", vec![count, length, width]),
            ("ffn_up_exps", vec![count, length, width]),
            ("ffn_down_exps", vec![count, width, length]),
        ] {
            let values = (0..shape.iter().product::<usize>()).map(|i| (i * 7919 % 101) as f32 / 250.0 - 0.2);
            let bytes = Bytes::memory(values.flat_map(f32::to_le_bytes).collect::<Vec<u8>>());
            let shape = Shape(shape.into_iter().map(|d| d as u64).collect());
            tensors.push(Tensor { name: format!("blk.0.{part}.weight"), shape, ty: TensorType::F32, bytes });
        }
        let model = Model::load_observable(spec, tensors, &OPTIONS).unwrap();
        let chunks = Chunks::new((0..16).map(|i| i * 7 % 32).collect(), None, 16, None).unwrap();
        let found = importance(&mut chunks.session(&model).unwrap(), &chunks, |_| ()).unwrap();
        let of = |part: &str| &found.matrices[&format!("blk.0.{part}.weight")];
        for (part, cols) in [("ffn_gate_exps", width), ("ffn_up_exps", width), ("ffn_down_exps", length)] {
            let (counts, sums) = (of(part).counts(), of(part).sums());
            assert_eq!((counts.len(), sums.len()), (count, count * cols), "{part}");
            assert_eq!(counts.iter().sum::<u64>(), 16 * used as u64, "{part}");
            for (n, sums) in counts.iter().zip(sums.chunks_exact(cols)) {
                assert_eq!(*n > 0, sums.iter().sum::<f64>() > 0.0, "{part}");
            }
        }
        assert_eq!(of("ffn_gate_exps"), of("ffn_up_exps"), "one input");
        assert_eq!(of("ffn_gate_inp").counts(), [16]);
        // Over the experts the router's own input comes twice, once for each that is chosen.
        for (column, sum) in of("ffn_gate_inp").sums().iter().enumerate() {
            let all: f64 = of("ffn_up_exps").sums().iter().skip(column).step_by(width).sum();
            assert!((all / (used as f64 * sum) - 1.0).abs() < 1e-9);
        }
    }

    #[test]
    fn observing_changes_nothing() {
        let spec = testing::spec(true);
        let tensors = || testing::tensor_list(&spec, &|_| TensorType::Q4_0);
        let tokens = [3, 1, 4, 1, 5];
        let plain = Model::load(spec.clone(), tensors(), &OPTIONS).unwrap();
        let observed = Model::load_observable(spec.clone(), tensors(), &OPTIONS).unwrap();
        let options = super::super::engine::SessionOptions { context: 8, ..Default::default() };
        let mut session = observed.session(&options).unwrap();
        session.extend_observed(&tokens[..4], &mut |_, _, _| ()).unwrap();
        let after = session.extend(&tokens[4..]).unwrap().to_vec();
        assert_eq!(after, plain.session(&options).unwrap().prefill(&tokens).unwrap());
    }
}
