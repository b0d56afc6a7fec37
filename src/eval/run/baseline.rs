//! A run against an earlier one of the same questions.

use std::path::{Path, PathBuf};

use super::comparison::{ChangedAnswer, ComparedRun, RunComparison};
use super::found::{copied, is_of_a_run, unfinished};
use super::question_results::{self, QuestionResult, in_both};
use super::record::{SCHEMA_VERSION, Settings, differences};
use super::results::{self, Results};
use crate::eval::EvalError;
use crate::eval::questions::Question;
use crate::eval::statistics::paired::{Answer, Paired};
use crate::support::same_file::is_same_place;

/// A finished run, to compare another one with.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Baseline {
    directory: PathBuf,
    results: Results,
}

impl Baseline {
    /// Reads the run in a directory.
    ///
    /// # Errors
    /// No finished run there, or one that cannot be read; one that scored no question.
    pub fn read(directory: &Path) -> Result<Self, EvalError> {
        let copy = copied(directory, &is_of_a_run)?;
        if !results::are_in(&copy) {
            return Err(EvalError::unusable(directory, no_results(&copy)?));
        }
        let results = Results::read(&copy)?;
        if results.questions.is_empty() {
            return Err(EvalError::unusable(
                directory,
                "no question of this run was scored".to_string(),
            ));
        }
        Ok(Self { directory: directory.to_path_buf(), results })
    }

    /// Finds out before anything is scored whether a run of these settings and questions, whose
    /// results go into `output`, can be compared with this one.
    ///
    /// # Errors
    /// Another set, protocol or choice of questions; an output that would replace the baseline.
    pub fn check<'a>(
        &self,
        settings: &Settings,
        questions: impl Iterator<Item = &'a Question>,
        output: &Path,
    ) -> Result<(), EvalError> {
        self.check_settings(settings)?;
        if is_same_place(&self.directory, output) {
            let problem = "is the baseline, and the results of this run would replace it: give \
                           another --output";
            return Err(EvalError::unusable(&self.directory, problem.to_string()));
        }
        let asked: Vec<(usize, usize, usize)> = {
            let mut asked: Vec<_> = questions.map(|q| (q.row, q.answer, q.choices.len())).collect();
            asked.sort_unstable();
            asked
        };
        let key = |q: &QuestionResult| (q.row, q.answer, q.log_probabilities.len());
        match self.results.questions.iter().find(|q| asked.binary_search(&key(q)).is_err()) {
            None => Ok(()),
            Some(other) => {
                let problem = format!(
                    "its row {} is not the question that this set has there: its files were \
                     changed, score it again",
                    other.row
                );
                Err(EvalError::unusable(&self.directory, problem))
            }
        }
    }

    fn check_settings(&self, settings: &Settings) -> Result<(), EvalError> {
        let differences = other_questions(&self.results.run.settings, settings);
        if differences.is_empty() {
            return Ok(());
        }
        let problem = format!(
            "was not asked the same questions in the same way: {}; give the same options to both \
             runs, or name another baseline",
            differences.join(", ")
        );
        Err(EvalError::unusable(&self.directory, problem))
    }

    /// Compares a run that was found fit; `None` where it scored no question.
    pub fn compare(&self, directory: &Path, results: &Results) -> Option<RunComparison> {
        let pairs = in_both(&self.results.questions, &results.questions);
        let (before, after): (Vec<Answer<'_>>, Vec<Answer<'_>>) =
            pairs.iter().map(|(before, after)| (before.answer(), after.answer())).unzip();
        let paired = Paired::of(&before, &after)?;
        let mut baseline = compared_run(&self.directory, &self.results);
        let mut run = compared_run(directory, results);
        if baseline.name == run.name {
            baseline.name = name_of(&baseline.directory);
            run.name = name_of(&run.directory);
        }
        Some(RunComparison {
            schema_version: SCHEMA_VERSION,
            quantkit_version: env!("CARGO_PKG_VERSION").to_string(),
            verdict: format!("{}.", paired.verdict(&run.name)),
            left_out: in_one(&self.results.questions, &results.questions),
            changed: pairs.iter().filter_map(|(b, a)| ChangedAnswer::between(b, a)).collect(),
            baseline,
            run,
            paired,
        })
    }
}

