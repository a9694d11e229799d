//! What is shown of adapters.

use super::table;
use crate::codegen::{self, Moved};
use crate::diagnostic::Result;
use crate::ir::Module;

/// For each adapter, how much it moves each tensor: the norm of what it adds over the norm of what was
/// there.
///
/// # Errors
/// A source cannot be read.
pub(super) fn movement(module: &Module) -> Result<String> {
    let mut text = String::new();
    for (adapter, moved) in module.adapters.iter().zip(codegen::movement(module)?) {
        let mut rows: Vec<Vec<String>> =
            moved.iter().map(|m| vec![m.tensor.clone(), percent(m.by, m.of)]).collect();
        let root = |of: fn(&Moved) -> f64| moved.iter().map(|m| of(m).powi(2)).sum::<f64>().sqrt();
        rows.push(vec!["all of them".to_owned(), percent(root(|m| m.by), root(|m| m.of))]);
        let table = table::columns(&["TENSOR", "MOVED"], &rows);
        text.push_str(&format!("adapter {}\n{table}\n", adapter.path.display()));
    }
    Ok(text)
}

fn percent(by: f64, of: f64) -> String {
    if of == 0.0 { "from 0".to_owned() } else { format!("{:.3} %", 100.0 * by / of) }
}
