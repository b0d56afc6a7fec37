//! Trying again what may succeed a moment later: which failures pass, how long to wait, when to give
//! up. Every client goes by this, whatever it talks to.

use std::fmt::Display;
use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, SystemTime};

use ureq::http::HeaderMap;

use super::calendar::from_http_date;
use super::download::length;
use super::interrupt::{self, Interrupted};

/// A server that asks for a longer wait gets this one.
const LONGEST_ASKED: Duration = Duration::from_secs(60);

/// What an attempt must bring of a file for the next failure to count as the first again.
const WORTHWHILE: u64 = 1 << 20;

/// How often a wait looks for Ctrl-C.
const GLANCE: Duration = Duration::from_millis(50);

/// How often something is tried, and how long the waits in between are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Attempts in a row that may fail; at least one is made.
    pub attempts: u32,
    /// The wait before the second attempt. It doubles with each further one.
    pub first_wait: Duration,
    /// No wait is longer, unless the server asks for it.
    pub longest_wait: Duration,
    /// Whether a wait ends early when a stop is asked for.
    pub stops: bool,
}

/// An attempt that failed.
#[derive(Debug)]
pub struct Failure<E> {
    /// What the caller gets if nothing is tried again.
    pub error: E,
    /// Whether the same attempt may succeed a moment later.
    pub passes: bool,
    /// The wait that the server asks for: see [`asked_wait`].
    pub asked_wait: Option<Duration>,
    /// Whether so much was gained that attempts count from one again.
    pub gained: bool,
}

impl<E> Failure<E> {
    /// A failure that another attempt would not change.
    pub fn lasting(error: E) -> Self {
        Self { error, passes: false, asked_wait: None, gained: false }
    }

    /// A failure that may pass.
    pub fn passing(error: E) -> Self {
        Self { passes: true, ..Self::lasting(error) }
    }

    /// An answer with a status that is no success.
    pub fn of_status(error: E, status: u16, headers: &HeaderMap) -> Self {
        let asked_wait = asked_wait(headers);
        Self { passes: status_passes(status), asked_wait, ..Self::lasting(error) }
    }
}

/// An error is a lasting failure unless something else is said.
impl<E> From<E> for Failure<E> {
    fn from(error: E) -> Self {
        Self::lasting(error)
    }
}

/// Tries something until it succeeds, fails for good, or has failed too often. `attempt` gets its
/// number, from 1.
///
/// # Errors
/// That of the last attempt; an interruption while waiting.
pub fn retry<T, E: From<Interrupted> + Display>(
    patience: &Patience,
    mut attempt: impl FnMut(u32) -> Result<T, Failure<E>>,
) -> Result<T, E> {
    let mut number = 1;
    loop {
        let failure = match attempt(number) {
            Ok(result) => return Ok(result),
            Err(failure) => failure,
        };
        if failure.gained {
            number = 1;
        }
        if !failure.passes || number >= patience.attempts {
            return Err(failure.error);
        }
        let wait = patience.wait(number, failure.asked_wait);
        tracing::info!(
            "{}; attempt {number} of {}, the next in {} ms",
            failure.error,
            patience.attempts,
            wait.as_millis()
        );
        pause(wait, patience.stops)?;
        number += 1;
    }
}

/// [`retry`] for a file that grows with each attempt: one that brings much of it is no failure in a
/// row.
///
/// # Errors
/// As [`retry`].
pub fn resume<E: From<Interrupted> + Display>(
    patience: &Patience,
    part: &Path,
    mut attempt: impl FnMut(u32) -> Result<(), Failure<E>>,
) -> Result<(), E> {
    retry(patience, |number| {
        let before = length(part);
        attempt(number).map_err(|failure| {
            let gained = length(part).saturating_sub(before) >= WORTHWHILE;
            Failure { gained, ..failure }
        })
    })
}

impl Patience {
    /// The wait after the attempt of this number, from 1.
    fn wait(&self, number: u32, asked: Option<Duration>) -> Duration {
        let own = self.first_wait.saturating_mul(2u32.saturating_pow(number - 1));
        asked.map_or(own.min(self.longest_wait), |asked| asked.min(LONGEST_ASKED))
    }
}

/// Whether a request that was answered with this status may succeed a moment later.
pub fn status_passes(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500 | 502..=599) && status != 505
}

