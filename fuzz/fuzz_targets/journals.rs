//! A sound journal, damaged in ways that the bytes choose: the lines that still open are lines that
//! were written, with their own numbers and contents. Then any bytes, which open nothing.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use quantkit::support::sealed_line::{Seal, resembles_line};

/// The lines of a journal, and the seal of those behind the first.
static JOURNAL: LazyLock<(Vec<Vec<u8>>, Seal)> = LazyLock::new(|| {
    let first = Seal::default().line(0, &"the header of a run").expect("JSON");
    let seal = Seal::default().open(&first).expect("it was just written").seal();
    let entry = |number: u64| seal.line(number, &(number, "ü\n", 0.1)).expect("JSON");
    let lines = std::iter::once(first.clone()).chain((1..12).map(entry)).collect();
    (lines, seal)
});

/// Takes bytes from the front of the input; zeros where there are no more.
fn take(input: &mut &[u8]) -> usize {
    let Some((first, rest)) = input.split_first() else { return 0 };
    *input = rest;
    usize::from(*first)
}

/// A place in a file of this length.
fn place(input: &mut &[u8], length: usize) -> usize {
    (take(input) << 8 | take(input)) % (length + 1)
}

/// Changes a file as the input says: flips, cuts, repeats, moves and inserts.
fn damage(file: &mut Vec<u8>, input: &mut &[u8]) {
    while !input.is_empty() && file.len() < 1 << 16 {
        let kind = take(input) % 5;
        let (a, b) = (place(input, file.len()), place(input, file.len()));
        let (start, end) = (a.min(b), a.max(b));
        match kind {
            0 if start < file.len() => file[start] ^= 1 << (take(input) % 8),
            1 => drop(file.drain(start..end)),
            2 => file.extend_from_within(start..end),
            3 => file[start..].rotate_left(end - start),
            _ => drop(file.splice(start..start, [take(input) as u8])),
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let (lines, seal) = &*JOURNAL;
    let mut file = lines.concat();
    damage(&mut file, &mut &*bytes);
    for line in file.split_inclusive(|&byte| byte == b'\n') {
        for opened in [Seal::default().open(line), seal.open(line)].into_iter().flatten() {
            assert_eq!(line, lines[opened.number as usize]);
        }
    }
    for line in bytes.split_inclusive(|&byte| byte == b'\n') {
        assert!(seal.open(line).is_none_or(|opened| line == lines[opened.number as usize]));
        assert!(seal.open(line).is_none() || resembles_line(line));
    }
});
