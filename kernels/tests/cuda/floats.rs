//! Products of float weights.

use mdl_kernels::TensorType;

use crate::args;
use crate::harness::{Buffer, both};
use crate::values::{Random, same};
use crate::weights::{FLOATS, Stored, segment_threads};

#[test]
fn products_of_floats_have_the_bits_of_the_segments() {
    let mut random = Random(61);
    for ty in FLOATS {
        for (rows, cols, columns) in
            [(1, 1, 1), (37, 300, 1), (33, 17 * 256 + 8, 2), (5, 129, 7), (64, 640, 4)]
        {
            let stored = Stored::random(&mut random, ty, rows, cols, false);
            let x = random.floats(columns * cols);
            let expected = stored.product(&x, &[], columns);
            let (x, bias) = (Buffer::of(&x), random.floats(rows));
            let on_device_bias = Buffer::of(&bias);
            let name = format!("matvec_{}", stored.name());
            let what = format!("{ty} {rows}x{cols} {columns}");
            both(|order| {
                let weight = stored.to_device(order);
                let out = Buffer::floats(columns * rows);
                let none: Option<&Buffer> = None;
                let launch = |bias: Option<&Buffer>, add: i32| match columns {
                    1 => {
                        let args =
                            args![&weight, rows, cols, &x, bias, &out, rows, add, none, 1i32, 0i32, 0i64];
                        let grid = [rows.div_ceil(32), 1, 1];
                        order.launch(&format!("{name}_1"), grid, segment_threads(cols), 0, args);
                    }
                    _ => {
                        let args = args![&weight, rows, cols, &x, bias, &out, rows, columns, add];
                        let grid = [rows.div_ceil(32), columns.div_ceil(4), 1];
                        order.launch(&format!("{name}_4"), grid, segment_threads(cols), 0, args);
                    }
                };
                launch(None, 0);
                same(&out.read(), &expected, &what);
                launch(Some(&on_device_bias), 1);
                let sums: Vec<f32> =
                    expected.iter().enumerate().map(|(i, v)| v + (v + bias[i % rows])).collect();
                same(&out.read(), &sums, &what);
            });
        }
    }
}

#[test]
fn the_matrix_unit_multiplies_floats() {
    let mut random = Random(62);
    for ty in [TensorType::F16, TensorType::BF16] {
        for (rows, cols, columns) in [(3, 8, 1), (131, 200, 67), (64, 96, 64)] {
            let stored = Stored::random(&mut random, ty, rows, cols, false);
            let x = random.floats(columns * cols);
            let bias = random.floats(rows);
            // The terms that the unit adds: activations in the weight's type.
            let rounded: Vec<f32> = x
                .iter()
                .map(|v| match ty {
                    TensorType::F16 => half::f16::from_f32(*v).to_f32(),
                    _ => half::bf16::from_f32(*v).to_f32(),
                })
                .collect();
            let expected = stored.product(&rounded, &[], columns);
            let narrow = if ty == TensorType::F16 { "narrow_f16" } else { "narrow_bf16" };
            let (x, on_device_bias) = (Buffer::of(&x), Buffer::of(&bias));
            both(|order| {
                let weight = stored.to_device(order);
                let narrowed = Buffer::filled(2 * columns * cols, 0xff);
                let count = columns * cols;
                order.launch(narrow, [count.div_ceil(256), 1, 1], 256, 0, args![&x, &narrowed, count]);
                let out = Buffer::of(&vec![1.0f32; columns * rows]);
                let args = args![&weight, rows, cols, &narrowed, &on_device_bias, &out, rows, columns, 1i32];
                let grid = [columns.div_ceil(64), rows.div_ceil(128), 1];
                order.launch(&format!("matmul_{}", stored.name()), grid, 256, 0, args);
                for (i, (found, product)) in out.read::<f32>().iter().zip(&expected).enumerate() {
                    let expected = 1.0 + product + bias[i % rows];
                    // The same terms in another order: a few units in the last place of sums of size sqrt(cols).
                    assert!((found - expected).abs() < 1e-4, "{ty} {i}: {found} {expected}");
                }
            });
        }
    }
}
