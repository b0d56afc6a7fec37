//! The command line, for records.

use crate::support::redact::shown;

/// The command line of this process, quoted for a shell, without passwords and keys in addresses.
pub(super) fn command_line() -> String {
    let words = std::env::args_os().skip(1);
    let words = words.map(|word| shell_word(&shown(&word.to_string_lossy())));
    std::iter::once("quantkit".to_string()).chain(words).collect::<Vec<_>>().join(" ")
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
    use super::shell_word;

    #[test]
    fn words_are_quoted_where_a_shell_needs_it() {
        assert_eq!(shell_word("--set"), "--set");
        assert_eq!(shell_word("my models/m.gguf"), "'my models/m.gguf'");
        assert_eq!(shell_word("it's"), "'it'\\''s'");
        assert_eq!(shell_word(""), "''");
    }
}
