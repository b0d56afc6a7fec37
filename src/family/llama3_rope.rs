//! llama 3's context extension: numbers in config.json, a tensor of divisors in GGUF.

use serde_json::{Value, json};

/// Llama 3.1's scaling of the rotary frequencies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Llama3Scaling {
    /// Divisor of the low frequencies.
    pub factor: f64,
    /// `original_context / low_freq_factor` is the wavelength above which all is divided.
    pub low_freq_factor: f64,
    /// `original_context / high_freq_factor` is the wavelength below which all is kept.
    pub high_freq_factor: f64,
    /// The context before, in tokens.
    pub original_context: u32,
}

impl Llama3Scaling {
    /// The divisor of each of the `size / 2` rotary frequencies, in 32-bit arithmetic as in llama.cpp's
    /// converter.
    ///
    /// Wavelengths below `original_context / high_freq_factor` keep their frequency, those above
    /// `original_context / low_freq_factor` are divided by `factor`, and between them the divisor
    /// changes smoothly.
    pub fn divisors(&self, base: f64, size: usize) -> Vec<f32> {
        let context = f64::from(self.original_context);
        let longest = (context / self.low_freq_factor) as f32;
        let shortest = (context / self.high_freq_factor) as f32;
        let ramp = (self.high_freq_factor - self.low_freq_factor) as f32;
        let (factor, low) = (self.factor as f32, self.low_freq_factor as f32);
        let context = context as f32;
        let divisor = |index: usize| {
            let exponent = index as f32 / size as f32;
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
        (0..size).step_by(2).map(divisor).collect()
    }

    /// The numbers that give these divisors. GGUF does not keep them, so they are found by trying the
    /// combinations in use: original contexts that are powers of two, and whole ramps up to 8.
    ///
    /// # Errors
    /// There are none.
    pub fn find(divisors: &[f32], base: f64) -> Result<Self, String> {
        let factor = divisors.iter().copied().fold(1.0_f32, f32::max);
        for original_context in (3..=20).map(|power| 1_u32 << power) {
            for (low, high) in (1..8).flat_map(|low| (low + 1..=8).map(move |high| (low, high))) {
                let scaling = Self {
                    factor: f64::from(factor),
                    low_freq_factor: f64::from(low),
                    high_freq_factor: f64::from(high),
                    original_context,
                };
                if close(&scaling.divisors(base, divisors.len() * 2), divisors) {
                    return Ok(scaling);
                }
            }
        }
        Err("rope_freqs.weight holds no divisors that config.json's llama3 rope scaling can express"
            .to_string())
    }

    /// The value of `rope_scaling` in `config.json`.
    pub fn to_json(self) -> Value {
        json!({
            "rope_type": "llama3",
            "factor": self.factor,
            "low_freq_factor": self.low_freq_factor,
            "high_freq_factor": self.high_freq_factor,
            "original_max_position_embeddings": self.original_context,
        })
    }
}

fn close(left: &[f32], right: &[f32]) -> bool {
    left.iter().zip(right).all(|(left, right)| (left - right).abs() <= 1e-4 * right.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_found_again() {
        let scaling = Llama3Scaling {
            factor: 32.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context: 8192,
        };
        let divisors = scaling.divisors(5e5, 128);
        assert_eq!(divisors.len(), 64);
        assert_eq!(divisors[0], 1.0);
        assert_eq!(divisors[63], 32.0);
        assert!(divisors.iter().any(|&divisor| divisor > 1.0 && divisor < 32.0));
        assert_eq!(Llama3Scaling::find(&divisors, 5e5).unwrap(), scaling);
    }

    #[test]
    fn other_divisors_are_refused() {
        assert!(Llama3Scaling::find(&[1.0, 7.0, 2.0, 9.0], 1e4).is_err());
    }
}
