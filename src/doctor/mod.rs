//! What a report of a mistake needs to say of a machine, and no secret.

mod environment;

pub use environment::{Variable, environment};

use std::path::Path;

use crate::codegen::BYTE_FORMAT;
use crate::store::Store;

/// A group of facts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// What they are about.
    pub title: &'static str,
    /// Names and values.
    pub facts: Vec<(String, String)>,
    /// Something of them needs to be looked at.
    pub trouble: bool,
}

impl Section {
    fn new(title: &'static str) -> Section {
        Section { title, facts: Vec::new(), trouble: false }
    }

    fn fact(&mut self, name: &str, value: impl Into<String>) {
        self.facts.push((name.to_owned(), value.into()));
    }
}

/// Looks at the machine and the store, and changes nothing.
pub fn examine(store: &Store, variable: &dyn Fn(&str) -> Option<String>) -> Vec<Section> {
    vec![versions(), processor(), memory(), gpu(), of_store(store), variables(variable)]
}

fn versions() -> Section {
    let mut section = Section::new("mdl");
    section.fact("version", env!("CARGO_PKG_VERSION"));
    section.fact("byte format", BYTE_FORMAT);
    section.fact("built", if cfg!(debug_assertions) { "for debugging" } else { "for release" });
    section.fact("system", format!("{} on {}", std::env::consts::OS, std::env::consts::ARCH));
    if let Some(name) = file("/etc/os-release").as_deref().and_then(|t| value(t, "PRETTY_NAME=")) {
        section.fact("distribution", name.trim_matches('"'));
    }
    if let Some(kernel) = file("/proc/sys/kernel/osrelease") {
        section.fact("kernel", kernel.trim());
    }
    section
}

fn processor() -> Section {
    let mut section = Section::new("processor");
    section.fact("name", mdl_kernels::cpu::name());
    section.fact("extensions", mdl_kernels::cpu::features().join(" "));
    let (used, best) = (mdl_kernels::Level::current(), mdl_kernels::Level::detect());
    let chosen = if used == best { String::new() } else { format!(" (this machine has {})", best.name()) };
    section.fact("level in use", format!("{}{chosen}", used.name()));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    section.fact("cores", cores.to_string());
    section
}

fn memory() -> Section {
    let mut section = Section::new("memory");
    let text = file("/proc/meminfo").unwrap_or_default();
    for (name, label) in
        [("MemTotal:", "all"), ("MemAvailable:", "available"), ("SwapFree:", "swap that is free")]
    {
        if let Some(kib) = value(&text, name).and_then(|v| v.strip_suffix("kB")?.trim().parse::<u64>().ok()) {
            section.fact(label, gib(kib.saturating_mul(1024)));
        }
    }
    if let Some(limit) = file("/sys/fs/cgroup/memory.max").and_then(|t| t.trim().parse().ok()) {
        section.fact("limit of the control group", gib(limit));
    }
    section
}

/// What the driver says in files: asking it more would load it.
fn gpu() -> Section {
    let mut section = Section::new("GPU");
    if let Some(driver) = file("/proc/driver/nvidia/version").as_deref().and_then(|t| t.lines().next()) {
        section.fact("driver", driver);
    }
    let cards = std::fs::read_dir("/proc/driver/nvidia/gpus").into_iter().flatten().flatten();
    for card in cards.take(MOST_CARDS) {
        let text = file(&card.path().join("information").to_string_lossy()).unwrap_or_default();
        section.fact("card", value(&text, "Model:").unwrap_or("unknown"));
    }
    if section.facts.is_empty() {
        section.fact("found", "none");
    }
    section
}

const MOST_CARDS: usize = 64;

fn of_store(store: &Store) -> Section {
    let mut section = Section::new("store");
    section.fact("path", store.root().display().to_string());
    if !store.root().exists() {
        section.fact("state", "not made yet");
        return section;
    }
    match store.usage() {
        Ok(usage) => {
            let broken = usage.models.iter().filter(|m| m.id.is_none()).count();
            section.fact("models", usage.models.len().to_string());
            section.fact("size", gib(usage.total()));
            section.fact("no model needs", gib(usage.unreferenced.saturating_add(usage.temporary)));
            let damaged = store.list().map_or(0, |all| all.iter().filter(|e| !e.damage.is_empty()).count());
            section.trouble = broken + damaged > 0;
            let health = match damaged.max(broken) {
                0 => "no damage at a look; `mdl verify` reads everything".to_owned(),
                n => format!("{n} damaged; `mdl verify` says what to do"),
            };
            section.fact("health", health);
        }
        Err(errors) => {
            section.trouble = true;
            section.fact("health", format!("cannot be read: {errors}"));
        }
    }
    if let Some(free) = free(store.root()) {
        section.fact("space that is free", gib(free));
    }
    let writable = tempfile::Builder::new().prefix(".mdl-").tempfile_in(store.root());
    section.fact("can be written to", if writable.is_ok() { "yes" } else { "no" });
    section
}

fn variables(variable: &dyn Fn(&str) -> Option<String>) -> Section {
    let mut section = Section::new("environment");
    for (name, value) in environment(variable) {
        section.fact(&name, value);
    }
    if section.facts.is_empty() {
        section.fact("set", "nothing that matters here");
    }
    section
}

/// Bytes that may still be written where `path` is.
fn free(path: &Path) -> Option<u64> {
    #[cfg(unix)]
    {
        let stat = rustix::fs::statvfs(path).ok()?;
        stat.f_bavail.checked_mul(stat.f_frsize)
    }
    #[cfg(not(unix))]
    {
        let _ = path;
        None
    }
}

/// A small file of the system.
fn file(path: &str) -> Option<String> {
    use std::io::Read as _;
    let mut text = String::new();
    std::fs::File::open(path).ok()?.take(1 << 16).read_to_string(&mut text).ok()?;
    Some(text)
}

/// What follows `name` on its line.
fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

fn gib(bytes: u64) -> String {
    match bytes {
        0 => "0".to_owned(),
        1..1_073_741_824 => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
        _ => format!("{:.1} GiB", bytes as f64 / 1_073_741_824.0),
    }
}
