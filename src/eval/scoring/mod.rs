//! Scoring: the log-probabilities of choices, by a model that runs here or by a server, and what they
//! say under a protocol.
//!
//! The doors are `Scorer` for a model that runs here and [`endpoint`] for one that a server runs. Both
//! give `Scored` questions, which `Reading` turns into predictions.

pub mod endpoint;
mod reading;
mod scored;
mod scorer;

pub use reading::OtherReadings;
pub(super) use reading::Reading;
pub(super) use scored::Scored;
pub(super) use scorer::{Scorer, shared_prefix};
