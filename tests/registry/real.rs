//! A real registry, with TLS and logins, and other programs that read what we pushed.
//!
//! Debian's `docker-registry` and `skopeo` are needed; without them the tests say that they are skipped, unless
//! `MDL_REQUIRE_REGISTRY` is set.

use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use mdl::store::{ConfigV2, Digest, Layer, Name, media};

use crate::{Place, noise};

/// `ann`, whose password is `secret`: what `htpasswd -B` writes.
const USERS: &str = "ann:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

/// The base64 of `ann:secret`.
const LOGIN: &str = "YW5uOnNlY3JldA==";

struct Running {
    child: Child,
    host: String,
    dir: tempfile::TempDir,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn there(program: &str) -> bool {
    Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

/// Starts a registry; nothing where it is not installed.
fn start() -> Option<Running> {
    let missing = ["docker-registry", "skopeo"].into_iter().find(|p| !there(p));
    if let Some(program) = missing {
        assert!(std::env::var_os("MDL_REQUIRE_REGISTRY").is_none(), "{program} is not installed");
        eprintln!("skipped: {program} is not installed");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
    std::fs::write(dir.path().join("ca.crt"), made.cert.pem()).unwrap();
    std::fs::write(dir.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    std::fs::write(dir.path().join("users"), USERS).unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let at = dir.path().display();
    let config = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {at}/data}}, delete: {{enabled: true}}}}\n\
         http: {{addr: '127.0.0.1:{port}', tls: {{certificate: {at}/ca.crt, key: {at}/key.pem}}}}\n\
         auth: {{htpasswd: {{realm: test, path: {at}/users}}}}\n"
    );
    std::fs::write(dir.path().join("config.yml"), config).unwrap();
    let log = std::fs::File::create(dir.path().join("log")).unwrap();
    let mut child = Command::new("docker-registry")
        .arg("serve")
        .arg(dir.path().join("config.yml"))
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        let log = || std::fs::read_to_string(dir.path().join("log")).unwrap_or_default();
        assert!(child.try_wait().unwrap().is_none() && Instant::now() < end, "no registry: {}", log());
        std::thread::sleep(Duration::from_millis(20));
    }
    Some(Running { child, host: format!("localhost:{port}"), dir })
}

impl Running {
    /// A machine with a login to the registry, and the certificate.
    fn machine(&self) -> Machine<'_> {
        let machine = Machine { registry: self, place: Place::new() };
        let login = format!(r#"{{"auths":{{"{}":{{"auth":"{LOGIN}"}}}}}}"#, self.host);
        std::fs::write(machine.place.path("config.json"), login).unwrap();
        machine
    }

    fn skopeo(&self, arguments: &[&str]) -> String {
        let certificates = self.dir.path().join("certificates");
        std::fs::create_dir_all(&certificates).unwrap();
        std::fs::copy(self.dir.path().join("ca.crt"), certificates.join("ca.crt")).unwrap();
        let at = certificates.display().to_string();
        let mut command = Command::new("skopeo");
        command.arg("--insecure-policy").args(arguments);
        match arguments[0] {
            "copy" => command.args([
                "--src-cert-dir",
                &at,
                "--dest-cert-dir",
                &at,
                "--src-creds",
                "ann:secret",
                "--dest-creds",
                "ann:secret",
            ]),
            _ => command.args(["--cert-dir", &at, "--creds", "ann:secret"]),
        };
        said(&command.output().unwrap(), "skopeo")
    }
}

struct Machine<'a> {
    registry: &'a Running,
    place: Place,
}

impl Machine<'_> {
    /// `mdl`, as a person calls it.
    fn mdl(&self, arguments: &[&str]) -> Output {
        self.command(arguments).stdin(Stdio::null()).output().unwrap()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mdl"));
        command
            .arg("--store")
            .arg(self.place.store.root())
            .args(arguments)
            .env("DOCKER_CONFIG", self.place.path(""))
            .env("HOME", self.place.path(""))
            .env("MDL_CA_FILE", self.registry.dir.path().join("ca.crt"))
            .env_remove("MDL_OFFLINE")
            .env_remove("HTTPS_PROXY")
            .env_remove("https_proxy");
        command
    }

    /// The same, with something on standard input.
    fn told(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    fn id(&self, name: &str) -> Digest {
        self.place.store.read(&Name::parse(name).unwrap()).unwrap().id
    }
}

