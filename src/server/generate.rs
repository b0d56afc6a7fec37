//! What all protocols share: text and messages become tokens, tokens become text, and an answer ends
//! where it should.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::errors::ApiError;
use super::state::Served;
use super::stop_text::{Released, StopText};
use super::tally::Tally;
use super::timings::Taken;
use crate::engine::{
    ChatMessage, EndToken, Finish, FinishReason, Probabilities, Request, Sampling, ServiceEvent,
    TextStream, Ticket, Timings, Watch, render_chat,
};
use crate::tokenizer::Vocabulary;

/// Answers that one request may ask for, over all of its prompts.
pub const MOST_ANSWERS: usize = 256;

/// Likeliest tokens that may be asked for in each place.
pub const MOST_LIKELIEST: i64 = 1000;

/// Texts that may end an answer.
pub const MOST_STOPS: usize = 64;

/// What a client wants of a model.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The prompt's tokens.
    pub prompt: Vec<u32>,
    /// New tokens at most; `None` for as many as there is room for.
    pub max_new_tokens: Option<usize>,
    /// How to choose them.
    pub sampling: Sampling,
    /// Texts that end the answer and are no part of it.
    pub stop: Vec<String>,
    /// Goes on past tokens that end a turn.
    pub ignore_end: bool,
    /// Tells each new token's log-probability, and those of so many likeliest ones.
    pub log_probabilities: Option<usize>,
    /// The new tokens' log-probabilities are those that they were drawn by, after all filters.
    pub after_sampling: bool,
    /// The model's log-probabilities of the tokens of the prompt, and of so many likeliest ones.
    pub prompt_log_probabilities: Option<usize>,
    /// Shows the logits about the prompt's tokens to somebody.
    pub watch: Option<Watch>,
    /// May use what earlier requests have computed.
    pub use_cache: bool,
    /// Control tokens such as `<|im_end|>` are part of the text.
    pub shows_control_tokens: bool,
}

impl Ask {
    /// The likeliest tokens, up to the end of the turn.
    pub fn new(prompt: Vec<u32>) -> Self {
        Self {
            prompt,
            max_new_tokens: None,
            sampling: Sampling::default(),
            stop: Vec::new(),
            ignore_end: false,
            log_probabilities: None,
            after_sampling: false,
            prompt_log_probabilities: None,
            watch: None,
            use_cache: true,
            shows_control_tokens: false,
        }
    }
}

/// A new token.
#[derive(Debug, Clone, PartialEq)]
pub struct NewToken {
    /// The token.
    pub token: u32,
    /// The bytes that it stands for; they need not be whole characters.
    pub bytes: Vec<u8>,
    /// What the model thought of it, where that was asked for.
    pub probabilities: Option<Probabilities>,
    /// Bytes of the answer's text before it.
    pub offset: usize,
}

/// What happens while an answer is made.
#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    /// The request has joined the batch.
    Started {
        /// Tokens of its prompt that an earlier request had computed.
        cached_tokens: usize,
    },
    /// More of the prompt is computed.
    Prompt {
        /// Tokens that are behind it, cached ones included.
        done: usize,
        /// Tokens of the prompt.
        total: usize,
    },
    /// Log-probabilities of the prompt's next tokens; of the first there is none.
    PromptTokens(Vec<Probabilities>),
    /// More text, in whole characters, and the tokens that it is made of. The last one may have no text.
    Delta {
        /// The text.
        text: String,
        /// The tokens.
        tokens: Vec<NewToken>,
    },
    /// The answer is complete.
    End(End),
}

/// Why an answer ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The model ended its turn.
    EndOfTurn,
    /// One of the stop texts came.
    Stop(String),
    /// As many tokens as were asked for are there.
    Length,
    /// The context is full.
    ContextFull,
}

impl Reason {
    /// OpenAI's word for it.
    pub fn openai(&self) -> &'static str {
        match self {
            Self::EndOfTurn | Self::Stop(_) => "stop",
            Self::Length | Self::ContextFull => "length",
        }
    }
}

/// A complete answer's figures.
#[derive(Debug, Clone, PartialEq)]
pub struct End {
    /// Why it ends.
    pub reason: Reason,
    /// The token that ended the turn, if one did.
    pub end: Option<EndToken>,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Those of them that an earlier request had computed.
    pub cached_tokens: usize,
    /// Tokens that were generated, the one that ended the turn included.
    pub generated: usize,
    /// When what happened.
    pub timings: Timings,
}

impl From<&End> for Taken {
    fn from(end: &End) -> Self {
        Self {
            prompt_tokens: end.prompt_tokens,
            cached_tokens: end.cached_tokens,
            generated: end.generated,
            timings: end.timings,
        }
    }
}

