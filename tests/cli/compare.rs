//! `quantkit compare`.

use std::path::{Path, PathBuf};

use predicates::prelude::*;
use serde_json::Value;

use crate::support::{TinyModel, quantkit};

fn starter_set() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("eval-sets/starter")
}

fn quantize(from: &Path, to: &Path, kind: &str) {
    quantkit().arg("quantize").args([from, to]).args(["--type", kind]).assert().success();
}

/// Compares with small settings and returns `compare.json` as printed.
fn compare(models: &[&Path], output: &Path, options: &[&str]) -> Value {
    let assert = quantkit()
        .arg("compare")
        .args(models)
        .arg("--baseline")
        .arg(models[0])
        .arg("--set")
        .arg(starter_set())
        .arg("--output")
        .arg(output)
        .args(["--json", "--protocol", "cloze", "--every", "10", "--concurrency", "1,2"])
        .args(["--input-tokens", "24", "--output-tokens", "4"])
        .args(options)
        .assert()
        .success();
    serde_json::from_slice(&assert.get_output().stdout).expect("one JSON document")
}

/// Which variants' evaluations and benchmarks were reused.
fn reused(comparison: &Value) -> Vec<(bool, bool)> {
    let variants = comparison["variants"].as_array().unwrap();
    let reused = |variant: &Value| {
        let flag = |value: &Value| value.as_bool().unwrap();
        (flag(&variant["evaluation_reused"]), flag(&variant["speed"]["reused"]))
    };
    variants.iter().map(reused).collect()
}

#[test]
fn a_report_shows_every_variant_and_is_made_again_only_where_something_changed() {
    let directory = tempfile::tempdir().unwrap();
    let place = |name: &str| directory.path().join(name);
    let (f16, q8, q4) = (place("tiny.F16.gguf"), place("tiny.Q8_0.gguf"), place("tiny.Q4_0.gguf"));
    TinyModel::default().write(&f16);
    quantize(&f16, &q8, "Q8_0");
    quantize(&f16, &q4, "Q4_0");
    let output = place("run");
    let models = [f16.as_path(), q8.as_path(), q4.as_path()];

    let first = compare(&models, &output, &[]);
    assert_eq!(reused(&first), [(false, false); 3]);
    assert_eq!(first["title"], "tiny");
    assert_eq!(first["baseline"], "tiny.F16");
    let variants = first["variants"].as_array().unwrap();
    for variant in variants {
        assert_eq!(variant["evaluation"]["overall"]["questions"], 12);
        assert_eq!(variant["speed"]["levels"].as_array().unwrap().len(), 2);
    }
    assert!(variants[0]["paired"].is_null() && !variants[2]["paired"].is_null());
    let paired = &variants[2]["paired"];
    let number = |name: &str| paired[name].as_f64().unwrap();
    let changed = ["right_to_wrong", "wrong_to_right", "wrong_to_other_wrong"].map(number);
    assert!((number("agreement") - (1.0 - changed.iter().sum::<f64>() / 12.0)).abs() < 1e-12);
    assert!(number("choice_divergence") > 0.0 && number("answer_probability_change") > 0.0);
    assert!(variants[0]["reliability"]["expected_calibration_error"].is_number());
    assert!(
        variants[2]["size"]["bits_per_weight"].as_f64().unwrap()
            < variants[1]["size"]["bits_per_weight"].as_f64().unwrap()
    );

    let page = std::fs::read_to_string(output.join("report.html")).unwrap();
    for label in ["tiny.F16", "tiny.Q8_0", "tiny.Q4_0"] {
        assert!(page.contains(label), "{label} is not in the report");
    }
    assert!(!page.contains("http") && !page.contains("src="), "the report stands alone");
    let changed = variants[1..]
        .iter()
        .map(|variant| (1.0 - variant["paired"]["agreement"].as_f64().unwrap()) * 12.0)
        .sum::<f64>();
    // Every changed answer is listed with its question.
    assert_eq!(page.matches("<td class=\"asked\"><p>").count(), changed.round() as usize);
    assert!(changed > 0.5, "four bits change some answers of a model that guesses");
    for file in ["report.md", "compare.json", "questions.parquet", "tiny.Q4_0/bench.json"] {
        assert!(output.join(file).is_file(), "{file} is missing");
    }

    assert_eq!(reused(&compare(&models, &output, &[])), [(true, true); 3]);
    // Activations of other bits are another measurement, and one that tells itself apart.
    let sixteen = compare(&models, &output, &["--activations", "16"]);
    assert_eq!(reused(&sixteen), [(false, false); 3]);
    assert_eq!((&first["activations"], &sixteen["activations"]), (&8.into(), &16.into()));
    assert_eq!(reused(&compare(&models, &output, &[])), [(false, false); 3]);
    // Another load: the answers stay.
    let longer = ["--repeats", "2"];
    assert_eq!(reused(&compare(&models, &output, &longer)), [(true, false); 3]);
    // Another file under the same name.
    quantize(&f16, &q4, "Q4_K_M");
    let expected = [(true, true), (true, true), (false, false)];
    assert_eq!(reused(&compare(&models, &output, &longer)), expected);
    // Everything anew.
    assert_eq!(reused(&compare(&models, &output, &["--fresh"])), [(false, false); 3]);
}

