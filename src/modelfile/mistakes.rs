//! What the parser says about each mistake.

use std::ops::Range;

use super::ast::{Ast, ItemKind, Keyword, Quoting};
use super::parameters;
use super::suggest::{excerpt, is_invisible, nearest};
use crate::diagnostic::Diagnostic;

/// A line that starts with no keyword.
pub(super) fn unknown_instruction(ast: &Ast, word: &Range<usize>) -> Diagnostic {
    let text = ast.text(word);
    let letters: String = text.chars().take_while(char::is_ascii_alphabetic).collect();
    if let Some(keyword) = Keyword::from_name(&letters) {
        return attached_to_keyword(ast, word, keyword, letters.len());
    }
    let visible: String = text.chars().take(64).filter(|c| !is_invisible(*c)).collect();
    if Keyword::from_name(&visible).is_some() {
        return Diagnostic::error(format!("invisible characters in `{}`", excerpt(text)))
            .code("unknown-instruction")
            .at(&ast.span(word))
            .help(format!("type `{visible}` anew"));
    }
    let d = Diagnostic::error(format!("unknown instruction `{}`", excerpt(text)))
        .code("unknown-instruction")
        .at(&ast.span(word));
    let keywords = Keyword::ALL.iter().map(|(_, name)| *name);
    if let Some(name) = nearest(text, keywords) {
        return d.help(format!("did you mean `{name}`?"));
    }
    let lower = text.to_ascii_lowercase();
    if parameters::find(&lower).is_some() {
        return d.help(format!("parameters are set by `PARAMETER {lower} …`"));
    }
    match lower.trim_end_matches(':') {
        "user" | "assistant" => {
            return d.help(format!("messages are written `MESSAGE {} …`", lower.trim_end_matches(':')));
        }
        "prompt" => return d.help("PROMPT is no longer part of the language; `TEMPLATE` takes its place"),
        "embed" => return d.help("EMBED is no longer part of the language; delete the line"),
        _ => {}
    }
    if follows_bare_value(ast) {
        return d.help("a value of several lines stands in quotes: `\"\"\"` before it and `\"\"\"` after it");
    }
    d.label("not an instruction").help(format!("instructions are {}", keyword_list()))
}

/// `SYSTEM"""…`, `FROM1`, a no-break space after a keyword.
fn attached_to_keyword(ast: &Ast, word: &Range<usize>, keyword: Keyword, length: usize) -> Diagnostic {
    let rest = word.start + length..word.end;
    let next = ast.text(&rest).chars().next().unwrap_or(' ');
    let at = rest.start..rest.start + next.len_utf8();
    let message = if is_invisible(next) {
        format!("`{keyword}` is followed by U+{:04X}, which only looks like a space", u32::from(next))
    } else if next == ':' {
        format!("`{keyword}` is followed by a colon")
    } else {
        format!("a space is missing after `{keyword}`")
    };
    Diagnostic::error(message)
        .code("missing-space")
        .at(&ast.span(&at))
        .help(format!("one space stands between `{keyword}` and its value"))
}

fn keyword_list() -> String {
    Keyword::ALL.iter().map(|(_, name)| *name).collect::<Vec<_>>().join(", ")
}

/// True when the item before is a one-line value that may have been meant to go on.
fn follows_bare_value(ast: &Ast) -> bool {
    match ast.items.last().map(|item| &item.kind) {
        Some(ItemKind::Instruction(i)) => {
            i.value.quoting == Quoting::Bare
                && matches!(
                    i.keyword,
                    Keyword::System | Keyword::Template | Keyword::License | Keyword::Message
                )
        }
        _ => false,
    }
}

/// True when the line before is a keyword alone, whose diagnostic explains the quotes that follow.
pub(super) fn value_is_on_the_next_line(ast: &Ast) -> bool {
    let last = ast.items.iter().rev().find(|item| item.kind != ItemKind::Blank);
    last.is_some_and(|item| {
        item.kind == ItemKind::Error && {
            let words: Vec<&str> = ast.text(&item.range).split_whitespace().take(3).collect();
            words.len() <= 2 && words.first().is_some_and(|word| Keyword::from_name(word).is_some())
        }
    })
}

/// Quoted text that no keyword stands before.
pub(super) fn stray_text(ast: &Ast, open: usize) -> Diagnostic {
    Diagnostic::error("quoted text without an instruction")
        .code("stray-text")
        .at(&ast.span(&(open..open + 3)))
        .help("a value begins on the line of its keyword: `SYSTEM \"\"\"…`")
}

