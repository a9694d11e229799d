//! The `/` commands, as a table: what reads them, helps with them and completes them looks here.

use crate::modelfile::parameters::PARAMETERS;

/// What an argument of a command is, for its completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Argument {
    /// Nothing that could be completed.
    Any,
    /// The name of a parameter.
    Parameter,
    /// The name of a model.
    Model,
    /// One of these.
    OneOf(&'static [&'static str]),
}

/// A command.
#[derive(Clone, Copy, Debug)]
pub struct Command {
    /// Its words: `/set parameter`.
    pub words: &'static [&'static str],
    /// Its arguments, for help.
    pub arguments: &'static str,
    /// What its first argument is.
    pub first: Argument,
    /// What it does.
    pub help: &'static str,
}

const fn command(
    words: &'static [&'static str],
    arguments: &'static str,
    first: Argument,
    help: &'static str,
) -> Command {
    Command { words, arguments, first, help }
}

/// How much a model is to think.
pub const LEVELS: &[&str] = &["low", "medium", "high", "max"];

/// Every command.
pub const COMMANDS: &[Command] = {
    use Argument::{Any, Model, OneOf, Parameter};
    &[
        command(&["/set", "parameter"], "NAME VALUE…", Parameter, "Set a parameter, such as temperature"),
        command(
            &["/set", "system"],
            "TEXT",
            Any,
            "Set the system message; \"\"\" begins one of several lines",
        ),
        command(&["/set", "history"], "", Any, "Keep what is typed in the history"),
        command(&["/set", "nohistory"], "", Any, "Keep nothing that is typed from now on"),
        command(&["/set", "wordwrap"], "", Any, "Wrap words at the width of the terminal"),
        command(&["/set", "nowordwrap"], "", Any, "Leave lines to the terminal"),
        command(&["/set", "format"], "json", OneOf(&["json"]), "Answer with JSON"),
        command(&["/set", "noformat"], "", Any, "Answer with any text"),
        command(&["/set", "verbose"], "", Any, "Show counts and times after each answer"),
        command(&["/set", "quiet"], "", Any, "Show none"),
        command(
            &["/set", "think"],
            "[LEVEL]",
            OneOf(LEVELS),
            "Think before answering: low, medium, high, max",
        ),
        command(&["/set", "nothink"], "", Any, "Answer without thinking"),
        command(&["/show", "info"], "", Any, "Show what the model is"),
        command(&["/show", "license"], "", Any, "Show its licenses"),
        command(&["/show", "modelfile"], "", Any, "Show a Modelfile that makes it again"),
        command(&["/show", "parameters"], "", Any, "Show its parameters, and those that were set"),
        command(&["/show", "system"], "", Any, "Show the system message"),
        command(&["/show", "template"], "", Any, "Show its template"),
        command(&["/load"], "MODEL", Model, "Go on with another model, and a new conversation"),
        command(&["/save"], "MODEL", Model, "Keep the conversation and what was set as a model"),
        command(&["/list"], "", Any, "List the models"),
        command(&["/clear"], "", Any, "Forget the conversation"),
        command(&["/bye"], "", Any, "Leave"),
        command(&["/exit"], "", Any, "Leave"),
        command(&["/?"], "[set|show|shortcuts]", OneOf(TOPICS), "Help"),
        command(&["/help"], "[set|show|shortcuts]", OneOf(TOPICS), "Help"),
    ]
};

const TOPICS: &[&str] = &["set", "show", "shortcuts"];

/// Keys and what they do.
const SHORTCUTS: &[(&str, &str)] = &[
    ("Ctrl + a", "Move to the beginning of the line (Home)"),
    ("Ctrl + e", "Move to the end of the line (End)"),
    ("Alt + b", "Move back (left) one word"),
    ("Alt + f", "Move forward (right) one word"),
    ("Ctrl + k", "Delete the sentence after the cursor"),
    ("Ctrl + u", "Delete the sentence before the cursor"),
    ("Ctrl + w", "Delete the word before the cursor"),
    ("Ctrl + r", "Search the history"),
    ("Ctrl + x, e", "Write the message in your editor: Ctrl + x, then Ctrl + e"),
    ("Tab", "Complete a command, a parameter or a model"),
    ("Ctrl + l", "Clear the screen"),
    ("Ctrl + c", "Stop the model from responding"),
    ("Ctrl + d", "Leave (/bye)"),
];

/// The command that a line begins with, and what follows its words.
pub fn find(line: &str) -> Option<(&'static Command, &str)> {
    let mut best = None;
    for command in COMMANDS {
        let mut rest = line.trim_start();
        let matches = command.words.iter().all(|word| {
            let Some(after) = rest.strip_prefix(word) else { return false };
            // `"""` may follow at once.
            let ends = after.is_empty() || after.starts_with(char::is_whitespace) || after.starts_with('"');
            rest = after.trim_start();
            ends
        });
        if matches {
            best = Some((command, rest));
        }
    }
    best
}