/// Compares two runs that lie on the disk.
///
/// # Errors
/// A run that cannot be read or has no scored question; runs of other questions.
pub fn compare_runs(baseline: &Path, run: &Path) -> Result<RunComparison, EvalError> {
    let (baseline, run) = (Baseline::read(baseline)?, Baseline::read(run)?);
    baseline.check_settings(&run.results.run.settings)?;
    baseline.compare(&run.directory, &run.results).ok_or_else(|| {
        EvalError::unusable(
            &run.directory,
            "has no question in common with the baseline".to_string(),
        )
    })
}

/// Why there is nothing to compare with in a directory.
fn no_results(directory: &Path) -> Result<String, EvalError> {
    Ok(match unfinished(directory)? {
        Some(begun) => format!(
            "its run is not finished ({} of {} questions): repeat its command first",
            begun.done, begun.questions
        ),
        None => "no run of mmlu-eval is here: expected run.json, summary.json and \
                 questions.parquet"
            .to_string(),
    })
}

/// In what two runs' questions, and the way in which they are asked, differ.
fn other_questions(there: &Settings, here: &Settings) -> Vec<String> {
    let mut found = Vec::new();
    if there.set_sha256 != here.set_sha256 {
        let named = |settings: &Settings| {
            let hash: String = settings.set_sha256.chars().take(12).collect();
            format!("{} (SHA-256 {hash}…)", settings.set)
        };
        found.push(format!("the set is {} there and {} here", named(there), named(here)));
    }
    // The model and what runs it may differ; of the rest only what chooses and asks is left.
    let only_asked = |settings: &Settings| {
        let mut subjects = settings.subjects.clone();
        subjects.sort_unstable();
        subjects.dedup();
        Settings {
            protocol: settings.protocol,
            shots: settings.shots,
            limit: settings.limit,
            limit_seeded: settings.limit_seeded,
            every: settings.every,
            shard: settings.shard,
            subjects,
            ..here.clone()
        }
    };
    found.extend(differences(&only_asked(there), &only_asked(here)));
    found
}

/// Rows of the questions that only one of two runs has.
fn in_one(left: &[QuestionResult], right: &[QuestionResult]) -> Vec<usize> {
    let lacks = |all: &[QuestionResult], row: usize| {
        all.binary_search_by_key(&row, |question| question.row).is_err()
    };
    let own = left.iter().map(|question| question.row).filter(|&row| lacks(right, row));
    let other = right.iter().map(|question| question.row).filter(|&row| lacks(left, row));
    let mut rows: Vec<usize> = own.chain(other).collect();
    rows.sort_unstable();
    rows
}

fn compared_run(directory: &Path, results: &Results) -> ComparedRun {
    let summary = &results.summary;
    let name = match summary.endpoint {
        Some(_) => summary.model.clone(),
        None => Path::new(&summary.model)
            .file_stem()
            .map_or(summary.model.clone(), |stem| stem.to_string_lossy().into_owned()),
    };
    ComparedRun {
        name,
        directory: directory.display().to_string(),
        model: summary.model.clone(),
        model_sha256: summary.model_sha256.clone(),
        overall: summary.overall.clone(),
        reliability: question_results::reliability(&results.questions),
    }
}

