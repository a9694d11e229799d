//! The buffers of a region, and who may touch what of them.

use std::cell::UnsafeCell;
use std::ops::Range;

use super::Grid;
use crate::ops::activation::ActivationBlock;
use crate::ops::matmul::Columns;

/// The number of a plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PlaneId(pub usize);

/// What the values of a plane are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    F32,
    F16,
    Blocks,
}

impl Kind {
    /// Bytes of one value.
    pub const fn bytes(self) -> usize {
        match self {
            Kind::F32 => 4,
            Kind::F16 => 2,
            Kind::Blocks => size_of::<ActivationBlock>(),
        }
    }
}

enum Data {
    F32(Vec<f32>),
    F16(Vec<u16>),
    Blocks(Vec<ActivationBlock>),
}

/// A buffer of `columns` times `width` values; a column is contiguous.
struct Plane {
    data: UnsafeCell<Data>,
    kind: Kind,
    columns: usize,
    width: usize,
}

// SAFETY: a plane is changed only through `&mut Planes`, or in a region through tiles that do not
// overlap while nobody reads the plane (see `run`).
unsafe impl Sync for Plane {}

/// The buffers of a program.
#[derive(Default)]
pub struct Planes {
    planes: Vec<Plane>,
}

/// The memory for a plane was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory {
    /// Bytes that were asked for; `None` when the number does not fit.
    pub bytes: Option<usize>,
}

/// Zeros that take memory only once they are touched: a cache may be much larger than what is used of it.
fn zeroed<T: bytemuck::Zeroable>(len: usize) -> Option<Vec<T>> {
    bytemuck::allocation::try_zeroed_vec(len).ok()
}

impl Planes {
    /// Adds a plane of zeros.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn add(&mut self, kind: Kind, columns: usize, width: usize) -> Result<PlaneId, OutOfMemory> {
        let bytes = columns.checked_mul(width).and_then(|n| n.checked_mul(kind.bytes()));
        let error = OutOfMemory { bytes };
        let len = bytes.ok_or(error)? / kind.bytes();
        let data = match kind {
            Kind::F32 => zeroed(len).map(Data::F32),
            Kind::F16 => zeroed(len).map(Data::F16),
            Kind::Blocks => zeroed(len).map(Data::Blocks),
        };
        let data = UnsafeCell::new(data.ok_or(error)?);
        self.planes.push(Plane { data, kind, columns, width });
        Ok(PlaneId(self.planes.len() - 1))
    }

    /// The values of a plane of float32, `[columns, width]`.
    ///
    /// # Panics
    /// If the plane is none of float32.
    pub fn f32(&mut self, id: PlaneId) -> &mut [f32] {
        match self.planes[id.0].data.get_mut() {
            Data::F32(v) => v,
            _ => panic!("plane {} holds no float32", id.0),
        }
    }

    /// The values of a plane of half precision, `[columns, width]`.
    ///
    /// # Panics
    /// If the plane is none of half precision.
    pub fn f16(&mut self, id: PlaneId) -> &mut [u16] {
        match self.planes[id.0].data.get_mut() {
            Data::F16(v) => v,
            _ => panic!("plane {} holds no half precision", id.0),
        }
    }

    /// Where the values of a plane are that a region writes by `grid`. The vector is not touched until the
    /// region ends, only what it points to.
    ///
    /// # Panics
    /// If the grid is not within the plane.
    pub(super) fn output(&mut self, id: PlaneId, grid: &Grid) -> Pointer {
        let plane = &mut self.planes[id.0];
        assert!(
            grid.columns.start <= grid.columns.end
                && grid.columns.end <= plane.columns
                && grid.rows.start <= grid.rows.end
                && grid.rows.end <= plane.width
                && grid.tile_columns > 0
                && grid.tile_rows > 0,
            "a grid lies in its plane of {:?}",
            plane.kind
        );
        match plane.data.get_mut() {
            Data::F32(v) => Pointer::F32(v.as_mut_ptr()),
            Data::F16(v) => Pointer::F16(v.as_mut_ptr()),
            Data::Blocks(v) => Pointer::Blocks(v.as_mut_ptr()),
        }
    }
}

/// What an operation reads: every plane but the one it writes.
pub struct Reader<'a> {
    planes: &'a Planes,
    output: PlaneId,
}

