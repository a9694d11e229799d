//! Products of floats on every level against the definition.

use super::super::tests::{Random, bits};
use super::*;

const TYPES: [TensorType; 3] = [TensorType::F32, TensorType::F16, TensorType::BF16];

/// The bytes of these values, rounded to the type.
fn encode(ty: TensorType, values: &[f32]) -> Vec<u8> {
    match ty {
        TensorType::F16 => values.iter().flat_map(|v| half::f16::from_f32_const(*v).to_le_bytes()).collect(),
        TensorType::BF16 => {
            values.iter().flat_map(|v| half::bf16::from_f32_const(*v).to_le_bytes()).collect()
        }
        _ => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    }
}

/// The values of the bytes.
fn decode(ty: TensorType, bytes: &[u8]) -> Vec<f32> {
    let two = bytes.as_chunks().0.iter().copied();
    match ty {
        TensorType::F16 => two.map(|b| half::f16::from_le_bytes(b).to_f32_const()).collect(),
        TensorType::BF16 => two.map(|b| half::bf16::from_le_bytes(b).to_f32_const()).collect(),
        _ => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
    }
}

/// 2^`n`.
fn power(n: i32) -> f32 {
    2f32.powi(n)
}

/// Whether a weight is multiplied with rounded columns, as the head of [`pairs`] has it.
fn rounds(ty: TensorType, w: &[f32]) -> bool {
    ty == TensorType::BF16 && w.iter().all(|w| *w == 0.0 || !w.is_finite() || w.abs() >= power(-62))
}

/// The definition, as the head of this module has it.
fn defined(w: &[f32], x: &[f32], rounds: bool) -> f32 {
    let rounded = |x: f32| match x.abs() < power(-50) {
        true => 0.0,
        false => half::bf16::from_f32_const(x).to_f32_const(),
    };
    let pair = |sum: f32, (w, x): (&[f32], &[f32])| match (w, x) {
        ([w0, w1], [x0, x1]) if rounds => w0.mul_add(rounded(*x0), w1.mul_add(rounded(*x1), sum)),
        ([w0], [x0]) if rounds => w0.mul_add(rounded(*x0), sum),
        _ => w.iter().zip(x).fold(sum, |sum, (w, x)| w.mul_add(*x, sum)),
    };
    let block = |(w, x): (&[f32], &[f32])| w.chunks(2).zip(x.chunks(2)).fold(0.0f32, pair);
    w.chunks(BLOCK).zip(x.chunks(BLOCK)).map(block).reduce(|a, b| a + b).unwrap_or(0.0)
}

/// Ways that a level multiplies a weight in.
fn ways(level: Level, weight: &Weight<'_>, packed: Option<&PackedFloat>) -> Vec<Way> {
    match Way::of(level, weight, packed) {
        // A machine of this level need not have the instruction.
        #[cfg(target_arch = "x86_64")]
        way @ Way::Dot(_) => vec![way, Way::Rounded],
        way => vec![way],
    }
}

/// `[columns, rows]`.
fn run(
    level: Level,
    weight: &Weight<'_>,
    packed: Option<&PackedFloat>,
    rows: Range<usize>,
    x: &[f32],
) -> Vec<Vec<f32>> {
    let n = x.len() / weight.cols();
    let all = ways(level, weight, packed).into_iter().map(|way| {
        let mut out = vec![vec![f32::NAN; rows.len()]; n];
        let mut times = vec![vec![0; rows.len()]; n];
        let mut put = |row: usize, c: usize, values: &[f32]| {
            let at = row - rows.start;
            out[c][at..at + values.len()].copy_from_slice(values);
            times[c][at..at + values.len()].iter_mut().for_each(|n| *n += 1);
        };
        multiply_in(way, level, weight, packed, rows.clone(), x, &mut Room::default(), &mut put);
        assert!(times.iter().flatten().all(|n| *n == 1), "each value is put once");
        out
    });
    let equal = |a: Vec<Vec<f32>>, b: Vec<Vec<f32>>| {
        assert!(a.iter().zip(&b).all(|(a, b)| bits(a) == bits(b)), "{level:?}: every way gives the same");
        a
    };
    all.reduce(equal).unwrap()
}

/// Every level, packed or not, all of it and a part from the midst of a panel, against the definition.
fn check(ty: TensorType, (rows, cols): (usize, usize), bytes: &[u8], x: &[f32], rounded: bool) {
    let n = x.len() / cols;
    let weight = Weight::new(ty, rows, cols, bytes).unwrap();
    let packed = PackedFloat::new(&weight).unwrap().unwrap();
    let w = decode(ty, bytes);
    assert_eq!(rounds(ty, &w), rounded);
    assert_eq!(packed.rounds(), rounded);
    let expected: Vec<Vec<u32>> = x
        .chunks(cols)
        .map(|x| bits(&w.chunks(cols).map(|w| defined(w, x, rounded)).collect::<Vec<_>>()))
        .collect();
    for level in Level::available() {
        for packed in [None, Some(&packed)] {
            let what = format!("{ty} {level:?} {rows}x{cols}x{n} packed {}", packed.is_some());
            for (c, out) in run(level, &weight, packed, 0..rows, x).iter().enumerate() {
                assert_eq!(bits(out), expected[c], "{what} column {c}");
            }
            let (r, c) = (rows / 3..rows - rows / 4, n / 2);
            let part = run(level, &weight, packed, r.clone(), &x[c * cols..]);
            for (out, expected) in part.iter().zip(&expected[c..]) {
                assert_eq!(bits(out), expected[r.clone()], "{what} part");
            }
        }
    }
}

