//! `quantkit mmlu-eval --endpoint` and servers whose answers are wrong, late, too large, or none.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use predicates::prelude::*;
use predicates::str::contains;
use quantkit::eval::questions::{Question, write_questions};

use super::endpoint::{Place, questions};
use super::model_server::{Fault, Kind, Mishap, ModelServer};
use super::support::quantkit;

/// Each fault, and what is said of it.
const FAULTS: [(Fault, &str); 10] = [
    (Fault::Zeros, "all log-probabilities are 0"),
    (Fault::Positive, "which is above 0"),
    (Fault::Truncates, "the tokens end before the text does, which goes on with"),
    (Fault::Strips, "the tokens end before the text does, which goes on with"),
    (Fault::OtherText, "of the answer is \""),
    (Fault::Mismatch, "of the answer is \"zz"),
    (Fault::Swap, "of the answer is \""),
    (Fault::Cached, "of the answer is \""),
    (Fault::UsageTooSmall, "tokens of the text, the answer has"),
    (Fault::NeitherUsageNorMore, "the tokens end before the text does, which goes on with"),
];

#[test]
fn a_server_whose_answers_are_wrong_is_refused() {
    let place = Place::new();
    for (fault, said) in FAULTS {
        if fault == Fault::Truncates {
            continue; // The first question to a server is short.
        }
        // Of a short text, the tail could be what a server puts before a text.
        let said = if fault == Fault::Cached { "the tokens end before the text" } else { said };
        let server = ModelServer::faulty(Kind::Echo, fault, "");
        place
            .score(&server, "refused", &["--protocol", "cloze"])
            .failure()
            .stderr(contains("none that can be believed").and(contains(said)));
        assert!(!place.path("refused").exists(), "{fault:?}");
    }
    for kind in [Kind::PromptLogprobs, Kind::Llama] {
        let server = ModelServer::faulty(kind, Fault::Zeros, "");
        place
            .score(&server, "refused", &[])
            .failure()
            .stderr(contains("none that can be believed"));
    }
}

#[test]
fn a_question_with_a_wrong_answer_is_unscored_and_the_run_goes_on() {
    let place = Place::new();
    place.score(&ModelServer::start(Kind::Echo), "calm", &["--protocol", "cloze"]).success();
    let calm = place.summary("calm");
    for (index, (fault, said)) in FAULTS.into_iter().enumerate() {
        let server = ModelServer::faulty(Kind::Echo, fault, "number 7 ");
        let output = format!("faulty-{index}");
        place
            .score(&server, &output, &["--protocol", "cloze"])
            .success()
            .stdout(contains(
                "1 more could not be scored and are left out of every figure; row 7: ",
            ))
            .stderr(contains("1 questions could not be scored"));
        let summary = place.summary(&output);
        assert_eq!(summary["overall"]["questions"], 29);
        let reason = summary["unscored"][0]["reason"].as_str().unwrap();
        assert!(reason.contains(said), "{fault:?}: {reason}");
        assert_ne!(summary["overall"], calm["overall"]);
    }
}

#[test]
fn a_run_without_a_score_fails() {
    let place = Place::new();
    let server = ModelServer::faulty(Kind::Echo, Fault::Truncates, "");
    place.score(&server, "none", &["--protocol", "cloze"]).failure().stderr(contains(
        "none of 30 questions could be scored, row 0 for this reason: the tokens",
    ));
    assert!(!place.path("none/summary.json").exists());
}

#[test]
fn what_llama_server_cannot_tell_leaves_its_question_unscored() {
    let place = Place::new();
    let mut questions: Vec<Question> = questions();
    questions[3].choices[1] = "the 天 one".to_string();
    write_questions(&place.path("test.parquet"), &questions).unwrap();
    let server = ModelServer::start(Kind::Llama);
    place.score(&server, "llama", &["--protocol", "cloze"]).success();
    let summary = place.summary("llama");
    assert_eq!(summary["overall"]["questions"], 29);
    assert_eq!(summary["unscored"][0]["row"], 3);
    let reason = summary["unscored"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("ends inside a character"), "{reason}");
}

#[test]
fn one_malformed_answer_is_asked_for_again_and_a_second_ends_the_run() {
    let place = Place::new();
    place.score(&ModelServer::start(Kind::Echo), "calm", &["--limit", "6"]).success();
    let html = Mishap::Text("<html>gateway</html>");
    let loading = Mishap::Text("{\"error\": {\"message\": \"the model is loading\"}}");
    // Four requests find out what the server understands.
    let later = |mishaps: &[Mishap]| [mishaps, &[Mishap::Nothing; 4]].concat();
    let options = ["--limit", "6", "--endpoint-model", "hash-1", "--concurrency", "1"];
    for (index, mishap) in
        [html, loading, Mishap::Text("{}"), Mishap::Flood(2 << 20)].into_iter().enumerate()
    {
        let server = ModelServer::start(Kind::Echo);
        *server.mishaps.lock().unwrap() = later(&[mishap]);
        let output = format!("rough-{index}");
        place.score(&server, &output, &options).success();
        assert!(place.bytes("calm") == place.bytes(&output), "{mishap:?}");
        assert_eq!(server.requests.load(Ordering::SeqCst), 4 + 6 * 4 + 1);
    }
    for (mishap, said) in [
        (html, "/v1/completions: not the answer that was asked for"),
        (loading, "the answer is an error: {\"message\":\"the model is loading\"}"),
        (Mishap::Flood(2 << 20), "bytes, which no answer to this request is"),
    ] {
        let server = ModelServer::start(Kind::Echo);
        *server.mishaps.lock().unwrap() = later(&[mishap; 2]);
        place.score(&server, "ended", &options).failure().stderr(contains(said));
        assert!(!place.path("ended/summary.json").exists());
    }
    let server = ModelServer::start(Kind::Echo);
    *server.mishaps.lock().unwrap() = vec![Mishap::Flood(8 << 20); 2];
    place
        .score(&server, "no-list", &["--limit", "6"])
        .failure()
        .stderr(contains("the answer is larger than 1048576 bytes"));
}

#[test]
fn the_whole_answer_must_come_in_time() {
    let place = Place::new();
    let server = ModelServer::start(Kind::Echo);
    *server.mishaps.lock().unwrap() = vec![Mishap::Drip];
    let started = Instant::now();
    place
        .score(&server, "late", &["--timeout", "1", "--retries", "0"])
        .failure()
        .stderr(contains("no whole answer within 1 s (--timeout)"));
    assert!(started.elapsed() < Duration::from_secs(30));
    assert_eq!(server.requests.load(Ordering::SeqCst), 1);
}

#[test]
fn a_key_that_a_server_repeats_is_not_shown() {
    let place = Place::new();
    let server = ModelServer::start(Kind::Echo);
    *server.mishaps.lock().unwrap() = vec![Mishap::RepeatedKey];
    let mut command = quantkit();
    command.env("OPENAI_API_KEY", "sk-very-secret");
    command.args(["mmlu-eval", "--endpoint", &server.address, "--shots", "0", "--set"]);
    command.arg(place.path("test.parquet")).arg("--output").arg(place.path("denied"));
    command
        .assert()
        .failure()
        .stderr(contains("no such key: Bearer [key]").and(contains("sk-very-secret").not()))
        .stdout(contains("sk-very-secret").not());
}
