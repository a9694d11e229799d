//! What must hold for any numbers: levels agree bit for bit, rows stand alone, nothing panics and
//! nothing that is not finite gets in or out.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "this is all tests")]

use mdl_kernels::check::check;
use mdl_kernels::{
    BadBlock, Level, QuantizeError, TensorType, dequantizable, dequantize, dequantize_at, quantizable,
    quantize, quantize_at,
};
use proptest::prelude::*;

const COLS: usize = 512;

fn quantizable_types() -> impl Iterator<Item = TensorType> {
    TensorType::ALL.iter().copied().filter(|ty| quantizable(*ty))
}

fn bytes_of(ty: TensorType, values: usize) -> usize {
    ty.row_bytes(values as u64).unwrap() as usize
}

/// Numbers of one kind: bell-shaped, flat, sparse, tiny, huge, any bits at all.
fn run(len: usize) -> impl Strategy<Value = Vec<f32>> {
    let any_finite = any::<u32>().prop_map(|bits| {
        let v = f32::from_bits(bits);
        if v.is_finite() { v } else { 0.5 }
    });
    let of = |value: BoxedStrategy<f32>| prop::collection::vec(value, len..=len);
    prop_oneof![
        4 => (of((-1f32..1.0).boxed()), -40i32..20).prop_map(|(mut run, e)| {
            run.iter_mut().for_each(|v| *v = *v * *v * *v * 2f32.powi(e));
            run
        }),
        1 => (-1e3f32..1e3).prop_map(move |v| vec![v; len]),
        1 => of(prop_oneof![9 => Just(0.0), 1 => -1f32..1.0].boxed()),
        1 => of((-1f32..1.0).prop_map(|v| v * 1e-38).boxed()),
        1 => of((-1f32..1.0).prop_map(|v| v * 1e19).boxed()),
        1 => of(prop::sample::select(vec![0.0, -0.0, 1e-15, -1e-15, f32::MIN_POSITIVE, 1.0, -1.0]).boxed()),
        1 => of((-3i8..3).prop_map(f32::from).boxed()),
        1 => of(any_finite.boxed()),
    ]
}

fn runs(len: usize) -> impl Strategy<Value = Vec<f32>> {
    prop::sample::select(vec![16usize, 32, 256, 512]).prop_flat_map(move |part| {
        prop::collection::vec(run(part), len / part).prop_map(|parts| parts.concat())
    })
}

fn importance() -> impl Strategy<Value = Option<Vec<f32>>> {
    let magnitudes = || runs(COLS).prop_map(|run| run.into_iter().map(f32::abs).collect::<Vec<f32>>());
    prop_oneof![
        2 => Just(None),
        1 => magnitudes().prop_map(Some),
        1 => prop::collection::vec(0.1f32..10.0, COLS).prop_map(Some),
        1 => prop::collection::vec(prop_oneof![9 => Just(0.0), 1 => 0f32..1.0], COLS).prop_map(Some),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn levels_agree_and_rows_stand_alone(rows in runs(2 * COLS), importance in importance()) {
        let importance = importance.as_deref();
        for ty in quantizable_types() {
            let size = bytes_of(ty, rows.len());
            let mut first = vec![0x11; size];
            let result = quantize_at(Level::Portable, ty, &rows, COLS, importance, &mut first);
            for level in Level::available() {
                let mut bytes = vec![0xee; size];
                prop_assert_eq!(quantize_at(level, ty, &rows, COLS, importance, &mut bytes), result);
                if result.is_ok() {
                    prop_assert!(first == bytes, "{} at {:?}", ty, level);
                }
            }
            match result {
                Ok(()) => {
                    prop_assert_eq!(check(ty, &first), Ok(()));
                    let mut second = vec![0; size / 2];
                    quantize(ty, &rows[COLS..], COLS, importance, &mut second).unwrap();
                    prop_assert!(first[size / 2..] == second[..], "{}", ty);
                    let mut values = vec![f32::NAN; rows.len()];
                    dequantize(ty, &first, &mut values).unwrap();
                    prop_assert!(values.iter().all(|v| v.is_finite()), "{}", ty);
                }
                Err(QuantizeError::Overflow { index, value, ty: named }) => {
                    prop_assert_eq!((rows[index], ty), (value, named));
                }
                Err(error) => prop_assert!(false, "{}: {}", ty, error),
            }
        }
    }

    #[test]
    fn levels_decode_alike(bytes in prop::collection::vec(any::<u8>(), 2 * 1024)) {
        for &ty in TensorType::ALL.iter().filter(|ty| dequantizable(**ty)) {
            let blocks = bytes.len() / ty.block_bytes();
            let bytes = &bytes[..blocks * ty.block_bytes()];
            let mut first = vec![0.0; blocks * ty.block_len()];
            dequantize_at(Level::Portable, ty, bytes, &mut first).unwrap();
            for level in Level::available() {
                let mut values = vec![1.0; first.len()];
                dequantize_at(level, ty, bytes, &mut values).unwrap();
                for (a, b) in first.iter().zip(&values) {
                    prop_assert!(a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan(), "{} at {:?}", ty, level);
                }
            }
        }
    }

    #[test]
    fn what_is_not_finite_is_named(at in 0..2 * COLS, kind in 0..3usize) {
        let bad = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY][kind];
        let mut rows: Vec<f32> = (0..2 * COLS).map(|i| i as f32 * 0.01).collect();
        rows[at] = bad;
        for ty in quantizable_types() {
            let mut out = vec![0; bytes_of(ty, rows.len())];
            match quantize(ty, &rows, COLS, None, &mut out) {
                Err(QuantizeError::NotFinite { index, value }) => {
                    prop_assert_eq!((index, value.to_bits()), (at, bad.to_bits()));
                }
                other => prop_assert!(false, "{}: {:?}", ty, other),
            }
        }
    }
}