/// A text of some two thousand tokens of the tiny vocabulary.
fn write_text(path: &Path, lines: usize) {
    let text: String = (0..lines).map(|n| format!("the {} on a tin\n", n * n % 97)).collect();
    std::fs::write(path, text).unwrap();
}

#[test]
fn a_text_shows_perplexity_and_divergence_beside_accuracy() {
    let directory = tempfile::tempdir().unwrap();
    let place = |name: &str| directory.path().join(name);
    let (f16, q8, q4) = (place("tiny.F16.gguf"), place("tiny.Q8_0.gguf"), place("tiny.Q4_0.gguf"));
    TinyModel::default().write(&f16);
    quantize(&f16, &q8, "Q8_0");
    quantize(&f16, &q4, "Q4_0");
    let text = place("text.txt");
    write_text(&text, 200);
    let output = place("run");
    let text_flag = text.to_str().unwrap().to_string();
    let flags = |chunks: &'static str| {
        let flags = ["--no-bench", "--text", &text_flag, "--text-context", "64"];
        flags.map(str::to_string).into_iter().chain(["--text-chunks".into(), chunks.into()])
    };
    let run = |models: &[&Path], chunks: &'static str| {
        let flags: Vec<String> = flags(chunks).collect();
        compare(models, &output, &flags.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let reused = |comparison: &Value| -> Vec<Option<bool>> {
        let variants = comparison["variants"].as_array().unwrap().iter();
        variants.map(|variant| variant["text"]["reused"].as_bool()).collect()
    };

    let first = run(&[&f16, &q4], "3");
    assert_eq!(reused(&first), [None, Some(false)]);
    assert_eq!((&first["text"]["chunks"], &first["text"]["context"]), (&3.into(), &64.into()));
    assert!(!output.join("divergence.journal.jsonl").exists(), "it is of no more use");
    // The figures are those of `divergence`.
    let mut divergence = quantkit();
    divergence.arg("divergence").args([&f16, &q4]).arg("--text").arg(&text);
    divergence.args(["--json", "--context", "64", "--chunks", "3"]);
    let divergence = divergence.assert().success();
    let divergence: Value = serde_json::from_slice(&divergence.get_output().stdout).unwrap();
    let found = &first["variants"][1]["text"]["divergence"];
    for figure in ["positions", "kl", "kl_p99", "same_top", "perplexity", "base_perplexity"] {
        assert_eq!(found[figure], divergence["variants"][0][figure], "{figure}");
    }
    assert!(found["kl"]["mean"].as_f64().unwrap() > 0.0);
    let sentence = first["headline"][0].as_str().unwrap();
    assert!(sentence.contains(" On text.txt its perplexity is "), "{sentence}");
    for page in ["report.html", "report.md"] {
        let page = std::fs::read_to_string(output.join(page)).unwrap();
        assert!(page.contains("Perplexity and divergence on a text"));
        assert!(page.contains("3 windows of 64 tokens, 93 positions"));
        assert!(page.contains(&format!("{:.4}", found["perplexity"].as_f64().unwrap())));
    }

    // Another variant costs its own reading only; another text or number of windows, all.
    let second = run(&[&f16, &q8, &q4], "3");
    assert_eq!(reused(&second), [None, Some(false), Some(true)]);
    assert_eq!(second["variants"][2]["text"]["divergence"]["kl"], found["kl"]);
    assert_eq!(reused(&run(&[&f16, &q8, &q4], "3")), [None, Some(true), Some(true)]);
    assert_eq!(reused(&run(&[&f16, &q8, &q4], "2")), [None, Some(false), Some(false)]);
    write_text(&text, 199);
    assert_eq!(reused(&run(&[&f16, &q8, &q4], "2")), [None, Some(false), Some(false)]);
    // Damage is made good.
    std::fs::write(output.join("tiny.Q4_0/divergence.json"), "{").unwrap();
    assert_eq!(reused(&run(&[&f16, &q8, &q4], "2")), [None, Some(true), Some(false)]);

    // Without the flag, nothing of it is in the report, though the files are there.
    let without = compare(&[&f16, &q4], &output, &["--no-bench"]);
    assert!(without["text"].is_null() && without["variants"][1]["text"].is_null());
    assert!(!std::fs::read_to_string(output.join("report.md")).unwrap().contains("Perplexity"));

    let mut print = quantkit();
    print.arg("compare").args([&f16, &q4]).arg("--baseline").arg(&f16);
    print.arg("--set").arg(starter_set()).arg("--output").arg(&output);
    print.args(["--protocol", "cloze", "--every", "10"]).args(flags("2"));
    print
        .assert()
        .success()
        .stdout(predicate::str::contains("Perplexity and KL divergence on a text:"))
        .stdout(predicate::str::contains("Same top token"))
        .stdout(predicate::str::contains("Wrong → other wrong"));
}

