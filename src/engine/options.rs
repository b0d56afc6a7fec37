//! Where and how a model runs.

use candle_core::Device;

use super::EngineError;
use crate::kernels::attention::KvType;
use crate::kernels::matmul::ActivationBits;
use crate::model::KernelOptions;

/// Where a model runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The CPU.
    #[default]
    Cpu,
    /// A CUDA device by number; needs a build with `--features cuda`.
    Cuda(usize),
}

/// As `--device` takes it and as results record it: `cpu` or `cuda:N`.
impl std::fmt::Display for DeviceChoice {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cpu => formatter.write_str("cpu"),
            Self::Cuda(number) => write!(formatter, "cuda:{number}"),
        }
    }
}

/// Where and how a model runs. The default is the CPU with its usual key-value cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EngineOptions {
    /// Where it runs.
    pub device: DeviceChoice,
    /// How the key-value cache holds its elements. None: as is usual on the device, which is
    /// [`KvType::I16`] on the CPU, and f16 elsewhere, where there is no choice.
    pub kv_type: Option<KvType>,
    /// Bits that activations are rounded to in products with quantized weights. On a CUDA device
    /// they are eight, and there is no choice.
    pub activations: ActivationBits,
}

impl EngineOptions {
    /// What results record of the key-value cache: `i16`, `i8` or `f16`.
    pub fn kv_type_name(&self) -> &'static str {
        match self.device {
            DeviceChoice::Cpu => self.kv_type.unwrap_or_default().name(),
            DeviceChoice::Cuda(_) => "f16",
        }
    }

    /// The part of them that quantkit's own kernels go by.
    pub(super) fn kernel_options(&self) -> KernelOptions {
        KernelOptions { kv_type: self.kv_type.unwrap_or_default(), activations: self.activations }
    }

    /// The device, if it is there and does what is wanted.
    pub(super) fn open_device(&self) -> Result<Device, EngineError> {
        let unusable = |problem: String| Err(EngineError::Unusable(problem));
        match (self.device, self.kv_type) {
            (DeviceChoice::Cpu, _) => Ok(Device::Cpu),
            (DeviceChoice::Cuda(_), Some(kv_type)) => unusable(format!(
                "on a CUDA device the key-value cache holds f16, not {}: leave out --kv-type",
                kv_type.name()
            )),
            (DeviceChoice::Cuda(_), None) if self.activations != ActivationBits::Eight => {
                unusable(format!(
                    "on a CUDA device activations are rounded to 8 bits, not {}: leave out \
                     --activations",
                    self.activations.bits()
                ))
            }
            (DeviceChoice::Cuda(_), None) if !candle_core::utils::cuda_is_available() => unusable(
                "this quantkit was built without CUDA: cargo build --release --features cuda"
                    .to_string(),
            ),
            (DeviceChoice::Cuda(number), None) => Device::new_cuda(number)
                .or_else(|error| unusable(format!("the CUDA device {number}: {error}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_has_the_name_of_what_it_holds() {
        let options = |device, kv_type| EngineOptions { device, kv_type, ..Default::default() };
        assert_eq!(EngineOptions::default().kv_type_name(), "i16");
        assert_eq!(options(DeviceChoice::Cpu, Some(KvType::I8)).kv_type_name(), "i8");
        assert_eq!(options(DeviceChoice::Cuda(1), None).kv_type_name(), "f16");
        let error = options(DeviceChoice::Cuda(1), Some(KvType::I8)).open_device().unwrap_err();
        assert!(error.to_string().contains("f16, not i8"), "{error}");
    }

    #[test]
    fn a_cuda_device_does_not_pass_for_sixteen_bits() {
        let options = EngineOptions {
            device: DeviceChoice::Cuda(0),
            activations: ActivationBits::Sixteen,
            ..EngineOptions::default()
        };
        let error = options.open_device().unwrap_err();
        assert!(error.to_string().contains("8 bits, not 16"), "{error}");
    }
}
