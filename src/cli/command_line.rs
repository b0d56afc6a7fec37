//! The command line, for records.

use std::ffi::OsStr;

/// The command line of this process, quoted for a shell.
pub(super) fn command_line() -> String {
    let words = std::env::args_os().skip(1).map(|word| shell_word(&word));
    std::iter::once("quantkit".to_string()).chain(words).collect::<Vec<_>>().join(" ")
}

/// A word as a POSIX shell reads it.
fn shell_word(word: &OsStr) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./,:=@%+".contains(c);
    match word.to_str() {
        Some(word) if !word.is_empty() && word.chars().all(plain) => word.to_string(),
        Some(word) => format!("'{}'", word.replace('\'', "'\\''")),
        // No text, but the shell makes the same bytes of it.
        None => format!("$'{}'", word.as_encoded_bytes().escape_ascii()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_where_a_shell_needs_it() {
        let shell_word = |word: &str| shell_word(OsStr::new(word));
        assert_eq!(shell_word("--set"), "--set");
        assert_eq!(shell_word("my models/m.gguf"), "'my models/m.gguf'");
        assert_eq!(shell_word("it's"), "'it'\\''s'");
        assert_eq!(shell_word(""), "''");
    }

    #[cfg(unix)]
    #[test]
    fn words_that_are_no_text_keep_their_bytes() {
        use std::os::unix::ffi::OsStrExt;

        assert_eq!(shell_word(OsStr::from_bytes(b"it's \xff")), r"$'it\'s \xff'");
    }
}
