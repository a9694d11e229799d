//! Key-values that differ, and how to say so shortly.

use crate::ir::{Array, Metadata, Value};

/// The most characters of a value that are shown.
const SHOWN: usize = 60;

/// A key that has not the same value in both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyDifference {
    /// The key.
    pub key: String,
    /// The value in the first, for people; `None` where it is missing.
    pub a: Option<String>,
    /// In the second.
    pub b: Option<String>,
    /// Of two arrays: how many elements differ, and the first that does.
    pub elements: Option<String>,
}

/// Compares key by key, in the order of the first, then those that only the second has.
pub fn compare(a: &Metadata, b: &Metadata) -> Vec<KeyDifference> {
    let changed = a.iter().filter_map(|(key, left)| {
        let right = b.get(key);
        if right.is_some_and(|right| same(left, right)) {
            return None;
        }
        let elements = match (left, right) {
            (Value::Array(l), Some(Value::Array(r))) => elements(l, r),
            _ => None,
        };
        // One value in two types would look the same.
        let shown = |value: &Value| match right {
            Some(right) if right.value_type() != left.value_type() => {
                format!("{} ({})", shown(value), format!("{:?}", value.value_type()).to_lowercase())
            }
            _ => shown(value),
        };
        Some(KeyDifference { key: key.to_owned(), a: Some(shown(left)), b: right.map(shown), elements })
    });
    let added = b.iter().filter(|(key, _)| a.get(key).is_none());
    let added = added.map(|(key, value)| KeyDifference {
        key: key.to_owned(),
        a: None,
        b: Some(shown(value)),
        elements: None,
    });
    changed.chain(added).collect()
}

/// Equality by bits: a NaN equals itself.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::F32(a), Value::F32(b)) => a.to_bits() == b.to_bits(),
        (Value::F64(a), Value::F64(b)) => a.to_bits() == b.to_bits(),
        (Value::Array(a), Value::Array(b)) => a.element_type() == b.element_type() && same_arrays(a, b),
        _ => a == b,
    }
}

fn same_arrays(a: &Array, b: &Array) -> bool {
    match (a, b) {
        (Array::F32(a), Array::F32(b)) => a.iter().map(|v| v.to_bits()).eq(b.iter().map(|v| v.to_bits())),
        (Array::F64(a), Array::F64(b)) => a.iter().map(|v| v.to_bits()).eq(b.iter().map(|v| v.to_bits())),
        // The reader bounds how deep they nest.
        (Array::Array(a), Array::Array(b)) => {
            a.len() == b.len()
                && a.iter().zip(b).all(|(a, b)| a.element_type() == b.element_type() && same_arrays(a, b))
        }
        _ => a == b,
    }
}

/// How many elements of two arrays of one type differ, and the first.
fn elements(a: &Array, b: &Array) -> Option<String> {
    if a.element_type() != b.element_type() {
        return None;
    }
    let both = a.len().min(b.len());
    let differs: Vec<usize> = (0..both).filter(|i| element(a, *i) != element(b, *i)).collect();
    let longer = a.len().max(b.len()) - both;
    let first = *differs.first().unwrap_or(&both);
    let at = |array: &Array| element(array, first).unwrap_or_else(|| "nothing".to_owned());
    Some(format!("{} differ, first [{first}]: {} and {}", differs.len() + longer, at(a), at(b)))
}

/// An element as text; `None` beyond the end.
fn element(array: &Array, i: usize) -> Option<String> {
    Some(match array {
        Array::U8(v) => v.get(i)?.to_string(),
        Array::I8(v) => v.get(i)?.to_string(),
        Array::U16(v) => v.get(i)?.to_string(),
        Array::I16(v) => v.get(i)?.to_string(),
        Array::U32(v) => v.get(i)?.to_string(),
        Array::I32(v) => v.get(i)?.to_string(),
        Array::U64(v) => v.get(i)?.to_string(),
        Array::I64(v) => v.get(i)?.to_string(),
        Array::F32(v) => float(f64::from(*v.get(i)?), u64::from(v.get(i)?.to_bits())),
        Array::F64(v) => float(*v.get(i)?, v.get(i)?.to_bits()),
        Array::Bool(v) => v.get(i)?.to_string(),
        Array::String(v) => quoted(v.get(i)?),
        Array::Array(v) => shown(&Value::Array(v.get(i)?.clone())),
    })
}

/// NaNs of other bits are other values.
fn float(value: f64, bits: u64) -> String {
    if value.is_nan() { format!("NaN {bits:#x}") } else { format!("{value:?}") }
}

/// A value on one line.
fn shown(value: &Value) -> String {
    match value {
        Value::U8(v) => v.to_string(),
        Value::I8(v) => v.to_string(),
        Value::U16(v) => v.to_string(),
        Value::I16(v) => v.to_string(),
        Value::U32(v) => v.to_string(),
        Value::I32(v) => v.to_string(),
        Value::U64(v) => v.to_string(),
        Value::I64(v) => v.to_string(),
        Value::F32(v) => v.to_string(),
        Value::F64(v) => v.to_string(),
        Value::Bool(v) => v.to_string(),
        Value::String(v) => quoted(v),
        Value::Array(v) => format!("{} x {}", v.len(), format!("{:?}", v.element_type()).to_lowercase()),
    }
}

/// In quotes, escaped, and cut where it is long.
fn quoted(text: &str) -> String {
    let mut characters = text.chars();
    let start: String = characters.by_ref().take(SHOWN).collect();
    let rest = characters.count();
    if rest > 0 { format!("{start:?}... ({rest} more)") } else { format!("{start:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(entries: &[(&str, Value)]) -> Metadata {
        Metadata::from_unique(entries.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect())
    }

    #[test]
    fn keys_are_held_against_each_other() {
        let strings = |v: &[&str]| Value::from(v.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
        let a = metadata(&[
            ("same", 1u32.into()),
            ("nan", f32::NAN.into()),
            ("nans", vec![f32::NAN, 1.0].into()),
            ("gone", "old".into()),
            ("type", 1u32.into()),
            ("tokens", strings(&["a", "b", "c"])),
            ("scores", vec![1f32, 2.0].into()),
            ("long", "x".repeat(100).as_str().into()),
        ]);
        let b = metadata(&[
            ("new", true.into()),
            ("long", "y".into()),
            ("scores", vec![1f32, 2.0, 3.0].into()),
            ("tokens", strings(&["a", "B", "C"])),
            ("type", 1u64.into()),
            ("nans", vec![f32::NAN, 1.0].into()),
            ("nan", f32::NAN.into()),
            ("same", 1u32.into()),
        ]);
        let lines: Vec<String> = compare(&a, &b)
            .into_iter()
            .map(|d| format!("{}: {:?} {:?} {:?}", d.key, d.a, d.b, d.elements))
            .collect();
        insta::with_settings!({
            snapshot_path => concat!(env!("CARGO_MANIFEST_DIR"), "/snapshots"),
            prepend_module_to_snapshot => false,
            omit_expression => true,
        }, { insta::assert_snapshot!("diff_metadata", lines.join("\n")) });
        assert_eq!(compare(&a, &a), []);
    }
}
