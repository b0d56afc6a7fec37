//! Pointers that Git leaves where large files were not downloaded
//! (<https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md>).

/// How a pointer begins, whatever it points to.
const BEGINNING: &[u8] = b"version https://git-lfs.github.com/spec/";

/// What is wrong with a file that begins like this, if it is only a pointer.
pub fn problem(beginning: &[u8]) -> Option<&'static str> {
    beginning.starts_with(BEGINNING).then_some(
        "this is a Git LFS pointer, not the file itself: run `git lfs pull` in its repository, or \
         download the file",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_are_told_from_files() {
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";
        assert!(problem(pointer).is_some_and(|problem| problem.contains("git lfs pull")));
        assert_eq!(problem(b"version"), None);
        assert_eq!(problem(b""), None);
    }
}
