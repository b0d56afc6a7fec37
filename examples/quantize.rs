//! Quantizes a GGUF file: `cargo run --release --example quantize -- model.f16.gguf model.Q4_K_M.gguf`.

use std::path::Path;

use anyhow::{Context, Result, bail};
use quantkit::gguf::GgufFile;
use quantkit::quant::pipeline::{Request, quantize_source};
use quantkit::quant::recipe::Recipe;
use quantkit::quant::selection::{Changes, Selection};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [input, output] = &arguments[..] else { bail!("usage: quantize IN.gguf OUT.gguf") };
    let recipe = Recipe::from_name("Q4_K_M").context("the recipe exists")?;
    let selection = Selection::Recipe(recipe, Changes::default());
    let source = GgufFile::open(Path::new(input))?;
    let report = quantize_source(&source, &Request::new(Path::new(output), &selection))?;
    println!("{} bytes of tensors became {}", report.old_bytes, report.new_bytes);
    Ok(())
}
