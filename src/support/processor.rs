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
        Level::current().set
    }

    /// Whether kernels for this set use its dot products of small integers: where the machine has
    /// them, and `QUANTKIT_ISA` does not end in `-plain` (`avx512-plain`).
    pub fn uses_dot_product(self) -> bool {
        self.has_dot_product() && Level::current().dot_product
    }

    /// Whether this machine has the instructions that multiply small integers and add up the
    /// products in one step: AVX-512 VNNI, AVX-VNNI, or the dot products of ARMv8.2.
    pub fn has_dot_product(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            self.available()
                && match self {
                    Self::Avx512 => is_x86_feature_detected!("avx512vnni"),
                    Self::Avx2 => is_x86_feature_detected!("avxvnni"),
                    Self::Scalar | Self::Neon => false,
                }
        }
        #[cfg(target_arch = "aarch64")]
        {
            self == Self::Neon && std::arch::is_aarch64_feature_detected!("dotprod")
        }
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        {
            false
        }
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

/// An instruction set, with or without its dot products of small integers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level {
    /// The set.
    pub set: InstructionSet,
    /// Whether kernels use its dot products.
    pub dot_product: bool,
}

impl Level {
    /// Plain Rust.
    pub const SCALAR: Self = Self { set: InstructionSet::Scalar, dot_product: false };

    /// The one in use; see [`InstructionSet::current`].
    pub fn current() -> Self {
        static CURRENT: OnceLock<Level> = OnceLock::new();
        *CURRENT.get_or_init(|| choose(std::env::var("QUANTKIT_ISA").ok().as_deref()))
    }

    /// All that this machine has, weakest first.
    pub fn available() -> impl Iterator<Item = Self> {
        let sets = InstructionSet::ALL.into_iter().filter(|set| set.available());
        sets.flat_map(|set| {
            let with = |dot_product| Self { set, dot_product };
            std::iter::once(with(false)).chain(set.has_dot_product().then_some(with(true)))
        })
    }

    /// As `QUANTKIT_ISA` would ask for it: `avx512`, or `avx512-plain` without dot products.
    pub fn name(self) -> String {
        let plain = self.set != InstructionSet::Scalar && !self.dot_product;
        format!("{}{}", self.set.name(), if plain { PLAIN } else { "" })
    }
}

/// What follows the name of a set without its dot products.
const PLAIN: &str = "-plain";

/// What is wanted where the machine has it, else the machine's best.
fn choose(wanted: Option<&str>) -> Level {
    let level = |set: InstructionSet| Level { set, dot_product: set.has_dot_product() };
    let best = level(InstructionSet::best());
    let Some(wanted) = wanted else { return best };
    let (name, plain) = match wanted.strip_suffix(PLAIN) {
        Some(name) => (name, true),
        None => (wanted, false),
    };
    match InstructionSet::ALL.into_iter().find(|set| set.name() == name) {
        Some(set) if set.available() && plain => Level { set, dot_product: false },
        Some(set) if set.available() => level(set),
        Some(_) => {
            tracing::warn!("QUANTKIT_ISA={wanted}: this machine lacks it; using {}", best.name());
            best
        }
        None => {
            tracing::warn!(
                "QUANTKIT_ISA={wanted}: expected scalar, neon, avx2 or avx512, \
                 with {PLAIN} after it for no dot products; using {}",
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
        let best = choose(None);
        assert_eq!(best.set, InstructionSet::best());
        assert_eq!(choose(Some("scalar")).set, InstructionSet::Scalar);
        assert_eq!(choose(Some("abacus")), best);
        assert_eq!(choose(Some("-plain")), best);
        assert_eq!(choose(Some("zx81-plain")), best);
        for level in Level::available() {
            assert_eq!(choose(Some(&level.name())), level);
        }
        for set in InstructionSet::ALL.into_iter().filter(|set| !set.available()) {
            assert_eq!(choose(Some(set.name())), best);
        }
    }
}
