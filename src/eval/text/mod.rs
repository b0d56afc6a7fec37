//! What a model makes of a text: perplexity, how far its predictions are from another model's or from
//! llama.cpp's file of them, and what its weights are multiplied with.
//!
//! The doors are [`perplexity::measure`], [`divergence::measure`] and [`calibration::collect`]. All read
//! the windows of [`windows`]; the first two keep what they have in a journal.

mod base_logits;
pub mod calibration;
pub mod divergence;
pub mod perplexity;
mod text_file;
mod wanted;
mod window_journal;
mod window_run;
pub mod windows;

pub use base_logits::{BaseLogits, CodedRow, CodedRows};
pub use text_file::TextFile;
pub use wanted::{WantedDivergence, WantedPerplexity};
pub use window_journal::WindowJournalOptions;
