//! Operations on one value at a time, and norms.

use mdl_kernels::Level;
use mdl_kernels::ops::elementwise::{self, Activation};
use mdl_kernels::ops::norm::{layer_norm, rms_norm};

use crate::args;
use crate::harness::{Buffer, both};
use crate::values::{Blocks, Random, quantized, same};

const ACTIVATIONS: [Activation; 5] =
    [Activation::Silu, Activation::GeluTanh, Activation::GeluErf, Activation::Relu, Activation::ReluSquared];

#[test]
fn activations_are_quantized_as_on_the_cpu() {
    let mut random = Random(1);
    for (columns, n) in [(1, 32), (3, 96), (9, 320)] {
        for x in [random.floats(columns * n), random.hostile(columns * n)] {
            let (from, expected) = (Buffer::of(&x), quantized(&x));
            both(|order| {
                let out = Blocks::room(columns, n);
                let grid = [(n / 32).div_ceil(8), columns, 1];
                order.launch("quantize", grid, 256, 0, args![&from, &out.q, &out.meta, n]);
                out.same(&expected, "quantize");
            });
        }
    }
}

#[test]
fn gates_have_the_bits_of_the_cpu() {
    let mut random = Random(2);
    let (columns, n) = (2, 1056);
    for x in [random.floats(columns * 2 * n), random.hostile(columns * 2 * n)] {
        let x: Vec<f32> = x.iter().map(|v| v * 3.0).collect();
        for (kind, activation) in ACTIVATIONS.into_iter().enumerate() {
            for gated in [true, false] {
                let width = if gated { 2 * n } else { n };
                let x = &x[..columns * width];
                let mut expected = vec![0.0; columns * n];
                for (x, out) in x.chunks(width).zip(expected.chunks_mut(n)) {
                    match gated {
                        true => elementwise::gated(Level::Portable, activation, &x[..n], &x[n..], out),
                        false => elementwise::activate(Level::Portable, activation, x, out),
                    }
                }
                let from = Buffer::of(x);
                both(|order| {
                    let out = Buffer::floats(columns * n);
                    let args = args![&from, &out, n, kind, i32::from(gated)];
                    order.launch("gate", [n.div_ceil(256), columns, 1], 256, 0, args);
                    same(&out.read(), &expected, &format!("{activation:?}"));
                    let out = Blocks::room(columns, n);
                    let args = args![&from, &out.q, &out.meta, n, kind, i32::from(gated)];
                    order.launch("gate_quantize", [(n / 32).div_ceil(8), columns, 1], 256, 0, args);
                    out.same(&quantized(&expected), &format!("{activation:?}"));
                });
            }
        }
    }
}

#[test]
fn norms_have_the_bits_of_the_cpu() {
    let mut random = Random(3);
    for n in [1, 16, 33, 63, 64, 100, 576, 2048] {
        for hostile in [false, true] {
            let x = if hostile { random.hostile(3 * n) } else { random.floats(3 * n) };
            let (weight, bias) = (random.floats(n), random.floats(n));
            let (from, w, b) = (Buffer::of(&x), Buffer::of(&weight), Buffer::of(&bias));
            for (kind, with_bias) in [(0, false), (1, false), (1, true)] {
                let mut expected = vec![0.0; 3 * n];
                for (x, out) in x.chunks(n).zip(expected.chunks_mut(n)) {
                    match kind {
                        0 => rms_norm(Level::Portable, x, &weight, 1e-5, out),
                        _ => layer_norm(Level::Portable, x, &weight, with_bias.then_some(&bias), 1e-5, out),
                    }
                }
                let bias = with_bias.then_some(&b);
                both(|order| {
                    let out = Buffer::floats(3 * n);
                    order.launch(
                        "norm_columns",
                        [3, 1, 1],
                        256,
                        4 * n,
                        args![&from, &w, bias, &out, n, kind, 1e-5f32],
                    );
                    same(&out.read(), &expected, &format!("norm {kind} of {n}"));
                    if n % 32 == 0 {
                        let out = Blocks::room(3, n);
                        let args = args![&from, &w, bias, &out.q, &out.meta, n, kind, 1e-5f32];
                        order.launch("norm_quantize", [3, 1, 1], 1024, 4 * n, args);
                        out.same(&quantized(&expected), &format!("norm {kind} of {n}"));
                    }
                });
            }
        }
    }
}

