//! Threads for work that is over in microseconds.
//!
//! A forward pass is hundreds of small parallel loops, one after the other. A general thread pool
//! puts a thread to sleep between two of them, and waking it takes longer than the loop; a barrier
//! that spins takes the core from other programs, and stands still itself when one of them has it.
//! Here, threads that wait spin for some microseconds, then offer their core to others between
//! looks, and soon sleep. Tasks are handed out one by one, and only threads that are awake take
//! part: the others are not waited for.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, TryLockError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a waiting thread keeps its core: longer than what lies between two loops of a step.
const SPIN: Duration = Duration::from_micros(5);

/// How long it goes on looking, offering its core to others between looks, before it sleeps.
const LOOK: Duration = Duration::from_micros(200);

/// How long the caller sleeps between looks when others are still at work after that.
const NAP: Duration = Duration::from_micros(50);

/// Threads that share loops of small tasks. The thread that calls [`Team::run`] is one of them.
#[derive(Debug)]
pub struct Team {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held while a loop runs.
    calling: Mutex<()>,
}

impl Team {
    /// A team of so many threads, the caller included.
    ///
    /// # Panics
    /// If `threads` is 0, or the system starts no more threads.
    pub fn new(threads: usize) -> Self {
        assert!(threads > 0, "a team has at least one thread");
        let shared = Arc::new(Shared::default());
        let worker = |index: usize| {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new()
                .name(format!("quantkit-team-{index}"))
                .spawn(move || shared.work())
                .expect("the system starts a thread")
        };
        let workers = (1..threads).map(worker).collect();
        Self { shared, workers, calling: Mutex::new(()) }
    }

    /// The process's team: as many threads as rayon's global pool has.
    pub fn global() -> &'static Self {
        static GLOBAL: OnceLock<Team> = OnceLock::new();
        GLOBAL.get_or_init(|| Self::new(rayon::current_num_threads()))
    }

    /// Threads in the team, the caller included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `task` with each of `0..tasks`, on whichever thread is free next, and returns when all
    /// calls have. Allocates nothing. Where the team is at work already, for another caller or for a
    /// task that calls this, all tasks run on the calling thread.
    ///
    /// # Panics
    /// If a task does, once all running tasks have ended.
    pub fn run(&self, tasks: usize, task: impl Fn(usize) + Sync) {
        let alone = || (0..tasks).for_each(&task);
        if tasks <= 1 || self.workers.is_empty() {
            return alone();
        }
        // What a poisoned lock guards, nothing, is as good as before.
        let _calling = match self.calling.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return alone(),
        };
        self.shared.run(&Job::new(tasks, &task), &task);
        if let Some(panic) = self.shared.take_panic() {
            resume_unwind(panic);
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.state.0.fetch_or(CLOSED_FOR_GOOD, Ordering::SeqCst);
        self.shared.wake();
        for worker in self.workers.drain(..) {
            // A worker's panic was handed to the caller of its loop.
            let _ = worker.join();
        }
    }
}

/// A loop, with its type forgotten.
struct Job {
    /// Calls the task behind the pointer.
    call: unsafe fn(*const (), usize),
    task: *const (),
    tasks: usize,
}

impl Job {
    fn new<F: Fn(usize) + Sync>(tasks: usize, task: &F) -> Self {
        Self { call: call::<F>, task: std::ptr::from_ref(task).cast(), tasks }
    }
}

/// # Safety
/// `task` points to an `F` that threads may share.
unsafe fn call<F: Fn(usize)>(task: *const (), index: usize) {
    // SAFETY: the caller's.
    unsafe { (*task.cast::<F>())(index) }
}

/// On cache lines of its own (processors fetch them in pairs).
#[derive(Debug, Default)]
#[repr(align(128))]
struct Apart<T>(T);

/// Bits of the state: how many workers are at the loop, …
const INSIDE: u64 = 0xFFFF;
/// … whether more may come, …
const OPEN: u64 = 1 << 16;
/// … whether the team ends, …
const CLOSED_FOR_GOOD: u64 = 1 << 17;
/// … and, above, the number of the loop.
const ROUND: u64 = 1 << 18;

#[derive(Debug, Default)]
struct Shared {
    state: Apart<AtomicU64>,
    next: Apart<AtomicUsize>,
    /// The loop; it lives as long as the state is open or workers are inside.
    job: Apart<AtomicPtr<Job>>,
    /// How many workers sleep or are about to.
    sleepers: AtomicUsize,
    sleeping: Mutex<()>,
    alarm: Condvar,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

impl Shared {
    /// Runs a loop from the caller's side: opens it, takes part, closes it and waits for the others.
    fn run(&self, job: &Job, task: &(impl Fn(usize) + Sync)) {
        self.job.0.store(std::ptr::from_ref(job).cast_mut(), Ordering::Relaxed);
        self.next.0.store(0, Ordering::Relaxed);
        let round = self.state.0.load(Ordering::Relaxed) & !(INSIDE | OPEN);
        // Sequentially consistent, as is what a worker does before it sleeps: either it sees the
        // open loop, or it is seen among the sleepers here.
        self.state.0.store(round.wrapping_add(ROUND) | OPEN, Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            self.wake();
        }
        // Tasks that panic must not take the loop away from under the workers.
        let result = catch_unwind(AssertUnwindSafe(|| self.take_tasks(job.tasks, task)));
        self.state.0.fetch_and(!OPEN, Ordering::SeqCst);
        let mut wait = Wait::new();
        while self.state.0.load(Ordering::Acquire) & INSIDE != 0 {
            if !wait.look_again() {
                std::thread::sleep(NAP);
            }
        }
        if let Err(panic) = result {
            self.keep_panic(panic);
        }
    }

