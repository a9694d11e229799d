//! Registries that do what they should not: each is told in words, nothing gets a name, no login goes astray.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use mdl::store::{Digest, Name, media};

use crate::double::{Registry, Reply, Request, Server};
use crate::{Heard, Place, noise, shelf, text};

type Act = Box<dyn Fn(&Registry, &Request) -> Option<Reply> + Send + Sync>;

/// What a registry does otherwise than one should.
struct Case {
    what: &'static str,
    act: Act,
    /// `me/story` of the registry, but for this.
    name: &'static str,
    login: bool,
    key: bool,
}

fn case(
    what: &'static str,
    act: impl Fn(&Registry, &Request) -> Option<Reply> + Send + Sync + 'static,
) -> Case {
    Case { what, act: Box::new(act), name: "me/story", login: false, key: false }
}

/// Another manifest.
fn manifest(what: &'static str, make: impl Fn(&str) -> String + Send + Sync + 'static) -> Case {
    case(what, move |registry, request| {
        let good = registry.answer(request);
        request
            .is("GET", "/manifests/")
            .then(|| Reply::new(200, make(&String::from_utf8(good.body).unwrap())))
    })
}

/// Another answer to requests for the weights, of which there are 200,000 bytes.
fn blob(what: &'static str, make: impl Fn(Reply, &Request) -> Reply + Send + Sync + 'static) -> Case {
    case(what, move |registry, request| {
        let asked = request.is("GET", "/blobs/");
        asked.then(|| registry.answer(request)).filter(|r| r.body.len() > 1000).map(|r| make(r, request))
    })
}

fn redirect(what: &'static str, to: &'static str) -> Case {
    blob(what, move |_, _| Reply::to(to))
}

fn challenge(what: &'static str, login: bool, key: bool, header: &'static str) -> Case {
    Case {
        login,
        key,
        ..case(what, move |_, _| Some(Reply::new(401, "").header("WWW-Authenticate", header)))
    }
}

