//! The Modelfiles in `testdata/modelfile`, and what becomes of each.

use std::path::Path;

use mdl::cli::report::render;
use mdl::diagnostic::Severity;
use mdl::modelfile::{self, Checked, parse};
use mdl::world::MemoryWorld;

/// A folder with a Modelfile beside a file `llama3` and a folder `lora`.
fn check(bytes: &[u8]) -> Checked {
    let mut world = MemoryWorld::default();
    world.insert("/models/demo/llama3", b"".as_slice());
    world.insert("/models/demo/lora/adapter_config.json", b"{}".as_slice());
    modelfile::check(&world, Path::new("/models/demo"), "Modelfile", bytes)
}

/// The input as far as it can be shown: carriage returns visible, no line end at its end.
fn shown(checked: &Checked, bytes: &[u8]) -> String {
    let text = match checked.ast.source.text.as_str() {
        "" => String::from_utf8_lossy(bytes).into_owned(),
        text => text.to_owned(),
    };
    text.replace('\r', "␍").replace('\0', "␀").replace('\u{1b}', "␛").replace('\u{7}', "␇")
}

fn diagnostics(checked: &Checked) -> String {
    checked.diagnostics.iter().map(|d| render(d, false)).collect::<Vec<_>>().join("\n")
}

fn with_settings(test: impl FnOnce()) {
    insta::with_settings!({
        snapshot_path => concat!(env!("CARGO_MANIFEST_DIR"), "/snapshots"),
        prepend_module_to_snapshot => false,
        omit_expression => true,
    }, { test() });
}

#[test]
fn good_files() {
    with_settings(|| {
        insta::glob!("../testdata/modelfile", "good/*.modelfile", |path| {
            let bytes = std::fs::read(path).unwrap();
            let checked = check(&bytes);
            assert!(!checked.has_errors(), "{}", diagnostics(&checked));

            let formatted = modelfile::format(&checked.ast);
            let again = check(formatted.as_bytes());
            assert!(!again.has_errors(), "{}", diagnostics(&again));
            assert_eq!(modelfile::format(&again.ast), formatted, "formatting is idempotent");
            assert!(again.recipe.means_the_same(&checked.recipe), "formatting keeps the meaning");

            let (printed, lost) = checked.recipe.to_modelfile();
            assert_eq!(lost, []);
            let back = check(printed.as_bytes());
            assert!(back.recipe.means_the_same(&checked.recipe), "printing keeps the meaning:\n{printed}");

            insta::assert_snapshot!(
                "modelfile_good",
                format!(
                    "=== input\n{}\n=== tree\n{}\n=== recipe\n{}\n=== formatted\n{}\n=== printed\n{}\n=== warnings\n{}",
                    shown(&checked, &bytes),
                    checked.ast,
                    checked.recipe,
                    formatted.replace('\r', "␍"),
                    printed.replace('\r', "␍"),
                    diagnostics(&checked),
                )
            );
        });
    });
}

#[test]
fn bad_files() {
    with_settings(|| {
        insta::glob!("../testdata/modelfile", "bad/*.modelfile", |path| {
            let bytes = std::fs::read(path).unwrap();
            let checked = check(&bytes);
            assert!(checked.has_errors());
            for d in checked.diagnostics.iter().filter(|d| d.severity != Severity::Note) {
                assert!(!d.code.is_empty() && d.location.is_some(), "{d}");
            }
            // Whatever is wrong with a line, it is in the tree.
            let parsed = parse("Modelfile", &bytes);
            assert_eq!(parsed.ast, checked.ast);
            insta::assert_snapshot!(
                "modelfile_bad",
                format!(
                    "=== input\n{}\n=== diagnostics\n{}\n=== tree\n{}",
                    shown(&checked, &bytes),
                    diagnostics(&checked),
                    checked.ast
                )
            );
        });
    });
}
