//! What matrices are multiplied with, and its preparation for the kernels.

use std::ops::Range;

use super::activations::{ActivationKind, Prepared};
use super::kernel;
use super::memory::AlignedBytes;
use crate::kernels::elementwise::{Activation, Norm, Rows, activate_row, gate_row, norm_row};
use crate::kernels::shared::Shared;
use crate::support::processor::InstructionSet;
use crate::support::team::Team;

/// Elements of inputs below which a second thread costs more than it brings.
const PARALLEL_FROM: usize = 1 << 13;

/// Tasks a thread gets where there is work for more than one.
const TASKS_A_THREAD: usize = 4;

/// The inputs of a product, a row a token. What is computed on the way never becomes a matrix: a row
/// is prepared for the kernels as soon as it is there.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// Rows as they are.
    Rows(Rows<'a>),
    /// The norm of each row, as [`norm_row`] has it.
    Normalized {
        /// What the norm is taken of.
        rows: Rows<'a>,
        /// The norm, for rows of this width.
        norm: Norm<'a>,
    },
    /// `activation(rows)`, as [`activate_row`] has it.
    Activated {
        /// What is done to each element.
        activation: Activation,
        /// The elements.
        rows: Rows<'a>,
    },
    /// `activation(gate) · up`, as [`gate_row`] has it. Both may lie in the rows of one matrix.
    Gated {
        /// What is done to each element of the gate.
        activation: Activation,
        /// What goes through the activation.
        gate: Rows<'a>,
        /// What it is multiplied with.
        up: Rows<'a>,
    },
}

impl<'a> Source<'a> {
    /// Number of rows.
    pub fn tokens(&self) -> usize {
        self.rows().count()
    }

    /// Elements in a row.
    pub fn columns(&self) -> usize {
        self.rows().width()
    }

    fn rows(&self) -> &Rows<'a> {
        match self {
            Self::Rows(rows)
            | Self::Normalized { rows, .. }
            | Self::Activated { rows, .. }
            | Self::Gated { gate: rows, .. } => rows,
        }
    }

    /// # Panics
    /// If the parts do not fit each other.
    pub(super) fn check(&self) {
        match self {
            Self::Rows(_) | Self::Activated { .. } => {}
            Self::Normalized { rows, norm } => norm.check(rows.width()),
            Self::Gated { gate, up, .. } => {
                let shapes = [gate, up].map(|rows| (rows.count(), rows.width()));
                assert_eq!(shapes[0], shapes[1], "gate and up have one shape");
            }
        }
    }

    /// One row, computed in `buffer` where it has to be.
    fn row<'b>(&'b self, token: usize, buffer: &'b mut [f32]) -> &'b [f32] {
        match self {
            Self::Rows(rows) => return rows.row(token),
            Self::Normalized { rows, norm } => norm_row(*norm, rows.row(token), buffer),
            Self::Activated { activation, rows } => {
                activate_row(*activation, rows.row(token), buffer);
            }
            Self::Gated { activation, gate, up } => {
                gate_row(*activation, gate.row(token), up.row(token), buffer);
            }
        }
        buffer
    }
}

/// Memory for a product's prepared inputs, kept from one product to the next: once it has grown to
/// the largest, products allocate nothing.
#[derive(Debug)]
pub struct Workspace {
    /// By [`ActivationKind`].
    words: [AlignedBytes; 3],
    /// A row for each task.
    rows: Vec<f32>,
}

impl Default for Workspace {
    fn default() -> Self {
        Self { words: [const { AlignedBytes::empty() }; 3], rows: Vec::new() }
    }
}

/// The inputs as the kernels read them, by [`ActivationKind`]; empty where none was asked for.
pub(super) struct Inputs<'a> {
    tokens: usize,
    columns: usize,
    words: [&'a [u32]; 3],
}

impl<'a> Inputs<'a> {
    /// Prepares the source for each kind of kernel that `wanted` says takes part.
    pub(super) fn prepare(
        team: &Team,
        set: InstructionSet,
        source: &Source<'_>,
        wanted: impl Fn(ActivationKind) -> bool,
        workspace: &'a mut Workspace,
    ) -> Self {
        let (tokens, columns) = (source.tokens(), source.columns());
        let lengths = ActivationKind::ALL
            .map(|kind| if wanted(kind) { tokens * kind.token_words(columns) } else { 0 });
        let tasks = if tokens * columns < PARALLEL_FROM {
            1
        } else {
            tokens.min(team.threads() * TASKS_A_THREAD)
        };
        let Workspace { words: [floats, quantized, twice], rows } = workspace;
        let mut words =
            [floats.words(lengths[0]), quantized.words(lengths[1]), twice.words(lengths[2])];
        if rows.len() < tasks * columns {
            rows.resize(tasks * columns, 0.0);
        }
        {
            let words = words.each_mut().map(|words| Shared::of(words));
            let rows = Shared::of(rows);
            team.run(tasks, |task| {
                // SAFETY: no other task has this row.
                let buffer = unsafe { rows.slice(task * columns..(task + 1) * columns) };
                for token in part(tokens, tasks, task) {
                    let row = source.row(token, buffer);
                    for (kind, words) in ActivationKind::ALL.into_iter().zip(&words) {
                        if !words.is_empty() {
                            let length = kind.token_words(columns);
                            // SAFETY: no other task has this token.
                            let words =
                                unsafe { words.slice(token * length..(token + 1) * length) };
                            kernel::fill(set, kind, row, words);
                        }
                    }
                }
            });
        }
        Self { tokens, columns, words: words.map(|words| &*words) }
    }

    /// The tokens as prepared for kernels of a kind.
    pub(super) fn of(&self, kind: ActivationKind) -> Prepared<'a> {
        Prepared::new(kind, self.tokens, self.columns, self.words[kind as usize])
    }

    /// Words that a token takes, at least.
    pub(super) fn words_a_token(&self) -> usize {
        let wanted = |kind: &ActivationKind| !self.words[*kind as usize].is_empty();
        let kind = ActivationKind::ALL.into_iter().find(wanted);
        kind.map_or(1, |kind| kind.token_words(self.columns))
    }
}

/// Part `index` of `count` parts of `0..total` that are as equal as can be.
pub(super) fn part(total: usize, count: usize, index: usize) -> Range<usize> {
    index * total / count..(index + 1) * total / count
}
