//! An open document: its text, and what the compiler makes of it.

use std::ops::Range;
use std::path::{Path, PathBuf};

use lsp_types::Uri;
use url::Url;

use crate::modelfile::{Checked, Instruction, path};
use crate::pipeline;
use crate::world::World;

/// A Modelfile as the editor has it, saved or not.
pub(super) struct Document {
    pub uri: Uri,
    /// The editor's number of this state of it.
    pub version: i32,
    pub text: String,
    /// Where its paths start from.
    pub directory: PathBuf,
    pub checked: Checked,
}

impl Document {
    pub(super) fn new(world: &dyn World, uri: Uri, version: i32, text: String) -> Document {
        let path = file_of(&uri).unwrap_or_else(|| PathBuf::from("Modelfile"));
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let checked = pipeline::check(world, &directory, &path.display().to_string(), text.as_bytes());
        Document { uri, version, text, directory, checked }
    }

    /// Bytes of the document before what the tree's ranges are of: the byte order mark.
    fn mark(&self) -> usize {
        if self.text.starts_with('\u{FEFF}') { '\u{FEFF}'.len_utf8() } else { 0 }
    }

    /// A range of the tree as one of the document.
    pub(super) fn range(&self, range: &Range<usize>) -> Range<usize> {
        range.start + self.mark()..range.end + self.mark()
    }

    /// An offset in the document as one in the tree.
    pub(super) fn inside(&self, offset: usize) -> usize {
        offset.saturating_sub(self.mark())
    }

    /// The instruction at a byte of the tree.
    pub(super) fn instruction_at(&self, offset: usize) -> Option<&Instruction> {
        self.checked
            .ast
            .instructions()
            .find(|i| i.keyword_range.start <= offset && offset <= i.value.range.end)
    }

    /// The path that a value names, as the compiler reads it.
    pub(super) fn path(&self, world: &dyn World, value: &str) -> Option<PathBuf> {
        path::expand(world, &self.directory, value).ok()
    }
}

/// The file that a URI names.
fn file_of(uri: &Uri) -> Option<PathBuf> {
    Url::parse(uri.as_str()).ok()?.to_file_path().ok()
}

/// The URI of a file.
pub(super) fn uri_of(path: &Path) -> Option<Uri> {
    Url::from_file_path(path).ok()?.as_str().parse().ok()
}
