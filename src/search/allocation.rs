//! Which format for which tensor: the smallest sum of losses within a number of bytes.
//!
//! This is the multiple-choice knapsack problem. Its relaxation is solved by taking, of all steps
//! to a better format on the tensors' lower convex hulls, the one that gains the most for a byte,
//! again and again; each state on that way is the best of its size. What is left of the budget at
//! the end is spent on single changes and on exchanges between two tensors.

/// One way to keep a tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Alternative {
    /// Bytes that it takes.
    pub bytes: u64,
    /// What is lost by it; finite.
    pub loss: f64,
}

/// One alternative for each tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Allocation {
    /// Which alternative each tensor has.
    pub chosen: Vec<usize>,
    /// Bytes of all.
    pub bytes: u64,
    /// Losses of all.
    pub loss: f64,
}

/// The bytes that the smallest alternatives take.
pub fn smallest(tensors: &[Vec<Alternative>]) -> u64 {
    let smallest = |alternatives: &Vec<Alternative>| alternatives.iter().map(|one| one.bytes).min();
    tensors.iter().filter_map(smallest).sum()
}

/// An allocation of at most `budget` bytes whose loss is the smallest, or above it by less than
/// what one step for one tensor gains; `None` where even the smallest alternatives take more.
///
/// # Panics
/// If a tensor has no alternative.
pub fn allocate(tensors: &[Vec<Alternative>], budget: u64) -> Option<Allocation> {
    let mut state = State::smallest(tensors);
    if state.bytes > budget {
        return None;
    }
    let mut is_full = vec![false; tensors.len()];
    for step in steps(tensors) {
        if is_full[step.tensor] {
            continue;
        }
        let bytes = state.bytes_after(step.tensor, step.to);
        if bytes <= budget {
            state.change(step.tensor, step.to);
        } else {
            // The later steps of this tensor are larger yet.
            is_full[step.tensor] = true;
        }
    }
    while state.improve(budget) {}
    Some(state.into_allocation())
}

/// The best loss at every size at which it is known exactly, from the smallest size to the largest.
pub fn curve(tensors: &[Vec<Alternative>]) -> Vec<Alternative> {
    let mut state = State::smallest(tensors);
    let mut points = vec![state.total()];
    for step in steps(tensors) {
        state.change(step.tensor, step.to);
        points.push(state.total());
    }
    points
}

/// From one alternative of a tensor's hull to the next.
#[derive(Debug)]
struct Step {
    tensor: usize,
    to: usize,
    /// Loss saved by a byte.
    gain: f64,
}

/// The steps of all tensors' hulls, the one that gains the most by a byte first. Those of one tensor
/// come in order, as hulls are convex.
fn steps(tensors: &[Vec<Alternative>]) -> Vec<Step> {
    let mut steps = Vec::new();
    for (tensor, alternatives) in tensors.iter().enumerate() {
        for pair in hull(alternatives).windows(2) {
            let (from, to) = (alternatives[pair[0]], alternatives[pair[1]]);
            let gain = (from.loss - to.loss) / (to.bytes - from.bytes) as f64;
            steps.push(Step { tensor, to: pair[1], gain });
        }
    }
    steps.sort_by(|a, b| b.gain.total_cmp(&a.gain));
    steps
}

/// The lower convex hull of a tensor's alternatives over their bytes: those that are the best for
/// some price of a byte, the smallest first.
pub fn hull(alternatives: &[Alternative]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..alternatives.len()).collect();
    order.sort_by(|&a, &b| {
        let (a, b) = (&alternatives[a], &alternatives[b]);
        a.bytes.cmp(&b.bytes).then(a.loss.total_cmp(&b.loss))
    });
    let mut hull: Vec<usize> = Vec::new();
    let slope = |from: usize, to: usize| {
        let (from, to) = (&alternatives[from], &alternatives[to]);
        (to.loss - from.loss) / (to.bytes as f64 - from.bytes as f64)
    };
    for next in order {
        if hull.last().is_some_and(|&last| alternatives[next].loss >= alternatives[last].loss) {
            continue;
        }
        while let [.., before, last] = hull[..]
            && slope(before, last) >= slope(last, next)
        {
            hull.pop();
        }
        hull.push(next);
    }
    hull
}

/// An allocation that changes.
#[derive(Debug)]
struct State<'a> {
    tensors: &'a [Vec<Alternative>],
    chosen: Vec<usize>,
    bytes: u64,
}