impl<'a> Reader<'a> {
    pub(super) fn new(planes: &'a Planes, output: PlaneId) -> Reader<'a> {
        Reader { planes, output }
    }

    fn data(&self, id: PlaneId) -> &'a Data {
        assert_ne!(id, self.output, "an operation cannot read the plane it writes");
        // SAFETY: in this operation only tiles of `output` are changed, and `id` is another plane;
        // barriers order this after the operation that wrote it and before the next that does.
        unsafe { &*self.planes.planes[id.0].data.get() }
    }

    /// The values of a plane of float32, `[columns, width]`.
    ///
    /// # Panics
    /// If the plane is the output, or none of float32.
    pub fn f32(&self, id: PlaneId) -> &'a [f32] {
        match self.data(id) {
            Data::F32(v) => v,
            _ => panic!("plane {} holds no float32", id.0),
        }
    }

    /// The values of a plane of half precision, `[columns, width]`.
    ///
    /// # Panics
    /// If the plane is the output, or none of half precision.
    pub fn f16(&self, id: PlaneId) -> &'a [u16] {
        match self.data(id) {
            Data::F16(v) => v,
            _ => panic!("plane {} holds no half precision", id.0),
        }
    }

    /// The values of a plane of activations, `[columns, width]`.
    ///
    /// # Panics
    /// If the plane is the output, or none of activations.
    pub fn blocks(&self, id: PlaneId) -> &'a [ActivationBlock] {
        match self.data(id) {
            Data::Blocks(v) => v,
            _ => panic!("plane {} holds no activations", id.0),
        }
    }

    /// Values in a column of a plane.
    pub fn width(&self, id: PlaneId) -> usize {
        self.planes.planes[id.0].width
    }
}

/// A rectangle of the output plane, this thread's alone.
pub struct Tile<'a> {
    plane: &'a Plane,
    data: Pointer,
    /// The columns of the plane that the tile covers.
    pub columns: Range<usize>,
    /// The values of each column that the tile covers.
    pub rows: Range<usize>,
}

/// The first value of a plane that a region writes.
#[derive(Clone, Copy)]
pub(super) enum Pointer {
    F32(*mut f32),
    F16(*mut u16),
    Blocks(*mut ActivationBlock),
}

// SAFETY: it is dereferenced only through tiles, which do not overlap.
unsafe impl Sync for Pointer {}
// SAFETY: as above.
unsafe impl Send for Pointer {}

impl<'a> Tile<'a> {
    /// # Safety
    /// `data` is that of the plane, the columns and rows lie in it, and nobody else has any of them while
    /// the tile lives.
    pub(super) unsafe fn new(
        planes: &'a Planes,
        plane: PlaneId,
        data: Pointer,
        columns: Range<usize>,
        rows: Range<usize>,
    ) -> Tile<'a> {
        Tile { plane: &planes.planes[plane.0], data, columns, rows }
    }
    /// The first value of column `c` of the tile, counted in the plane.
    fn start(&self, c: usize) -> usize {
        assert!(c < self.columns.len(), "column {c} of a tile of {}", self.columns.len());
        (self.columns.start + c) * self.plane.width + self.rows.start
    }

    /// The rows of column `columns.start + c`.
    ///
    /// # Panics
    /// If there is no such column, or the plane is none of float32.
    pub fn f32(&mut self, c: usize) -> &mut [f32] {
        let start = self.start(c);
        let Pointer::F32(data) = self.data else { panic!("the tile holds no float32") };
        // SAFETY: the range lies in the plane (`run` checks the grid) and in no other tile.
        unsafe { std::slice::from_raw_parts_mut(data.add(start), self.rows.len()) }
    }

    /// As [`Tile::f32`], of half precision.
    ///
    /// # Panics
    /// If there is no such column, or the plane is none of half precision.
    pub fn f16(&mut self, c: usize) -> &mut [u16] {
        let start = self.start(c);
        let Pointer::F16(data) = self.data else { panic!("the tile holds no half precision") };
        // SAFETY: as in `f32`.
        unsafe { std::slice::from_raw_parts_mut(data.add(start), self.rows.len()) }
    }

    /// As [`Tile::f32`], of activations.
    ///
    /// # Panics
    /// If there is no such column, or the plane is none of activations.
    pub fn blocks(&mut self, c: usize) -> &mut [ActivationBlock] {
        let start = self.start(c);
        let Pointer::Blocks(data) = self.data else { panic!("the tile holds no activations") };
        // SAFETY: as in `f32`.
        unsafe { std::slice::from_raw_parts_mut(data.add(start), self.rows.len()) }
    }
}

impl Columns for Tile<'_> {
    fn column(&mut self, c: usize) -> &mut [f32] {
        self.f32(c)
    }
}
