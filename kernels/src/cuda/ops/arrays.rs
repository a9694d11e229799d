//! Floats, blocks and indices in a device's memory.

use crate::cuda::{CudaError, Device, Memory, Pinned, Stream};

/// Float32 in columns, `[columns, width]`.
#[derive(Clone)]
pub struct Floats {
    pub(super) memory: Memory,
    /// Values of a column.
    pub width: usize,
    /// Columns there is room for.
    pub columns: usize,
}

impl Floats {
    /// Room for so many columns, all 0.
    ///
    /// # Errors
    /// There is no memory for them, or the driver fails.
    pub fn zeroed(device: &Device, columns: usize, width: usize) -> Result<Floats, CudaError> {
        let bytes = columns.saturating_mul(width).saturating_mul(size_of::<f32>());
        Ok(Floats { memory: Memory::zeroed(device, bytes)?, width, columns })
    }

    /// One column with these values.
    ///
    /// # Errors
    /// As [`Floats::zeroed`].
    pub fn of(device: &Device, stream: &Stream, values: &[f32]) -> Result<Floats, CudaError> {
        let floats = Floats::zeroed(device, 1, values.len())?;
        stream.upload(bytemuck::cast_slice(values), &floats.memory, 0)?;
        Ok(floats)
    }

    /// Reads the first values, in order.
    ///
    /// # Errors
    /// The driver fails, or something that was queued did.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn read(&self, stream: &Stream, to: &mut [f32]) -> Result<(), CudaError> {
        stream.download(&self.memory, 0, bytemuck::cast_slice_mut(to))
    }

    /// The same floats as columns of another width; what is left at the end is not used.
    ///
    /// # Panics
    /// If the width is 0.
    pub fn reshaped(&self, width: usize) -> Floats {
        Floats { memory: self.memory.clone(), width, columns: self.columns * self.width / width }
    }

    /// Panics if there is not so much.
    pub(super) fn check(&self, columns: usize, width: usize) {
        assert!(columns <= self.columns && width == self.width, "{columns} columns of {width} floats");
    }

    pub(super) fn bytes_to(&self, column: usize) -> usize {
        column * self.width * size_of::<f32>()
    }
}

/// Columns of int8 blocks, as `kernels/cuda/activations.cuh` lays them out.
#[derive(Clone)]
pub struct Blocks {
    pub(super) q: Memory,
    pub(super) meta: Memory,
    /// Values of a column, a multiple of 32.
    pub width: usize,
    /// Columns there is room for, a multiple of eight.
    pub columns: usize,
}

impl Blocks {
    /// Room for so many columns.
    ///
    /// # Errors
    /// There is no memory for them, or the driver fails.
    ///
    /// # Panics
    /// If a column is no whole number of blocks.
    pub fn zeroed(device: &Device, columns: usize, width: usize) -> Result<Blocks, CudaError> {
        assert!(width.is_multiple_of(32), "blocks have 32 values");
        let columns = columns.next_multiple_of(8);
        let bytes = columns.saturating_mul(width);
        let (q, meta) = (Memory::zeroed(device, bytes)?, Memory::zeroed(device, bytes / 4)?);
        Ok(Blocks { q, meta, width, columns })
    }

    pub(super) fn check(&self, columns: usize, width: usize) {
        assert!(
            columns <= self.columns && width == self.width,
            "{columns} columns of {width} values in blocks"
        );
    }
}

/// Where a result goes: to floats, or to blocks that it is rounded to.
#[derive(Clone, Copy)]
pub enum Output<'a> {
    /// As it is.
    Floats(&'a Floats),
    /// In blocks.
    Blocks(&'a Blocks),
}

impl Output<'_> {
    pub(super) fn check(&self, columns: usize, width: usize) {
        match self {
            Output::Floats(floats) => floats.check(columns, width),
            Output::Blocks(blocks) => blocks.check(columns, width),
        }
    }

    pub(super) fn floats(&self) -> Option<&Memory> {
        match self {
            Output::Floats(floats) => Some(&floats.memory),
            Output::Blocks(_) => None,
        }
    }

    pub(super) fn blocks(&self) -> Option<&Blocks> {
        match self {
            Output::Blocks(blocks) => Some(blocks),
            Output::Floats(_) => None,
        }
    }
}

/// Numbers that a step begins with, in one piece of memory that one copy brings to the device.
pub struct Inputs {
    memory: Memory,
    host: Pinned,
    bounds: Vec<Bound>,
    /// Bytes up to the last that was written since the last [`Inputs::send`].
    used: usize,
}

/// What the numbers of a field are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Floats.
    Floats,
    /// Indices, each less than this.
    Below(u32),
    /// Pairs of a first column and how many, of so many columns.
    Tiles(u32),
}

/// A field of [`Inputs`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bound {
    /// Its first byte.
    at: usize,
    /// Numbers of four bytes.
    len: usize,
    kind: Kind,
}

