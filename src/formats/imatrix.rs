//! Importance matrices: for each weight, how much each of its columns matters.
//!
//! The importance of a column is the mean square of the activation that it is multiplied with.
//! Two formats hold it: GGUF of `general.type` `imatrix`, with `<tensor>.in_sum2` `[matrices,
//! columns]` and `<tensor>.counts` `[matrices, 1]`, whose quotient it is; and an older one, a list
//! of names with the mean times the number of calls. Both are read; the first is written.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use mdl_kernels::TensorType;

use super::cursor::Cursor;
use super::gguf::{Gguf, GgufWriter, Layout, MAGIC};
use super::quote::quoted;
use super::{TensorInfo, limits};
use crate::diagnostic::{Diagnostic, Result};
use crate::ir::{Metadata, Shape};
use crate::world::File;

/// For each tensor the importance of its columns; of a stack of matrices (experts), those of the
/// first matrix first.
pub type Importances = BTreeMap<String, Vec<f32>>;

/// Sums over what a matrix, or each matrix of a stack, was multiplied with.
#[derive(Clone, Debug, PartialEq)]
pub struct ColumnSums {
    cols: usize,
    /// Sums of squares, `[matrices, cols]`.
    sums: Vec<f64>,
    /// Tokens, for each matrix.
    counts: Vec<u64>,
}

impl ColumnSums {
    /// No sums yet, of matrices with so many columns.
    pub fn new(cols: usize) -> ColumnSums {
        ColumnSums { cols, sums: vec![0.0; cols], counts: vec![0] }
    }

    /// Adds the squares of columns `[n, cols]` that matrix `nth` of the stack is multiplied with.
    pub fn add(&mut self, nth: usize, columns: &[f32]) {
        self.reserve(nth + 1);
        let (Some(sums), Some(count)) =
            (self.sums.get_mut(nth * self.cols..(nth + 1) * self.cols), self.counts.get_mut(nth))
        else {
            return;
        };
        for column in columns.chunks_exact(self.cols.max(1)) {
            sums.iter_mut().zip(column).for_each(|(sum, x)| *sum += f64::from(*x) * f64::from(*x));
            *count += 1;
        }
    }

    /// Makes it the sums of a stack of at least so many matrices: of experts, some may see no token.
    pub fn reserve(&mut self, matrices: usize) {
        if matrices > self.counts.len() {
            self.sums.resize(matrices * self.cols, 0.0);
            self.counts.resize(matrices, 0);
        }
    }

    /// Sums of squares, `[matrices, cols]`.
    pub fn sums(&self) -> &[f64] {
        &self.sums
    }

    /// The tokens that each matrix of the stack has seen.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }
}

/// An importance matrix that was computed, to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct Collected {
    /// The texts, as they were named.
    pub datasets: Vec<String>,
    /// Chunks that were read.
    pub chunks: usize,
    /// Tokens of a chunk.
    pub context: usize,
    /// The sums, by the tensor's name.
    pub matrices: BTreeMap<String, ColumnSums>,
}

impl Collected {
    /// The first tensor with a sum that is not finite in float32.
    pub fn not_finite(&self) -> Option<&str> {
        let bad = |sums: &ColumnSums| sums.sums.iter().any(|v| !(*v as f32).is_finite());
        self.matrices.iter().find(|(_, sums)| bad(sums)).map(|(name, _)| name.as_str())
    }

    /// Writes it as GGUF, the tensors by name. The same sums give the same bytes.
    ///
    /// # Errors
    /// `out`, which errors call `place`, fails; a name is too long.
    pub fn write(&self, out: &mut dyn Write, place: &Path) -> Result<()> {
        let mut metadata = Metadata::default();
        let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        metadata.set("general.type", "imatrix");
        metadata.set("imatrix.datasets", self.datasets.clone());
        metadata.set("imatrix.chunk_count", small(self.chunks));
        metadata.set("imatrix.chunk_size", small(self.context));
        let tensors = self.matrices.iter().flat_map(|(name, sums)| {
            let n = sums.counts.len() as u64;
            let tensor = |end: &str, cols| (format!("{name}{end}"), Shape(vec![n, cols]), TensorType::F32);
            [tensor(".in_sum2", sums.cols as u64), tensor(".counts", 1)]
        });
        let layout = Layout::new(&metadata, tensors.collect())?;
        let failed = |e: std::io::Error| Diagnostic::io("write", place, &e);
        let mut writer = GgufWriter::new(out, layout).map_err(failed)?;
        for sums in self.matrices.values() {
            let counts = sums.counts.iter().map(|n| *n as f32);
            for values in [sums.sums.iter().map(|v| *v as f32).collect::<Vec<f32>>(), counts.collect()] {
                let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
                writer.write_data(&bytes).map_err(failed)?;
            }
        }
        writer.finish().map_err(failed)?;
        Ok(())
    }
}

