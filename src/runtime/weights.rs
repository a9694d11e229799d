//! The tensors of a model, as the runtime takes them.

use std::collections::HashMap;
use std::ops::{Deref, Range};
use std::sync::Arc;

use mdl_kernels::TensorType;
use mdl_kernels::map::Map;
use mdl_kernels::ops::matmul::Weight;

use crate::diagnostic::{Diagnostic, Errors, Result};
use crate::ir::Shape;

/// Bytes of a tensor: a range of a mapped file, or memory.
#[derive(Clone, Debug)]
pub struct Bytes {
    source: Source,
    range: Range<usize>,
}

#[derive(Clone, Debug)]
enum Source {
    Map(Arc<Map>),
    Memory(Arc<[u8]>),
}

impl Bytes {
    /// A part of them; `None` when it is not within.
    fn part(&self, part: Range<usize>) -> Option<Bytes> {
        let start = self.range.start.checked_add(part.start)?;
        let end = self.range.start.checked_add(part.end)?;
        (start <= end && end <= self.range.end)
            .then(|| Bytes { source: self.source.clone(), range: start..end })
    }

    /// A range of a mapped file; `None` when it is not within the file.
    pub fn mapped(map: &Arc<Map>, range: Range<usize>) -> Option<Bytes> {
        map.get(range.clone())?;
        Some(Bytes { source: Source::Map(map.clone()), range })
    }

    /// Gives the memory of mapped bytes back: they are read from the file again if they are needed again.
    /// Bytes in memory stay.
    pub fn release(&self) {
        /// The least page that a system has.
        const PAGE: usize = 4096;
        let Source::Map(map) = &self.source else { return };
        // A page that holds bytes of a neighbour stays.
        let (start, end) = (self.range.start.next_multiple_of(PAGE), self.range.end / PAGE * PAGE);
        if start < end {
            map.release(start..end);
        }
    }

    /// Bytes in memory.
    pub fn memory(bytes: impl Into<Arc<[u8]>>) -> Bytes {
        let bytes = bytes.into();
        Bytes { range: 0..bytes.len(), source: Source::Memory(bytes) }
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let whole: &[u8] = match &self.source {
            Source::Map(map) => map,
            Source::Memory(bytes) => bytes,
        };
        // The constructors check the range, and neither source changes its length.
        whole.get(self.range.clone()).unwrap_or(&[])
    }
}

/// A tensor of a model.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// GGUF's name: `blk.0.attn_q.weight`.
    pub name: String,
    /// Dimensions, outermost first.
    pub shape: Shape,
    /// How the bytes encode values.
    pub ty: TensorType,
    /// The values, row after row.
    pub bytes: Bytes,
}

/// A matrix that passed the checks of [`Weight::new`].
#[derive(Clone, Debug)]
pub struct Matrix {
    name: Arc<str>,
    ty: TensorType,
    rows: usize,
    cols: usize,
    bytes: Bytes,
}

impl Matrix {
    /// GGUF's name of the tensor.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How the bytes encode values.
    pub fn tensor_type(&self) -> TensorType {
        self.ty
    }

    /// The length of an output column.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The length of an input column.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes that are read to multiply with it.
    pub fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    /// A row, as float32.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, row: usize) -> Vec<f32> {
        let mut values = vec![0.0; self.cols];
        mdl_kernels::ops::row::dequantize_row(
            mdl_kernels::Level::current(),
            &self.weight(),
            row,
            &mut values,
        );
        values
    }

    /// Gives the memory of the bytes back; see [`Bytes::release`].
    pub fn release(&self) {
        self.bytes.release();
    }

    /// The weight for the kernels.
    pub fn weight(&self) -> Weight<'_> {
        match Weight::new(self.ty, self.rows, self.cols, &self.bytes) {
            Ok(weight) => weight,
            Err(e) => unreachable!("a matrix is checked when it is made: {e}"),
        }
    }
}

/// The tensors of a model by name; each is taken once.
pub struct Tensors {
    by_name: HashMap<String, Tensor>,
}

impl Tensors {
    /// A table of these tensors.
    ///
    /// # Errors
    /// Two have one name.
    pub fn new(tensors: impl IntoIterator<Item = Tensor>) -> Result<Tensors> {
        let mut by_name = HashMap::new();
        for tensor in tensors {
            if let Some(twice) = by_name.insert(tensor.name.clone(), tensor) {
                return Err(wrong(&twice.name, "is there twice"));
            }
        }
        Ok(Tensors { by_name })
    }

    /// True when a tensor with this name has not been taken yet.
    pub fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// Takes a matrix `[rows, cols]`.
    ///
    /// # Errors
    /// There is none, it has another shape, or a type that nothing multiplies.
    pub fn matrix(&mut self, name: &str, rows: usize, cols: usize) -> Result<Matrix> {
        let tensor = self.take(name, &[rows as u64, cols as u64])?;
        let Tensor { ty, bytes, .. } = tensor;
        Weight::new(ty, rows, cols, &bytes).map_err(|e| wrong(name, &format!("cannot be executed: {e}")))?;
        Ok(Matrix { name: name.into(), ty, rows, cols, bytes })
    }