#[test]
fn a_corrupted_scale_is_found() {
    let rows: Vec<f32> = (0..4 * COLS).map(|i| (i as f32 * 0.7).sin()).collect();
    // Where each type keeps a number, by the layout.
    for (ty, at) in [
        (TensorType::Q4_0, 0),
        (TensorType::Q4_1, 2),
        (TensorType::Q5_0, 0),
        (TensorType::Q5_1, 2),
        (TensorType::Q8_0, 0),
        (TensorType::Q2_K, 80),
        (TensorType::Q2_K, 82),
        (TensorType::Q3_K, 108),
        (TensorType::Q4_K, 0),
        (TensorType::Q5_K, 2),
        (TensorType::Q6_K, 208),
        (TensorType::IQ4_NL, 0),
        (TensorType::IQ4_XS, 0),
        (TensorType::F16, 0),
    ] {
        let mut bytes = vec![0; bytes_of(ty, rows.len())];
        quantize(ty, &rows, COLS, None, &mut bytes).unwrap();
        assert_eq!(check(ty, &bytes), Ok(()));
        let index = rows.len() / ty.block_len() - 2;
        for half in [0x7c00u16, 0xfe01] {
            bytes[index * ty.block_bytes() + at..][..2].copy_from_slice(&half.to_le_bytes());
            assert!(matches!(check(ty, &bytes), Err(BadBlock { index: i, .. }) if i == index), "{ty}");
        }
    }
}

#[test]
fn numbers_beyond_a_half_are_refused_by_place() {
    let mut rows = vec![0.5f32; 2 * COLS];
    rows[700] = -1e9;
    for ty in quantizable_types() {
        let mut out = vec![0; bytes_of(ty, rows.len())];
        let result = quantize(ty, &rows, COLS, None, &mut out);
        if matches!(ty, TensorType::F32 | TensorType::BF16 | TensorType::Q8_K) {
            assert_eq!(result, Ok(()), "{ty}");
        } else if let Err(error) = result {
            assert_eq!(error, QuantizeError::Overflow { index: 700, value: -1e9, ty });
        } else {
            // The scale of a scale takes more.
            assert!(matches!(ty, TensorType::Q6_K | TensorType::Q3_K | TensorType::IQ4_XS), "{ty}");
        }
    }
    let mut out = vec![0; bytes_of(TensorType::F16, COLS)];
    rows[100] = 65519.0;
    assert_eq!(quantize(TensorType::F16, &rows[..COLS], COLS, None, &mut out), Ok(()));
    rows[100] = 65520.0;
    let error = quantize(TensorType::F16, &rows[..COLS], COLS, None, &mut out).unwrap_err();
    assert_eq!(error.to_string(), "the value at index 100, 6.552e4, is too large for F16");
}

#[test]
fn importance_must_be_finite_and_not_negative_but_may_be_zero() {
    let rows = vec![0.5f32; COLS];
    let mut out = vec![0; bytes_of(TensorType::Q4_K, COLS)];
    let mut quantize =
        |importance: &[f32]| quantize(TensorType::Q4_K, &rows, COLS, Some(importance), &mut out);
    let mut importance = vec![0.0; COLS];
    importance[3] = -0.0;
    assert_eq!(quantize(&importance), Ok(()));
    for bad in [f32::NAN, f32::INFINITY, -1.0] {
        importance[9] = bad;
        match quantize(&importance) {
            Err(QuantizeError::Importance { index: 9, value }) => assert_eq!(value.to_bits(), bad.to_bits()),
            other => panic!("{other:?}"),
        }
    }
    let error = quantize(&importance[1..]).unwrap_err();
    assert_eq!(error, QuantizeError::Length { what: "importance", is: COLS - 1, should: COLS });
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let rows = [0f32; 512];
    let error = |ty, rows: &[f32], cols, out| quantize(ty, rows, cols, None, &mut vec![0; out]).unwrap_err();
    assert_eq!(
        error(TensorType::Q4_K, &rows, 32, 288).to_string(),
        "rows of 32 values are not whole blocks of Q4_K, which hold 256"
    );
    assert_eq!(
        error(TensorType::Q4_0, &rows[..480], 64, 270),
        QuantizeError::Length { what: "rows", is: 480, should: 64 }
    );
    assert_eq!(
        error(TensorType::Q4_0, &rows, 64, 287),
        QuantizeError::Length { what: "out", is: 287, should: 288 }
    );
    assert_eq!(
        error(TensorType::Q4_0, &rows, 0, 288),
        QuantizeError::Length { what: "rows", is: 512, should: 0 }
    );
    assert_eq!(error(TensorType::IQ2_XXS, &[], 256, 0), QuantizeError::Unsupported(TensorType::IQ2_XXS));
    assert_eq!(quantize(TensorType::Q4_K, &[], 256, None, &mut []), Ok(()));
    assert_eq!(quantize(TensorType::Q4_K, &[], 0, None, &mut []), Ok(()));
}
