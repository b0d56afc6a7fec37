//! `quantkit demo`.

use std::fs;
use std::path::Path;

use crate::support::{TinyModel, quantkit};

/// Runs the demo on a model of our own, and returns what it prints.
fn demo(directory: &Path, model: &Path) -> String {
    let mut command = assert_cmd::Command::new(env!("CARGO_BIN_EXE_quantkit"));
    let assert = command
        .current_dir(directory)
        .args(["--threads", "2", "demo", "--model"])
        .arg(model)
        .assert()
        .success();
    String::from_utf8(assert.get_output().stdout.clone()).unwrap()
}

#[test]
fn the_whole_job_ends_with_the_report_s_path_and_resumes() {
    let directory = tempfile::tempdir().unwrap();
    let model = directory.path().join("tiny.gguf");
    TinyModel { hidden: 256, ..TinyModel::default() }.write(&model);

    let first = demo(directory.path(), &model);
    assert_eq!(first.lines().last(), Some("outputs/demo/report.html"));
    assert!(!first.contains("reused"), "{first}");
    let page = fs::read_to_string(directory.path().join("outputs/demo/report.html")).unwrap();
    for part in ["tiny.F16", "tiny.Q4_0", "tiny.Q4_K_M", "was made from"] {
        assert!(page.contains(part), "{part} is not in the report");
    }

    // export, convert, two quantizations, three evaluations and three benchmarks
    let second = demo(directory.path(), &model);
    assert_eq!(second.matches("reused").count(), 10, "{second}");

    // A damaged file is made again; what came of it is the same as before, and stays.
    let products = directory.path().join("models/demo");
    fs::write(products.join("tiny.Q4_0.gguf"), b"damaged").unwrap();
    let third = demo(directory.path(), &model);
    assert_eq!(third.matches("reused").count(), 9, "{third}");
}

#[test]
fn what_a_killed_demo_left_is_replaced_and_files_of_the_user_s_own_stay() {
    let directory = tempfile::tempdir().unwrap();
    let model = directory.path().join("tiny.gguf");
    TinyModel { hidden: 256, ..TinyModel::default() }.write(&model);
    let models = directory.path().join("models");
    for unfinished in [models.join("demo/tiny-f16"), models.join("tiny-f16")] {
        fs::create_dir_all(&unfinished).unwrap();
        fs::write(unfinished.join("config.json"), b"{").unwrap();
    }
    let own = ["tiny-f16/config.json", "tiny.F16.gguf", "tiny.Q4_0.gguf"];
    for name in own {
        fs::write(models.join(name), b"my own").unwrap();
    }

    demo(directory.path(), &model);
    assert!(models.join("demo/tiny-f16/model.safetensors").is_file());
    for name in own {
        assert_eq!(fs::read(models.join(name)).unwrap(), b"my own", "{name}");
    }
}

#[test]
fn a_missing_model_is_named() {
    quantkit()
        .args(["demo", "--model", "no/such.gguf"])
        .assert()
        .failure()
        .stderr(predicates::str::contains("no/such.gguf"));
}
