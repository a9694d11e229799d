//! `mdl save` and `mdl load`.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sha2::Digest as _;
use tar::{EntryType, Header};

use crate::place::{Place, copy, digest, snapshot};

fn hex(bytes: &[u8]) -> String {
    sha2::Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(bytes))
}

#[test]
fn a_model_goes_to_another_machine_and_is_the_same() {
    let here = Place::with_sources("SYSTEM be brief\n");
    let story = digest(&here.ok(&["build", "-q", "q8_0", "-t", "story", "."]));
    here.write("other/Modelfile", "FROM story\nSYSTEM be long\n");
    let other = digest(&here.ok(&["build", "-t", "me/other:v2", "other"]));
    let said = here.ok(&["save", "story", "me/other:v2", "-o", "both.tar"]);
    assert_eq!(said, format!("saved 'story:latest' {story}\nsaved 'me/other:v2' {other}\n"));

    let there = Place::new();
    std::fs::copy(here.path("both.tar"), there.path("both.tar")).unwrap();
    let said = there.ok(&["load", "both.tar"]);
    assert_eq!(said, format!("loaded 'me/other:v2' {other}\nloaded 'story:latest' {story}\n"));
    assert_eq!(there.ok(&["show", "me/other:v2", "--system"]), "be long\n");
    assert!(there.ok(&["verify"]).contains("all as it should be"));

    // The same models give the same bytes, in whatever order and from whatever store.
    there.ok(&["save", "me/other:v2", "story", "-o", "again.tar"]);
    let bytes = std::fs::read(here.path("both.tar")).unwrap();
    assert!(bytes == std::fs::read(there.path("again.tar")).unwrap());
    // What both share is there once: the weights.
    here.ok(&["save", "story", "-o", "one.tar"]);
    let one = std::fs::metadata(here.path("one.tar")).unwrap().len();
    assert!((bytes.len() as u64) < one + 10_000, "{} and {one}", bytes.len());

    there.ok(&["load", "both.tar"]);
    here.ok(&["load", "one.tar", "-t", "renamed:x"]);
    assert!(here.ok(&["list"]).contains("renamed:x"));
    assert!(here.fails(1, &["load", "both.tar", "-t", "renamed:x"]).contains("leave the name out"));
    let said = here.fails(1, &["save", "story", "nothing", "-o", "missing.tar"]);
    assert!(said.contains("there is no model `nothing:latest`"), "{said}");
    assert!(!here.path("missing.tar").exists());
}

#[test]
fn a_damaged_blob_is_not_saved() {
    let place = Place::with_sources("");
    place.ok(&["build", "-q", "q8_0", "-t", "m", "."]);
    let blobs = std::fs::read_dir(place.path("store/blobs")).unwrap().map(|b| b.unwrap().path());
    let weights = blobs.max_by_key(|p| p.metadata().unwrap().len()).unwrap();
    let mut bytes = std::fs::read(&weights).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    assert!(place.fails(1, &["save", "m", "-o", "m.tar"]).contains("is damaged"));
    assert!(!place.path("m.tar").exists());
}

/// A tar under construction.
#[derive(Clone, Default)]
struct Tar(Vec<(Header, Vec<u8>)>);

impl Tar {
    fn add(&mut self, name: &str, bytes: &[u8]) -> &mut Tar {
        self.entry(name, bytes, EntryType::Regular)
    }

    fn entry(&mut self, name: &str, bytes: &[u8], kind: EntryType) -> &mut Tar {
        let mut header = Header::new_ustar();
        // Not by set_path, which refuses what is hostile.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(1_700_000_000);
        header.set_uid(1000);
        header.set_gid(1000);
        header.set_entry_type(kind);
        header.set_cksum();
        self.0.push((header, bytes.to_vec()));
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (header, bytes) in &self.0 {
            out.extend(header.as_bytes());
            out.extend(bytes);
            out.resize(out.len().next_multiple_of(512), 0);
        }
        out.resize(out.len() + 1024, 0);
        out
    }
}

/// The parts of a small archive, for a test to change.
struct Parts {
    layout: Value,
    index: Value,
    manifest: Vec<u8>,
    blobs: BTreeMap<String, Vec<u8>>,
}

const DOCKER: &str = "application/vnd.docker.distribution.manifest.v2+json";
const OCI: &str = "application/vnd.oci.image.manifest.v1+json";

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": sha256(bytes), "size": bytes.len()})
}

