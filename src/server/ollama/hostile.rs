//! Every field of every request with values that nobody should send: a request is read or refused, and
//! never anything else.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

/// Values of every type, small and large.
fn values() -> Vec<Value> {
    let deep =
        (0..100).fold(json!(1), |inner, i| if i % 2 == 0 { json!([inner]) } else { json!({ "a": inner }) });
    vec![
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(1.5),
        json!(f64::MAX),
        json!(""),
        json!("x"),
        json!("0s"),
        json!("\u{0}\u{10ffff}"),
        json!("y".repeat(100_000)),
        json!([]),
        json!([null]),
        json!([1, "a", {}]),
        json!({}),
        json!({"a": null, "": "", "..": "sha256:0"}),
        json!({"role": "user", "temperature": -1, "stop": [[]]}),
        deep,
    ]
}

/// Puts each value in each field of `fields`, alone and beside the fields of `base`. The results of `read`
/// are errors with a text, or none.
pub fn each_field<T: DeserializeOwned>(fields: &[&str], base: &Value, read: impl Fn(T) -> Option<String>) {
    for field in fields {
        for value in values() {
            for base in [Map::new(), base.as_object().cloned().unwrap_or_default()] {
                let mut request = base;
                request.insert((*field).to_owned(), value.clone());
                let text = Value::Object(request).to_string();
                let why = match serde_json::from_str(&text) {
                    Ok(request) => read(request),
                    Err(error) => Some(error.to_string()),
                };
                if let Some(why) = why {
                    assert!(!why.is_empty() && why.len() < 120_000, "{field}");
                }
            }
        }
    }
}
