//! The page for a browser, and the reference of the API: files of this folder, as they are.
//!
//! They load nothing from elsewhere, and the browser is told to hold them to that: a text of a model could
//! not run or reach anything even if it became more than text.

use std::sync::Arc;

use axum::Router;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use sha2::{Digest as _, Sha256};

use super::app::App;
use super::error::{self, ApiError};

/// A file that is served.
struct Asset {
    /// Below `/page/`.
    name: &'static str,
    content_type: &'static str,
    text: &'static str,
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

macro_rules! asset {
    ($name:literal, $content_type:expr) => {
        Asset { name: $name, content_type: $content_type, text: include_str!($name) }
    };
}

const CHAT: Asset = asset!("index.html", HTML);
const REFERENCE: Asset = asset!("reference.html", HTML);

/// What the pages load.
const ASSETS: &[Asset] = &[
    asset!("page.css", CSS),
    asset!("icon.svg", SVG),
    asset!("activity.js", SCRIPT),
    asset!("api.js", SCRIPT),
    asset!("card.js", SCRIPT),
    asset!("chat.js", SCRIPT),
    asset!("dom.js", SCRIPT),
    asset!("markdown.js", SCRIPT),
    asset!("page.js", SCRIPT),
    asset!("reference.js", SCRIPT),
    asset!("schema.js", SCRIPT),
];

/// What the browser holds a page to.
const STRICT: &[(HeaderName, &str)] = &[
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    // A new version's files are never mixed with those of an old one.
    (header::CACHE_CONTROL, "no-cache"),
];

/// The page, the reference, and what they load.
pub fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/", get(root))
        .route("/reference", get(async |headers: HeaderMap| REFERENCE.serve(&headers)))
        .route("/page/{name}", get(asset))
}

/// `/`: the page for a browser. Everyone else asks whether the server lives, as clients of Ollama do.
async fn root(headers: HeaderMap) -> Response {
    let mut response = match wants_html(&headers) {
        true => CHAT.serve(&headers),
        false => "Ollama is running".into_response(),
    };
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept"));
    response
}

async fn asset(Path(name): Path<String>, headers: HeaderMap) -> Result<Response, ApiError> {
    match ASSETS.iter().find(|a| a.name == name) {
        Some(asset) => Ok(asset.serve(&headers)),
        None => Err(error::no_page()),
    }
}

/// True where `Accept` names HTML.
fn wants_html(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok());
    values.flat_map(|v| v.split(',')).any(|range| {
        let name = range.split(';').next().unwrap_or(range);
        name.trim().eq_ignore_ascii_case("text/html")
    })
}

/// True for a path that needs no key: without the page, nobody could enter one.
pub fn is_page(path: &str) -> bool {
    matches!(path, "/" | "/reference") || path.starts_with("/page/")
}

impl Asset {
    fn serve(&self, headers: &HeaderMap) -> Response {
        let etag = self.etag();
        let known = headers.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok());
        let is_known = known.is_some_and(|all| {
            all.split(',')
                .any(|tag| matches!(tag.trim().trim_start_matches("W/"), t if t == etag || t == "*"))
        });
        let mut response = match is_known {
            true => StatusCode::NOT_MODIFIED.into_response(),
            false => ([(header::CONTENT_TYPE, self.content_type)], self.text).into_response(),
        };
        for (name, value) in STRICT {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        if let Ok(etag) = HeaderValue::from_str(&etag) {
            response.headers_mut().insert(header::ETAG, etag);
        }
        response
    }

