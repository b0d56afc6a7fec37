//! The protocols: how a question is asked and scored.

use serde::{Deserialize, Serialize};

/// How a question is asked and scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// lm-evaluation-harness's `mmlu`: description, shots, lettered choices, one-token answers.
    Letter,
    /// The letter question through the model's chat template.
    Chat,
    /// llama.cpp's `--multiple-choice`: mean log-probability of question + " " + choice.
    Cloze,
    /// lm-evaluation-harness's tasks that complete a text: log-probability of the choice by bytes,
    /// beside the sum (its `acc`) and by characters (its `acc_norm`).
    ClozeNormalized,
}

impl Protocol {
    /// Its name on the command line and in records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Letter => "letter",
            Self::Chat => "chat",
            Self::Cloze => "cloze",
            Self::ClozeNormalized => "cloze-normalized",
        }
    }

    /// Its name with the shots, if it takes any: `letter, 5 shots`.
    pub fn described(self, shots: usize) -> String {
        let name = self.name();
        if self.takes_shots() { format!("{name}, {shots} shots") } else { name.to_string() }
    }

    /// Whether questions can be asked with shots at all.
    pub fn takes_shots(self) -> bool {
        self != Self::Cloze
    }

    /// The shots where nobody says otherwise.
    pub fn default_shots(self) -> usize {
        match self {
            Self::Letter | Self::Chat => 5,
            Self::Cloze | Self::ClozeNormalized => 0,
        }
    }
}
