//! Models as lines of a list.

use std::time::{Duration, SystemTime};

use super::table;
use crate::client::running::Running;
use crate::store::Entry;

/// A model of a store.
#[derive(Clone, Debug, PartialEq)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// The first digits of what it is known by; none where its manifest cannot be read.
    pub id: Option<String>,
    /// Bytes of its blobs.
    pub size: u64,
    /// When it was made.
    pub modified: Option<SystemTime>,
    /// Something is wrong with it.
    pub damaged: bool,
}

impl From<&Entry> for Listed {
    fn from(entry: &Entry) -> Listed {
        Listed {
            name: entry.name.to_string(),
            id: entry.id.map(|id| id.short()),
            size: entry.size,
            modified: Some(entry.modified),
            damaged: !entry.damage.is_empty(),
        }
    }
}

/// The list, with its header.
pub fn columns(models: &[Listed], now: SystemTime) -> String {
    let rows: Vec<Vec<String>> = models
        .iter()
        .map(|model| {
            let mark = if model.damaged { "  (damaged: run `mdl verify`)" } else { "" };
            let age = model.modified.map_or_else(|| "-".to_owned(), |then| table::age(then, now));
            vec![
                model.name.clone(),
                model.id.clone().unwrap_or_else(|| "-".to_owned()),
                table::size(model.size),
                age + mark,
            ]
        })
        .collect();
    format!("{}\n", table::columns(&["NAME", "ID", "SIZE", "MODIFIED"], &rows))
}

/// The models in a server's memory, with their header.
pub fn running(models: &[Running], now: SystemTime) -> String {
    let rows: Vec<Vec<String>> = models
        .iter()
        .map(|model| {
            vec![
                model.name.clone(),
                model.digest.chars().take(12).collect(),
                table::size(model.size),
                processor(model.size, model.on_accelerator),
                model.context.to_string(),
                until(&model.expires, now),
            ]
        })
        .collect();
    format!("{}\n", table::columns(&["NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL"], &rows))
}

/// Where a model's bytes are.
fn processor(size: u64, on_accelerator: u64) -> String {
    match (size, on_accelerator) {
        (_, 0) => "100% CPU".to_owned(),
        (size, gpu) if gpu == size => "100% GPU".to_owned(),
        (size, gpu) if gpu > size => "Unknown".to_owned(),
        (size, gpu) => {
            let cpu = (100.0 * (size - gpu) as f64 / size as f64).round();
            format!("{cpu}%/{}% CPU/GPU", 100.0 - cpu)
        }
    }
}

/// Longer than anyone waits: for ever.
const EVER: Duration = Duration::from_secs(100 * 365 * 86_400);

/// How long a model stays, in Ollama's words.
fn until(expires: &str, now: SystemTime) -> String {
    let Some(expires) = time(expires) else { return "-".to_owned() };
    match expires.duration_since(now) {
        Err(_) => "Stopping...".to_owned(),
        Ok(left) if left > EVER => "Forever".to_owned(),
        Ok(left) => format!("{} from now", span(left)),
    }
}

/// A time as RFC 3339 writes it.
pub fn time(text: &str) -> Option<SystemTime> {
    let timestamp = text.parse::<jiff::Timestamp>().ok()?;
    let since = Duration::try_from(timestamp.duration_since(jiff::Timestamp::UNIX_EPOCH)).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(since)
}

fn span(left: Duration) -> String {
    let seconds = left.as_secs();
    let (minutes, hours) = (seconds / 60, (seconds as f64 / 3600.0).round() as u64);
    match seconds {
        0 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        2..60 => format!("{seconds} seconds"),
        60..120 => "About a minute".to_owned(),
        120..3600 => format!("{minutes} minutes"),
        _ if hours == 1 => "About an hour".to_owned(),
        _ if hours < 48 => format!("{hours} hours"),
        _ => format!("{} days", hours / 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_holds_is_told_in_ollamas_words() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let model = |name: &str, on_accelerator, left: i64| Running {
            name: name.to_owned(),
            digest: "0123456789abcdef".to_owned(),
            size: 1_500_000_000,
            on_accelerator,
            context: 4096,
            expires: jiff::Timestamp::from_second(1_700_000_000 + left).unwrap().to_string(),
        };
        let models = [
            model("story:latest", 0, 299),
            model("mine/other:1b", 1_500_000_000, 20_000_000_000),
            model("half:latest", 500_000_000, -1),
            model("soon:latest", 0, 1),
            model("later:latest", 0, 5000),
            model("b:latest", 0, 61),
        ];
        insta::with_settings!({
            snapshot_path => concat!(env!("CARGO_MANIFEST_DIR"), "/snapshots"),
            prepend_module_to_snapshot => false,
        }, {
            insta::assert_snapshot!("terminal_running", running(&models, now));
        });
        assert_eq!(running(&[], now).trim_end(), "NAME    ID    SIZE    PROCESSOR    CONTEXT    UNTIL");
    }
}
