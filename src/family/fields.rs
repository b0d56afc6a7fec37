//! The fields of a family's config.json and the metadata keys that they become: one list, used in both
//! directions.

use serde_json::{Map, Value as Json, json};

use crate::checkpoint::config::{Config, missing};
use crate::gguf::{Array, GgufFile, Metadata, ModelKeys, Value};
use crate::quant::formats::dequantize_row;

/// A field of config.json, a metadata key, or both. Keys are without the architecture's prefix. Of
/// several names in config.json the first that is there counts, and `export` writes the first.
#[derive(Debug)]
pub enum Field {
    /// A whole number above 0.
    Count {
        /// Names in config.json.
        config: &'static [&'static str],
        /// The key.
        gguf: &'static str,
        /// What holds where config.json has none.
        absent: Absent<usize>,
    },
    /// A finite number.
    Number {
        /// Names in config.json.
        config: &'static [&'static str],
        /// The key.
        gguf: &'static str,
        /// What holds where config.json has none.
        absent: Absent<f64>,
    },
    /// Yes or no.
    Truth {
        /// Names in config.json.
        config: &'static [&'static str],
        /// The key.
        gguf: &'static str,
        /// What holds where config.json has none.
        absent: Absent<bool>,
    },
    /// A text that only config.json has, and that has to be one of these; the first is what an absent
    /// one means, and what `export` writes.
    OneOf {
        /// Names in config.json.
        config: &'static [&'static str],
        /// What it may be.
        allowed: &'static [&'static str],
    },
    /// Yes or no in config.json alone, as it has to be; also what an absent one means.
    Always {
        /// Its name in config.json.
        config: &'static str,
        /// The value.
        value: bool,
    },
    /// Yes or no in config.json, where GGUF has or lacks a tensor.
    Tensor {
        /// Its name in config.json.
        config: &'static str,
        /// The tensor.
        tensor: &'static str,
        /// What config.json says where the tensor is there.
        there: bool,
    },
    /// What the kinds above cannot say.
    Special {
        /// The keys that it may write.
        gguf: &'static [&'static str],
        /// config.json → metadata.
        write: fn(&Config, &mut Keys<'_>) -> Result<(), String>,
        /// Metadata → config.json.
        export: fn(&Exported<'_>, &mut Map<String, Json>) -> Result<(), String>,
    },
    /// The place of `general.file_type` among the keys.
    FileType,
}

/// What an absent field of config.json means.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Absent<T> {
    /// An error: there has to be one.
    Error,
    /// The file has no such key either.
    Skip,
    /// This value.
    Means(T),
}

impl<T> Absent<T> {
    fn resolve(&self, found: Option<T>, names: &[&str]) -> Result<Option<T>, String>
    where
        T: Copy,
    {
        match (found, self) {
            (Some(value), _) => Ok(Some(value)),
            (None, Self::Means(value)) => Ok(Some(*value)),
            (None, Self::Skip) => Ok(None),
            (None, Self::Error) => Err(missing(names)),
        }
    }
}