/// A field of [`Inputs`] on the device. Whatever is put there later keeps to the same bound, so that a recorded kernel
/// stays within its memory.
#[derive(Clone)]
pub struct Field {
    pub(super) memory: Memory,
    pub(super) at: usize,
    pub(super) len: usize,
    pub(super) kind: Kind,
}

impl Inputs {
    /// Fields of so many numbers of each kind, all 0.
    ///
    /// # Errors
    /// There is no memory for them, or the driver fails.
    pub fn zeroed(device: &Device, fields: &[(usize, Kind)]) -> Result<Inputs, CudaError> {
        let mut bytes = 0usize;
        let mut bounds = Vec::new();
        for (len, kind) in fields {
            bounds.push(Bound { at: bytes, len: *len, kind: *kind });
            bytes = bytes.saturating_add(len.saturating_mul(4)).next_multiple_of(16);
        }
        Ok(Inputs {
            memory: Memory::zeroed(device, bytes)?,
            host: Pinned::zeroed(device, bytes)?,
            bounds,
            used: 0,
        })
    }

    /// Field `i` on the device.
    ///
    /// # Panics
    /// If there is none.
    pub fn field(&self, i: usize) -> Field {
        let Bound { at, len, kind } = self.bounds[i];
        Field { memory: self.memory.clone(), at, len, kind }
    }

    /// Writes the first indices of field `i`, for the next [`Inputs::send`].
    ///
    /// # Panics
    /// If one is not below the field's bound, or there are more than it holds.
    pub fn set(&mut self, i: usize, values: impl IntoIterator<Item = u32>) {
        let Kind::Below(below) = self.bounds[i].kind else { panic!("a field of indices") };
        let to = self.numbers(i);
        let mut count = 0;
        for value in values {
            assert!(value < below, "an index is below its bound");
            to[count] = value;
            count += 1;
        }
        self.use_first(i, count);
    }

    /// Writes the first tiles of field `i`: the first column of each, and how many.
    ///
    /// # Panics
    /// If one is beyond the columns, or there are more than it holds.
    pub fn set_tiles(&mut self, i: usize, tiles: impl IntoIterator<Item = (u32, u32)>) {
        let Kind::Tiles(columns) = self.bounds[i].kind else { panic!("a field of tiles") };
        let to = self.numbers(i).as_chunks_mut().0;
        let mut written = 0;
        for (first, count) in tiles {
            assert!(first < columns && count <= columns - first, "a tile is of the columns");
            to[written] = [first, count];
            written += 1;
        }
        self.use_first(i, 2 * written);
    }

    /// Writes the first floats of field `i`.
    ///
    /// # Panics
    /// If the field is not of floats, or there are more than it holds.
    pub fn set_floats(&mut self, i: usize, values: &[f32]) {
        assert_eq!(self.bounds[i].kind, Kind::Floats, "a field of floats");
        let to: &mut [f32] = bytemuck::cast_slice_mut(self.numbers(i));
        to[..values.len()].copy_from_slice(values);
        self.use_first(i, values.len());
    }

    /// Notes that the first numbers of a field were written.
    fn use_first(&mut self, i: usize, count: usize) {
        self.used = self.used.max(self.bounds[i].at + 4 * count);
    }

    fn numbers(&mut self, i: usize) -> &mut [u32] {
        let Bound { at, len, .. } = self.bounds[i];
        bytemuck::cast_slice_mut(&mut self.host.bytes_mut()[at..at + 4 * len])
    }

    /// Copies it to the device up to the last number that was written, after what is queued: a long field that is seldom
    /// full is best the last.
    ///
    /// # Errors
    /// The driver fails.
    pub fn send(&mut self, stream: &Stream) -> Result<(), CudaError> {
        let used = std::mem::take(&mut self.used);
        stream.upload(&self.host.bytes()[..used], &self.memory, 0)
    }
}

impl Field {
    /// From index `from` on.
    pub(super) fn from(&self, from: usize) -> Field {
        assert!(from <= self.len, "within the field");
        Field { at: self.at + 4 * from, len: self.len - from, ..self.clone() }
    }

    /// Panics if there are not so many indices, all below this.
    pub(super) fn check(&self, len: usize, below: usize) {
        let within = matches!(self.kind, Kind::Below(own) if own as usize <= below);
        assert!(len <= self.len && within, "indices of what is there");
    }

    pub(super) fn check_tiles(&self, len: usize, columns: usize) {
        let within = matches!(self.kind, Kind::Tiles(own) if own as usize <= columns);
        assert!(2 * len <= self.len && within, "tiles of the columns");
    }

    pub(super) fn check_floats(&self, len: usize) {
        assert!(len <= self.len && self.kind == Kind::Floats, "{len} floats");
    }
}
