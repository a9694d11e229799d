//! Products of quantized weights, few columns and many, and rows of tables.

use mdl_kernels::Level;
use mdl_kernels::TensorType;
use mdl_kernels::ops::elementwise::{self, Activation};
use mdl_kernels::ops::row::dequantize_row;

use crate::args;
use crate::harness::{Buffer, Order, both};
use crate::values::{Blocks, Random, quantized, same};
use crate::weights::{FLOATS, QUANTIZED, Stored, segment_threads};

#[test]
fn rows_of_tables_are_those_of_the_cpu() {
    let mut random = Random(21);
    for ty in QUANTIZED.into_iter().chain(FLOATS) {
        let unit = if ty.is_quantized() { ty.block_len() } else { 17 };
        for (rows, cols, hostile) in [(3, unit, true), (37, 9 * unit, false), (64, 3 * unit, true)] {
            let stored = Stored::random(&mut random, ty, rows, cols, hostile);
            let ids = [rows - 1, 0, rows / 2];
            let mut expected = vec![0.0; 3 * cols];
            for (id, out) in ids.iter().zip(expected.chunks_mut(cols)) {
                dequantize_row(Level::Portable, &stored.weight(), *id, out);
            }
            let ids = Buffer::of(&ids.map(|id| id as i32));
            both(|order| {
                let weight = stored.to_device(order);
                let kernel = format!("embed_{}", stored.name());
                let grid = [cols.div_ceil(256), 3, 1];
                let out = Buffer::floats(3 * cols);
                order.launch(&kernel, grid, 256, 0, args![&weight, rows, cols, &ids, &out, 1.0f32, 0i32]);
                same(&out.read(), &expected, &kernel);
                let args = args![&weight, rows, cols, &ids, &out, 0.5f32, 1i32];
                order.launch(&kernel, grid, 256, 0, args);
                let sums: Vec<f32> = expected.iter().map(|v| v + v * 0.5).collect();
                same(&out.read(), &sums, &kernel);
            });
        }
    }
}

/// Launches the kernel that makes a product of so many columns.
#[expect(clippy::too_many_arguments, reason = "what a product takes")]
fn launch(
    order: Order,
    stored: &Stored,
    weight: &Buffer,
    x: &Blocks,
    bias: Option<&Buffer>,
    out: &Buffer,
    columns: usize,
    add: bool,
    kernel: &str,
) {
    let (rows, cols, add) = (stored.rows, stored.cols, i32::from(add));
    let name = format!("{}_{}", kernel, stored.name());
    let panels = rows.div_ceil(32);
    let stride = rows + 3;
    match kernel {
        "matvec" if columns == 1 => {
            let none: Option<&Buffer> = None;
            let args =
                args![weight, rows, cols, &x.q, &x.meta, bias, out, stride, add, none, 1i32, 0i32, 0i64];
            order.launch(&format!("{name}_1"), [panels, 1, 1], segment_threads(cols), 0, args);
        }
        "matvec" => {
            let args = args![weight, rows, cols, &x.q, &x.meta, bias, out, stride, columns, add];
            let grid = [panels, columns.div_ceil(4), 1];
            order.launch(&format!("{name}_4"), grid, segment_threads(cols), 0, args);
        }
        "few" => {
            let args = args![weight, rows, cols, &x.q, &x.meta, bias, out, stride, columns, add];
            let most = if columns <= 8 { 8 } else { 32 };
            let grid = [panels, columns.div_ceil(most), 1];
            order.launch(&format!("matmul_{}_{most}", stored.name()), grid, 256, 0, args);
        }
        _ => {
            let none: Option<&Buffer> = None;
            let args = args![
                weight, rows, cols, &x.q, &x.meta, bias, out, stride, columns, add, none, none, 1i32, 0i32,
                0i64
            ];
            order.launch(&name, [columns.div_ceil(128), rows.div_ceil(128), 1], 512, 0, args);
        }
    }
}

