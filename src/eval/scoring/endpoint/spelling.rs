//! Where the tokens of a text lie in it, by what a server says of them.
//!
//! Most servers name a token by its text alone. What the names leave open is kept open: a token that
//! holds parts of characters is "�" in an answer, or nothing at all, and the same name may stand for
//! several tokens.

use std::ops::Range;

/// A server puts no more tokens than this before a text.
const MOST_ADDED: usize = 2;

/// A name with "�" is no longer than this, in bytes.
const LONGEST_PARTIAL: usize = 128;

/// A token without a name is no longer than this, in bytes.
const LONGEST_UNNAMED: usize = 256;

/// What error messages show of a text.
const SHOWN_CHARACTERS: usize = 24;

/// What a server says of a token's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Name {
    /// Its text. Parts of characters are "�", or left out, or the whole character is named with its
    /// last part; a space at the beginning may be missing.
    Text(String),
    /// Its very bytes.
    Bytes(Vec<u8>),
    /// Nothing.
    Untold,
}

/// The bytes of a text that a token may stand for.
pub(super) type Span = Range<usize>;

/// For each token, the spans that it may have where all tokens together spell the text: one span in
/// most cases. Tokens that the server puts before the text have an empty one.
///
/// # Errors
/// Tokens that do not spell the text; says where.
pub(super) fn lay<'a>(
    names: impl IntoIterator<Item = &'a Name>,
    text: &str,
) -> Result<Vec<Vec<Span>>, String> {
    let mut places: Vec<Vec<Span>> = Vec::new();
    let mut starts = vec![0];
    for (index, name) in names.into_iter().enumerate() {
        let spans: Vec<Span> = starts
            .iter()
            .flat_map(|&start| {
                ends(name, index, text, start).into_iter().map(move |end| start..end)
            })
            .collect();
        if spans.is_empty() {
            return Err(misspelt(name, index, text, starts.last().copied().unwrap_or(0)));
        }
        starts = spans.iter().map(|span| span.end).collect();
        starts.sort_unstable();
        starts.dedup();
        places.push(spans);
    }
    let mut reached = vec![text.len()];
    for spans in places.iter_mut().rev() {
        spans.retain(|span| reached.contains(&span.end));
        reached = spans.iter().map(|span| span.start).collect();
        reached.dedup();
    }
    if reached.contains(&0) {
        return Ok(places);
    }
    let rest = shown(text, starts.last().copied().unwrap_or(0));
    Err(format!("the tokens end before the text does, which goes on with {rest:?}"))
}

/// Where a token may end that begins at `start`.
fn ends(name: &Name, index: usize, text: &str, start: usize) -> Vec<usize> {
    let mut ends = match name {
        Name::Untold if index == 0 => (0..=text.len().min(LONGEST_UNNAMED)).collect(),
        Name::Untold => Vec::new(),
        Name::Bytes(bytes) => ends_of_bytes(bytes, text, start),
        Name::Text(name) => ends_of_text(name, text, start),
    };
    if start == 0 && index < MOST_ADDED && ends.is_empty() {
        ends.push(0);
    }
    ends.sort_unstable();
    ends.dedup();
    ends
}

fn ends_of_bytes(bytes: &[u8], text: &str, start: usize) -> Vec<usize> {
    let rest = &text.as_bytes()[start..];
    // SentencePiece puts a space before a text.
    let prefixed = bytes.strip_prefix(b" ").filter(|_| start == 0);
    let own = Some(bytes).filter(|bytes| !bytes.is_empty());
    let fitting = own.into_iter().chain(prefixed).filter(|bytes| rest.starts_with(bytes));
    fitting.map(|bytes| start + bytes.len()).collect()
}

fn ends_of_text(name: &str, text: &str, start: usize) -> Vec<usize> {
    let mut ends = spelt(name, text, start);
    // Tokenizers of SentencePiece's kind leave the space out that begins a text, which each token is
    // when it is decoded by itself; and they put one before a text that begins without.
    if text.as_bytes().get(start) == Some(&b' ') {
        if name.is_empty() {
            ends.push(start + 1);
        } else {
            ends.extend(spelt(name, text, start + 1));
        }
    }
    if let (0, Some(name)) = (start, name.strip_prefix(' ')) {
        ends.extend(if name.is_empty() { vec![0] } else { spelt(name, text, 0) });
    }
    ends
}

/// Where a token may end that is named by its text, parts of characters aside.
fn spelt(name: &str, text: &str, start: usize) -> Vec<usize> {
    let bytes = text.as_bytes();
    if name.is_empty() {
        return (start + 1..=text.len().min(start + 3))
            .filter(|&end| is_part_of_character(text, start..end))
            .collect();
    }
    if name.contains(char::REPLACEMENT_CHARACTER) {
        let most = if name.len() <= LONGEST_PARTIAL { start + name.len() } else { start };
        return (start + 1..=text.len().min(most))
            .filter(|&end| String::from_utf8_lossy(&bytes[start..end]) == name)
            .collect();
    }
    // With its last part, the whole character is named.
    let named = (0..=start).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    let end = named + name.len();
    if bytes[named..].starts_with(name.as_bytes()) && end > start { vec![end] } else { Vec::new() }
}

/// Whether a span is within a character, and not all of it.
fn is_part_of_character(text: &str, span: Span) -> bool {
    let whole = text.is_char_boundary(span.start) && text.is_char_boundary(span.end);
    !whole && !(span.start + 1..span.end).any(|at| text.is_char_boundary(at))
}