fn said(output: &Output, what: &str) -> String {
    assert!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// A model of some 20 MB.
fn publish(place: &Place, name: &str) -> Digest {
    let writer = place.store.writer().unwrap();
    let blobs: [(&str, &[u8]); 3] =
        [(media::MODEL, &noise(20_000_000, 41)), (media::SYSTEM, b"Be brief."), (media::LICENSE, b"CC0")];
    let layers = blobs.map(|(kind, bytes)| {
        let blob = writer.put(bytes).unwrap();
        Layer::new(kind, blob.digest, blob.size)
    });
    let config =
        ConfigV2 { model_format: "gguf".to_owned(), model_family: "llama".to_owned(), ..ConfigV2::default() };
    writer.publish(&Name::parse(name).unwrap(), &config.to_bytes().unwrap(), layers.to_vec()).unwrap().id
}

#[test]
fn a_model_goes_to_a_real_registry_and_comes_back() {
    let Some(registry) = start() else { return };
    let machine = registry.machine();
    let host = &registry.host;
    let name = format!("{host}/me/models/story:1");
    let id = publish(&machine.place, &name);
    let pushed = said(&machine.mdl(&["push", &name]), "push");
    assert!(pushed.contains(&id.to_string()), "{pushed}");
    said(&machine.mdl(&["rm", &name]), "rm");
    assert!(machine.place.store.blobs().unwrap().is_empty());
    let pulled = said(&machine.mdl(&["pull", &name]), "pull");
    assert_eq!(pulled, format!("{name}\n{id}\n"));
    assert_eq!(machine.id(&name), id);
    said(&machine.mdl(&["verify"]), "verify");
    said(&machine.mdl(&["pull", &format!("{host}/me/models/story@{id}")]), "pull by digest");

    // Without the login, and without the certificate.
    std::fs::write(machine.place.path("config.json"), "{}").unwrap();
    let denied = machine.mdl(&["pull", &name]);
    assert_eq!(denied.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&denied.stderr).contains("unauthorized: access denied"));
    let missing = registry.machine().mdl(&["pull", &format!("{host}/me/nothing")]);
    assert_eq!(missing.status.code(), Some(1), "{}", String::from_utf8_lossy(&missing.stderr));
}

/// Signatures go along, twice: the registry makes no list of them itself, so they are in an index that grows.
#[test]
fn a_signature_goes_with_its_model() {
    let Some(registry) = start() else { return };
    let (here, there) = (registry.machine(), registry.machine());
    let key = |name: &str| format!("{}/testdata/signing/{name}", env!("CARGO_MANIFEST_DIR"));
    let name = format!("{}/me/story:1", registry.host);
    let id = publish(&here.place, &name);
    for kind in ["p256", "ed25519"] {
        let public = key(&format!("{kind}.pub"));
        assert_eq!(there.mdl(&["verify", "--key", &public, &name]).status.code(), Some(1));
        said(&here.mdl(&["sign", "--key", &key(&format!("{kind}.pem")), &name]), "sign");
        said(&here.mdl(&["push", &name]), "push");
        said(&there.mdl(&["pull", &name]), "pull");
        said(&there.mdl(&["verify", "--key", &public, &name]), "verify");
    }
    assert_eq!(there.id(&name), id);
    assert_eq!(there.place.store.signatures(&id).unwrap().len(), 2);
    assert_eq!(there.mdl(&["verify", "--key", &key("other.pub"), &name]).status.code(), Some(1));
}

/// Who has logged in gets what a run or a build lacks; nobody does who is offline.
#[test]
fn what_is_missing_is_brought() {
    let Some(registry) = start() else { return };
    let (here, there) = (registry.machine(), registry.machine());
    let host = registry.host.as_str();
    let story = format!("{host}/me/models/story:1");
    let modelfile = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/storyteller/Modelfile");
    said(&here.mdl(&["build", "-q", "q8_0", "-t", &story, modelfile]), "build");
    said(&here.mdl(&["push", &story]), "push");

    let run = ["run", "--local", &story, "Once upon a time"];
    let logins = there.place.path("config.json");
    std::fs::remove_file(&logins).unwrap();
    let refused = |output: &Output, why: &str| {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && said.contains(why), "{why}: {said}");
    };
    refused(&there.mdl(&run), "unauthorized: access denied");
    let login = ["login", host, "-u", "ann", "--password-stdin"];
    refused(&there.told(&login, "wrong\n"), "access denied");
    assert!(!logins.exists());
    assert_eq!(said(&there.told(&login, "secret\n"), "login"), format!("logged in to {host} as ann\n"));
    assert!(std::fs::read_to_string(&logins).unwrap().contains(LOGIN));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(logins.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
    refused(&there.mdl(&[&["--offline"], &run[..]].concat()), "there is no model");
    assert!(said(&there.mdl(&run), "run").len() > 40);
    assert_eq!(there.id(&story), here.id(&story));

    said(&there.mdl(&["rm", &story]), "rm");
    let from = there.place.path("Modelfile").display().to_string();
    std::fs::write(&from, format!("FROM {story}\nSYSTEM Be brief.\n")).unwrap();
    refused(&there.mdl(&["--offline", "build", "-t", "brief", &from]), "neither a file nor a model");
    said(&there.mdl(&["build", "-t", "brief", &from]), "build");
    assert_eq!(said(&there.mdl(&["show", "--system", "brief"]), "show"), "Be brief.\n");

    assert_eq!(said(&there.mdl(&["logout", host]), "logout"), format!("logged out of {host}\n"));
    assert!(!std::fs::read_to_string(&logins).unwrap().contains(LOGIN));
    assert_eq!(said(&there.mdl(&["logout", host]), "logout"), format!("there was no login to {host}\n"));
    refused(&there.mdl(&["pull", &story]), "unauthorized: access denied");
    let key = said(&there.mdl(&["signin"]), "signin");
    assert!(key.contains("ssh-ed25519 AAAA") && key == said(&there.mdl(&["login"]), "login"), "{key}");
}

