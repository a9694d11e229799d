//! `/show`.

use super::conversation::Conversation;
use super::{commands, description, screen};
use crate::diagnostic::Result;

impl Conversation<'_> {
    /// Shows what is named.
    pub(super) fn show(&mut self, what: &str) -> Result<()> {
        let described = self.answers.description()?;
        let or = |text: &str, what: &str| match text.trim().is_empty() {
            true => format!("No {what} was specified for this model."),
            false => text.to_owned(),
        };
        let text = match what {
            "info" => described.overview(),
            "license" => or(&described.licenses.join("\n"), "license"),
            "modelfile" => described.modelfile,
            "template" => or(&described.template, "template"),
            "system" => or(self.system.as_deref().unwrap_or(&described.system), "system message"),
            "parameters" => {
                let none = |text: String| if text.is_empty() { "  none\n".to_owned() } else { text };
                let indented = |text: &str| text.lines().map(|l| format!("  {l}\n")).collect::<String>();
                format!(
                    "Model defined parameters:\n{}\nUser defined parameters:\n{}",
                    none(indented(&described.parameters)),
                    none(indented(&description::lines(&self.parameters))),
                )
            }
            _ => commands::help("show"),
        };
        screen::write(&format!("{}\n", text.trim_end_matches('\n')))
    }
}
