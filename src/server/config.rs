//! What the operator says: flags first, then `MDL_*`, then Ollama's `OLLAMA_*`, then defaults.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::limits::Limits;
use super::scheduler::KeepAlive;
use crate::diagnostic::{Diagnostic, Result};
use crate::runtime::device::Compute;
use crate::runtime::kv::KvType;
use crate::signing::PublicKey;

/// Where the server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A host (a name or an IP address) and a port.
    Tcp(String, u16),
    /// A socket in the file system.
    Unix(PathBuf),
}

/// How logs are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Everything that can be configured.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen.
    pub address: Address,
    /// Origins beyond those of this machine whose pages may call (`*` is any).
    pub origins: Vec<String>,
    /// A file with one key a line; with it, requests need one.
    pub api_keys_file: Option<PathBuf>,
    /// Listen on a public address without keys.
    pub public: bool,
    /// A certificate chain and its key, in PEM.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// No create, copy, delete, pull or push.
    pub read_only: bool,
    /// Nothing is pulled or pushed.
    pub offline: bool,
    /// Only models that one of these keys signed are loaded; any, where there is none.
    pub require_signature: Vec<PublicKey>,
    /// Models to load before the server is ready.
    pub preload: Vec<String>,
    /// How logs are written.
    pub log_format: LogFormat,
    /// Sequences that a model computes at once.
    pub parallel: usize,
    /// Models loaded at once.
    pub max_loaded_models: usize,
    /// How long an idle model stays.
    pub keep_alive: KeepAlive,
    /// The context of models and requests that do not say one.
    pub context_length: Option<u64>,
    /// How keys and values are stored.
    pub kv_cache_type: Option<KvType>,
    /// What models compute with.
    pub compute: Compute,
    /// What a request may cost.
    pub limits: Limits,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            address: Address::Tcp("127.0.0.1".to_owned(), DEFAULT_PORT),
            origins: Vec::new(),
            api_keys_file: None,
            public: false,
            tls: None,
            read_only: false,
            offline: false,
            require_signature: Vec::new(),
            preload: Vec::new(),
            log_format: LogFormat::Text,
            parallel: 4,
            max_loaded_models: 3,
            keep_alive: KeepAlive::For(Duration::from_secs(300)),
            context_length: None,
            kv_cache_type: None,
            compute: Compute::default(),
            limits: Limits::default(),
        }
    }
}

/// Ollama's.
const DEFAULT_PORT: u16 = 11434;

impl Config {
    /// The defaults, changed by what the environment says.
    ///
    /// # Errors
    /// A variable has a value that cannot be read; it is named.
    pub fn from_env(env: &dyn Fn(&str) -> Option<String>) -> Result<Config> {
        let mut config = Config::default();
        for setting in SETTINGS {
            let names = [format!("MDL_{}", setting.name), format!("OLLAMA_{}", setting.name)];
            let found = names.iter().find_map(|name| Some((name, env(name)?)));
            let Some((name, value)) = found else { continue };
            let value = value.trim().trim_matches(['"', '\'']);
            if value.is_empty() {
                continue;
            }
            (setting.set)(&mut config, value).map_err(|why| {
                Diagnostic::usage(format!("{name}: {why}")).code("environment-variable").help(setting.doc)
            })?;
        }
        Ok(config)
    }

    /// # Errors
    /// The address is public, and neither keys nor `--public` say that it should be.
    pub fn check(&self) -> Result<()> {
        if self.is_loopback() || self.api_keys_file.is_some() || self.public {
            return Ok(());
        }
        let Address::Tcp(host, _) = &self.address else { return Ok(()) };
        Err(Diagnostic::usage(format!(
            "`{host}` can be reached from other machines, and no key is asked for"
        ))
        .code("public-without-keys")
        .help("name a file of keys with `--api-keys-file FILE`")
        .help("or say `--public` to serve everyone who can reach it")
        .into())
    }

    /// True when only this machine can reach the server.
    pub fn is_loopback(&self) -> bool {
        match &self.address {
            Address::Unix(_) => true,
            Address::Tcp(host, _) => match host.parse::<IpAddr>() {
                Ok(ip) => ip.is_loopback(),
                Err(_) => host == "localhost",
            },
        }
    }
}

/// A variable of the environment.
struct Setting {
    /// Without its prefix.
    name: &'static str,
    doc: &'static str,
    set: fn(&mut Config, &str) -> Result<(), String>,
}