    /// Takes the `count` matrices `[rows, cols]` of a tensor `[count, rows, cols]`.
    ///
    /// # Errors
    /// As [`Tensors::matrix`].
    pub fn matrices(&mut self, name: &str, count: usize, rows: usize, cols: usize) -> Result<Vec<Matrix>> {
        let Tensor { ty, bytes, .. } = self.take(name, &[count as u64, rows as u64, cols as u64])?;
        let size = bytes.len() / count.max(1);
        let label: Arc<str> = name.into();
        let one = |i: usize| {
            let part = bytes.part(i * size..(i + 1) * size).ok_or_else(|| wrong(name, "is too short"))?;
            Weight::new(ty, rows, cols, &part)
                .map_err(|e| wrong(name, &format!("cannot be executed: {e}")))?;
            Ok(Matrix { name: label.clone(), ty, rows, cols, bytes: part })
        };
        (0..count).map(one).collect()
    }

    /// The outermost dimension of a tensor that has not been taken yet.
    pub fn rows(&self, name: &str) -> Option<usize> {
        self.by_name.get(name)?.shape.0.first().and_then(|n| usize::try_from(*n).ok())
    }

    /// Takes a vector of `len` values, as float32.
    ///
    /// # Errors
    /// There is none, it has another shape, is quantized, or has a value that is not finite.
    pub fn vector(&mut self, name: &str, len: usize) -> Result<Arc<[f32]>> {
        let tensor = self.take(name, &[len as u64])?;
        if !matches!(tensor.ty, TensorType::F32 | TensorType::F16 | TensorType::BF16) {
            return Err(wrong(name, &format!("is of type {}, but a vector is of floats", tensor.ty)));
        }
        let weight =
            Weight::new(tensor.ty, 1, len, &tensor.bytes).map_err(|e| wrong(name, &e.to_string()))?;
        let mut values = vec![0.0; len];
        mdl_kernels::ops::row::dequantize_row(mdl_kernels::Level::Portable, &weight, 0, &mut values);
        match values.iter().position(|v| !v.is_finite()) {
            Some(at) => Err(wrong(name, &format!("value {at} is {}", values[at]))),
            None => Ok(values.into()),
        }
    }

    fn take(&mut self, name: &str, shape: &[u64]) -> Result<Tensor> {
        let Some(tensor) = self.by_name.remove(name) else {
            return Err(wrong(name, "is missing"));
        };
        if tensor.shape.0 != shape {
            let needed = Shape(shape.to_vec());
            return Err(wrong(name, &format!("has shape {}, but the model needs {needed}", tensor.shape)));
        }
        Ok(tensor)
    }

    /// What has not been taken, sorted.
    pub fn left(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.by_name.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }
}

fn wrong(name: &str, what: &str) -> Errors {
    Diagnostic::error(format!("tensor `{name}` {what}")).code("invalid-model").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(name: &str, shape: &[u64], ty: TensorType, bytes: Vec<u8>) -> Tensor {
        Tensor { name: name.to_owned(), shape: Shape(shape.to_vec()), ty, bytes: Bytes::memory(bytes) }
    }

    #[test]
    fn what_is_taken_is_checked() {
        let tensors = [
            tensor("a", &[2, 32], TensorType::Q4_0, vec![0; 36]),
            tensor("b", &[2, 32], TensorType::Q4_0, vec![0; 35]),
            tensor(
                "c",
                &[2],
                TensorType::F32,
                [1f32, f32::NAN].iter().flat_map(|v| v.to_le_bytes()).collect(),
            ),
            tensor("d", &[32], TensorType::Q4_0, vec![0; 18]),
            tensor("e", &[2], TensorType::BF16, vec![0x80, 0x3f, 0, 0xc0]),
            tensor("f", &[1], TensorType::F32, vec![0; 4]),
        ];
        let mut tensors = Tensors::new(tensors).unwrap();
        let mut messages = Vec::new();
        let mut note = |e: Option<Errors>| messages.push(e.map_or("ok".to_owned(), |e| e.to_string()));
        note(tensors.matrix("a", 32, 2).err());
        note(tensors.matrix("a", 2, 32).err());
        note(tensors.matrix("b", 2, 32).err());
        note(tensors.vector("c", 2).err());
        note(tensors.vector("d", 32).err());
        assert_eq!(&*tensors.vector("e", 2).unwrap(), [1.0, -2.0]);
        assert_eq!(tensors.left(), ["f"]);
        assert_eq!(
            messages,
            [
                "tensor `a` has shape [2, 32], but the model needs [32, 2]",
                "tensor `a` is missing",
                "tensor `b` cannot be executed: 35 bytes where the shape takes 36",
                "tensor `c` value 1 is NaN",
                "tensor `d` is of type Q4_0, but a vector is of floats",
            ]
        );
        let twice = ["a", "a"].map(|n| tensor(n, &[1], TensorType::F32, vec![0; 4]));
        assert!(Tensors::new(twice).is_err());
    }

    #[test]
    fn a_mapped_range_lies_in_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"weights").unwrap();
        let map = Arc::new(Map::open(file.path()).unwrap());
        assert_eq!(&*Bytes::mapped(&map, 2..5).unwrap(), b"igh");
        assert!(Bytes::mapped(&map, 2..8).is_none());
    }

    #[test]
    fn released_bytes_are_read_again() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let written: Vec<u8> = (0..20_000u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(file.path(), &written).unwrap();
        let map = Arc::new(Map::open(file.path()).unwrap());
        for range in [0..0, 10..20, 0..20_000, 5000..9000, 4096..8192, 100..19_999] {
            let bytes = Bytes::mapped(&map, range.clone()).unwrap();
            bytes.release();
            assert_eq!(*bytes, written[range]);
        }
        let memory = Bytes::memory(written.clone());
        memory.release();
        assert_eq!(*memory, written[..]);
    }
}