    fn take_tasks(&self, tasks: usize, task: impl Fn(usize)) {
        loop {
            let index = self.next.0.fetch_add(1, Ordering::Relaxed);
            if index >= tasks {
                return;
            }
            task(index);
        }
    }

    /// A worker's life.
    fn work(&self) {
        let mut last_round = 0;
        let mut wait = Wait::new();
        loop {
            let state = self.state.0.load(Ordering::Acquire);
            if state & CLOSED_FOR_GOOD != 0 {
                return;
            }
            let round = state / ROUND;
            if state & OPEN == 0 || round == last_round {
                if !wait.look_again() {
                    self.sleep(last_round);
                    wait = Wait::new();
                }
                continue;
            }
            // Only while the state is as it was, so that nobody enters a loop that has closed.
            let entered = self.state.0.compare_exchange_weak(
                state,
                state + 1,
                Ordering::Acquire,
                Ordering::Relaxed,
            );
            if entered.is_ok() {
                self.help();
                self.state.0.fetch_sub(1, Ordering::Release);
                last_round = round;
                wait = Wait::new();
            }
        }
    }

    /// A worker's part of a loop that it has entered.
    fn help(&self) {
        // SAFETY: the caller of the loop keeps the job until no worker is inside.
        let job = unsafe { &*self.job.0.load(Ordering::Relaxed) };
        let result = catch_unwind(|| {
            // SAFETY: the job's pointer is to a task that the caller keeps as long, and that is
            // `Sync`.
            self.take_tasks(job.tasks, |index| unsafe { (job.call)(job.task, index) });
        });
        if let Err(panic) = result {
            self.keep_panic(panic);
        }
    }

    /// Sleeps until there may be a loop after `last_round`.
    fn sleep(&self, last_round: u64) {
        let mut guard = self.sleeping.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        loop {
            let state = self.state.0.load(Ordering::SeqCst);
            if state & CLOSED_FOR_GOOD != 0 || (state & OPEN != 0 && state / ROUND != last_round) {
                break;
            }
            guard = self.alarm.wait(guard).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }

    fn wake(&self) {
        // With the lock, no worker is between its last look and its sleep.
        let _guard = self.sleeping.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        self.alarm.notify_all();
    }

    fn keep_panic(&self, panic: Box<dyn Any + Send>) {
        self.panic.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).get_or_insert(panic);
    }

    fn take_panic(&self) -> Option<Box<dyn Any + Send>> {
        self.panic.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take()
    }
}

/// How a thread passes the time until something happens.
struct Wait {
    since: Option<Instant>,
}

impl Wait {
    fn new() -> Self {
        Self { since: None }
    }

    /// Lets a moment pass; `false` when it is time to sleep.
    fn look_again(&mut self) -> bool {
        /// Pauses between two looks: some tenths of a microsecond.
        const PAUSES: usize = 8;
        let waited = self.since.get_or_insert_with(Instant::now).elapsed();
        if waited < SPIN {
            (0..PAUSES).for_each(|_| std::hint::spin_loop());
        } else if waited < LOOK {
            std::thread::yield_now();
        }
        waited < LOOK
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    /// How often each task of a loop was called.
    fn calls(team: &Team, tasks: usize) -> Vec<usize> {
        let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
        team.run(tasks, |index| {
            counts[index].fetch_add(1, Ordering::Relaxed);
        });
        counts.into_iter().map(AtomicUsize::into_inner).collect()
    }

    #[test]
    fn every_task_is_called_once_whatever_the_team() {
        for threads in [1, 2, 3, 8] {
            let team = Team::new(threads);
            assert_eq!(team.threads(), threads);
            for tasks in [0, 1, 2, 3, 7, 100, 1000] {
                assert_eq!(calls(&team, tasks), vec![1; tasks]);
            }
        }
    }

    #[test]
    fn loops_follow_one_another_with_and_without_sleep_between_them() {
        let team = Team::new(4);
        let total = AtomicUsize::new(0);
        for round in 0..20_000 {
            team.run(5, |index| {
                total.fetch_add(index, Ordering::Relaxed);
            });
            if round % 4000 == 0 {
                std::thread::sleep(4 * LOOK);
            }
        }
        assert_eq!(total.into_inner(), 20_000 * 10);
    }

    #[test]
    fn the_others_take_part() {
        let team = Team::new(2);
        let (waiting, met) = (AtomicUsize::new(0), AtomicUsize::new(0));
        team.run(2, |_| {
            waiting.fetch_add(1, Ordering::SeqCst);
            while waiting.load(Ordering::SeqCst) < 2 {
                std::thread::yield_now();
            }
            met.fetch_add(1, Ordering::SeqCst);
        });
        assert_eq!(met.into_inner(), 2);
    }

    #[test]
    fn a_loop_within_a_task_and_two_callers_at_once() {
        let team = Team::new(3);
        let total = AtomicUsize::new(0);
        let count = &|amount: usize| {
            team.run(10, |_| {
                team.run(amount, |_| {
                    total.fetch_add(1, Ordering::Relaxed);
                });
            });
        };
        std::thread::scope(|scope| {
            for amount in [3, 5] {
                scope.spawn(move || (0..50).for_each(|_| count(amount)));
            }
        });
        assert_eq!(total.into_inner(), 50 * 10 * (3 + 5));
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_goes_on() {
        let team = Team::new(3);
        for broken in 0..20 {
            let result = catch_unwind(AssertUnwindSafe(|| {
                team.run(20, |index| assert_ne!(index, broken, "this one"));
            }));
            let panic = result.unwrap_err();
            assert!(panic.downcast_ref::<String>().unwrap().contains("this one"));
            assert_eq!(calls(&team, 30), vec![1; 30]);
        }
    }
}
