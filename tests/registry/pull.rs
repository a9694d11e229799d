//! Pulling from a registry that behaves.

use mdl::store::{Name, media};

use crate::double::{Registry, Reply, Server};
use crate::{Heard, Place, manifest, noise, shelf, text};

#[test]
fn a_model_comes_as_it_is() {
    let weights = noise(300_000, 1);
    let (registry, digest) = shelf(&weights);
    let server = registry.serve();
    let place = Place::new();
    let heard = Heard::default();
    let name = format!("{}/me/story", server.host());
    let pulled = place.pull_with(place.options(), &name, &heard).unwrap();
    assert_eq!(pulled.id, digest);
    let stored = place.store.read(&Name::parse(&name).unwrap()).unwrap();
    assert_eq!(stored.id, digest);
    let layer = stored.manifest.layer(media::MODEL).unwrap();
    assert_eq!(place.store.read_layer(&stored.name, layer, 1 << 20).unwrap(), weights);
    assert_eq!(server.log().iter().filter(|r| r.range().is_some()).count(), 5, "in parts");
    let mut said = heard.all();
    said.sort();
    assert_eq!(said.len(), 7, "{said:?}");
    assert!(said.contains(&"verifying sha256 digest".to_owned()) && said.contains(&"success".to_owned()));
    assert!(place.store.verify(&[], &|_| {}).unwrap().damage.is_empty());

    // A second time nothing but the manifest is asked for, and what is known about it: a list, or an index.
    let before = server.log().len();
    assert_eq!(place.pull(&name).unwrap(), pulled);
    assert_eq!(server.log().len(), before + 3);

    // By its digest, it is the same model under another name.
    let by_digest = format!("{name}@{digest}");
    assert_eq!(place.store.find(&Name::parse(&by_digest).unwrap()).unwrap().unwrap().id, digest);
    assert_eq!(place.pull(&by_digest).unwrap().name.to_string(), by_digest);
    assert_eq!(place.store.list().unwrap().len(), 2);
}

#[test]
fn a_damaged_blob_is_mended() {
    let (registry, _) = shelf(&noise(100_000, 2));
    let server = registry.serve();
    let place = Place::new();
    let name = format!("{}/me/story", server.host());
    place.pull(&name).unwrap();
    let stored = place.store.read(&Name::parse(&name).unwrap()).unwrap();
    let path = place.store.blob_path(&stored.manifest.layer(media::MODEL).unwrap().digest);
    std::fs::write(&path, noise(100_000, 3)).unwrap();
    assert!(!place.store.verify(&[], &|_| {}).unwrap().damage.is_empty());
    place.pull(&name).unwrap();
    assert!(place.store.verify(&[], &|_| {}).unwrap().damage.is_empty());
}

#[test]
fn an_index_with_one_manifest_leads_to_it() {
    let registry = Registry::default();
    let oci = "application/vnd.oci.image.manifest.v1+json";
    let body = manifest(&registry, &[(media::MODEL, b"weights")]).replace(media::MANIFEST, oci);
    let digest = registry.manifest("a/b/c:x", oci, body.clone());
    let entry = format!(r#"{{"mediaType":"{oci}","digest":"{digest}","size":{}}}"#, body.len());
    let attestation = entry
        .replace("\"size\"", r#""annotations":{"vnd.docker.reference.type":"attestation-manifest"},"size""#);
    let index = |entries: &str| {
        format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{entries}]}}"#
        )
    };
    let kind = "application/vnd.oci.image.index.v1+json";
    let one = registry.manifest("a/b/c:one", kind, index(&format!("{entry},{attestation}")));
    registry.manifest("a/b/c:two", kind, index(&format!("{entry},{entry}")));
    registry.manifest("a/b/c:none", kind, index(&attestation));
    let server = registry.serve();
    let place = Place::new();
    let host = server.host();
    let pulled = place.pull(&format!("{host}/a/b/c:one")).unwrap();
    assert_eq!(pulled.id, digest);
    assert_eq!(pulled.name.namespace(), "a/b");
    let mut told = String::new();
    for name in ["a/b/c:two", "a/b/c:none", &format!("a/b/c@{one}")] {
        let error = place.pull(&format!("{host}/{name}")).unwrap_err();
        told += &text(
            &error,
            &[(&host, "HOST"), (&one.to_string(), "sha256:ONE"), (&digest.to_string(), "sha256:MANIFEST")],
        );
    }
    insta::with_settings!({snapshot_path => "../../snapshots", prepend_module_to_snapshot => false}, {
        insta::assert_snapshot!("registry_index", told);
    });
    assert_eq!(place.store.list().unwrap().len(), 1);
}

