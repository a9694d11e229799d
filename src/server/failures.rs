//! What can go wrong with a request, for the API's description.

use std::collections::BTreeMap;

use utoipa::openapi::schema::Schema;
use utoipa::openapi::{ContentBuilder, RefOr, Response, ResponseBuilder};

/// The statuses of errors, and what each says.
const FAILURES: &[(&str, &str)] = &[
    ("400", "The request is wrong, or the model does not support what it asks"),
    ("401", "A key is needed, or the key is not known"),
    ("403", "The host, the origin or the operation is not allowed"),
    ("404", "There is no such model"),
    ("408", "The request did not arrive in time"),
    ("413", "The request is too large"),
    ("500", "The server failed; its log says more"),
    ("503", "Too many requests wait, there is no memory for the model, or the server stops"),
];

/// Every failure, with this body.
pub fn responses(body: RefOr<Schema>) -> BTreeMap<String, RefOr<Response>> {
    let response = |description: &str| {
        let content = ContentBuilder::new().schema(Some(body.clone())).build();
        ResponseBuilder::new().description(description).content("application/json", content).build()
    };
    FAILURES.iter().map(|(status, text)| ((*status).to_owned(), RefOr::T(response(text)))).collect()
}