#[test]
fn sums_scales_and_conversions_have_the_bits_of_the_cpu() {
    let mut random = Random(4);
    let n = 300;
    let grid = [n / 256 + 1, 2, 1];
    for (x, y) in
        [(random.floats(2 * n), random.floats(2 * n)), (random.hostile(2 * n), random.hostile(2 * n))]
    {
        both(|order| {
            for factor in [1.0f32, 0.3] {
                let mut expected = y.clone();
                match factor {
                    1.0 => elementwise::add(Level::Portable, &mut expected, &x),
                    _ => elementwise::add_scaled(Level::Portable, &mut expected, &x, factor),
                }
                let out = Buffer::of(&y);
                order.launch("add", grid, 256, 0, args![&Buffer::of(&x), &out, n, factor]);
                same(&out.read(), &expected, "add");
            }
            for cap in [0.0f32, 30.0] {
                let mut expected = x.clone();
                elementwise::scale(Level::Portable, &mut expected, 1.5);
                if cap > 0.0 {
                    elementwise::soft_cap(Level::Portable, &mut expected, cap);
                }
                let out = Buffer::of(&x);
                order.launch("scale_logits", grid, 256, 0, args![&out, n, 1.5f32, cap]);
                same(&out.read(), &expected, "scale_logits");
            }
            let mut expected = y.clone();
            for column in expected.chunks_mut(n) {
                elementwise::add(Level::Portable, &mut column[..100], &x[..100]);
            }
            let out = Buffer::of(&y);
            order.launch("add_bias", [1, 2, 1], 256, 0, args![&Buffer::of(&x), &out, 100usize, n]);
            same(&out.read(), &expected, "add_bias");

            let out = Buffer::floats(3 * n);
            let chosen = Buffer::of(&[1, 0, 1]);
            order.launch("select_columns", [2, 3, 1], 256, 0, args![&Buffer::of(&x), &chosen, &out, n]);
            same(&out.read(), &[&x[n..], &x[..n], &x[n..]].concat(), "select");

            let mut halves = vec![0u16; 2 * n];
            elementwise::to_f16(Level::Portable, &x, &mut halves);
            let out = Buffer::filled(4 * n, 0);
            order.launch("narrow_f16", [3, 1, 1], 256, 0, args![&Buffer::of(&x), &out, 2 * n]);
            let (found, mut a, mut b) = (out.read::<u16>(), vec![0.0; 2 * n], vec![0.0; 2 * n]);
            elementwise::from_f16(Level::Portable, &found, &mut a);
            elementwise::from_f16(Level::Portable, &halves, &mut b);
            same(&a, &b, "narrow_f16");
            let out = Buffer::floats(2 * n);
            order.launch("widen_f16", [3, 1, 1], 256, 0, args![&Buffer::of(&halves), &out, 2 * n]);
            same(&out.read(), &b, "widen_f16");
            let out = Buffer::filled(4 * n, 0);
            order.launch("narrow_bf16", [3, 1, 1], 256, 0, args![&Buffer::of(&x), &out, 2 * n]);
            let found: Vec<f32> =
                out.read::<u16>().iter().map(|v| half::bf16::from_bits(*v).to_f32()).collect();
            let expected: Vec<f32> = x.iter().map(|v| half::bf16::from_f32(*v).to_f32()).collect();
            same(&found, &expected, "narrow_bf16");
        });
    }
}

#[test]
fn hidden_states_are_pooled_in_order() {
    let x = Random(5).floats(3 * 300);
    let mut expected = vec![0.25f64; 300];
    for column in x.chunks(300) {
        expected.iter_mut().zip(column).for_each(|(sum, v)| *sum += f64::from(*v));
    }
    let from = Buffer::of(&x);
    both(|order| {
        let sums = Buffer::of(&[0.25f64; 300]);
        order.launch("pool", [2, 1, 1], 256, 0, args![&from, 3i32, 300i32, &sums]);
        assert_eq!(sums.read::<f64>(), expected);
    });
}

#[test]
fn what_is_not_finite_is_seen() {
    both(|order| {
        for bad in [None, Some(f32::NAN), Some(f32::INFINITY), Some(f32::NEG_INFINITY)] {
            let mut x = vec![f32::MAX; 2 * 700];
            if let Some(bad) = bad {
                x[1399] = bad;
            }
            let flag = Buffer::of(&[0i32]);
            order.launch("check_finite", [1, 2, 1], 256, 0, args![&Buffer::of(&x), 700usize, &flag]);
            assert_eq!(flag.read::<i32>()[0], i32::from(bad.is_some()));
        }
    });
}

#[test]
fn the_shim_refuses_what_a_gpu_would_not_forgive() {
    both(|order| {
        let x = Buffer::floats(64);
        let wrong = |name: &str, threads, args: &[crate::harness::Arg]| {
            order.try_launch(name, [1, 1, 1], threads, 0, args).unwrap_err()
        };
        assert!(wrong("nothing", 32, &[]).contains("no kernel"));
        assert!(wrong("widen_f16", 33, args![&x, &x, 1i32]).contains("33 threads"));
        assert!(wrong("widen_f16", 512, args![&x, &x, 1i32]).contains("512 threads"));
        assert!(wrong("widen_f16", 32, args![&x, &x]).contains("3 arguments"));
        assert!(wrong("widen_f16", 32, args![&x, &x, 1u64]).contains("argument 2"));
    });
}

#[test]
fn the_shim_sees_barriers_that_are_missed() {
    for (name, threads, what) in [
        ("fault_barrier", 64, "a thread has ended before a barrier"),
        ("fault_lanes", 32, "a lane has ended before an instruction of its warp"),
        ("fault_places", 32, "lanes of a warp are at different places"),
        ("fault_mixed", 32, "at a barrier"),
        ("fault_mask", 32, "a mask that is not the whole warp"),
    ] {
        both(|order| {
            let out = Buffer::filled(256, 0);
            let error = order.try_launch(name, [1, 1, 1], threads, 0, args![&out]).unwrap_err();
            assert!(error.contains(what) || error.contains("ended before"), "{name} {order:?}: {error}");
        });
    }
    let results = std::sync::Mutex::new(Vec::new());
    both(|order| {
        let out = Buffer::filled(256, 0);
        order.launch("fault_race", [1, 1, 1], 64, 0, args![&out]);
        results.lock().unwrap().push(out.read::<i32>());
    });
    let results = results.into_inner().unwrap();
    assert_ne!(results[0], results[1], "the order of threads shows");
}
