//! Pushing: what is there is not sent, and what is sent can be pulled.

use mdl::diagnostic::Result;
use mdl::registry::{Client, Flavour, block_on};
use mdl::store::{ConfigV2, Digest, Layer, Name, Store, media};

use crate::double::{Registry, Reply, Server};
use crate::{Heard, Place, noise, text};

/// A model of this name in the store.
pub fn publish(store: &Store, name: &Name) -> Digest {
    let writer = store.writer().unwrap();
    let blobs: &[(&str, &[u8])] = &[
        (media::MODEL, &noise(200_000, 31)),
        (media::TEMPLATE, b"{{ .Prompt }}"),
        (media::SYSTEM, b"Be brief."),
        (media::PARAMS, b"{\"temperature\":0}\n"),
        (media::LICENSE, b"CC0"),
        (media::LICENSE, b"and MIT"),
    ];
    let layers = blobs.iter().map(|(kind, bytes)| {
        let blob = writer.put(bytes).unwrap();
        Layer::new(kind, blob.digest, blob.size)
    });
    let config = ConfigV2 {
        model_format: "gguf".to_owned(),
        model_family: "llama".to_owned(),
        model_type: "8.0B".to_owned(),
        file_type: "Q4_K_M".to_owned(),
        ..ConfigV2::default()
    };
    writer.publish(name, &config.to_bytes().unwrap(), layers.collect()).unwrap().id
}

pub fn push(place: &Place, name: &Name, flavour: Option<Flavour>, heard: &Heard) -> Result<Digest> {
    let client = Client::new(place.options())?;
    block_on(client.push(&place.store, name, flavour, heard))
}

#[test]
fn what_was_pushed_is_pulled_as_it_was() {
    let registry = Registry::default();
    let server = registry.serve();
    let place = Place::new();
    let name = Name::parse(&format!("{}/me/story:1", server.host())).unwrap();
    let id = publish(&place.store, &name);
    let heard = Heard::default();
    assert_eq!(push(&place, &name, None, &heard).unwrap(), id);
    let said = heard.all();
    assert_eq!(
        (said.first().unwrap().as_str(), said.last().unwrap().as_str()),
        ("retrieving manifest", "success")
    );
    assert!(said.iter().any(|s| s.starts_with("pushing ") && s.ends_with(" 200000")), "{said:?}");
    assert_eq!(server.count("PATCH", "/uploads/"), 4 + 6, "in chunks of 64 KiB");

    // All is there: only the manifest is sent again.
    let before = server.log().len();
    push(&place, &name, None, &Heard::default()).unwrap();
    let again = &server.log()[before..];
    assert!(again.iter().all(|r| r.method == "HEAD" || r.is("PUT", "/manifests/")), "{again:?}");

    let other = Place::new();
    let pulled = other.pull(&name.to_string()).unwrap();
    assert_eq!(pulled.id, id);
}

#[test]
fn each_flavour_comes_back_as_the_same_model() {
    let registry = Registry::default();
    let server = registry.serve();
    let place = Place::new();
    let name = Name::parse(&format!("{}/me/story", server.host())).unwrap();
    publish(&place.store, &name);
    let model = place.store.read(&name).unwrap();
    let mut written = String::new();
    for (flavour, what) in
        [(Flavour::Ollama, "ollama"), (Flavour::Oci, "oci"), (Flavour::ModelPack, "modelpack")]
    {
        let pushed = push(&place, &name, Some(flavour), &Heard::default()).unwrap();
        let bytes = registry.0.lock().unwrap().manifests["me/story:latest"].1.clone();
        let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        written += &format!("# {what}\n{}\n", serde_json::to_string_pretty(&json).unwrap());
        let config = json["config"]["digest"].as_str().unwrap();
        let config = registry.0.lock().unwrap().blobs[config].clone();
        written += &format!("{}\n", String::from_utf8(config).unwrap().trim());
        let other = Place::new();
        let pulled = other.pull(&name.to_string()).unwrap();
        assert_eq!(pulled.id, pushed);
        let back = other.store.read(&name).unwrap();
        assert_eq!(back.manifest.layers, model.manifest.layers, "{what}");
        assert_eq!(other.store.config(&back).unwrap(), place.store.config(&model).unwrap(), "{what}");
        // And from there to Ollama's form again.
        assert_eq!(
            push(&other, &name, Some(Flavour::Ollama), &Heard::default()).unwrap(),
            model.id,
            "{what}"
        );
    }
    insta::with_settings!({snapshot_path => "../../snapshots", prepend_module_to_snapshot => false}, {
        insta::assert_snapshot!("registry_flavours", written);
    });
}

