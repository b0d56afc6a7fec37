//! Which files a set's splits are in.

use std::fs;
use std::path::{Path, PathBuf};

use super::layouts::Layout;
use super::{Kind, QuestionSet, io_error, parquet};
use crate::eval::EvalError;

/// Where sets keep their files on the Hugging Face hub: MMLU, most others, TruthfulQA, WinoGrande.
const FOLDERS: [&str; 4] = ["all", "data", "multiple_choice", "winogrande_xl"];

/// See [`QuestionSet::find`].
pub(super) fn find(path: &Path) -> Result<QuestionSet, EvalError> {
    let metadata = fs::metadata(path).map_err(|source| io_error(path, source))?;
    if !metadata.is_dir() {
        return file(path);
    }
    let folders = FOLDERS.iter().map(|folder| path.join(folder));
    for directory in [path.to_path_buf()].into_iter().chain(folders) {
        if let Some(set) = directory_of_splits(path, &directory)? {
            return Ok(set);
        }
        if let Some(set) = original_release(path, &directory)? {
            return Ok(set);
        }
    }
    Err(EvalError::Unusable(format!(
        "{}: no question set here: expected test.parquet or test-*.parquet, test.jsonl, or the \
         folders test and dev of MMLU's original release",
        path.display()
    )))
}

/// A file to score, with the questions for shots that lie beside it.
fn file(path: &Path) -> Result<QuestionSet, EvalError> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let test = vec![path.to_path_buf()];
    let dev = match Kind::of(path)? {
        Kind::Parquet => shots_beside(directory, path, "parquet")?,
        Kind::JsonLines => {
            let beside = split_files(directory, "dev", "jsonl")?;
            // Its own lines may say that they are for shots.
            if beside.is_empty() { test.clone() } else { beside }
        }
        Kind::Csv => {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let name = name.replace("_test.csv", "_dev.csv").replace("_val.csv", "_dev.csv");
            let beside = directory.join("../dev").join(name);
            if beside.is_file() { vec![beside] } else { Vec::new() }
        }
        Kind::TaskFile => Vec::new(),
    };
    Ok(QuestionSet { path: path.to_path_buf(), test, dev })
}

/// A directory with a file or several for each split.
fn directory_of_splits(path: &Path, directory: &Path) -> Result<Option<QuestionSet>, EvalError> {
    for extension in ["parquet", "jsonl"] {
        let mut test = split_files(directory, "test", extension)?;
        let validation = split_files(directory, "validation", extension)?;
        let answers_are_secret = |test: &[PathBuf]| match test {
            [first, ..] if extension == "parquet" => {
                Ok(parquet::layout(first)?.keeps_test_answers())
            }
            _ => Ok::<_, EvalError>(false),
        };
        if !validation.is_empty() && (test.is_empty() || answers_are_secret(&test)?) {
            test = validation;
        }
        if let Some(first) = test.first() {
            let dev = shots_beside(directory, first, extension)?;
            return Ok(Some(QuestionSet { path: path.to_path_buf(), test, dev }));
        }
    }
    Ok(None)
}

/// The dev split of a directory; MMLU-Pro's is called validation.
fn shots_beside(
    directory: &Path,
    scored: &Path,
    extension: &str,
) -> Result<Vec<PathBuf>, EvalError> {
    let dev = split_files(directory, "dev", extension)?;
    if !dev.is_empty() || extension != "parquet" {
        return Ok(dev);
    }
    let validation = split_files(directory, "validation", extension)?;
    let taken = validation.iter().any(|path| path.as_path() == scored);
    if validation.is_empty() || taken || parquet::layout(scored)? != Layout::MmluPro {
        return Ok(Vec::new());
    }
    Ok(validation)
}

/// The folders `test` and `dev` with a CSV file a subject.
fn original_release(path: &Path, directory: &Path) -> Result<Option<QuestionSet>, EvalError> {
    let files = |split: &str| {
        let ending = format!("_{split}.csv");
        names(&directory.join(split), |name| name.ends_with(&ending))
    };
    let test = files("test")?;
    if test.is_empty() {
        return Ok(None);
    }
    Ok(Some(QuestionSet { path: path.to_path_buf(), test, dev: files("dev")? }))
}

/// The files of one split in a directory, in order.
fn split_files(directory: &Path, split: &str, extension: &str) -> Result<Vec<PathBuf>, EvalError> {
    let files = names(directory, |name| {
        middle(name, split, extension).is_some_and(|m| m.is_empty() || m.starts_with('-'))
    })?;
    let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let expected = files.iter().find_map(|path| shard_count(&name(path))).unwrap_or(files.len());
    if files.len() != expected {
        let names: Vec<String> = files.iter().map(name).collect();
        return Err(EvalError::Unusable(format!(
            "{}: the {split} split says it has {expected} files, and {} are here ({}): fetch the \
             missing ones or remove the extra ones",
            directory.display(),
            names.len(),
            names.join(", ")
        )));
    }
    Ok(files)
}

/// What stands between the split and the extension in a file's name.
fn middle<'a>(name: &'a str, split: &str, extension: &str) -> Option<&'a str> {
    name.strip_prefix(split)?.strip_suffix(extension)?.strip_suffix('.')
}

/// 3 for `test-00000-of-00003.parquet`.
fn shard_count(name: &str) -> Option<usize> {
    let (_, rest) = name.rsplit_once("-of-")?;
    rest.split_once('.')?.0.parse().ok()
}

/// The wanted names in a directory, in alphabetical order; none when there is no such directory.
fn names(directory: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>, EvalError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(io_error(directory, source)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(|source| io_error(directory, source))?.file_name();
        if let Some(name) = name.to_str().filter(|name| wanted(name)) {
            names.push(name.to_string());
        }
    }
    names.sort_unstable();
    Ok(names.into_iter().map(|name| directory.join(name)).collect())
}
