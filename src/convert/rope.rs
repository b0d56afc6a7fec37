//! llama 3's context extension: numbers in config.json, a tensor of divisors in GGUF.

use crate::checkpoint::config::RopeScaling;

/// The base of the rotary frequencies where nothing states it.
pub(super) const DEFAULT_BASE: f64 = 10_000.0;

/// The divisor of each of the `head_dim / 2` rotary frequencies, in 32-bit arithmetic as in
/// llama.cpp's converter; `None` for any other scaling.
///
/// Wavelengths below `original_context / high_freq_factor` keep their frequency, those above
/// `original_context / low_freq_factor` are divided by `factor`, and between them the divisor
/// changes smoothly.
pub(super) fn llama3_divisors(
    scaling: &RopeScaling,
    base: f64,
    head_dim: usize,
) -> Option<Vec<f32>> {
    let &RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } =
        scaling
    else {
        return None;
    };
    let context = f64::from(original_context);
    let longest = (context / low_freq_factor) as f32;
    let shortest = (context / high_freq_factor) as f32;
    let ramp = (high_freq_factor - low_freq_factor) as f32;
    let (factor, low, context) = (factor as f32, low_freq_factor as f32, context as f32);
    let divisor = |index: usize| {
        let exponent = index as f32 / head_dim as f32;
        let frequency = 1.0 / base.powf(f64::from(exponent)) as f32;
        let wavelength = (1.0 / frequency) * std::f32::consts::TAU;
        if wavelength < shortest {
            1.0
        } else if wavelength > longest {
            factor
        } else {
            let smooth = ((1.0 / wavelength) * context - low) / ramp;
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    };
    Some((0..head_dim).step_by(2).map(divisor).collect())
}

/// The numbers that give these divisors. GGUF does not keep them, so they are found by trying the
/// combinations in use: original contexts that are powers of two, and whole ramps up to 8.
pub(super) fn llama3_scaling(divisors: &[f32], base: f64) -> Result<RopeScaling, String> {
    let factor = divisors.iter().copied().fold(1.0_f32, f32::max);
    for context in (8..=20).map(|power| 1_u32 << power) {
        for (low, high) in (1..8).flat_map(|low| (low + 1..=8).map(move |high| (low, high))) {
            let scaling = RopeScaling::Llama3 {
                factor: f64::from(factor),
                low_freq_factor: f64::from(low),
                high_freq_factor: f64::from(high),
                original_context: context,
            };
            let candidate = llama3_divisors(&scaling, base, divisors.len() * 2);
            if candidate.is_some_and(|candidate| close(&candidate, divisors)) {
                return Ok(scaling);
            }
        }
    }
    Err("rope_freqs.weight holds no divisors that config.json's llama3 rope scaling can express"
        .to_string())
}

fn close(left: &[f32], right: &[f32]) -> bool {
    left.iter().zip(right).all(|(left, right)| (left - right).abs() <= 1e-4 * right.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_found_again() {
        let scaling = RopeScaling::Llama3 {
            factor: 32.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context: 8192,
        };
        let divisors = llama3_divisors(&scaling, 5e5, 128).unwrap();
        assert_eq!(divisors.len(), 64);
        assert_eq!(divisors[0], 1.0);
        assert_eq!(divisors[63], 32.0);
        assert!(divisors.iter().any(|&divisor| divisor > 1.0 && divisor < 32.0));
        assert_eq!(llama3_scaling(&divisors, 5e5).unwrap(), scaling);
    }

    #[test]
    fn other_divisors_are_refused() {
        assert!(llama3_scaling(&[1.0, 7.0, 2.0, 9.0], 1e4).is_err());
    }
}
