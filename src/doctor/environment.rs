//! Variables of the environment that change what `mdl` does, without what is secret in them.

/// What may be said of a variable's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    /// All of it.
    Value,
    /// That it is set.
    Set,
    /// An address, without the name and the password in it.
    Address,
}

/// A variable that matters.
#[derive(Clone, Copy, Debug)]
pub struct Variable {
    name: &'static str,
    said: Said,
}

const fn value(name: &'static str) -> Variable {
    Variable { name, said: Said::Value }
}

const fn set(name: &'static str) -> Variable {
    Variable { name, said: Said::Set }
}

const fn address(name: &'static str) -> Variable {
    Variable { name, said: Said::Address }
}

/// Both with `MDL_` and with `OLLAMA_` before them.
const PREFIXED: &[Variable] = &[
    value("MODELS"),
    address("HOST"),
    value("ORIGINS"),
    value("API_KEYS_FILE"),
    set("API_KEY"),
    value("NUM_PARALLEL"),
    value("MAX_LOADED_MODELS"),
    value("MAX_QUEUE"),
    value("KEEP_ALIVE"),
    value("CONTEXT_LENGTH"),
    value("KV_CACHE_TYPE"),
    value("LEVEL"),
    value("DEVICE"),
    value("LOG"),
    value("DEBUG"),
    value("NOHISTORY"),
    value("EDITOR"),
    value("CA_FILE"),
    value("KEY_REGISTRIES"),
    value("OFFLINE"),
];

/// The others. What is not in these tables is not looked at.
const OTHERS: &[Variable] = &[
    address("HTTP_PROXY"),
    address("http_proxy"),
    address("HTTPS_PROXY"),
    address("https_proxy"),
    address("ALL_PROXY"),
    address("all_proxy"),
    value("NO_PROXY"),
    value("no_proxy"),
    value("SSL_CERT_FILE"),
    value("SSL_CERT_DIR"),
    value("DOCKER_CONFIG"),
    set("AWS_ACCESS_KEY_ID"),
    set("AWS_SECRET_ACCESS_KEY"),
    set("AWS_SESSION_TOKEN"),
    value("AWS_REGION"),
    address("AWS_ENDPOINT_URL"),
    value("GOOGLE_APPLICATION_CREDENTIALS"),
    set("AZURE_STORAGE_ACCOUNT_KEY"),
    value("RAYON_NUM_THREADS"),
    value("CUDA_VISIBLE_DEVICES"),
    value("XDG_DATA_HOME"),
    value("TMPDIR"),
    value("SOURCE_DATE_EPOCH"),
    value("LANG"),
    value("LC_ALL"),
    value("TERM"),
    value("NO_COLOR"),
    value("RUST_BACKTRACE"),
    value("CI"),
];

/// The longest value that is shown.
const LONGEST: usize = 400;

/// The variables that are set, and what may be said of their values.
pub fn environment(variable: &dyn Fn(&str) -> Option<String>) -> Vec<(String, String)> {
    let prefixed = PREFIXED
        .iter()
        .flat_map(|v| ["MDL_", "OLLAMA_"].map(|prefix| (format!("{prefix}{}", v.name), v.said)));
    let others = OTHERS.iter().map(|v| (v.name.to_owned(), v.said));
    let shown = |(name, said): (String, Said)| {
        let text = variable(&name)?;
        Some((name, say(&text, said)))
    };
    prefixed.chain(others).filter_map(shown).collect()
}

fn say(text: &str, said: Said) -> String {
    let shown = match said {
        Said::Set => return "set; its value is not shown".to_owned(),
        Said::Value => text.to_owned(),
        Said::Address => without_credentials(text),
    };
    let end = shown.floor_char_boundary(LONGEST);
    if end < shown.len() { format!("{}…", &shown[..end]) } else { shown }
}

/// An address without what stands before its `@`, and without its query.
fn without_credentials(text: &str) -> String {
    let (text, query) = text.split_once(['?', '#']).map_or((text, ""), |(t, _)| (t, "?…"));
    // Whatever else is wrong with it: all before the last `@` may be a password.
    let shown = match text.rsplit_once('@') {
        None => text.to_owned(),
        Some((before, host)) => match before.split_once("://") {
            Some((scheme, _)) => format!("{scheme}://…@{host}"),
            None => format!("…@{host}"),
        },
    };
    format!("{shown}{query}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_said() {
        let all = |name: &str| match name {
            "HTTPS_PROXY" => Some("http://me:hunter2@proxy:3128/".to_owned()),
            "http_proxy" => Some("me:hunter2@proxy".to_owned()),
            "ALL_PROXY" => Some("socks5://me:hunter2/with@slash@proxy?token=hunter2".to_owned()),
            "AWS_SECRET_ACCESS_KEY" | "MDL_API_KEY" | "OLLAMA_API_KEY" => Some("hunter2".to_owned()),
            "MDL_HOST" => Some("127.0.0.1:1".to_owned()),
            "MY_PASSWORD" => Some("hunter2".to_owned()),
            "LANG" => Some("x".repeat(1000)),
            _ => None,
        };
        let said = environment(&all);
        let text = said.iter().map(|(name, value)| format!("{name}={value}\n")).collect::<String>();
        assert!(!text.contains("hunter2"), "{text}");
        for line in [
            "MDL_HOST=127.0.0.1:1",
            "HTTPS_PROXY=http://…@proxy:3128/",
            "http_proxy=…@proxy",
            "ALL_PROXY=socks5://…@proxy?…",
            "MDL_API_KEY=set; its value is not shown",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        assert!(text.lines().all(|l| l.len() < 500));
    }
}
