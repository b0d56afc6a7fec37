//! Which files a set's splits are in.

use std::fs;
use std::path::{Path, PathBuf};

use super::files::{self, Kind, Layout};
use crate::eval::EvalError;
use crate::storage;
use crate::support::directory::directory_of;

/// Where sets keep their files on the Hugging Face hub: MMLU, most others, TruthfulQA, WinoGrande.
const FOLDERS: [&str; 4] = ["all", "data", "multiple_choice", "winogrande_xl"];

/// The files of a set: those of its questions to score, and those of its questions for shots.
type Splits = (Vec<PathBuf>, Vec<PathBuf>);

/// See [`super::QuestionSet::find`].
pub(super) fn find(path: &Path) -> Result<Splits, EvalError> {
    if storage::is_address(path) { find_here(&fetch(path)?) } else { find_here(path) }
}

/// Fetches a set from storage, with all that may belong to it; returns its local path.
fn fetch(address: &Path) -> Result<PathBuf, EvalError> {
    const WHAT: &str = "question set";
    let Ok(kind) = Kind::of(address) else {
        return Ok(storage::fetch_below(address, WHAT, &is_part_of_a_set)?);
    };
    storage::check_there(address)?;
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (file, directory) = (name(address), address.parent().unwrap_or(address));
    if kind != Kind::Csv {
        let wanted = |name: &str| *name == file || (!name.contains('/') && is_of_a_split(name));
        return Ok(storage::fetch_below(directory, WHAT, &wanted)?.join(&file));
    }
    let above = directory.parent().filter(|above| storage::is_address(above));
    let Some(release) = above else {
        return Ok(storage::fetch_files(&[address.to_path_buf()])?.swap_remove(0));
    };
    let shots = format!("dev/{}", name_of_shots(&file));
    let file = format!("{}/{file}", name(directory));
    let wanted = |name: &str| *name == file || *name == shots;
    Ok(storage::fetch_below(release, WHAT, &wanted)?.join(&file))
}

/// Whether [`find_here`] would look at a file of this name, with `/` between its parts.
fn is_part_of_a_set(name: &str) -> bool {
    let known = FOLDERS.iter().find_map(|folder| name.strip_prefix(folder)?.strip_prefix('/'));
    let name = known.unwrap_or(name);
    match name.split_once('/') {
        None => is_of_a_split(name),
        Some((folder, file)) => {
            ["test", "dev"].contains(&folder) && !file.contains('/') && file.ends_with(".csv")
        }
    }
}

fn is_of_a_split(name: &str) -> bool {
    ["test", "validation", "dev"]
        .iter()
        .any(|split| ["parquet", "jsonl"].iter().any(|kind| is_file_of(name, split, kind)))
}

fn find_here(path: &Path) -> Result<Splits, EvalError> {
    let metadata = fs::metadata(path).map_err(|source| EvalError::io(path, source))?;
    if !metadata.is_dir() {
        return file(path);
    }
    let folders = FOLDERS.iter().map(|folder| path.join(folder));
    for directory in [path.to_path_buf()].into_iter().chain(folders) {
        if let Some(set) = directory_of_splits(&directory)? {
            return Ok(set);
        }
        if let Some(set) = original_release(&directory)? {
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
fn file(path: &Path) -> Result<Splits, EvalError> {
    let directory = directory_of(path);
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
            let beside = directory.join("../dev").join(name_of_shots(&name));
            if beside.is_file() { vec![beside] } else { Vec::new() }
        }
        Kind::TaskFile => Vec::new(),
    };
    Ok((test, dev))
}

/// The file with the shots of one of MMLU's original release.
fn name_of_shots(name: &str) -> String {
    name.replace("_test.csv", "_dev.csv").replace("_val.csv", "_dev.csv")
}

/// A directory with a file or several for each split.
fn directory_of_splits(directory: &Path) -> Result<Option<Splits>, EvalError> {
    for extension in ["parquet", "jsonl"] {
        let mut test = split_files(directory, "test", extension)?;
        let validation = split_files(directory, "validation", extension)?;
        let answers_are_secret = |test: &[PathBuf]| match test {
            [first, ..] if extension == "parquet" => Ok(files::layout(first)?.keeps_test_answers()),
            _ => Ok::<_, EvalError>(false),
        };
        if !validation.is_empty() && (test.is_empty() || answers_are_secret(&test)?) {
            test = validation;
        }
        if let Some(first) = test.first() {
            let dev = shots_beside(directory, first, extension)?;
            return Ok(Some((test, dev)));
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
    if validation.is_empty() || taken || files::layout(scored)? != Layout::MmluPro {
        return Ok(Vec::new());
    }
    Ok(validation)
}

/// The folders `test` and `dev` with a CSV file a subject.
fn original_release(directory: &Path) -> Result<Option<Splits>, EvalError> {
    let files = |split: &str| {
        let ending = format!("_{split}.csv");
        names(&directory.join(split), |name| name.ends_with(&ending))
    };
    let test = files("test")?;
    if test.is_empty() {
        return Ok(None);
    }
    Ok(Some((test, files("dev")?)))
}

/// The files of one split in a directory, in order.
fn split_files(directory: &Path, split: &str, extension: &str) -> Result<Vec<PathBuf>, EvalError> {
    let files = names(directory, |name| is_file_of(name, split, extension))?;
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

/// `test.parquet` or `test-….parquet`.
fn is_file_of(name: &str, split: &str, extension: &str) -> bool {
    middle(name, split, extension).is_some_and(|m| m.is_empty() || m.starts_with('-'))
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
        Err(source) => return Err(EvalError::io(directory, source)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(|source| EvalError::io(directory, source))?.file_name();
        if let Some(name) = name.to_str().filter(|name| wanted(name)) {
            names.push(name.to_string());
        }
    }
    names.sort_unstable();
    Ok(names.into_iter().map(|name| directory.join(name)).collect())
}

#[cfg(test)]
mod tests {
    use super::is_part_of_a_set;

    #[test]
    fn only_what_may_be_part_of_a_set_is_fetched() {
        for name in [
            "test.parquet",
            "dev-00000-of-00001.parquet",
            "all/test-00000-of-00001.parquet",
            "winogrande_xl/validation.jsonl",
            "test/anatomy_test.csv",
            "data/dev/anatomy_dev.csv",
        ] {
            assert!(is_part_of_a_set(name), "{name}");
        }
        for name in [
            "README.md",
            "train-00000-of-00002.parquet",
            "all/auxiliary_train-00000-of-00001.parquet",
            "anatomy/test-00000-of-00001.parquet",
            "all/data/test.parquet",
            "val/anatomy_val.csv",
            "test/more/anatomy_test.csv",
        ] {
            assert!(!is_part_of_a_set(name), "{name}");
        }
    }
}