/// How far an unclosed quote at the start of `text` is taken to reach: before the next line that is
/// surely an instruction.
pub(super) fn unclosed_length(text: &str) -> usize {
    text.match_indices(['\r', '\n'])
        .find(|(at, _)| text.get(at + 1..).is_some_and(starts_with_keyword))
        .map_or(text.len(), |(at, _)| at)
}

/// True for a line that starts with a keyword in capitals and a blank.
pub(super) fn starts_with_keyword(line: &str) -> bool {
    Keyword::ALL
        .iter()
        .any(|(_, name)| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '\t'])))
}

/// A quote that nothing closes.
pub(super) fn unclosed_quote(ast: &Ast, keyword: &str, open: usize) -> Diagnostic {
    let rest = ast.source.text.get(open..).unwrap_or("");
    let rest = rest.get(..unclosed_length(rest)).unwrap_or(rest);
    let quote = if rest.starts_with("\"\"\"") { "\"\"\"" } else { "\"" };
    let d =
        Diagnostic::error(format!("the `{quote}` of this {} is never closed", keyword.to_ascii_uppercase()))
            .code("unclosed-quote")
            .at(&ast.span(&(open..open + quote.len())))
            .label("opened here");
    let inner = rest.get(quote.len()..).unwrap_or("");
    match inner.find(quote) {
        // Text behind the quotes keeps them from closing.
        Some(at) => {
            let close = open + quote.len() + at;
            let (line, column) = ast.span(&(close..close)).line_column();
            let d = d.help(format!(
                "the `{quote}` at {line}:{column} does not close it: quotes close only at the end of a line"
            ));
            if quote == "\"" {
                d.help("for a value that begins with a quote, put `\"\"\"` around all of it")
            } else {
                d
            }
        }
        None => d.help(format!("end the value with `{quote}` at the end of a line")),
    }
}

/// MESSAGE with a role that is none.
pub(super) fn unknown_role(ast: &Ast, word: &Range<usize>) -> Diagnostic {
    const ROLES: [&str; 3] = ["system", "user", "assistant"];
    let text = ast.text(word);
    let d = Diagnostic::error(format!("unknown message role `{}`", excerpt(text)))
        .code("unknown-role")
        .at(&ast.span(word))
        .label("must be `system`, `user` or `assistant`");
    match nearest(text.trim_end_matches(':'), ROLES) {
        Some(role) if text.ends_with(':') => d.help(format!("no colon: `MESSAGE {role} …`")),
        Some(role) => d.help(format!("did you mean `{role}`?")),
        None => d,
    }
}

/// A keyword without its value (or its name, or its role).
pub(super) fn missing_value(
    ast: &Ast,
    keyword: Keyword,
    keyword_range: &Range<usize>,
    word: Option<&Range<usize>>,
) -> Diagnostic {
    let end = word.map_or(keyword_range.end, |word| word.end);
    let (message, help) = match (keyword, word) {
        (Keyword::From, _) => (
            "FROM names no model".to_owned(),
            "write a model's name, `FROM llama3.2`, or the path of its files, `FROM ./model`".to_owned(),
        ),
        (Keyword::Adapter, _) => (
            "ADAPTER names no file".to_owned(),
            "write the path of a LoRA adapter: `ADAPTER ./adapter`".to_owned(),
        ),
        (Keyword::Draft, _) => (
            "DRAFT names no file".to_owned(),
            "write the path of a draft model: `DRAFT ./draft.gguf`".to_owned(),
        ),
        (Keyword::Requires, _) => {
            ("REQUIRES names no version".to_owned(), "write the least version: `REQUIRES 0.14.0`".to_owned())
        }
        (Keyword::Parameter, None) => {
            ("PARAMETER names no parameter".to_owned(), "for instance `PARAMETER temperature 0.7`".to_owned())
        }
        (Keyword::Parameter, Some(word)) => {
            let name = excerpt(ast.text(word));
            let example = parameters::find(ast.text(word)).map_or("…".to_owned(), |p| p.example());
            (format!("parameter `{name}` has no value"), format!("for instance `PARAMETER {name} {example}`"))
        }
        (Keyword::Message, None) => {
            ("MESSAGE has no role".to_owned(), "for instance `MESSAGE user Hello!`".to_owned())
        }
        (Keyword::Message, Some(_)) => {
            ("MESSAGE has no text".to_owned(), "for an empty message write `\"\"`".to_owned())
        }
        _ => (
            format!("{keyword} has no value"),
            format!(
                "the value begins on this line: `{keyword} \"\"\"…`; for an empty one write `{keyword} \"\"`"
            ),
        ),
    };
    Diagnostic::error(message).code("missing-value").at(&ast.span(&(keyword_range.start..end))).help(help)
}