impl Parts {
    fn new() -> Parts {
        let layer =
            |what: &str, bytes: &[u8]| descriptor(&format!("application/vnd.ollama.image.{what}"), bytes);
        let manifest = json!({
            "schemaVersion": 2, "mediaType": DOCKER,
            "config": descriptor("application/vnd.docker.container.image.v1+json", b"{}"),
            "layers": [layer("model", b"weights"), layer("system", b"be brief")],
        });
        let mut parts = Parts {
            layout: json!({"imageLayoutVersion": "1.0.0"}),
            index: Value::Null,
            manifest: Vec::new(),
            blobs: BTreeMap::new(),
        };
        for blob in [&b"{}"[..], b"weights", b"be brief"] {
            parts.blobs.insert(hex(blob), blob.to_vec());
        }
        parts.set_manifest(manifest.to_string().into_bytes());
        parts
    }

    /// Another manifest, in the index too.
    fn set_manifest(&mut self, bytes: Vec<u8>) {
        self.blobs.remove(&hex(&self.manifest));
        let mut descriptor = descriptor(DOCKER, &bytes);
        descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": "m:v1"});
        self.index = json!({"schemaVersion": 2, "manifests": [descriptor]});
        self.blobs.insert(hex(&bytes), bytes.clone());
        self.manifest = bytes;
    }

    fn change_manifest(&mut self, change: impl FnOnce(&mut Value)) {
        let mut manifest: Value = serde_json::from_slice(&self.manifest).unwrap();
        change(&mut manifest);
        self.set_manifest(manifest.to_string().into_bytes());
    }

    fn tar(&self) -> Tar {
        let mut tar = Tar::default();
        tar.add("oci-layout", self.layout.to_string().as_bytes());
        tar.add("index.json", self.index.to_string().as_bytes());
        for (hex, bytes) in &self.blobs {
            tar.add(&format!("blobs/sha256/{hex}"), bytes);
        }
        tar
    }
}

fn load(place: &Place, bytes: &[u8], arguments: &[&str]) -> Result<String, String> {
    std::fs::write(place.path("x.tar"), bytes).unwrap();
    let output = place.mdl(&[&["load", "x.tar"], arguments].concat());
    match output.status.code() {
        Some(0) => Ok(crate::place::text(&output.stdout)),
        Some(1) => Err(crate::place::text(&output.stderr)),
        code => panic!("{code:?}: {}", crate::place::text(&output.stderr)),
    }
}

/// What other programs write: directories, times, a list in the index, extended headers, OCI's media type, more files.
#[test]
fn what_others_write_is_read() {
    let place = Place::new();
    let mut parts = Parts::new();
    parts.change_manifest(|m| m["mediaType"] = OCI.into());
    let manifest = descriptor(OCI, &parts.manifest);
    let inner = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [manifest]});
    let inner = inner.to_string().into_bytes();
    let mut outer = descriptor("application/vnd.oci.image.index.v1+json", &inner);
    outer["annotations"] = json!({
        "io.containerd.image.name": "example.com/me/m:v3", "org.opencontainers.image.ref.name": "v3",
    });
    let index = json!({"schemaVersion": 2, "manifests": [outer]});
    let mut tar = Tar::default();
    tar.entry("blobs/", b"", EntryType::Directory).entry("blobs/sha256/", b"", EntryType::Directory);
    parts.blobs.insert(hex(&inner), inner);
    for (hex, bytes) in &parts.blobs {
        tar.entry("PaxHeaders.0/x", b"30 mtime=1700000000.123456789\n", EntryType::XHeader);
        tar.add(&format!("./blobs/sha256/{hex}"), bytes);
    }
    tar.add("index.json", index.to_string().as_bytes()).add("manifest.json", b"[]");
    tar.add("oci-layout", br#"{"imageLayoutVersion": "1.0.0"}"#);
    let id = sha256(&parts.manifest);
    assert_eq!(load(&place, &tar.bytes(), &[]).unwrap(), format!("loaded 'example.com/me/m:v3' {id}\n"));
    // A manifest need not say what it is, since its descriptor does.
    let mut parts = Parts::new();
    parts.change_manifest(|m| drop(m.as_object_mut().unwrap().remove("mediaType")));
    let id = sha256(&parts.manifest);
    assert_eq!(load(&place, &parts.tar().bytes(), &[]).unwrap(), format!("loaded 'm:v1' {id}\n"));
    // A path in an extended header, and no end of the tar.
    let parts = Parts::new();
    let mut tar = Tar::default();
    for (header, bytes) in parts.tar().0 {
        let path = header.path().unwrap().display().to_string();
        let mut length = path.len() + 9;
        if length.to_string().len() > 2 {
            length += 1;
        }
        tar.entry("pax", format!("{length} path={path}\n").as_bytes(), EntryType::XHeader)
            .add("short", &bytes);
    }
    let bytes = tar.bytes();
    load(&place, &bytes[..bytes.len() - 1024], &["-t", "other"]).unwrap();
    assert!(place.ok(&["verify"]).contains("all as it should be"));
}

