//! Weights of every type: random ones, and how they come to the device.

use mdl_kernels::Level;
use mdl_kernels::TensorType;
use mdl_kernels::ops::activation::{ActivationBlock, BLOCK};
use mdl_kernels::ops::matmul::{Activations, Panel, Product, Store, Weight, matmul};

use crate::args;
use crate::harness::{Buffer, Order};
use crate::values::Random;

pub const QUANTIZED: [TensorType; 12] = [
    TensorType::Q4_0,
    TensorType::Q4_1,
    TensorType::Q5_0,
    TensorType::Q5_1,
    TensorType::Q8_0,
    TensorType::Q2_K,
    TensorType::Q3_K,
    TensorType::Q4_K,
    TensorType::Q5_K,
    TensorType::Q6_K,
    TensorType::IQ4_NL,
    TensorType::IQ4_XS,
];

pub const FLOATS: [TensorType; 3] = [TensorType::F32, TensorType::F16, TensorType::BF16];

/// Values of a unit of the device's layout.
const UNIT: usize = 256;

/// A weight in the bytes of its file.
pub struct Stored {
    pub ty: TensorType,
    pub rows: usize,
    pub cols: usize,
    pub bytes: Vec<u8>,
}

/// Where the half-precision scales of a block are.
fn scales(ty: TensorType) -> &'static [usize] {
    match ty {
        TensorType::Q4_1 | TensorType::Q5_1 | TensorType::Q4_K | TensorType::Q5_K => &[0, 2],
        TensorType::Q2_K => &[80, 82],
        TensorType::Q3_K => &[108],
        TensorType::Q6_K => &[208],
        _ => &[0],
    }
}

impl Stored {
    /// Random bytes with scales of a sane size; with `hostile`, any bytes at all.
    pub fn random(random: &mut Random, ty: TensorType, rows: usize, cols: usize, hostile: bool) -> Stored {
        let blocks = rows * cols / ty.block_len();
        let mut bytes = random.bytes(blocks * ty.block_bytes());
        if !hostile {
            for block in bytes.chunks_mut(ty.block_bytes()) {
                let v = random.float();
                match ty {
                    TensorType::F32 => block.copy_from_slice(&v.to_le_bytes()),
                    TensorType::F16 => block.copy_from_slice(&half::f16::from_f32(v).to_le_bytes()),
                    TensorType::BF16 => block.copy_from_slice(&half::bf16::from_f32(v).to_le_bytes()),
                    _ => {
                        for &at in scales(ty) {
                            let scale = half::f16::from_f32(random.float() * 0.02).to_le_bytes();
                            block[at..at + 2].copy_from_slice(&scale);
                        }
                    }
                }
            }
        }
        Stored { ty, rows, cols, bytes }
    }

