//! How many files a process may have open at once.

/// More than a model in as many parts as the format can count needs.
#[cfg(unix)]
const WANTED: u64 = 1 << 17;

/// Raises the limit as far as the system lets the process: each part of a model stays open while it is
/// written, and the usual limits of 256 and 1,024 are meant for programs that wait with `select`.
pub fn raise_limit() {
    #[cfg(unix)]
    // SAFETY: both calls only read or write the structure, which outlives them.
    unsafe {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max.min(WANTED).max(limit.rlim_cur);
            // Where it is refused, the old limit stays.
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        }
    }
}
