//! One request from prompt to text, with its timings.

use std::ops::ControlFlow;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use super::{
    Engine, EngineError, Finish, FinishReason, Request, Service, ServiceEvent, ServiceOptions,
};
use crate::support::interrupt;

/// How often somebody looks whether the run is to stop.
const LOOK: Duration = Duration::from_millis(50);

/// What a generation tells while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GenerationUpdate<'a> {
    /// This many tokens of the prompt are through.
    Prompt(usize),
    /// This many new tokens are there.
    Tokens(usize),
    /// More text: whole characters only, without control tokens.
    Text(&'a str),
}

/// A finished generation.
#[derive(Debug, Clone)]
pub struct Generation {
    /// The new tokens, without the one that ended the turn.
    pub tokens: Vec<u32>,
    /// Their text, without control tokens; bytes that are no UTF-8 are replaced by U+FFFD.
    pub text: String,
    /// Why it ended.
    pub reason: FinishReason,
    /// From the start to the first token: the time to first token.
    pub prefill_time: Duration,
    /// From the first token to the last.
    pub decode_time: Duration,
}

/// Runs one request alone, telling `observe` what happens as it does. Gives `None` if `observe`
/// breaks it off.
///
/// # Errors
/// What the service refuses, a failure of the engine, and Ctrl-C.
pub fn generate(
    engine: Engine,
    request: Request,
    mut observe: impl FnMut(GenerationUpdate<'_>) -> ControlFlow<()>,
) -> Result<Option<Generation>, EngineError> {
    let service = Service::start(engine, ServiceOptions::default())?;
    let (sender, events) = channel();
    let _ticket = service.submit(request, move |event| sender.send(event).is_ok())?;
    let (mut tokens, mut text) = (Vec::new(), String::new());
    let mut stream = TextStream::default();
    loop {
        interrupt::check()?;
        let event = match events.recv_timeout(LOOK) {
            Ok(event) => event,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => {
                return Err(EngineError::Unusable("the engine has stopped".to_string()));
            }
        };
        let (piece, finish) = match event {
            ServiceEvent::Prompt { done, .. } => {
                if observe(GenerationUpdate::Prompt(done)).is_break() {
                    return Ok(None);
                }
                continue;
            }
            ServiceEvent::Token { token, bytes, .. } => {
                tokens.push(token);
                if observe(GenerationUpdate::Tokens(tokens.len())).is_break() {
                    return Ok(None);
                }
                let is_text = !service.vocabulary().is_control(token);
                (stream.push(if is_text { &bytes } else { &[] }), None)
            }
            ServiceEvent::Finished(finish) => (stream.finish(), Some(finish)),
            ServiceEvent::Failed { error } => return Err(EngineError::Unusable(error)),
            ServiceEvent::Started { .. } | ServiceEvent::PromptProbabilities(_) => continue,
        };
        if !piece.is_empty() {
            if observe(GenerationUpdate::Text(&piece)).is_break() {
                return Ok(None);
            }
            text += &piece;
        }
        if let Some(Finish { reason, timings, .. }) = finish {
            let prefill_time = timings.to_first().unwrap_or_default();
            let decode_time = timings.generation();
            return Ok(Some(Generation { tokens, text, reason, prefill_time, decode_time }));
        }
    }
}

/// Turns the bytes of tokens into text. A character may be spread over several tokens: what is
/// incomplete waits for the next ones.
#[derive(Debug, Clone, Default)]
pub struct TextStream {
    pending: Vec<u8>,
}

impl TextStream {
    /// The text that is complete with these bytes.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let mut text = String::new();
        let mut consumed = 0;
        for chunk in self.pending.utf8_chunks() {
            text += chunk.valid();
            consumed += chunk.valid().len();
            let at_end = consumed + chunk.invalid().len() == self.pending.len();
            if at_end && begins_character(chunk.invalid()) {
                break;
            }
            if !chunk.invalid().is_empty() {
                text.push(char::REPLACEMENT_CHARACTER);
            }
            consumed += chunk.invalid().len();
        }
        self.pending.drain(..consumed);
        text
    }

    /// What is left: nothing, or one replacement for a character that was never completed.
    pub fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned()
    }
}

/// Whether bytes that are no UTF-8 may become it when more follow.
fn begins_character(bytes: &[u8]) -> bool {
    !bytes.is_empty() && std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_whole_however_their_bytes_arrive() {
        let text = "naïve 🦀 – 漢字";
        for size in 1..=5 {
            let mut stream = TextStream::default();
            let mut pieces: String =
                text.as_bytes().chunks(size).map(|bytes| stream.push(bytes)).collect();
            pieces += &stream.finish();
            assert_eq!(pieces, text);
        }
    }

    #[test]
    fn broken_bytes_become_one_replacement_at_once() {
        let mut stream = TextStream::default();
        assert_eq!(stream.push(b"a\xFFb"), "a\u{FFFD}b");
        assert_eq!(stream.push(b"c\xE2\x82"), "c");
        assert_eq!(stream.push(b"d"), "\u{FFFD}d");
        assert_eq!(stream.push(b"\xF0\x9F"), "");
        assert_eq!(stream.finish(), "\u{FFFD}");
        assert_eq!(stream.finish(), "");
    }
}
