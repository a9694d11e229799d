//! A weight on a device, and how it comes there.

use crate::TensorType;
use crate::cuda::launch::Launch;
use crate::cuda::{CudaError, Device, Memory, Stream};
use crate::ops::matmul::Weight;

/// Rows of a panel of the device's layout.
const PANEL: usize = 32;

/// Values of a unit of it.
pub(super) const UNIT: usize = 256;

/// Bytes of a weight's file that are brought over at once.
const PIECE: usize = 16 << 20;

/// Bytes that 256 values of a row take on a device (`kernels/cuda/formats.cuh`); `None` for floats.
const fn unit_bytes(ty: TensorType) -> Option<usize> {
    Some(match ty {
        TensorType::Q4_0 | TensorType::IQ4_NL | TensorType::Q4_K => 144,
        TensorType::Q4_1 => 160,
        TensorType::Q5_0 | TensorType::Q5_K => 176,
        TensorType::Q5_1 => 192,
        TensorType::Q8_0 => 272,
        TensorType::Q2_K => 84,
        TensorType::Q3_K => 112,
        TensorType::Q6_K => 210,
        TensorType::IQ4_XS => 136,
        _ => return None,
    })
}

/// The name of a type in kernels' names.
pub(super) fn kernel_name(ty: TensorType) -> String {
    ty.to_string().to_ascii_lowercase()
}

/// A weight `[rows, cols]` in the layout of a device, or several of one shape, one after the other.
pub struct DeviceWeight {
    pub(super) memory: Memory,
    pub(super) ty: TensorType,
    pub(super) rows: usize,
    pub(super) cols: usize,
    /// Weights there are: more than one for experts.
    pub(super) count: usize,
    /// Bytes of each.
    pub(super) bytes: usize,
}

impl DeviceWeight {
    /// Bytes that a weight takes on a device; `None` for a type that no kernel multiplies, or 4 GiB and more.
    pub fn bytes_of(ty: TensorType, rows: usize, cols: usize) -> Option<usize> {
        let rows = rows.checked_next_multiple_of(PANEL)?;
        let row = match (ty, unit_bytes(ty)) {
            (_, Some(unit)) => cols.div_ceil(UNIT).checked_mul(unit)?,
            (TensorType::F32, _) => cols.checked_mul(4)?.checked_next_multiple_of(16)?,
            (TensorType::F16 | TensorType::BF16, _) => cols.checked_mul(2)?.checked_next_multiple_of(16)?,
            _ => return None,
        };
        // Places in a weight are 32 bits.
        rows.checked_mul(row).filter(|bytes| u32::try_from(*bytes).is_ok())
    }

    /// How its values are encoded.
    pub fn tensor_type(&self) -> TensorType {
        self.ty
    }

    /// Rows of it, or of each.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Values of a row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes that it takes on the device.
    pub fn len(&self) -> usize {
        self.memory.len()
    }

    /// True when it takes none.
    pub fn is_empty(&self) -> bool {
        self.memory.is_empty()
    }

    pub(super) fn takes_blocks(&self) -> bool {
        self.ty.is_quantized()
    }
}

/// Brings weights to a device.
pub struct Loader {
    device: Device,
    stream: Stream,
    staging: Memory,
}

impl Loader {
    /// One for a device.
    ///
    /// # Errors
    /// There is no memory for pieces, or the driver fails.
    pub fn new(device: &Device) -> Result<Loader, CudaError> {
        let staging = Memory::zeroed(device, PIECE)?;
        Ok(Loader { device: device.clone(), stream: device.stream()?, staging })
    }

    /// Brings a weight over.
    ///
    /// # Errors
    /// There is no memory for it, no kernel multiplies its type, or the driver fails.
    pub fn load(&self, weight: &Weight<'_>) -> Result<DeviceWeight, CudaError> {
        self.load_all(&[*weight])
    }

    /// Brings weights of one type and shape over, which lie one after the other.
    ///
    /// # Errors
    /// As [`Loader::load`].
    ///
    /// # Panics
    /// If there are none, or they differ in type or shape.
    pub fn load_all(&self, weights: &[Weight<'_>]) -> Result<DeviceWeight, CudaError> {
        let (ty, rows, cols) = (weights[0].tensor_type(), weights[0].rows(), weights[0].cols());
        let same = |w: &Weight<'_>| (w.tensor_type(), w.rows(), w.cols()) == (ty, rows, cols);
        assert!(weights.iter().all(same), "weights of one type and shape");
        let unknown = || CudaError::Kernel(format!("repack_{}", kernel_name(ty)));
        let bytes = DeviceWeight::bytes_of(ty, rows, cols).ok_or_else(unknown)?;
        let all = bytes.checked_mul(weights.len()).ok_or_else(unknown)?;
        let memory = Memory::zeroed(&self.device, all)?;
        for (i, weight) in weights.iter().enumerate() {
            self.repack(weight, &memory, i * bytes)?;
        }
        Ok(DeviceWeight { memory, ty, rows, cols, count: weights.len(), bytes })
    }

    /// Writes a weight in the device's layout to `to`, from byte `at` on.
    fn repack(&self, weight: &Weight<'_>, to: &Memory, at: usize) -> Result<(), CudaError> {
        let (ty, rows, cols) = (weight.tensor_type(), weight.rows(), weight.cols());
        if rows == 0 {
            return Ok(());
        }
        let row_bytes = weight.row(0).len();
        // A panel of long rows may be more than a piece: then it has memory of its own.
        let step = (PIECE / row_bytes.max(1) / PANEL * PANEL).max(PANEL);
        let own =
            (step.min(rows) * row_bytes > PIECE).then(|| Memory::zeroed(&self.device, step * row_bytes));
        let own = own.transpose()?;
        let staging = own.as_ref().unwrap_or(&self.staging);
        for first in (0..rows).step_by(step) {
            let count = step.min(rows - first);
            self.stream.upload(weight.row_range(first..first + count), staging, 0)?;
            let panels = count.div_ceil(PANEL);
            let (name, units, has_rows) = match ty {
                TensorType::F32 => ("repack_f32".to_owned(), cols.div_ceil(4), false),
                TensorType::F16 | TensorType::BF16 => ("repack_16".to_owned(), cols.div_ceil(8), false),
                _ => (format!("repack_{}", kernel_name(ty)), cols.div_ceil(UNIT), true),
            };
            let launch =
                Launch::new(&self.stream, &name, [units, panels, 1], 32).memory(staging, 0).memory(to, at);
            let launch = if has_rows { launch.int(rows) } else { launch };
            let launch = launch.int(cols).int(first).int(count);
            // SAFETY: `staging` holds `count` rows, and `to` what `bytes_of` says from `at` on; `first` is a multiple of
            // a panel.
            unsafe { launch.queue()? };
        }
        // The staging is written to again, and `own` freed.
        self.stream.wait()
    }
}
