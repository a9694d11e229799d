//! A Modelfile for what is already a model: the text behind `mdl show --modelfile`.

use std::fmt::Write;

use super::adapter_line;
use super::ast::{Keyword, Quoting};
use super::quoting::{fits_bare, quote};
use super::recipe::Recipe;
use crate::diagnostic::Diagnostic;
use crate::ir::{ParameterValue, Prompt};

/// Writes a Modelfile: FROM, ADAPTER with its scale, and DRAFT, then the prompt. Values are quoted as Ollama
/// quotes them (`"` around several lines or blanks at the ends, `"""` if there is a `"` in them)
/// wherever that reads back as the same value, and otherwise in the form that does.
///
/// The diagnostics are warnings about values that no Modelfile can hold, which are left out: those
/// with `"""` at the end of a line, and a scale after a path that needs quotes. A value read from a Modelfile is never one of them.
pub fn print(
    from: &[&str],
    adapters: &[(&str, Option<f32>)],
    draft: Option<&str>,
    prompt: &Prompt,
) -> (String, Vec<Diagnostic>) {
    let mut printer = Printer { out: String::new(), lost: Vec::new() };
    for value in from {
        printer.line(Keyword::From, None, value);
    }
    for (path, scale) in adapters {
        printer.adapter(path, *scale);
    }
    let one = |value: &Option<String>| value.clone();
    for (keyword, value) in [
        (Keyword::Draft, draft.map(str::to_owned)),
        (Keyword::Template, one(&prompt.template)),
        (Keyword::System, one(&prompt.system)),
        (Keyword::Renderer, one(&prompt.renderer)),
        (Keyword::Parser, one(&prompt.parser)),
        (Keyword::Requires, one(&prompt.requires)),
    ] {
        if let Some(value) = value {
            printer.line(keyword, None, &value);
        }
    }
    for (name, value) in &prompt.parameters {
        match value {
            ParameterValue::Int(v) => printer.line(Keyword::Parameter, Some(name), &v.to_string()),
            ParameterValue::Float(v) => printer.line(Keyword::Parameter, Some(name), &v.to_string()),
            ParameterValue::Bool(v) => printer.line(Keyword::Parameter, Some(name), &v.to_string()),
            ParameterValue::String(v) => printer.line(Keyword::Parameter, Some(name), v),
            ParameterValue::Strings(all) => {
                all.iter().for_each(|v| printer.line(Keyword::Parameter, Some(name), v));
            }
        }
    }
    for license in &prompt.licenses {
        printer.line(Keyword::License, None, license);
    }
    for message in &prompt.messages {
        printer.line(Keyword::Message, Some(message.role.name()), &message.content);
    }
    (printer.out, printer.lost)
}

impl Recipe {
    /// The recipe as a Modelfile; see [`print()`].
    pub fn to_modelfile(&self) -> (String, Vec<Diagnostic>) {
        let from: Vec<&str> = self.from.iter().map(|s| s.value.as_str()).collect();
        let adapters: Vec<(&str, Option<f32>)> = self
            .adapters
            .iter()
            .map(|line| (line.path.value.as_str(), line.scale.as_ref().map(|s| s.value)))
            .collect();
        print(&from, &adapters, self.draft.as_ref().map(|s| s.value.as_str()), &self.prompt)
    }
}

struct Printer {
    out: String,
    lost: Vec<Diagnostic>,
}

impl Printer {
    fn adapter(&mut self, path: &str, scale: Option<f32>) {
        match scale {
            // In quotes a number at the end belongs to the path.
            None if adapter_line::split(path).is_some() => {
                self.quoted(Keyword::Adapter, None, path, &[Quoting::Single, Quoting::Triple]);
            }
            None => self.line(Keyword::Adapter, None, path),
            Some(scale) if fits_bare(path) => {
                let _ = writeln!(self.out, "{} {path} {scale}", Keyword::Adapter);
            }
            Some(_) => {
                let message = format!("ADAPTER is left out: no scale can be written after the path {path:?}");
                self.lost.push(Diagnostic::warning(message).code("unprintable-value"));
            }
        }
    }

    fn line(&mut self, keyword: Keyword, word: Option<&str>, value: &str) {
        let needs_quotes = value.contains('\n') || value.starts_with(' ') || value.ends_with(' ');
        let preferred: &[Quoting] = match (needs_quotes, value.contains('"')) {
            (true, true) => &[Quoting::Triple],
            (true, false) => &[Quoting::Single],
            (false, true) => &[Quoting::Bare, Quoting::Triple],
            (false, false) => &[Quoting::Bare, Quoting::Single],
        };
        self.quoted(keyword, word, value, preferred);
    }

    fn quoted(&mut self, keyword: Keyword, word: Option<&str>, value: &str, preferred: &[Quoting]) {
        let Some(quoted) = quote(value, preferred) else {
            let message = format!(
                "{keyword} is left out: it has `\"\"\"` at the end of a line, which no Modelfile can hold"
            );
            self.lost.push(Diagnostic::warning(message).code("unprintable-value"));
            return;
        };
        // Writing to a string cannot fail.
        let _ = match word {
            Some(word) => writeln!(self.out, "{keyword} {word} {quoted}"),
            None => writeln!(self.out, "{keyword} {quoted}"),
        };
    }
}