fn check(
    random: &mut Random,
    ty: TensorType,
    (rows, cols, columns): (usize, usize, usize),
    hostile: bool,
    kernel: &str,
) {
    let stored = Stored::random(random, ty, rows, cols, hostile);
    let x = if hostile { random.hostile(columns * cols) } else { random.floats(columns * cols) };
    let blocks = quantized(&x);
    let expected = stored.product(&x, &blocks, columns);
    let x = Blocks::of(&blocks, columns);
    let bias = random.floats(rows);
    let stride = rows + 3;
    both(|order| {
        let weight = stored.to_device(order);
        let out = Buffer::floats(columns * stride);
        launch(order, &stored, &weight, &x, None, &out, columns, false, kernel);
        let what = format!("{kernel} {ty} {rows}x{cols} {columns}");
        let read = |with: &dyn Fn(usize, f32) -> f32| {
            let found = out.read::<f32>();
            for (c, column) in found.chunks(stride).enumerate() {
                let expected: Vec<f32> = (0..rows).map(|r| with(r, expected[c * rows + r])).collect();
                same(&column[..rows], &expected, &format!("{what}, column {c}"));
                assert!(column[rows..].iter().all(|v| v.to_bits() == u32::MAX), "{what}: beyond the rows");
            }
        };
        read(&|_, v| v);
        launch(order, &stored, &weight, &x, Some(&Buffer::of(&bias)), &out, columns, true, kernel);
        read(&|r, v| v + (v + bias[r]));
    });
}

#[test]
fn products_of_few_columns_have_the_bits_of_the_segments() {
    let mut random = Random(22);
    for ty in QUANTIZED {
        let unit = ty.block_len();
        check(&mut random, ty, (1, unit, 1), true, "matvec");
        check(&mut random, ty, (37, 9 * unit.max(96), 1), false, "matvec");
        check(&mut random, ty, (40, 3 * unit, 3), true, "matvec");
        check(&mut random, ty, (32, 17 * 256, 6), false, "matvec");
    }
}

#[test]
fn products_of_a_batch_have_the_bits_of_the_segments() {
    let mut random = Random(23);
    for ty in QUANTIZED {
        let unit = ty.block_len();
        check(&mut random, ty, (3, unit, 5), true, "few");
        check(&mut random, ty, (37, 9 * unit.max(96), 8), false, "few");
        check(&mut random, ty, (32, 3 * unit, 11), true, "few");
        check(&mut random, ty, (33, 9 * 256, 35), false, "few");
    }
    check(&mut random, TensorType::Q4_K, (33, 19 * 256, 9), false, "few");
}

#[test]
fn products_of_many_columns_have_the_bits_of_the_segments() {
    let mut random = Random(24);
    for ty in QUANTIZED {
        let unit = ty.block_len();
        check(&mut random, ty, (5, unit, 3), true, "matmul");
        check(&mut random, ty, (131, 3 * unit.max(96), 67), false, "matmul");
    }
    check(&mut random, TensorType::Q6_K, (33, 19 * 256, 9), false, "matmul");
    check(&mut random, TensorType::Q4_1, (3, 256, 133), false, "matmul");
}

#[test]
fn experts_multiply_the_columns_that_chose_them() {
    let mut random = Random(25);
    let (experts, used, rows, cols, columns) = (5, 2, 40, 512, 7);
    for (ty, each) in [(TensorType::Q4_K, false), (TensorType::Q6_K, true), (TensorType::Q8_0, false)] {
        let weights: Vec<Stored> =
            (0..experts).map(|_| Stored::random(&mut random, ty, rows, cols, false)).collect();
        let inputs = if each { columns * used } else { columns };
        let x = random.floats(inputs * cols);
        let blocks = quantized(&x);
        let chosen: Vec<usize> = (0..columns * used).map(|i| (i * 3 + i / used) % 4).collect();
        let mut expected = Vec::new();
        for (pair, expert) in chosen.iter().enumerate() {
            let input = if each { pair } else { pair / used };
            let own = &blocks[input * cols / 32..(input + 1) * cols / 32];
            expected.extend(weights[*expert].product(&[], own, 1));
        }
        let on_device = Blocks::of(&blocks, inputs);
        let both_halves: Vec<f32> = chosen
            .chunks(used)
            .flat_map(|ids| ids.iter().map(|id| *id as f32).chain([0.5; 2]).collect::<Vec<_>>())
            .collect();
        let chosen_buffer = Buffer::of(&both_halves);
        both(|order| {
            let each = i32::from(each);
            let all: Vec<u8> = weights.iter().flat_map(|w| w.to_device(order).read::<u8>()).collect();
            let (weight, bytes) = (Buffer::of(&all), weights[0].device_bytes() as i64);
            let none: Option<&Buffer> = None;
            let out = Buffer::floats(columns * used * rows);
            let (q, meta) = (&on_device.q, &on_device.meta);
            let args = args![
                &weight,
                rows,
                cols,
                q,
                meta,
                none,
                &out,
                used * rows,
                0i32,
                &chosen_buffer,
                used,
                each,
                bytes
            ];
            let grid = [rows.div_ceil(32), columns * used, 1];
            let name = weights[0].name();
            order.launch(&format!("matvec_{name}_1"), grid, segment_threads(cols), 0, args);
            same(&out.read(), &expected, "matvec of experts");

            let (pairs, offsets) =
                (Buffer::filled(4 * columns * used, 0xff), Buffer::filled(4 * (experts + 1), 0xff));
            let args = args![&chosen_buffer, columns, used, experts, &pairs, &offsets];
            order.launch("experts_group", [1, 1, 1], 256, 4 * experts, args);
            let offsets_read = offsets.read::<i32>();
            for (expert, bounds) in offsets_read.windows(2).enumerate() {
                let own = &pairs.read::<i32>()[bounds[0] as usize..bounds[1] as usize];
                let choosers: Vec<i32> =
                    (0..columns * used).filter(|i| chosen[*i] == expert).map(|i| i as i32).collect();
                assert_eq!(own, choosers);
            }
            let out = Buffer::floats(columns * used * rows);
            let args = args![
                &weight,
                rows,
                cols,
                q,
                meta,
                none,
                &out,
                used * rows,
                columns,
                0i32,
                &pairs,
                &offsets,
                used,
                each,
                bytes
            ];
            order.launch(&format!("matmul_{name}"), [1, 1, experts], 512, 0, args);
            same(&out.read(), &expected, "matmul of experts");
        });
    }
}

