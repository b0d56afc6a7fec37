//! A mapped file that is cut short while it is read: the system then sends SIGBUS, which would end the
//! process without a word.

/// The status of a process that a cut file has ended: `EX_IOERR` of sysexits.h.
#[cfg(target_os = "linux")]
const STATUS: i32 = 74;

#[cfg(target_os = "linux")]
const MESSAGE: &[u8] =
    b"quantkit: error: a file was cut short, or its disk failed, while it was being read; \
    nothing was written: restore the file and start again\n";

/// Ends the process with a message and a status of its own when a mapped file turns out to be shorter
/// than it was. Outputs under construction are left under their temporary names. Elsewhere than on
/// Linux the signal also says other things, and stays as it is.
pub fn install() {
    #[cfg(target_os = "linux")]
    // SAFETY: the action is all zeros but for the fields that are set, which is a valid one, and its
    // handler calls only what may be called in one.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_bus_error as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut());
    }
}

/// Runs in a signal handler: nothing may be allocated or locked here.
#[cfg(target_os = "linux")]
extern "C" fn on_bus_error(
    signal: i32,
    information: *mut libc::siginfo_t,
    _context: *mut libc::c_void,
) {
    // SAFETY: the system hands over valid information; `write`, `_exit` and `signal` are safe to call
    // in signal handlers.
    unsafe {
        if (*information).si_code == libc::BUS_ADRERR {
            libc::write(libc::STDERR_FILENO, MESSAGE.as_ptr().cast(), MESSAGE.len());
            libc::_exit(STATUS);
        }
        // Something else: the instruction that failed is run again, and ends the process as usual.
        libc::signal(signal, libc::SIG_DFL);
    }
}