/// A change of one tensor.
#[derive(Debug, Clone, Copy)]
struct Change {
    tensor: usize,
    to: usize,
    /// Bytes that it frees, or takes if below 0.
    freed: i128,
    /// Loss that it adds, or saves if below 0.
    added: f64,
}

impl<'a> State<'a> {
    /// Every tensor at its smallest; of equal ones at the best.
    fn smallest(tensors: &'a [Vec<Alternative>]) -> Self {
        let chosen: Vec<usize> = tensors.iter().map(|alternatives| hull(alternatives)[0]).collect();
        let bytes = tensors.iter().zip(&chosen).map(|(alternatives, &one)| alternatives[one].bytes);
        let bytes = bytes.sum();
        Self { tensors, chosen, bytes }
    }

    fn current(&self, tensor: usize) -> Alternative {
        self.tensors[tensor][self.chosen[tensor]]
    }

    fn bytes_after(&self, tensor: usize, to: usize) -> u64 {
        self.bytes - self.current(tensor).bytes + self.tensors[tensor][to].bytes
    }

    fn change(&mut self, tensor: usize, to: usize) {
        self.bytes = self.bytes_after(tensor, to);
        self.chosen[tensor] = to;
    }

    fn total(&self) -> Alternative {
        let loss = (0..self.tensors.len()).map(|tensor| self.current(tensor).loss).sum();
        Alternative { bytes: self.bytes, loss }
    }

    fn into_allocation(self) -> Allocation {
        let Alternative { bytes, loss } = self.total();
        Allocation { chosen: self.chosen, bytes, loss }
    }

    fn changes(&self) -> impl Iterator<Item = Change> {
        self.tensors.iter().enumerate().flat_map(move |(tensor, alternatives)| {
            let current = self.current(tensor);
            alternatives.iter().enumerate().map(move |(to, other)| Change {
                tensor,
                to,
                freed: i128::from(current.bytes) - i128::from(other.bytes),
                added: other.loss - current.loss,
            })
        })
    }

    /// Makes the best single change, or exchange between two tensors, that saves loss and stays
    /// within the budget; false if there is none.
    fn improve(&mut self, budget: u64) -> bool {
        let free = i128::from(budget) - i128::from(self.bytes);
        let mut givers: Vec<Change> = self.changes().filter(|change| change.freed > 0).collect();
        givers.sort_by_key(|change| std::cmp::Reverse(change.freed));
        let cheapest = cheapest_prefixes(&givers);
        let mut best: Option<(f64, Change, Option<Change>)> = None;
        for taker in self.changes().filter(|change| change.added < 0.0) {
            let missing = -taker.freed - free;
            let giver = if missing <= 0 {
                None
            } else {
                // Of those that free enough, the one that costs the least, of another tensor.
                let enough = givers.partition_point(|giver| giver.freed >= missing);
                let two = if enough == 0 { [None; 2] } else { cheapest[enough - 1] };
                let other =
                    two.into_iter().flatten().find(|&giver| givers[giver].tensor != taker.tensor);
                let Some(giver) = other else { continue };
                Some(givers[giver])
            };
            let added = taker.added + giver.map_or(0.0, |giver| giver.added);
            if added < best.as_ref().map_or(-f64::EPSILON * taker.added.abs(), |best| best.0) {
                best = Some((added, taker, giver));
            }
        }
        let Some((_, taker, giver)) = best else { return false };
        for change in [Some(taker), giver].into_iter().flatten() {
            self.change(change.tensor, change.to);
        }
        true
    }
}

