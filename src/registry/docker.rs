//! Logins as Docker keeps them: `config.json`, and the helpers that it names.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::failure::clean;
use crate::diagnostic::{Diagnostic, Result};

/// What to log in with. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Credential {
    /// A name and a password.
    Password {
        /// Whose.
        user: String,
        /// The password.
        password: String,
    },
    /// A token that is exchanged for others.
    Identity(String),
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credential")
    }
}

/// The most bytes that are read of the file, or of a helper.
const LIMIT: u64 = 1 << 20;

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Config {
    auths: BTreeMap<String, Entry>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Entry")
    }
}

/// What a helper answers.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Helped {
    username: String,
    secret: String,
}

/// What Docker calls a registry in its file.
pub(super) fn key(host: &str) -> &str {
    match host {
        "docker.io" | "index.docker.io" | "registry-1.docker.io" => "https://index.docker.io/v1/",
        host => host,
    }
}

/// The credential for `host`, if `config` or a helper it names has one. Runs the helper.
///
/// # Errors
/// The file is damaged; the helper fails or takes longer than `patience`.
pub(super) fn find(config: &Path, host: &str, patience: Duration) -> Result<Option<Credential>> {
    let bytes = match read(config) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Diagnostic::io("read", config, &e).into()),
    };
    let parsed: Config = serde_json::from_slice(&bytes).map_err(|e| damaged(config, &e))?;
    let key = key(host);
    let helper = parsed.cred_helpers.get(key).or_else(|| parsed.cred_helpers.get(host));
    let helper = helper.map(String::as_str).or(Some(parsed.creds_store.as_str())).filter(|h| !h.is_empty());
    if let Some(helper) = helper
        && let Some(found) = from_helper(helper, key, patience)?
    {
        return Ok(Some(found));
    }
    let entry = parsed.auths.iter().find(|(name, _)| same(name, key)).map(|(_, entry)| entry);
    Ok(entry.and_then(credential))
}

fn damaged(config: &Path, error: &serde_json::Error) -> Diagnostic {
    // The text of the error may quote what the file holds.
    let (line, column) = (error.line(), error.column());
    Diagnostic::error(format!("not what Docker writes, at line {line} column {column}"))
        .in_file(config, "")
        .code("docker-config")
        .help("it holds the logins to registries; repair it, or name another folder in DOCKER_CONFIG")
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(LIMIT).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Old files have addresses in the place of hosts.
fn same(name: &str, key: &str) -> bool {
    let host = |text: &str| {
        let text = text.strip_prefix("https://").or(text.strip_prefix("http://")).unwrap_or(text);
        text.split('/').next().unwrap_or_default().to_ascii_lowercase()
    };
    name == key || host(name) == host(key)
}

fn credential(entry: &Entry) -> Option<Credential> {
    if !entry.identitytoken.is_empty() {
        return Some(Credential::Identity(entry.identitytoken.clone()));
    }
    let decoded = STANDARD.decode(entry.auth.trim()).ok().and_then(|b| String::from_utf8(b).ok());
    let pair = decoded.as_deref().and_then(|text| text.trim_end_matches('\0').split_once(':'));
    let (user, password) = pair.unwrap_or((&entry.username, &entry.password));
    let (user, password) = (user.to_owned(), password.to_owned());
    (!user.is_empty()).then_some(Credential::Password { user, password })
}

/// The program of a helper. Its name is part of a program's, not a path.
fn program(helper: &str) -> Result<PathBuf> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    match helper.chars().all(plain) && !helper.starts_with(['.', '-']) {
        true => Ok(PathBuf::from(format!("docker-credential-{helper}"))),
        false => Err(Diagnostic::error(format!("`{}` is no name of a credential helper", clean(helper)))
            .code("docker-config")
            .into()),
    }
}

fn from_helper(helper: &str, key: &str, patience: Duration) -> Result<Option<Credential>> {
    let answer = ask(helper, "get", key.as_bytes(), patience)?;
    if !answer.worked {
        // So do all helpers say that they have nothing for this host.
        return match answer.text.contains("credentials not found") {
            true => Ok(None),
            false => Err(helper_failed(helper, &clean(&answer.text)).into()),
        };
    }
    let helped: Helped = serde_json::from_str(&answer.text)
        .map_err(|_| helper_failed(helper, "its answer is not what helpers answer"))?;
    Ok(match (helped.username.as_str(), helped.secret.is_empty()) {
        (_, true) => None,
        ("<token>", _) => Some(Credential::Identity(helped.secret)),
        (_, _) => Some(Credential::Password { user: helped.username, password: helped.secret }),
    })
}

