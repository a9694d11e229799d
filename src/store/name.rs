//! Names of models: `host/namespace/model:tag`, most of which is usually left out.
//!
//! Two things go beyond Ollama's names, and have a place in its tree of manifests all the same:
//! - `model@sha256:<64 hex>` is one certain manifest. It has the tag `sha256-<64 hex>`; a tag before the `@` says
//!   nothing more.
//! - Registries of container images have longer paths: `host/a/b/model`. The namespace is `a/b`, and its directory
//!   `a_-_b`; a dot is `_--_`. No path of such a registry has these in it.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::path::PathBuf;
use std::str::FromStr;

use super::Digest;
use crate::diagnostic::{Diagnostic, Errors};

const DEFAULT_HOST: &str = "registry.ollama.ai";
const DEFAULT_NAMESPACE: &str = "library";
const DEFAULT_TAG: &str = "latest";

/// A model's full name. Every part is valid, and so safe as a file's name.
///
/// Names that differ only in the case of ASCII letters are equal.
#[derive(Clone)]
pub struct Name {
    /// `http` or `https` where the text had it. No part of the name's identity.
    scheme: Option<String>,
    host: String,
    namespace: String,
    model: String,
    tag: String,
}

/// A part's rule: how it is called, its greatest length, which of `.` and `:` it may have after
/// its first character.
struct Part {
    what: &'static str,
    longest: usize,
    also: &'static [u8],
}

const HOST: Part = Part { what: "host", longest: 350, also: b".:" };
const NAMESPACE: Part = Part { what: "namespace", longest: 80, also: b"" };
/// A part of a namespace elsewhere than at Ollama's registry.
const PATH: Part = Part { what: "namespace", longest: 128, also: b"." };
const MODEL: Part = Part { what: "model", longest: 80, also: b"." };
const TAG: Part = Part { what: "tag", longest: 80, also: b"." };

impl Part {
    /// Why `text` is not such a part.
    fn refuse(&self, text: &str) -> Option<String> {
        let what = self.what;
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        if text.is_empty() {
            return Some(format!("the {what} is empty"));
        }
        if text.len() > self.longest {
            return Some(format!("the {what} has {} bytes, more than {}", text.len(), self.longest));
        }
        let bad = text.char_indices().find(|&(i, c)| {
            !(c.is_ascii() && (word(c as u8) || i > 0 && (c == '-' || self.also.contains(&(c as u8)))))
        });
        bad.map(|(i, c)| match i {
            0 => format!("the {what} begins with {c:?}; it must begin with a letter, a digit or `_`"),
            _ => format!("the {what} has {c:?} in it"),
        })
    }
}

impl Name {
    /// Reads a name; what is left out is the default's: `registry.ollama.ai/library/…:latest`.
    /// The text may begin with a scheme (`https://`), if it also has a host and a namespace.
    ///
    /// # Errors
    /// A part is empty, too long or has a character that it may not have.
    pub fn parse(text: &str) -> Result<Name, Errors> {
        let (rest, digest) = match text.rsplit_once('@') {
            Some((rest, digest)) => {
                let colon = digest.starts_with("sha256:");
                let digest = digest.parse::<Digest>().ok().filter(|_| colon);
                let why = "what follows the `@` is not `sha256:` and 64 hexadecimal digits";
                (rest, Some(digest.ok_or_else(|| invalid(text, why))?))
            }
            None => (text, None),
        };
        let (rest, tag) = match rest.rsplit_once(':') {
            // After the last `/`, a colon begins the tag; before, it belongs to host or scheme.
            Some((rest, tag)) if !tag.contains('/') => (rest, tag),
            _ => (rest, DEFAULT_TAG),
        };
        let (rest, model) = rest.rsplit_once('/').map_or((None, rest), |(r, m)| (Some(r), m));
        let (scheme, rest) = match rest.and_then(|r| r.split_once("://")) {
            Some((scheme, rest)) => (Some(scheme), Some(rest)),
            None => (None, rest),
        };
        if let Some(scheme) = scheme.filter(|s| !matches!(*s, "http" | "https")) {
            return Err(invalid(text, &format!("the scheme {} is neither http nor https", quoted(scheme))));
        }
        let (host, namespace) = match rest.map(|r| (r, r.split_once('/'))) {
            None => (DEFAULT_HOST, DEFAULT_NAMESPACE),
            Some((_, Some((host, namespace)))) => (host, namespace),
            Some((_, None)) if scheme.is_some() => {
                return Err(invalid(text, "after a scheme there must be a host and a namespace"));
            }
            Some((namespace, None)) => (DEFAULT_HOST, namespace),
        };
        // `models/a/b/c` is more likely a path than a registry.
        if namespace.contains('/') && !host.contains(['.', ':']) && host != "localhost" {
            return Err(invalid(
                text,
                "it has more parts than a name, and the first is not a registry's host",
            ));
        }
        let refuse = |why: String| invalid(text, &why);
        // The tag before a digest says nothing, but must be one.
        let name = Name::from_parts(host, namespace, model, tag).map_err(refuse)?;
        let tag = digest.map_or(name.tag, |d| d.file_name());
        Ok(Name { scheme: scheme.map(str::to_owned), tag, ..name })
    }

