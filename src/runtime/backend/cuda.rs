//! An NVIDIA GPU: the weights stay in its memory as they are quantized, a step is a queue of kernels.
//!
//! A step of few columns is recorded once as a graph, for each number of columns and of chunks of positions that attention
//! goes over, and replayed; what differs from step to step is in [`Inputs`].

use std::collections::HashMap;
use std::sync::Arc;

use mdl_kernels::cuda::ops::{Cache, DeviceWeight, Floats, Loader};
use mdl_kernels::cuda::{CudaError, Device, DeviceInfo};

use super::cuda_scratch;
use super::cuda_state::CudaState;
use super::{Accelerator, Backend, State};
use crate::diagnostic::{Diagnostic, Errors, Result};
use crate::runtime::kv::KvLayout;
use crate::runtime::program::{Element, Extent, MatrixId, Op, Program, Room, VectorId};

/// A model on a GPU.
pub struct Cuda {
    shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) program: Program,
    pub(super) device: Device,
    /// The matrices that a step multiplies with or looks up.
    weights: Vec<Option<DeviceWeight>>,
    /// The experts of a product, by the first of them.
    experts: HashMap<usize, DeviceWeight>,
    vectors: Vec<Floats>,
    /// Parts of each buffer's columns that are columns of their own in products of experts: 1 for most.
    pub(super) parts: Vec<usize>,
}

/// A failure of a GPU, for people.
pub(super) fn failed(what: &str, error: &CudaError) -> Errors {
    let diagnostic = Diagnostic::environment(format!("{what}: {error}"));
    match error {
        CudaError::Memory { .. } => {
            diagnostic.code("out-of-memory").help("choose a smaller context, another GPU, or `--device cpu`")
        }
        _ => diagnostic.code("cuda").help("`--device cpu` does without the GPU"),
    }
    .into()
}

/// The weights of a program on a GPU.
pub struct OnDevice {
    device: Device,
    weights: Weights,
}

impl OnDevice {
    /// Brings the weights of a program to GPU `ordinal`.
    ///
    /// # Errors
    /// There is no such GPU or no memory for the weights, or the driver fails.
    pub fn bring(program: &Program, ordinal: usize) -> Result<OnDevice> {
        let device = Device::open(ordinal).map_err(|e| failed("cannot use the GPU", &e))?;
        let needed = weight_bytes(program).ok_or_else(|| {
            let message = "the model has a type of weights that no GPU kernel multiplies";
            Diagnostic::error(message).code("not-implemented").help("choose `--device cpu`")
        })?;
        let (free, total) = device.memory().map_err(|e| failed("cannot use the GPU", &e))?;
        if needed > free {
            let error = CudaError::Memory { asked: needed, free, total };
            return Err(failed("the weights do not fit on the GPU", &error));
        }
        let weights = load(program, &device).map_err(|e| failed("cannot bring the model to the GPU", &e))?;
        Ok(OnDevice { device, weights })
    }
}

impl Cuda {
    /// A model whose weights are on a GPU: those of this program.
    pub fn new(program: Program, on: OnDevice) -> Cuda {
        let OnDevice { device, weights: (weights, experts, vectors) } = on;
        let parts = parts(&program);
        Cuda { shared: Arc::new(Shared { program, device, weights, experts, vectors, parts }) }
    }

    /// The GPU.
    pub fn device(&self) -> &DeviceInfo {
        self.shared.device.info()
    }
}

/// The weights of a step: matrices by themselves, and the experts of a product together.
fn used(program: &Program) -> (Vec<bool>, Vec<&[MatrixId]>) {
    let mut single = vec![false; program.matrices.len()];
    let mut experts = Vec::new();
    for op in &program.ops {
        match op {
            Op::Experts { weights, .. } => experts.push(weights.as_slice()),
            Op::Embed { table, .. } | Op::AddPosition { table, .. } => single[table.0] = true,
            op => op.weights().iter().for_each(|id| single[id.0] = true),
        }
    }
    (single, experts)
}

/// Bytes of memory that the weights of a step take on a GPU; `None` where there is no kernel for one of them.
pub fn weight_bytes(program: &Program) -> Option<usize> {
    let (single, experts) = used(program);
    let own = (0..single.len()).filter(|i| single[*i]);
    let all = own.chain(experts.iter().flat_map(|ids| ids.iter().map(|id| id.0)));
    all.map(|i| {
        let matrix = &program.matrices[i];
        DeviceWeight::bytes_of(matrix.tensor_type(), matrix.rows(), matrix.cols())
    })
    .try_fold(0usize, |sum, bytes| sum.checked_add(bytes?))
}