/// For each prefix of the changes: which of its changes adds the least loss, and which of those of
/// other tensors.
fn cheapest_prefixes(changes: &[Change]) -> Vec<[Option<usize>; 2]> {
    let mut best: [Option<usize>; 2] = [None; 2];
    let added = |place: Option<usize>| place.map_or(f64::INFINITY, |index| changes[index].added);
    let mut prefixes = Vec::with_capacity(changes.len());
    for (index, change) in changes.iter().enumerate() {
        let is_of = |place: Option<usize>| {
            place.is_some_and(|index| changes[index].tensor == change.tensor)
        };
        if change.added < added(best[0]) {
            if !is_of(best[0]) {
                best[1] = best[0];
            }
            best[0] = Some(index);
        } else if change.added < added(best[1]) && !is_of(best[0]) {
            best[1] = Some(index);
        }
        prefixes.push(best);
    }
    prefixes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn alternatives(pairs: &[(u64, f64)]) -> Vec<Alternative> {
        pairs.iter().map(|&(bytes, loss)| Alternative { bytes, loss }).collect()
    }

    #[test]
    fn a_hull_leaves_out_what_is_never_best() {
        // 20 lies above the line from 10 to 30; 40 is worse than 30; the second 10 is dominated.
        let points = alternatives(&[(30, 1.0), (10, 9.0), (20, 6.0), (40, 1.5), (10, 9.5)]);
        assert_eq!(hull(&points), [1, 0]);
        let convex = alternatives(&[(10, 9.0), (20, 4.0), (30, 1.0)]);
        assert_eq!(hull(&convex), [0, 1, 2]);
    }

    #[test]
    fn what_is_left_is_spent() {
        // After the first tensor's step, 5 bytes are left: too few for its next step, enough for
        // the second tensor's, which gains less for a byte.
        let tensors = [
            alternatives(&[(10, 10.0), (20, 2.0), (40, 0.0)]),
            alternatives(&[(10, 1.0), (15, 0.9)]),
        ];
        let found = allocate(&tensors, 35).unwrap();
        assert_eq!((found.chosen, found.bytes), (vec![1, 1], 35));
        assert_eq!(allocate(&tensors, 19), None);
        assert_eq!(smallest(&tensors), 20);
    }

    #[test]
    fn exchanges_find_what_the_steps_miss() {
        // The best step for a byte is the first tensor's, and leaves no room for the second's.
        let tensors =
            [alternatives(&[(10, 10.0), (14, 5.0)]), alternatives(&[(10, 10.0), (20, 0.0)])];
        assert_eq!(allocate(&tensors, 30).unwrap().chosen, [0, 1]);
    }

    /// The smallest loss of all allocations within the budget.
    fn best_of_all(tensors: &[Vec<Alternative>], budget: u64) -> Option<f64> {
        let Some((first, rest)) = tensors.split_first() else { return Some(0.0) };
        let with = |one: &Alternative| {
            let rest = best_of_all(rest, budget.checked_sub(one.bytes)?)?;
            Some(one.loss + rest)
        };
        first.iter().filter_map(with).min_by(f64::total_cmp)
    }

    fn tensors() -> impl Strategy<Value = Vec<Vec<Alternative>>> {
        let alternative =
            (1u64..60, 0.0..10.0f64).prop_map(|(bytes, loss)| Alternative { bytes, loss });
        prop::collection::vec(prop::collection::vec(alternative, 1..5), 1..6)
    }

    proptest! {
        #[test]
        fn no_allocation_is_far_from_the_best(tensors in tensors(), budget in 0u64..250) {
            let best = best_of_all(&tensors, budget);
            let found = allocate(&tensors, budget);
            prop_assert_eq!(best.is_some(), found.is_some());
            let (Some(best), Some(found)) = (best, found) else { return Ok(()) };
            let bytes: u64 =
                tensors.iter().zip(&found.chosen).map(|(all, &one)| all[one].bytes).sum();
            let loss: f64 =
                tensors.iter().zip(&found.chosen).map(|(all, &one)| all[one].loss).sum();
            prop_assert_eq!(found.bytes, bytes);
            prop_assert!((found.loss - loss).abs() < 1e-9);
            prop_assert!(bytes <= budget);
            let largest_step = tensors
                .iter()
                .flat_map(|all| hull(all).windows(2).map(|pair| {
                    all[pair[0]].loss - all[pair[1]].loss
                }).collect::<Vec<_>>())
                .fold(0.0, f64::max);
            prop_assert!(found.loss >= best - 1e-9);
            prop_assert!(found.loss <= best + largest_step + 1e-9, "{} for {best}", found.loss);
        }

        #[test]
        fn the_curve_falls_and_each_of_its_points_is_the_best_of_its_size(tensors in tensors()) {
            let points = curve(&tensors);
            prop_assert_eq!(points[0].bytes, smallest(&tensors));
            for pair in points.windows(2) {
                prop_assert!(pair[0].bytes < pair[1].bytes && pair[0].loss > pair[1].loss);
            }
            for point in points {
                let best = best_of_all(&tensors, point.bytes).unwrap();
                prop_assert!((point.loss - best).abs() < 1e-9);
                let found = allocate(&tensors, point.bytes).unwrap();
                prop_assert!((found.loss - best).abs() < 1e-9);
            }
        }
    }
}