fn helper_failed(helper: &str, why: &str) -> Diagnostic {
    Diagnostic::environment(format!("the credential helper docker-credential-{helper} fails: {why}"))
        .code("credential-helper")
        .help("Docker's config.json names it; `mdl login` writes there too")
}

/// What a helper said, and whether it succeeded.
pub(super) struct Answer {
    /// Its exit status was 0.
    pub worked: bool,
    /// Its standard output.
    pub text: String,
}

/// Runs a helper with `input`, for as long as `patience`.
///
/// # Errors
/// It is not there, or takes too long.
pub(super) fn ask(helper: &str, action: &str, input: &[u8], patience: Duration) -> Result<Answer> {
    let program = program(helper)?;
    let failed = |e: std::io::Error| helper_failed(helper, &e.to_string());
    let mut child = Command::new(program)
        .arg(action)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read its input says so by its answer.
        let _ = stdin.write_all(input);
    }
    let stdout = child.stdout.take();
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut text = Vec::new();
        if let Some(stdout) = stdout {
            let _ = stdout.take(LIMIT).read_to_end(&mut text);
        }
        let _ = sender.send(text);
    });
    let deadline = Instant::now() + patience;
    let text = receiver.recv_timeout(patience);
    let status = loop {
        match child.try_wait().map_err(failed)? {
            Some(status) => break status,
            None if Instant::now() >= deadline => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(
                    helper_failed(helper, &format!("no answer within {} s", patience.as_secs())).into()
                );
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    let text = String::from_utf8_lossy(&text.unwrap_or_default()).into_owned();
    Ok(Answer { worked: status.success(), text })
}

/// Keeps a login: with the helper that the file names, else in the file.
///
/// # Errors
/// The file is damaged or cannot be written; the helper fails.
pub(super) fn keep(config: &Path, host: &str, user: &str, password: &str, patience: Duration) -> Result<()> {
    let mut json = read_json(config)?;
    let key = key(host);
    let mut entry = serde_json::json!({});
    match helper(&json, host) {
        Some(helper) => {
            let input =
                serde_json::json!({"ServerURL": key, "Username": user, "Secret": password}).to_string();
            let answer = ask(&helper, "store", input.as_bytes(), patience)?;
            if !answer.worked {
                return Err(helper_failed(&helper, &clean(&answer.text)).into());
            }
        }
        None => entry = serde_json::json!({"auth": STANDARD.encode(format!("{user}:{password}"))}),
    }
    if !json.get("auths").is_some_and(Value::is_object) {
        json.insert("auths".to_owned(), serde_json::json!({}));
    }
    if let Some(auths) = json.get_mut("auths").and_then(Value::as_object_mut) {
        auths.insert(key.to_owned(), entry);
    }
    write_json(config, &json)
}

/// Forgets a login; whether there was one.
///
/// # Errors
/// As [`keep`].
pub(super) fn forget(config: &Path, host: &str, patience: Duration) -> Result<bool> {
    let mut json = read_json(config)?;
    let key = key(host);
    let mut found = false;
    if let Some(auths) = json.get_mut("auths").and_then(Value::as_object_mut) {
        let before = auths.len();
        auths.retain(|name, _| !same(name, key));
        found = auths.len() < before;
    }
    if let Some(helper) = helper(&json, host) {
        found |= ask(&helper, "erase", key.as_bytes(), patience)?.worked;
    }
    if found {
        write_json(config, &json)?;
    }
    Ok(found)
}

/// The helper that the file names for a host.
fn helper(json: &Map<String, Value>, host: &str) -> Option<String> {
    let helpers = json.get("credHelpers");
    let own = helpers.and_then(|h| h.get(key(host)).or_else(|| h.get(host)));
    own.or_else(|| json.get("credsStore"))?.as_str().filter(|h| !h.is_empty()).map(str::to_owned)
}

/// The file with all that others keep in it.
fn read_json(config: &Path) -> Result<Map<String, Value>> {
    let bytes = match read(config) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Map::new()),
        Err(e) => return Err(Diagnostic::io("read", config, &e).into()),
    };
    serde_json::from_slice(&bytes).map_err(|e| damaged(config, &e).into())
}