/// A registry whose own token service answers so.
fn token(what: &'static str, make: impl Fn() -> Reply + Send + Sync + 'static) -> Case {
    let act = move |_: &Registry, request: &Request| match request.path.starts_with("/token") {
        true => Some(make()),
        false => {
            let host = request.header("host").unwrap_or_default();
            Some(
                Reply::new(401, "")
                    .header("WWW-Authenticate", format!(r#"Bearer realm="http://{host}/token""#)),
            )
        }
    };
    Case { login: true, ..case(what, act) }
}

fn cases() -> Vec<Case> {
    let endless = |out: &mut dyn Write| loop {
        out.write_all(&[b' '; 1 << 16])?;
    };
    let drip = |out: &mut dyn Write| loop {
        out.write_all(b"x")?;
        out.flush()?;
        std::thread::sleep(Duration::from_millis(50));
    };
    let size = |text: &str, size: &str| text.replacen("\"size\":200000", &format!("\"size\":{size}"), 1);
    let digest_of = |text: &str| text.split('"').find(|w| w.starts_with("sha256:")).unwrap().to_owned();
    vec![
        // The manifest.
        manifest("a manifest over 4 MiB", |m| " ".repeat(5 << 20) + m),
        case("a manifest without end", move |_, _| Some(Reply::stream(200, endless))),
        case("a manifest at a byte now and then", move |_, _| Some(Reply::stream(200, drip))),
        manifest("no JSON", |_| "{\"schemaVersion\":2,".to_owned()),
        manifest("a page for a browser", |_| "<html>Sign in</html>".to_owned()),
        manifest("an old schema", |m| m.replace("\"schemaVersion\":2", "\"schemaVersion\":1")),
        manifest("a million layers", |m| {
            m.replacen("\"layers\":[", &format!("\"layers\":[{}", "{},".repeat(1_000_000)), 1)
        }),
        manifest("deep JSON", |_| "[".repeat(100_000)),
        manifest("a layer of a container image", |m| {
            m.replace(media::MODEL, "application/vnd.oci.image.layer.v1.tar+gzip")
        }),
        manifest("control characters in a type", |m| m.replace(media::MODEL, "\\u001b]0;owned\\u0007")),
        manifest("a digest that is a path", move |m| {
            m.replace(&digest_of(m), "sha256:../../../../../../etc/passwd")
        }),
        manifest("a negative size", move |m| size(m, "-1")),
        manifest("a size beyond all disks", move |m| size(m, "4611686018427387904")),
        manifest("a size that is no number", move |m| size(m, "1e99")),
        manifest("a configuration of a gigabyte", |m| {
            m.replacen("\"size\":", "\"size\":1073741824,\"x\":", 1)
        }),
        manifest("two sizes for one blob", |m| {
            let (before, rest) = m.split_once("\"layers\":[").unwrap();
            let one = rest.split_once('}').unwrap().0;
            format!("{before}\"layers\":[{},{rest}", one.replace("200000", "5") + "}")
        }),
        case("another digest than the registry states", |registry, request| {
            let digest = Digest::of(b"x").to_string();
            request
                .is("GET", "/manifests/")
                .then(|| registry.answer(request).header("Docker-Content-Digest", digest))
        }),
        Case {
            name: "me/story@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            ..case("another manifest than the one named", |_, request| {
                request
                    .is("GET", "/manifests/")
                    .then(|| Reply::new(200, r#"{"schemaVersion":2,"layers":[]}"#))
            })
        },
        case("a packed manifest", |registry, request| {
            request
                .is("GET", "/manifests/")
                .then(|| registry.answer(request).header("Content-Encoding", "gzip"))
        }),
        // Blobs.
        manifest("a blob longer than declared", move |m| size(m, "1000")),
        manifest("a blob shorter than declared", |m| m.replacen("\"size\":9}", "\"size\":20}", 1)),
        blob("a blob without end", move |_, request| {
            // The part that was asked for, since several are.
            let (from, to) = request.range().unwrap();
            Reply::stream(206, endless).header("Content-Range", format!("bytes {from}-{to}/200000"))
        }),
        blob("a blob that ends early", |reply, _| {
            let half = reply.body[..reply.body.len() / 2].to_vec();
            let whole = reply.body.len().to_string();
            Reply::new(206, half)
                .header("Content-Range", reply.headers[0].1.clone())
                .header("Content-Length", whole)
                .close()
        }),
        blob("other bytes", |mut reply, _| {
            reply.body[7] ^= 1;
            reply
        }),
        blob("another part", |mut reply, _| {
            reply.headers.clear();
            reply.header("Content-Range", "bytes 5-65540/200000")
        }),
        blob("a part of something larger", |mut reply, request| {
            reply.headers.clear();
            let (from, to) = request.range().unwrap();
            reply.header("Content-Range", format!("bytes {from}-{to}/999999"))
        }),
        blob("a part that does not say which", |mut reply, _| {
            reply.headers.clear();
            reply
        }),
        blob("all instead of a part", |_, _| Reply::new(200, noise(200_000, 9))),
        blob("a packed blob", |reply, _| reply.header("Content-Encoding", "br")),
        blob("a blob at a byte now and then", move |reply, _| {
            let length = reply.body.len().to_string();
            Reply::stream(206, drip)
                .header("Content-Range", reply.headers[0].1.clone())
                .header("Content-Length", length)
        }),
        blob("a blob that does not come", |reply, _| {
            std::thread::sleep(Duration::from_secs(4));
            reply
        }),
        blob("nothing but success", |_, _| Reply::new(204, "")),
        // Redirects.
        redirect("a redirect to this machine", "http://127.0.0.1:9/x"),
        redirect("a redirect to this machine, by name", "http://localhost:9/x"),
        redirect("a redirect to this machine, as a number", "http://2130706433:9/x"),
        redirect("a redirect to this machine, by IPv6", "http://[::ffff:127.0.0.1]:9/x"),
        redirect("a redirect to a cloud's metadata", "http://169.254.169.254/latest/meta-data/?token=secret"),
        redirect("a redirect to a private network", "http://10.0.0.1/x"),
        redirect("a redirect to a file", "file:///etc/passwd"),
        redirect("a redirect to no address", "http://"),
        redirect("a redirect to itself", "?"),
        blob("a redirect without an address", |_, _| Reply::new(302, "")),
        // Logins.
        challenge("no way to log in", true, false, "Negotiate"),
        challenge("a login that is never enough", true, false, "Basic realm=x"),
        challenge("a login where there is none", false, false, "Basic realm=x"),
        challenge(
            "a token service of another domain",
            true,
            false,
            r#"Bearer realm="http://evil.example/token",service="x""#,
        ),
        challenge(
            "a token service on this machine",
            true,
            false,
            r#"Bearer realm="http://127.0.0.1:9/token""#,
        ),
        challenge(
            "a token service for a key on another host",
            false,
            true,
            r#"Bearer realm="http://localhost/token""#,
        ),
        challenge("a token service that is a file", true, false, r#"Bearer realm="file:///etc/passwd""#),
        challenge("a token service that is no address", true, false, r#"Bearer realm="\x1b[2J""#),
        token("a token without end", move || Reply::stream(200, endless)),
        token("no token", || Reply::new(200, "{}")),
        token("a token with a line of its own", || Reply::new(200, r#"{"token":"x\r\nHost: evil.example"}"#)),
        token("a token that is never enough", || Reply::new(200, r#"{"token":"useless"}"#)),
        token("a token service that leads elsewhere", || Reply::to("http://evil.example/")),
        token("a token service that says no", || Reply::new(403, r#"{"details":"incorrect password"}"#)),
        // Words, and none.
        case("a failure each time", |_, _| Some(Reply::new(500, "it broke"))),
        case("too many requests", |_, _| Some(Reply::new(429, "").header("Retry-After", "999999"))),
        case("control characters in an error", |_, _| {
            Some(Reply::new(
                403,
                r#"{"errors":[{"code":"DENIED","message":"\u001b[2J\u001b]0;owned\u0007\u202e"}]}"#,
            ))
        }),
        case("an error without end", move |_, _| Some(Reply::stream(400, endless))),
        case("no such model", |_, _| {
            Some(Reply::new(404, r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#))
        }),
        case("no HTTP", |_, _| Some(Reply::stream(0, |out| out.write_all(b"SSH-2.0-OpenSSH_9.2\r\n")))),
        case("nothing", |_, _| Some(Reply::stream(0, |_| Ok(())))),
        case("no answer", |_, _| {
            std::thread::sleep(Duration::from_secs(4));
            None
        }),
    ]
}

/// What a case led to, in words.
fn meet(case: Case) -> String {
    let weights = noise(200_000, 9);
    let (registry, _) = shelf(&weights);
    let Case { what, act, name, login, key } = case;
    let server =
        Server::start(move |request| act(&registry, request).unwrap_or_else(|| registry.answer(request)));
    let place = Place::new();
    let host = server.host();
    let mut options = place.options();
    if login {
        let text = format!(r#"{{"auths":{{"{host}":{{"auth":"YW5uOmh1bnRlcjI="}}}}}}"#);
        std::fs::write(place.path("config.json"), text).unwrap();
    }
    if key {
        options.key_hosts = vec![host.clone()];
    }
    let name = name.replacen("me/", &format!("{host}/me/"), 1);
    let error = match place.pull_with(options, &name, &Heard::default()) {
        Ok(pulled) => panic!("{what}: {pulled:?}"),
        Err(error) => error,
    };
    assert!(place.store.list().unwrap().is_empty(), "{what}");
    assert!(place.store.find(&Name::parse(&name).unwrap()).unwrap().is_none(), "{what}");
    let verified = place.store.verify(&[], &|_| {}).unwrap();
    assert!(verified.damage.is_empty(), "{what}: {verified:?}");
    let said = text(&error, &[(&host, "HOST")]);
    for secret in ["hunter2", "YW5uOmh1bnRlcjI=", "secret", "useless"] {
        assert!(!said.contains(secret), "{what}: {said}");
    }
    assert!(!said.contains(|c: char| c.is_control() && c != '\n'), "{what}: {said:?}");
    // Which part comes first is chance.
    let said = regex::Regex::new(r"bytes \d+-\d+/").unwrap().replace_all(&said, "bytes A-B/").into_owned();
    format!("# {what}\n{}", said.split("  help: ").next().unwrap_or_default())
}

#[test]
fn hostile_registries_are_refused() {
    let cases = cases();
    assert!(cases.len() >= 50);
    let told: Vec<String> = std::thread::scope(|scope| {
        let all: Vec<_> = cases.into_iter().map(|case| scope.spawn(|| meet(case))).collect();
        all.into_iter().map(|t| t.join().unwrap()).collect()
    });
    insta::with_settings!({snapshot_path => "../../snapshots", prepend_module_to_snapshot => false}, {
        insta::assert_snapshot!("registry_hostile", told.join("\n"));
    });
}

/// A server with a certificate of its own for this machine, and that certificate.
fn with_tls(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> (Server, String) {
    use tokio_rustls::rustls;
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
    let key = rustls_pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .unwrap();
    (Server::with_tls(Some(Arc::new(config)), answer), made.cert.pem())
}

#[test]
fn encryption_is_not_given_up() {
    let (registry, digest) = shelf(&noise(1000, 1));
    let (server, certificate) = with_tls(move |request| registry.answer(request));
    let place = Place::new();
    let host = server.host();
    let name = format!("{host}/me/story");
    let mut options = place.options();
    options.insecure = false;
    let unknown = place.pull_with(options.clone(), &name, &Heard::default()).unwrap_err();
    assert_eq!(unknown.exit_code(), 3);
    assert!(server.log().is_empty(), "nothing is said over such a connection");
    let path = place.path("ca.pem");
    std::fs::write(&path, certificate).unwrap();
    options.ca_file = Some(path);
    let pulled = place.pull_with(options.clone(), &name, &Heard::default()).unwrap();
    assert_eq!(pulled.id, digest);

    let (down, certificate) = with_tls(|_| Reply::to("http://127.0.0.1:9/x"));
    std::fs::write(place.path("ca.pem"), certificate).unwrap();
    let downgrade = place.pull_with(options.clone(), &format!("{}/me/story", down.host()), &Heard::default());
    let plain = place.pull_with(options.clone(), &format!("http://{host}/me/story"), &Heard::default());
    std::fs::write(place.path("ca.pem"), "no certificate").unwrap();
    let garbage = place.pull_with(options, &name, &Heard::default());
    let dir = place.path("").display().to_string();
    let replace = [(host.as_str(), "HOST"), (&down.host(), "HOST"), (&dir, "DIR/")];
    let all = [Err(unknown), downgrade, plain, garbage].map(|r| text(&r.unwrap_err(), &replace));
    insta::with_settings!({snapshot_path => "../../snapshots", prepend_module_to_snapshot => false}, {
        insta::assert_snapshot!("registry_encryption", all.join("\n"));
    });
}