/// Whether a request that got no answer may get one a moment later.
pub fn loss_passes(error: &ureq::Error) -> bool {
    use ureq::Error as E;
    match error {
        E::Timeout(_) | E::HostNotFound | E::ConnectionFailed | E::Protocol(_) => true,
        E::Io(error) => !matches!(
            error.kind(),
            io::ErrorKind::InvalidInput
                | io::ErrorKind::InvalidData
                | io::ErrorKind::PermissionDenied
                | io::ErrorKind::Unsupported
        ),
        _ => false,
    }
}

/// The wait that an answer asks for in `Retry-After`: seconds, or a date.
pub fn asked_wait(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("retry-after")?.to_str().ok()?.trim();
    match text.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => from_http_date(text)?.duration_since(SystemTime::now()).ok(),
    }
}

fn pause(time: Duration, stops: bool) -> Result<(), Interrupted> {
    let mut left = time;
    while left > Duration::ZERO {
        if stops {
            interrupt::check()?;
        }
        let now = left.min(GLANCE);
        thread::sleep(now);
        left -= now;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience {
        attempts: 3,
        first_wait: Duration::from_millis(1),
        longest_wait: Duration::from_millis(3),
        stops: true,
    };

    #[derive(Debug, PartialEq, thiserror::Error)]
    enum Problem {
        #[error("attempt {0}")]
        Attempt(u32),
        #[error(transparent)]
        Interrupted(#[from] Interrupted),
    }

    #[test]
    fn what_passes_is_tried_until_it_succeeds_or_patience_ends() {
        let failing_before = |success: u32| {
            retry(&PATIENCE, |number| match number {
                _ if number == success => Ok(number),
                _ => Err(Failure::passing(Problem::Attempt(number))),
            })
        };
        assert_eq!(failing_before(3), Ok(3));
        assert_eq!(failing_before(4), Err(Problem::Attempt(3)));
        let lasting = retry(&PATIENCE, |number| -> Result<(), _> {
            Err(Failure::lasting(Problem::Attempt(number)))
        });
        assert_eq!(lasting, Err(Problem::Attempt(1)));
    }

    #[test]
    fn a_file_that_grows_is_no_failure_in_a_row() {
        let directory = tempfile::tempdir().unwrap();
        let part = directory.path().join("part");
        let mut attempts = 0;
        let end = resume(&PATIENCE, &part, |number| {
            attempts += 1;
            // Five attempts that bring much, then nothing more.
            std::fs::write(&part, vec![0; attempts.min(5) << 20]).unwrap();
            Err(Failure::passing(Problem::Attempt(number)))
        });
        assert_eq!((end, attempts), (Err(Problem::Attempt(3)), 7));
    }

    #[test]
    fn waits_double_up_to_the_longest_or_are_those_that_are_asked_for() {
        let milliseconds = |number| PATIENCE.wait(number, None).as_millis();
        assert_eq!([1, 2, 3, 99].map(milliseconds), [1, 2, 3, 3]);
        let asked = |seconds| PATIENCE.wait(1, Some(Duration::from_secs(seconds))).as_secs();
        assert_eq!([asked(0), asked(7), asked(86_400)], [0, 7, 60]);
    }

    #[test]
    fn waits_are_asked_for_in_seconds_or_by_date() {
        let asked = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("retry-after", text.parse().unwrap());
            asked_wait(&headers)
        };
        assert_eq!(asked(" 12 "), Some(Duration::from_secs(12)));
        assert_eq!(asked("soon"), None);
        assert_eq!(asked("Sun, 06 Nov 1994 08:49:37 GMT"), None);
        assert!(asked("Sun, 06 Nov 2994 08:49:37 GMT").unwrap() > Duration::from_secs(1 << 33));
        assert_eq!(asked_wait(&HeaderMap::new()), None);
    }

    #[test]
    fn there_is_one_list_of_what_passes() {
        let passing: Vec<u16> = (400..600).filter(|&status| status_passes(status)).collect();
        assert_eq!(passing[..6], [408, 425, 429, 500, 502, 503]);
        assert!(![501, 505].iter().any(|status| passing.contains(status)));
        assert!(loss_passes(&ureq::Error::HostNotFound));
        assert!(!loss_passes(&ureq::Error::BadUri(String::new())));
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        assert!(loss_passes(&ureq::Error::Io(refused)));
    }
}
