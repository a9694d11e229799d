//! Hostile Modelfiles: large ones made of what would cost a careless parser the square of their
//! size. At these sizes that is minutes, so the time limit leaves a slow machine room.

use std::path::Path;
use std::time::{Duration, Instant};

use mdl::cli::report::{json, render};
use mdl::modelfile::{self, format};
use mdl::world::MemoryWorld;

const SIZE: usize = 128 << 10;

/// Runs everything there is on a text; the codes of the first and the last diagnostic, and how
/// many there are.
fn run(bytes: &[u8]) -> (usize, &'static str, &'static str) {
    let start = Instant::now();
    let checked = modelfile::check(&MemoryWorld::default(), Path::new("/m"), "m", bytes);
    let text: usize = checked.diagnostics.iter().map(|d| render(d, false).len()).sum();
    assert!(text < 200 * 1500, "{text} bytes of diagnostics");
    assert!(checked.diagnostics.iter().all(|d| json(d)["message"].is_string()));
    let formatted = format(&checked.ast);
    assert!(formatted.len() <= 2 * bytes.len() + 16);
    assert!(!checked.ast.to_string().is_empty() || checked.ast.items.is_empty());
    assert!(!checked.recipe.to_string().is_empty() || checked.recipe.from.is_empty());
    assert!(start.elapsed() < Duration::from_secs(20), "{:?} for {} bytes", start.elapsed(), bytes.len());
    let code = |d: Option<&mdl::diagnostic::Diagnostic>| d.map_or("", |d| d.code);
    (checked.diagnostics.len(), code(checked.diagnostics.first()), code(checked.diagnostics.last()))
}

fn filled(line: &str) -> Vec<u8> {
    format!("FROM x\n{}", line.repeat(SIZE / line.len())).into_bytes()
}

#[test]
fn a_hundred_thousand_unknown_lines() {
    let text = "bogus x\n".repeat(100_000);
    assert_eq!(run(text.as_bytes()), (101, "unknown-instruction", "too-many-diagnostics"));
    let checked =
        modelfile::check(&MemoryWorld::default(), Path::new("/m"), "m", text.as_bytes()).diagnostics;
    assert_eq!(checked.last().unwrap().message, "and 99900 more errors");
}

#[test]
fn quotes_that_never_close() {
    let many = "too-many-diagnostics";
    assert_eq!(run("SYSTEM \"a\n".repeat(100_000).as_bytes()), (101, "unclosed-quote", many));
    assert_eq!(run(&filled("SYSTEM \"\"\"a\n")), (101, "unclosed-quote", many));
    assert_eq!(run(&filled("SYSTEM \"\"\"a\nSYSTEM \"b\" c\n")), (101, "unclosed-quote", many));
    assert_eq!(run(&filled("SYSTM \"\"\"a\nFROM x\n")).1, "unknown-instruction");
    assert_eq!(run(&filled("\"\"\"a\n")).1, "stray-text");
    assert_eq!(run(&filled("\"\"\"a\nFROM x\n")).1, "stray-text");
}

#[test]
fn quotes_and_blanks_without_end() {
    let quotes = "\"".repeat(SIZE);
    assert_eq!(run(format!("FROM x\nSYSTEM {quotes}\n").as_bytes()).0, 0);
    assert_eq!(run(format!("FROM x\nSYSTEM {quotes}x\n").as_bytes()).1, "unclosed-quote");
    let spaced = format!("\"{}", " ".repeat(1000)).repeat(SIZE / 1001);
    assert_eq!(run(format!("FROM x\nSYSTEM \"{spaced}x\n").as_bytes()).1, "unclosed-quote");
    let triples = format!("\"\"\"{}", " ".repeat(1000)).repeat(SIZE / 1003);
    assert_eq!(run(format!("FROM x\nSYSTEM {triples}x\n").as_bytes()).1, "unclosed-quote");
}

#[test]
fn lines_without_end() {
    let long = "x".repeat(SIZE);
    assert_eq!(run(long.as_bytes()).1, "unknown-instruction");
    assert_eq!(run(format!("FROM {long}").as_bytes()).0, 0);
    assert_eq!(run(format!("MESSAGE {long} y").as_bytes()).1, "unknown-role");
    assert_eq!(run(format!("FROM x\nPARAMETER {long} y").as_bytes()).1, "unknown-parameter");
    let digits = "9".repeat(SIZE);
    assert_eq!(run(format!("FROM x\nPARAMETER seed {digits}").as_bytes()).1, "invalid-parameter-value");
    assert_eq!(run(format!("FROM x\nPARAMETER top_p {digits}").as_bytes()).1, "invalid-parameter-value");
    assert_eq!(run(format!("FROM x\nREQUIRES {digits}").as_bytes()).1, "invalid-version");
    assert_eq!(run("FROM".repeat(SIZE / 4).as_bytes()).1, "unknown-instruction");
}

#[test]
fn nothing_without_end() {
    for blank in [" ", "\t", "\n", "\r", "\r\n", "\u{FEFF}", "\u{2028}", "#", "#\n"] {
        assert_eq!(run(blank.repeat(SIZE / 2).as_bytes()).1, "missing-from", "{blank:?}");
    }
}

#[test]
fn the_same_instruction_without_end() {
    let many = "too-many-diagnostics";
    assert_eq!(run(&filled("PARAMETER temperature abc\n")), (101, "invalid-parameter-value", many));
    assert_eq!(run(&filled("PARAMETER low_vram 1\n")), (101, "deprecated-parameter", many));
    assert_eq!(run(&filled("PARAMETER stop x\n")).0, 0);
    assert_eq!(run(&filled("PARAMETER seed 1\nPARAMETER seed 2\n")), (101, "overridden", many));
    assert_eq!(run(&filled("MESSAGE user x\n")), (101, "message-order", many));
    assert_eq!(run(&filled("SYSTEM \"a\nFROM b\"\n")).1, "instruction-in-value");
    assert_eq!(run(&filled("FROM y\n")).0, 1);
}

#[test]
fn bytes_that_are_no_text() {
    assert_eq!(run(&vec![0; SIZE]), (1, "nul-character", "nul-character"));
    assert_eq!(run(&[b"\xFF\xFE".as_slice(), &vec![0xD8; SIZE]].concat()).1, "invalid-utf16");
    assert_eq!(run(&vec![0x80; SIZE]).1, "invalid-utf8");
    assert_eq!(run(&vec![b'#'; modelfile::MAX_BYTES + 1]).1, "file-too-large");
}
