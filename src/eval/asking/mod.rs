//! How questions are put to a model: the protocols, their texts, and these texts as tokens.
//!
//! The door is `groups`, which gathers the questions that are asked with the same text before them;
//! [`asked_texts`] shows what a model is asked.

mod candidates;
mod groups;
mod prompts;
mod protocol;

pub(super) use candidates::{Candidates, common_prefix};
pub use groups::{AskedText, asked_texts};
pub(super) use groups::{Group, groups};
#[cfg(test)]
pub(super) use prompts::Completion;
pub(super) use prompts::completed_text;
pub use protocol::Protocol;
