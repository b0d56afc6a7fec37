//! The one progress style. Bars are drawn on standard error, only on a terminal, only for waits of
//! over a second, and never with `--quiet`.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::printable;

/// How long a wait is kept silent before its bar appears.
const PATIENCE: Duration = Duration::from_secs(1);

static QUIET: AtomicBool = AtomicBool::new(false);

/// Turns every progress bar of the process off (`--quiet`).
pub fn set_quiet(quiet: bool) {
    QUIET.store(quiet, Ordering::Relaxed);
}

/// What a bar counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes, shown as KiB, MiB, GiB.
    Bytes,
    /// Anything else, with the plural noun to show ("questions").
    Items(&'static str),
}

/// A progress bar with an ETA; cheap to clone and to update from many threads.
#[derive(Debug, Clone)]
pub struct Progress {
    bar: ProgressBar,
    started: Instant,
    shown: Arc<Mutex<bool>>,
}

impl Progress {
    /// A bar labelled `what` that counts to `total`.
    pub fn new(what: &str, total: u64, unit: Unit) -> Self {
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden());
        bar.set_style(style(unit));
        bar.set_prefix(what.to_string());
        let enabled = !QUIET.load(Ordering::Relaxed) && std::io::stderr().is_terminal();
        Self { bar, started: Instant::now(), shown: Arc::new(Mutex::new(!enabled)) }
    }

    /// Counts `delta` more.
    pub fn advance(&self, delta: u64) {
        self.show_when_slow();
        self.bar.inc(delta);
    }

    /// Sets the count.
    pub fn set(&self, position: u64) {
        self.show_when_slow();
        self.bar.set_position(position);
    }

    /// Shows a short text (a tensor's name, a rate) behind the bar.
    pub fn message(&self, text: impl Into<String>) {
        self.bar.set_message(printable::one_line(&text.into()).into_owned());
    }

    /// Removes the bar.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }

    fn show_when_slow(&self) {
        if self.started.elapsed() < PATIENCE {
            return;
        }
        let mut shown = self.shown.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !*shown {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
            *shown = true;
        }
    }
}

fn style(unit: Unit) -> ProgressStyle {
    let template = match unit {
        Unit::Bytes => {
            "{prefix:<18} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} ETA {eta} {msg}"
                .to_string()
        }
        Unit::Items(noun) => {
            format!(
                "{{prefix:<18}} [{{bar:30}}] {{pos}}/{{len}} {noun} {{per_sec}} ETA {{eta}} {{msg}}"
            )
        }
    };
    ProgressStyle::with_template(&template)
        .expect("the template is a constant")
        .progress_chars("=> ")
}
