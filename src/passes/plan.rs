//! Prints a module after a pass: what `--emit plan` shows.

use std::fmt::Write as _;

use crate::ir::{Array, Expr, Module, Value};

/// The module after `pass`: files, metadata, and for each tensor its shape, its expression, bytes
/// read and bytes written.
pub fn print(pass: &str, module: &Module) -> String {
    let mut out = format!("== {pass}\n");
    for (i, file) in module.files.iter().enumerate() {
        let name = file.path.file_name().unwrap_or(file.path.as_os_str()).to_string_lossy();
        // Writing to a String does not fail.
        let _ = writeln!(out, "file #{i} {name} {} bytes", file.file.len());
    }
    for text in &module.texts {
        let _ = writeln!(out, "text {} {} bytes", text.name, text.bytes.len());
    }
    for (key, value) in module.metadata.iter() {
        let _ = writeln!(out, "meta {key} = {}", short(value));
    }
    let mut total = (0u64, 0u64);
    for tensor in &module.tensors {
        let (read, written) = bytes(&tensor.expr);
        total = (total.0.saturating_add(read), total.1.saturating_add(written));
        let _ = writeln!(
            out,
            "tensor {} {} {} : {} -> {} bytes",
            tensor.name,
            tensor.shape(),
            tensor.expr,
            read,
            written
        );
    }
    for adapter in &module.adapters {
        let kept = if module.unfused { ", kept beside the model" } else { "" };
        let _ = writeln!(out, "adapter {} changes{kept}", adapter.changes.len());
    }
    let _ = writeln!(
        out,
        "{} tensors, {} parameters : {} -> {} bytes",
        module.tensors.len(),
        module.parameter_count(),
        total.0,
        total.1
    );
    out
}

/// Bytes an expression reads and writes.
pub fn bytes(expr: &Expr) -> (u64, u64) {
    let read = expr.loads().into_iter().fold(0u64, |sum, load| match load {
        Expr::Load { len, .. } => sum.saturating_add(*len),
        _ => sum,
    });
    (read, expr.byte_len().unwrap_or(0))
}

fn short(value: &Value) -> String {
    match value {
        Value::String(s) if s.chars().count() > 60 => {
            let start: String = s.chars().take(60).collect();
            format!("{start:?}... {} bytes", s.len())
        }
        Value::String(s) => format!("{s:?}"),
        Value::Array(a) => format!("[{} {}]", a.len(), element_name(a)),
        Value::F32(v) => v.to_string(),
        Value::F64(v) => v.to_string(),
        Value::Bool(v) => v.to_string(),
        Value::I8(v) => v.to_string(),
        Value::I16(v) => v.to_string(),
        Value::I32(v) => v.to_string(),
        Value::I64(v) => v.to_string(),
        other => other.as_u64().map_or_else(String::new, |v| v.to_string()),
    }
}

fn element_name(array: &Array) -> String {
    format!("{:?}", array.element_type()).to_lowercase()
}
