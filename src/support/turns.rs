//! Turns at something that one alone can use, handed out in the order in which they were asked for.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// What is waited for. Unlike with a mutex, who has just had a turn comes behind those who wait.
#[derive(Debug, Default)]
pub struct Turns {
    numbers: Mutex<Numbers>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Numbers {
    /// The number of the next one to ask.
    next: u64,
    /// The number whose turn it is.
    current: u64,
}

/// A turn; it ends when this is dropped.
#[derive(Debug)]
pub struct Turn<'a>(&'a Turns);

impl Turns {
    /// Nobody waits.
    pub const fn new() -> Self {
        Self { numbers: Mutex::new(Numbers { next: 0, current: 0 }), changed: Condvar::new() }
    }

    /// Waits for a turn.
    pub fn take(&self) -> Turn<'_> {
        let mut numbers = self.numbers();
        let own = numbers.next;
        numbers.next += 1;
        while numbers.current != own {
            numbers = self.changed.wait(numbers).unwrap_or_else(PoisonError::into_inner);
        }
        Turn(self)
    }

    /// The numbers are whole whatever happened while they were locked.
    fn numbers(&self) -> MutexGuard<'_, Numbers> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.numbers().current += 1;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::Turns;

    #[test]
    fn nobody_has_two_turns_while_others_wait() {
        static TURNS: Turns = Turns::new();
        let order = Mutex::new(Vec::new());
        let held = TURNS.take();
        std::thread::scope(|scope| {
            for name in 0..3 {
                let order = &order;
                scope.spawn(move || {
                    for _ in 0..20 {
                        let _turn = TURNS.take();
                        order.lock().unwrap().push(name);
                        std::thread::sleep(std::time::Duration::from_millis(1));
                    }
                });
            }
            while TURNS.numbers().next < 4 {
                std::thread::yield_now();
            }
            drop(held);
        });
        let order = order.into_inner().unwrap();
        for (index, three) in order.chunks(3).enumerate() {
            let (mut three, mut all) = (three.to_vec(), vec![0, 1, 2]);
            three.sort_unstable();
            all.truncate(three.len());
            assert_eq!(three, all, "round {index}");
        }
    }
}