#[test]
fn a_text_that_cannot_be_read_is_found_out_first() {
    let directory = tempfile::tempdir().unwrap();
    let place = |name: &str| directory.path().join(name);
    let (f16, other) = (place("tiny.F16.gguf"), place("tiny.Q8_0.gguf"));
    TinyModel::default().write(&f16);
    quantize(&f16, &other, "Q8_0");
    write_text(&place("good.txt"), 200);
    write_text(&place("short.txt"), 1);
    std::fs::write(place("bytes.txt"), [0xff; 4000]).unwrap();
    let output = place("run");
    let run = |models: &[&Path], arguments: &[&str]| {
        let mut command = quantkit();
        command.arg("compare").args(models).arg("--baseline").arg(&f16);
        command.arg("--set").arg(starter_set()).arg("--output").arg(&output);
        command.current_dir(directory.path()).args(["--no-bench", "--every", "60"]);
        command.args(arguments).assert().failure()
    };
    let both = [f16.as_path(), other.as_path()];
    let cases: [(&[&Path], &[&str], &str); 6] = [
        (&both, &["--text", "absent.txt"], "absent.txt"),
        (&both, &["--text", "short.txt"], "short.txt: the text is too short"),
        (&both, &["--text", "bytes.txt"], "bytes.txt: expected text in UTF-8"),
        (&both, &["--text", "good.txt", "--text-context", "1024"], "lower --text-context"),
        (&both, &["--text-chunks", "3"], "--text"),
        (&both[..1], &["--text", "good.txt"], "give another model beside it"),
    ];
    for (models, arguments, message) in cases {
        run(models, arguments).stderr(predicate::str::contains(message));
        assert!(!output.exists(), "{message}");
    }
}

#[test]
fn models_of_the_same_stem_do_not_share_a_directory() {
    let directory = tempfile::tempdir().unwrap();
    let models = ["a", "b"].map(|parent| directory.path().join(parent).join("m.gguf"));
    for (seed, model) in (1..).zip(&models) {
        TinyModel { seed, ..TinyModel::default() }.write(model);
    }
    let output = directory.path().join("run");
    let comparison = compare(&[&models[0], &models[1]], &output, &["--no-bench"]);
    let field = |index: usize, name: &str| comparison["variants"][index][name].clone();
    assert_eq!((field(0, "label"), field(1, "label")), ("a/m".into(), "b/m".into()));
    assert_ne!(field(0, "directory"), field(1, "directory"));
    for index in 0..2 {
        let directory = field(index, "directory");
        assert!(output.join(directory.as_str().unwrap()).join("summary.json").is_file());
        assert!(field(index, "speed").is_null());
    }
    assert!(!std::fs::read_to_string(output.join("report.md")).unwrap().contains("## Speed"));
}

#[test]
fn a_file_that_is_no_model_is_refused_before_anything_is_measured() {
    let directory = tempfile::tempdir().unwrap();
    let good = directory.path().join("tiny.gguf");
    TinyModel::default().write(&good);
    let bad = directory.path().join("bad.gguf");
    std::fs::write(&bad, b"not a model").unwrap();
    let output = directory.path().join("run");
    let run = |models: [&Path; 2]| {
        let mut command = quantkit();
        command.arg("compare").args(models).arg("--baseline").arg(&good);
        command.arg("--set").arg(starter_set()).arg("--output").arg(&output);
        command.assert().failure()
    };
    run([&good, &bad]).stderr(predicate::str::contains("bad.gguf"));
    run([&good, &good]).stderr(predicate::str::contains("given twice"));
    assert!(!output.exists(), "nothing is written");
}
