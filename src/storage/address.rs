//! `s3://BUCKET/KEY`.

use std::fmt::{self, Display};
use std::path::Path;

use super::StorageError;

const SCHEME: &str = "s3://";

/// Where an object is, or a prefix of objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) bucket: String,
    /// Without slashes at its ends; empty for the whole bucket.
    pub(super) key: String,
}

impl Address {
    pub(super) fn is_one(path: &Path) -> bool {
        path.to_str().is_some_and(|text| text.starts_with(SCHEME))
    }

    /// Takes an address apart.
    ///
    /// # Errors
    /// No bucket, or a key that no path could be.
    pub(super) fn parse(path: &Path) -> Result<Self, StorageError> {
        let text = path.to_string_lossy();
        let problem = |problem: &str| StorageError::Address {
            address: text.to_string(),
            problem: problem.to_string(),
        };
        let rest = text.strip_prefix(SCHEME).ok_or_else(|| problem("no address in storage"))?;
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        let key = key.trim_matches('/');
        if bucket.is_empty() {
            return Err(problem("the bucket is missing"));
        }
        if bucket.contains(['@', ':']) {
            // What follows may be a part of the secret.
            return Err(StorageError::Address {
                address: format!("{SCHEME}…"),
                problem: "keys do not belong in an address; put them in AWS_ACCESS_KEY_ID and \
                          AWS_SECRET_ACCESS_KEY"
                    .to_string(),
            });
        }
        if !key.is_empty() && !is_relative_path(key) {
            return Err(problem("the key has an empty part, \".\", \"..\" or a backslash"));
        }
        Ok(Self { bucket: bucket.to_string(), key: key.to_string() })
    }

    /// The last part of the key.
    pub(super) fn name(&self) -> &str {
        self.key.rsplit('/').next().unwrap_or_default()
    }

    /// All but the last part of the key.
    pub(super) fn parent(&self) -> Self {
        let key = self.key.rsplit_once('/').map_or("", |(parent, _)| parent);
        Self { bucket: self.bucket.clone(), key: key.to_string() }
    }

    /// The address of a name below this one.
    pub(super) fn join(&self, name: &str) -> Self {
        let key = match self.key.as_str() {
            "" => name.to_string(),
            key => format!("{key}/{name}"),
        };
        Self { bucket: self.bucket.clone(), key }
    }

    /// What the key has beyond that of `root`, if it lies below it and could be a path there.
    pub(super) fn below(&self, root: &Self) -> Option<&str> {
        let rest = match root.key.as_str() {
            "" => self.key.as_str(),
            key => self.key.strip_prefix(key)?.strip_prefix('/')?,
        };
        (self.bucket == root.bucket && is_relative_path(rest)).then_some(rest)
    }
}

/// Whether a key, joined to a directory, names a file in it: keys come from servers.
fn is_relative_path(key: &str) -> bool {
    let is_refused = |part: &str| {
        ["", ".", ".."].contains(&part)
            || part.contains(['\\', '\0'])
            || (cfg!(windows) && part.contains(':'))
    };
    !key.split('/').any(is_refused)
}

impl Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}", self.bucket, self.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Address, StorageError> {
        Address::parse(Path::new(text))
    }

    #[test]
    fn addresses_are_taken_apart_and_put_together() {
        let address = parse("s3://data/models/m.gguf").unwrap();
        assert_eq!((address.bucket.as_str(), address.name()), ("data", "m.gguf"));
        assert_eq!(address.to_string(), "s3://data/models/m.gguf");
        assert_eq!(address.parent().join("n.gguf"), parse("s3://data/models/n.gguf").unwrap());
        assert_eq!(parse("s3://data/models/").unwrap(), address.parent());
        assert_eq!(parse("s3://data").unwrap().join("x"), parse("s3://data/x").unwrap());
        assert!(Address::is_one(Path::new("s3://data")));
        assert!(!Address::is_one(Path::new("data/s3://x")));
    }

    #[test]
    fn what_no_path_could_be_is_refused() {
        for text in ["s3://", "s3:///key", "s3://b/a/../c", "s3://b/a//c", "s3://b/a\\c", "b/key"] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
    }

    #[test]
    fn keys_in_an_address_are_refused_and_not_repeated() {
        for text in ["s3://AKIA:secret@b/key", "s3://AKIA:sec/ret@b/key", "s3://AKIA@b/key"] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains("AWS_SECRET_ACCESS_KEY"), "{error}");
            assert!(!error.contains("AKIA") && !error.contains("ret@"), "{error}");
        }
    }

    #[test]
    fn names_below_a_prefix_stay_below_it() {
        let root = parse("s3://data/sets/mmlu").unwrap();
        let at = |key: &str| Address { bucket: "data".to_string(), key: key.to_string() };
        assert_eq!(at("sets/mmlu/all/test.parquet").below(&root), Some("all/test.parquet"));
        for key in ["sets/mmlu", "sets/mmlu-pro/x", "sets/mmlu/../x", "sets/mmlu//x", "other/x"] {
            assert_eq!(at(key).below(&root), None, "{key}");
        }
        assert_eq!(at("a/b").below(&parse("s3://data").unwrap()), Some("a/b"));
    }
}
