//! Which questions of a set are scored.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use super::options::EvalOptions;
use super::record::Settings;
use crate::eval::EvalError;
use crate::eval::questions::Question;
use crate::eval::questions::subjects::nearest;

/// The seed with which `--limit-seeded` draws questions: llama.cpp's.
pub(super) const SEED: u32 = 1;

/// A choice of more subjects than these is described by their number.
const NAMED_SUBJECTS: usize = 3;

/// The shots of a run: none where the protocol takes none.
pub(super) fn shots(options: &EvalOptions) -> usize {
    if options.protocol.takes_shots() { options.shots } else { 0 }
}

/// Chooses the questions: takes every K-th row, keeps the wanted subjects, and then either the first N
/// questions of each subject, as lm-evaluation-harness limits each of its tasks, or N that are drawn.
///
/// # Errors
/// A subject that the set does not have; no question left.
pub(super) fn select(
    questions: Vec<Question>,
    options: &EvalOptions,
) -> Result<Vec<Question>, EvalError> {
    if options.every == 0 {
        return Err(EvalError::Unusable("--every must be at least 1".to_string()));
    }
    let known: BTreeSet<&str> = questions.iter().map(|q| q.subject.as_str()).collect();
    for wanted in &options.subjects {
        if !known.contains(wanted.as_str()) {
            return Err(unknown_subject(wanted, &options.set, &known));
        }
    }
    let mut selected: Vec<Question> = questions
        .into_iter()
        .step_by(options.every)
        .filter(|q| options.subjects.is_empty() || options.subjects.contains(&q.subject))
        .collect();
    if let Some(limit) = options.limit {
        let mut taken: HashMap<String, usize> = HashMap::new();
        selected.retain(|question| {
            let taken = taken.entry(question.subject.clone()).or_default();
            *taken += 1;
            *taken <= limit
        });
    }
    if let Some(wanted) = options.limit_seeded {
        let drawn: BTreeSet<usize> = llama_cpp_tasks(selected.len(), wanted).into_iter().collect();
        let mut index = 0..;
        selected.retain(|_| index.next().is_some_and(|index| drawn.contains(&index)));
    }
    if selected.is_empty() {
        return Err(EvalError::Unusable(format!(
            "{}: no question is left to score: lower --every, raise --limit or name other subjects",
            options.set.display()
        )));
    }
    Ok(selected)
}

/// Which questions the settings choose: "rows 0, 14, 28, …; the first 5 questions of each subject".
pub(super) fn described(settings: &Settings) -> String {
    let Settings { every, subjects, limit, limit_seeded, shard, .. } = settings;
    let mut words = Vec::new();
    if *every > 1 {
        words.push(format!("rows 0, {every}, {}, …", 2 * every));
    }
    match subjects.as_slice() {
        [] => {}
        [subject] => words.push(format!("the subject {subject}")),
        few if few.len() <= NAMED_SUBJECTS => words.push(format!("subjects {}", few.join(", "))),
        many => words.push(format!("{} subjects", many.len())),
    }
    words.extend(limit.map(|limit| match limit {
        1 => "the first question of each subject".to_string(),
        _ => format!("the first {limit} questions of each subject"),
    }));
    words.extend(limit_seeded.map(|limit| format!("{limit} questions drawn with seed {SEED}")));
    words.extend(shard.map(|shard| format!("shard {shard}")));
    if words.is_empty() { "all questions".to_string() } else { words.join("; ") }
}

fn unknown_subject(wanted: &str, set: &Path, known: &BTreeSet<&str>) -> EvalError {
    let near = nearest(wanted, known.iter().copied());
    let hint = if near.is_empty() {
        "it has none".to_string()
    } else {
        format!("did you mean {}?", near.join(", "))
    };
    EvalError::Unusable(format!("{}: no subject is called {wanted:?}; {hint}", set.display()))
}

/// The indices that llama.cpp's `--multiple-choice-tasks` draws from `total` tasks, in ascending
/// order; all where it would draw none or as many as there are.
///
/// It draws without putting back: the place of the next index among those left is a number of
/// `std::mt19937`, seeded with [`SEED`], scaled in 32-bit floats; the last index left takes the place of the
/// one that was drawn.
pub(super) fn llama_cpp_tasks(total: usize, wanted: usize) -> Vec<usize> {
    let mut left: Vec<usize> = (0..total).collect();
    if wanted == 0 || wanted >= total {
        return left;
    }
    let mut random = MersenneTwister::new(SEED);
    let scale = 2f32.powi(-32);
    let draw = |_| {
        // A number that rounds up to 1 would lie beyond the end.
        let place = (scale * random.next() as f32 * left.len() as f32) as usize;
        left.swap_remove(place.min(left.len() - 1))
    };
    let mut drawn: Vec<usize> = (0..wanted).map(draw).collect();
    drawn.sort_unstable();
    drawn
}

