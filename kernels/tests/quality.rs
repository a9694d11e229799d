//! What each format costs: a committed table of size and error.

#![allow(clippy::unwrap_used, reason = "this is all tests")]

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use mdl_kernels::{TensorType, dequantize, quantizable, quantize};

const COLS: usize = 1024;

fn floats(name: &str) -> Vec<f32> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../testdata/golden/quantize").join(name);
    fs::read(&path).unwrap().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// The root of the weighted mean square error, against that of the values.
fn error(rows: &[f32], decoded: &[f32], weights: &[f32]) -> f64 {
    let (mut error, mut power) = (0.0, 0.0);
    for (i, (x, y)) in rows.iter().zip(decoded).enumerate() {
        let (x, y, w) = (f64::from(*x), f64::from(*y), f64::from(weights[i % COLS]));
        error += w * (x - y) * (x - y);
        power += w * x * x;
    }
    (error / power).sqrt()
}

#[test]
fn quantization_error() {
    let input = floats("input.f32");
    let importance = floats("imatrix.f32");
    // The bell-shaped rows.
    let rows = [&input[..COLS], &input[8 * COLS..9 * COLS]].concat();
    let same = vec![1.0; COLS];

    let mut table = String::from(
        "                        error, %   error under importance, %\n\
         type     bits/weight       plain       plain    weighted\n",
    );
    for &ty in TensorType::ALL.iter().filter(|ty| quantizable(**ty)) {
        let mut bytes = vec![0; ty.row_bytes(rows.len() as u64).unwrap() as usize];
        let mut decoded = vec![0.0; rows.len()];
        let mut errors = |weights| {
            quantize(ty, &rows, COLS, weights, &mut bytes).unwrap();
            dequantize(ty, &bytes, &mut decoded).unwrap();
            (100.0 * error(&rows, &decoded, &same), 100.0 * error(&rows, &decoded, &importance))
        };
        let ((plain, under), (_, weighted)) = (errors(None), errors(Some(&importance[..])));
        let bits = ty.block_bytes() as f64 * 8.0 / ty.block_len() as f64;
        writeln!(table, "{:8} {bits:11.4} {plain:11.4} {under:11.4} {weighted:11.4}", ty.name()).unwrap();
        assert!(weighted <= under * 1.001, "{ty}: importance must not make things worse where it counts");
    }
    insta::with_settings!({
        snapshot_path => concat!(env!("CARGO_MANIFEST_DIR"), "/../snapshots"),
        prepend_module_to_snapshot => false,
        omit_expression => true,
        description => "Root mean square error against that of the values, bell-shaped input.",
    }, {
        insta::assert_snapshot!("kernels_quantization_error", table);
    });
}