    /// The name of these parts, or why there is none. The namespace may be a directory's name.
    pub(super) fn from_parts(host: &str, namespace: &str, model: &str, tag: &str) -> Result<Name, String> {
        // In the order in which a reader finds the fault most telling.
        for (part, text) in [(MODEL, model), (TAG, tag)] {
            if let Some(why) = part.refuse(text) {
                return Err(why);
            }
        }
        let namespace = namespace.replace("_--_", ".").replace("_-_", "/");
        let part = if host.eq_ignore_ascii_case(DEFAULT_HOST) { NAMESPACE } else { PATH };
        if let Some(why) = namespace.split('/').find_map(|text| part.refuse(text)) {
            return Err(why);
        }
        if directory(&namespace).len() > 255 {
            return Err("the namespace is too long".to_owned());
        }
        if let Some(why) = HOST.refuse(host) {
            return Err(why);
        }
        let [host, model, tag] = [host, model, tag].map(str::to_owned);
        Ok(Name { scheme: None, host, namespace, model, tag })
    }

    /// The manifest that the name is bound to, where it names one by its digest.
    pub fn digest(&self) -> Option<Digest> {
        Digest::of_file_name(&self.tag)
    }

    /// `http` or `https` where the text had it.
    pub fn scheme(&self) -> Option<&str> {
        self.scheme.as_deref()
    }

    /// The registry, with its port if it has one.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Whose model it is; at registries of container images, all that is between host and model.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The model without its tag.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Which of the model's versions.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// All four parts, whether they are the default's or not.
    pub fn full(&self) -> String {
        format!("{}/{}/{}{}", self.host, self.namespace, self.model, self.version())
    }

    /// `:tag`, or `@` and the digest.
    fn version(&self) -> String {
        self.digest().map_or_else(|| format!(":{}", self.tag), |digest| format!("@{digest}"))
    }

    /// The manifest's place below `manifests`.
    pub(super) fn path(&self) -> PathBuf {
        self.parts().into_iter().collect()
    }

    /// Host, namespace, model and tag, as the directories and the file are called.
    pub(super) fn parts(&self) -> [String; 4] {
        [self.host.clone(), directory(&self.namespace), self.model.clone(), self.tag.clone()]
    }

    /// Whether only the tag tells the two apart, if anything.
    pub(super) fn differs_in_tag(&self, other: &Name) -> bool {
        let [model, theirs] = [self, other].map(|n| [&n.host, &n.namespace, &n.model]);
        model.iter().zip(theirs).all(|(a, b)| a.eq_ignore_ascii_case(b))
    }

    fn folded(&self) -> impl Iterator<Item = u8> + '_ {
        let parts = [&self.host, &self.namespace, &self.model, &self.tag];
        parts.into_iter().flat_map(|p| p.bytes().chain([0])).map(|b| b.to_ascii_lowercase())
    }
}

/// The one directory of a namespace.
fn directory(namespace: &str) -> String {
    namespace.replace('/', "_-_").replace('.', "_--_")
}

/// The shortest form that reads back as the same name: without the default host and namespace,
/// always with the tag.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.host.eq_ignore_ascii_case(DEFAULT_HOST) || self.namespace.contains('/') {
            write!(f, "{}/{}/", self.host, self.namespace)?;
        } else if !self.namespace.eq_ignore_ascii_case(DEFAULT_NAMESPACE) {
            write!(f, "{}/", self.namespace)?;
        }
        write!(f, "{}{}", self.model, self.version())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.full())
    }
}

