//! Which quantkit made a result: results of another build are not taken for those of this one.

use std::path::PathBuf;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use crate::support::hash::sha256_file;
use crate::support::processor::Level;

/// The program and the kernels that ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Build {
    /// SHA-256 of the executable; absent where it could not be read.
    pub executable_sha256: Option<String>,
    /// The instruction set of its kernels, as [`Level::name`] names it.
    pub instruction_set: String,
}

impl Build {
    /// This process's own.
    pub fn current() -> Self {
        static CURRENT: OnceLock<Build> = OnceLock::new();
        let detect = || Self {
            executable_sha256: executable_sha256(),
            instruction_set: Level::current().name(),
        };
        CURRENT.get_or_init(detect).clone()
    }

    /// Whether this process would have given the same results. An executable that could not be read
    /// is the same as no other.
    pub fn is_current(&self) -> bool {
        self.executable_sha256.is_some() && *self == Self::current()
    }
}

fn executable_sha256() -> Option<String> {
    let hash = executable().and_then(|path| sha256_file(&path));
    if let Err(error) = &hash {
        tracing::warn!("no result will be reused, as the executable cannot be read: {error}");
    }
    hash.ok()
}

fn executable() -> std::io::Result<PathBuf> {
    if cfg!(target_os = "linux") {
        // What runs, even where another file has taken its path since.
        Ok(PathBuf::from("/proc/self/exe"))
    } else {
        std::env::current_exe()
    }
}

#[cfg(test)]
mod tests {
    use super::Build;

    #[test]
    fn only_the_same_executable_on_the_same_kernels_is_current() {
        let current = Build::current();
        assert!(current.is_current());
        let other = |build: Build| !build.is_current();
        assert!(other(Build { instruction_set: "abacus".to_string(), ..current.clone() }));
        assert!(other(Build { executable_sha256: Some("0".repeat(64)), ..current.clone() }));
        assert!(other(Build { executable_sha256: None, ..current }));
    }
}
