//! Schemas of values that may have several types, for the API's description.

use utoipa::openapi::schema::{ObjectBuilder, Schema, SchemaType, Type};

fn any_of(types: [Type; 2]) -> Schema {
    let all = types.into_iter().chain([Type::Null]);
    ObjectBuilder::new().schema_type(SchemaType::from_iter(all)).build().into()
}

/// Seconds or a duration.
pub fn keep_alive() -> Schema {
    any_of([Type::Number, Type::String])
}

/// Yes, no or how much.
pub fn think() -> Schema {
    any_of([Type::Boolean, Type::String])
}

/// `"json"` or a schema.
pub fn format() -> Schema {
    any_of([Type::String, Type::Object])
}

/// A text or a list of texts.
pub fn texts() -> Schema {
    any_of([Type::String, Type::Array])
}
