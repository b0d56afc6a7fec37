//! What variants are compared with: a model that runs beside them, or what one has left in a file.

use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::position::{PositionDivergence, compare_rows};
use crate::engine::{Engine, EngineError, EngineOptions};
use crate::eval::EvalError;
use crate::eval::text::base_logits::{BaseLogits, CodedRows};
use crate::eval::text::text_file::TextFile;
use crate::eval::text::window_run::{Step, WindowRun, load_for_windows};
use crate::eval::text::windows::{TextWindows, start_token};
use crate::gguf::{self, GgufFile, ModelIdentity};
use crate::support::input_file::Inputs;

/// What variants are compared with.
#[derive(Debug, Clone)]
pub enum Base {
    /// A model that reads the text beside them.
    Model {
        /// Usually F16.
        model: PathBuf,
        /// In UTF-8.
        text: PathBuf,
        /// Tokens in a window.
        context: usize,
    },
    /// llama.cpp's file of what a model predicts, which says what was read, and in which windows.
    Logits(PathBuf),
}

/// What kind of file the base is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BaseKind {
    /// A model.
    Model,
    /// What a model predicts.
    Logits,
}

impl Base {
    /// The file.
    pub fn path(&self) -> &Path {
        match self {
            Self::Model { model, .. } => model,
            Self::Logits(path) => path,
        }
    }

    /// The text's path; none for a file of logits, which holds the text's tokens.
    pub fn text(&self) -> Option<&Path> {
        match self {
            Self::Model { text, .. } => Some(text),
            Self::Logits(_) => None,
        }
    }

    pub(super) fn kind(&self) -> BaseKind {
        match self {
            Self::Model { .. } => BaseKind::Model,
            Self::Logits(_) => BaseKind::Logits,
        }
    }
}

/// A base whose files are open.
#[derive(Debug)]
pub(super) enum OpenBase {
    Model { model: GgufFile, text: TextFile, context: usize },
    Logits(BaseLogits),
}

impl OpenBase {
    pub(super) fn open(base: &Base) -> Result<Self, EvalError> {
        match base {
            Base::Model { model, text, context } => Ok(Self::Model {
                model: GgufFile::open(model).map_err(EngineError::from)?,
                text: TextFile::read(text)?,
                context: *context,
            }),
            Base::Logits(path) => BaseLogits::open(path).map(Self::Logits),
        }
    }

    pub(super) fn model(&self) -> Option<&GgufFile> {
        match self {
            Self::Model { model, .. } => Some(model),
            Self::Logits(_) => None,
        }
    }

    pub(super) fn identify(&self) -> Result<ModelIdentity, EvalError> {
        match self {
            Self::Model { model, .. } => Ok(gguf::identify(model)?),
            Self::Logits(logits) => Ok(ModelIdentity {
                sha256: logits.input().sha256()?.to_string(),
                bytes: logits.bytes(),
                inputs: Inputs::from_iter([logits.input().clone()]),
            }),
        }
    }

    pub(super) fn load(self, options: EngineOptions) -> Result<LoadedBase, EvalError> {
        Ok(match self {
            Self::Model { model, text, context } => LoadedBase::Model {
                engine: Box::new(load_for_windows(model, options, context)?),
                text,
                context,
            },
            Self::Logits(logits) => LoadedBase::Logits(logits),
        })
    }
}

/// A base before it begins.
#[derive(Debug)]
pub(super) enum LoadedBase {
    Model { engine: Box<Engine>, text: TextFile, context: usize },
    Logits(BaseLogits),
}

impl LoadedBase {
    /// The text; none for a file of logits, which holds the text's tokens.
    pub(super) fn text(&self) -> Option<&TextFile> {
        match self {
            Self::Model { text, .. } => Some(text),
            Self::Logits(_) => None,
        }
    }

    /// Tokens in a window.
    pub(super) fn context(&self) -> usize {
        match self {
            Self::Model { context, .. } => *context,
            Self::Logits(file) => file.context(),
        }
    }

    /// What is read, at most `limit` windows of it.
    pub(super) fn windows(
        &self,
        variants: &[Engine],
        limit: Option<usize>,
    ) -> Result<TextWindows, EvalError> {
        match self {
            Self::Model { engine, text, context } => {
                TextWindows::of(text, engine.vocabulary(), *context, limit)
            }
            Self::Logits(file) => {
                let vocabulary = variants.first().map(Engine::vocabulary);
                file.check_vocabulary(vocabulary.map_or(0, |vocabulary| vocabulary.size))?;
                Ok(file.windows(vocabulary.and_then(start_token), limit))
            }
        }
    }

    /// The base before the window `first`, which begins a section.
    pub(super) fn run<'a>(&'a mut self, windows: &'a TextWindows, first: usize) -> BaseRun<'a> {
        match self {
            Self::Model { engine, .. } => BaseRun::Model(WindowRun::new(engine, windows)),
            Self::Logits(file) => BaseRun::Logits { file, done: first * windows.scored().len() },
        }
    }
}

/// The base on its way through the windows.
#[derive(Debug)]
pub(super) enum BaseRun<'a> {
    Model(WindowRun<'a>),
    Logits {
        file: &'a BaseLogits,
        /// How many scored positions are behind.
        done: usize,
    },
}

impl BaseRun<'_> {
    /// What it says at the scored positions of the next step.
    pub(super) fn step(&mut self, step: &Step) -> Result<BaseRows<'_>, EvalError> {
        match self {
            Self::Model(run) => Ok(BaseRows::Logits(run.step(step)?)),
            Self::Logits { file, done } => {
                file.release(0..*done);
                let start = *done;
                *done += step.next.len();
                Ok(BaseRows::Coded(file.rows(start..*done)))
            }
        }
    }
}

/// What the base says at the scored positions of a step.
#[derive(Debug, Clone, Copy)]
pub(super) enum BaseRows<'a> {
    Logits(&'a [f32]),
    Coded(CodedRows<'a>),
}

impl BaseRows<'_> {
    /// Compares a variant's logits at the same positions; `next` are the tokens that follow them.
    pub(super) fn compare(
        self,
        variant: &[f32],
        next: &[u32],
    ) -> Result<Vec<PositionDivergence>, EvalError> {
        match self {
            Self::Logits(base) => Ok(compare_rows(base, variant, next)),
            Self::Coded(rows) => compare_coded(rows, variant, next),
        }
    }
}

fn compare_coded(
    rows: CodedRows<'_>,
    variant: &[f32],
    next: &[u32],
) -> Result<Vec<PositionDivergence>, EvalError> {
    let width = variant.len() / next.len().max(1);
    rows.par_iter()
        .zip(variant.par_chunks(width.max(1)))
        .zip(next)
        .enumerate()
        .map_init(Vec::new, |values, (index, ((base, variant), &next))| {
            PositionDivergence::of_coded(base, variant, next, values)
                .ok_or_else(|| rows.damaged(index))
        })
        .collect()
}