/// The engine `std::mt19937` of the C++ standard: Matsumoto and Nishimura's Mersenne Twister.
struct MersenneTwister {
    state: [u32; Self::WORDS],
    next: usize,
}

impl MersenneTwister {
    const WORDS: usize = 624;
    /// A word is mixed with the one so far behind it.
    const SHIFT: usize = 397;

    fn new(seed: u32) -> Self {
        let mut state = [seed; Self::WORDS];
        for index in 1..Self::WORDS {
            let previous = state[index - 1];
            state[index] = 1_812_433_253u32
                .wrapping_mul(previous ^ (previous >> 30))
                .wrapping_add(index as u32);
        }
        Self { state, next: Self::WORDS }
    }

    fn next(&mut self) -> u32 {
        if self.next == Self::WORDS {
            self.twist();
        }
        let mut word = self.state[self.next];
        self.next += 1;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9d2c_5680;
        word ^= (word << 15) & 0xefc6_0000;
        word ^ (word >> 18)
    }

    fn twist(&mut self) {
        for index in 0..Self::WORDS {
            let upper = self.state[index] & 0x8000_0000;
            let joined = upper | (self.state[(index + 1) % Self::WORDS] & 0x7fff_ffff);
            let mixed = (joined >> 1) ^ if joined & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[index] = self.state[(index + Self::SHIFT) % Self::WORDS] ^ mixed;
        }
        self.next = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_is_described_in_words() {
        use super::super::record::tests::settings;
        let subjects = |count: usize| (0..count).map(|index| format!("s{index}")).collect();
        assert_eq!(described(&settings()), "all questions");
        let choice = Settings { every: 14, limit: Some(5), ..settings() };
        assert_eq!(described(&choice), "rows 0, 14, 28, …; the first 5 questions of each subject");
        let choice = Settings { subjects: subjects(2), limit_seeded: Some(7), ..settings() };
        assert_eq!(described(&choice), "subjects s0, s1; 7 questions drawn with seed 1");
        let shard = Some(super::super::plan::Shard { index: 1, count: 4 });
        let choice = Settings { subjects: subjects(9), shard, ..settings() };
        assert_eq!(described(&choice), "9 subjects; shard 1/4");
    }

    /// Against libstdc++; the standard itself gives the 10,000th number for the seed 5489.
    #[test]
    fn numbers_are_those_of_the_standard() {
        let mut random = MersenneTwister::new(1);
        let numbers: Vec<u32> = (0..5).map(|_| random.next()).collect();
        assert_eq!(numbers, [1791095845, 4282876139, 3093770124, 4005303368, 491263]);
        let mut random = MersenneTwister::new(5489);
        assert_eq!((0..10_000).map(|_| random.next()).last(), Some(4_123_659_995));
    }

    /// Against a C++ program with the same drawing over libstdc++'s engine.
    #[test]
    fn the_tasks_are_those_that_llama_cpp_draws() {
        assert_eq!(llama_cpp_tasks(10, 9), [0, 1, 2, 4, 5, 6, 7, 8, 9]);
        let mut drawn = vec![5855, 14001, 10113, 13092, 1, 1798, 4243, 14021, 2059, 3313, 1295];
        drawn.sort_unstable();
        assert_eq!(llama_cpp_tasks(14_042, 11), drawn);
        // Sums, which the rounding of a single draw would change.
        assert_eq!(llama_cpp_tasks(817, 300).iter().sum::<usize>(), 114_840);
        assert_eq!(llama_cpp_tasks(14_042, 7000).iter().sum::<usize>(), 49_062_755);
        assert_eq!(llama_cpp_tasks(5, 0), [0, 1, 2, 3, 4]);
        assert_eq!(llama_cpp_tasks(5, 5), [0, 1, 2, 3, 4]);
        assert_eq!(llama_cpp_tasks(5, 7), [0, 1, 2, 3, 4]);
    }
}
