//! Finished results that lie where new ones would go: they are shown where they are the same, and
//! replaced only when that is asked for.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// What is printed below a result that was there already.
pub const NOTE: &str = "This result was there already; --overwrite makes it again.";

/// A result, and whether it was there already.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome<T> {
    /// The result.
    #[serde(flatten)]
    pub result: T,
    /// Whether it was there already.
    #[serde(skip_serializing_if = "is_new")]
    pub reused: bool,
}

/// Whether a result was not there already; for serde, which passes a reference.
pub fn is_new(reused: &bool) -> bool {
    !reused
}

/// What the first check that fails is about.
pub fn first_difference(checks: &[(bool, &'static str)]) -> Option<&'static str> {
    checks.iter().find(|(same, _)| !same).map(|(_, what)| *what)
}

/// Why a result is not replaced, and what to do about it.
pub fn refusal(place: &Path, difference: &str) -> String {
    format!(
        "{}: holds a finished result that is not the one asked for: {difference}; give another \
         --output, or replace it with --overwrite",
        place.display()
    )
}

/// Reads the result in a file, if there is one. `mismatch` says in what it is not the one that is
/// asked for.
///
/// # Errors
/// Another result, or one that cannot be read; says what to do.
pub fn read<T: DeserializeOwned>(
    path: &Path,
    mismatch: impl Fn(&T) -> Option<&'static str>,
) -> Result<Option<T>, String> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        read => read.map_err(|error| format!("{}: {error}", path.display()))?,
    };
    let result: T = serde_json::from_slice(&bytes)
        .map_err(|error| refusal(path, &format!("it cannot be read ({error})")))?;
    match mismatch(&result) {
        None => Ok(Some(result)),
        Some(what) => Err(refusal(path, &format!("it differs in {what}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_result_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("result.json");
        let read = |wanted: u32| read(&path, |found| (*found != wanted).then_some("the number"));
        assert_eq!(read(7), Ok(None));
        fs::write(&path, "7").unwrap();
        assert_eq!(read(7), Ok(Some(7)));
        let error = read(8).unwrap_err();
        assert!(error.contains("result.json: holds") && error.contains("in the number"), "{error}");
        fs::write(&path, "{").unwrap();
        assert!(read(7).unwrap_err().contains("--overwrite"));
    }

    #[test]
    fn only_an_old_result_says_so() {
        #[derive(Serialize)]
        struct Figures {
            mean: f64,
        }
        let json =
            |reused| serde_json::to_string(&Outcome { result: Figures { mean: 0.5 }, reused });
        assert_eq!(json(false).unwrap(), r#"{"mean":0.5}"#);
        assert_eq!(json(true).unwrap(), r#"{"mean":0.5,"reused":true}"#);
    }
}