#[test]
fn gated_products_are_gates_of_products() {
    let mut random = Random(26);
    for ty in QUANTIZED {
        for (rows, cols, columns, fused) in [(64, 512, 1, false), (32, 512, 3, true)] {
            let up_panel = if fused { rows / 32 } else { 0 };
            let count = if fused { 1 } else { 2 };
            let weights: Vec<Stored> = (0..count)
                .map(|_| Stored::random(&mut random, ty, if fused { 2 * rows } else { rows }, cols, false))
                .collect();
            let blocks = quantized(&random.floats(columns * cols));
            let bias = random.floats(2 * rows);
            let products: Vec<Vec<f32>> = weights.iter().map(|w| w.product(&[], &blocks, columns)).collect();
            let mut expected = vec![0.0; columns * rows];
            for (c, out) in expected.chunks_mut(rows).enumerate() {
                let half = |i: usize| {
                    let all = match fused {
                        true => &products[0][(2 * c + i) * rows..][..rows],
                        false => &products[i][c * rows..][..rows],
                    };
                    all.iter().zip(&bias[i * rows..]).map(|(v, b)| v + b).collect::<Vec<f32>>()
                };
                elementwise::gated(Level::Portable, Activation::Silu, &half(0), &half(1), out);
            }
            let x = Blocks::of(&blocks, columns);
            let biases = [Buffer::of(&bias[..rows]), Buffer::of(&bias[rows..])];
            both(|order| {
                let on_device: Vec<Buffer> = weights.iter().map(|w| w.to_device(order)).collect();
                let up = &on_device[count - 1];
                let (floats, room) = (Buffer::floats(columns * rows), Blocks::room(columns, rows));
                let c = if columns == 1 { 1 } else { 4 };
                let name = format!("gated_{}_{c}", weights[0].name());
                let grid = [rows / 32, columns.div_ceil(c), 1];
                let none: Option<&Buffer> = None;
                let weight_rows = weights[0].rows;
                let args = args![
                    &on_device[0],
                    up,
                    weight_rows,
                    up_panel,
                    rows,
                    cols,
                    &x.q,
                    &x.meta,
                    &biases[0],
                    &biases[1],
                    0i32,
                    &floats,
                    none,
                    none,
                    columns
                ];
                order.launch(&name, grid, segment_threads(cols), 0, args);
                same(&floats.read(), &expected, &name);
                let args = args![
                    &on_device[0],
                    up,
                    weight_rows,
                    up_panel,
                    rows,
                    cols,
                    &x.q,
                    &x.meta,
                    &biases[0],
                    &biases[1],
                    0i32,
                    none,
                    &room.q,
                    &room.meta,
                    columns
                ];
                order.launch(&name, grid, segment_threads(cols), 0, args);
                room.same(&quantized(&expected), &name);
            });
        }
    }
}
