//! Writes a model's logits for given tokens: what `scripts/check_logits.py` compares. That script
//! runs this program itself; alone, it shows how to use the engine as a library.
//!
//! ```text
//! python -c 'import numpy; numpy.array([1, 2, 3], "<u4").tofile("tokens.u32")'
//! cargo run --release --example logits -- model.gguf tokens.u32 logits.f32
//! python -c 'import numpy; print(numpy.fromfile("logits.f32", "<f4").reshape(3, -1))'
//! ```
//! A fourth argument, `cpu` or `cuda`, says where the model runs, and a fifth how many tokens a step
//! takes; without it, one step takes all. Both files are bare little-endian arrays; the logits are
//! `tokens × vocabulary`.

use std::num::NonZeroUsize;
use std::path::Path;

use anyhow::{Context, Result, bail};
use quantkit::engine::{DeviceChoice, Engine, EngineOptions, LogitsFor, StepItem};

const USAGE: &str = "usage: logits MODEL.gguf TOKENS.u32 LOGITS.f32 [cpu|cuda [TOKENS_A_STEP]]";

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, input, output, rest @ ..] = &arguments[..] else { bail!(USAGE) };
    let (device, tokens_a_step) = match rest {
        [] => (DeviceChoice::Cpu, None),
        [device] => (parse_device(device)?, None),
        [device, tokens] => (parse_device(device)?, Some(tokens.parse::<NonZeroUsize>()?.get())),
        _ => bail!(USAGE),
    };
    let bytes = std::fs::read(input).context(input.clone())?;
    let tokens: Vec<u32> =
        bytes.as_chunks().0.iter().map(|four| u32::from_le_bytes(*four)).collect();
    let mut engine =
        Engine::load(Path::new(model), EngineOptions { device, ..EngineOptions::default() })?;
    let sequence = engine.start(tokens.len());
    let mut bytes = Vec::new();
    for tokens in tokens.chunks(tokens_a_step.unwrap_or(tokens.len().max(1))) {
        let logits = engine.step(&[StepItem { sequence, tokens, logits: LogitsFor::All }])?;
        bytes.extend(logits.values().iter().flat_map(|value| value.to_le_bytes()));
    }
    std::fs::write(output, bytes).context(output.clone())
}

fn parse_device(name: &str) -> Result<DeviceChoice> {
    match name {
        "cpu" => Ok(DeviceChoice::Cpu),
        "cuda" => Ok(DeviceChoice::Cuda(0)),
        _ => bail!(USAGE),
    }
}
