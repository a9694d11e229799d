//! Fields of a request, read strictly: whatever is wrong with one, the error names it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;

use super::error::ApiError;
use crate::store::Name;

/// Reads a request. Fields that are null are as if they were not there; those in `unsupported` are known to
/// the API but not honoured, and are refused like those that nobody knows.
///
/// # Errors
/// 400: a field is missing, unknown, not supported or of the wrong type.
pub fn read<T: DeserializeOwned>(body: Json, unsupported: &[&str]) -> Result<T, ApiError> {
    let Json::Object(mut fields) = body else {
        return Err(ApiError::bad_request("the request body must be a JSON object"));
    };
    fields.retain(|_, value| !value.is_null());
    serde_path_to_error::deserialize(Json::Object(fields)).map_err(|error| {
        let path = error.path().to_string();
        explain(&path, &error.into_inner().to_string(), unsupported)
    })
}

/// An error of serde in the words of the API. serde tells missing and unknown fields in its text alone.
fn explain(path: &str, why: &str, unsupported: &[&str]) -> ApiError {
    let named = |before: &str| why.strip_prefix(before).and_then(|rest| rest.split('`').next());
    if let Some(field) = named("missing field `") {
        let field = match path {
            "." => field.to_owned(),
            _ => format!("{path}.{field}"),
        };
        return missing(&field);
    }
    if named("unknown field `").is_some() {
        return match unsupported.contains(&path) {
            true => unsupported_parameter(path),
            false => {
                let message = format!("Unrecognized request argument supplied: {}", shown(path));
                ApiError::bad_request(message).param(shown(path))
            }
        };
    }
    invalid(&shown(path), &shown(why))
}

/// A text of the client, cut where it is long.
pub fn shown(text: &str) -> String {
    const MOST: usize = 200;
    match text.char_indices().nth(MOST) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text.to_owned(),
    }
}

/// A field that must be there is not.
pub fn missing(field: &str) -> ApiError {
    ApiError::bad_request(format!("Missing required parameter: '{field}'.")).param(field)
}

/// A field that the API knows and this server does not honour.
pub fn unsupported_parameter(field: &str) -> ApiError {
    ApiError::bad_request(format!("Unsupported parameter: '{field}'")).param(field)
}

/// A field has a value that it cannot have.
pub fn invalid(field: &str, why: &str) -> ApiError {
    ApiError::bad_request(format!("Invalid value for '{field}': {why}")).param(field)
}

/// Checks that a number lies in a range, both ends included.
///
/// # Errors
/// 400.
pub fn number(field: &str, value: f64, least: f64, most: f64) -> Result<f32, ApiError> {
    match (least..=most).contains(&value) {
        true => Ok(value as f32),
        false => Err(invalid(field, &format!("{value} is not a number from {least} to {most}"))),
    }
}

/// Checks that an integer lies in a range, both ends included.
///
/// # Errors
/// 400.
pub fn integer(field: &str, value: i64, least: i64, most: i64) -> Result<i64, ApiError> {
    match (least..=most).contains(&value) {
        true => Ok(value),
        false if most == i64::MAX => {
            Err(invalid(field, &format!("{value} is not an integer of {least} or more")))
        }
        false => Err(invalid(field, &format!("{value} is not an integer from {least} to {most}"))),
    }
}

/// The name of a model.
///
/// # Errors
/// 400: it is none.
pub fn model(text: &str) -> Result<Name, ApiError> {
    if text.is_empty() {
        return Err(ApiError::bad_request("model is required").param("model"));
    }
    Name::parse(text).map_err(|errors| ApiError::from(errors).param("model"))
}

/// Images of these types are known.
const IMAGE_TYPES: &[&str] = &["image/jpeg", "image/jpg", "image/png", "image/webp", "image/gif"];

/// Checks the base64 text of an image.
///
/// # Errors
/// 400: it is no base64, or nothing.
pub fn image(field: &str, media_type: Option<&str>, data: &str) -> Result<String, ApiError> {
    if let Some(media_type) = media_type.filter(|t| !IMAGE_TYPES.contains(t)) {
        return Err(invalid(field, &format!("`{}` is no supported type of image", shown(media_type))));
    }
    match STANDARD.decode(data) {
        Ok(bytes) if !bytes.is_empty() => Ok(data.to_owned()),
        Ok(_) => Err(invalid(field, "the image is empty")),
        Err(_) => Err(invalid(field, "the image is not encoded in base64")),
    }
}

