//! Collects diagnostics, and bounds how many are kept.

use crate::diagnostic::{Diagnostic, Location, Severity};

/// Errors kept, and warnings kept; more are only counted.
pub(super) const LIMIT: usize = 100;

/// The diagnostics of one run. A diagnostic beyond the limit is not even built, so a file of
/// nothing but mistakes costs no more than any other.
#[derive(Default)]
pub(super) struct Reports {
    errors: Vec<Diagnostic>,
    warnings: Vec<Diagnostic>,
    more_errors: usize,
    more_warnings: usize,
}

impl Reports {
    /// Reports an error.
    pub fn error(&mut self, diagnostic: impl FnOnce() -> Diagnostic) {
        add(&mut self.errors, &mut self.more_errors, diagnostic);
    }

    /// Reports a warning.
    pub fn warning(&mut self, diagnostic: impl FnOnce() -> Diagnostic) {
        add(&mut self.warnings, &mut self.more_warnings, diagnostic);
    }

    /// The diagnostics in the order of their places, then how many were left out.
    pub fn finish(self) -> Vec<Diagnostic> {
        let mut all = self.errors;
        all.extend(self.warnings);
        all.sort_by_key(|d| match &d.location {
            Some(Location::Text(span)) => span.range.start,
            _ => 0,
        });
        for (count, what) in [(self.more_errors, "error"), (self.more_warnings, "warning")] {
            if count > 0 {
                let plural = if count == 1 { "" } else { "s" };
                let mut note = Diagnostic::warning(format!("and {count} more {what}{plural}"));
                note.severity = Severity::Note;
                all.push(note.code("too-many-diagnostics"));
            }
        }
        all
    }
}

fn add(list: &mut Vec<Diagnostic>, more: &mut usize, diagnostic: impl FnOnce() -> Diagnostic) {
    if list.len() < LIMIT {
        list.push(diagnostic());
    } else {
        *more += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_warnings_do_not_hide_an_error() {
        let mut reports = Reports::default();
        for _ in 0..250 {
            reports.warning(|| Diagnostic::warning("w"));
        }
        reports.error(|| Diagnostic::error("e"));
        let all = reports.finish();
        assert_eq!(all.len(), LIMIT + 2);
        assert_eq!(all.iter().filter(|d| d.severity == Severity::Error).count(), 1);
        assert_eq!(all.last().unwrap().message, "and 150 more warnings");
    }
}
