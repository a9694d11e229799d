//! Signing and verifying: every kind of key, every kind of damage, and the format's own program.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "clients/server.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod clients;
mod server;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use clients::Place;
use serde_json::{Value, json};

const KEYS: [&str; 4] = ["p256", "p384", "p521", "ed25519"];

fn key(name: &str) -> String {
    clients::root("testdata/signing").join(name).to_str().unwrap().to_owned()
}

/// Runs `mdl` on the place's store, in the place's directory.
fn mdl(place: &Place, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mdl"));
    command.current_dir(place.path()).args(["--store", "store", "--progress", "none"]).args(arguments);
    command.output().unwrap()
}

fn succeeds(place: &Place, arguments: &[&str]) -> String {
    let output = mdl(place, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What `mdl` says when it refuses: the input is wrong.
fn refuses(place: &Place, arguments: &[&str]) -> String {
    let output = mdl(place, arguments);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
    said
}

/// A directory as people sign them: files in folders, an empty file, and what git keeps.
fn model(place: &Place) -> PathBuf {
    let model = place.path().join("model");
    for (name, bytes) in [
        ("config.json", &b"{}"[..]),
        ("model.safetensors", &[7; 100_000]),
        ("a/b.txt", b"b"),
        ("a.b", b"sorts after a/b.txt"),
        ("empty", b""),
        (".git/HEAD", b"ref"),
        (".hidden", b"h"),
    ] {
        let path = model.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    model
}

fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_directory_is_what_was_signed_or_the_difference_is_named() {
    for name in KEYS {
        let place = Place::new();
        let dir = model(&place);
        let (secret, public) = (key(&format!("{name}.pem")), key(&format!("{name}.pub")));
        assert_eq!(succeeds(&place, &["sign", "--key", &secret, "model"]), "signed 6 files: model.sig\n");
        let verify = ["verify", "--key", &public, "model"];
        assert_eq!(succeeds(&place, &verify), "'model' is what was signed\n");
        let signature = fs::read(place.path().join("model.sig")).unwrap();
        succeeds(&place, &["sign", "--key", &secret, "model"]);
        assert_eq!(
            fs::read(place.path().join("model.sig")).unwrap(),
            signature,
            "{name}: the same bytes again"
        );

        let other = refuses(&place, &["verify", "--key", &key("other.pub"), "model"]);
        assert!(other.contains("another key"), "{other}");
        flip(&dir.join("model.safetensors"));
        let changed = refuses(&place, &verify);
        assert!(changed.contains("`model.safetensors` was changed"), "{changed}");
        flip(&dir.join("model.safetensors"));
        fs::rename(dir.join("empty"), dir.join("other")).unwrap();
        let moved = refuses(&place, &verify);
        assert!(moved.contains("`empty` was signed and is not there"), "{moved}");
        assert!(moved.contains("`other` was not signed"), "{moved}");
        fs::copy(dir.join("other"), dir.join("empty")).unwrap();
        succeeds(&place, &[&verify[..], &["--ignore-unsigned"]].concat());
        succeeds(&place, &[&verify[..], &["--ignore", "other"]].concat());
        fs::remove_file(dir.join("other")).unwrap();
        succeeds(&place, &verify);
        // What the signature says, who made it, and the signature itself: each letter counts.
        let path = place.path().join("model.sig");
        let bundle: Value = serde_json::from_slice(&signature).unwrap();
        let envelope = &bundle["dsseEnvelope"];
        for text in [
            &envelope["payload"],
            &envelope["signatures"][0]["sig"],
            &bundle["verificationMaterial"]["publicKey"]["hint"],
        ] {
            let text = text.as_str().unwrap();
            for at in (0..text.len()).step_by(text.len().div_ceil(20)) {
                let other = if text.as_bytes()[at] == b'A' { "B" } else { "A" };
                let changed = format!("{}{other}{}", &text[..at], &text[at + 1..]);
                let signature = String::from_utf8(signature.clone()).unwrap();
                fs::write(&path, signature.replace(text, &changed)).unwrap();
                refuses(&place, &verify);
            }
        }
    }
}

#[test]
fn a_signature_in_the_directory_does_not_sign_itself() {
    let place = Place::new();
    let dir = model(&place);
    succeeds(&place, &["sign", "--key", &key("p256.pem"), "--signature", "model/model.sig", "model"]);
    let verify = ["verify", "--key", &key("p256.pub"), "--signature", "model/model.sig", "model"];
    succeeds(&place, &verify);
    // A file alone is a model, too.
    succeeds(&place, &["sign", "--key", &key("p256.pem"), "model/config.json"]);
    succeeds(&place, &["verify", "--key", &key("p256.pub"), "model/config.json"]);
    fs::write(dir.join("config.json"), "[]").unwrap();
    let said = refuses(&place, &["verify", "--key", &key("p256.pub"), "model/config.json"]);
    assert!(said.contains("`.` was changed"), "{said}");
}

#[cfg(unix)]
#[test]
fn a_symbolic_link_is_not_signed() {
    let place = Place::new();
    let dir = model(&place);
    std::os::unix::fs::symlink("/etc/hostname", dir.join("link")).unwrap();
    let said = refuses(&place, &["sign", "--key", &key("p256.pem"), "model"]);
    assert!(said.contains("symbolic link"), "{said}");
    succeeds(&place, &["sign", "--key", &key("p256.pem"), "--ignore", "link", "model"]);
    succeeds(&place, &["verify", "--key", &key("p256.pub"), "model"]);
}

#[test]
fn keys_of_other_kinds_are_refused() {
    let place = Place::new();
    model(&place);
    for (file, why) in [
        ("rsa.pem", "of another kind"),
        ("encrypted.pem", "is encrypted"),
        ("p256.pub", "there is a public key in it"),
        ("README.md", "no private key"),
        ("missing.pem", "cannot read"),
    ] {
        let said = refuses(&place, &["sign", "--key", &key(file), "model"]);
        assert!(said.contains(why), "{file}: {said}");
    }
    succeeds(&place, &["sign", "--key", &key("p256.pem"), "model"]);
    let said = refuses(&place, &["verify", "--key", &key("p256.pem"), "model"]);
    assert!(said.contains("there is a private key in it") && !said.contains("MHcC"), "{said}");
}

#[test]
fn a_signature_stays_with_a_model_of_the_store() {
    let place = Place::new();
    place.build_story();
    let verify = ["verify", "--key", &key("ed25519.pub"), "story"];
    let said = refuses(&place, &verify);
    assert!(said.contains("is not signed with this key: it has no signature"), "{said}");
    succeeds(&place, &["sign", "--key", &key("p256.pem"), "story"]);
    let said = refuses(&place, &verify);
    assert!(said.contains("its signatures (1) are by other keys"), "{said}");
    succeeds(&place, &["sign", "--key", &key("ed25519.pem"), "--signature", "story.sig", "story"]);
    succeeds(&place, &verify);
    // The signature is the model's, by whatever name, and goes when the model has gone.
    succeeds(&place, &["cp", "story", "again"]);
    succeeds(&place, &["rm", "story"]);
    succeeds(&place, &["gc", "--grace-minutes", "0"]);
    succeeds(&place, &["verify", "--key", &key("ed25519.pub"), "again"]);
    succeeds(&place, &["verify", "--key", &key("ed25519.pub"), "--signature", "story.sig", "again"]);
    let blobs = fs::read_dir(place.path().join("store/blobs")).unwrap();
    let weights = blobs.map(|b| b.unwrap().path()).max_by_key(|p| p.metadata().unwrap().len()).unwrap();
    flip(&weights);
    let said = refuses(&place, &["verify", "--key", &key("ed25519.pub"), "again"]);
    assert!(said.contains("sha256"), "{said}");
    flip(&weights);
    succeeds(&place, &["rm", "again"]);
    succeeds(&place, &["gc", "--grace-minutes", "0"]);
    assert_eq!(fs::read_dir(place.path().join("store/mdl/signatures")).unwrap().count(), 0);
}

/// What `save` wrote has the signature, for `load` and for the format's own program.
#[test]
fn a_signature_goes_where_the_model_goes() {
    let place = Place::new();
    place.build_story();
    succeeds(&place, &["sign", "--key", &key("p256.pem"), "--signature", "story.sig", "story"]);
    succeeds(&place, &["sign", "--key", &key("ed25519.pem"), "story"]);
    succeeds(&place, &["save", "story", "-o", "story.tar"]);
    let there = Place::new();
    fs::copy(place.path().join("story.tar"), there.path().join("story.tar")).unwrap();
    succeeds(&there, &["load", "story.tar"]);
    for name in ["p256.pub", "ed25519.pub"] {
        succeeds(&there, &["verify", "--key", &key(name), "story"]);
    }
    refuses(&there, &["verify", "--key", &key("other.pub"), "story"]);
    succeeds(&there, &["save", "story", "-o", "again.tar"]);
    let tar = |place: &Place, name| fs::read(place.path().join(name)).unwrap();
    assert!(tar(&place, "story.tar") == tar(&there, "again.tar"));
    tar::Archive::new(&*tar(&place, "story.tar")).unpack(place.path().join("layout")).unwrap();
    succeeds(
        &place,
        &["verify", "--key", &key("p256.pub"), "--signature", "story.sig", "--ignore-unsigned", "layout"],
    );
    let Some(mut python) = clients::python("model_signing") else { return };
    python.current_dir(place.path()).args(["-m", "model_signing", "verify", "key", "layout", "--signature"]);
    python.args(["story.sig", "--ignore_unsigned_files", "--public_key", &key("p256.pub")]);
    let theirs = python.output().unwrap();
    assert!(theirs.status.success(), "{}", String::from_utf8_lossy(&theirs.stderr));
}

#[test]
fn a_server_can_ask_for_signatures() {
    let server = server::Setup::new().arguments(["--require-signature", &key("p256.pub")]).start();
    let body =
        json!({"model": "story", "prompt": "Emma was", "stream": false, "options": {"num_predict": 4}});
    let said = server.post("/api/generate", body.clone()).error(403);
    assert!(said.contains("signed models alone") && said.contains("no signature"), "{said}");
    let mut sign = server.mdl();
    let signed = sign.args(["sign", "--key", &key("p256.pem"), "story"]).output().unwrap();
    assert!(signed.status.success(), "{}", String::from_utf8_lossy(&signed.stderr));
    assert_eq!(server.post("/api/generate", body.clone()).status, 200);
}

/// The format's own program reads what we write, and we what it writes.
#[test]
fn the_formats_own_program_agrees() {
    for name in ["p256", "p384", "p521"] {
        let Some(python) = clients::python("model_signing") else { return };
        let program = python.get_program().to_owned();
        let place = Place::new();
        let dir = model(&place);
        let run = |arguments: &[&str]| {
            let mut command = Command::new(&program);
            command.current_dir(place.path()).args(["-m", "model_signing"]).args(arguments);
            command.output().unwrap()
        };
        let verify = ["verify", "key", "model", "--signature", "model.sig", "--public_key"];
        let public = key(&format!("{name}.pub"));
        let verify = [&verify[..], &[&*public]].concat();
        succeeds(&place, &["sign", "--key", &key(&format!("{name}.pem")), "model"]);
        let theirs = run(&verify);
        assert!(theirs.status.success(), "{}", String::from_utf8_lossy(&theirs.stderr));
        flip(&dir.join("model.safetensors"));
        assert!(!run(&verify).status.success());
        flip(&dir.join("model.safetensors"));

        let private = key(&format!("{name}.pem"));
        let sign = ["sign", "key", "model", "--signature", "theirs.sig", "--private_key", &private];
        let signed = run(&sign);
        assert!(signed.status.success(), "{}", String::from_utf8_lossy(&signed.stderr));
        let ours = ["verify", "--key", &public, "--signature", "theirs.sig", "model"];
        succeeds(&place, &ours);
        flip(&dir.join("config.json"));
        let said = refuses(&place, &ours);
        assert!(said.contains("`config.json` was changed"), "{said}");
    }
}
