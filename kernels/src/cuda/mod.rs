//! NVIDIA GPUs, by the driver alone: it is looked for at run time, and the kernels are carried in the binary.
//!
//! Everything here is safe to call: memory is freed when it is dropped and not before its device is done with it, and
//! what launches a kernel ([`ops`]) checks that each buffer holds what the kernel reads and writes, whose indices come
//! from numbers that are checked as well. Work is queued on one stream, in order.
//!
//! | file | what it holds |
//! |---|---|
//! | `error` | why something on a GPU failed |
//! | `device` | which GPUs there are, and one that is open |
//! | `memory` | memory of a device, memory of the host that it reads quickly, and copies |
//! | `stream` | the order of work, its recording as a graph, and times |
//! | `kernels` | the kernels that the binary carries, loaded when they are first needed |
//! | `launch` | a kernel's arguments |
//! | [`ops`] | the operations of inference on a device |

mod device;
mod error;
mod kernels;
mod launch;
mod memory;
pub mod ops;
mod stream;

pub use device::{Device, DeviceInfo, devices};
pub use error::CudaError;
pub use memory::{Memory, Pinned};
pub use stream::{Graph, Stamp, Stream};