/// Reads an image out of a `data:` URL.
///
/// # Errors
/// 400: it is another kind of URL, or its data is no image.
pub fn image_url(field: &str, url: &str) -> Result<String, ApiError> {
    if url.starts_with("http://") || url.starts_with("https://") {
        let message = "image URLs are not currently supported, please use base64 encoded data instead";
        return Err(ApiError::bad_request(message).param(field));
    }
    let parsed = url.strip_prefix("data:").and_then(|rest| rest.split_once(";base64,"));
    let Some((media_type, data)) = parsed else {
        return Err(invalid(field, "it is not a URL of the form `data:image/png;base64,...`"));
    };
    image(field, Some(media_type).filter(|t| !t.is_empty()), data)
}

/// The name of a tool: what templates and grammars can write as it is.
///
/// # Errors
/// 400.
pub fn tool_name(field: &str, name: &str) -> Result<(), ApiError> {
    const LONGEST: usize = 128;
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ':' | '/');
    match !name.is_empty() && name.len() <= LONGEST && name.chars().all(valid) {
        true => Ok(()),
        false => {
            let why = format!("`{}` is not 1 to {LONGEST} letters, digits or `_-.:/`", shown(name));
            Err(invalid(field, &why))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use serde_json::json;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        #[allow(dead_code)]
        x: u8,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        #[allow(dead_code)]
        name: String,
        #[allow(dead_code)]
        inner: Option<Vec<Inner>>,
    }

    #[test]
    fn errors_name_the_field() {
        for (body, message, param) in [
            (json!([]), "the request body must be a JSON object", None),
            (json!({}), "Missing required parameter: 'name'.", Some("name")),
            (json!({"name": null}), "Missing required parameter: 'name'.", Some("name")),
            (
                json!({"name": "a", "inner": [{}]}),
                "Missing required parameter: 'inner[0].x'.",
                Some("inner[0].x"),
            ),
            (
                json!({"name": "a", "inner": [{"x": 1, "y": 1}]}),
                "Unrecognized request argument supplied: inner[0].y",
                Some("inner[0].y"),
            ),
            (json!({"name": "a", "z": 1}), "Unrecognized request argument supplied: z", Some("z")),
            (json!({"name": "a", "audio": 1}), "Unsupported parameter: 'audio'", Some("audio")),
            (
                json!({"name": "a", "inner": [{"x": 256}]}),
                "Invalid value for 'inner[0].x': invalid value: integer `256`, expected u8",
                Some("inner[0].x"),
            ),
        ] {
            let error = read::<Outer>(body, &["audio"]).unwrap_err();
            assert_eq!((error.message.as_str(), error.param.as_deref()), (message, param));
        }
        assert!(read::<Outer>(json!({"name": "a", "audio": null, "inner": null}), &["audio"]).is_ok());
    }

    #[test]
    fn numbers_stay_in_their_range() {
        for bad in [f64::NAN, f64::INFINITY, 1e308, -0.1, 2.1] {
            assert!(number("temperature", bad, 0.0, 2.0).is_err(), "{bad}");
        }
        assert_eq!(number("temperature", 2.0, 0.0, 2.0).unwrap(), 2.0);
        assert!(integer("n", 0, 1, 5).is_err());
        let error = integer("max_tokens", -3, 1, i64::MAX).unwrap_err();
        assert_eq!(error.message, "Invalid value for 'max_tokens': -3 is not an integer of 1 or more");
    }

    #[test]
    fn images_are_base64() {
        assert_eq!(image_url("u", "data:image/png;base64,aGk=").unwrap(), "aGk=");
        assert_eq!(image_url("u", "data:;base64,aGk=").unwrap(), "aGk=");
        for bad in [
            "",
            "http://x/a.png",
            "https://x/a.png",
            "file:///etc/passwd",
            "data:image/png,aa",
            "data:text/html;base64,aGk=",
            "data:image/png;base64,",
            "data:image/png;base64,???",
        ] {
            assert!(image_url("u", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn tools_have_plain_names() {
        for good in ["get_weather", "mcp__a-b", "a.b/c:d"] {
            assert!(tool_name("t", good).is_ok(), "{good}");
        }
        for bad in ["", "a b", "é", "a\"", "a\n", &"x".repeat(129)] {
            assert!(tool_name("t", bad).is_err(), "{bad}");
        }
    }
}
