//! Diagnostics as snapshots show them.

use std::fmt::Write;

use mdl::diagnostic::Errors;

/// A case's name and what a person would read.
pub fn report(name: &str, errors: &Errors) -> String {
    let mut text = format!("[{name}]\n");
    for d in &errors.0 {
        writeln!(text, "{d} ({})", d.code).unwrap();
        if let Some(label) = &d.label {
            writeln!(text, "  ^ {label}").unwrap();
        }
        for help in &d.help {
            writeln!(text, "  help: {help}").unwrap();
        }
    }
    text
}

/// Compares with `snapshots/<name>.snap`.
pub fn check(name: &str, text: &str) {
    insta::with_settings!({
        snapshot_path => concat!(env!("CARGO_MANIFEST_DIR"), "/snapshots"),
        prepend_module_to_snapshot => false,
        omit_expression => true,
    }, {
        insta::assert_snapshot!(name, text);
    });
}
