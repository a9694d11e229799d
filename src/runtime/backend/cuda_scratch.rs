//! Room on a GPU for what lies between kernels of one operation.

use mdl_kernels::cuda::ops::{self, Floats};
use mdl_kernels::cuda::{CudaError, Memory};

use super::cuda::Shared;
use crate::runtime::program::{Element, MatrixId, Op, Room};

/// Columns whose parts of attention there is room for; more go one lot after the other.
pub(super) const PARTS: usize = 32;

/// Room for what lies between kernels of one operation.
pub(super) struct Scratch {
    /// Gate and up, or a result before it becomes blocks: of any width.
    pub floats: Floats,
    pub queries: Floats,
    /// Factors of norms over all heads.
    pub factors: [Floats; 2],
    pub parts: Memory,
    pub counters: Memory,
    /// Columns in half precision.
    pub narrow: Option<Memory>,
    /// Pairs of columns and experts, and where each expert's begin.
    pub order: Option<[Memory; 2]>,
    /// Not 0 where a result is not finite.
    pub flag: Memory,
}

/// Sizes of the scratch of a room.
struct Sizes {
    columns: usize,
    widest: usize,
    queries: usize,
    parts: usize,
    counters: usize,
    narrow: usize,
    /// Pairs, and experts.
    order: Option<(usize, usize)>,
}

impl Sizes {
    fn of(shared: &Shared, room: &Room) -> Sizes {
        let program = &shared.program;
        let attention = &program.spec.attention;
        let columns = room.columns.max(room.outputs);
        let width_of = |op: &Op| match op {
            Op::GatedMatMul { weights, .. } => program.rows_of(weights),
            op => op.out().map_or(0, |out| match program.buffers[out.0].element {
                Element::Blocks => program.buffers[out.0].width,
                Element::F32 => 0,
            }),
        };
        let lot = PARTS.min(columns);
        let pages = room.context.div_ceil(crate::runtime::kv::PAGE);
        let floats = |id: &&MatrixId| !program.takes_blocks(**id);
        let narrow =
            program.ops.iter().flat_map(Op::weights).filter(floats).map(|id| program.matrices[id.0].cols());
        let order = program.spec.feed_forward.experts.as_ref().map(|e| (columns * e.used, e.count + 1));
        Sizes {
            columns,
            widest: program.ops.iter().map(width_of).max().unwrap_or(0),
            queries: attention.head_count * attention.key_length,
            parts: ops::merge_parts(lot, attention.head_count, pages, attention.value_length),
            counters: 4 * lot * attention.head_count,
            narrow: 2 * columns * narrow.max().unwrap_or(0),
            order,
        }
    }

    fn bytes(&self) -> usize {
        let floats = (self.widest + self.queries + 2).saturating_mul(self.columns).saturating_mul(4);
        let order = self.order.map_or(0, |(pairs, experts)| 4 * (pairs + experts));
        floats.saturating_add(self.parts).saturating_add(self.counters + self.narrow + order)
    }
}

impl Scratch {
    pub(super) fn new(shared: &Shared, room: &Room) -> std::result::Result<Scratch, CudaError> {
        let sizes = Sizes::of(shared, room);
        let device = &shared.device;
        let bytes = |n: usize| Memory::zeroed(device, n);
        let order = sizes.order.map(|(pairs, experts)| Ok([bytes(4 * pairs)?, bytes(4 * experts)?]));
        Ok(Scratch {
            floats: Floats::zeroed(device, sizes.columns, sizes.widest.max(1))?,
            queries: Floats::zeroed(device, sizes.columns, sizes.queries)?,
            factors: [Floats::zeroed(device, 1, sizes.columns)?, Floats::zeroed(device, 1, sizes.columns)?],
            parts: bytes(sizes.parts)?,
            counters: bytes(sizes.counters)?,
            narrow: (sizes.narrow > 0).then(|| bytes(sizes.narrow)).transpose()?,
            order: order.transpose()?,
            flag: bytes(4)?,
        })
    }
}

/// Bytes that the scratch of a room takes.
pub(super) fn bytes(shared: &Shared, room: &Room) -> u64 {
    Sizes::of(shared, room).bytes() as u64
}