    /// The quoted digest of the file.
    fn etag(&self) -> String {
        let digest = Sha256::digest(self.text);
        let digits: String = digest.iter().map(|b| format!("{b:02x}")).collect();
        format!("\"{digits}\"")
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::{Method, Request};
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    use super::*;
    use crate::server::config::Config;
    use crate::server::router;
    use crate::store::Store;

    /// What a browser accepts.
    const BROWSER: (HeaderName, &str) =
        (header::ACCEPT, "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8");

    /// Answers one request of a server that wants a key.
    async fn ask(
        method: Method,
        path: &str,
        headers: &[(HeaderName, &str)],
    ) -> (StatusCode, HeaderMap, String) {
        let directory = tempfile::tempdir().unwrap();
        let keys = directory.path().join("keys");
        std::fs::write(&keys, "0123456789abcdef\n").unwrap();
        let config = Config { api_keys_file: Some(keys), ..Config::default() };
        let app = App::new(Store::open(directory.path().join("store")).unwrap(), config).unwrap();
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        let response = router(&app).oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (parts.status, parts.headers, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn a_browser_gets_the_page_and_everyone_else_ollamas_words() {
        let (status, headers, text) = ask(Method::GET, "/", &[BROWSER]).await;
        assert_eq!((status, headers[header::CONTENT_TYPE].as_bytes()), (StatusCode::OK, HTML.as_bytes()));
        assert_eq!(text, CHAT.text);
        for accept in [None, Some((header::ACCEPT, "*/*")), Some((header::ACCEPT, "application/json"))] {
            let (status, headers, text) = ask(Method::GET, "/", accept.as_slice()).await;
            assert_eq!((status, text.as_str()), (StatusCode::OK, "Ollama is running"));
            assert_eq!(headers[header::CONTENT_TYPE], "text/plain; charset=utf-8");
            assert_eq!(headers[header::VARY], "accept");
        }
        let (status, headers, text) = ask(Method::HEAD, "/", &[]).await;
        assert_eq!((status, text.as_str()), (StatusCode::OK, ""));
        assert_eq!(headers[header::CONTENT_LENGTH], "17");
    }

    #[tokio::test]
    async fn the_answer_depends_on_origin_and_accept_and_says_so() {
        let origin = (header::ORIGIN, "http://localhost");
        let (_, headers, _) = ask(Method::GET, "/", &[BROWSER, origin]).await;
        let vary: Vec<_> = headers.get_all(header::VARY).iter().collect();
        assert_eq!(vary, ["accept", "origin"]);
    }

    #[tokio::test]
    async fn every_file_is_served_strictly_and_once() {
        let all = ASSETS.iter().map(|a| (format!("/page/{}", a.name), a));
        for (path, asset) in all.chain([("/reference".to_owned(), &REFERENCE)]) {
            let (status, headers, text) = ask(Method::GET, &path, &[]).await;
            assert_eq!((status, text.as_str()), (StatusCode::OK, asset.text), "{path}");
            assert_eq!(headers[header::CONTENT_TYPE], asset.content_type);
            for (name, value) in STRICT {
                assert_eq!(headers[name], *value, "{path}");
            }
            let etag = headers[header::ETAG].to_str().unwrap().to_owned();
            let (status, headers, text) =
                ask(Method::GET, &path, &[(header::IF_NONE_MATCH, &format!("\"x\", W/{etag}"))]).await;
            assert_eq!((status, text.as_str()), (StatusCode::NOT_MODIFIED, ""));
            assert_eq!(headers[header::ETAG].to_str().unwrap(), etag);
            let (status, ..) = ask(Method::GET, &path, &[(header::IF_NONE_MATCH, "\"x\"")]).await;
            assert_eq!(status, StatusCode::OK);
        }
    }

    #[tokio::test]
    async fn what_is_no_page_wants_its_key() {
        for path in ["/api/mdl/usage", "/openapi.json", "/metrics", "/pages", "/reference/x"] {
            let (status, ..) = ask(Method::GET, path, &[BROWSER]).await;
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{path}");
        }
        for path in ["/page/no.js", "/page/mod.rs", "/page/%2e%2e/mod.rs", "/page/"] {
            let (status, ..) = ask(Method::GET, path, &[]).await;
            assert_eq!(status, StatusCode::NOT_FOUND, "{path}");
        }
    }

    #[test]
    fn the_files_keep_the_rules_that_the_browser_is_told() {
        for asset in ASSETS.iter().chain([&CHAT, &REFERENCE]) {
            for forbidden in
                ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", " style="]
            {
                assert!(!asset.text.contains(forbidden), "{}: {forbidden}", asset.name);
            }
            let elsewhere = asset.text.replace("http://www.w3.org/2000/svg", "");
            assert!(!elsewhere.contains("http://") && !elsewhere.contains("https://"), "{}", asset.name);
            if asset.content_type == HTML {
                // Scripts and styles are files of their own.
                let handler = |word: &str| word.starts_with("on") && word.contains('=');
                assert!(!asset.text.contains("<style") && !asset.text.split_whitespace().any(handler));
                assert_eq!(
                    asset.text.matches("<script").count(),
                    asset.text.matches("<script type=\"module\" src=").count()
                );
            }
            // What a file loads is there.
            for quoted in asset.text.split('"').filter(|t| t.starts_with("./") || t.starts_with("/page/")) {
                let name = quoted.trim_start_matches("./").trim_start_matches("/page/");
                assert!(ASSETS.iter().any(|a| a.name == name), "{} loads {quoted}", asset.name);
            }
        }
    }

    #[test]
    fn html_is_wanted_where_it_is_named() {
        let wants = |value: &str| {
            wants_html(&HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_str(value).unwrap())]))
        };
        assert!(wants("text/html") && wants("application/json, TEXT/HTML;q=0.5"));
        assert!(!wants("*/*") && !wants("text/plain") && !wants("text/htmlx") && !wants(""));
    }
}
