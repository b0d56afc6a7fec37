//! The runs behind a comparison: names, directories, and what of an earlier run is still valid.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

use serde::de::DeserializeOwned;

use super::ReportError;
use super::record::EvaluationSettings;
use crate::eval::{self, EvalSummary};
use crate::support::finished::first_difference;

/// How a variant is called, and where its results lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Naming {
    /// The file's stem, with as many parent directories as tell it from the others.
    pub label: String,
    /// A directory name: the stem, with the start of the file's hash where stems collide.
    pub directory: String,
}

/// Names all models, given with their hashes.
pub(super) fn name_models(models: &[(PathBuf, String)]) -> Vec<Naming> {
    let most = models.iter().map(|(path, _)| components(path).len()).max().unwrap_or(1);
    let mut labels: Vec<String> = models.iter().map(|(path, _)| suffix(path, 1)).collect();
    let collides = counts(&labels);
    let directories: Vec<String> = models
        .iter()
        .zip(&labels)
        .map(|((_, hash), stem)| match collides[stem] {
            1 => stem.clone(),
            _ => format!("{stem}-{}", &hash[..hash.len().min(8)]),
        })
        .collect();
    for depth in 2..=most {
        let counts = counts(&labels);
        for (label, (path, _)) in labels.iter_mut().zip(models) {
            if counts[label] > 1 {
                *label = suffix(path, depth);
            }
        }
    }
    labels
        .into_iter()
        .zip(directories)
        .map(|(label, directory)| Naming { label, directory })
        .collect()
}

fn counts(labels: &[String]) -> HashMap<String, usize> {
    labels.iter().fold(HashMap::new(), |mut counts, label| {
        *counts.entry(label.clone()).or_default() += 1;
        counts
    })
}

/// The names on the way to the file, the file's stem last.
fn components(path: &Path) -> Vec<String> {
    let mut names: Vec<String> = path
        .parent()
        .into_iter()
        .flat_map(Path::components)
        .filter(|component| matches!(component, Component::Normal(_)))
        .map(|component| component.as_os_str().to_string_lossy().into_owned())
        .collect();
    let stem = path.file_stem().unwrap_or(path.as_os_str());
    names.push(stem.to_string_lossy().into_owned());
    names
}

fn suffix(path: &Path, depth: usize) -> String {
    let names = components(path);
    names[names.len().saturating_sub(depth)..].join("/")
}

/// What an evaluation must have been made with to be reused.
#[derive(Debug, Clone, Copy)]
pub(super) struct WantedEvaluation<'a> {
    pub model_sha256: &'a str,
    pub settings: &'a EvaluationSettings,
    pub device: &'a str,
    pub kv_type: &'a str,
    pub activations: u8,
}

impl WantedEvaluation<'_> {
    /// The first thing that differs from what is wanted.
    pub fn mismatch(&self, found: &EvalSummary) -> Option<&'static str> {
        let settings = self.settings;
        first_difference(&[
            (found.schema_version == eval::SCHEMA_VERSION, "the record's version"),
            (found.build.is_current(), "the build of quantkit"),
            (found.model_sha256 == self.model_sha256, "the model file"),
            (found.set_sha256 == settings.set_sha256, "the question set"),
            (found.protocol == settings.protocol, "the protocol"),
            (found.shots == settings.shots, "the number of shots"),
            (found.limit == settings.limit, "the limit"),
            (found.limit_seeded == settings.limit_seeded, "the questions drawn"),
            (found.every == settings.every, "the choice of rows"),
            (found.subjects == settings.subjects, "the subjects"),
            (found.shard.is_none(), "the shard"),
            (found.device == self.device, "the device"),
            (found.kv_type == self.kv_type, "the key-value cache"),
            (found.activations == Some(self.activations), "the activations' bits"),
        ])
    }
}

/// Sees to it that what was measured is what the comparison is about: its files are opened by each
/// measurement anew.
pub(super) fn check_same(path: &Path, wanted: &str, measured: &str) -> Result<(), ReportError> {
    if measured == wanted {
        return Ok(());
    }
    Err(ReportError::Unusable(format!(
        "{}: was replaced while the comparison ran, and what was measured is of the new file: run the \
         same command again; what can be reused is kept",
        path.display()
    )))
}