fn misspelt(name: &Name, index: usize, text: &str, start: usize) -> String {
    let name = match name {
        Name::Text(name) => format!("{:?}", shown(name, 0)),
        Name::Bytes(bytes) => format!("{:?}", shown(&String::from_utf8_lossy(bytes), 0)),
        Name::Untold => "without a name".to_string(),
    };
    let number = index + 1;
    match shown(text, start) {
        "" => format!("token {number} of the answer is {name}, where the text has ended"),
        rest => format!("token {number} of the answer is {name}, where the text has {rest:?}"),
    }
}

/// The beginning of what follows in a text.
fn shown(text: &str, start: usize) -> &str {
    let start = (start..=text.len()).find(|&at| text.is_char_boundary(at)).unwrap_or(text.len());
    let rest = &text[start..];
    rest.char_indices().nth(SHOWN_CHARACTERS).map_or(rest, |(end, _)| &rest[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(names: &[&str]) -> Vec<Name> {
        names.iter().map(|name| Name::Text(name.to_string())).collect()
    }

    fn spans(names: &[&str], text: &str) -> Result<Vec<Vec<Span>>, String> {
        lay(&texts(names), text)
    }

    /// The parts of a text that its tokens stand for; each must be certain.
    fn parts<'a>(names: &[&str], text: &'a str) -> Vec<&'a [u8]> {
        let places = spans(names, text).unwrap();
        assert!(places.iter().all(|spans| spans.len() == 1), "{places:?}");
        places.iter().map(|spans| &text.as_bytes()[spans[0].clone()]).collect()
    }

    #[test]
    fn tokens_spell_a_text_after_what_the_server_puts_before_it() {
        let empty: &[u8] = b"";
        let sky: [&[u8]; 2] = [b"The", b" sky"];
        assert_eq!(parts(&["The", " sky"], "The sky"), sky);
        assert_eq!(parts(&["<s>", "The", " sky"], "The sky")[0], empty);
        assert_eq!(parts(&["[G]", "<sop>", "The", " sky"], "The sky")[2..], sky);
        // As SentencePiece decodes single tokens, and as it tells its pieces.
        assert_eq!(parts(&["", "The", "sky"], "The sky")[1..], sky);
        assert_eq!(parts(&["<s>", " The", " sky"], "The sky")[1..], sky);
        let spaces: [&[u8]; 3] = [b"a", b" ", b" b"];
        assert_eq!(parts(&["a", " ", " b"], "a  b"), spaces);
        assert_eq!(parts(&["a", "", "b"], "a  b"), spaces);
    }

    #[test]
    fn tokens_that_spell_something_else_are_refused() {
        let error = |names: &[&str], text: &str| spans(names, text).unwrap_err();
        let truncated = error(&["The", " sky"], "The sky is blue");
        assert!(truncated.ends_with("which goes on with \" is blue\""), "{truncated}");
        let other = error(&["<s>", "The", " sea"], "The sky");
        assert!(other.contains("token 3 of the answer is \" sea\""), "{other}");
        assert!(other.contains("the text has \" sky\""), "{other}");
        assert!(error(&["The", " sky", "!"], "The sky").contains("the text has ended"));
        // Only the tail; nothing; three tokens before the text.
        for names in [&[" is", " blue"][..], &[], &["a", "b", "c", "The", " sky", " is", " blue"]] {
            error(names, "The sky is blue");
        }
    }

    #[test]
    fn parts_of_characters_lie_where_they_can_only_lie() {
        let day = "天".as_bytes();
        let (first, second, third) = (&day[..1], &day[1..2], &day[2..]);
        assert_eq!(parts(&["�", "�", "�"], "天"), [first, second, third]);
        // Two bytes that begin a character are one "�", two that end it are two.
        assert_eq!(parts(&["�", "�"], "天"), [&day[..2], third]);
        assert_eq!(parts(&["�", "��"], "天"), [first, &day[1..]]);
        assert_eq!(parts(&["a �", "�b"], "a 天b").concat(), "a 天b".as_bytes());
        assert_eq!(parts(&["", "", ""], "天"), [first, second, third]);
        assert_eq!(parts(&["", "", "天", "!"], "天!"), [first, second, third, b"!"]);
    }

    #[test]
    fn what_names_leave_open_stays_open() {
        let open = spans(&["", ""], "天").unwrap();
        assert_eq!(open, [vec![0..1, 0..2], vec![1..3, 2..3]]);
        let open = spans(&["", "天"], "天").unwrap();
        assert_eq!(open[1].len(), 2);
        assert!(spans(&["", "", "", ""], "天").is_err());
    }

    #[test]
    fn bytes_are_exact_and_a_first_token_may_be_without_a_name() {
        let day = "天".as_bytes();
        let names = [&b"<s>"[..], b" a", &day[..2], &day[2..]].map(|b| Name::Bytes(b.to_vec()));
        assert_eq!(lay(&names, "a天").unwrap(), [0..0, 0..1, 1..3, 3..4].map(|span| vec![span]));
        assert!(lay(&names[..3], "a天").is_err());
        let names = [vec![Name::Untold], texts(&[" sky"])].concat();
        assert_eq!(lay(&names, "The sky").unwrap(), [0..3, 3..7].map(|span| vec![span]));
        assert!(lay(&[texts(&["The"]), vec![Name::Untold]].concat(), "The sky").is_err());
    }
}
