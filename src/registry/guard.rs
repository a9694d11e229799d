//! Which addresses may be spoken to: those of hosts that the user named, and public ones.
//!
//! A registry may redirect to anywhere. Without this it could make `mdl` ask the machine's own services, those of
//! its network, or the metadata service of its cloud. Names are looked at after they are resolved, on the very
//! addresses that are then connected to.

use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::failure::{authority, shown};
use crate::diagnostic::{Diagnostic, Result};

/// An address that nobody named and that is not public.
#[derive(Clone, Debug)]
pub(super) struct Forbidden {
    address: Option<IpAddr>,
}

impl fmt::Display for Forbidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an address that is not public")
    }
}

impl std::error::Error for Forbidden {}

impl Forbidden {
    /// What to tell.
    pub fn diagnose(&self, url: &Url) -> Diagnostic {
        let at = self.address.map(|a| format!(" ({a})")).unwrap_or_default();
        Diagnostic::error(format!("the registry leads to {}{at}, which is not a public address", shown(url)))
            .code("registry-redirect")
            .help("a registry must not make this machine speak to its own network; nothing was sent there")
            .help(format!("if {} is a token service of yours, allow it with --allow-realm", authority(url)))
    }
}

/// The hosts that the user named.
#[derive(Clone, Debug, Default)]
pub(super) struct Named(HashSet<(String, Option<u16>)>);

impl Named {
    /// Adds the host and port of an address.
    pub fn add(&mut self, url: &Url) {
        if let Some(host) = url.host_str() {
            self.0.insert((host.to_ascii_lowercase(), url.port_or_known_default()));
        }
    }

    /// Adds `host` with any port, or `host:port`.
    pub fn add_text(&mut self, text: &str) {
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if port.parse::<u16>().is_ok() && !host.contains(':') => {
                (host, port.parse().ok())
            }
            _ => (text, None),
        };
        self.0.insert((host.to_ascii_lowercase(), port));
    }

    /// Whether the user named where this address leads.
    pub fn has(&self, url: &Url) -> bool {
        let Some(host) = url.host_str().map(str::to_ascii_lowercase) else { return false };
        self.0.contains(&(host.clone(), None)) || self.0.contains(&(host, url.port_or_known_default()))
    }
}

/// Refuses an address whose host is written as one that is not public.
///
/// # Errors
/// It is.
pub(super) fn check_literal(url: &Url) -> Result<()> {
    let forbidden = match url.host() {
        Some(url::Host::Ipv4(address)) => (!is_public(address.into())).then_some(Some(address.into())),
        Some(url::Host::Ipv6(address)) => (!is_public(address.into())).then_some(Some(address.into())),
        Some(url::Host::Domain(name)) => {
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            (name == "localhost" || name.ends_with(".localhost")).then_some(None)
        }
        None => Some(None),
    };
    forbidden.map_or(Ok(()), |address| Err(Forbidden { address }.diagnose(url).into()))
}

/// Resolves names to public addresses only.
#[derive(Clone, Debug)]
pub(super) struct PublicOnly {
    /// Hosts of proxies, which may be anywhere: the environment names them.
    pub proxies: Arc<HashSet<String>>,
}

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        let proxy = self.proxies.contains(&name.as_str().to_ascii_lowercase());
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let first = found.first().map(SocketAddr::ip);
            let public: Vec<SocketAddr> = found.into_iter().filter(|a| proxy || is_public(a.ip())).collect();
            if public.is_empty() && first.is_some() {
                return Err(Forbidden { address: first }.into());
            }
            Ok(Box::new(public.into_iter()) as Addrs)
        })
    }
}

/// Hosts of the proxies that the environment names.
pub(super) fn proxies(env: &dyn Fn(&str) -> Option<std::ffi::OsString>) -> HashSet<String> {
    let variables = ["http_proxy", "https_proxy", "all_proxy"];
    let read = |name: &str| env(name).or_else(|| env(&name.to_ascii_uppercase()))?.into_string().ok();
    let host = |text: String| {
        let text = if text.contains("://") { text } else { format!("http://{text}") };
        Some(Url::parse(&text).ok()?.host_str()?.to_ascii_lowercase())
    };
    variables.into_iter().filter_map(read).filter_map(host).collect()
}

/// Whether an address is of the public network, by the registries of special addresses.
pub(super) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !matches!(
        (a, b, c),
        (0 | 10 | 127, _, _)
            // Carriers' own, and one cloud's metadata.
            | (100, 64..=127, _)
            | (169, 254, _)
            | (172, 16..=31, _)
            | (192, 0, 0 | 2)
            | (192, 88, 99)
            | (192, 168, _)
            | (198, 18 | 19, _)
            | (198, 51, 100)
            | (203, 0, 113)
            | (224..=255, _, _)
    )
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    if let Some(v4) = address.to_ipv4_mapped() {
        return is_public_v4(v4);
    }
    let s = address.segments();
    let v4 = |high: u16, low: u16| is_public_v4(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)));
    match s {
        // Translated and tunnelled addresses are as public as what they carry.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => v4(high, low),
        // Teredo and its neighbours, documentation.
        [0x2001, 0..=0x1ff, ..] | [0x2001, 0xdb8, ..] | [0x3fff, ..] => false,
        // What is not global unicast: loopback, unique local, link-local, multicast, and whatever comes.
        [first, ..] => (0x2000..=0x3fff).contains(&first),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_addresses_are_not_public() {
        for text in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "100.100.100.200",
            "127.0.0.1",
            "127.1.2.3",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.192",
            "192.168.1.1",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::7f00:1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "ff02::1",
            "2001:db8::1",
            "2001::1",
            "100::1",
            "5f00::1",
        ] {
            assert!(!is_public(text.parse().unwrap()), "{text}");
        }
        for text in [
            "1.1.1.1",
            "100.63.255.255",
            "100.128.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "8.8.8.8",
            "2606:4700::1111",
            "2001:4860:4860::8888",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
            "2002:808:808::1",
        ] {
            assert!(is_public(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn what_was_named_is_a_host_and_a_port() {
        let url = |text: &str| Url::parse(text).unwrap();
        let mut named = Named::default();
        named.add(&url("http://localhost:5000/v2/"));
        named.add(&url("https://ghcr.io/v2/"));
        named.add_text("auth.lan");
        named.add_text("other.lan:8443");
        for (text, there) in [
            ("http://LOCALHOST:5000/x", true),
            ("http://localhost:6379/", false),
            ("http://localhost/", false),
            ("https://ghcr.io:443/", true),
            ("http://ghcr.io/", false),
            ("https://auth.lan:9/", true),
            ("https://other.lan:8443/", true),
            ("https://other.lan/", false),
        ] {
            assert_eq!(named.has(&url(text)), there, "{text}");
        }
    }

    #[test]
    fn addresses_in_any_spelling_are_seen() {
        for text in [
            "http://127.1/",
            "http://0x7f000001/",
            "http://2130706433/",
            "http://[::1]/",
            "http://localhost/",
            "http://a.localhost./",
            "http://017700000001/",
            "http://[::ffff:7f00:1]/",
        ] {
            assert!(check_literal(&Url::parse(text).unwrap()).is_err(), "{text}");
        }
        assert!(check_literal(&Url::parse("https://1.1.1.1/").unwrap()).is_ok());
        assert!(check_literal(&Url::parse("https://example.com/").unwrap()).is_ok());
    }
}
