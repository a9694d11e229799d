//! Where a server is.

use std::net::IpAddr;
use std::path::PathBuf;

use crate::diagnostic::{Diagnostic, Result};
use crate::server::config::{Address, parse_address};

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// What comes before the path of a request: `http://127.0.0.1:11434`.
    pub url: String,
    /// The socket, where it is one of the file system.
    pub socket: Option<PathBuf>,
    /// Only this machine can be meant.
    pub loopback: bool,
}

impl Place {
    /// Reads a place as `OLLAMA_HOST` writes it.
    ///
    /// # Errors
    /// The text names no host.
    pub fn parse(text: &str) -> Result<Place, String> {
        let text = text.trim().trim_matches(['"', '\'']);
        let (host, port) = match parse_address(text)? {
            Address::Unix(path) => {
                return Ok(Place { url: "http://localhost".to_owned(), socket: Some(path), loopback: true });
            }
            Address::Tcp(host, port) => (host, port),
        };
        let ip = host.parse::<IpAddr>().ok();
        // What a server listens on everywhere is found here.
        let ip = ip.map(|ip| match ip {
            IpAddr::V4(v4) if v4.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
            IpAddr::V6(v6) if v6.is_unspecified() => IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
            ip => ip,
        });
        let loopback = ip.map_or(host == "localhost", |ip| ip.is_loopback());
        let host = match ip {
            Some(IpAddr::V6(v6)) => format!("[{v6}]"),
            Some(ip) => ip.to_string(),
            None => host,
        };
        let scheme = if text.starts_with("https://") { "https" } else { "http" };
        let path =
            text.split_once("://").map_or(text, |(_, rest)| rest).split_once('/').map_or("", |(_, p)| p);
        let path = path.trim_matches('/');
        let path = if path.is_empty() { String::new() } else { format!("/{path}") };
        Ok(Place { url: format!("{scheme}://{host}:{port}{path}"), socket: None, loopback })
    }

    /// The place that is named, else that of `MDL_HOST`, `OLLAMA_HOST`, or the usual one.
    ///
    /// # Errors
    /// What names it cannot be read.
    pub fn find(named: Option<&str>, env: &dyn Fn(&str) -> Option<String>) -> Result<Place> {
        let set = |name: &'static str| env(name).filter(|v| !v.trim().is_empty()).map(|v| (name, v));
        let named = named.map(|text| ("--host", text.to_owned()));
        let (name, text) =
            named.or_else(|| set("MDL_HOST")).or_else(|| set("OLLAMA_HOST")).unwrap_or_default();
        Place::parse(&text).map_err(|why| Diagnostic::usage(format!("{name}: {why}")).into())
    }

    /// The place as a person knows it.
    pub fn shown(&self) -> String {
        match &self.socket {
            Some(path) => format!("unix:{}", path.display()),
            None => self.url.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_as_ollama_reads_them() {
        for (text, url, loopback) in [
            ("", "http://127.0.0.1:11434", true),
            ("0.0.0.0", "http://127.0.0.1:11434", true),
            ("[::]:80", "http://[::1]:80", true),
            ("localhost:1", "http://localhost:1", true),
            ("http://example.com", "http://example.com:80", false),
            ("https://example.com/ollama/", "https://example.com:443/ollama", false),
            ("\"10.0.0.1:8080\"", "http://10.0.0.1:8080", false),
        ] {
            let place = Place::parse(text).unwrap();
            assert_eq!((place.url.as_str(), place.loopback), (url, loopback), "{text}");
        }
        let socket = Place::parse("unix:/run/mdl.sock").unwrap();
        assert_eq!((socket.shown().as_str(), socket.loopback), ("unix:/run/mdl.sock", true));
        assert!(Place::parse("ftp://x").is_err());
    }

    #[test]
    fn what_is_named_goes_before_the_environment() {
        let env = |name: &str| match name {
            "MDL_HOST" => Some("a".to_owned()),
            _ => Some("b".to_owned()),
        };
        assert_eq!(Place::find(Some("c"), &env).unwrap().url, "http://c:11434");
        assert_eq!(Place::find(None, &env).unwrap().url, "http://a:11434");
        assert_eq!(Place::find(Some("ftp://x"), &env).unwrap_err().exit_code(), 2);
    }
}
