//! The page in a headless Chromium, as a person uses it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "clients/server.rs"]
mod server;

use std::path::PathBuf;
use std::time::Duration;

use server::{KEY, Place};

/// Chromium: `MDL_CHROMIUM`, or where distributions put it.
fn chromium() -> Option<PathBuf> {
    let named = std::env::var_os("MDL_CHROMIUM").map(PathBuf::from);
    let usual =
        ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].map(PathBuf::from);
    let found = named.into_iter().chain(usual).find(|p| p.exists());
    if found.is_none() {
        server::skip("there is no Chromium");
    }
    found
}

#[test]
fn a_person_uses_the_page() {
    let (Some(mut node), Some(chromium)) = (server::node(), chromium()) else { return };
    let place = Place::new();
    place.build_story();
    let keys = place.path().join("keys");
    std::fs::write(&keys, KEY).unwrap();
    let open = place.serve(&[]);
    let locked = place.serve(&["--api-keys-file", keys.to_str().unwrap()]);
    node.arg(server::root("tests/page/browse.mjs"));
    node.args([&open.url, &locked.url, KEY]).arg(server::root("target/page")).env("MDL_CHROMIUM", chromium);
    server::succeeds(node, place.path(), Duration::from_secs(180));
}
