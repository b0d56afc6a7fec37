//! What must never be silently wrong: results of a journal that was damaged, or of inputs that changed,
//! and secrets in what is printed.

#[cfg(unix)]
use std::fs;
#[cfg(unix)]
use std::process::Child;
#[cfg(unix)]
use std::time::{Duration, SystemTime};

use predicates::prelude::*;
use predicates::str::contains;

use super::records::Place;
#[cfg(unix)]
use super::records::same_results;
#[cfg(unix)]
use super::support::{TinyModel, send};

/// Whatever becomes of the lines of a journal, the run ends in the files of one that was never stopped.
#[test]
#[cfg(unix)]
fn a_run_goes_on_from_a_damaged_journal_to_the_same_files() {
    let place = Place::new(200);
    let cloze = ["--protocol", "cloze"];
    place.score("whole", &cloze).success();
    let journal = place.path("run/journal.jsonl");
    while !place.stop("run", &cloze, 6, libc::SIGKILL) {}
    let kept = fs::read_to_string(&journal).unwrap();
    let lines: Vec<&str> = kept.split_inclusive('\n').collect();
    let lines = &lines[..6];
    let with = |line: usize, from: &str, to: &str| {
        let changed = lines[line].replacen(from, to, 1);
        assert_ne!(changed, lines[line]);
        [&lines[..line].concat(), &changed, &lines[line + 1..].concat()]
            .map(String::as_str)
            .concat()
    };
    let cases = [
        ("lines 4, 6 are", [&lines[..3], &[lines[1]], &lines[3..4], &[lines[3]]].concat().concat()),
        ("lines 7, 8 are", lines[1..].concat() + lines[0] + lines[1] + lines[1]),
        ("", [lines[0], lines[5], lines[2], lines[4], lines[1]].concat()),
        ("line 3 is", with(2, "\"sums\":[-", "\"sums\":[")),
        ("line 2 is", with(1, "\"seconds\":", "\"seconds\":1e300")),
        ("line 4 is", with(3, "\"line\":3", "\"line\":9")),
        ("its first line", lines[1..].concat()),
        ("its first line", with(0, "cloze", "close")),
        ("line 6 is", lines.concat()[..lines.concat().len() - 9].to_string()),
        ("", lines[0][..40].to_string()),
    ];
    for (warning, damaged) in cases {
        fs::create_dir_all(place.path("run")).unwrap();
        fs::write(&journal, damaged).unwrap();
        place.score("run", &cloze).success().stderr(contains(warning));
        same_results(&place, "whole", "run");
        fs::remove_dir_all(place.path("run")).unwrap();
    }
}

#[test]
#[cfg(unix)]
fn a_journal_of_an_earlier_quantkit_is_no_damaged_one() {
    let place = Place::new(30);
    fs::create_dir_all(place.path("run")).unwrap();
    let journal = place.path("run/journal.jsonl");
    fs::write(&journal, "{\"schema_version\":2,\"build\":{},\"total\":30}\n").unwrap();
    let before = fs::read(&journal).unwrap();
    let said = "was written by another version of quantkit";
    place.score("run", &[]).failure().stderr(contains(said).and(contains("--overwrite")));
    assert_eq!(fs::read(&journal).unwrap(), before);
    place.score("run", &["--overwrite"]).success();
}

/// A run that stands still once its model is loaded and it has begun to score.
#[cfg(unix)]
fn paused(place: &Place, output: &str) -> Child {
    let mut child = place.start(output, &["--protocol", "cloze"], "1", 2);
    assert!(child.try_wait().unwrap().is_none(), "the run ended before it could be paused");
    send(&child, libc::SIGSTOP);
    child
}

#[cfg(unix)]
fn finish(child: Child) -> (bool, String) {
    send(&child, libc::SIGCONT);
    let ended = child.wait_with_output().unwrap();
    (ended.status.success(), String::from_utf8_lossy(&ended.stderr).into_owned())
}

#[test]
#[cfg(unix)]
fn a_model_that_is_replaced_is_the_one_that_was_loaded() {
    let place = Place::new(400);
    place.score("whole", &["--protocol", "cloze"]).success();
    let run = paused(&place, "run");
    TinyModel { context: 2048, seed: 9, ..TinyModel::default() }.write(&place.path("model.gguf"));
    let (success, said) = finish(run);
    assert!(success && said.contains("model.gguf: was replaced or removed meanwhile"), "{said}");
    same_results(&place, "whole", "run");
}

#[test]
#[cfg(unix)]
fn a_model_that_is_written_to_gives_no_result() {
    let place = Place::new(400);
    let model = place.path("model.gguf");
    let run = paused(&place, "run");
    let mut bytes = fs::read(&model).unwrap();
    let last = bytes.len() - 3;
    bytes[last] ^= 1;
    fs::write(&model, &bytes).unwrap();
    let later = SystemTime::now() + Duration::from_secs(5);
    fs::File::options().write(true).open(&model).unwrap().set_modified(later).unwrap();
    let (success, said) = finish(run);
    assert!(!success && said.contains("model.gguf: the file was written to while"), "{said}");
    assert!(!place.path("run/summary.json").exists());
    // What was scored before is no result of the file that is there now.
    let again = place.score("run", &["--protocol", "cloze"]).failure();
    again.stderr(contains("model_sha256 is"));
}

#[test]
fn passwords_in_addresses_are_not_printed() {
    let place = Place::new(3);
    let set = place.path("set");
    for address in ["http://me:s3cret@127.0.0.1:9/v1", "http://127.0.0.1:9?api_key=s3cret"] {
        let mut command = super::support::quantkit();
        command.args(["-vv", "mmlu-eval", "--endpoint", address, "--endpoint-model", "m"]);
        command.args(["--protocol", "cloze", "--retries", "1", "--set"]).arg(&set);
        let said = command.arg("--output").arg(place.path("run")).assert().failure();
        said.stderr(contains("127.0.0.1:9").and(contains("s3cret").not()));
    }
}