/// Either the file is as it was, or it is this, which only its user may read.
fn write_json(config: &Path, json: &Map<String, Value>) -> Result<()> {
    let failed = |e: &std::io::Error| Diagnostic::io("write", config, e);
    let mut text = serde_json::to_vec_pretty(json).map_err(|e| failed(&e.into()))?;
    text.push(b'\n');
    // Where the file is a link, what it leads to is replaced.
    let path = config.canonicalize().unwrap_or_else(|_| config.to_owned());
    let dir = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir).map_err(|e| failed(&e))?;
    let mut file = tempfile::NamedTempFile::new_in(dir).map_err(|e| failed(&e))?;
    file.write_all(&text).and_then(|()| file.as_file().sync_all()).map_err(|e| failed(&e))?;
    file.persist(&path).map_err(|e| failed(&e.error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"{
        "auths": {
            "ghcr.io": {"auth": "YW5uOnNlOmNyZXQ="},
            "https://index.docker.io/v1/": {"auth": "YW5uOmRvY2tlcg=="},
            "https://old.example/v2/": {"username": "ann", "password": "old"},
            "acr.example": {"auth": "MDAwOg==", "identitytoken": "refresh"},
            "empty.example": {},
            "bad.example": {"auth": "%%%"}
        },
        "credsStore": "", "HttpHeaders": {"x": "y"}
    }"#;

    fn password(user: &str, password: &str) -> Option<Credential> {
        Some(Credential::Password { user: user.to_owned(), password: password.to_owned() })
    }

    #[test]
    fn logins_are_found_by_host() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        let find = |host: &str| find(&path, host, Duration::from_secs(5)).unwrap();
        assert_eq!(find("ghcr.io"), None);
        std::fs::write(&path, FILE).unwrap();
        for (host, wanted) in [
            ("ghcr.io", password("ann", "se:cret")),
            ("docker.io", password("ann", "docker")),
            ("old.example", password("ann", "old")),
            ("acr.example", Some(Credential::Identity("refresh".to_owned()))),
            ("empty.example", None),
            ("bad.example", None),
            ("evil.ghcr.io", None),
            ("ghcr.io:5000", None),
        ] {
            assert_eq!(find(host), wanted, "{host}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_file_does_not_tell_its_secrets() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        std::fs::write(&path, r#"{"auths": {"x": "hunter2"}}"#).unwrap();
        let error = find(&path, "x", Duration::from_secs(5)).unwrap_err();
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        let secret = Credential::Identity("hunter2".to_owned());
        assert!(!format!("{secret:?}").contains("hunter2"));
    }

    #[test]
    fn a_login_is_kept_beside_what_others_keep() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/config.json");
        let patience = Duration::from_secs(5);
        keep(&path, "ghcr.io", "ann", "se:cret", patience).unwrap();
        assert_eq!(find(&path, "ghcr.io", patience).unwrap(), password("ann", "se:cret"));
        std::fs::write(&path, FILE).unwrap();
        keep(&path, "docker.io", "bob", "new", patience).unwrap();
        keep(&path, "new.example:5000", "bob", "new", patience).unwrap();
        assert_eq!(find(&path, "docker.io", patience).unwrap(), password("bob", "new"));
        assert_eq!(find(&path, "ghcr.io", patience).unwrap(), password("ann", "se:cret"));
        assert!(std::fs::read_to_string(&path).unwrap().contains("HttpHeaders"));
        assert!(forget(&path, "new.example:5000", patience).unwrap());
        assert!(!forget(&path, "new.example:5000", patience).unwrap());
        assert_eq!(find(&path, "new.example:5000", patience).unwrap(), None);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn a_helper_is_a_name_and_no_path() {
        assert!(program("osxkeychain").is_ok());
        for bad in ["../x", "a/b", "a b", "..", "-x", "a\\b", "é"] {
            assert!(program(bad).is_err(), "{bad}");
        }
    }
}
