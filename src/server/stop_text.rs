//! Texts that end an answer. They may be spread over several tokens.

/// Looks for stop texts in a text that comes in pieces. What may turn out to be the beginning of one is
/// held back.
#[derive(Debug, Clone, Default)]
pub struct StopText {
    stops: Vec<String>,
    held: String,
}

/// What came of a piece of text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Released {
    /// Text that is certain to belong to the answer.
    pub text: String,
    /// The stop text behind it, if there was one: the answer is over.
    pub stop: Option<String>,
}

impl StopText {
    /// Looks for these; empty ones are not looked for.
    pub fn new(stops: &[String]) -> Self {
        let stops = stops.iter().filter(|stop| !stop.is_empty()).cloned().collect();
        Self { stops, held: String::new() }
    }

    /// Takes the next piece.
    pub fn push(&mut self, piece: &str) -> Released {
        self.held += piece;
        let found = self.stops.iter().filter_map(|stop| Some((self.held.find(stop)?, stop)));
        // Of those that begin at one place, the longest.
        if let Some((at, stop)) = found.min_by_key(|(at, stop)| (*at, usize::MAX - stop.len())) {
            let stop = Some(stop.clone());
            self.held.truncate(at);
            return Released { text: std::mem::take(&mut self.held), stop };
        }
        let certain = self.certain();
        Released { text: self.held.drain(..certain).collect(), stop: None }
    }

    /// The rest, once nothing more will come.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Bytes that no stop text can begin in.
    fn certain(&self) -> usize {
        let longest = self.stops.iter().map(String::len).max().unwrap_or(1);
        let first = (self.held.len() + 1).saturating_sub(longest);
        let may_begin = |&at: &usize| {
            let rest = &self.held.as_bytes()[at..];
            self.held.is_char_boundary(at)
                && self.stops.iter().any(|stop| stop.as_bytes().starts_with(rest))
        };
        (first..self.held.len()).find(may_begin).unwrap_or(self.held.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (Vec<String>, Option<String>) {
        let stops: Vec<String> = stops.iter().map(ToString::to_string).collect();
        let mut stopper = StopText::new(&stops);
        let mut texts = Vec::new();
        for piece in pieces {
            let Released { text, stop } = stopper.push(piece);
            texts.push(text);
            if stop.is_some() {
                return (texts, stop);
            }
        }
        texts.push(stopper.finish());
        (texts, None)
    }

    #[test]
    fn a_stop_is_found_across_pieces_and_nothing_of_it_gets_out() {
        let (texts, stop) = run(&["END"], &["a", "bE", "N", "Dc"]);
        assert_eq!(texts, ["a", "b", "", ""]);
        assert_eq!(stop.as_deref(), Some("END"));
    }

    #[test]
    fn what_only_looked_like_a_stop_gets_out() {
        let (texts, stop) = run(&["END", "\n\n"], &["xE", "NE", "\n", "y"]);
        assert_eq!((texts.concat().as_str(), stop), ("xENE\ny", None));
        assert_eq!(texts[1], "EN");
    }

    #[test]
    fn the_first_stop_in_the_text_wins_and_letters_stay_whole() {
        let (texts, stop) = run(&["z", "é"], &["caf", "é z"]);
        assert_eq!((texts.concat().as_str(), stop.as_deref()), ("caf", Some("é")));
        let (texts, stop) = run(&["éa"], &["é", "é", "b"]);
        assert_eq!((texts.concat().as_str(), stop), ("ééb", None));
        let (texts, _) = run(&[], &["a", "b"]);
        assert_eq!(texts, ["a", "b", ""]);
    }
}
