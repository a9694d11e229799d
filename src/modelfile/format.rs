//! The canonical form of a Modelfile, for `mdl fmt`.

use std::fmt::Write;

use super::adapter_line;
use super::ast::{Ast, Instruction, ItemKind, Keyword, Quoting};
use super::quoting::quote;

/// Writes a Modelfile in its canonical form: keywords in capitals, one space between the parts,
/// no indentation, at most one blank line in a row and none at the ends, LF line ends. Quotes stay
/// only where the value needs them: `"""` if it has several lines or a `"` in it, and else `"`.
///
/// Comments and what is inside of quotes stay as they are, so the meaning does: the result lowers
/// to the same recipe. Formatting twice changes nothing more. Lines that could not be parsed are
/// copied; callers should refuse to format a file that has any.
pub fn format(ast: &Ast) -> String {
    let mut out = String::with_capacity(ast.source.text.len());
    let mut blank = false;
    for item in &ast.items {
        if item.kind == ItemKind::Blank {
            blank = !out.is_empty();
            continue;
        }
        if std::mem::take(&mut blank) {
            out.push('\n');
        }
        match &item.kind {
            ItemKind::Instruction(instruction) => write_instruction(&mut out, ast, instruction),
            ItemKind::Comment | ItemKind::Blank | ItemKind::Error => {
                out.push_str(ast.text(&item.range).trim_end());
            }
        }
        out.push('\n');
    }
    out
}

fn write_instruction(out: &mut String, ast: &Ast, instruction: &Instruction) {
    // Writing to a string cannot fail.
    let _ = write!(out, "{} ", instruction.keyword);
    if let Some(word) = &instruction.word {
        let _ = write!(out, "{} ", ast.text(word));
    }
    let text = ast.text(&instruction.value.text);
    // In quotes a number at the end belongs to the path.
    let is_path_with_number = instruction.keyword == Keyword::Adapter
        && instruction.value.quoting != Quoting::Bare
        && adapter_line::split(text).is_some();
    let preferred: &[Quoting] = if is_path_with_number {
        &[Quoting::Single, Quoting::Triple]
    } else if text.contains(['\r', '\n']) {
        &[Quoting::Triple, Quoting::Single]
    } else if text.contains('"') {
        &[Quoting::Bare, Quoting::Triple]
    } else {
        &[Quoting::Bare, Quoting::Single]
    };
    match quote(text, preferred) {
        Some(quoted) => out.push_str(&quoted),
        // Out of reach: what was read fits the form that it was read in.
        None => out.push_str(ast.text(&instruction.value.range)),
    }
}
