//! Question sets as others write them, and as an enemy would: `tests/data/sets`.

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::assert::Assert;
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;

use super::support::quantkit;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/sets").join(name)
}

fn show(set: &Path) -> Assert {
    quantkit().args(["eval-set", "show"]).arg(set).args(["--sample", "4"]).assert()
}

#[test]
fn sets_of_other_writers_are_read() {
    for name in ["subject_dictionary.parquet", "gzip.parquet", "lz4.parquet"] {
        show(&data(name)).success().stdout(
            contains("4 questions").and(contains("right choice: 0: 1")).and(contains("colours")),
        );
    }
    show(&data("jl_bom.jsonl")).success().stdout(contains("What is red?"));
    show(&data("meta_column.parquet"))
        .success()
        .stderr(contains("no part of the questions: the columns meta (Struct("));
}

#[test]
fn what_is_not_read_is_named_with_the_cure() {
    for (name, message) in [
        ("extra_columns.parquet", "the column image (Binary) may be a part of the questions"),
        ("extra_columns.parquet", "take it out of the file"),
        ("form_other.parquet", "column form: no form is called \"mcq\"; expected one of exam,"),
        ("form_other.parquet", "or take the column out"),
        ("id_int_twice.parquet", "rows 0 and 2 have the same id, \"1\": give each question an id"),
        ("brotli.parquet", "is compressed with BROTLI"),
        ("brotli.parquet", "write the file with Snappy, zstd, gzip or LZ4"),
        ("delta.parquet", "column \"question\": it is encoded as DELTA_BYTE_ARRAY"),
    ] {
        show(&data(name)).failure().stderr(contains(name).and(contains(message)));
    }
}

#[test]
fn answers_that_may_count_from_1_are_pointed_out() {
    show(&data("answer_one_based_no_last.parquet"))
        .success()
        .stderr(contains("no answer of 4 questions is 0, and answers count from 0"));
    show(&data("gzip.parquet")).success().stderr(contains("count from").not());
}

#[test]
fn what_steers_a_terminal_is_shown_escaped() {
    let shown = show(&data("esc.jsonl")).success();
    let shown = String::from_utf8(shown.get_output().stdout.clone()).unwrap();
    assert!(shown.contains("q \\u{1b}[2J") && shown.contains("s\\u{1b}[2J"), "{shown:?}");
    assert!(shown.chars().all(|c| !c.is_control() || c == '\n'), "{shown:?}");

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("set.jsonl");
    fs::write(&path, "{\"\\u001b[2Jtopic\":1}\n").unwrap();
    show(&path).failure().stderr(contains("\\u{1b}[2Jtopic").and(contains('\u{1b}').not()));
}

/// Shows a set in a process that may have no more than 2 GB.
#[cfg(target_os = "linux")]
fn show_within_bounds(set: &Path) -> Assert {
    let mut command = assert_cmd::Command::new("sh");
    command.args(["-c", "ulimit -v 2000000; exec \"$0\" --threads 1 eval-set show \"$1\""]);
    command.arg(env!("CARGO_BIN_EXE_quantkit")).arg(set).assert()
}

#[test]
#[cfg(target_os = "linux")]
fn what_unpacks_to_gigabytes_is_refused_within_bounds() {
    let dir = tempfile::tempdir().unwrap();
    let overlapping = dir.path().join("overlapping.bin");
    fs::write(&overlapping, tasks_in_one_place(10_000, 1 << 20)).unwrap();
    for (set, message) in [
        (data("bomb-dict.parquet"), "the questions take more than 512.00 MiB"),
        (data("bomb-zstd.parquet"), "the file unpacks to more than 512.00 MiB"),
        (overlapping, "the questions take more than 512.00 MiB"),
    ] {
        show_within_bounds(&set).failure().code(1).stderr(contains(message));
    }
}

/// A task file whose tasks are all the same one, with a long question.
fn tasks_in_one_place(tasks: u32, length: u32) -> Vec<u8> {
    let mut bytes = tasks.to_le_bytes().to_vec();
    let place = 4 + 4 * tasks;
    bytes.extend((0..tasks).flat_map(|_| place.to_le_bytes()));
    bytes.extend(length.to_le_bytes());
    bytes.extend((0..length).map(|_| b'q'));
    for number in [2, 1] {
        bytes.extend(u32::to_le_bytes(number));
    }
    bytes.push(b'a');
    bytes.extend(1u32.to_le_bytes());
    bytes.push(b'b');
    for number in [1u32, 0, 0] {
        bytes.extend(number.to_le_bytes());
    }
    bytes
}
