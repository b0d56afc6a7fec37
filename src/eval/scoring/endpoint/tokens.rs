//! A text as a server's tokens, and when two texts have the same token.

use super::spelling::{Name, Span, lay};

/// Log-probabilities above this are no rounding errors.
const LARGEST: f64 = 1e-4;

/// What servers write for −∞, which JSON cannot express.
const NO_PROBABILITY: f64 = -9999.0;

/// A model never gives so many log-probabilities that are all the same.
const MANY: usize = 3;

/// A token of a text.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Token {
    /// Its number in the server's vocabulary, where the server tells it.
    pub id: Option<u64>,
    pub name: Name,
    /// Natural logarithm; the server tells none for the first token, or for those that are not asked
    /// for.
    pub log_probability: Option<f64>,
}

/// A text, and the tokens that a server makes of it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Text {
    text: String,
    tokens: Vec<Token>,
    /// For each token, where it may lie: see [`lay`].
    places: Vec<Vec<Span>>,
    /// Whether a longer text has shown that no token is missing at the end.
    is_whole: bool,
}

/// Two tokens have the same name and may still be different ones; or the last token may be missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Uncertain;

impl Text {
    /// A text with its tokens.
    ///
    /// # Errors
    /// Tokens that do not spell the text, log-probabilities that cannot be.
    pub fn new(text: &str, tokens: Vec<Token>) -> Result<Self, String> {
        let places = lay(tokens.iter().map(|token| &token.name), text)?;
        check_values(tokens.iter().filter_map(|token| token.log_probability))?;
        Ok(Self { text: text.to_string(), tokens, places, is_whole: false })
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn tokens(&self) -> &[Token] {
        &self.tokens
    }

    /// Enters a token's log-probability.
    pub fn enter(&mut self, index: usize, log_probability: f64) {
        self.tokens[index].log_probability = Some(log_probability);
    }

    /// Enters the numbers of all tokens; false if there are more or fewer.
    pub fn number(&mut self, ids: &[u64]) -> bool {
        for (token, &id) in self.tokens.iter_mut().zip(ids) {
            token.id = Some(id);
        }
        self.tokens.len() == ids.len()
    }

    /// Whether a last token may be missing, as it is where a server cuts texts: the last character is in
    /// parts that are known by their names alone, and there are fewer of them than it has bytes.
    pub fn may_be_cut(&self) -> bool {
        let Some(last) = self.text.chars().next_back().filter(|_| !self.is_whole) else {
            return false;
        };
        let start = self.text.len() - last.len_utf8();
        let mut parts = 0;
        for (token, places) in self.tokens.iter().zip(&self.places).rev() {
            if places.iter().all(|span| span.end <= start) {
                break;
            }
            match &token.name {
                Name::Text(name) if token.id.is_none() && !name.ends_with(last) => {
                    parts += name.matches(char::REPLACEMENT_CHARACTER).count().max(1);
                }
                _ => return false,
            }
        }
        parts < last.len_utf8()
    }

    /// Learns from a text that begins with this one. Where its tokens begin with this one's, and the next
    /// one begins where this text ends, no token of this one is missing.
    pub fn compare_with_longer(&mut self, longer: &Self) {
        let Some(next) = longer.places.get(self.tokens.len()) else { return };
        let follows = next.iter().all(|span| span.start == self.text.len());
        let mut pairs = self.tokens.iter().zip(&longer.tokens);
        self.is_whole |= follows && pairs.all(|(own, other)| own.name == other.name);
    }

    /// Whether two texts that are the same up to a token have it in common too.
    fn same(&self, other: &Self, index: usize) -> Result<bool, Uncertain> {
        let (mine, theirs) = (&self.tokens[index], &other.tokens[index]);
        if let (Some(mine), Some(theirs)) = (mine.id, theirs.id) {
            return Ok(mine == theirs);
        }
        if mine.name != theirs.name {
            return Ok(false);
        }
        let (places, their_places) = (&self.places[index], &other.places[index]);
        let same = self.bytes(places) == other.bytes(their_places);
        match places.len() == 1 && their_places.len() == 1 {
            true => Ok(same),
            false if same && places == their_places => Ok(true),
            false => Err(Uncertain),
        }
    }

    /// All bytes that some places cover.
    fn bytes(&self, places: &[Span]) -> &[u8] {
        let start = places.iter().map(|span| span.start).min().unwrap_or(0);
        let end = places.iter().map(|span| span.end).max().unwrap_or(start);
        &self.text.as_bytes()[start..end]
    }
}

/// How many tokens all texts begin with.
///
/// # Errors
/// The names do not tell, or do not tell whether a text's last token is missing.
pub(super) fn common(texts: &[Text]) -> Result<usize, Uncertain> {
    if texts.iter().any(Text::may_be_cut) {
        return Err(Uncertain);
    }
    let shortest = texts.iter().map(|text| text.tokens.len()).min().unwrap_or(0);
    for index in 0..shortest {
        let same: Vec<_> = texts[1..].iter().map(|text| text.same(&texts[0], index)).collect();
        if same.contains(&Ok(false)) {
            return Ok(index);
        }
        if same.contains(&Err(Uncertain)) {
            return Err(Uncertain);
        }
    }
    Ok(shortest)
}

/// Checks log-probabilities that came back together.
///
/// # Errors
/// Values that no model gives.
pub(super) fn check_values(values: impl Iterator<Item = f64> + Clone) -> Result<(), String> {
    if let Some(value) = values.clone().find(|value| *value > LARGEST) {
        return Err(format!("a log-probability is {value}, which is above 0"));
    }
    if let Some(value) = values.clone().find(|value| *value <= NO_PROBABILITY) {
        return Err(format!("a log-probability is {value}, which stands for none"));
    }
    match all_alike(values) {
        Some(value) => Err(format!("all log-probabilities are {value}")),
        None => Ok(()),
    }
}

/// The value that all of them have, where they are too many for a model to have given them.
pub(super) fn all_alike(mut values: impl Iterator<Item = f64> + Clone) -> Option<f64> {
    let many = values.clone().nth(MANY - 1).is_some();
    let first = values.next()?;
    (many && values.all(|value| value == first)).then_some(first)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A text by its tokens' names and log-probabilities.
    pub(in super::super) fn text(tokens: &[(&str, Option<f64>)]) -> Text {
        let spelt: String = tokens.iter().map(|(name, _)| name.replace("<s>", "")).collect();
        named(&spelt, tokens).unwrap()
    }

    fn named(text: &str, tokens: &[(&str, Option<f64>)]) -> Result<Text, String> {
        let token = |&(name, log_probability): &(&str, Option<f64>)| Token {
            id: None,
            name: Name::Text(name.to_string()),
            log_probability,
        };
        Text::new(text, tokens.iter().map(token).collect())
    }

    #[test]
    fn tokens_are_the_same_by_number_or_else_by_what_they_spell() {
        let day = [("<s>", None), ("�", Some(-1.0)), ("�", Some(-2.0)), ("!", Some(-3.0))];
        let [day, earth, same] = ["天!", "地!", "天!"].map(|text| named(text, &day).unwrap());
        // The names are the same, the bytes differ from the first token on: E5 A4 and E5 9C.
        assert_eq!(common(&[day.clone(), earth.clone()]), Ok(1));
        assert_eq!(common(&[day.clone(), same]), Ok(4));
        // With three tokens the first is E5 in both.
        let each = [("�", None), ("�", Some(-1.0)), ("�", Some(-2.0))];
        let [day, mut earth] = ["天", "地"].map(|text| named(text, &each).unwrap());
        assert_eq!(common(&[day.clone(), earth.clone()]), Ok(1));
        let mut day = day;
        assert!(day.number(&[7, 8, 9]) && earth.number(&[7, 8, 10]));
        assert_eq!(common(&[day.clone(), earth]), Ok(2));
        assert!(!day.number(&[7, 8]));
    }

    #[test]
    fn names_that_stand_for_several_tokens_are_uncertain() {
        let parts = [("", None), ("", Some(-1.0)), ("!", Some(-2.0))];
        let [mut day, mut earth] = ["天!", "地!"].map(|text| named(text, &parts).unwrap());
        assert_eq!(common(&[day.clone(), earth.clone()]), Err(Uncertain));
        assert_eq!(common(&[day.clone(), day.clone()]), Ok(3));
        assert!(day.number(&[7, 8, 3]) && earth.number(&[7, 9, 3]));
        assert_eq!(common(&[day, earth]), Ok(1));
    }

    #[test]
    fn a_last_character_in_parts_may_be_cut() {
        let cut = |text: &str, names: &[&str]| {
            let values = (1..).map(|count| Some(-f64::from(count)));
            let tokens: Vec<_> = names.iter().copied().zip(values).collect();
            named(text, &tokens).unwrap().may_be_cut()
        };
        assert!(cut("a天", &["a", "�", "�"]));
        assert!(cut("a天", &["a", "", ""]));
        for names in [&["a", "�", "�", "�"][..], &["a", "�", "��"], &["a", "天"], &["a", "", "天"]]
        {
            assert!(!cut("a天", names), "{names:?}");
        }
        assert!(!cut("天a", &["�", "�", "a"]));
        let mut numbered = named("天", &[("�", None), ("�", Some(-1.0))]).unwrap();
        assert!(numbered.number(&[7, 8]) && !numbered.may_be_cut());
    }

    #[test]
    fn what_comes_behind_a_text_shows_that_it_is_whole() {
        let own = [("a", None), ("�", Some(-1.0)), ("�", Some(-2.0))];
        let whole_by = |longer: &[(&str, Option<f64>)]| {
            let mut text = named("a天", &own).unwrap();
            assert!(text.may_be_cut());
            text.compare_with_longer(&named("a天 b", longer).unwrap());
            !text.may_be_cut()
        };
        let behind = (" b", Some(-3.0));
        assert!(whole_by(&[own[0], own[1], own[2], behind]));
        // One more was missing; a token holds the end and what comes behind it.
        assert!(!whole_by(&[own[0], own[1], own[2], ("�", Some(-2.5)), behind]));
        assert!(!whole_by(&[own[0], own[1], ("� b", Some(-2.5))]));
    }

    #[test]
    fn what_no_model_gives_is_refused() {
        let tokens = |values: [f64; 3]| {
            let [a, b, c] = values.map(Some);
            named("a b c", &[("<s>", None), ("a", a), (" b", b), (" c", c)])
        };
        assert!(tokens([-1.0, -0.5, -1.0]).is_ok());
        assert!(tokens([-1.0, 1e-6, -0.0]).is_ok(), "rounded");
        assert!(tokens([-1.0, 0.5, -1.0]).unwrap_err().contains("0.5, which is above 0"));
        assert!(tokens([-1.0, -9999.0, -1.0]).unwrap_err().contains("stands for none"));
        assert!(tokens([0.0; 3]).unwrap_err().contains("all log-probabilities are 0"));
        assert!(tokens([-6.3; 3]).unwrap_err().contains("all log-probabilities are -6.3"));
    }
}