#[test]
fn a_blob_may_be_elsewhere_and_no_login_goes_there() {
    let (registry, digest) = shelf(&noise(200_000, 4));
    let elsewhere = registry.serve();
    let storage = elsewhere.host();
    let server = {
        let storage = storage.clone();
        Server::start(move |request| match request.header("authorization") {
            None => Reply::new(401, "").header("WWW-Authenticate", "Basic realm=x"),
            Some(_) if request.is("GET", "/blobs/") => {
                Reply::to(format!("http://{storage}{}?sig=secret", request.path))
            }
            Some(_) => registry.answer(request),
        })
    };
    let place = Place::new();
    let login = format!(r#"{{"auths":{{"{}":{{"auth":"YW5uOnNlY3JldA=="}}}}}}"#, server.host());
    std::fs::write(place.path("config.json"), login).unwrap();
    // The storage is on this machine, which nobody else would be led to.
    let mut options = place.options();
    options.allow_realms.push(storage);
    let pulled = place.pull_with(options, &format!("{}/me/story", server.host()), &Heard::default()).unwrap();
    assert_eq!(pulled.id, digest);
    assert!(server.log().iter().any(|r| r.header("authorization") == Some("Basic YW5uOnNlY3JldA==")));
    assert!(!elsewhere.log().is_empty());
    assert!(elsewhere.log().iter().all(|r| r.header("authorization").is_none()), "{:?}", elsewhere.log());
}

/// Connections that end early are taken up where they were.
#[test]
fn a_connection_that_breaks_is_taken_up_again() {
    let weights = noise(150_000, 5);
    let (registry, digest) = shelf(&weights);
    let broken = std::sync::atomic::AtomicUsize::new(0);
    let server = Server::start(move |request| {
        let mut reply = registry.answer(request);
        let first = || broken.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0;
        if reply.body.len() > 20_000 && first() {
            let cut = reply.body[..20_000].to_vec();
            reply.headers.push(("Content-Length".to_owned(), reply.body.len().to_string()));
            reply.stream = Some(Box::new(move |out| out.write_all(&cut)));
        }
        reply
    });
    let place = Place::new();
    let pulled = place.pull(&format!("{}/me/story", server.host())).unwrap();
    assert_eq!(pulled.id, digest);
    let ranges: Vec<_> = server.log().iter().filter_map(|r| r.range()).collect();
    assert!(ranges.iter().any(|(from, _)| from % 65_536 == 20_000), "{ranges:?}");
}

/// Sixteen tasks of one process and others that wait for it: one download.
#[test]
fn one_download_serves_all_who_want_it() {
    let (registry, digest) = shelf(&noise(1_000_000, 6));
    let server = {
        let registry = registry.clone();
        Server::start(move |request| {
            if request.range().is_some() {
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            registry.answer(request)
        })
    };
    let place = Place::new();
    let name = format!("{}/me/story", server.host());
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..16).map(|_| scope.spawn(|| place.pull(&name).unwrap().id)).collect();
        for one in all {
            assert_eq!(one.join().unwrap(), digest);
        }
    });
    let log = server.log();
    let blobs: Vec<_> =
        log.iter().filter(|r| r.is("GET", "/blobs/")).map(|r| (r.path.clone(), r.range())).collect();
    let distinct: std::collections::HashSet<_> = blobs.iter().collect();
    assert_eq!(blobs.len(), distinct.len(), "no byte twice: {blobs:?}");
    assert!(!place.files().iter().any(|f| f.contains("partial")), "{:?}", place.files());
}