    pub fn weight(&self) -> Weight<'_> {
        Weight::new(self.ty, self.rows, self.cols, &self.bytes).unwrap()
    }

    /// The name of the type in a kernel's.
    pub fn name(&self) -> String {
        self.ty.name().to_lowercase()
    }

    /// Bytes on the device.
    pub fn device_bytes(&self) -> usize {
        use TensorType as T;
        let panels = self.rows.div_ceil(32);
        let float = |bytes: usize| panels * 32 * (self.cols * bytes).next_multiple_of(16);
        let unit = match self.ty {
            T::F32 => return float(4),
            T::F16 | T::BF16 => return float(2),
            T::Q4_0 | T::IQ4_NL | T::Q4_K => 128 + 16,
            T::Q4_1 => 128 + 32,
            T::Q5_0 | T::Q5_K => 128 + 32 + 16,
            T::Q5_1 => 128 + 32 + 32,
            T::Q8_0 => 256 + 16,
            T::Q2_K => 64 + 16 + 4,
            T::Q3_K => 64 + 32 + 16,
            T::Q6_K => 128 + 64 + 16 + 2,
            T::IQ4_XS => 128 + 8,
            ty => panic!("{ty}"),
        };
        panels * 32 * self.cols.div_ceil(UNIT) * unit
    }

    /// Brings the weight to the device, in two pieces where it has more than a panel.
    pub fn to_device(&self, order: Order) -> Buffer {
        let weight = Buffer::filled(self.device_bytes(), 0xff);
        let first_rows = if self.rows > 32 { 32 } else { self.rows };
        let row_bytes = self.bytes.len() / self.rows;
        for (first, count) in [(0, first_rows), (first_rows, self.rows - first_rows)] {
            if count == 0 {
                continue;
            }
            // At an odd address.
            let mut bytes = vec![0u8];
            bytes.extend(&self.bytes[first * row_bytes..(first + count) * row_bytes]);
            let file = Buffer::of(&bytes);
            let file = file.at(1);
            let panels = count.div_ceil(32);
            match self.ty {
                TensorType::F32 | TensorType::F16 | TensorType::BF16 => {
                    let (name, chunks) = match self.ty {
                        TensorType::F32 => ("repack_f32", self.cols.div_ceil(4)),
                        _ => ("repack_16", self.cols.div_ceil(8)),
                    };
                    let args = args![file, &weight, self.cols, first, count];
                    order.launch(name, [chunks, panels, 1], 32, 0, args);
                }
                _ => {
                    let args = args![file, &weight, self.rows, self.cols, first, count];
                    let grid = [self.cols.div_ceil(UNIT), panels, 1];
                    order.launch(&format!("repack_{}", self.name()), grid, 32, 0, args);
                }
            }
        }
        weight
    }

    /// The product as the device defines it: that of the CPU for each segment of the columns, added in order.
    pub fn product(&self, x: &[f32], blocks: &[ActivationBlock], columns: usize) -> Vec<f32> {
        if self.ty == TensorType::BF16 {
            // The CPU rounds the columns, the device does not: so they are floats here.
            let bytes = self.bytes.as_chunks::<2>().0.iter().flat_map(|b| [0, 0, b[0], b[1]]).collect();
            let wide = Stored { ty: TensorType::F32, rows: self.rows, cols: self.cols, bytes };
            return wide.product(x, blocks, columns);
        }
        let units = self.cols.div_ceil(UNIT);
        let segments = units.min(16);
        let row_bytes = self.bytes.len() / self.rows;
        let mut out: Vec<f32> = Vec::new();
        for segment in 0..segments {
            let start = (segment * units / segments * UNIT).min(self.cols);
            let end = ((segment + 1) * units / segments * UNIT).min(self.cols);
            let at = |col: usize| col / self.ty.block_len() * self.ty.block_bytes();
            let rows: Vec<u8> =
                self.bytes.chunks(row_bytes).flat_map(|row| row[at(start)..at(end)].to_vec()).collect();
            let weight = Weight::new(self.ty, self.rows, end - start, &rows).unwrap();
            let (mut floats, mut own) = (Vec::new(), Vec::new());
            let input = match self.ty.is_quantized() {
                true => {
                    let all = self.cols / BLOCK;
                    for column in blocks.chunks(all).take(columns) {
                        own.extend_from_slice(&column[start / BLOCK..end / BLOCK]);
                    }
                    Activations::Blocks(&own)
                }
                false => {
                    x.chunks(self.cols).take(columns).for_each(|c| floats.extend_from_slice(&c[start..end]));
                    Activations::F32(&floats)
                }
            };
            let mut part = vec![vec![0.0; self.rows]; columns];
            let product = Product {
                weight,
                packed: None,
                rows: 0..self.rows,
                x: input,
                columns: 0..columns,
                store: Store::Set,
            };
            matmul(Level::current(), &product, &mut part[..], &mut Panel::default());
            let part = part.concat();
            match segment {
                0 => out = part,
                _ => out.iter_mut().zip(part).for_each(|(o, p)| *o += p),
            }
        }
        out
    }
}

/// Threads of a block that multiplies few columns.
pub fn segment_threads(cols: usize) -> usize {
    32 * cols.div_ceil(UNIT).min(16)
}
