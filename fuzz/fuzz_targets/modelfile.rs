//! Any bytes as a Modelfile: nothing panics, and formatting keeps the meaning.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mdl::cli::report::{json, render};
use mdl::modelfile::{check, format, lower, parse};
use mdl::world::MemoryWorld;

fuzz_target!(|bytes: &[u8]| {
    let checked = check(&MemoryWorld::default(), "/m".as_ref(), "Modelfile", bytes);
    for diagnostic in &checked.diagnostics {
        assert!(!render(diagnostic, false).is_empty());
        assert!(json(diagnostic).is_object());
    }
    let _ = (checked.ast.to_string(), checked.recipe.to_string());
    if checked.ast.has_errors() || checked.ast.items.is_empty() {
        return;
    }

    // Values may still be wrong; what is right means the same once formatted.
    let formatted = format(&checked.ast);
    let again = parse("Modelfile", formatted.as_bytes());
    assert_eq!(again.diagnostics, [], "what format writes can be parsed: {formatted:?}");
    assert_eq!(format(&again.ast), formatted, "formatting is idempotent");
    let (recipe, _) = lower(&again.ast);
    assert!(recipe.means_the_same(&checked.recipe), "formatting keeps the meaning: {formatted:?}");

    let (printed, lost) = checked.recipe.to_modelfile();
    assert_eq!(lost, [], "what was parsed can be printed");
    let (recipe, _) = lower(&parse("Modelfile", printed.as_bytes()).ast);
    assert!(recipe.means_the_same(&checked.recipe), "printing keeps the meaning: {printed:?}");
});
