//! What differs from step to step on a GPU: tokens, positions, pages, angles. One copy brings them over, and recorded
//! kernels find them where they were.

use mdl_kernels::cuda::ops::{Field, Inputs, Kind};
use mdl_kernels::cuda::{CudaError, Device, Stream};
use mdl_kernels::ops::attention::chunks;

use super::{Column, sees, temperature};
use crate::runtime::kv::{PAGE, PageId, slot};
use crate::runtime::program::{Op, Program, Room};

/// Rows of queries that a tile of attention has: heads of a group times columns.
const TILE: usize = 64;

/// The inputs of steps of up to so many columns.
pub(super) struct StepInputs {
    inputs: Inputs,
    /// Columns there is room for.
    pub columns: usize,
    /// Pages of a sequence's table.
    pub table_width: usize,
    /// The windows of the model's attention.
    windows: Vec<Option<usize>>,
    pub tokens: Field,
    pub positions: Field,
    pub slots: Field,
    pub sequences: Field,
    pub outputs: Field,
    pub temperatures: Option<Field>,
    /// Of each rotation.
    pub angles: Vec<Field>,
    /// What columns see, of each window.
    pub seen: Vec<Field>,
    pub tiles: Field,
    pub pages: Field,
}

/// What a step's kernels must know of its inputs when they are queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Shape {
    pub columns: usize,
    pub outputs: usize,
    /// Chunks of positions that a column sees at most, of any window.
    pub chunks: usize,
    /// Tiles of columns of one sequence.
    pub tiles: usize,
    /// Most columns stand for a sequence of their own.
    pub is_decode: bool,
}

/// The windows of attention, each once.
fn windows(program: &Program) -> Vec<Option<usize>> {
    let mut all = Vec::new();
    for op in &program.ops {
        if let Op::Attention { window, .. } = op
            && !all.contains(window)
        {
            all.push(*window);
        }
    }
    all
}

impl StepInputs {
    pub(super) fn new(
        device: &Device,
        program: &Program,
        room: &Room,
        columns: usize,
    ) -> Result<Self, CudaError> {
        let table_width = room.context.div_ceil(PAGE);
        let windows = windows(program);
        let below = |n: usize| Kind::Below(u32::try_from(n).unwrap_or(u32::MAX));
        let mut fields = vec![
            (columns, below(program.spec.vocab_size)),
            (columns, below(room.context)),
            (columns, below(room.pages * PAGE)),
            (columns, below(columns)),
            (room.outputs.min(columns), below(columns)),
            (columns, Kind::Floats),
        ];
        let angles = fields.len()..fields.len() + program.rotations.len();
        fields.extend(program.rotations.iter().map(|r| (columns * 2 * r.pairs(), Kind::Floats)));
        let seen = fields.len()..fields.len() + windows.len();
        fields.extend(windows.iter().map(|_| (2 * columns, below(table_width * PAGE + 1))));
        fields.push((2 * columns, Kind::Tiles(columns as u32)));
        // The longest is the last: what of it is used is all that is copied.
        fields.push((columns.saturating_mul(table_width), below(room.pages)));
        let inputs = Inputs::zeroed(device, &fields)?;
        Ok(StepInputs {
            columns,
            table_width,
            tokens: inputs.field(0),
            positions: inputs.field(1),
            slots: inputs.field(2),
            sequences: inputs.field(3),
            outputs: inputs.field(4),
            temperatures: program.spec.attention.temperature.as_ref().map(|_| inputs.field(5)),
            angles: angles.map(|i| inputs.field(i)).collect(),
            tiles: inputs.field(seen.end),
            pages: inputs.field(seen.end + 1),
            seen: seen.map(|i| inputs.field(i)).collect(),
            windows,
            inputs,
        })
    }

    /// The field of what columns see through a window.
    pub(super) fn seen_through(&self, window: Option<usize>) -> &Field {
        let i = self.windows.iter().position(|w| *w == window).unwrap_or(0);
        &self.seen[i]
    }

    /// Brings a step's inputs over, after what is queued.
    pub(super) fn send(
        &mut self,
        stream: &Stream,
        program: &Program,
        room: &Room,
        columns: &[Column],
        tables: &[&[PageId]],
        outputs: &[usize],
    ) -> Result<Shape, CudaError> {
        let inputs = &mut self.inputs;
        inputs.set(0, columns.iter().map(|c| c.token));
        inputs.set(1, columns.iter().map(|c| c.position as u32));
        inputs.set(2, columns.iter().map(|c| slot(tables[c.sequence], c.position) as u32));
        // Sequences are numbered as they come: there are no more of them than columns.
        let runs: Vec<&[Column]> = columns.chunk_by(|a, b| a.sequence == b.sequence).collect();
        let number = |n: usize, run: &[Column]| std::iter::repeat_n(n as u32, run.len());
        inputs.set(3, runs.iter().enumerate().flat_map(|(n, run)| number(n, run)));
        inputs.set(4, outputs.iter().map(|o| *o as u32));
        if self.temperatures.is_some() {
            let values: Vec<f32> = columns.iter().map(|c| temperature(program, c.position)).collect();
            inputs.set_floats(5, &values);
        }
        let mut field = 6;
        for rotation in &program.rotations {
            let size = 2 * rotation.pairs();
            let mut table = vec![0.0; size * columns.len()];
            let frequencies = rotation.frequencies(room.context);
            for (column, table) in columns.iter().zip(table.chunks_exact_mut(size.max(1))) {
                frequencies.table(column.position as i64, table);
            }
            inputs.set_floats(field, &table);
            field += 1;
        }
        let mut most = 0;
        for window in &self.windows {
            let mut seen = Vec::with_capacity(2 * columns.len());
            for run in &runs {
                let last = run.last().map_or(0, |c| c.position);
                for column in *run {
                    let range = sees(program, column.position, last, *window);
                    most = most.max(chunks(&range).len());
                    seen.extend([range.start as u32, range.end as u32]);
                }
            }
            inputs.set(field, seen);
            field += 1;
        }
        let per_tile = (TILE / program.spec.group().max(1)).max(1);
        let (mut tiles, mut first) = (Vec::new(), 0);
        for run in &runs {
            for part in run.chunks(per_tile) {
                tiles.push((first, part.len() as u32));
                first += part.len() as u32;
            }
        }
        inputs.set_tiles(field, tiles.iter().copied());
        let width = self.table_width;
        let pages = runs.iter().flat_map(|run| {
            let table = run.first().map_or(&[][..], |c| tables[c.sequence]);
            let own = table.iter().take(width).map(|page| page.0);
            own.chain(std::iter::repeat_n(0, width - table.len().min(width)))
        });
        inputs.set(field + 1, pages);
        inputs.send(stream)?;
        Ok(Shape {
            columns: columns.len(),
            outputs: outputs.len(),
            chunks: most,
            tiles: tiles.len(),
            is_decode: 2 * runs.len() > columns.len(),
        })
    }
}