/// Reads an earlier record if it is there and `mismatch` finds nothing different.
pub(super) fn read_valid<T: DeserializeOwned>(
    path: &Path,
    mismatch: impl Fn(&T) -> Option<&'static str>,
) -> Option<T> {
    let bytes = std::fs::read(path).ok()?;
    let record = match serde_json::from_slice(&bytes) {
        Ok(record) => record,
        Err(error) => {
            tracing::info!("{} is not reused: {error}", path.display());
            return None;
        }
    };
    match mismatch(&record) {
        None => Some(record),
        Some(what) => {
            tracing::info!("{} is not reused: differs in {what}", path.display());
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{BenchSummary, WantedBench, Workload};
    use crate::engine::Build;
    use crate::report::fixtures;
    use crate::support::machine::Machine;

    fn names(paths: &[&str]) -> Vec<Naming> {
        let models: Vec<(PathBuf, String)> = paths
            .iter()
            .enumerate()
            .map(|(index, path)| (PathBuf::from(path), format!("{index}123456789abcdef")))
            .collect();
        name_models(&models)
    }

    fn labels(paths: &[&str]) -> Vec<String> {
        names(paths).into_iter().map(|naming| naming.label).collect()
    }

    #[test]
    fn a_model_is_called_by_its_stem() {
        assert_eq!(labels(&["x/m.F16.gguf", "y/m.Q4_0.gguf"]), ["m.F16", "m.Q4_0"]);
        assert_eq!(names(&["x/m.F16.gguf"])[0].directory, "m.F16");
    }

    #[test]
    fn models_of_the_same_stem_are_told_apart() {
        let paths = ["run/a/m.gguf", "run/b/m.gguf", "other.gguf", "deep/run/a/m.gguf"];
        assert_eq!(labels(&paths), ["run/a/m", "b/m", "other", "deep/run/a/m"]);
        let directories: Vec<String> = names(&paths).into_iter().map(|n| n.directory).collect();
        assert_eq!(directories, ["m-01234567", "m-11234567", "other", "m-31234567"]);
    }

    #[test]
    fn an_evaluation_is_reused_only_for_the_same_question() {
        let summary = fixtures::evaluation("abc", 40, 100);
        let settings = fixtures::settings();
        let wanted = WantedEvaluation {
            model_sha256: "abc",
            settings: &settings,
            device: "cpu",
            kv_type: "i16",
            activations: 8,
        };
        assert_eq!(wanted.mismatch(&summary), None);
        let other = Build { executable_sha256: Some("0".repeat(64)), ..Build::current() };
        let cases: [(&str, EvalSummary); 8] = [
            ("the build of quantkit", EvalSummary { build: other, ..summary.clone() }),
            ("the model file", EvalSummary { model_sha256: "abd".into(), ..summary.clone() }),
            ("the question set", EvalSummary { set_sha256: "other".into(), ..summary.clone() }),
            ("the choice of rows", EvalSummary { every: 14, ..summary.clone() }),
            ("the questions drawn", EvalSummary { limit_seeded: Some(7), ..summary.clone() }),
            ("the limit", EvalSummary { limit: Some(7), ..summary.clone() }),
            ("the activations' bits", EvalSummary { activations: Some(16), ..summary.clone() }),
            ("the record's version", EvalSummary { schema_version: 0, ..summary.clone() }),
        ];
        for (what, found) in cases {
            assert_eq!(wanted.mismatch(&found), Some(what));
        }
    }

    #[test]
    fn a_benchmark_is_reused_only_for_the_same_load_on_the_same_machine() {
        let summary = fixtures::benchmark("abc", 1.0);
        let workload = summary.workload.clone();
        let machine = summary.machine.clone();
        let wanted = WantedBench {
            model_sha256: "abc",
            workload: &workload,
            device: "cpu",
            kv_type: "i16",
            activations: 8,
            threads: 2,
            machine: &machine,
        };
        assert_eq!(wanted.mismatch(&summary), None);
        let slower = Machine { cpu: "another".into(), ..machine.clone() };
        let longer = Workload { input_tokens: 9, ..workload.clone() };
        let other = Build { instruction_set: "abacus".into(), ..Build::current() };
        let cases: [(&str, BenchSummary); 7] = [
            ("the build of quantkit", BenchSummary { build: other, ..summary.clone() }),
            ("the model file", BenchSummary { model_sha256: "abd".into(), ..summary.clone() }),
            ("some levels are missing", BenchSummary { complete: false, ..summary.clone() }),
            ("the number of threads", BenchSummary { threads: 4, ..summary.clone() }),
            ("the activations' bits", BenchSummary { activations: 16, ..summary.clone() }),
            ("the machine", BenchSummary { machine: slower, ..summary.clone() }),
            ("the workload", BenchSummary { workload: longer, ..summary.clone() }),
        ];
        for (what, found) in cases {
            assert_eq!(wanted.mismatch(&found), Some(what));
        }
    }

    #[test]
    fn a_damaged_record_is_not_reused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("summary.json");
        let nothing_differs = |_: &EvalSummary| None;
        assert_eq!(read_valid(&path, nothing_differs), None);
        let summary = fixtures::evaluation("abc", 40, 100);
        let json = serde_json::to_vec(&summary).unwrap();
        std::fs::write(&path, &json[..json.len() / 2]).unwrap();
        assert_eq!(read_valid(&path, nothing_differs), None);
        std::fs::write(&path, &json).unwrap();
        assert_eq!(read_valid(&path, nothing_differs), Some(summary));
    }
}