/// Signatures and provenance go where the model goes.
#[test]
fn what_is_kept_beside_a_model_goes_with_it() {
    let key = |name: &str| crate::place::root("testdata/signing").join(name).display().to_string();
    let here = Place::with_sources("LICENSE mine\n");
    let id = digest(&here.ok(&["build", "-q", "q8_0", "-t", "m", ".", "--provenance", "p.json"]));
    here.ok(&["sign", "--key", &key("ed25519.pem"), "m"]);
    here.ok(&["sign", "--key", &key("p256.pem"), "m"]);
    here.ok(&["cp", "m", "n"]);
    here.ok(&["save", "m", "n", "-o", "m.tar"]);
    here.ok(&["save", "n", "m", "-o", "again.tar"]);
    assert!(std::fs::read(here.path("m.tar")).unwrap() == std::fs::read(here.path("again.tar")).unwrap());
    let there = Place::new();
    std::fs::copy(here.path("m.tar"), there.path("m.tar")).unwrap();
    let said = there.fails(1, &["load", "--require-signature", &key("other.pub"), "m.tar"]);
    assert!(
        said.contains("`m:latest` is not signed with a key that is required: its signatures (2)"),
        "{said}"
    );
    assert!(!there.path("store").exists(), "nothing was written");
    let keys = ["--require-signature", &key("other.pub"), "--require-signature", &key("p256.pub")];
    assert_eq!(there.ok(&[&["load", "m.tar"], &keys[..]].concat()).lines().count(), 2);
    for public in ["ed25519.pub", "p256.pub"] {
        there.ok(&["verify", "--key", &key(public), "m"]);
    }
    there.fails(1, &["verify", "--key", &key("other.pub"), "m"]);
    assert_eq!(there.ok(&["show", "n", "--provenance"]), here.read("p.json"));
    assert_eq!(there.ok(&["show", "m", "--bom"]), here.read("p.bom.json"));
    // A signature of another model is none of this one.
    here.write("other/Modelfile", "FROM m\nSYSTEM x\n");
    let other = digest(&here.ok(&["build", "-t", "other", "other"]));
    let signatures = here.path("store/mdl/signatures");
    let of_other = signatures.join(&other[7..]);
    copy(&signatures.join(&id[7..]), &of_other);
    here.ok(&["save", "m", "other", "-o", "other.tar"]);
    let said = there.fails(
        1,
        &["load", "--require-signature", &key("p256.pub"), &here.path("other.tar").display().to_string()],
    );
    assert!(
        said.contains("`other:latest` is not signed with a key that is required: its signatures (2)"),
        "{said}"
    );
    // Saved again, it is the same file.
    there.ok(&["save", "m", "n", "-o", "third.tar"]);
    assert!(std::fs::read(here.path("m.tar")).unwrap() == std::fs::read(there.path("third.tar")).unwrap());
}

