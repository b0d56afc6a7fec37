//! Any bytes, after one that says of which kind the file is: the readers of question sets refuse
//! them, or every question is one that can be asked.

#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use quantkit::eval::questions::read_questions;

/// The names of files of each kind, in a directory of this process.
static FILES: LazyLock<[PathBuf; 4]> = LazyLock::new(|| {
    let directory = std::env::temp_dir().join(format!("quantkit-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory for the file");
    ["parquet", "csv", "jsonl", "bin"].map(|kind| directory.join("set").with_extension(kind))
});

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, content)) = bytes.split_first() else { return };
    let path = &FILES[usize::from(*kind) % FILES.len()];
    std::fs::write(path, content).expect("room for the file");
    let Ok(questions) = read_questions(path) else { return };
    for (row, question) in questions.iter().enumerate() {
        assert_eq!(question.row, row);
        assert!((2..=26).contains(&question.choices.len()));
        assert!(question.answer < question.choices.len());
        let texts = question.choices.iter().chain([&question.question, &question.subject]);
        assert!(texts.into_iter().all(|text| !text.trim().is_empty()));
    }
});
