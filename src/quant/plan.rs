//! Plans: files that name the format of every tensor of one model.
//!
//! A plan is JSON: `{"format": "quantkit-plan", "version": 1, "model": {"architecture": "llama"},
//! "tensors": {"blk.0.attn_v.weight": "Q5_K", …}}`. Fields that are not known here are kept.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::{Error as _, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::gguf::{GgmlType, TensorInfo};
use crate::support::atomic_file::write_atomically;
use crate::support::hash::sha256_bytes;
use crate::support::regular_file::read_regular;

/// What the `format` field of every plan says.
const FORMAT: &str = "quantkit-plan";
/// The version that is read and written.
const VERSION: u64 = 1;

/// Why a plan could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: std::io::Error,
    },
    /// The file is no plan, or one of another version.
    #[error("{}: no plan that quantkit can read: {problem}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

/// The format of every tensor of one model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    format: String,
    version: u64,
    /// The model that it is for.
    pub model: PlannedModel,
    tensors: Formats,
    /// Everything else that the file says, for its readers.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// What a plan says about its model.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct PlannedModel {
    /// Its `general.architecture`.
    pub architecture: String,
    /// [`tensors_sha256`] of its tensors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tensors_sha256: Option<String>,
    /// Everything else that the file says about it.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Formats by tensor name, in the file's order.
#[derive(Debug, Clone, PartialEq, Default)]
struct Formats {
    ordered: Vec<(String, GgmlType)>,
    by_name: HashMap<String, GgmlType>,
}

/// What has to be right before the rest can be understood.
#[derive(Deserialize)]
struct Head {
    format: Option<Value>,
    version: Option<Value>,
}

impl Plan {
    /// A plan for a model; of a tensor that is named twice, the last format counts.
    pub fn new(model: PlannedModel, tensors: impl IntoIterator<Item = (String, GgmlType)>) -> Self {
        let mut formats = Formats::default();
        for (name, format) in tensors {
            formats.insert(name, format);
        }
        Self {
            format: FORMAT.to_string(),
            version: VERSION,
            model,
            tensors: formats,
            extra: Map::new(),
        }
    }

    /// Reads a plan file.
    ///
    /// # Errors
    /// A file that cannot be read, is no plan, has another version, names a tensor twice or a
    /// format that does not exist.
    pub fn read(path: &Path) -> Result<Self, PlanError> {
        let bytes = read_regular(path)
            .map_err(|source| PlanError::Io { path: path.to_path_buf(), source })?;
        Self::parse(&bytes)
            .map_err(|problem| PlanError::Malformed { path: path.to_path_buf(), problem })
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let Head { format, version } =
            serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let found =
            |value: Option<Value>| value.map_or("nothing".into(), |value| value.to_string());
        if format.as_ref().and_then(Value::as_str) != Some(FORMAT) {
            return Err(format!("\"format\" must be \"{FORMAT}\", found {}", found(format)));
        }
        if version.as_ref().and_then(Value::as_u64) != Some(VERSION) {
            return Err(format!("\"version\" must be {VERSION}, found {}", found(version)));
        }
        serde_json::from_slice(bytes).map_err(|error| error.to_string())
    }

    /// Writes the plan; the file appears complete or not at all.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), PlanError> {
        let io = |source| PlanError::Io { path: path.to_path_buf(), source };
        let mut text = serde_json::to_vec_pretty(self).map_err(|error| io(error.into()))?;
        text.push(b'\n');
        write_atomically(path, &text).map_err(io)
    }

    /// The format of the tensor with this name.
    pub fn format_of(&self, name: &str) -> Option<GgmlType> {
        self.tensors.by_name.get(name).copied()
    }

    /// The importance file that `quantkit search` made the plan with.
    pub fn importance_file(&self) -> Option<&str> {
        self.extra.get("search")?.get("importance")?.as_str()
    }

    /// All tensors and their formats, in the file's order.
    pub fn tensors(&self) -> &[(String, GgmlType)] {
        &self.tensors.ordered
    }
}

/// SHA-256 of the names and dimensions of a model's tensors, sorted by name: the same for files of
/// one model in different formats.
pub fn tensors_sha256(tensors: &[TensorInfo]) -> String {
    let mut lines: Vec<String> =
        tensors.iter().map(|tensor| format!("{} {:?}\n", tensor.name, tensor.dimensions)).collect();
    lines.sort_unstable();
    sha256_bytes(lines.concat().as_bytes())
}

impl Formats {
    /// Returns what the tensor had before.
    fn insert(&mut self, name: String, format: GgmlType) -> Option<GgmlType> {
        let old = self.by_name.insert(name.clone(), format);
        match old {
            None => self.ordered.push((name, format)),
            Some(_) => {
                let entry = self.ordered.iter_mut().find(|(known, _)| *known == name);
                entry.expect("both hold the same names").1 = format;
            }
        }
        old
    }
}

impl Serialize for Formats {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.ordered.len()))?;
        for (name, format) in &self.ordered {
            map.serialize_entry(name, format.name())?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Formats {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FormatsVisitor)
    }
}

struct FormatsVisitor;

impl<'de> Visitor<'de> for FormatsVisitor {
    type Value = Formats;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("formats by tensor name, such as \"output.weight\": \"Q6_K\"")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Formats, A::Error> {
        let mut formats = Formats::default();
        while let Some((name, format)) = map.next_entry::<String, String>()? {
            let known = GgmlType::from_name(&format).ok_or_else(|| {
                A::Error::custom(format!("{name} is to have the format {format:?}, which is none"))
            })?;
            if formats.by_name.contains_key(&name) {
                return Err(A::Error::custom(format!("{name} is there twice")));
            }
            formats.insert(name, known);
        }
        Ok(formats)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Plan, String> {
        Plan::parse(text.as_bytes())
    }

    #[test]
    fn what_is_written_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("plan.json");
        let model = PlannedModel { architecture: "llama".to_string(), ..PlannedModel::default() };
        let formats = [("b.weight", GgmlType::Q6_K), ("a.weight", GgmlType::Q4_0)];
        let mut plan = Plan::new(model, formats.map(|(name, format)| (name.to_string(), format)));
        plan.extra.insert("budget".to_string(), Value::from(4.5));
        plan.write(&path).unwrap();
        let read = Plan::read(&path).unwrap();
        assert_eq!(read, plan);
        assert_eq!(read.format_of("b.weight"), Some(GgmlType::Q6_K));
        assert_eq!(read.format_of("c.weight"), None);
        assert_eq!(read.tensors()[0].0, "b.weight");
    }

    #[test]
    fn what_is_no_plan_is_refused() {
        let document = |tensors: &str| {
            format!(
                r#"{{"format": "quantkit-plan", "version": 1, "model": {{"architecture": "llama"}},
                    "tensors": {tensors}}}"#
            )
        };
        assert!(parse(&document(r#"{"a": "q4_k"}"#)).is_ok());
        for (text, words) in [
            ("[]".to_string(), "expected"),
            ("{".to_string(), "EOF"),
            ("{}".to_string(), "\"format\" must be"),
            (document("{}").replace(": 1", ": 2"), "\"version\" must be 1, found 2"),
            (document("{}").replace("architecture", "arch"), "architecture"),
            (document(r#"{"a": "Q9"}"#), "\"Q9\""),
            (document(r#"{"a": "Q8_0", "a": "Q4_0"}"#), "a is there twice"),
            (document("[]"), "formats by tensor name"),
        ] {
            let error = parse(&text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