#[test]
fn skopeo_reads_what_we_push_and_we_read_what_it_copies() {
    let Some(registry) = start() else { return };
    let machine = registry.machine();
    let host = &registry.host;
    // What Ollama writes, skopeo reads no further than the registry's own bytes.
    let ollamas = format!("{host}/me/ollama:1");
    let id = publish(&machine.place, &ollamas);
    said(&machine.mdl(&["push", &ollamas]), "push");
    let raw = registry.skopeo(&["inspect", "--raw", &format!("docker://{ollamas}")]);
    assert_eq!(Digest::of(raw.as_bytes()), id);
    for what in ["oci", "modelpack"] {
        let name = format!("{host}/me/{what}:1");
        publish(&machine.place, &name);
        let pushed = said(&machine.mdl(&["push", "--as", what, &name]), what);
        let digest = pushed.lines().nth(1).unwrap();
        let raw = registry.skopeo(&["inspect", "--raw", &format!("docker://{name}")]);
        assert_eq!(Digest::of(raw.as_bytes()).to_string(), digest, "{what}");
        if what == "oci" {
            // What skopeo calls an image has a configuration of that type.
            let inspected: serde_json::Value =
                serde_json::from_str(&registry.skopeo(&["inspect", &format!("docker://{name}")])).unwrap();
            assert_eq!(inspected["Digest"], digest, "{what}");
            assert_eq!(inspected["Layers"].as_array().unwrap().len(), 3, "{what}");
        }
        let copy = format!("{host}/copies/{what}:2");
        registry.skopeo(&[
            "copy",
            "--preserve-digests",
            &format!("docker://{name}"),
            &format!("docker://{copy}"),
        ]);
        let other = registry.machine();
        said(&other.mdl(&["pull", &copy]), what);
        assert_eq!(other.id(&copy).to_string(), digest, "{what}");
        let stored = other.place.store.read(&Name::parse(&copy).unwrap()).unwrap();
        let layer = stored.manifest.layer(media::MODEL).unwrap();
        assert_eq!(layer.size, 20_000_000, "{what}");
    }
}

#[test]
fn oras_reads_what_we_push() {
    let Some(registry) = start() else { return };
    let python = std::env::var("MDL_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let has = Command::new(&python).args(["-c", "import oras"]).stderr(Stdio::null()).status();
    if !has.is_ok_and(|s| s.success()) {
        assert!(
            std::env::var_os("MDL_REQUIRE_REGISTRY").is_none(),
            "the Python package oras is not installed"
        );
        eprintln!("skipped: the Python package oras is not installed");
        return;
    }
    let machine = registry.machine();
    let name = format!("{}/me/story:1", registry.host);
    publish(&machine.place, &name);
    let out = machine.place.path("out");
    for flavour in ["oci", "modelpack"] {
        said(&machine.mdl(&["push", "--as", flavour, &name]), "push");
        let script = "import sys, oras.client\n\
             client = oras.client.OrasClient(hostname=sys.argv[1], auth_backend='basic')\n\
             client.auth.set_basic_auth('ann', 'secret')\n\
             client.pull(target=sys.argv[2], outdir=sys.argv[3])\n";
        let output = Command::new(&python)
            .args(["-c", script, &registry.host, &name])
            .arg(&out)
            .env("REQUESTS_CA_BUNDLE", registry.dir.path().join("ca.crt"))
            .output()
            .unwrap();
        said(&output, "oras");
        let read = |file: &str| std::fs::read(Path::new(&out).join(file)).unwrap();
        assert_eq!(read("model.gguf"), noise(20_000_000, 41), "{flavour}");
        assert_eq!(read("system"), b"Be brief.", "{flavour}");
        std::fs::remove_dir_all(&out).unwrap();
    }
}
