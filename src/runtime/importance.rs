//! Which columns of each matrix matter: the sums of squares of what they are multiplied with, by the
//! rule of llama-imatrix.
//!
//! Each chunk of a text is read from an empty context, and every token of it counts. What is observed are
//! floats, before a quantized model rounds them to blocks. The matrices of the blocks are observed and
//! the output matrix is not, whose errors weigh on all tokens alike.

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
    let mut sums: Vec<Option<ColumnSums>> = program.matrices.iter().map(|_| None).collect();
    let mut see = |id: MatrixId, nth: usize, columns: &[f32]| {
        let matrix = &program.matrices[id.0];
        if matrix.name().starts_with(OBSERVED) {
            sums[id.0].get_or_insert_with(|| ColumnSums::new(matrix.cols())).add(nth, columns);
        }
    };
    let see: &mut Observer<'_> = &mut see;
    for (i, chunk) in chunks.iter().enumerate() {
        session.truncate(0);
        session.extend_observed(&chunk, see)?;
        progress(i + 1);
    }
    let named = program.matrices.iter().zip(sums);
    let matrices = named.filter_map(|(m, sums)| Some((m.name().to_owned(), sums?))).collect();
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
