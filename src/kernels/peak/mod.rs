//! Loops that do one thing as fast as the machine can: multiply and add in registers, and read
//! memory. What kernels reach is measured against them.

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86_64;

use crate::support::processor::InstructionSet;

/// What is multiplied and added up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arithmetic {
    /// Products of 8-bit integers in sums of 32 bits: matrices of quantized weights.
    Int8,
    /// Products of 16-bit integers in sums of 32 bits: attention.
    Int16,
    /// f32: matrices of F32, F16 and BF16 weights.
    Float,
}

impl Arithmetic {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Int8, Self::Int16, Self::Float];

    /// What tables call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Int8 => "int8",
            Self::Int16 => "int16",
            Self::Float => "f32",
        }
    }
}

/// Steps through the operands that one pass makes.
const STEPS: usize = 16;
/// The widest register.
const REGISTER_BYTES: usize = 64;
/// Registers that a step loads, at most.
const STEP_REGISTERS: usize = 7;

/// What the loops multiply: small enough for the nearest cache, and harmless numbers in every type.
#[repr(align(64))]
struct Operands([u8; STEPS * STEP_REGISTERS * REGISTER_BYTES]);

/// Every byte is 63: small as an integer, 0.747 as an f32.
static OPERANDS: Operands = Operands([63; STEPS * STEP_REGISTERS * REGISTER_BYTES]);

/// The fastest loop of multiply-adds that an instruction set has.
#[derive(Debug, Clone, Copy)]
pub struct MultiplyAddLoop {
    /// The instructions that it consists of.
    pub instruction: &'static str,
    /// Multiplications and additions of one pass.
    pub operations: u64,
    pass: unsafe fn(&Operands, u64),
}

impl MultiplyAddLoop {
    /// The loop of an instruction set, which the machine must have.
    ///
    /// # Panics
    /// If it has not.
    pub fn of(set: InstructionSet, arithmetic: Arithmetic) -> Self {
        assert!(set.available(), "loops are picked for this machine");
        #[cfg(target_arch = "x86_64")]
        let own = x86_64::multiply_add_loop(set, arithmetic);
        #[cfg(target_arch = "aarch64")]
        let own = aarch64::multiply_add_loop(set, arithmetic);
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        let own = None;
        own.unwrap_or_else(|| portable::multiply_add_loop(arithmetic))
    }

    /// Runs it on the calling thread and returns how many operations that were.
    pub fn run(&self, passes: u64) -> u64 {
        // SAFETY: `of` made sure that the machine has the instructions.
        unsafe { (self.pass)(&OPERANDS, passes) };
        self.operations * passes
    }
}

