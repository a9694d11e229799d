//! ADAPTER's optional scale: `ADAPTER ./lora 0.5`.
//!
//! Ollama has no such thing; to it the line names the file `./lora 0.5`. So a scale is read only where
//! that is not what is meant: the value is not in quotes, its last word is a finite number, and there
//! is no file of the whole name, unless there is one of the name without the number.

use std::path::Path;

use super::ast::{Ast, Instruction, Quoting};
use super::path;
use super::recipe::{AdapterLine, Recipe, Spanned};
use super::reports::Reports;
use crate::diagnostic::{Diagnostic, Span};
use crate::world::World;

const BLANKS: [char; 2] = [' ', '\t'];

/// The path and the scale of a value without quotes, if its last word may be one.
pub(super) fn split(text: &str) -> Option<(&str, f32)> {
    let (head, last) = text.rsplit_once(BLANKS)?;
    let scale = last.parse().ok().filter(|scale: &f32| scale.is_finite())?;
    let path = head.trim_end_matches(BLANKS);
    (!path.is_empty()).then_some((path, scale))
}

/// Reads an ADAPTER line; a number at its end is a scale, until [`settle`] sees a file of that name.
pub(super) fn read(ast: &Ast, instruction: &Instruction) -> AdapterLine {
    let range = &instruction.value.text;
    let text = ast.text(range);
    let whole =
        || AdapterLine { path: Spanned { value: text.to_owned(), span: ast.span(range) }, scale: None };
    if instruction.value.quoting != Quoting::Bare {
        return whole();
    }
    let Some((path, scale)) = split(text) else { return whole() };
    let digits = text.rfind(BLANKS).map_or(range.start, |at| range.start + at + 1);
    AdapterLine {
        path: Spanned { value: path.to_owned(), span: ast.span(&(range.start..range.start + path.len())) },
        scale: Some(Spanned { value: scale, span: ast.span(&(digits..range.end)) }),
    }
}

/// Takes numbers that belong to the name of a file that is there for a part of the name.
pub(super) fn settle(recipe: &mut Recipe, world: &dyn World, base: &Path) {
    let exists = |name: &str| path::expand(world, base, name).is_ok_and(|path| world.kind(&path).is_some());
    for line in &mut recipe.adapters {
        let Some(scale) = &line.scale else { continue };
        let range = line.path.span.range.start..scale.span.range.end;
        let source = &line.path.span.source;
        let Some(whole) = source.text.get(range.clone()) else { continue };
        if !exists(&line.path.value) && exists(whole) {
            let span = Span { source: source.clone(), range };
            *line = AdapterLine { path: Spanned { value: whole.to_owned(), span }, scale: None };
        }
    }
}

/// Reports a scale that takes the adapter out.
pub(super) fn check(recipe: &Recipe, reports: &mut Reports) {
    for scale in recipe.adapters.iter().filter_map(|line| line.scale.as_ref()).filter(|s| s.value == 0.0) {
        reports.error(|| {
            Diagnostic::error("a scale of 0 makes an adapter that does nothing")
                .code("adapter-scale")
                .at(&scale.span)
                .help("remove the line, or give another scale")
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modelfile::{check, format, lower, parse};
    use crate::world::MemoryWorld;

    fn line(world: &MemoryWorld, text: &str) -> (String, Option<f32>) {
        let text = format!("FROM x\nADAPTER {text}\n");
        let checked = check(world, Path::new("/d"), "m", text.as_bytes());
        let line = &checked.recipe.adapters[0];
        if let Some(scale) = &line.scale {
            let written = &scale.span.source.text[scale.span.range.clone()];
            assert_eq!(written.parse(), Ok(scale.value));
        }
        let printed = checked.recipe.to_modelfile().0;
        assert!(lower(&parse("m", printed.as_bytes()).ast).0.means_the_same(&checked.recipe), "{printed:?}");
        let formatted = format(&checked.ast);
        let again = check_recipe(world, &formatted);
        assert!(again.means_the_same(&checked.recipe), "{formatted:?}");
        (line.path.value.clone(), line.scale.as_ref().map(|s| s.value))
    }

    fn check_recipe(world: &MemoryWorld, text: &str) -> Recipe {
        check(world, Path::new("/d"), "m", text.as_bytes()).recipe
    }

    #[test]
    fn a_number_after_the_path_is_a_scale() {
        let world = MemoryWorld::default();
        for (text, path, scale) in [
            ("./a", "./a", None),
            ("./a 0.5", "./a", Some(0.5)),
            ("./a \t -2", "./a", Some(-2.0)),
            ("./my lora 1e-1", "./my lora", Some(0.1)),
            ("./v 2 0.5", "./v 2", Some(0.5)),
            ("\"./a 0.5\"", "./a 0.5", None),
            ("\"\"\"./a 0.5\"\"\"", "./a 0.5", None),
            ("0.5", "0.5", None),
            ("./a inf", "./a inf", None),
            ("./a nan", "./a nan", None),
            ("./a 1e99", "./a 1e99", None),
            ("./a 0x1", "./a 0x1", None),
            ("./a 0.5 x", "./a 0.5 x", None),
        ] {
            assert_eq!(line(&world, text), (path.to_owned(), scale), "{text}");
        }
    }

    #[test]
    fn a_file_of_the_whole_name_is_meant() {
        let mut world = MemoryWorld::default();
        world.insert("/d/lora 2", b"x".as_slice());
        assert_eq!(line(&world, "./other 2"), ("./other".to_owned(), Some(2.0)));
        let text = "FROM x\nADAPTER ./lora 2\n";
        let recipe = check_recipe(&world, text);
        assert_eq!((recipe.adapters[0].path.value.as_str(), &recipe.adapters[0].scale), ("./lora 2", &None));
        let span = &recipe.adapters[0].path.span;
        assert_eq!(&text[span.range.clone()], "./lora 2");
        world.insert("/d/lora", b"x".as_slice());
        assert_eq!(line(&world, "./lora 2"), ("./lora".to_owned(), Some(2.0)));
    }

    #[test]
    fn a_scale_of_0_is_refused() {
        let checked = check(&MemoryWorld::default(), Path::new("/d"), "m", b"FROM x\nADAPTER ./a -0\n");
        let codes: Vec<_> = checked.diagnostics.iter().map(|d| d.code).collect();
        assert!(codes.contains(&"adapter-scale"), "{codes:?}");
    }
}
