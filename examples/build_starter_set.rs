//! Builds the Parquet files of `eval-sets/starter` from `questions.jsonl` beside them:
//! `cargo run --release --example build_starter_set`.

use std::path::Path;

use anyhow::Result;
use quantkit::eval::questions::starter_set::read_source;
use quantkit::eval::questions::write_questions;

fn main() -> Result<()> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("eval-sets/starter");
    let set = read_source(&directory.join("questions.jsonl"))?;
    for (name, questions) in [("test.parquet", &set.test), ("dev.parquet", &set.dev)] {
        let path = directory.join(name);
        write_questions(&path, questions)?;
        println!("{}: {} questions", path.display(), questions.len());
    }
    Ok(())
}
