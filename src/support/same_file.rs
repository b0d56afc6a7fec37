//! Whether two paths are one file, by links of either kind too.

use std::fs::Metadata;
use std::path::Path;

/// Device and inode; `None` where the system has none.
#[cfg(unix)]
pub(super) fn file_identity(metadata: &Metadata) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    Some((metadata.dev(), metadata.ino()))
}

#[cfg(not(unix))]
pub(super) fn file_identity(_: &Metadata) -> Option<(u64, u64)> {
    None
}

/// Whether both paths lead to the same existing file. Paths that cannot be looked at are not the
/// same: whoever opens them gets the error.
pub fn is_same_file(a: &Path, b: &Path) -> bool {
    match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b || is_hard_link(&a, &b),
        _ => false,
    }
}

/// Whether both paths lead to the same file or, where nothing is there yet, would.
pub fn is_same_place(a: &Path, b: &Path) -> bool {
    let place = |path: &Path| {
        let path = std::path::absolute(path).ok()?;
        let parent = path.parent()?;
        let parent = parent.canonicalize().unwrap_or_else(|_| parent.to_path_buf());
        Some(parent.join(path.file_name()?))
    };
    is_same_file(a, b) || place(a).is_some_and(|a| Some(a) == place(b))
}

/// Where files have no identity, hard links are rare, and replacing one name of a file leaves the
/// others as they are.
fn is_hard_link(a: &Path, b: &Path) -> bool {
    let identity = |path: &Path| file_identity(&path.metadata().ok()?);
    identity(a).is_some_and(|a| Some(a) == identity(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_itself_under_all_its_names() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::write(at("file"), b"x").unwrap();
        std::fs::write(at("other"), b"x").unwrap();
        assert!(is_same_file(&at("file"), &at(".").join("file")));
        assert!(!is_same_file(&at("file"), &at("other")));
        assert!(!is_same_file(&at("file"), &at("missing")));
        assert!(!is_same_file(&at("missing"), &at("missing")));
        assert!(is_same_place(&at("missing"), &at(".").join("missing")));
        assert!(is_same_place(&at("no/missing"), &at("no/missing")));
        assert!(!is_same_place(&at("missing"), &at("other")));
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(at("file"), at("link")).unwrap();
            std::fs::hard_link(at("file"), at("hard")).unwrap();
            assert!(is_same_file(&at("file"), &at("link")));
            assert!(is_same_file(&at("hard"), &at("file")));
        }
    }
}
