//! The questions of a run, grouped and cut into blocks.

use super::baseline::Baseline;
use super::options::EvalOptions;
use super::plan::{self, Block};
use super::record::Settings;
use super::selection::{select, shots};
use crate::eval::EvalError;
use crate::eval::asking::{Group, groups};
use crate::eval::questions::{Question, QuestionSet};

/// The questions of a run.
pub(super) struct Selected {
    pub groups: Vec<Group>,
    /// Those of the shard.
    pub blocks: Vec<Block>,
    set_sha256: String,
    /// Questions of all shards.
    total: usize,
}

impl Selected {
    /// Reads the set, chooses and groups the questions, and takes the shard's.
    pub fn of(options: &EvalOptions) -> Result<Self, EvalError> {
        let set = QuestionSet::find(&options.set)?;
        let questions = select(set.test_questions()?, options)?;
        let total = questions.len();
        let groups = groups(questions, &set, options.protocol, shots(options))?;
        let by_group: Vec<&[Question]> = groups.iter().map(|group| &group.questions[..]).collect();
        let blocks = plan::blocks(&by_group, options.shard);
        Ok(Self { blocks, groups, set_sha256: set.sha256()?, total })
    }

    /// The shard's questions.
    pub fn questions(&self) -> impl Iterator<Item = &Question> {
        let of_block = |block: &Block| &self.groups[block.group].questions[block.questions.clone()];
        self.blocks.iter().flat_map(of_block)
    }

    /// The run that this one is to be compared with, if there is one and it is of these questions.
    ///
    /// # Errors
    /// A run that cannot be read or compared with.
    pub fn baseline(&self, options: &EvalOptions) -> Result<Option<Baseline>, EvalError> {
        let Some(directory) = &options.baseline else { return Ok(None) };
        let baseline = Baseline::read(directory)?;
        baseline.check(&self.settings(options), self.questions(), &options.output)?;
        Ok(Some(baseline))
    }

    /// The settings of a run of these questions. What depends on the model is still empty.
    pub fn settings(&self, options: &EvalOptions) -> Settings {
        Settings {
            model: String::new(),
            model_sha256: String::new(),
            endpoint: None,
            set: options.set.display().to_string(),
            set_sha256: self.set_sha256.clone(),
            protocol: options.protocol,
            shots: shots(options),
            limit: options.limit,
            limit_seeded: options.limit_seeded,
            every: options.every,
            subjects: options.subjects.clone(),
            questions: self.total,
            shard: options.shard,
            device: String::new(),
            kv_type: String::new(),
            activations: None,
        }
    }
}
