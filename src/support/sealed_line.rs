//! Lines of JSON that tell whether they are whole, and which one of which file they are.
//!
//! A line is `{"line":N,"sha256":"…","content":…}`. The hash is over the seal of the file, the number
//! and the content's very bytes, so that a line that was changed, or comes from another file, is found
//! out. The seal of a file is the hash of its first line, number 0, which has none.

use serde::Serialize;

use super::hash::sha256_bytes;

/// Hexadecimal digits of a hash that a line has: changes by accident do not get past 64 bits.
const DIGITS: usize = 16;

const START: &[u8] = br#"{"line":"#;
const HASH: &[u8] = br#","sha256":""#;
const CONTENT: &[u8] = br#"","content":"#;
const END: &[u8] = b"}\n";

/// What all lines of a file have in common; the empty one is that of its first line.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Seal(String);

/// A line that is whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedLine<'a> {
    /// Its number.
    pub number: u64,
    /// JSON.
    pub content: &'a [u8],
    hash: &'a str,
}

impl SealedLine<'_> {
    /// The seal of the file that begins with this line.
    pub fn seal(&self) -> Seal {
        Seal(self.hash.to_string())
    }
}

impl Seal {
    /// The line of this number and content, with its line break.
    ///
    /// # Errors
    /// What cannot be written as JSON.
    pub fn line(&self, number: u64, content: &impl Serialize) -> serde_json::Result<Vec<u8>> {
        let content = serde_json::to_vec(content)?;
        let (number, hash) = (number.to_string(), self.hash(number, &content));
        Ok([START, number.as_bytes(), HASH, hash.as_bytes(), CONTENT, &content, END].concat())
    }

    /// Takes a line apart that is whole and of this file.
    pub fn open<'a>(&self, line: &'a [u8]) -> Option<SealedLine<'a>> {
        let rest = line.strip_prefix(START)?;
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (digits, rest) = rest.split_at(digits);
        let number: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
        let rest = rest.strip_prefix(HASH).filter(|_| digits == number.to_string().as_bytes())?;
        let (hash, rest) = rest.split_at_checked(DIGITS)?;
        let content = rest.strip_prefix(CONTENT)?.strip_suffix(END)?;
        let hash = std::str::from_utf8(hash).ok()?;
        (hash == self.hash(number, content)).then_some(SealedLine { number, content, hash })
    }

    fn hash(&self, number: u64, content: &[u8]) -> String {
        let start = format!("{} {number} ", self.0);
        let mut hash = sha256_bytes(&[start.as_bytes(), content].concat());
        hash.truncate(DIGITS);
        hash
    }
}

/// Whether bytes seem to be, or to have been, a line or the beginning of one.
pub fn resembles_line(bytes: &[u8]) -> bool {
    let length = bytes.len().min(START.len());
    let begins = length > 0 && bytes[..length] == START[..length];
    let has = |mark: &[u8]| bytes.windows(mark.len()).any(|part| part == mark);
    begins || has(HASH) || has(CONTENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_changed_in_a_line_is_found_out() {
        let first = Seal::default().line(0, &"header").unwrap();
        let seal = Seal::default().open(&first).unwrap().seal();
        let line = seal.line(7, &[0.1 + 0.2, 1e-9]).unwrap();
        let opened = seal.open(&line).unwrap();
        assert_eq!((opened.number, opened.content), (7, &b"[0.30000000000000004,1e-9]"[..]));
        for place in 0..line.len() {
            for change in [1, 2, 0x20, 0x80] {
                let mut changed = line.clone();
                changed[place] ^= change;
                assert_eq!(seal.open(&changed), None, "{}", String::from_utf8_lossy(&changed));
            }
            assert_eq!(seal.open(&line[..place]), None);
            assert_eq!(seal.open(&[&line[..place], b"0", &line[place..]].concat()), None);
        }
        assert_eq!(Seal::default().open(&line), None, "it is no first line");
        let other = Seal::default().line(0, &"another").unwrap();
        assert_eq!(Seal::default().open(&other).unwrap().seal().open(&line), None);
    }

    #[test]
    fn a_damaged_line_is_told_from_other_text() {
        let line = Seal::default().line(0, &1).unwrap();
        for length in 1..line.len() {
            assert!(resembles_line(&line[..length]));
        }
        assert!(resembles_line(&line[9..]) && resembles_line(&line[20..]));
        assert!(!resembles_line(b"") && !resembles_line(b"{\"format\":1}"));
    }
}
