//! Every kind of registers against the array.

use super::*;

/// Bits, and the numbers that they are but for NaN and infinity.
fn numbers(seed: u64) -> [f32; WEIGHTS] {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::array::from_fn(|j| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let draw = (state >> 32) as u32;
        let moderate = (draw as i32 as f32) * 2f32.powi(-29);
        match seed % 6 {
            0 => Some(f32::from_bits(draw)).filter(|number| number.is_finite()).unwrap_or(0.0),
            1 => [0.0, -0.0, 1.0, -1.0][(draw >> 7) as usize % 4],
            2 if j % 3 == 0 => 0.0,
            2 => moderate.abs(),
            3 => (moderate * 8.0).round() / 2.0,
            4 => moderate * 1e9,
            _ => moderate * 40.0,
        }
    })
}

fn bits(numbers: [f32; WEIGHTS]) -> [u32; WEIGHTS] {
    numbers.map(f32::to_bits)
}

fn stored<W: Wide>(wide: W) -> [u32; WEIGHTS] {
    let mut numbers = [0.0; WEIGHTS];
    wide.store(&mut numbers);
    bits(numbers)
}

/// Everything that can be asked of 32 numbers.
#[inline(always)]
fn answers<W: Wide>(numbers: &[f32; WEIGHTS]) -> String {
    let wide = W::load(numbers);
    let bytes = bits(*numbers).map(|bits| (bits >> 13) as u8);
    let mut halves = [0; 2 * WEIGHTS];
    wide.to_f16s(&mut halves);
    let mut brain = [0; 2 * WEIGHTS];
    wide.to_bf16s(&mut brain);
    let arbitrary: [u8; 2 * WEIGHTS] = std::array::from_fn(|j| bytes[j % WEIGHTS] ^ (j as u8 * 37));
    let (minimum, maximum) = wide.range();
    let table = std::array::from_fn(|j| bytes[j] as i8);
    // From what is truncated to pairs no other can come.
    let places = numbers.map(|n| if n.abs() < 1e10 { n.abs() % 100.0 } else { n });
    let numbers_of_bytes = (
        (stored(wide.add(numbers[3])), stored(wide.sub(numbers[4])), stored(wide.mul(numbers[5]))),
        (stored(W::from_bytes(&bytes)), stored(W::from_signed_bytes(&bytes))),
        (brain, stored(W::from_bf16s(&arbitrary)), wide.is_finite()),
        (halves, stored(W::from_f16s(&arbitrary)), W::to_f16(numbers[0])),
        W::from_f16(u16::from_le_bytes([bytes[0], bytes[1]])).to_bits(),
        (wide.largest_magnitude().to_bits(), wide.extreme().to_bits()),
        (minimum.to_bits(), maximum.to_bits()),
        (wide.truncated(), wide.rounded_half_away()),
        W::load(&places).truncated_nibbles(),
        wide.limits_passed(&[0.25, 0.5, 1.0, 1.5, 3.0, 1e6, 1e30]),
        wide.negative(),
    );
    let bytes_and_bits = (
        W::look_up(&table, &bytes.map(|byte| byte & 15)),
        (W::gather_bits::<4>(&bytes), W::scatter_bits::<4>(numbers[1].to_bits())),
        W::scatter_bits::<3>(numbers[2].to_bits()),
    );
    format!("{numbers_of_bytes:?} {bytes_and_bits:?}")
}

#[cfg(target_arch = "x86_64")]
#[test]
fn registers_give_the_answers_of_the_array() {
    use crate::support::processor::InstructionSet;

    #[target_feature(enable = "avx2,fma,f16c")]
    fn avx2(numbers: &[f32; WEIGHTS]) -> String {
        answers::<Wide256>(numbers)
    }
    #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma,f16c")]
    fn avx512(numbers: &[f32; WEIGHTS]) -> String {
        answers::<Wide512>(numbers)
    }
    for seed in 0..2_000 {
        let numbers = numbers(seed);
        let expected = answers::<[f32; WEIGHTS]>(&numbers);
        if InstructionSet::Avx2.available() {
            // SAFETY: the machine has AVX2, FMA and F16C.
            assert_eq!(unsafe { avx2(&numbers) }, expected, "seed {seed}");
        }
        if InstructionSet::Avx512.available() {
            // SAFETY: the machine has AVX-512.
            assert_eq!(unsafe { avx512(&numbers) }, expected, "seed {seed}");
        }
    }
}

#[cfg(target_arch = "aarch64")]
#[test]
fn registers_give_the_answers_of_the_array() {
    for seed in 0..2_000 {
        let numbers = numbers(seed);
        let expected = answers::<[f32; WEIGHTS]>(&numbers);
        assert_eq!(answers::<WideNeon>(&numbers), expected, "seed {seed}");
    }
}
