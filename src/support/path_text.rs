//! Paths in JSON, which is UTF-8: bytes of a path that are not become U+FFFD. For serde's
//! `serialize_with`.

use std::path::{Path, PathBuf};

use serde::Serializer;

/// A path.
pub fn one<P: AsRef<Path>, S: Serializer>(path: &P, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.as_ref().to_string_lossy())
}

/// A path that may be missing.
pub fn optional<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    match path {
        Some(path) => one(path, serializer),
        None => serializer.serialize_none(),
    }
}

/// Several paths.
pub fn several<L: AsRef<[PathBuf]>, S: Serializer>(
    paths: &L,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(paths.as_ref().iter().map(|path| path.to_string_lossy()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Serialize)]
    struct Report {
        #[serde(serialize_with = "one")]
        one: PathBuf,
        #[serde(serialize_with = "optional")]
        optional: Option<PathBuf>,
        #[serde(serialize_with = "several")]
        several: Vec<PathBuf>,
    }

    #[cfg(unix)]
    #[test]
    fn paths_that_are_no_text_are_written() {
        use std::os::unix::ffi::OsStrExt;

        let path = PathBuf::from(std::ffi::OsStr::from_bytes(b"a\xff"));
        let report = Report { one: path.clone(), optional: None, several: vec![path, "b".into()] };
        let expected = serde_json::json!(
            {"one": "a\u{FFFD}", "optional": null, "several": ["a\u{FFFD}", "b"]}
        );
        assert_eq!(serde_json::to_value(report).unwrap(), expected);
    }
}
