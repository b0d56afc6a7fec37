//! Python's methods of strings, which lm-evaluation-harness's texts go through.

/// What Python takes for white space: Unicode's, and the four ASCII separators.
fn is_space(character: char) -> bool {
    character.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&character)
}

/// Python's `str.strip`.
pub(in crate::eval) fn trim(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// Python's `str.rstrip`.
pub(in crate::eval) fn trim_end(text: &str) -> &str {
    text.trim_end_matches(is_space)
}

/// Python's `str.capitalize`: the first character in upper case, the others in lower case.
pub(in crate::eval) fn capitalize(text: &str) -> String {
    let mut characters = text.chars();
    let first = characters.next().map(|first| first.to_uppercase().to_string());
    first.unwrap_or_default() + &characters.as_str().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_and_white_space_follow_python() {
        assert_eq!(capitalize("éCOLE ÀB"), "École àb");
        assert_eq!(capitalize(""), "");
        assert_eq!(trim("\u{1f}\u{a0} x\u{2003}\n"), "x");
        assert_eq!(trim_end(" x \u{1c}"), " x");
    }
}
