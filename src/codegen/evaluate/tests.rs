//! Rows of expressions, whole and in chunks.

use proptest::prelude::*;

use super::*;
use crate::ir::FileId;

/// A file of `rows x cols` float32 values that count up.
fn counting(rows: u64, cols: u64) -> (Vec<SourceFile>, Expr) {
    let bytes: Vec<u8> = (0..rows * cols).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let file: Arc<[u8]> = bytes.into();
    let files = vec![SourceFile { path: "m".into(), file: Arc::new(file) }];
    let shape = Shape(vec![rows, cols]);
    let load = Expr::Load { file: FileId(0), offset: 0, len: rows * cols * 4, dtype: TensorType::F32, shape };
    (files, load)
}

fn all(expr: &Expr, files: &[SourceFile]) -> Vec<f32> {
    let e = Evaluator::new(expr, files).unwrap();
    let whole = e.values(0..e.rows()).unwrap();
    let by_row: Vec<f32> = (0..e.rows()).flat_map(|r| e.values(r..r + 1).unwrap()).collect();
    assert_eq!(whole, by_row, "rows do not depend on the chunk they are made in");
    whole
}

#[test]
fn permuting_interleaves_the_halves_of_each_head() {
    let (files, load) = counting(8, 1);
    let expr = Expr::PermuteRope { of: Box::new(load), heads: 2 };
    assert_eq!(all(&expr, &files), [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
}

#[test]
fn a_vector_is_permuted_element_by_element() {
    let (files, load) = counting(1, 8);
    let Expr::Load { file, offset, len, dtype, .. } = load else { unreachable!() };
    let vector = Expr::Load { file, offset, len, dtype, shape: Shape(vec![8]) };
    let expr = Expr::PermuteRope { of: Box::new(vector), heads: 2 };
    assert_eq!(all(&expr, &files), [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
}

#[test]
fn halving_undoes_permuting() {
    let (files, load) = counting(12, 2);
    let permuted = Expr::PermuteRope { of: Box::new(load.clone()), heads: 2 };
    let halved = Expr::HalveRope { of: Box::new(permuted), heads: 2 };
    assert_eq!(all(&halved, &files), all(&load, &files));
    let halved = Expr::HalveRope { of: Box::new(load.clone()), heads: 2 };
    assert_eq!(all(&halved, &files)[..4], [0.0, 1.0, 4.0, 5.0]);
    assert_eq!(Expr::permute_rope(halved.clone(), 2), load);
    assert!(matches!(Expr::permute_rope(halved, 4), Expr::PermuteRope { heads: 4, .. }));
}

#[test]
fn moved_rows_are_the_same_bytes() {
    let (files, load) = counting(8, 4);
    let expr = Expr::PermuteRope { of: Box::new(load), heads: 2 };
    let e = Evaluator::new(&expr, &files).unwrap();
    let values: Vec<u8> = e.values(3..7).unwrap().iter().flat_map(|v| v.to_le_bytes()).collect();
    assert_eq!(e.bytes(3..7).unwrap(), values);
}

#[test]
fn stacks_splits_and_transposes() {
    let (files, load) = counting(4, 3);
    let lower = Expr::Split { of: Box::new(load.clone()), start: 2, rows: 2 };
    assert_eq!(all(&lower, &files), [6.0, 7.0, 8.0, 9.0, 10.0, 11.0]);
    let stack = Expr::Stack(vec![lower.clone(), Expr::Split { of: Box::new(load), start: 0, rows: 2 }]);
    assert_eq!(all(&stack, &files)[4..8], [10.0, 11.0, 0.0, 1.0]);
    let transposed = Expr::Transpose(Box::new(lower));
    assert_eq!(all(&transposed, &files), [6.0, 9.0, 7.0, 10.0, 8.0, 11.0]);
}

#[test]
fn blocks_are_scaled_up_to_the_edges_and_expert_by_expert() {
    let (files, Expr::Load { file, offset, len, dtype, .. }) = counting(6, 5) else { unreachable!() };
    let load = Expr::Load { file, offset, len, dtype, shape: Shape(vec![2, 3, 5]) };
    let factors: Vec<f32> = (0..12).map(|i| (i + 1) as f32).collect();
    let scales = Expr::Const { values: factors.as_slice().into(), shape: Shape(vec![2, 2, 3]) };
    let expr = Expr::ScaleBlocks { of: Box::new(load), scales: Box::new(scales), block: [2, 2] };
    let expected: Vec<f32> = (0..30)
        .map(|i| {
            let (expert, row, col) = (i / 15, i / 5 % 3, i % 5);
            i as f32 * factors[expert * 6 + row / 2 * 3 + col / 2]
        })
        .collect();
    assert_eq!(all(&expr, &files), expected);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever the blocks, and whatever moves the rows afterwards: each value times its scale.
    #[test]
    fn every_value_has_the_scale_of_its_block(
        (rows, cols) in (1..12u64, 1..12u64),
        (tall, wide) in (1..14u64, 1..14u64),
        start in 0..12u64,
    ) {
        let (files, load) = counting(rows, cols);
        let [down, across] = [rows.div_ceil(tall), cols.div_ceil(wide)];
        let factors: Vec<f32> = (0..down * across).map(|i| 0.1 + i as f32).collect();
        let scales = Expr::Const { values: factors.as_slice().into(), shape: Shape(vec![down, across]) };
        let expr = Expr::ScaleBlocks { of: Box::new(load), scales: Box::new(scales), block: [tall, wide] };
        let value = |row: u64, col: u64| {
            (row * cols + col) as f32 * factors[(row / tall * across + col / wide) as usize]
        };
        let of_rows = |rows: std::ops::Range<u64>| -> Vec<f32> {
            rows.flat_map(|row| (0..cols).map(move |col| (row, col))).map(|(row, col)| value(row, col)).collect()
        };
        prop_assert_eq!(all(&expr, &files), of_rows(0..rows));
        let start = start % rows;
        let split = Expr::Split { of: Box::new(expr), start, rows: rows - start };
        prop_assert_eq!(all(&split, &files), of_rows(start..rows));
        let evaluator = Evaluator::new(&split, &files).unwrap();
        let bytes: Vec<u8> = of_rows(start..rows).iter().flat_map(|v| v.to_le_bytes()).collect();
        prop_assert_eq!(evaluator.bytes(0..rows - start).unwrap(), bytes);
    }
}

#[test]
fn mxfp4_is_put_in_blocks_of_the_same_values() {
    // Two rows of 64 values: 4 blocks of 16 bytes, then 4 scales.
    let bytes: Vec<u8> = (0..64u8).map(|i| i.wrapping_mul(37)).chain([127, 128, 120, 0]).collect();
    let table = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    let value = |code: u8| if code & 8 == 0 { table[code as usize] } else { -table[code as usize - 8] };
    let expected: Vec<f32> = (0..128)
        .map(|i| {
            let code = bytes[i / 2] >> (i % 2 * 4) & 15;
            (value(code) * 2f64.powi(i32::from(bytes[64 + i / 32]) - 127)) as f32
        })
        .collect();
    let files = vec![SourceFile { path: "m".into(), file: Arc::new(Arc::<[u8]>::from(bytes)) }];
    let load = |offset: u64, shape: &[u64]| {
        let shape = Shape(shape.to_vec());
        Box::new(Expr::Load { file: FileId(0), offset, len: shape.len(), dtype: TensorType::U8, shape })
    };
    let expr = Expr::Mxfp4 { blocks: load(0, &[2, 2, 16]), scales: load(64, &[2, 2]) };
    assert_eq!((expr.shape().0, expr.byte_len()), (vec![2, 64], Some(68)));
    assert_eq!(all(&expr, &files), expected);
    let e = Evaluator::new(&expr, &files).unwrap();
    let second = Expr::Split { of: Box::new(expr.clone()), start: 1, rows: 1 };
    let split = Evaluator::new(&second, &files).unwrap();
    assert_eq!(split.bytes(0..1).unwrap(), e.bytes(0..2).unwrap()[34..]);
}

#[test]
fn a_low_rank_change_is_base_plus_scaled_product() {
    let (files, base) = counting(2, 2);
    let a = Expr::Const { values: [1.0, 10.0].as_slice().into(), shape: Shape(vec![1, 2]) };
    let b = Expr::Const { values: [2.0, 3.0].as_slice().into(), shape: Shape(vec![2, 1]) };
    let expr = Expr::LowRank { base: Box::new(base), a: Box::new(a), b: Box::new(b), scale: 0.5 };
    assert_eq!(all(&expr, &files), [1.0, 11.0, 3.5, 18.0]);
}

#[test]
fn a_norm_gives_each_row_its_length() {
    let (files, _) = counting(1, 1);
    let vector = |values: &[f32]| Expr::Const { values: values.into(), shape: Shape(vec![2]) };
    let of = Expr::Const { values: [3.0, 4.0, 0.0, -2.0].as_slice().into(), shape: Shape(vec![2, 2]) };
    let expr = Expr::WeightNorm { of: Box::new(of), magnitude: Box::new(vector(&[10.0, 0.5])) };
    assert_eq!(all(&expr, &files), [6.0, 8.0, 0.0, -0.5]);
}
