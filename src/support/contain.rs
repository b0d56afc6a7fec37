//! Panics of a dependency, on data that it should have refused, turned into errors.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local! {
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

static SILENCER: Once = Once::new();

/// Runs `work`; a panic in it becomes `Err` with the panic's message, and nothing is printed.
///
/// Whatever `work` was changing when it panicked must not be used afterwards.
pub fn contain_panics<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    SILENCER.call_once(|| {
        let previous = take_hook();
        set_hook(Box::new(move |information| {
            if !CONTAINED.get() {
                previous(information);
            }
        }));
    });
    let outer = CONTAINED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    CONTAINED.set(outer);
    result.map_err(|payload| {
        payload
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| payload.downcast_ref::<&str>().map(ToString::to_string))
            .unwrap_or_else(|| "a panic without a message".to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::contain_panics;

    #[test]
    fn a_panic_becomes_its_message() {
        assert_eq!(contain_panics(|| 3), Ok(3));
        assert_eq!(contain_panics(|| panic!("no {}", 1)), Err::<(), _>("no 1".to_string()));
        assert_eq!(contain_panics(|| panic!("plain")), Err::<(), _>("plain".to_string()));
    }
}
