//! Token services: Ollama's, whose signatures another library checks, and those of container registries.

use std::collections::HashSet;
use std::sync::Mutex;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mdl::registry::{Client, block_on};
use mdl::store::Name;
use sha2::Digest as _;

use crate::double::{Registry, Reply, Request, Server};
use crate::{Heard, Place, noise, shelf};

fn query(request: &Request, name: &str) -> Vec<String> {
    let (_, query) = request.path.split_once('?').unwrap_or_default();
    let pairs = url::form_urlencoded::parse(query.as_bytes());
    pairs.filter(|(n, _)| n == name).map(|(_, v)| v.into_owned()).collect()
}

/// Checks a signed request as Ollama's registry does; the public key.
fn check_signature(request: &Request, nonces: &Mutex<HashSet<String>>) -> Option<Vec<u8>> {
    let (key, signature) = request.header("authorization")?.split_once(':')?;
    let key = STANDARD.decode(key).ok()?;
    // A string of 11 bytes that says `ssh-ed25519`, then one of 32 bytes.
    let public = key.strip_prefix(b"\0\0\0\x0bssh-ed25519\0\0\0\x20")?;
    let address = format!("http://{}{}", request.header("host")?, request.path);
    let empty: String = sha2::Sha256::digest(b"").iter().map(|b| format!("{b:02x}")).collect();
    let text = format!("GET,{address},{}", STANDARD.encode(empty));
    let verifier = ring::signature::UnparsedPublicKey::new(&ring::signature::ED25519, public);
    verifier.verify(text.as_bytes(), &STANDARD.decode(signature).ok()?).ok()?;
    let seconds: u64 = query(request, "ts").first()?.parse().ok()?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let fresh = nonces.lock().unwrap().insert(query(request, "nonce").first()?.clone());
    (now.abs_diff(seconds) < 60 && fresh).then(|| public.to_vec())
}

/// A registry that gives its tokens for signed requests alone.
fn ollama(registry: Registry) -> Server {
    let nonces = Mutex::new(HashSet::new());
    Server::start(move |request| {
        if request.path.starts_with("/token") {
            let scopes = query(request, "scope").join(" ");
            return match check_signature(request, &nonces) {
                Some(_) => Reply::new(
                    200,
                    serde_json::json!({"token": format!("for {scopes}").replace(' ', "_")}).to_string(),
                ),
                None => Reply::new(401, r#"{"error":"bad signature"}"#),
            };
        }
        let host = request.header("host").unwrap_or_default();
        let actions = if request.method == "GET" || request.method == "HEAD" { "pull" } else { "pull,push" };
        let scope = format!("repository:me/story:{actions}");
        let held = request.header("authorization").unwrap_or_default();
        match held.strip_prefix("Bearer for_").is_some_and(|s| s.starts_with(&scope)) {
            true => registry.answer(request),
            false => Reply::new(401, "").header(
                "WWW-Authenticate",
                format!(r#"Bearer realm="http://{host}/token",service="{host}",scope="{scope}""#),
            ),
        }
    })
}

#[test]
fn a_key_pulls_and_pushes() {
    let (registry, digest) = shelf(&noise(200_000, 11));
    let server = ollama(registry);
    let place = Place::new();
    let mut options = place.options();
    options.key_hosts = vec![server.host()];
    let name = format!("{}/me/story", server.host());
    assert!(place.pull(&name).is_err(), "without the key");
    let pulled = place.pull_with(options.clone(), &name, &Heard::default()).unwrap();
    assert_eq!(pulled.id, digest);
    assert!(place.path("id_ed25519").exists());

    let emptied = Registry::default();
    let other = ollama(emptied.clone());
    options.key_hosts = vec![other.host()];
    let to = Name::parse(&format!("{}/me/story:2", other.host())).unwrap();
    place.store.writer().unwrap().copy(&pulled.name, &to).unwrap();
    let client = Client::new(options).unwrap();
    let pushed = block_on(client.push(&place.store, &to, None, &Heard::default())).unwrap();
    assert_eq!(pushed, digest);
    assert_eq!(
        emptied.0.lock().unwrap().manifests["me/story:2"].1.len(),
        place.store.read(&to).unwrap().bytes.len()
    );
    let commits =
        other.log().into_iter().filter(|r| r.is("PUT", "/blobs/uploads/")).map(|r| query(&r, "etag"));
    assert!(commits.flatten().any(|etag| etag.ends_with("-4")), "parts are summed");
}

/// A password goes to the token service once, and tokens to the registry.
#[test]
fn a_password_is_exchanged_for_a_token() {
    let (registry, digest) = shelf(&noise(200_000, 12));
    let server = Server::start(move |request| {
        let host = request.header("host").unwrap_or_default();
        match (request.path.starts_with("/token"), request.header("authorization")) {
            (true, Some("Basic YW5uOnNlY3JldA==")) => Reply::new(200, r#"{"access_token":"t"}"#),
            (true, _) => Reply::new(401, ""),
            (false, Some("Bearer t")) => registry.answer(request),
            (false, _) => Reply::new(401, "")
                .header("WWW-Authenticate", format!(r#"Bearer realm="http://{host}/token",service="s""#)),
        }
    });
    let place = Place::new();
    let name = format!("{}/me/story", server.host());
    let denied = place.pull(&name).unwrap_err();
    assert!(denied.to_string().contains("unauthorized: access denied"), "{denied}");
    let login = |auth: &str| {
        let text = format!(r#"{{"auths":{{"{}":{auth}}}}}"#, server.host());
        std::fs::write(place.path("config.json"), text).unwrap();
    };
    login(r#"{"auth":"YW5uOnNlY3JldA=="}"#);
    assert_eq!(place.pull(&name).unwrap().id, digest);
    let asked: Vec<_> = server.log().into_iter().filter(|r| r.path.starts_with("/token")).collect();
    assert_eq!(query(asked.last().unwrap(), "scope"), ["repository:me/story:pull"]);
    assert_eq!(asked.len(), 2, "a token serves every request");
}