impl FromStr for Name {
    type Err = Errors;

    fn from_str(text: &str) -> Result<Name, Errors> {
        Name::parse(text)
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.folded().eq(other.folded())
    }
}

impl Eq for Name {}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Name {
    fn cmp(&self, other: &Self) -> Ordering {
        self.folded().cmp(other.folded())
    }
}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.folded().for_each(|b| state.write_u8(b));
    }
}

fn invalid(text: &str, why: &str) -> Errors {
    Diagnostic::error(format!("invalid model name {}: {why}", quoted(text)))
        .code("invalid-name")
        .help("a name is `model`, `model:tag`, `namespace/model:tag` or `host/namespace/model:tag`")
        .help("in place of the tag, `@sha256:…` names one certain manifest")
        .into()
}

/// Foreign text for a message: escaped, and cut where it is long.
pub(super) fn quoted(text: &str) -> String {
    const LONGEST: usize = 100;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{:?}…", text.get(..end).unwrap_or_default()),
        None => format!("{text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_with_its_defaults() {
        let long = "a".repeat(80);
        let host = "h".repeat(350);
        for (text, full, shortest) in [
            ("llama3", "registry.ollama.ai/library/llama3:latest", "llama3:latest"),
            ("llama3:8b", "registry.ollama.ai/library/llama3:8b", "llama3:8b"),
            ("Llama3:8B", "registry.ollama.ai/library/Llama3:8B", "Llama3:8B"),
            ("me/llama3", "registry.ollama.ai/me/llama3:latest", "me/llama3:latest"),
            ("library/llama3", "registry.ollama.ai/library/llama3:latest", "llama3:latest"),
            ("Library/llama3", "registry.ollama.ai/Library/llama3:latest", "llama3:latest"),
            ("registry.ollama.ai/library/llama3:x", "registry.ollama.ai/library/llama3:x", "llama3:x"),
            ("Registry.Ollama.AI/me/llama3", "Registry.Ollama.AI/me/llama3:latest", "me/llama3:latest"),
            ("hf.co/u/Repo-GGUF:Q4_K_M", "hf.co/u/Repo-GGUF:Q4_K_M", "hf.co/u/Repo-GGUF:Q4_K_M"),
            ("hf.co/library/x", "hf.co/library/x:latest", "hf.co/library/x:latest"),
            ("localhost:5000/a/b", "localhost:5000/a/b:latest", "localhost:5000/a/b:latest"),
            ("localhost:5000/a/b:c", "localhost:5000/a/b:c", "localhost:5000/a/b:c"),
            ("https://h/n/m:t", "h/n/m:t", "h/n/m:t"),
            ("http://h:80/n/m", "h:80/n/m:latest", "h:80/n/m:latest"),
            ("m@sha256:HEX", "registry.ollama.ai/library/m@sha256:HEX", "m@sha256:HEX"),
            ("h.x/n/m:t@sha256:HEX", "h.x/n/m@sha256:HEX", "h.x/n/m@sha256:HEX"),
            ("ghcr.io/a/b.c/d/m:t", "ghcr.io/a/b.c/d/m:t", "ghcr.io/a/b.c/d/m:t"),
            ("localhost/a/b/m", "localhost/a/b/m:latest", "localhost/a/b/m:latest"),
            ("_/_:_", "registry.ollama.ai/_/_:_", "_/_:_"),
            ("0", "registry.ollama.ai/library/0:latest", "0:latest"),
            ("a.b-c_d:e.f-g_h", "registry.ollama.ai/library/a.b-c_d:e.f-g_h", "a.b-c_d:e.f-g_h"),
            ("a..", "registry.ollama.ai/library/a..:latest", "a..:latest"),
            ("con", "registry.ollama.ai/library/con:latest", "con:latest"),
            (&long, &format!("registry.ollama.ai/library/{long}:latest"), &format!("{long}:latest")),
            (&format!("m:{long}"), &format!("registry.ollama.ai/library/m:{long}"), &format!("m:{long}")),
            (&format!("{host}/n/m"), &format!("{host}/n/m:latest"), &format!("{host}/n/m:latest")),
        ] {
            let hex = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
            let [text, full, shortest] = [text, full, shortest].map(|t| &*t.replace("HEX", hex).leak());
            let name = Name::parse(text).unwrap();
            assert_eq!(name.full(), full, "{text}");
            let [host, namespace, model, tag] = name.parts();
            assert_eq!(Name::from_parts(&host, &namespace, &model, &tag).unwrap(), name, "{text}");
            assert_eq!(name.to_string(), shortest, "{text}");
            assert_eq!(Name::parse(shortest).unwrap(), name, "{text}");
            assert_eq!(Name::parse(full).unwrap(), name, "{text}");
            let path = name.path();
            assert_eq!(path.components().count(), 4, "{text}");
            assert!(path.components().all(|c| matches!(c, std::path::Component::Normal(_))), "{text}");
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let long = "a".repeat(81);
        let host = "h".repeat(351);
        let huge = "a/".repeat(5000);
        for bad in [
            "",
            ":",
            "/",
            "//",
            ":tag",
            "model:",
            "/model",
            "model/",
            "n//m",
            "/n/m",
            "a//b/c",
            "a/b/c/d",
            ".",
            "..",
            "../x",
            "x/..",
            "../../etc/passwd",
            "h/n/..",
            "h/../m",
            "../n/m",
            "m:..",
            "m:.",
            "m:../../x",
            "m:a/b",
            ".hidden",
            "-x",
            "m:-t",
            "-/m",
            "a b",
            " a",
            "a ",
            "a\tb",
            "a\n",
            "a\0b",
            "\0",
            "a\\b",
            "..\\x",
            "C:\\x",
            "m:t:u",
            "n:o/m",
            "n.s/m",
            "%2e%2e/x",
            "m%2f",
            "m@sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015a",
            "m@sha256-ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            "m@sha256:",
            "m@",
            "@sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            "h.x/a//m",
            "h.x//a/m",
            "h.x/../a/m",
            "h.x/a/../m",
            "https://h.x/m",
            "m+x",
            "m?x",
            "m#x",
            "m*",
            "~",
            "$HOME",
            "é",
            "m:é",
            "\u{202e}m",
            "m\u{200b}",
            "K\u{212a}",
            "ftp://h/n/m",
            "file:///etc/passwd",
            "https://m",
            "https://n/m",
            "://h/n/m",
            "https:///n/m",
            &long,
            &format!("m:{long}"),
            &format!("{long}/m"),
            &format!("{host}/n/m"),
            &huge,
        ] {
            match Name::parse(bad) {
                Ok(name) => panic!("{bad:?} was read as {name:?}"),
                Err(e) => {
                    assert!(e.to_string().len() < 600, "{bad:?}: {e}");
                    assert!(!e.to_string().contains(['\0', '\n']), "{bad:?}: {e}");
                }
            }
        }
    }

    #[test]
    fn errors_name_the_part() {
        insta::with_settings!({
            snapshot_path => concat!(env!("CARGO_MANIFEST_DIR"), "/snapshots"),
            prepend_module_to_snapshot => false,
        }, {
            let texts = ["", "model:", "n/", "my model", "../x", "a.b/m", "h/n/-m", "ftp://h/n/m", "m@sha256:00"];
            let errors: Vec<String> = texts.iter().map(|t| Name::parse(t).unwrap_err().to_string()).collect();
            insta::assert_snapshot!("store_invalid_names", errors.join("\n"));
        });
    }

    #[test]
    fn case_does_not_tell_names_apart() {
        let (a, b) = (Name::parse("Me/Llama:8B").unwrap(), Name::parse("me/llama:8b").unwrap());
        assert_eq!(a, b);
        assert_eq!(a.cmp(&b), Ordering::Equal);
        assert_eq!(std::collections::HashSet::from([a, b]).len(), 1);
        assert_ne!(Name::parse("ab/c").unwrap(), Name::parse("a/bc").unwrap());
        assert_eq!(Name::parse("http://h/n/m").unwrap(), Name::parse("h/n/m").unwrap());
        assert_eq!(Name::parse("http://h/n/m").unwrap().scheme(), Some("http"));
    }
}
