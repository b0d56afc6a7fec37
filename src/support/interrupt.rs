//! Ctrl-C and SIGTERM: long loops ask [`requested`] between steps, save what is done and stop.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use super::atomic_file;

static REQUESTED: AtomicBool = AtomicBool::new(false);
static INSTALLED: OnceLock<()> = OnceLock::new();

/// The error that a stopped loop returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

/// Installs the signal handler: the first signal asks for a clean stop, a second one ends the
/// process at once with status 130, without the files that are not complete. On Unix a file that
/// grows past the limit on sizes (`ulimit -f`) becomes an error of whoever writes it.
pub fn install() {
    INSTALLED.get_or_init(|| {
        #[cfg(unix)]
        // SAFETY: ignoring a signal runs nothing of ours; a write past the limit fails with EFBIG.
        unsafe {
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        }
        let installed = ctrlc::set_handler(|| {
            if REQUESTED.swap(true, Ordering::SeqCst) {
                atomic_file::abandon_all();
                std::process::exit(130);
            }
        });
        if let Err(error) = installed {
            tracing::warn!("Ctrl-C will end quantkit without saving: {error}");
        }
    });
}

/// Whether a stop has been asked for.
pub fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}

/// `Err(Interrupted)` once a stop has been asked for.
pub fn check() -> Result<(), Interrupted> {
    if requested() { Err(Interrupted) } else { Ok(()) }
}
