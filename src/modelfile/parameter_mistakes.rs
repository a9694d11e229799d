//! What is said about a PARAMETER that is unknown, deprecated or has a wrong value.

use std::ops::Range;

use super::ast::{Ast, Keyword};
use super::parameters::{ELSEWHERE, PARAMETERS, Parameter, ParameterType, REMOVED, find};
use super::suggest::{excerpt, nearest};
use crate::diagnostic::Diagnostic;

/// A name that is not in the table.
pub(super) fn unknown(ast: &Ast, word: &Range<usize>) -> Diagnostic {
    let name = ast.text(word);
    let d = Diagnostic::error(format!("unknown parameter `{}`", excerpt(name)))
        .code("unknown-parameter")
        .at(&ast.span(word));
    if REMOVED.contains(&name) {
        return d.label("no longer a parameter").help("it has had no effect for long; delete the line");
    }
    if let Some((name, value)) = name.split_once(['=', ':'])
        && find(name).is_some()
    {
        let value = if value.is_empty() { "…".to_owned() } else { excerpt(value) };
        return d.help(format!("only a space stands between name and value: `PARAMETER {name} {value}`"));
    }
    if let Some((_, ours)) = ELSEWHERE.iter().find(|(theirs, _)| name.eq_ignore_ascii_case(theirs)) {
        return d.help(format!("here it is called `{ours}`"));
    }
    let known = || PARAMETERS.iter().filter(|p| !p.is_deprecated()).map(|p| p.name);
    if let Some(name) = nearest(&name.replace('-', "_"), known()) {
        return d.help(format!("did you mean `{name}`?"));
    }
    if let Some(keyword) = Keyword::from_name(name) {
        return d.help(format!("{keyword} is an instruction: write `{keyword} …` without PARAMETER"));
    }
    d.help(format!("parameters are {}", known().collect::<Vec<_>>().join(", ")))
}

/// A name that is only accepted.
pub(super) fn deprecated(ast: &Ast, word: &Range<usize>) -> Diagnostic {
    Diagnostic::warning(format!("parameter `{}` is deprecated and ignored", ast.text(word)))
        .code("deprecated-parameter")
        .at(&ast.span(word))
        .help("delete the line: it no longer has any effect")
}

/// A value of the wrong type.
pub(super) fn value(ast: &Ast, parameter: &Parameter, range: &Range<usize>, why: String) -> Diagnostic {
    let d = Diagnostic::error(format!("`{}` takes {}", parameter.name, parameter.ty.name()))
        .code("invalid-parameter-value")
        .at(&ast.span(range))
        .label(why);
    let text = ast.text(range);
    let first = text.split_whitespace().next().unwrap_or("");
    if text.contains('#') && parameter.parse(first).is_ok() {
        return d.help("a comment stands on a line of its own");
    }
    if parameter.ty == ParameterType::Float && parameter.parse(&text.replace(',', ".")).is_ok() {
        return d.help("the decimal separator is a point");
    }
    d.help(format!("for instance `PARAMETER {} {}`", parameter.name, parameter.example()))
}
