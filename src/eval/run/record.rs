//! What a run leaves about itself: the content of `run.json`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::plan::Shard;
use crate::engine::Build;
use crate::eval::asking::Protocol;
use crate::support::machine::{self, Machine};

/// Version of the fields of `run.json`, `summary.json` and `questions.parquet`.
pub const SCHEMA_VERSION: u32 = 3;

/// Everything that a run's scores depend on, apart from the build and the machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// The model's path as given.
    pub model: String,
    /// SHA-256 of the model file; empty for a model that a server runs.
    pub model_sha256: String,
    /// The address of the server that ran the model; `model` is its name there.
    pub endpoint: Option<String>,
    /// The set's path as given.
    pub set: String,
    /// SHA-256 over the set's files.
    pub set_sha256: String,
    /// How it was asked.
    pub protocol: Protocol,
    /// Shots before each question.
    pub shots: usize,
    /// `--limit`: at most this many questions of each subject.
    pub limit: Option<usize>,
    /// `--limit-seeded`.
    pub limit_seeded: Option<usize>,
    /// `--every`.
    pub every: usize,
    /// `--subjects`.
    pub subjects: Vec<String>,
    /// Questions that these choose from the set, those of all shards together.
    pub questions: usize,
    /// `--shard`.
    pub shard: Option<Shard>,
    /// Where the model ran: `cpu` or `cuda:N`; `endpoint` for a server.
    pub device: String,
    /// Elements of the key-value cache: `i16`, `i8` or `f16`; `unknown` for a server.
    pub kv_type: String,
    /// Bits that activations are rounded to in products with quantized weights: 8 or 16; absent for
    /// a server, which does not say.
    pub activations: Option<u8>,
}

/// Fields of [`Settings`] that say where something is, and not what.
const PLACES: [&str; 3] = ["model", "endpoint", "set"];

/// In what two runs' settings differ, as `shots is 5 there and 3 here`; where files lie is no
/// difference.
pub(super) fn differences(there: &Settings, here: &Settings) -> Vec<String> {
    let fields = |settings: &Settings| match serde_json::to_value(settings) {
        Ok(Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    };
    // A served model has no other identity than its name.
    let served = here.endpoint.is_some();
    let is_place = |name: &str| PLACES.contains(&name) && !(name == "model" && served);
    let (there, here) = (fields(there), fields(here));
    here.iter()
        .filter(|(name, _)| !is_place(name))
        .filter_map(|(name, here)| {
            let there = there.get(name).unwrap_or(&Value::Null);
            let shown = |value: &Value| match value {
                Value::Null => "not given".to_string(),
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            (there != here)
                .then(|| format!("{name} is {} there and {} here", shown(there), shown(here)))
        })
        .collect()
}

/// One process's part in a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// Which part of the questions; absent for all of them.
    pub shard: Option<Shard>,
    /// The program and the kernels that ran.
    pub build: Build,
    /// The name of the machine.
    pub host: String,
    /// What it ran on.
    pub machine: Machine,
    /// Threads that computed.
    pub threads: usize,
    /// The command line, quoted for a shell.
    pub command: String,
    /// When it was first started, in UTC; a run that was resumed keeps it.
    pub started: String,
    /// When the results were written, in UTC.
    pub finished: String,
    /// Questions that it scored.
    pub questions: usize,
    /// Wall time of the scoring, loading excluded.
    pub seconds: f64,
}

/// A run: the content of `run.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// Version of the fields of `run.json`, `summary.json` and `questions.parquet`.
    pub schema_version: u32,
    /// Version of quantkit.
    pub quantkit_version: String,
    /// The commit that quantkit was built from, where the build was told (`QUANTKIT_COMMIT`).
    pub commit: Option<String>,
    /// The seed with which questions were drawn; absent where none were: nothing else is random.
    pub seed: Option<u32>,
    /// Which of the set's questions were scored, in words.
    pub selection: String,
    /// What was scored, and how.
    pub settings: Settings,
    /// Who scored it: one part, or after `merge` one a shard.
    pub parts: Vec<Part>,
}

/// The commit that this quantkit was built from, where the build was told.
pub(super) fn commit() -> Option<String> {
    option_env!("QUANTKIT_COMMIT").filter(|commit| !commit.is_empty()).map(str::to_string)
}

impl Part {
    /// This process's part, begun at `started` and finished now.
    pub(super) fn of_this_process(command: &str, started: &str, shard: Option<Shard>) -> Self {
        Self {
            shard,
            build: Build::current(),
            host: machine::host_name(),
            machine: Machine::detect(),
            threads: rayon::current_num_threads(),
            command: command.to_string(),
            started: started.to_string(),
            finished: crate::support::calendar::utc_second(std::time::SystemTime::now()),
            questions: 0,
            seconds: 0.0,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::eval::run) fn settings() -> Settings {
        Settings {
            model: "m.gguf".to_string(),
            model_sha256: "aa".to_string(),
            endpoint: None,
            set: "set".to_string(),
            set_sha256: "bb".to_string(),
            protocol: Protocol::Letter,
            shots: 5,
            limit: None,
            limit_seeded: None,
            every: 1,
            subjects: Vec::new(),
            questions: 4,
            shard: None,
            device: "cpu".to_string(),
            kv_type: "i16".to_string(),
            activations: Some(8),
        }
    }

    #[test]
    fn differences_are_named_with_both_values_and_places_are_none() {
        let moved = Settings { model: "elsewhere/m.gguf".to_string(), ..settings() };
        assert!(differences(&settings(), &moved).is_empty());
        let served = |model: &str, url: &str| Settings {
            model: model.to_string(),
            endpoint: Some(url.to_string()),
            ..settings()
        };
        assert!(differences(&served("m", "http://a"), &served("m", "http://b")).is_empty());
        assert_eq!(
            differences(&served("m", "http://a"), &served("n", "http://a")),
            ["model is m there and n here"]
        );
        let other = Settings {
            limit: Some(7),
            shard: Some(Shard { index: 1, count: 2 }),
            model_sha256: "cc".to_string(),
            ..settings()
        };
        assert_eq!(
            differences(&settings(), &other),
            [
                "model_sha256 is aa there and cc here",
                "limit is not given there and 7 here",
                "shard is not given there and 1/2 here",
            ]
        );
    }
}