/// Reads an importance matrix of either format; errors call the file `path`.
///
/// # Errors
/// The file is neither, is cut short, or has a value that is negative or not finite.
pub fn read(path: &Path, file: &dyn File) -> Result<Importances> {
    if file.len() > limits::IMATRIX {
        let message =
            format!("{} bytes of importance matrix; at most {} are read", file.len(), limits::IMATRIX);
        return Err(Diagnostic::error(message).code("file-too-large").in_file(path, "").into());
    }
    let mut magic = [0; 4];
    if file.len() >= 4 {
        file.read_at(0, &mut magic).map_err(|e| Diagnostic::io("read", path, &e))?;
    }
    let importances = if magic == MAGIC { read_gguf(path, file)? } else { read_legacy(path, file)? };
    if importances.is_empty() {
        return Err(Diagnostic::error("the importance matrix has no entries")
            .code("bad-imatrix")
            .in_file(path, "")
            .into());
    }
    Ok(importances)
}

fn wrong(path: &Path, tensor: &str, message: String) -> Diagnostic {
    Diagnostic::error(message).code("bad-imatrix").in_file(path, format!("tensor {}", quoted(tensor)))
}

fn check_value(path: &Path, tensor: &str, index: usize, value: f32) -> Result<()> {
    if value.is_finite() && value >= 0.0 {
        return Ok(());
    }
    Err(wrong(path, tensor, format!("value {index} is {value}; it must be a finite number of 0 or more"))
        .into())
}

fn read_gguf(path: &Path, file: &dyn File) -> Result<Importances> {
    let gguf = Gguf::read(path, file)?;
    if gguf.metadata.str("general.type") != Some("imatrix") {
        return Err(Diagnostic::error(
            "the GGUF file is no importance matrix: `general.type` must be `imatrix`",
        )
        .code("bad-imatrix")
        .in_file(path, "key `general.type`")
        .into());
    }
    let by_name: BTreeMap<&str, &TensorInfo> = gguf.tensors.iter().map(|t| (t.name.as_str(), t)).collect();
    let partner = |base: &str, end: &str| by_name.get(format!("{base}{end}").as_str()).copied();
    let mut importances = Importances::new();
    for tensor in &gguf.tensors {
        if let Some(base) = tensor.name.strip_suffix(".counts") {
            if partner(base, ".in_sum2").is_none() {
                return Err(
                    wrong(path, &tensor.name, "there is no `.in_sum2` to go with it".to_owned()).into()
                );
            }
            continue;
        }
        let Some(base) = tensor.name.strip_suffix(".in_sum2") else {
            let message = "the name ends neither in `.in_sum2` nor in `.counts`".to_owned();
            return Err(wrong(path, &tensor.name, message).into());
        };
        let Some(counts) = partner(base, ".counts") else {
            return Err(wrong(path, &tensor.name, "there is no `.counts` to go with it".to_owned()).into());
        };
        if counts.shape.len() != tensor.shape.rows() {
            let message = format!("{} counts for {} matrices", counts.shape.len(), tensor.shape.rows());
            return Err(wrong(path, &counts.name, message).into());
        }
        let mut values = floats(path, file, tensor)?;
        let counts = floats(path, file, counts)?;
        let columns = tensor.shape.cols() as usize;
        for (row, count) in values.chunks_exact_mut(columns).zip(counts) {
            // A matrix that saw no input, such as an expert never chosen: all columns are alike.
            match count {
                0.0 => row.fill(1.0),
                _ => row.iter_mut().for_each(|sum| *sum /= count),
            }
        }
        for (i, value) in values.iter().enumerate() {
            check_value(path, &tensor.name, i, *value)?;
        }
        importances.insert(base.to_owned(), values);
    }
    Ok(importances)
}

/// The values of an F32 tensor, each checked.
fn floats(path: &Path, file: &dyn File, tensor: &TensorInfo) -> Result<Vec<f32>> {
    if tensor.dtype != TensorType::F32 {
        return Err(wrong(path, &tensor.name, format!("type {}; F32 is expected", tensor.dtype)).into());
    }
    let mut bytes = vec![0; tensor.len as usize];
    file.read_at(tensor.offset, &mut bytes).map_err(|e| Diagnostic::io("read", path, &e))?;
    let values: Vec<f32> = bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    for (i, value) in values.iter().enumerate() {
        check_value(path, &tensor.name, i, *value)?;
    }
    Ok(values)
}

