//! What an HTTP request makes of the models: counted where tokens come and go, told where the request is
//! logged. Protocols need not know of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

tokio::task_local! {
    /// Of the request that the task answers.
    static CURRENT: Arc<Tally>;
}

/// Tokens of an HTTP request.
#[derive(Debug, Default)]
pub struct Tally {
    prompt_tokens: AtomicU64,
    generated: AtomicU64,
}

impl Tally {
    /// Answers a request whose tokens are counted here.
    pub async fn count<T>(self: &Arc<Self>, answer: impl Future<Output = T>) -> T {
        CURRENT.scope(Arc::clone(self), answer).await
    }

    /// That of the request which is being answered; outside of any, one that nobody reads.
    pub fn current() -> Arc<Self> {
        CURRENT.try_with(Arc::clone).unwrap_or_default()
    }

    /// So many tokens of a prompt were submitted.
    pub fn add_prompt(&self, tokens: usize) {
        self.prompt_tokens.fetch_add(tokens as u64, Ordering::Relaxed);
    }

    /// So many tokens were generated.
    pub fn add_generated(&self, tokens: usize) {
        self.generated.fetch_add(tokens as u64, Ordering::Relaxed);
    }

    /// Tokens of prompts, and generated tokens.
    pub fn tokens(&self) -> (u64, u64) {
        (self.prompt_tokens.load(Ordering::Relaxed), self.generated.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tokens_are_counted_for_the_request_that_asks() {
        let (one, other) = (Arc::new(Tally::default()), Arc::new(Tally::default()));
        let ask = |tokens| async move {
            let tally = Tally::current();
            tokio::task::yield_now().await;
            tally.add_prompt(tokens);
            tally.add_generated(1);
        };
        tokio::join!(one.count(ask(3)), other.count(ask(5)));
        Tally::current().add_prompt(100);
        assert_eq!((one.tokens(), other.tokens()), ((3, 1), (5, 1)));
    }
}