/// Help on a topic; on everything where it is none.
pub fn help(topic: &str) -> String {
    let words = |c: &Command| {
        let arguments = if c.arguments.is_empty() { String::new() } else { format!(" {}", c.arguments) };
        format!("{}{arguments}", c.words.join(" "))
    };
    let table = |rows: Vec<(String, &str)>| -> String {
        rows.into_iter().map(|(left, right)| format!("  {left:<34} {right}\n")).collect()
    };
    let of = |first: &str| {
        let rows = COMMANDS.iter().filter(|c| c.words[0] == first).map(|c| (words(c), c.help));
        format!("Available Commands:\n{}", table(rows.collect()))
    };
    match topic.trim().trim_start_matches('/') {
        "set" => of("/set"),
        "show" => of("/show"),
        "shortcut" | "shortcuts" => {
            let rows = SHORTCUTS.iter().map(|(keys, what)| ((*keys).to_owned(), *what));
            format!("Available keyboard shortcuts:\n{}", table(rows.collect()))
        }
        _ => {
            let mut rows = vec![
                ("/set".to_owned(), "Set session variables: /? set"),
                ("/show".to_owned(), "Show model information: /? show"),
            ];
            rows.extend(COMMANDS.iter().filter(|c| c.words.len() == 1).map(|c| (words(c), c.help)));
            format!(
                "Available Commands:\n{}\nUse \"\"\" to begin a multi-line message, and Ctrl + c to stop an answer.\n",
                table(rows)
            )
        }
    }
}

/// What the text before the cursor may go on as: where the last word begins, and the words there are.
pub fn candidates(before: &str, models: &dyn Fn() -> Vec<String>) -> (usize, Vec<String>) {
    let start = before.rfind(char::is_whitespace).map_or(0, |at| at + 1);
    let (done, last) = before.split_at(start);
    let done: Vec<&str> = done.split_whitespace().collect();
    let mut all: Vec<String> = Vec::new();
    for command in COMMANDS {
        let known = done.len().min(command.words.len());
        if done[..known] != command.words[..known] {
            continue;
        }
        match (command.words.get(done.len()), command.first) {
            (Some(word), _) => all.push((*word).to_owned()),
            (None, _) if done.len() > command.words.len() => {}
            (None, Argument::Parameter) => {
                all.extend(PARAMETERS.iter().filter(|p| !p.is_deprecated()).map(|p| p.name.to_owned()));
            }
            (None, Argument::Model) => all.extend(models()),
            (None, Argument::OneOf(words)) => all.extend(words.iter().map(|w| (*w).to_owned())),
            (None, Argument::Any) => {}
        }
    }
    // A message is not completed.
    all.retain(|word| word.starts_with(last) && before.starts_with('/'));
    all.sort();
    all.dedup();
    (start, all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_begins_with_its_command() {
        let words = |line: &str| find(line).map(|(c, rest)| (c.words.join(" "), rest.to_owned()));
        let is = |words: &str, rest: &str| Some((words.to_owned(), rest.to_owned()));
        assert_eq!(words("/set parameter stop a b"), is("/set parameter", "stop a b"));
        assert_eq!(words("  /set  system\"\"\"a\nb\"\"\""), is("/set system", "\"\"\"a\nb\"\"\""));
        assert_eq!(words("/?"), is("/?", ""));
        assert_eq!(words("/? set"), is("/?", "set"));
        for none in ["/set", "/sets", "/set parameters x", "bye", "/byes", "/usr/bin"] {
            assert_eq!(words(none), None, "{none}");
        }
    }

    #[test]
    fn words_are_completed() {
        let models = || vec!["story:latest".to_owned(), "other:1b".to_owned()];
        let of = |before: &str| candidates(before, &models);
        assert_eq!(of("/se"), (0, vec!["/set".to_owned()]));
        assert_eq!(of("/set no").1, ["noformat", "nohistory", "nothink", "nowordwrap"]);
        assert_eq!(of("/set parameter temp"), (15, vec!["temperature".to_owned()]));
        assert_eq!(of("/load s"), (6, vec!["story:latest".to_owned()]));
        assert_eq!(of("/set think m").1, ["max", "medium"]);
        assert_eq!(of("/? sh").1, ["shortcuts", "show"]);
        for nothing in ["", "hello /se", "/set parameter temperature 0", "/bye x", "tell /load s"] {
            assert!(of(nothing).1.is_empty(), "{nothing}");
        }
    }

    #[test]
    fn help_names_every_command() {
        let all = ["", "set", "show", "shortcuts"].map(help).join("\n");
        for command in COMMANDS {
            assert!(all.contains(&command.words.join(" ")), "{:?}", command.words);
        }
        insta::with_settings!({
            snapshot_path => concat!(env!("CARGO_MANIFEST_DIR"), "/snapshots"),
            prepend_module_to_snapshot => false,
        }, {
            insta::assert_snapshot!("terminal_help", all);
        });
    }
}