/// The last name of a directory's path.
fn name_of(directory: &str) -> String {
    let name = Path::new(directory).file_name();
    name.map_or(directory.to_string(), |name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::asking::Protocol;
    use crate::eval::run::assemble::{Totals, assemble};
    use crate::eval::run::plan::Shard;
    use crate::eval::run::question_results::tests::result;
    use crate::eval::run::record::tests::settings;
    use crate::eval::statistics::paired::Change;

    fn run(model: &str, predictions: &[(usize, usize)]) -> Results {
        let questions =
            predictions.iter().map(|&(row, prediction)| result(row, "anatomy", prediction));
        let settings = Settings { model: format!("models/{model}.gguf"), ..settings() };
        assemble(settings, vec![], questions.collect(), vec![], Totals::default())
    }

    fn baseline(model: &str, predictions: &[(usize, usize)]) -> Baseline {
        let results = run(model, predictions);
        Baseline { directory: PathBuf::from("runs/a"), results }
    }

    #[test]
    fn changes_are_listed_with_both_models_probabilities() {
        let before = baseline("m.F16", &[(0, 1), (1, 1), (2, 0), (3, 2), (4, 3)]);
        let after = run("m.Q4_0", &[(0, 1), (1, 2), (2, 1), (3, 0), (9, 0)]);
        let found = before.compare(Path::new("runs/b"), &after).unwrap();
        assert_eq!((found.paired.questions, found.paired.changed()), (4, 3));
        assert_eq!(found.left_out, [4, 9]);
        let changes: Vec<(usize, Change)> =
            found.changed.iter().map(|changed| (changed.row, changed.change)).collect();
        assert_eq!(
            changes,
            [(1, Change::RightToWrong), (2, Change::WrongToRight), (3, Change::WrongToOtherWrong)]
        );
        let first = &found.changed[0];
        assert_eq!((first.answer, first.predictions), (1, [1, 2]));
        for (probabilities, made) in first.probabilities.iter().zip(first.predictions) {
            assert!((probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-12);
            assert!(probabilities.iter().all(|&p| p <= probabilities[made]));
        }
        assert_eq!((found.baseline.name.as_str(), found.run.name.as_str()), ("m.F16", "m.Q4_0"));
        assert!(found.verdict.starts_with("m.Q4_0 neither loses nor gains"), "{}", found.verdict);
        let json = serde_json::to_string(&found).unwrap();
        assert_eq!(serde_json::from_str::<RunComparison>(&json).unwrap(), found);
    }

    #[test]
    fn runs_of_one_name_are_told_apart_by_their_directories() {
        let before = baseline("m", &[(0, 1)]);
        let found = before.compare(Path::new("runs/b"), &run("m", &[(0, 1)])).unwrap();
        assert_eq!((found.baseline.name.as_str(), found.run.name.as_str()), ("a", "b"));
        assert_eq!(before.compare(Path::new("runs/b"), &run("m", &[])), None);
    }

    #[test]
    fn what_is_asked_must_be_the_same_and_what_answers_may_differ() {
        let other_model = Settings {
            model: "n".to_string(),
            model_sha256: "dd".to_string(),
            endpoint: Some("http://a".to_string()),
            device: "endpoint".to_string(),
            kv_type: "unknown".to_string(),
            activations: None,
            set: "elsewhere".to_string(),
            ..settings()
        };
        assert!(other_questions(&settings(), &other_model).is_empty());
        let subjects = |names: &[&str]| Settings {
            subjects: names.iter().map(ToString::to_string).collect(),
            ..settings()
        };
        assert!(other_questions(&subjects(&["a", "b"]), &subjects(&["b", "a"])).is_empty());
        let cases = [
            (Settings { protocol: Protocol::Cloze, ..settings() }, "protocol is letter there"),
            (Settings { shots: 0, ..settings() }, "shots is 5 there and 0 here"),
            (Settings { every: 14, ..settings() }, "every is 1 there and 14 here"),
            (Settings { limit: Some(3), ..settings() }, "limit is not given there and 3 here"),
            (
                Settings { limit_seeded: Some(3), ..settings() },
                "limit_seeded is not given there and 3 here",
            ),
            (subjects(&["a"]), "subjects is [] there and [\"a\"] here"),
            (
                Settings { shard: Some(Shard { index: 0, count: 2 }), ..settings() },
                "shard is not given there and 0/2 here",
            ),
            (
                Settings { set_sha256: "cc".to_string(), ..settings() },
                "the set is set (SHA-256 bb…) there and set (SHA-256 cc…) here",
            ),
        ];
        for (here, expected) in cases {
            let found = other_questions(&settings(), &here);
            assert!(found.len() == 1 && found[0].starts_with(expected), "{found:?}");
        }
    }

    #[test]
    fn a_baseline_whose_questions_are_others_is_refused() {
        let question = |row, answer| Question {
            row,
            id: None,
            form: Default::default(),
            question: "q".to_string(),
            subject: "anatomy".to_string(),
            choices: vec!["a".to_string(); 4],
            answer,
        };
        let baseline = baseline("m", &[(0, 1), (1, 0)]);
        let check = |questions: &[Question], output: &str| {
            baseline.check(&settings(), questions.iter(), Path::new(output))
        };
        let all = [question(1, 1), question(0, 1), question(2, 3)];
        assert!(check(&all, "runs/b").is_ok());
        let error = check(&all, "runs/a").unwrap_err().to_string();
        assert!(error.contains("would replace it"), "{error}");
        let error = check(&all[1..], "runs/b").unwrap_err().to_string();
        assert!(error.contains("its row 1 is not the question"), "{error}");
        let error = check(&[question(0, 2), question(1, 1)], "runs/b").unwrap_err().to_string();
        assert!(error.contains("its row 0 is not the question"), "{error}");
    }
}
