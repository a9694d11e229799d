//! Models as lines of a list.

use std::time::SystemTime;

use super::table;
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