/// Every variable.
const SETTINGS: &[Setting] = &[
    Setting {
        name: "HOST",
        doc: "where to listen: HOST, HOST:PORT, http://HOST:PORT or unix:PATH",
        set: |c, v| {
            c.address = parse_address(v)?;
            Ok(())
        },
    },
    Setting {
        name: "ORIGINS",
        doc: "origins that may call from a browser, with commas between",
        set: |c, v| {
            c.origins = v.split(',').map(|o| o.trim().to_owned()).filter(|o| !o.is_empty()).collect();
            Ok(())
        },
    },
    Setting {
        name: "API_KEYS_FILE",
        doc: "a file with one key a line",
        set: |c, v| {
            c.api_keys_file = Some(v.into());
            Ok(())
        },
    },
    Setting {
        name: "NUM_PARALLEL",
        doc: "sequences that a model computes at once: 1 to 256",
        set: |c, v| {
            c.parallel = count(v, 256)?;
            Ok(())
        },
    },
    Setting {
        name: "MAX_LOADED_MODELS",
        doc: "models loaded at once; 0 for the default",
        set: |c, v| {
            match v {
                "0" => {}
                v => c.max_loaded_models = count(v, 1024)?,
            }
            Ok(())
        },
    },
    Setting {
        name: "MAX_QUEUE",
        doc: "requests that may wait",
        set: |c, v| {
            c.limits.queue = count(v, 1 << 20)?;
            Ok(())
        },
    },
    Setting {
        name: "KEEP_ALIVE",
        doc: "how long an idle model stays: 5m, 30s, -1 for ever",
        set: |c, v| {
            c.keep_alive = KeepAlive::parse(v)?;
            Ok(())
        },
    },
    Setting {
        name: "CONTEXT_LENGTH",
        doc: "the context where nothing else says one; 0 for the default",
        set: |c, v| {
            c.context_length = match v {
                "0" => None,
                v => Some(count(v, 1 << 30)? as u64),
            };
            Ok(())
        },
    },
    Setting {
        name: "KV_CACHE_TYPE",
        doc: "f16, q8_0 or q4_0",
        set: |c, v| {
            c.kv_cache_type = Some(KvType::parse(v).ok_or_else(|| format!("`{v}` is no type of cache"))?);
            Ok(())
        },
    },
];

fn count(text: &str, most: usize) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(n) if (1..=most).contains(&n) => Ok(n),
        _ => Err(format!("`{text}` is no number from 1 to {most}")),
    }
}

/// Reads an address as OLLAMA_HOST writes it; a port that is none falls back on the default.
///
/// # Errors
/// The text names no host.
pub fn parse_address(text: &str) -> Result<Address, String> {
    let text = text.trim();
    if let Some(path) = text.strip_prefix("unix:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        return match path.is_empty() {
            true => Err("`unix:` names no file".to_owned()),
            false => Ok(Address::Unix(path.into())),
        };
    }
    let (rest, default) = match text.split_once("://") {
        Some(("http", rest)) => (rest, 80),
        Some(("https", rest)) => (rest, 443),
        Some((scheme, _)) => return Err(format!("`{scheme}` is no scheme of an address: it is `http`")),
        None => (text, DEFAULT_PORT),
    };
    let rest = rest.split('/').next().unwrap_or("");
    // [::1]:80, [::1], ::1, host:80, :80, host
    let (host, port) = match rest.strip_prefix('[').and_then(|r| r.split_once(']')) {
        Some((host, port)) => (host, port.strip_prefix(':')),
        None if rest.matches(':').count() > 1 => (rest, None),
        None => match rest.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (rest, None),
        },
    };
    let host = if host.is_empty() { "127.0.0.1" } else { host };
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%');
    if !host.chars().all(valid) {
        return Err(format!("`{host}` is no host"));
    }
    let port = port.map_or(default, |p| p.parse().unwrap_or(default));
    Ok(Address::Tcp(host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_ollama_reads_them() {
        let tcp = |host: &str, port| Ok(Address::Tcp(host.to_owned(), port));
        for (text, expected) in [
            ("", tcp("127.0.0.1", 11434)),
            ("1.2.3.4", tcp("1.2.3.4", 11434)),
            (":1234", tcp("127.0.0.1", 1234)),
            ("1.2.3.4:1234", tcp("1.2.3.4", 1234)),
            ("http://1.2.3.4", tcp("1.2.3.4", 80)),
            ("https://1.2.3.4", tcp("1.2.3.4", 443)),
            ("https://1.2.3.4:1234/path", tcp("1.2.3.4", 1234)),
            ("example.com", tcp("example.com", 11434)),
            ("localhost:66000", tcp("localhost", 11434)),
            ("[::1]:1337", tcp("::1", 1337)),
            ("::1", tcp("::1", 11434)),
            ("[::1]", tcp("::1", 11434)),
            ("unix:/run/mdl.sock", Ok(Address::Unix("/run/mdl.sock".into()))),
        ] {
            assert_eq!(parse_address(text), expected, "{text}");
        }
        for bad in ["ftp://x", "a b", "unix:", "ho\0st"] {
            assert!(parse_address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ours_goes_before_ollamas() {
        let env = |name: &str| match name {
            "MDL_NUM_PARALLEL" => Some("7".to_owned()),
            "OLLAMA_NUM_PARALLEL" => Some("3".to_owned()),
            "OLLAMA_HOST" => Some("\"0.0.0.0\" ".to_owned()),
            _ => None,
        };
        let config = Config::from_env(&env).unwrap();
        assert_eq!(config.parallel, 7);
        assert_eq!(config.address, Address::Tcp("0.0.0.0".to_owned(), 11434));
        assert!(config.check().unwrap_err().to_string().contains("no key is asked for"));
        let bad = |name: &str| (name == "MDL_MAX_QUEUE").then(|| "many".to_owned());
        assert!(Config::from_env(&bad).unwrap_err().to_string().contains("MDL_MAX_QUEUE: `many`"));
    }
}
