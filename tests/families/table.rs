//! The table of families in the README is the list of the code.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use mdl::families::FAMILIES;

use crate::fixture::Fixture;

fn table() -> String {
    let mut text = String::from("| GGUF architecture | checkpoints |\n|---|---|\n");
    for family in FAMILIES {
        let _ = writeln!(text, "| {} | {} |", family.architecture, family.checkpoints.join(", "));
    }
    text
}

#[test]
fn the_readme_has_the_table_of_families() {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    assert!(readme.contains(&table()), "README.md should have this table:\n{}", table());
}

#[test]
fn every_kind_of_checkpoint_has_a_fixture() {
    /// Other names for what a fixture has.
    const SAME: &[&str] = &["Qwen2Model", "Qwen3Model", "BertForMaskedLM"];
    let tested: BTreeSet<String> = Fixture::all().iter().filter_map(Fixture::architecture).collect();
    let known: BTreeSet<&str> = FAMILIES.iter().flat_map(|f| f.checkpoints).copied().collect();
    let missing: Vec<&&str> =
        known.iter().filter(|name| !tested.contains(**name) && !SAME.contains(name)).collect();
    assert!(missing.is_empty(), "no fixture of {missing:?}");
}