/// Reads all of `bytes` as fast as the instruction set can, on the calling thread, and returns the
/// exclusive or of its whole 64-bit words, so that nothing can be left out.
///
/// # Panics
/// If the machine has not got the instruction set.
pub fn read(set: InstructionSet, bytes: &[u8]) -> u64 {
    assert!(set.available(), "loops are picked for this machine");
    match set {
        // SAFETY: it is there: see above.
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx512 => unsafe { x86_64::read_avx512(bytes) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx2 => unsafe { x86_64::read_avx2(bytes) },
        _ => portable::read(bytes),
    }
}

/// Multiply-adds of one instruction set and type.
trait MultiplyAdd {
    /// Some numbers to multiply.
    type Operand: Copy;
    /// As many sums as the instructions keep apart.
    type Sums: Copy;
    /// Multiplications and additions of a step.
    const OPERATIONS: u64;

    /// Sums of nothing.
    ///
    /// # Safety
    /// The machine has the instruction set.
    unsafe fn zero() -> Self::Sums;

    /// # Safety
    /// The machine has the instruction set, and [`REGISTER_BYTES`] can be read.
    unsafe fn load(source: *const u8) -> Self::Operand;

    /// # Safety
    /// The machine has the instruction set.
    unsafe fn add(sums: Self::Sums, left: Self::Operand, right: Self::Operand) -> Self::Sums;
}

/// Multiplies `LEFT` operands with each of `RIGHT` others, as a matrix product does, over and over:
/// enough sums that none has to wait for the one before it.
///
/// # Safety
/// The machine has the instruction set.
#[inline(always)]
unsafe fn tile<M: MultiplyAdd, const LEFT: usize, const RIGHT: usize>(
    operands: &Operands,
    passes: u64,
) {
    const { assert!(LEFT + RIGHT <= STEP_REGISTERS) };
    // SAFETY: a step reads at most STEP_REGISTERS registers of the STEPS times as many that there
    // are; the caller has the instruction set.
    unsafe {
        let mut sums = [[M::zero(); RIGHT]; LEFT];
        for _ in 0..passes {
            for step in 0..STEPS {
                let first = operands.0.as_ptr().add(step * STEP_REGISTERS * REGISTER_BYTES);
                for (l, sums) in sums.iter_mut().enumerate() {
                    let left = M::load(first.add(l * REGISTER_BYTES));
                    for (r, sums) in sums.iter_mut().enumerate() {
                        let right = M::load(first.add((LEFT + r) * REGISTER_BYTES));
                        *sums = M::add(*sums, left, right);
                    }
                }
            }
        }
        std::hint::black_box(sums);
    }
}

/// Operations of one pass of [`tile`].
const fn tile_operations<M: MultiplyAdd>(left: usize, right: usize) -> u64 {
    M::OPERATIONS * (STEPS * left * right) as u64
}

/// A [`MultiplyAddLoop`] of a type on an instruction set.
macro_rules! multiply_add_loop {
    ($instruction:literal, $kind:ty, $left:literal x $right:literal $(, $features:literal)?) => {{
        $(#[target_feature(enable = $features)])?
        unsafe fn pass(operands: &$crate::kernels::peak::Operands, passes: u64) {
            // SAFETY: the features are enabled here, and the caller made sure that they are there.
            unsafe { $crate::kernels::peak::tile::<$kind, $left, $right>(operands, passes) }
        }
        $crate::kernels::peak::MultiplyAddLoop {
            instruction: $instruction,
            operations: $crate::kernels::peak::tile_operations::<$kind>($left, $right),
            pass,
        }
    }};
}
use multiply_add_loop;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_set_has_a_loop_of_each_kind_and_reads_every_word() {
        let bytes: Vec<u8> =
            (0..24_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for set in InstructionSet::ALL.into_iter().filter(|set| set.available()) {
            for arithmetic in Arithmetic::ALL {
                let own = MultiplyAddLoop::of(set, arithmetic);
                assert!(!own.instruction.is_empty());
                assert_eq!(own.run(3), 3 * own.operations);
            }
            for words in [0, 1, 7, 63, 64, 65, 127, 1000, 3000] {
                let mut expected = [0; 8];
                for (index, byte) in bytes[..8 * words].iter().enumerate() {
                    expected[index % 8] ^= byte;
                }
                let found = read(set, &bytes[..8 * words]).to_le_bytes();
                assert_eq!(found, expected, "{words} words on {set:?}");
            }
        }
    }

    /// One step of each kind of multiply-add, against plain sums over the bytes of the operands.
    #[inline(always)]
    pub(super) fn check<M: MultiplyAdd>(expected_sum: f64, sum: impl Fn(M::Sums) -> f64) {
        // SAFETY: the callers have checked the instruction set; the operands are long enough.
        let sums = unsafe {
            let operand = M::load(OPERANDS.0.as_ptr());
            M::add(M::zero(), operand, operand)
        };
        assert_eq!(sum(sums), expected_sum * M::OPERATIONS as f64 / 2.0);
    }

    #[test]
    fn a_step_multiplies_as_many_numbers_as_it_says() {
        let halves = f64::from(i16::from_le_bytes([63, 63]));
        check::<portable::Int8>(63.0 * 63.0, |sums| sums.map(f64::from).iter().sum());
        check::<portable::Int16>(halves * halves, |sums| sums.map(f64::from).iter().sum());
        #[cfg(target_arch = "x86_64")]
        x86_64::tests::check_all(halves * halves);
        #[cfg(target_arch = "aarch64")]
        aarch64::tests::check_all(halves * halves);
    }
}