/// A whole number that has to be there.
pub const fn count(gguf: &'static str, config: &'static [&'static str]) -> Field {
    Field::Count { config, gguf, absent: Absent::Error }
}

/// A whole number that may be absent on both sides.
pub const fn optional_count(gguf: &'static str, config: &'static [&'static str]) -> Field {
    Field::Count { config, gguf, absent: Absent::Skip }
}

/// A number that has to be there.
pub const fn number(gguf: &'static str, config: &'static [&'static str]) -> Field {
    Field::Number { config, gguf, absent: Absent::Error }
}

/// A number that may be absent on both sides.
pub const fn optional_number(gguf: &'static str, config: &'static [&'static str]) -> Field {
    Field::Number { config, gguf, absent: Absent::Skip }
}

/// Metadata under construction: a family's keys, without their prefix.
#[derive(Debug)]
pub struct Keys<'a> {
    metadata: &'a mut Metadata,
    architecture: &'static str,
    file_type: u32,
}

impl<'a> Keys<'a> {
    /// The keys of an architecture; `file_type` is what `general.file_type` will be.
    pub(super) fn new(
        metadata: &'a mut Metadata,
        architecture: &'static str,
        file_type: u32,
    ) -> Self {
        Self { metadata, architecture, file_type }
    }

    fn set(&mut self, key: &str, value: Value) {
        self.metadata.set(format!("{}.{key}", self.architecture), value);
    }

    /// A whole number.
    ///
    /// # Errors
    /// One that does not fit 32 bits.
    pub fn count(&mut self, key: &str, value: usize) -> Result<(), String> {
        let value = u32::try_from(value).map_err(|_| format!("{key} = {value} is too large"))?;
        self.set(key, Value::U32(value));
        Ok(())
    }

    /// Whole numbers, one a layer.
    ///
    /// # Errors
    /// One that does not fit 31 bits.
    pub fn counts(&mut self, key: &str, values: &[usize]) -> Result<(), String> {
        let values = values.iter().map(|&value| {
            i32::try_from(value).map_err(|_| format!("{key} = {value} is too large"))
        });
        self.set(key, Value::Array(Array::I32(values.collect::<Result<_, _>>()?)));
        Ok(())
    }

    /// A number.
    pub fn float(&mut self, key: &str, value: f64) {
        self.set(key, Value::F32(value as f32));
    }

    /// A text.
    pub fn text(&mut self, key: &str, value: &str) {
        self.set(key, Value::String(value.to_string()));
    }

    /// Yes or no.
    pub fn truth(&mut self, key: &str, value: bool) {
        self.set(key, Value::Bool(value));
    }

    /// Yes or no, one a layer.
    pub fn truths(&mut self, key: &str, values: &[bool]) {
        self.set(key, Value::Array(Array::Bool(values.to_vec())));
    }
}

/// A GGUF file that becomes a checkpoint.
#[derive(Debug)]
pub struct Exported<'a> {
    /// Its metadata, of its own architecture.
    pub keys: ModelKeys<'a>,
    /// The file.
    pub file: &'a GgufFile,
}

/// No vector that a config.json spells out is longer.
const LONGEST_VECTOR: u64 = 1 << 16;

impl Exported<'_> {
    /// Whether there is a tensor of this name.
    pub fn has(&self, tensor: &str) -> bool {
        self.file.tensor(tensor).is_some()
    }

    /// A finite number as people wrote it: 1e-5, not 9.99999974737875e-6.
    ///
    /// # Errors
    /// A value that is none.
    pub fn number(&self, key: &str) -> Result<Option<f64>, String> {
        Ok(self.keys.optional_number(key)?.map(shortest))
    }

    /// The weights of a small tensor, where the file has it.
    ///
    /// # Errors
    /// One that is large, or of a type that cannot be read.
    pub fn values(&self, name: &str) -> Result<Option<Vec<f32>>, String> {
        let Some(tensor) = self.file.tensor(name) else { return Ok(None) };
        if tensor.weights() > LONGEST_VECTOR {
            return Err(format!(
                "tensor \"{name}\" has {} values, more than {LONGEST_VECTOR}",
                tensor.weights()
            ));
        }
        let mut values = vec![0.0; tensor.weights() as usize];
        dequantize_row(tensor.ggml_type, self.file.tensor_bytes(tensor), &mut values)
            .map_err(|error| format!("tensor \"{name}\": {error}"))?;
        Ok(Some(values))
    }
}

impl Field {
    /// The metadata keys that the field may write.
    pub fn keys(&self) -> &[&'static str] {
        match self {
            Self::Count { gguf, .. } | Self::Number { gguf, .. } | Self::Truth { gguf, .. } => {
                std::slice::from_ref(gguf)
            }
            Self::Special { gguf, .. } => gguf,
            _ => &[],
        }
    }

    /// Writes the field's keys.
    pub(super) fn write(&self, config: &Config, keys: &mut Keys<'_>) -> Result<(), String> {
        match self {
            Self::Count { config: names, gguf, absent } => {
                match absent.resolve(config.count(names)?, names)? {
                    Some(value) => keys.count(gguf, value),
                    None => Ok(()),
                }
            }
            Self::Number { config: names, gguf, absent } => {
                if let Some(value) = absent.resolve(config.number(names)?, names)? {
                    keys.float(gguf, value);
                }
                Ok(())
            }
            Self::Truth { config: names, gguf, absent } => {
                if let Some(value) = absent.resolve(config.truth(names)?, names)? {
                    keys.truth(gguf, value);
                }
                Ok(())
            }
            Self::OneOf { config: names, allowed } => match config.text(names)? {
                Some(other) if !allowed.contains(&other) => Err(format!(
                    "\"{}\" is \"{other}\", but quantkit runs this architecture with {} only",
                    names[0],
                    allowed.join(" or ")
                )),
                _ => Ok(()),
            },
            Self::Always { config: name, value } => match config.truth(&[*name])? {
                Some(other) if other != *value => Err(format!(
                    "\"{name}\" is {other}, but quantkit runs this architecture with {value} only"
                )),
                _ => Ok(()),
            },
            Self::Tensor { config: name, .. } => config.truth(&[*name]).map(|_| ()),
            Self::Special { write, .. } => write(config, keys),
            Self::FileType => {
                keys.metadata.set("general.file_type", Value::U32(keys.file_type));
                Ok(())
            }
        }
    }

    /// Sets the field in a config.json.
    pub(super) fn export(
        &self,
        file: &Exported<'_>,
        config: &mut Map<String, Json>,
    ) -> Result<(), String> {
        let mut set = |name: &str, value: Json| drop(config.insert(name.to_string(), value));
        match self {
            Self::Count { config, gguf, absent } => {
                let found = file.keys.optional_count(gguf)?.filter(|&count| count > 0);
                let names = [file.keys.name(gguf)];
                match (found, absent) {
                    (Some(value), _) => set(config[0], json!(value)),
                    (None, Absent::Error) => return Err(format!("{} is missing", names[0])),
                    (None, _) => {}
                }
            }
            Self::Number { config, gguf, absent } => match (file.number(gguf)?, absent) {
                (Some(value), _) => set(config[0], json!(value)),
                (None, Absent::Error) => {
                    return Err(format!("{} is missing", file.keys.name(gguf)));
                }
                (None, _) => {}
            },
            Self::Truth { config, gguf, .. } => {
                if let Some(value) = file.keys.optional_truth(gguf)? {
                    set(config[0], json!(value));
                }
            }
            Self::OneOf { config, allowed } => set(config[0], json!(allowed[0])),
            Self::Always { config, value } => set(config, json!(value)),
            Self::Tensor { config, tensor, there } => {
                set(config, json!(file.has(tensor) == *there));
            }
            Self::Special { export, .. } => export(file, config)?,
            Self::FileType => {}
        }
        Ok(())
    }
}

/// A number that was a 32-bit float, as the decimal number that people wrote: 1e-5, not
/// 9.99999974737875e-6.
pub fn shortest(number: f64) -> f64 {
    let narrow = number as f32;
    if f64::from(narrow) == number { narrow.to_string().parse().unwrap_or(number) } else { number }
}
