//! How a model writes thinking and calls, by its template.
//!
//! A Go template shows it: the texts around `.Thinking` and around the range over `.ToolCalls`. Of Jinja templates the
//! families are known by texts that they contain.

use super::families::{FAMILIES, list};
use super::{CallSyntax, OutputSyntax, ThinkingSyntax, ToolSyntax};
use crate::prompt::gotemplate::ast::{Choice, List, Node, Pipeline, Term};

/// The texts around thinking, where a template contains the second.
const THINKING: &[(&str, &str)] = &[
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<thinking>", "</thinking>"),
];

/// The syntax of a Jinja template.
pub fn jinja_syntax(template: &str) -> OutputSyntax {
    let thinking = THINKING.iter().find(|(_, close)| template.contains(close));
    let has_tools = template.contains("tools") || template.contains("tool_call");
    let family = FAMILIES.iter().find(|f| f.marks.iter().all(|m| template.contains(m)));
    OutputSyntax {
        thinking: thinking
            .map(|(open, close)| ThinkingSyntax { open: (*open).to_owned(), close: (*close).to_owned() }),
        tools: family.filter(|_| has_tools).map(|f| (f.tools)()),
    }
}

/// A template without its logic: what it prints, in the order of its text.
#[derive(Debug, PartialEq)]
enum Item<'a> {
    Text(&'a str),
    Field(&'a str),
    Begin(&'a str),
    End,
}

/// The syntax of a Go template.
pub fn go_syntax(root: &List) -> OutputSyntax {
    let mut items = Vec::new();
    flatten(root, &mut items);
    OutputSyntax { thinking: go_thinking(&items), tools: go_tools(&items) }
}

fn flatten<'a>(list: &'a [Node], items: &mut Vec<Item<'a>>) {
    fn choice<'a>(choice: &'a Choice, items: &mut Vec<Item<'a>>) {
        for (_, body) in &choice.arms {
            flatten(body, items);
        }
        flatten(choice.otherwise.as_deref().unwrap_or_default(), items);
    }
    for node in list {
        match node {
            Node::Text(text) => items.push(Item::Text(text)),
            Node::Action(pipeline) => items.extend(field(pipeline).map(Item::Field)),
            Node::If(c) | Node::With(c) => choice(c, items),
            Node::Range { pipeline, body, otherwise } => {
                items.push(Item::Begin(field(pipeline).unwrap_or("")));
                flatten(body, items);
                items.push(Item::End);
                flatten(otherwise.as_deref().unwrap_or_default(), items);
            }
            Node::Call { .. } | Node::Break | Node::Continue => {}
        }
    }
}

/// The last field that a pipeline names first: `Name` of `.Function.Name`.
fn field(pipeline: &Pipeline) -> Option<&str> {
    if !pipeline.variables.is_empty() && pipeline.assigns {
        return None;
    }
    let operands = pipeline.commands.iter().flat_map(|c| &c.operands);
    operands.into_iter().find_map(|o| match (&o.term, o.fields.last()) {
        (_, Some(field)) => Some(&**field),
        (Term::Variable(name), None) => Some(&**name),
        _ => None,
    })
}

