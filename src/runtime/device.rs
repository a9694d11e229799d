//! Where a model computes.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use mdl_kernels::cuda::{self, CudaError};

use super::backend::Backend;
use super::backend::cpu::{Cpu, CpuOptions};
use super::backend::cuda::{Cuda, OnDevice, weight_bytes};
use super::program::Program;
use crate::diagnostic::{Diagnostic, Result};

/// Where a model computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// On a GPU where there is one that the weights fit on, else on the CPU.
    #[default]
    Auto,
    /// On the CPU.
    Cpu,
    /// On the NVIDIA GPU of this number, counted from 0.
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<DeviceChoice, String> {
        match text {
            "auto" => Ok(DeviceChoice::Auto),
            "cpu" => Ok(DeviceChoice::Cpu),
            "cuda" => Ok(DeviceChoice::Cuda(0)),
            _ => {
                let ordinal = text.strip_prefix("cuda:").and_then(|n| n.parse().ok());
                ordinal.map(DeviceChoice::Cuda).ok_or_else(|| "expected auto, cpu, cuda or cuda:N".to_owned())
            }
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceChoice::Auto => write!(f, "auto"),
            DeviceChoice::Cpu => write!(f, "cpu"),
            DeviceChoice::Cuda(n) => write!(f, "cuda:{n}"),
        }
    }
}

/// What a model computes with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compute {
    /// Threads of the CPU; `None` for one per core.
    pub threads: Option<usize>,
    /// Where.
    pub device: DeviceChoice,
}

impl Compute {
    /// So many threads of the CPU.
    pub fn cpu(threads: Option<usize>) -> Compute {
        Compute { threads, device: DeviceChoice::Cpu }
    }

    /// As a model's or a request's parameters have it: `num_thread`, and `num_gpu`, which is 0 for the CPU.
    #[must_use]
    pub fn asked(self, threads: Option<usize>, gpu: Option<i64>) -> Compute {
        Compute {
            threads: threads.or(self.threads).filter(|n| *n > 0),
            device: if gpu == Some(0) { DeviceChoice::Cpu } else { self.device },
        }
    }

    /// True when no GPU will be used.
    pub fn is_cpu(&self) -> bool {
        match self.device {
            DeviceChoice::Cpu => true,
            DeviceChoice::Auto => cuda::devices().is_err(),
            DeviceChoice::Cuda(_) => false,
        }
    }
}

/// A model in its place, and why it is not on a GPU that is there.
pub(super) struct Placed {
    pub backend: Arc<dyn Backend>,
    pub note: Option<Diagnostic>,
}

/// Brings a program to where it computes.
///
/// # Errors
/// There is no such GPU or no memory, or the system refuses threads.
pub(super) fn place(program: Program, compute: &Compute) -> Result<Placed> {
    let note = match compute.device {
        DeviceChoice::Cpu => None,
        DeviceChoice::Cuda(ordinal) => {
            let weights = OnDevice::bring(&program, ordinal)?;
            return Ok(Placed { backend: Arc::new(Cuda::new(program, weights)), note: None });
        }
        DeviceChoice::Auto => match best(&program) {
            Ok(device) => match OnDevice::bring(&program, device.info().ordinal) {
                Ok(weights) => {
                    return Ok(Placed { backend: Arc::new(Cuda::new(program, weights)), note: None });
                }
                Err(errors) => errors.0.first().map(|e| instead(&e.message)),
            },
            // A machine without NVIDIA's driver has no such GPU: nothing is amiss.
            Err(None) => None,
            Err(Some(why)) => Some(instead(&why)),
        },
    };
    let options = CpuOptions { threads: compute.threads, level: None };
    Ok(Placed { backend: Arc::new(Cpu::new(program, &options)?), note })
}

fn instead(why: &str) -> Diagnostic {
    Diagnostic::warning(format!("computing on the CPU: {why}")).code("no-gpu")
}

/// The GPU with the most free memory, if the weights fit there; else why there is none.
fn best(program: &Program) -> std::result::Result<cuda::Device, Option<String>> {
    let devices = match cuda::devices() {
        Ok(devices) => devices,
        Err(CudaError::NoDriver) => return Err(None),
        Err(e) => return Err(Some(e.to_string())),
    };
    let Some(needed) = weight_bytes(program) else {
        return Err(Some("the model has a type of weights that no GPU kernel multiplies".to_owned()));
    };
    let mut most: Option<(cuda::Device, usize)> = None;
    let mut failure = None;
    for device in devices {
        match cuda::Device::open(device.ordinal).and_then(|d| Ok((d.memory()?.0, d))) {
            Ok((free, device)) if most.as_ref().is_none_or(|(_, of)| free > *of) => {
                most = Some((device, free))
            }
            Ok(_) => {}
            Err(e) => failure = Some(e.to_string()),
        }
    }
    match most {
        // A tenth for the cache and the buffers of a usual context.
        Some((device, free)) if needed.saturating_add(needed / 10) <= free => Ok(device),
        Some((_, free)) => {
            Err(Some(format!("the weights take {needed} bytes, and {free} are free on the GPU")))
        }
        None => Err(failure),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named() {
        for (text, choice) in [
            ("auto", DeviceChoice::Auto),
            ("cpu", DeviceChoice::Cpu),
            ("cuda", DeviceChoice::Cuda(0)),
            ("cuda:3", DeviceChoice::Cuda(3)),
        ] {
            assert_eq!(text.parse(), Ok(choice));
            assert_eq!(choice.to_string().parse(), Ok(choice));
        }
        for text in ["", "gpu", "cuda:", "cuda:-1", "CUDA", "cuda:1.5"] {
            assert!(text.parse::<DeviceChoice>().is_err(), "{text}");
        }
    }

    #[test]
    fn parameters_go_before_what_is_usual() {
        let usual = Compute { threads: Some(4), device: DeviceChoice::Cuda(1) };
        assert_eq!(usual.asked(None, None), usual);
        assert_eq!(usual.asked(Some(2), Some(-1)), Compute { threads: Some(2), ..usual });
        assert_eq!(usual.asked(Some(0), Some(0)), Compute { threads: None, device: DeviceChoice::Cpu });
    }
}
