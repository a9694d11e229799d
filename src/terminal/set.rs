//! `/set`.

use super::conversation::Conversation;
use super::{commands, description, message, screen};
use crate::diagnostic::{Diagnostic, Result};
use crate::ir::ParameterValue;
use crate::modelfile::parameters::{self, ParameterType};
use crate::prompt::Think;
use crate::runtime::constrain::Grammar;

impl Conversation<'_> {
    /// Sets what is named, and says so.
    pub(super) fn set(&mut self, what: &str, rest: &str) -> Result<()> {
        let argument = rest.trim();
        let said = match what {
            "parameter" => return self.set_parameter(argument),
            "system" => {
                self.system = Some(message::unquoted(rest).trim_matches('\n').to_owned());
                "Set system message.".to_owned()
            }
            "history" | "nohistory" => {
                self.records = what == "history";
                mode(what)
            }
            "wordwrap" | "nowordwrap" => {
                self.look.wrap = what == "wordwrap";
                mode(what)
            }
            "verbose" | "quiet" => {
                self.verbose = what == "verbose";
                mode(what)
            }
            "format" if argument == "json" => {
                self.format = Some(Grammar::Json);
                "Set format to 'json' mode.".to_owned()
            }
            "format" => return Err(Diagnostic::error("the format is `json`: /set format json").into()),
            "noformat" => {
                self.format = None;
                "Disabled format.".to_owned()
            }
            "think" => return self.set_think(argument),
            "nothink" => {
                self.think = Some(Think::Off);
                mode(what)
            }
            _ => commands::help("set"),
        };
        say(&said)
    }

    fn set_parameter(&mut self, argument: &str) -> Result<()> {
        let (name, rest) = argument.split_once(char::is_whitespace).unwrap_or((argument, ""));
        if name.is_empty() || rest.trim().is_empty() {
            let mut text = String::from("Available Parameters:\n");
            for known in parameters::PARAMETERS.iter().filter(|p| !p.is_deprecated()) {
                text.push_str(&format!(
                    "  {:<34} {}\n",
                    format!("{} {}", known.name, known.example()),
                    known.doc
                ));
            }
            return say(&text);
        }
        let value = parameter(name, &words(rest))?;
        let shown = description::values(&value).join(", ");
        let (name, set) = (name.to_owned(), &mut self.parameters);
        match set.iter_mut().find(|(n, _)| *n == name) {
            Some(entry) => entry.1 = value,
            None => set.push((name.clone(), value)),
        }
        say(&format!("Set parameter '{name}' to '{}'", shown.trim_matches('"')))
    }

    fn set_think(&mut self, level: &str) -> Result<()> {
        let (think, said) = match level {
            "" | "true" => (Think::On, mode("think")),
            level if commands::LEVELS.contains(&level) => {
                (Think::Level(level.to_owned()), format!("Set 'think' mode to '{level}'."))
            }
            other => {
                let message = format!("`{other}` is none of {}", commands::LEVELS.join(", "));
                return Err(Diagnostic::error(message).into());
            }
        };
        if !self.answers.description()?.can("thinking") {
            let message = format!("model \"{}\" does not support thinking", self.answers.model());
            return Err(Diagnostic::error(message).into());
        }
        self.think = Some(think);
        say(&said)
    }
}

fn mode(what: &str) -> String {
    format!("Set '{what}' mode.")
}

fn say(text: &str) -> Result<()> {
    screen::write(&format!("{}\n", text.trim_end_matches('\n')))
}

/// A parameter's value: several where it takes a list, else one.
fn parameter(name: &str, values: &[String]) -> Result<ParameterValue> {
    let known = parameters::find(name).ok_or_else(|| {
        let near = parameters::PARAMETERS
            .iter()
            .map(|p| p.name)
            .max_by(|a, b| strsim::jaro_winkler(a, name).total_cmp(&strsim::jaro_winkler(b, name)));
        let unknown = Diagnostic::error(format!("unknown parameter '{name}'"));
        unknown.help(format!("did you mean `{}`?", near.unwrap_or("temperature")))
    })?;
    if known.ty == ParameterType::Strings {
        return Ok(ParameterValue::Strings(values.to_vec()));
    }
    let [value] = values else {
        return Err(Diagnostic::error(format!("parameter `{name}` takes one value")).into());
    };
    let value = known.parse(value).map_err(|e| Diagnostic::error(format!("parameter `{name}`: {e}")))?;
    if known.is_out_of_range(&value) {
        return Err(
            Diagnostic::error(format!("parameter `{name}` must be {}", known.range_in_words())).into()
        );
    }
    Ok(value)
}

/// Words between blanks; a word in quotes may have blanks.
fn words(text: &str) -> Vec<String> {
    let mut all = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let quoted = rest.strip_prefix('"').and_then(|inside| inside.split_once('"'));
        let (word, after) = match quoted {
            Some((word, after)) if after.is_empty() || after.starts_with(char::is_whitespace) => {
                (word, after)
            }
            _ => rest.split_once(char::is_whitespace).unwrap_or((rest, "")),
        };
        all.push(word.to_owned());
        rest = after.trim_start();
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_may_be_quoted() {
        assert_eq!(words(" a \"b c\"  d\"e \"f"), ["a", "b c", "d\"e", "\"f"]);
        assert!(words("  ").is_empty());
    }

    #[test]
    fn values_are_read_by_their_type() {
        let read = |name: &str, values: &str| parameter(name, &words(values)).map_err(|e| e.to_string());
        assert_eq!(read("seed", "7"), Ok(ParameterValue::Int(7)));
        assert_eq!(
            read("stop", "\"a b\" c"),
            Ok(ParameterValue::Strings(vec!["a b".to_owned(), "c".to_owned()]))
        );
        for (name, values) in [("seed", "x"), ("seed", "1 2"), ("top_p", "3"), ("temprature", "1")] {
            assert!(read(name, values).is_err(), "{name} {values}");
        }
    }
}
