//! What each tensor loses in each format: measured where it was, else estimated from the formats
//! that were.

use super::allocation::Alternative;
use crate::gguf::GgmlType;

/// A format that a tensor could have.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Candidate {
    pub(super) format: GgmlType,
    /// Bytes in the file, padding included.
    pub(super) bytes: u64,
    /// Squared error of the weights; 0 only where the weights stay as they are.
    pub(super) squared_error: f64,
    /// Mean divergence, where it was measured.
    pub(super) measured: Option<f64>,
}

/// The candidates that are smaller than all others with as little error, from small to large.
pub(super) fn undominated(mut candidates: Vec<Candidate>) -> Vec<Candidate> {
    candidates
        .sort_by(|a, b| a.bytes.cmp(&b.bytes).then(a.squared_error.total_cmp(&b.squared_error)));
    let mut least = f64::INFINITY;
    candidates.retain(|candidate| {
        let is_better = candidate.squared_error < least;
        least = least.min(candidate.squared_error);
        is_better
    });
    candidates
}

/// What the tensor loses in each of its candidates.
///
/// Between two measured formats, the logarithm of the divergence is interpolated over that of the
/// squared error; beyond them it grows in proportion to the error. Without any measurement the
/// squared error itself is taken.
pub(super) fn losses(candidates: &[Candidate]) -> Vec<Alternative> {
    let mut measured: Vec<(f64, f64)> = candidates
        .iter()
        .filter(|candidate| candidate.squared_error > 0.0)
        .filter_map(|candidate| Some((candidate.squared_error, candidate.measured?)))
        .collect();
    measured.sort_by(|a, b| a.0.total_cmp(&b.0));
    candidates
        .iter()
        .map(|candidate| {
            let estimate = || estimate(candidate.squared_error, &measured);
            let loss = candidate.measured.unwrap_or_else(estimate);
            Alternative { bytes: candidate.bytes, loss }
        })
        .collect()
}

/// `measured` has squared errors and divergences, sorted by error.
fn estimate(error: f64, measured: &[(f64, f64)]) -> f64 {
    if error == 0.0 {
        return 0.0;
    }
    let above = measured.partition_point(|&(known, _)| known < error);
    match (above.checked_sub(1).map(|below| measured[below]), measured.get(above)) {
        (None, None) => error,
        (Some((known, loss)), None) | (None, Some(&(known, loss))) => loss * error / known,
        (Some((low, small)), Some(&(high, large))) => {
            let place = (error / low).ln() / (high / low).ln();
            // A loss may have been measured as 0, which has no logarithm.
            if small > 0.0 && large > 0.0 {
                small * (large / small).powf(place)
            } else {
                small + (large - small) * place
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(bytes: u64, squared_error: f64, measured: Option<f64>) -> Candidate {
        Candidate { format: GgmlType::Q4_0, bytes, squared_error, measured }
    }

    #[test]
    fn what_is_larger_and_no_better_is_left_out() {
        let all = [(5, 3.0), (4, 4.0), (6, 3.0), (4, 5.0), (9, 0.0)];
        let all = all.map(|(bytes, error)| candidate(bytes, error, None)).to_vec();
        let kept: Vec<(u64, f64)> =
            undominated(all).iter().map(|one| (one.bytes, one.squared_error)).collect();
        assert_eq!(kept, [(4, 4.0), (5, 3.0), (9, 0.0)]);
    }

    #[test]
    fn estimates_follow_the_measurements() {
        let losses_of = |candidates: &[Candidate]| -> Vec<f64> {
            losses(candidates).iter().map(|one| one.loss).collect()
        };
        // In proportion beyond the measurements, a power law between them, 0 without an error.
        let found = losses_of(&[
            candidate(1, 64.0, None),
            candidate(2, 16.0, Some(0.8)),
            candidate(3, 4.0, None),
            candidate(4, 1.0, Some(0.2)),
            candidate(5, 0.5, None),
            candidate(6, 0.0, None),
        ]);
        for (found, expected) in found.iter().zip([3.2, 0.8, 0.4, 0.2, 0.1, 0.0]) {
            assert!((found - expected).abs() < 1e-12, "{found} instead of {expected}");
        }
        assert_eq!(losses_of(&[candidate(1, 7.0, None)]), [7.0]);
        let flat = [(9.0, Some(0.3)), (3.0, None), (1.0, Some(0.0))];
        let flat = flat.map(|(error, measured)| candidate(1, error, measured));
        assert!((losses_of(&flat)[1] - 0.15).abs() < 1e-12);
    }
}