/// An archive that went through another program.
#[test]
fn what_skopeo_writes_is_read() {
    let there =
        std::process::Command::new("skopeo").arg("--version").output().is_ok_and(|o| o.status.success());
    if !there {
        let required = std::env::var_os("MDL_REQUIRE_REGISTRY").is_some_and(|v| v == "1");
        assert!(!required, "there is no skopeo, and MDL_REQUIRE_REGISTRY is 1");
        eprintln!("skipped: there is no skopeo");
        return;
    }
    let place = Place::new();
    let mut parts = Parts::new();
    parts.change_manifest(|m| {
        m["mediaType"] = OCI.into();
        m["config"]["mediaType"] = "application/vnd.oci.image.config.v1+json".into();
    });
    parts.index["manifests"][0]["mediaType"] = OCI.into();
    std::fs::write(place.path("ours.tar"), parts.tar().bytes()).unwrap();
    let mut copy = std::process::Command::new("skopeo");
    copy.args([
        "copy",
        "--quiet",
        "--insecure-policy",
        "oci-archive:ours.tar:m:v1",
        "oci-archive:theirs.tar:me/copied:v2",
    ]);
    let output = copy.current_dir(place.path("")).output().unwrap();
    assert!(output.status.success(), "{}", crate::place::text(&output.stderr));
    let said = place.ok(&["load", "theirs.tar"]);
    assert_eq!(said, format!("loaded 'me/copied:v2' {}\n", sha256(&parts.manifest)));
}

/// The end of a chain of changes.
fn done(_: &mut Tar) {}

