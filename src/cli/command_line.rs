//! The command line, for records.

use std::ffi::OsStr;

use crate::support::redact::shown;

/// The command line of this process, quoted for a shell, without passwords and keys in addresses.
pub(super) fn command_line() -> String {
    let words = std::env::args_os().skip(1).map(|word| recorded(&word));
    std::iter::once("quantkit".to_string()).chain(words).collect::<Vec<_>>().join(" ")
}

/// A word without secrets, quoted. One that is no text keeps its bytes, unless it has a secret.
fn recorded(word: &OsStr) -> String {
    let text = word.to_string_lossy();
    let shown = shown(&text);
    if word.to_str().is_none() && shown == text {
        return format!("$'{}'", word.as_encoded_bytes().escape_ascii());
    }
    shell_word(&shown)
}

/// A word as a POSIX shell reads it.
fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./,:=@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_string()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_where_a_shell_needs_it() {
        assert_eq!(shell_word("--set"), "--set");
        assert_eq!(shell_word("my models/m.gguf"), "'my models/m.gguf'");
        assert_eq!(shell_word("it's"), "'it'\\''s'");
        assert_eq!(shell_word(""), "''");
    }

    #[cfg(unix)]
    #[test]
    fn words_that_are_no_text_keep_their_bytes() {
        use std::os::unix::ffi::OsStrExt;

        assert_eq!(recorded(OsStr::from_bytes(b"it's \xff")), r"$'it\'s \xff'");
        let secret = recorded(OsStr::from_bytes(b"http://me:secret@host/\xff"));
        assert!(!secret.contains("secret"), "{secret}");
    }
}