type Weights = (Vec<Option<DeviceWeight>>, HashMap<usize, DeviceWeight>, Vec<Floats>);

fn load(program: &Program, device: &Device) -> std::result::Result<Weights, CudaError> {
    let loader = Loader::new(device)?;
    let (single, stacked) = used(program);
    let mut weights = Vec::with_capacity(single.len());
    for (matrix, used) in program.matrices.iter().zip(single) {
        weights.push(if used { Some(loader.load(&matrix.weight())?) } else { None });
        if used {
            matrix.release();
        }
    }
    let mut experts = HashMap::new();
    for ids in stacked {
        let all: Vec<_> = ids.iter().map(|id| program.matrices[id.0].weight()).collect();
        let Some(first) = ids.first() else { continue };
        experts.insert(first.0, loader.load_all(&all)?);
        ids.iter().for_each(|id| program.matrices[id.0].release());
    }
    let stream = device.stream()?;
    let vectors = program
        .vectors
        .iter()
        .map(|v| Floats::of(device, &stream, v))
        .collect::<std::result::Result<_, _>>()?;
    Ok((weights, experts, vectors))
}

/// For each buffer, how many columns of experts' products are in one of its columns.
fn parts(program: &Program) -> Vec<usize> {
    let mut parts = vec![1; program.buffers.len()];
    for op in &program.ops {
        if let Op::Experts { input, each: true, .. } = op {
            parts[input.0] = program.spec.feed_forward.experts.as_ref().map_or(1, |e| e.used.max(1));
        }
    }
    parts
}

impl Shared {
    /// A matrix on the device.
    pub(super) fn weight(&self, id: MatrixId) -> &DeviceWeight {
        match &self.weights[id.0] {
            Some(weight) => weight,
            None => unreachable!("every matrix of an operation is loaded"),
        }
    }

    /// The experts of a product.
    pub(super) fn experts(&self, ids: &[MatrixId]) -> &DeviceWeight {
        match ids.first().and_then(|id| self.experts.get(&id.0)) {
            Some(weight) => weight,
            None => unreachable!("the experts of every product are loaded"),
        }
    }

    /// A vector on the device.
    pub(super) fn vector(&self, id: VectorId) -> &Floats {
        &self.vectors[id.0]
    }

    /// A cache for each block of the model.
    pub(super) fn caches(&self, layout: &KvLayout) -> std::result::Result<Vec<Cache>, CudaError> {
        let shape = (layout.heads, layout.key_length, layout.value_length);
        let one = |_| Cache::zeroed(&self.device, layout.kv.name(), shape, layout.pages);
        (0..self.program.spec.block_count).map(one).collect()
    }

    /// Columns of a buffer.
    pub(super) fn room_of(&self, extent: Extent, room: &Room) -> usize {
        match extent {
            Extent::Columns => room.columns,
            Extent::Outputs => room.outputs,
        }
    }
}

impl Backend for Cuda {
    fn program(&self) -> &Program {
        &self.shared.program
    }

    fn scratch_bytes(&self, room: &Room) -> u64 {
        cuda_scratch::bytes(&self.shared, room)
    }

    fn accelerator(&self) -> Option<Accelerator> {
        let info = self.shared.device.info();
        let free = self.shared.device.memory().map_or(0, |(free, _)| free as u64);
        Some(Accelerator { name: info.name.clone(), free })
    }

    fn state(&self, room: &Room) -> Result<Box<dyn State>> {
        let program = &self.shared.program;
        super::check_room(program, room)?;
        let blocks = program.buffers.iter().filter(|b| b.element == Element::Blocks);
        if let Some(buffer) = blocks.into_iter().find(|b| !b.width.is_multiple_of(32)) {
            let message =
                format!("`{}` has columns of {} values, which are no blocks", buffer.name, buffer.width);
            return Err(Diagnostic::error(message).code("invalid-model").into());
        }
        let state = CudaState::new(self.shared.clone(), *room).map_err(|e| {
            let memory = program.memory(room);
            let what = format!(
                "there is no room for a context of {}, which takes {} bytes of cache and {} of buffers",
                room.context, memory.kv, memory.buffers
            );
            failed(&what, &e)
        })?;
        Ok(Box::new(state))
    }
}
