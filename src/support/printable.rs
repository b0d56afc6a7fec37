//! Text that is safe to print. What a file says must not steer the terminal that shows it.

use std::borrow::Cow;

/// Text on one line: every character that steers a terminal is shown as its escape, line breaks and
/// tabs too.
pub fn one_line(text: &str) -> Cow<'_, str> {
    escaped(text, steers)
}

/// Text on as many lines as it has: line breaks and tabs stay, every other character that steers a
/// terminal is shown as its escape.
pub fn lines(text: &str) -> Cow<'_, str> {
    escaped(text, |character| steers(character) && !matches!(character, '\n' | '\t'))
}

/// A JSON document: what `serde_json` leaves as it is although it steers a terminal is written as
/// `\u0000`. The document says the same.
pub fn json(document: &str) -> Cow<'_, str> {
    // Outside of texts, a document has no such characters but line breaks and tabs.
    let is_left = |character| steers(character) && !matches!(character, '\n' | '\t' | '\r');
    replaced(document, is_left, |character, text| {
        // All of them lie in the first plane, where the code point is the one UTF-16 unit.
        text.push_str(&format!("\\u{:04x}", u32::from(character)));
    })
}

/// Control characters, and those that change the direction of the text after them.
fn steers(character: char) -> bool {
    character.is_control() || matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn escaped(text: &str, is_escaped: impl Fn(char) -> bool) -> Cow<'_, str> {
    replaced(text, is_escaped, |character, text| text.extend(character.escape_default()))
}

fn replaced(
    text: &str,
    is_replaced: impl Fn(char) -> bool,
    replace: impl Fn(char, &mut String),
) -> Cow<'_, str> {
    if !text.contains(&is_replaced) {
        return Cow::Borrowed(text);
    }
    let mut replaced = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_replaced(character) {
            replace(character, &mut replaced);
        } else {
            replaced.push(character);
        }
    }
    Cow::Owned(replaced)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str = "a\u{1b}[2J\u{9b}31m\u{7f}\r\n\t\u{202e}é";

    #[test]
    fn what_steers_a_terminal_is_shown_as_its_escape() {
        assert_eq!(one_line(HOSTILE), "a\\u{1b}[2J\\u{9b}31m\\u{7f}\\r\\n\\t\\u{202e}é");
        assert_eq!(lines(HOSTILE), "a\\u{1b}[2J\\u{9b}31m\\u{7f}\\r\n\t\\u{202e}é");
        assert!(matches!(one_line("שלום, é \\ \u{200f}"), Cow::Borrowed(_)));
    }

    #[test]
    fn a_json_document_says_the_same() {
        let document = serde_json::to_string_pretty(&[HOSTILE]).unwrap();
        let shown = json(&document);
        assert!(shown.chars().all(|c| !steers(c) || c == '\n'), "{shown:?}");
        let read: [String; 1] = serde_json::from_str(&shown).unwrap();
        assert_eq!(read[0], HOSTILE);
    }
}
