//! Accuracy and its standard error, and what is needed to compare two models' answers.
//!
//! `scripts/statistics_reference.py` computes the same with scipy, statsmodels and
//! lm-evaluation-harness; the tests compare with its values.
//!
//! The doors are [`Score`] for one run and [`paired::Paired`] for a run against another.

pub mod choices;
pub mod intervals;
mod mean;
pub mod paired;
#[cfg(test)]
mod reference_tests;
pub mod reliability;
mod score;
pub mod tests_of_change;

pub use mean::Mean;
pub(super) use score::Outcome;
pub use score::Score;
