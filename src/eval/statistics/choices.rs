//! The probabilities of a question's choices, and how far two models' are apart.

/// The smallest logarithm of a probability: that of the smallest number above 0.
const SMALLEST: f64 = -745.0;

/// The natural logarithms of the choices' probabilities: log-probabilities, whatever they were
/// taken of, so that the probabilities of the choices sum to 1.
pub fn normalized(log_probabilities: &[f64]) -> Vec<f64> {
    let largest = log_probabilities.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = log_probabilities.iter().map(|value| (value - largest).exp()).sum();
    let shift = largest + sum.ln();
    log_probabilities.iter().map(|value| (value - shift).max(SMALLEST)).collect()
}

/// The Kullback-Leibler divergence KL(base ‖ variant) in nats, of logarithms of probabilities.
pub fn divergence(base: &[f64], variant: &[f64]) -> f64 {
    let terms = base.iter().zip(variant).map(|(p, q)| p.exp() * (p - q));
    terms.sum::<f64>().max(0.0)
}

/// The index of the largest value; the first of equal ones, as both reference protocols have it.
pub(in crate::eval) fn first_largest(values: &[f64]) -> usize {
    let mut best = 0;
    for (index, &value) in values.iter().enumerate() {
        if value > values[best] {
            best = index;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_share_a_probability_of_one() {
        let logs = normalized(&[-1000.0, -1001.0, f64::NEG_INFINITY]);
        assert!((logs[0].exp() - 1.0 / (1.0 + (-1f64).exp())).abs() < 1e-12);
        assert!((logs.iter().map(|log| log.exp()).sum::<f64>() - 1.0).abs() < 1e-12);
        assert!(logs[2].is_finite());
    }

    #[test]
    fn equal_choices_do_not_diverge() {
        let logs = normalized(&[-0.5, -2.0, -1.0]);
        assert_eq!(divergence(&logs, &logs), 0.0);
        let other = normalized(&[-0.5, -2.0, f64::NEG_INFINITY]);
        assert!(divergence(&logs, &other).is_finite());
    }

    #[test]
    fn ties_go_to_the_first() {
        assert_eq!(first_largest(&[-2.0, -1.0, -1.0, -3.0]), 1);
        assert_eq!(first_largest(&[-1.0, -1.0]), 0);
    }
}