/// A whole answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The text.
    pub text: String,
    /// The tokens that it is made of.
    pub tokens: Vec<NewToken>,
    /// What the model thought of the prompt's tokens, where that was asked for; the first is left out.
    pub prompt: Vec<Probabilities>,
    /// The rest.
    pub end: End,
}

/// An answer that is being made. Dropping it cancels the request.
#[derive(Debug)]
pub struct Answering {
    events: UnboundedReceiver<ServiceEvent>,
    /// Dropped when the answer is over.
    ticket: Option<Ticket>,
    vocabulary: Arc<Vocabulary>,
    /// Where the tokens are counted.
    tally: Arc<Tally>,
    shows_control_tokens: bool,
    bytes: TextStream,
    stop: StopText,
    /// Tokens whose text has not come out yet.
    tokens: Vec<NewToken>,
    /// Bytes of text that are out, or held back.
    length: usize,
    /// Bytes of text that are out.
    released: usize,
    prompt_tokens: usize,
    cached_tokens: usize,
    generated: usize,
    timings: Timings,
    /// What comes next, before anything else.
    next: Option<Piece>,
}

/// The tokens of a text: `add_bos` puts the token first that the model expects there, `special` reads text
/// that spells a special token as that token. Runs beside the server's own threads.
///
/// # Errors
/// 400 for a text that cannot be tokenized.
pub async fn tokenize(
    model: &Arc<Served>,
    text: String,
    add_bos: bool,
    special: bool,
) -> Result<Vec<u32>, ApiError> {
    let vocabulary = Arc::clone(model.vocabulary());
    aside(move || {
        let tokens = vocabulary.encode_with(&text, add_bos, special);
        tokens.map_err(|error| ApiError::bad_request(error.to_string()))
    })
    .await
}

/// Messages in the model's own format: see [`render_chat`].
///
/// # Errors
/// 400 for what the model's template refuses, and a model that has none.
pub async fn apply_template(
    model: &Arc<Served>,
    messages: Vec<ChatMessage>,
    add_generation_prompt: bool,
) -> Result<String, ApiError> {
    let vocabulary = Arc::clone(model.vocabulary());
    aside(move || {
        let text = render_chat(&vocabulary, &messages, add_generation_prompt);
        text.map_err(|error| ApiError::field("messages", error))
    })
    .await
}

/// Runs what takes a while where it keeps nobody waiting.
///
/// # Errors
/// Those of the work; 500 if it cannot be done.
pub async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(ApiError::internal(format!("the request could not be read: {error}"))),
    }
}

