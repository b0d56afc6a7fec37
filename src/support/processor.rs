//! The one place that decides which instruction set the kernels and the codecs use.

use std::sync::OnceLock;

/// Instruction sets that code is written for, each one including those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum InstructionSet {
    /// Plain Rust.
    Scalar,
    /// NEON: every 64-bit ARM processor.
    Neon,
    /// AVX2 with FMA and F16C: any x86 server or desktop since 2013.
    Avx2,
    /// AVX-512 F, BW, DQ and VL: Skylake-SP, Zen 4 and later.
    Avx512,
}

impl InstructionSet {
    /// Every set, weakest first.
    pub const ALL: [Self; 4] = [Self::Scalar, Self::Neon, Self::Avx2, Self::Avx512];

    /// The set in use: the best that this machine has, or a weaker one that the environment
    /// variable `QUANTKIT_ISA` (`scalar`, `neon`, `avx2`, `avx512`) asks for.
    pub fn current() -> Self {
        static CURRENT: OnceLock<InstructionSet> = OnceLock::new();
        *CURRENT.get_or_init(|| choose(std::env::var("QUANTKIT_ISA").ok().as_deref()))
    }

    /// The best set of this machine.
    pub fn best() -> Self {
        *Self::ALL.iter().rev().find(|set| set.available()).expect("scalar is always there")
    }

    /// Whether this machine has it.
    pub fn available(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = || {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            };
            match self {
                Self::Scalar => true,
                Self::Neon => false,
                Self::Avx2 => avx2(),
                Self::Avx512 => {
                    avx2()
                        && is_x86_feature_detected!("avx512f")
                        && is_x86_feature_detected!("avx512bw")
                        && is_x86_feature_detected!("avx512dq")
                        && is_x86_feature_detected!("avx512vl")
                }
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            match self {
                Self::Scalar => true,
                Self::Neon => cfg!(target_arch = "aarch64"),
                Self::Avx2 | Self::Avx512 => false,
            }
        }
    }

    /// The name that `QUANTKIT_ISA` takes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Neon => "neon",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }
}

/// The wanted set where the machine has it, else the machine's best.
fn choose(wanted: Option<&str>) -> InstructionSet {
    let best = InstructionSet::best();
    let Some(wanted) = wanted else { return best };
    match InstructionSet::ALL.into_iter().find(|set| set.name() == wanted) {
        Some(set) if set.available() => set,
        Some(_) => {
            tracing::warn!("QUANTKIT_ISA={wanted}: this machine lacks it; using {}", best.name());
            best
        }
        None => {
            tracing::warn!(
                "QUANTKIT_ISA={wanted}: expected scalar, neon, avx2 or avx512; using {}",
                best.name()
            );
            best
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_can_only_ask_for_what_is_there() {
        assert_eq!(choose(None), InstructionSet::best());
        assert_eq!(choose(Some("scalar")), InstructionSet::Scalar);
        assert_eq!(choose(Some("abacus")), InstructionSet::best());
        for set in InstructionSet::ALL {
            assert!(choose(Some(set.name())).available());
        }
    }
}