#[test]
fn hostile_archives_are_refused() {
    let mut cases: Vec<(&str, Vec<u8>)> = Vec::new();
    let good = Parts::new().tar();
    let mut with = |title, change: &dyn Fn(&mut Tar)| {
        let mut tar = good.clone();
        change(&mut tar);
        cases.push((title, tar.bytes()));
    };
    with("absolute", &|t| done(t.add("/etc/passwd", b"x")));
    with("parent", &|t| done(t.add("blobs/../../x", b"x")));
    with("parent directory", &|t| done(t.entry("../", b"", EntryType::Directory)));
    with("backslash", &|t| done(t.add("blobs\\x", b"x")));
    with("drive", &|t| done(t.add("C:x", b"x")));
    with("symbolic link", &|t| done(t.entry("link", b"", EntryType::Symlink)));
    with("hard link", &|t| done(t.entry("link", b"", EntryType::Link)));
    with("device", &|t| done(t.entry("device", b"", EntryType::Block)));
    with("pipe", &|t| done(t.entry("pipe", b"", EntryType::Fifo)));
    with("holes", &|t| done(t.entry("holes", b"", EntryType::GNUSparse)));
    with("duplicate", &|t| done(t.add("index.json", b"{}")));
    with("duplicate spelled otherwise", &|t| done(t.add("./index.json", b"{}")));
    with("many entries", &|t| (0..50_000).for_each(|i| done(t.add(&format!("f{i}"), b""))));
    with("long header", &|t| done(t.entry("x", &[b'a'; 70_000], EntryType::XHeader)));
    with("malformed header", &|t| done(t.entry("x", b"999 path=a\n", EntryType::XHeader)));
    with("header with a size", &|t| {
        done(t.entry("x", b"29 size=18446744073709551615\n", EntryType::XHeader).add("y", b""))
    });
    with("a path in a header", &|t| done(t.entry("x", b"13 path=../x\n", EntryType::XHeader).add("y", b"")));
    with("damaged header", &|t| t.0[2].0.as_mut_bytes()[0] ^= 1);
    with("negative size", &|t| {
        t.0[1].0.as_mut_bytes()[124..136].fill(0xff);
        t.0[1].0.set_cksum();
    });
    let bytes = good.bytes();
    cases.push(("cut in a header", bytes[..1124].to_vec()));
    cases.push(("cut in a file", bytes[..520].to_vec()));
    cases.push(("empty", Vec::new()));
    cases.push(("zeros", vec![0; 10_240]));
    cases.push(("no tar", vec![b'x'; 10_240]));

    let mut parts = |title, change: &dyn Fn(&mut Parts)| {
        let mut parts = Parts::new();
        change(&mut parts);
        cases.push((title, parts.tar().bytes()));
    };
    parts("another layout", &|p| p.layout = json!({"imageLayoutVersion": "2.0.0"}));
    parts("no layout", &|p| p.layout = json!([]));
    parts("empty index", &|p| p.index = json!({"schemaVersion": 2, "manifests": []}));
    parts("another index", &|p| p.index["schemaVersion"] = 1.into());
    parts("long index", &|p| p.index["x"] = "x".repeat(5 << 20).into());
    parts("path for a digest", &|p| p.index["manifests"][0]["digest"] = "sha256:../../x".into());
    parts("negative size", &|p| p.index["manifests"][0]["size"] = (-1).into());
    parts("wrong size", &|p| p.index["manifests"][0]["size"] = 3.into());
    parts("another type", &|p| p.index["manifests"][0]["mediaType"] = "text/\u{1b}[2Jx".into());
    parts("no name", &|p| drop(p.index["manifests"][0].as_object_mut().unwrap().remove("annotations")));
    parts("a name that is none", &|p| {
        p.index["manifests"][0]["annotations"] = json!({"org.opencontainers.image.ref.name": "../../x"});
    });
    parts("twice the same name", &|p| {
        let one = p.index["manifests"][0].clone();
        p.index["manifests"] = json!([one, one]);
    });
    parts("many manifests", &|p| p.index["manifests"] = vec![p.index["manifests"][0].clone(); 1001].into());
    parts("long manifest", &|p| p.change_manifest(|m| m["x"] = "x".repeat(5 << 20).into()));
    parts("no manifest", &|p| drop(p.blobs.remove(&hex(&p.manifest))));
    parts("manifest of other bytes", &|p| p.blobs.get_mut(&hex(&p.manifest)).unwrap()[3] ^= 1);
    parts("manifest that is none", &|p| p.set_manifest(b"[]".to_vec()));
    parts("no model", &|p| p.change_manifest(|m| m["layers"][0]["mediaType"] = "application/x-tar".into()));
    parts("no weights", &|p| drop(p.blobs.remove(&hex(b"weights"))));
    parts("weights of other bytes", &|p| p.blobs.get_mut(&hex(b"weights")).unwrap()[0] ^= 1);
    parts("longer weights", &|p| p.blobs.get_mut(&hex(b"weights")).unwrap().push(0));
    parts("another size", &|p| p.change_manifest(|m| m["layers"][0]["size"] = 8.into()));
    parts("no configuration", &|p| drop(p.blobs.remove(&hex(b"{}"))));
    let attach = |p: &mut Parts, change: &dyn Fn(&mut Value)| {
        let subject = descriptor(DOCKER, &p.manifest);
        let kind = "application/vnd.in-toto+json";
        let mut manifest = json!({
            "schemaVersion": 2, "mediaType": OCI, "artifactType": kind, "subject": subject,
            "config": descriptor("application/vnd.oci.empty.v1+json", b"{}"),
            "layers": [descriptor(kind, b"[]")],
        });
        change(&mut manifest);
        let bytes = manifest.to_string().into_bytes();
        p.index["manifests"].as_array_mut().unwrap().push(descriptor(OCI, &bytes));
        p.blobs.insert(hex(&bytes), bytes);
        p.blobs.insert(hex(b"[]"), b"[]".to_vec());
    };
    parts("something attached that is missing", &|p| {
        attach(p, &|_| ());
        p.blobs.remove(&hex(b"[]"));
    });
    parts("something attached of other bytes", &|p| {
        attach(p, &|_| ());
        p.blobs.insert(hex(b"[]"), b"{}".to_vec());
    });
    parts("something attached of another size", &|p| attach(p, &|m| m["layers"][0]["size"] = 3.into()));
    parts("a subject that is none", &|p| attach(p, &|m| m["subject"] = "m".into()));
    parts("an index in an index in an index", &|p| {
        let index = "application/vnd.oci.image.index.v1+json";
        let inner =
            json!({"schemaVersion": 2, "manifests": [descriptor(index, b"{}")]}).to_string().into_bytes();
        p.index = json!({"schemaVersion": 2, "manifests": [descriptor(index, &inner)]});
        p.blobs.insert(hex(&inner), inner);
    });

    let place = Place::new();
    assert!(load(&place, &good.bytes(), &[]).is_ok(), "what the cases change is good");
    place.ok(&["rm", "m:v1"]);
    let mut report = String::new();
    for (title, bytes) in &cases {
        let said = load(&place, bytes, &[]).expect_err(title);
        let said =
            said.lines().filter(|l| !l.trim().is_empty() && !l.contains("--> x.tar")).collect::<Vec<_>>();
        report.push_str(&format!("{title}: {}\n", said.join("\n    ")));
        let blobs: Vec<_> = std::fs::read_dir(place.path("store/blobs")).unwrap().collect();
        assert!(blobs.is_empty(), "{title}: {blobs:?}");
        assert_eq!(place.ok(&["list"]).lines().count(), 1, "{title}");
    }
    assert!(cases.len() > 40);
    snapshot("archive_hostile", &report);
}
