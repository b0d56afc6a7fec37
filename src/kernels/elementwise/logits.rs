//! What becomes of logits before they are compared.

use super::exponential::exponential;
use crate::kernels::dispatch::for_each_instruction_set;

for_each_instruction_set! {
    /// Multiplies a row with a factor; then, where there is a cap c, l becomes `c · tanh(l / c)`.
    pub fn scale_and_cap_row(factor: f32, softcap: Option<f32>, row: &mut [f32]) {
        match softcap {
            None => row.iter_mut().for_each(|logit| *logit *= factor),
            Some(cap) => {
                for logit in row {
                    // tanh x = 1 − 2 / (1 + e^2x).
                    let power = exponential(2.0 * factor * *logit / cap);
                    *logit = cap * (1.0 - 2.0 / (1.0 + power));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logits_are_scaled_then_capped() {
        let logits: Vec<f32> = (-200..200).map(|step| step as f32 * 0.7).collect();
        let mut scaled = logits.clone();
        scale_and_cap_row(0.25, None, &mut scaled);
        let mut capped = logits.clone();
        scale_and_cap_row(0.25, Some(30.0), &mut capped);
        for ((logit, scaled), capped) in logits.iter().zip(scaled).zip(capped) {
            assert_eq!(scaled, logit * 0.25);
            let expected = 30.0 * (f64::from(*logit) * 0.25 / 30.0).tanh();
            assert!((f64::from(capped) - expected).abs() < 1e-5, "{logit}: {capped}");
        }
        let mut nan = [f32::NAN];
        scale_and_cap_row(1.0, Some(30.0), &mut nan);
        assert!(nan[0].is_nan());
    }
}