/// The text of tokens; bytes that are no UTF-8 are replaced by U+FFFD.
pub fn detokenize(vocabulary: &Vocabulary, tokens: &[u32], shows_control_tokens: bool) -> String {
    let shown =
        tokens.iter().filter(|&&token| shows_control_tokens || !vocabulary.is_control(token));
    let bytes: Vec<u8> = shown.flat_map(|&token| vocabulary.token_bytes(token)).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Submits a request.
///
/// # Errors
/// What it is refused with.
pub fn begin(model: &Served, ask: Ask) -> Result<Answering, ApiError> {
    let prompt_tokens = ask.prompt.len();
    let max_new_tokens = ask.max_new_tokens.or(model.default_new_tokens).unwrap_or_else(|| {
        // The last token of a full context is generated, but not run.
        model.service.room_behind(prompt_tokens).max(1)
    });
    let request = Request {
        prompt: ask.prompt,
        max_new_tokens,
        sampling: ask.sampling,
        ignore_end: ask.ignore_end,
        log_probabilities: ask.log_probabilities,
        after_sampling: ask.after_sampling,
        prompt_log_probabilities: ask.prompt_log_probabilities,
        watch: ask.watch,
        use_cache: ask.use_cache,
    };
    let (sender, events) = unbounded_channel();
    let ticket = model.service.submit(request, move |event| sender.send(event).is_ok())?;
    let tally = Tally::current();
    tally.add_prompt(prompt_tokens);
    Ok(Answering {
        events,
        ticket: Some(ticket),
        vocabulary: Arc::clone(model.vocabulary()),
        tally,
        shows_control_tokens: ask.shows_control_tokens,
        bytes: TextStream::default(),
        stop: StopText::new(&ask.stop),
        tokens: Vec::new(),
        length: 0,
        released: 0,
        prompt_tokens,
        cached_tokens: 0,
        generated: 0,
        timings: Timings::new(Instant::now()),
        next: None,
    })
}

impl Answering {
    /// What happens next; `None` after [`Piece::End`].
    ///
    /// # Errors
    /// 500 if the request cannot go on.
    pub async fn next(&mut self) -> Option<Result<Piece, ApiError>> {
        loop {
            if let Some(piece) = self.next.take() {
                return Some(Ok(piece));
            }
            self.ticket.as_ref()?;
            let Some(event) = self.events.recv().await else {
                self.ticket = None;
                let problem = "the engine has stopped before the answer was complete";
                return Some(Err(ApiError::internal(problem)));
            };
            match event {
                ServiceEvent::Started { cached_tokens, started } => {
                    self.cached_tokens = cached_tokens;
                    self.timings.started = Some(started);
                    return Some(Ok(Piece::Started { cached_tokens }));
                }
                ServiceEvent::Prompt { done, total } => {
                    return Some(Ok(Piece::Prompt { done, total }));
                }
                ServiceEvent::PromptProbabilities(tokens) => {
                    return Some(Ok(Piece::PromptTokens(tokens)));
                }
                ServiceEvent::Token { token, bytes, probabilities, .. } => {
                    if let Some(piece) = self.take(token, bytes, probabilities) {
                        return Some(Ok(piece));
                    }
                }
                ServiceEvent::Finished(finish) => return Some(Ok(self.finish(finish))),
                ServiceEvent::Failed { error } => {
                    self.ticket = None;
                    return Some(Err(ApiError::internal(error)));
                }
            }
        }
    }

    /// What it has taken so far.
    pub fn taken(&self) -> Taken {
        Taken {
            prompt_tokens: self.prompt_tokens,
            cached_tokens: self.cached_tokens,
            generated: self.generated,
            timings: self.timings,
        }
    }

    /// The whole answer.
    ///
    /// # Errors
    /// 500 if the request cannot go on.
    pub async fn collect(mut self) -> Result<Answer, ApiError> {
        let (mut text, mut tokens, mut prompt) = (String::new(), Vec::new(), Vec::new());
        while let Some(piece) = self.next().await {
            match piece? {
                Piece::Started { .. } | Piece::Prompt { .. } => {}
                Piece::PromptTokens(more) => prompt.extend(more),
                Piece::Delta { text: more, tokens: new } => {
                    text += &more;
                    tokens.extend(new);
                }
                Piece::End(end) => return Ok(Answer { text, tokens, prompt, end }),
            }
        }
        Err(ApiError::internal("the answer has no end"))
    }

    fn take(
        &mut self,
        token: u32,
        bytes: Vec<u8>,
        probabilities: Option<Probabilities>,
    ) -> Option<Piece> {
        let now = Instant::now();
        self.timings.first.get_or_insert(now);
        self.timings.before_last = self.timings.last.replace(now);
        self.generated += 1;
        self.tally.add_generated(1);
        let is_text = self.shows_control_tokens || !self.vocabulary.is_control(token);
        let text = self.bytes.push(if is_text { &bytes } else { &[] });
        self.tokens.push(NewToken { token, bytes, probabilities, offset: self.length });
        self.length += text.len();
        let Released { text, stop } = self.stop.push(&text);
        self.released += text.len();
        if let Some(stop) = stop {
            // What would come after is not wanted.
            if let Some(ticket) = self.ticket.take() {
                ticket.finish();
            }
            let released = self.released;
            self.tokens.retain(|token| token.offset < released);
            let end = self.end(Reason::Stop(stop), None, self.timings);
            return Some(self.with_end(text, end));
        }
        (!text.is_empty()).then(|| self.delta(text))
    }

    fn delta(&mut self, text: String) -> Piece {
        Piece::Delta { text, tokens: std::mem::take(&mut self.tokens) }
    }

    fn finish(&mut self, finish: Finish) -> Piece {
        self.ticket = None;
        let Finish { reason, end, timings, .. } = finish;
        self.generated += usize::from(end.is_some());
        self.tally.add_generated(usize::from(end.is_some()));
        let rest = self.bytes.finish();
        let Released { mut text, stop } = self.stop.push(&rest);
        let reason = match (stop, reason) {
            (Some(stop), _) => Reason::Stop(stop),
            (None, FinishReason::EndOfGeneration | FinishReason::Stopped) => Reason::EndOfTurn,
            (None, FinishReason::Length) => Reason::Length,
            (None, FinishReason::ContextFull) => Reason::ContextFull,
        };
        text += &self.stop.finish();
        let end = self.end(reason, end, timings);
        self.with_end(text, end)
    }

    fn end(&self, reason: Reason, end: Option<EndToken>, timings: Timings) -> End {
        End {
            reason,
            end,
            prompt_tokens: self.prompt_tokens,
            cached_tokens: self.cached_tokens,
            generated: self.generated,
            timings,
        }
    }

    /// The last text and tokens, if there are any, and then the end.
    fn with_end(&mut self, text: String, end: End) -> Piece {
        if text.is_empty() && self.tokens.is_empty() {
            return Piece::End(end);
        }
        self.next = Some(Piece::End(end));
        self.delta(text)
    }
}