/// Whole and odd shapes, with few columns and many.
const SHAPES: [(usize, usize, usize); 12] = [
    (1, 1, 1),
    (5, 15, 3),
    (16, 128, 1),
    (80, 129, 1),
    (33, 300, 2),
    (48, 127, 5),
    (17, 256, 13),
    (35, 40, 24),
    (35, 40, 25),
    (20, 300, 39),
    (300, 17, 26),
    (17, 130, COLUMNS + 27),
];

#[test]
fn products_are_those_of_the_definition() {
    let mut random = Random(21);
    for (rows, cols, n) in SHAPES {
        for ty in TYPES {
            let bytes = encode(ty, &random.floats(rows * cols));
            check(ty, (rows, cols), &bytes, &random.floats(n * cols), ty == TensorType::BF16);
        }
    }
}

#[test]
fn products_of_hostile_values_are_those_of_the_definition() {
    let mut random = Random(22);
    for (rows, cols, n) in SHAPES {
        for ty in TYPES {
            let mut w = random.hostile(rows * cols);
            // A denormal, whatever the rest is.
            w[rows * cols / 2] = 1e-39;
            check(ty, (rows, cols), &encode(ty, &w), &random.hostile(n * cols), false);
        }
        let sane = |w: f32| if w.is_finite() && w.abs() < power(-62) { -0.0 } else { w };
        let w: Vec<f32> = random.hostile(rows * cols).into_iter().map(sane).collect();
        let bytes = encode(TensorType::BF16, &w);
        check(TensorType::BF16, (rows, cols), &bytes, &random.hostile(n * cols), true);
    }
}

/// Sums of the least products that there are, which cancel and would be denormals if they were any less; and of the
/// greatest, which overflow.
#[test]
fn sums_of_the_least_and_the_greatest_products_are_those_of_the_definition() {
    let mut random = Random(23);
    for (weights, activations) in [(-62, -50), (-61, -51), (60, 66), (63, 63)] {
        for (rows, cols, n) in [(19, 130, 1), (33, 257, 5), (40, 64, 30)] {
            let mut near = |exponent: i32| {
                let fraction = (random.bits() % 128) as f32 / 128.0;
                let sign = if random.bits().is_multiple_of(2) { 1.0 } else { -1.0 };
                sign * (1.0 + fraction) * power(exponent)
            };
            let w: Vec<f32> = (0..rows * cols).map(|_| near(weights)).collect();
            let x: Vec<f32> = (0..n * cols).map(|_| near(activations)).collect();
            check(TensorType::BF16, (rows, cols), &encode(TensorType::BF16, &w), &x, true);
        }
    }
}

/// One tiny value keeps a whole weight from rounded columns, in whatever row it is.
#[test]
fn a_weight_with_a_tiny_value_takes_columns_as_they_are() {
    let mut random = Random(24);
    let (rows, cols) = (37, 50);
    let x = random.floats(3 * cols);
    let mut w = random.floats(rows * cols);
    for (value, rounded) in
        [(power(-62), true), (power(-63) * 1.984375, false), (-1e-40, false), (-0.0, true)]
    {
        w[rows * cols - 1] = value;
        check(TensorType::BF16, (rows, cols), &encode(TensorType::BF16, &w), &x, rounded);
    }
    assert!(x.iter().any(|x| half::bf16::from_f32_const(*x).to_f32_const() != *x));
}

/// Not less exact on long rows than sixteen interleaved sums.
#[test]
fn sums_of_blocks_are_exact_enough() {
    let mut random = Random(4);
    let cols = 8192;
    let (mut ours, mut lanes) = (0.0, 0.0);
    for _ in 0..100 {
        let (w, x) = (random.floats(cols), random.floats(cols));
        let exact: f64 = w.iter().zip(&x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
        let bytes = encode(TensorType::F32, &w);
        let weight = Weight::new(TensorType::F32, 1, cols, &bytes).unwrap();
        let sum = run(Level::detect(), &weight, None, 0..1, &x)[0][0];
        ours += (f64::from(sum) - exact).powi(2);
        let mut sums = [0.0f32; LANES];
        for (i, (w, x)) in w.iter().zip(&x).enumerate() {
            sums[i % LANES] = w.mul_add(*x, sums[i % LANES]);
        }
        lanes += (f64::from(sums.iter().sum::<f32>()) - exact).powi(2);
    }
    assert!(ours <= lanes, "squares of errors: {ours:e}, {lanes:e} in lanes");
}

#[test]
fn a_tile_of_floats_leaves_work_for_all_threads() {
    assert_eq!(tile_of_floats(576, FEW, 2), None);
    assert_eq!(tile_of_floats(576, 512, 2), Some((192, 264)));
    assert_eq!(tile_of_floats(1536, 512, 16), Some((256, 48)));
    assert_eq!(tile_of_floats(1, 4096, 2), Some((32, COLUMNS)));
    for width in [12, 6] {
        assert_eq!(COLUMNS % width, 0, "a full block of columns has no cut tile");
    }
}