/// The older format: entry count i32; for each its name's length i32, its name, calls i32, value
/// count i32, values f32. After them may come the number of the last chunk and the data's name.
fn read_legacy(path: &Path, file: &dyn File) -> Result<Importances> {
    /// The least bytes of an entry: three numbers, one character, one value.
    const MIN_ENTRY: u64 = 4 + 1 + 4 + 4 + 4;
    let mut cursor = Cursor::new(path, file, limits::IMATRIX);
    let count = length(&mut cursor, MIN_ENTRY, "entries").map_err(|mut errors| {
        for error in &mut errors.0 {
            error.help.push("an importance matrix is made by `llama-imatrix`".to_owned());
        }
        errors
    })?;
    let mut importances = Importances::new();
    for i in 0..count {
        cursor.entry(format!("entry {i}"));
        let at = cursor.position();
        let len = length(&mut cursor, 1, "characters of a name")?;
        let name = cursor.text(at, len, limits::IMATRIX_NAME, "a tensor's name")?;
        cursor.entry(format!("tensor {}", quoted(&name)));
        let calls_at = cursor.position();
        let calls = cursor.i32()?;
        if calls < 0 {
            return Err(cursor
                .error_at(calls_at, format!("the number of calls is {calls}"))
                .code("bad-imatrix")
                .into());
        }
        let len = length(&mut cursor, 4, "values")?;
        let mut values = cursor.values(len, f32::from_le_bytes)?;
        for (i, value) in values.iter_mut().enumerate() {
            check_value(path, &name, i, *value)?;
            if calls > 0 {
                *value /= calls as f32;
            }
        }
        if importances.insert(name, values).is_some() {
            return Err(cursor.error_at(at, "the tensor is there twice").code("duplicate-tensor").into());
        }
    }
    cursor.entry(String::new());
    if cursor.left() > 0 {
        cursor.i32()?;
        let at = cursor.position();
        let len = cursor.i32()?;
        let len =
            u64::try_from(len).map_err(|_| cursor.error_at(at, "a negative length").code("bad-imatrix"))?;
        cursor.text(at, len, limits::IMATRIX_NAME * 64, "the data's name")?;
        if cursor.left() > 0 {
            return Err(cursor
                .error(format!("the file must end here; it has {} bytes", file.len()))
                .code("trailing-bytes")
                .into());
        }
    }
    Ok(importances)
}

/// A count of at least 1 whose items are there.
fn length(cursor: &mut Cursor<'_>, min_bytes: u64, what: &str) -> Result<u64> {
    let at = cursor.position();
    let count = cursor.i32()?;
    match u64::try_from(count) {
        Ok(count) if count > 0 => {
            cursor.require_items(at, count, min_bytes, what)?;
            Ok(count)
        }
        _ => Err(cursor
            .error_at(at, format!("{count} {what}; at least 1 is expected"))
            .code("bad-imatrix")
            .into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn what_is_written_is_read_again() {
        let mut plain = ColumnSums::new(2);
        plain.add(0, &[1.0, 2.0, 3.0, 4.0]);
        // Of four experts, one saw two tokens, one saw one, two saw none.
        let mut experts = ColumnSums::new(2);
        experts.add(2, &[1.0, 0.0, 2.0, 1.0]);
        experts.add(1, &[3.0, 3.0]);
        experts.reserve(4);
        assert_eq!((plain.counts(), experts.counts()), (&[2][..], &[0, 1, 2, 0][..]));
        let names = ["blk.0.attn_q.weight", "blk.0.ffn_up_exps.weight"].map(str::to_owned);
        let collected = Collected {
            datasets: vec!["a.txt".to_owned()],
            chunks: 3,
            context: 512,
            matrices: names.clone().into_iter().zip([plain, experts]).collect(),
        };
        let mut bytes = Vec::new();
        collected.write(&mut bytes, Path::new("out")).unwrap();
        let file: Arc<[u8]> = bytes.into();
        let read = read(Path::new("out"), &file).unwrap();
        assert_eq!(read[&names[0]], [5.0, 10.0]);
        assert_eq!(read[&names[1]], [1.0, 1.0, 9.0, 9.0, 2.5, 0.5, 1.0, 1.0]);
        let gguf = Gguf::read(Path::new("out"), &file).unwrap();
        assert_eq!(gguf.metadata.u64("imatrix.chunk_count"), Some(3));
        assert_eq!(gguf.metadata.u64("imatrix.chunk_size"), Some(512));
        assert_eq!(gguf.tensors[2].shape, Shape(vec![4, 2]));
    }

    #[test]
    fn sums_too_large_for_a_file_are_found() {
        let mut sums = ColumnSums::new(1);
        sums.add(0, &[1e25]);
        let matrices = [("m".to_owned(), sums)].into_iter().collect();
        let collected = Collected { datasets: Vec::new(), chunks: 1, context: 4, matrices };
        assert_eq!(collected.not_finite(), Some("m"));
    }
}