fn go_thinking(items: &[Item<'_>]) -> Option<ThinkingSyntax> {
    let at = items.iter().position(|i| *i == Item::Field("Thinking"))?;
    let (Item::Text(before), Item::Text(after)) = (items.get(at.checked_sub(1)?)?, items.get(at + 1)?) else {
        return None;
    };
    // A tag is a word in brackets.
    let open = before.trim_end();
    let open = &open[open.rfind(['<', '['])?..];
    let close = after.trim_start();
    let close = &close[..=close.find(['>', ']'])?];
    let is_tag = |t: &str| t.len() >= 3 && !t.contains(char::is_whitespace) && t.ends_with(['>', ']']);
    (is_tag(open) && is_tag(close)).then(|| ThinkingSyntax { open: open.to_owned(), close: close.to_owned() })
}

fn go_tools(items: &[Item<'_>]) -> Option<ToolSyntax> {
    if let Some(at) = items.iter().position(|i| *i == Item::Begin("ToolCalls")) {
        return Some(ranged(items, at).unwrap_or_else(ToolSyntax::bare));
    }
    // `{{ json .ToolCalls }}`: a list, after what is printed before it.
    let at = items.iter().position(|i| *i == Item::Field("ToolCalls"))?;
    match at.checked_sub(1).and_then(|i| items.get(i)) {
        Some(Item::Text(before)) => Some(list(tag_of(before))),
        _ => Some(ToolSyntax::bare()),
    }
}

/// The tag at the end of a text: its last line, if it is one word.
fn tag_of(text: &str) -> &str {
    let line = text.trim_end().rsplit('\n').next().unwrap_or("").trim_start();
    // What ends a turn's header is no tag of calls.
    if line.contains(char::is_whitespace) || line.contains("end_header") || line.contains("im_start") {
        return "";
    }
    match line.rfind(['<', '[']) {
        Some(at) if line.ends_with(['>', ']']) => &line[at..],
        _ => "",
    }
}

/// The range over the calls at `at`.
fn ranged(items: &[Item<'_>], at: usize) -> Option<ToolSyntax> {
    let mut depth = 0;
    let length = items[at..].iter().position(|item| {
        match item {
            Item::Begin(_) => depth += 1,
            Item::End => depth -= 1,
            _ => {}
        }
        depth == 0
    })?;
    let body = &items[at + 1..at + length];
    let name = body.iter().position(|i| *i == Item::Field("Name"))?;
    let arguments = body.iter().position(|i| matches!(i, Item::Field("Arguments")))?;
    let text = |range: &[Item<'_>]| -> String {
        range.iter().filter_map(|i| if let Item::Text(t) = i { Some(*t) } else { None }).collect()
    };
    let (head, middle, tail) =
        (text(&body[..name]), text(body.get(name + 1..arguments)?), text(&body[arguments + 1..]));
    let outside = match at.checked_sub(1).and_then(|i| items.get(i)) {
        Some(Item::Text(before)) => before.trim_end(),
        _ => "",
    };
    let Some(brace) = head.rfind('{') else { return named(&head, &body[name + 1..arguments], &tail) };
    // `{"name": "`, then `", "arguments": `; the name's quotes may be those of `json`.
    let key = head[brace..].trim_end();
    let key = key.strip_suffix('"').unwrap_or(key);
    let name_key = key.rsplit('"').nth(1)?.to_owned();
    let arguments_key = middle.trim_end().strip_suffix(':')?.trim_end().rsplit('"').nth(1)?.to_owned();
    let after = tail.trim_start().strip_prefix('}')?;
    let in_list = outside.ends_with('[') && !outside.ends_with("[[");
    let close = if in_list { "" } else { after.trim_end_matches('\n') };
    let open = &head[..brace];
    let outside = if in_list { outside[..outside.len() - 1].trim_end() } else { outside };
    let begin = match tag_of(outside) {
        "" if in_list => word_of(outside),
        tag => tag,
    };
    // `<tool_call>` before all calls, `</tool_call>` after them.
    let end = match items.get(at + length + 1) {
        Some(Item::Text(after)) if !in_list && !begin.is_empty() => tag_at(after),
        // A list in a code fence.
        Some(Item::Text(after)) if begin.starts_with(FENCE) && after.trim_start().starts_with("]```") => {
            FENCE
        }
        _ => "",
    };
    Some(ToolSyntax {
        begin: begin.to_owned(),
        open: if in_list { String::new() } else { open.trim_start_matches('\n').to_owned() },
        call: CallSyntax::Object { name: name_key, arguments: arguments_key, list: in_list },
        close: close.to_owned(),
        separator: if open.trim().is_empty() { String::new() } else { "\n".to_owned() },
        end: end.to_owned(),
    })
}

/// Calls that are no objects: `[TOOL_CALLS]`, the name, `[ARGS]`, the arguments. An id may stand between.
fn named(head: &str, between: &[Item<'_>], tail: &str) -> Option<ToolSyntax> {
    let Some(Item::Text(between)) = between.last() else { return None };
    let open = head.trim();
    (!open.is_empty() && !between.trim().is_empty()).then(|| ToolSyntax {
        begin: String::new(),
        open: open.to_owned(),
        call: CallSyntax::Named {
            between: (*between).to_owned(),
            before: String::new(),
            after: String::new(),
        },
        close: tail.trim().to_owned(),
        separator: String::new(),
        end: String::new(),
    })
}

/// What opens and closes a block of code.
const FENCE: &str = "```";

/// The word that a text ends in, as it may stand before a list of calls: `functools`, or a code fence.
fn word_of(text: &str) -> &str {
    let word = text.rsplit(char::is_whitespace).next().unwrap_or("");
    let is_word = word.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '`'));
    if is_word { word } else { "" }
}

/// The tag that a text begins with, if it closes one.
fn tag_at(text: &str) -> &str {
    let text = text.trim_start();
    match text.find('>') {
        Some(end) if text.starts_with("</") && !text[..end].contains(char::is_whitespace) => &text[..=end],
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::diagnostic::Source;
    use crate::prompt::gotemplate::Template;
    use crate::prompt::limits::Limits;

    fn go(text: &str) -> OutputSyntax {
        let source = Arc::new(Source { name: "TEMPLATE".to_owned(), text: text.to_owned() });
        let template = Template::parse(source, Limits::default()).unwrap();
        go_syntax(&template.templates()[""])
    }

    #[test]
    fn the_syntax_of_go_templates() {
        let hermes = go(r#"{{ range .Messages }}{{ if .Thinking }}
<think>{{ .Thinking }}</think>
{{ end }}{{ if .ToolCalls }}<tool_call>
{{ range .ToolCalls }}{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}
{{ end }}</tool_call>{{ end }}{{ end }}"#);
        assert_eq!(
            hermes.thinking.unwrap(),
            ThinkingSyntax { open: "<think>".into(), close: "</think>".into() }
        );
        let tools = hermes.tools.unwrap();
        assert_eq!((tools.begin.as_str(), tools.open.as_str()), ("<tool_call>", ""));
        let llama = go(
            r#"{{ range .ToolCalls }}{"name": "{{ .Function.Name }}", "parameters": {{ .Function.Arguments }}}{{ end }}"#,
        );
        assert_eq!(llama.tools.unwrap(), ToolSyntax::object("", "", "", "parameters"));
        let mistral = go(
            r#"[TOOL_CALLS] [{{ range .ToolCalls }}{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}{{ end }}]</s>"#,
        );
        let tools = mistral.tools.unwrap();
        assert_eq!(tools.begin, "[TOOL_CALLS]");
        assert!(matches!(tools.call, CallSyntax::Object { list: true, .. }));
        let each = go(
            "{{ range .ToolCalls }}<tool_call>\n{\"name\": \"{{ .Function.Name }}\", \"arguments\": {{ .Function.Arguments }}}\n</tool_call>\n{{ end }}",
        );
        assert_eq!(
            each.tools.unwrap(),
            ToolSyntax::object("", "<tool_call>\n", "\n</tool_call>", "arguments")
        );
        assert_eq!(go("{{ .Prompt }}"), OutputSyntax::default());
        assert_eq!(
            go("{{ range .Messages }}{{ json .ToolCalls }}{{ end }}").tools.unwrap(),
            ToolSyntax::bare()
        );
    }

    /// What is inferred from every template of the fixtures.
    #[test]
    fn the_syntax_of_the_fixtures() {
        let mut all = String::new();
        for kind in ["go", "jinja"] {
            let directory = format!("{}/testdata/prompt/{kind}", env!("CARGO_MANIFEST_DIR"));
            let mut paths: Vec<_> =
                std::fs::read_dir(directory).unwrap().map(|e| e.unwrap().path()).collect();
            paths.sort();
            for path in paths.iter().filter(|p| p.extension().is_some_and(|e| e == "gotmpl" || e == "jinja"))
            {
                let text = std::fs::read_to_string(path).unwrap();
                let syntax = if kind == "go" { go(&text) } else { jinja_syntax(&text) };
                all.push_str(&format!(
                    "{kind}/{}\n  thinking: {:?}\n  tools: {:?}\n",
                    path.file_name().unwrap().display(),
                    syntax.thinking,
                    syntax.tools
                ));
            }
        }
        insta::with_settings!({snapshot_path => concat!(env!("CARGO_MANIFEST_DIR"), "/snapshots"), prepend_module_to_snapshot => false}, {
            insta::assert_snapshot!("prompt_output_syntax", all);
        });
    }
}
