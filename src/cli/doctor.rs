//! `mdl doctor`.

use clap::Args;
use serde_json::{Map, Value};

use super::{Global, printable, write_out};
use crate::diagnostic::Result;
use crate::doctor;

/// Prints what a report of a mistake needs: versions, processor, memory, GPU, store, environment. Nothing
/// secret is among it: of keys and tokens it says that they are set.
#[derive(Args)]
#[command(after_help = "\
Examples:
  mdl doctor
  mdl doctor --json > doctor.json")]
pub(super) struct Doctor {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Doctor {
    pub(super) fn run(&self, global: &Global) -> Result<()> {
        let variable = |name: &str| std::env::var_os(name).map(|v| v.to_string_lossy().into_owned());
        let sections = doctor::examine(&global.open_store()?, &variable);
        if self.json {
            let object = |facts: &[(String, String)]| {
                let facts = facts.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str())));
                Value::Object(facts.collect::<Map<_, _>>())
            };
            let all: Map<String, Value> =
                sections.iter().map(|s| (s.title.to_owned(), object(&s.facts))).collect();
            return write_out(&format!("{:#}\n", Value::Object(all)));
        }
        let mut text = String::new();
        for section in sections {
            let mark = if section.trouble { "  (look here)" } else { "" };
            text.push_str(&format!("{}{mark}\n", section.title));
            for (name, value) in section.facts {
                text.push_str(&format!("  {name:<28} {}\n", printable(&value)));
            }
        }
        write_out(&text)
    }
}
