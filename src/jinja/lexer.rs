//! A template's text → tokens, with Jinja's rules for white space as transformers sets them
//! (`trim_blocks` and `lstrip_blocks`).

use std::rc::Rc;

use super::error::TemplateError;
use super::text::is_space;

/// A token and its line.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Token {
    pub line: usize,
    pub kind: TokenKind,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum TokenKind {
    /// Text between tags.
    Data(String),
    /// `{{` and `}}`.
    PrintBegin,
    PrintEnd,
    /// `{%` and `%}`.
    BlockBegin,
    BlockEnd,
    Name(Rc<str>),
    Text(Rc<str>),
    Int(i64),
    Float(f64),
    /// An operator or bracket.
    Sign(&'static str),
    End,
}

impl TokenKind {
    /// The token for a message.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Data(_) => "text".to_string(),
            Self::PrintBegin => "{{".to_string(),
            Self::PrintEnd => "}}".to_string(),
            Self::BlockBegin => "{%".to_string(),
            Self::BlockEnd => "%}".to_string(),
            Self::Name(name) => format!("\"{name}\""),
            Self::Text(_) => "a string".to_string(),
            Self::Int(_) | Self::Float(_) => "a number".to_string(),
            Self::Sign(sign) => format!("\"{sign}\""),
            Self::End => "the end of the template".to_string(),
        }
    }
}

/// Longer ones before those that they begin with.
const SIGNS: [&str; 25] = [
    "==", "!=", ">=", "<=", "//", "**", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}",
    ">", "<", "=", ".", ":", "|", ",",
];

/// A tree is no deeper than the tokens of one tag are many.
const TOKENS_A_TAG: usize = 10_000;

/// All tokens of a template; the last one is the end.
///
/// # Errors
/// Text that is no template.
pub(super) fn tokens(source: &str) -> Result<Vec<Token>, TemplateError> {
    let unified = source.replace("\r\n", "\n").replace('\r', "\n");
    let text = unified.strip_suffix('\n').unwrap_or(&unified);
    let mut lexer = Lexer { rest: text, line: 1, tokens: Vec::new(), at_line_start: true };
    while !lexer.rest.is_empty() {
        lexer.next_part()?;
    }
    lexer.push(TokenKind::End);
    Ok(lexer.tokens)
}

/// What begins with `{`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tag {
    Print,
    Block,
    Comment,
}

struct Lexer<'a> {
    rest: &'a str,
    line: usize,
    tokens: Vec<Token>,
    /// Whether what was read last ended a line.
    at_line_start: bool,
}

impl<'a> Lexer<'a> {
    fn push(&mut self, kind: TokenKind) {
        self.tokens.push(Token { line: self.line, kind });
    }

    fn fail(&self, problem: impl Into<String>) -> TemplateError {
        TemplateError::syntax(self.line, problem)
    }

