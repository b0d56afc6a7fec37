//! Which questions are scored together, and which of them a shard takes.
//!
//! Groups of questions are cut into blocks, which are tokenized, packed into steps and dealt out to
//! shards as they are. So every question meets the same neighbours in the same steps, wherever and
//! in however many parts a set is scored, and gets the same bits.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::eval::questions::Question;

/// Questions of a block: enough for full steps, few enough for even shards.
const BLOCK_QUESTIONS: usize = 64;

/// One of several equal parts of the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Shard {
    /// From 0 to `count − 1`.
    pub index: usize,
    /// How many there are.
    pub count: usize,
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split_once('/').and_then(|(index, count)| {
            Some(Self { index: index.parse().ok()?, count: count.parse().ok()? })
        });
        numbers
            .filter(|shard| shard.index < shard.count)
            .ok_or_else(|| format!("expected I/N with I from 0 to N - 1, like 0/4, found {text:?}"))
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.index, self.count)
    }
}

impl TryFrom<String> for Shard {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Shard> for String {
    fn from(shard: Shard) -> Self {
        shard.to_string()
    }
}

/// Consecutive questions of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Block {
    /// The group's index.
    pub group: usize,
    /// Its questions among the group's.
    pub questions: Range<usize>,
}

/// Cuts all groups into blocks, and keeps those of the shard.
///
/// A shard is a stretch of blocks in the order of the groups, so that it needs few groups' shots;
/// the stretches hold about equally much text, questions and choices. A block goes to the shard in
/// whose share its middle lies.
pub(super) fn blocks(groups: &[&[Question]], shard: Option<Shard>) -> Vec<Block> {
    let all = groups.iter().enumerate().flat_map(|(group, questions)| {
        (0..questions.len()).step_by(BLOCK_QUESTIONS).map(move |start| Block {
            group,
            questions: start..(start + BLOCK_QUESTIONS).min(questions.len()),
        })
    });
    let Some(Shard { index, count }) = shard else { return all.collect() };
    let bytes = |questions: &[Question]| -> u128 { questions.iter().map(text_bytes).sum() };
    let total: u128 = groups.iter().map(|questions| bytes(questions)).sum();
    let mut before = 0;
    all.filter(|block| {
        let own = bytes(&groups[block.group][block.questions.clone()]);
        let middle = 2 * before + own;
        before += own;
        // The middle is below the total, as every question has text.
        middle * count as u128 / (2 * total.max(1)) == index as u128
    })
    .collect()
}

fn text_bytes(question: &Question) -> u128 {
    let choices: usize = question.choices.iter().map(String::len).sum();
    (question.question.len() + choices).max(1) as u128
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::questions::Form;

    fn questions(count: usize, length: usize) -> Vec<Question> {
        (0..count)
            .map(|row| Question {
                row,
                id: None,
                form: Form::default(),
                question: "q".repeat(length),
                subject: "s".to_string(),
                choices: vec!["a".to_string(), "b".to_string()],
                answer: 0,
            })
            .collect()
    }

    #[test]
    fn shards_are_written_as_a_fraction() {
        assert_eq!("2/8".parse(), Ok(Shard { index: 2, count: 8 }));
        assert_eq!(serde_json::to_string(&Shard { index: 0, count: 1 }).unwrap(), "\"0/1\"");
        for text in ["", "1", "1/", "/2", "2/2", "-1/2", "0/0", "a/b", "1/2/3"] {
            assert!(text.parse::<Shard>().is_err(), "{text}");
        }
    }

    #[test]
    fn every_block_is_in_exactly_one_shard_and_in_order() {
        let groups = [questions(200, 50), questions(1, 9000), questions(65, 400), questions(3, 1)];
        let groups: Vec<&[Question]> = groups.iter().map(Vec::as_slice).collect();
        let all = blocks(&groups, None);
        assert_eq!(all.len(), 4 + 1 + 2 + 1);
        assert_eq!(all.iter().map(|block| block.questions.len()).sum::<usize>(), 269);
        for count in 1..20 {
            let parts: Vec<Block> = (0..count)
                .flat_map(|index| blocks(&groups, Some(Shard { index, count })))
                .collect();
            assert_eq!(parts, all, "{count} shards");
        }
    }

    #[test]
    fn shards_are_about_equal() {
        let group = questions(64 * 100, 120);
        for index in 0..7 {
            let part = blocks(&[&group], Some(Shard { index, count: 7 }));
            assert!((14..=15).contains(&part.len()), "{}", part.len());
        }
    }
}