#[test]
fn a_blob_of_another_repository_is_mounted() {
    let registry = Registry::default();
    let server = registry.serve();
    let place = Place::new();
    let base = Name::parse(&format!("{}/me/base", server.host())).unwrap();
    publish(&place.store, &base);
    push(&place, &base, None, &Heard::default()).unwrap();
    let model = place.store.read(&base).unwrap();
    let mut layers = model.manifest.layers.clone();
    layers[0].from = base.to_string();
    let name = Name::parse(&format!("{}/me/story", server.host())).unwrap();
    let writer = place.store.writer().unwrap();
    writer.publish(&name, b"{\"model_format\":\"gguf\"}\n", layers).unwrap();
    // As if the registry did not tell one repository what another has.
    let hiding = Server::start(move |request| match request.method.as_str() {
        "HEAD" => Reply::new(404, ""),
        _ => registry.answer(request),
    });
    let to = Name::parse(&name.to_string().replace(&server.host(), &hiding.host())).unwrap();
    let mut layers = place.store.read(&name).unwrap().manifest.layers;
    layers[0].from = base.to_string().replace(&server.host(), &hiding.host());
    writer.publish(&to, b"{\"model_format\":\"gguf\"}\n", layers.clone()).unwrap();
    drop(writer);
    push(&place, &to, None, &Heard::default()).unwrap();
    let mounts: Vec<_> =
        hiding.log().into_iter().filter(|r| r.is("POST", "mount=")).map(|r| r.path).collect();
    assert_eq!(mounts.len(), 1);
    assert!(mounts[0].contains("from=me%2Fbase"), "{mounts:?}");
    let sent: usize = hiding.log().iter().filter(|r| r.method == "PATCH").map(|r| r.body.len()).sum();
    assert!(sent < 1000, "the weights were not sent: {sent}");
}

#[test]
fn what_a_registry_refuses_is_told() {
    let place = Place::new();
    let mut told = String::new();
    type Act = fn(&Registry, &crate::double::Request) -> Option<Reply>;
    // Which blob comes first is chance.
    let which = regex::Regex::new("blob [0-9a-f]{12}").unwrap();
    let cases: [(&str, Act); 5] = [
        ("no upload", |_, r| r.is("POST", "/uploads/").then(|| Reply::new(405, ""))),
        ("an upload without a place", |_, r| r.is("POST", "/uploads/").then(|| Reply::new(202, ""))),
        ("an upload that goes on at this machine", |_, r| {
            r.is("POST", "/uploads/").then(|| Reply::new(202, "").header("Location", "http://127.0.0.1:9/x"))
        }),
        ("a digest that it does not believe", |_, r| {
            r.is("PUT", "/uploads/").then(|| {
                Reply::new(400, r#"{"errors":[{"code":"DIGEST_INVALID","message":"digest invalid"}]}"#)
            })
        }),
        ("no manifest", |_, r| {
            r.is("PUT", "/manifests/")
                .then(|| Reply::new(403, r#"{"errors":[{"code":"DENIED","message":"quota"}]}"#))
        }),
    ];
    for (what, act) in cases {
        let registry = Registry::default();
        let server =
            Server::start(move |request| act(&registry, request).unwrap_or_else(|| registry.answer(request)));
        let name = Name::parse(&format!("{}/me/story", server.host())).unwrap();
        publish(&place.store, &name);
        let error = push(&place, &name, None, &Heard::default()).unwrap_err();
        let said = text(&error, &[(&server.host(), "HOST")]);
        let said = which.replace_all(&said, "blob DIGEST").into_owned();
        told += &format!("# {what}\n{}\n", said.split("  help: ").next().unwrap());
    }
    insta::with_settings!({snapshot_path => "../../snapshots", prepend_module_to_snapshot => false}, {
        insta::assert_snapshot!("registry_push_refused", told);
    });
}