    /// Goes on by `bytes` bytes.
    fn advance(&mut self, bytes: usize) -> &'a str {
        let (passed, rest) = self.rest.split_at(bytes);
        self.rest = rest;
        self.line += passed.matches('\n').count();
        if let Some(last) = passed.chars().next_back() {
            self.at_line_start = last == '\n';
        }
        passed
    }

    fn skip_spaces(&mut self) {
        let rest = self.rest.trim_start_matches(is_space);
        self.advance(self.rest.len() - rest.len());
    }

    /// Reads the text up to the next tag, and the tag.
    fn next_part(&mut self) -> Result<(), TemplateError> {
        let Some((start, tag)) = next_tag(self.rest) else {
            let text = self.advance(self.rest.len()).to_string();
            self.push(TokenKind::Data(text));
            return Ok(());
        };
        let (sign, _) = split_sign(&self.rest[start + 2..]);
        let text = strip(&self.rest[..start], sign, tag != Tag::Print, self.at_line_start);
        self.push_data(text);
        self.advance(start + 2 + usize::from(sign.is_some()));
        match tag {
            Tag::Comment => self.comment(),
            Tag::Block => match self.raw_begin() {
                Some(length) => {
                    self.advance(length);
                    self.raw()
                }
                None => {
                    self.push(TokenKind::BlockBegin);
                    self.inside("%}", TokenKind::BlockEnd)
                }
            },
            Tag::Print => {
                self.push(TokenKind::PrintBegin);
                self.inside("}}", TokenKind::PrintEnd)
            }
        }
    }

    fn push_data(&mut self, text: &str) {
        if !text.is_empty() {
            self.push(TokenKind::Data(text.to_string()));
        }
    }

    fn comment(&mut self) -> Result<(), TemplateError> {
        // Jinja does not mind a comment that ends before it has begun.
        if self.rest.is_empty() {
            return Ok(());
        }
        let end = self.rest.find("#}").ok_or_else(|| self.fail("a comment does not end"))?;
        let sign = self.rest[..end].chars().next_back();
        self.advance(end);
        self.close(sign);
        Ok(())
    }

    /// Passes the end of a block or comment: `-` takes all white space behind it, `+` leaves it,
    /// and otherwise one line break goes.
    fn close(&mut self, sign: Option<char>) {
        self.advance(2);
        match sign {
            Some('-') => self.skip_spaces(),
            Some('+') => {}
            _ if self.rest.starts_with('\n') => {
                self.advance(1);
            }
            _ => {}
        }
    }

    /// The length of what is left of a `{% raw %}` tag, if this is one.
    fn raw_begin(&self) -> Option<usize> {
        let behind = self.rest.trim_start_matches(is_space).strip_prefix("raw")?;
        let behind = behind.trim_start_matches(is_space);
        let behind = match behind.strip_prefix("-%}") {
            Some(behind) => behind.trim_start_matches(is_space),
            None => behind.strip_prefix("%}")?,
        };
        Some(self.rest.len() - behind.len())
    }

    /// Text that is no template, up to `{% endraw %}`.
    fn raw(&mut self) -> Result<(), TemplateError> {
        let mut from = 0;
        while let Some(start) = self.rest[from..].find("{%").map(|start| from + start) {
            from = start + 2;
            let (sign, name) = split_sign(&self.rest[from..]);
            let name = name.trim_start_matches(is_space);
            let Some(behind) = name.strip_prefix("endraw") else { continue };
            let (closing, end) = split_sign(behind.trim_start_matches(is_space));
            if end.starts_with("%}") {
                let text = strip(&self.rest[..start], sign, true, self.at_line_start);
                self.push_data(text);
                self.advance(self.rest.len() - end.len());
                self.close(closing);
                return Ok(());
            }
        }
        Err(self.fail("a raw block does not end"))
    }

    /// The tokens of a tag, up to its end.
    fn inside(&mut self, end: &str, end_kind: TokenKind) -> Result<(), TemplateError> {
        let mut open: Vec<&'static str> = Vec::new();
        let before = self.tokens.len();
        loop {
            self.skip_spaces();
            if open.is_empty() {
                let (sign, behind) = split_sign(self.rest);
                let can_close = sign != Some('+') || end_kind == TokenKind::BlockEnd;
                if can_close && behind.starts_with(end) {
                    self.push(end_kind.clone());
                    self.advance(usize::from(sign.is_some()));
                    match (&end_kind, sign) {
                        (TokenKind::PrintEnd, None) => {
                            self.advance(2);
                        }
                        _ => self.close(sign),
                    }
                    return Ok(());
                }
            }
            if self.rest.is_empty() {
                return Err(self.fail(format!("a tag does not end: \"{end}\" is missing")));
            }
            if self.tokens.len() - before > TOKENS_A_TAG {
                return Err(TemplateError::limit(format!(
                    "one tag has more than {TOKENS_A_TAG} words and signs"
                ))
                .at(self.line));
            }
            self.inner_token(&mut open)?;
        }
    }

    fn inner_token(&mut self, open: &mut Vec<&'static str>) -> Result<(), TemplateError> {
        let rest = self.rest;
        let first = rest.chars().next().unwrap_or('\0');
        if first.is_ascii_digit() {
            return self.number();
        }
        if first == '_' || first.is_alphanumeric() {
            let length = length_of(rest, |c| c == '_' || c.is_alphanumeric());
            self.push(TokenKind::Name(rest[..length].into()));
            self.advance(length);
            return Ok(());
        }
        if first == '"' || first == '\'' {
            return self.text(first);
        }
        let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) else {
            return Err(self.fail(format!("the character {first:?} has no meaning here")));
        };
        match *sign {
            "(" => open.push(")"),
            "[" => open.push("]"),
            "{" => open.push("}"),
            ")" | "]" | "}" => match open.pop() {
                Some(expected) if expected == *sign => {}
                Some(expected) => {
                    return Err(self.fail(format!("expected \"{expected}\", found \"{sign}\"")));
                }
                None => return Err(self.fail(format!("\"{sign}\" closes nothing"))),
            },
            _ => {}
        }
        self.push(TokenKind::Sign(sign));
        self.advance(sign.len());
        Ok(())
    }

    fn number(&mut self) -> Result<(), TemplateError> {
        let rest = self.rest;
        for (prefix, radix) in [("0x", 16), ("0b", 2), ("0o", 8)] {
            let start = rest.get(..2).map(str::to_ascii_lowercase);
            if start.as_deref() == Some(prefix) {
                let length = 2 + length_of(&rest[2..], |c| c.is_digit(radix) || c == '_');
                let digits = rest[2..length].replace('_', "");
                let number = i64::from_str_radix(&digits, radix);
                let number = number.map_err(|_| self.fail("a number cannot be read"))?;
                self.push(TokenKind::Int(number));
                self.advance(length);
                return Ok(());
            }
        }
        let digits = |text: &str| length_of(text, |c| c.is_ascii_digit() || c == '_');
        let mut length = digits(rest);
        let mut is_float = false;
        // A number after a dot is an index: the next dot does not make it a fraction.
        let after_dot =
            matches!(self.tokens.last(), Some(Token { kind: TokenKind::Sign("."), .. }));
        if let Some(fraction) = rest[length..].strip_prefix('.').filter(|_| !after_dot)
            && fraction.starts_with(|c: char| c.is_ascii_digit())
        {
            length += 1 + digits(fraction);
            is_float = true;
        }
        if let Some(exponent) = rest[length..].strip_prefix(['e', 'E']).filter(|_| !after_dot) {
            let unsigned = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            if unsigned.starts_with(|c: char| c.is_ascii_digit()) {
                length += 1 + exponent.len() - unsigned.len() + digits(unsigned);
                is_float = true;
            }
        }
        let spelled = rest[..length].replace('_', "");
        let kind = if is_float {
            spelled.parse().ok().map(TokenKind::Float)
        } else {
            spelled.parse().ok().map(TokenKind::Int)
        };
        let kind = kind.ok_or_else(|| self.fail(format!("the number {spelled} is too large")))?;
        self.push(kind);
        self.advance(length);
        Ok(())
    }

    fn text(&mut self, quote: char) -> Result<(), TemplateError> {
        let mut escaped = false;
        let end = self.rest[1..].find(|c| {
            let ends = c == quote && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        let end = end.ok_or_else(|| self.fail("a string does not end"))?;
        let content = unescaped(&self.rest[1..=end]).map_err(|problem| self.fail(problem))?;
        self.push(TokenKind::Text(content.into()));
        self.advance(end + 2);
        Ok(())
    }
}

/// Where the next tag begins.
fn next_tag(text: &str) -> Option<(usize, Tag)> {
    text.match_indices('{').find_map(|(start, _)| {
        let tag = match text.as_bytes().get(start + 1)? {
            b'{' => Tag::Print,
            b'%' => Tag::Block,
            b'#' => Tag::Comment,
            _ => return None,
        };
        Some((start, tag))
    })
}

/// The sign for white space at the start of a text, and the rest.
fn split_sign(text: &str) -> (Option<char>, &str) {
    match text.chars().next() {
        sign @ Some('-' | '+') => (sign, &text[1..]),
        _ => (None, text),
    }
}

/// The text before a tag, less the white space that the tag's sign takes, or that indents a block.
fn strip(text: &str, sign: Option<char>, is_block: bool, at_line_start: bool) -> &str {
    match sign {
        Some('-') => text.trim_end_matches(is_space),
        Some('+') => text,
        _ if is_block => {
            let line = text.rfind('\n').map(|end| end + 1);
            match line.or(at_line_start.then_some(0)) {
                Some(start) if text[start..].chars().all(is_space) => &text[..start],
                _ => text,
            }
        }
        _ => text,
    }
}

fn length_of(text: &str, is_part: impl Fn(char) -> bool) -> usize {
    text.find(|c| !is_part(c)).unwrap_or(text.len())
}

/// A text in quotes with Python's escapes resolved.
fn unescaped(text: &str) -> Result<String, String> {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('\\') {
        result.push_str(&rest[..start]);
        let escape = &rest[start + 1..];
        let Some(kind) = escape.chars().next() else {
            return Err("a string ends in the middle of an escape".to_string());
        };
        rest = &escape[kind.len_utf8()..];
        let numbered = match kind {
            'x' => Some(2),
            'u' => Some(4),
            'U' => Some(8),
            _ => None,
        };
        if let Some(digits) = numbered {
            let number = rest.get(..digits).and_then(|hex| u32::from_str_radix(hex, 16).ok());
            let character = number.and_then(char::from_u32);
            let unknown = || {
                format!(
                    "\\{kind} should be followed by the {digits} hexadecimal digits of a character"
                )
            };
            result.push(character.ok_or_else(unknown)?);
            rest = &rest[digits..];
            continue;
        }
        match kind {
            '\n' => {}
            '\\' | '\'' | '"' => result.push(kind),
            'a' => result.push('\u{7}'),
            'b' => result.push('\u{8}'),
            'f' => result.push('\u{c}'),
            'n' => result.push('\n'),
            'r' => result.push('\r'),
            't' => result.push('\t'),
            'v' => result.push('\u{b}'),
            '0'..='7' => {
                let length = 1 + rest.chars().take(2).take_while(|c| c.is_digit(8)).count();
                let number = u32::from_str_radix(&escape[..length], 8).ok();
                result.extend(number.and_then(char::from_u32));
                rest = &escape[length..];
            }
            _ => result.extend(['\\', kind]),
        }
    }
    result.push_str(rest);
    Ok(result)
}
