//! Writes a model's logits for given tokens: what `scripts/check_logits.py` compares. That script
//! runs this program itself; alone, it shows how to use the engine as a library.
//!
//! ```text
//! python -c 'import numpy; numpy.array([1, 2, 3], "<u4").tofile("tokens.u32")'
//! cargo run --release --example logits -- model.gguf tokens.u32 logits.f32
//! python -c 'import numpy; print(numpy.fromfile("logits.f32", "<f4").reshape(3, -1))'
//! ```
//! A fourth argument, `cpu` or `cuda`, says where the model runs. Both files are bare little-endian
//! arrays; the logits are `tokens × vocabulary`.

use std::path::Path;

use anyhow::{Context, Result, bail};
use quantkit::engine::{DeviceChoice, Engine, EngineOptions, LogitsFor, StepItem};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (model, input, output, device) = match &arguments[..] {
        [model, input, output] => (model, input, output, DeviceChoice::Cpu),
        [model, input, output, device] if device == "cpu" => {
            (model, input, output, DeviceChoice::Cpu)
        }
        [model, input, output, device] if device == "cuda" => {
            (model, input, output, DeviceChoice::Cuda(0))
        }
        _ => bail!("usage: logits MODEL.gguf TOKENS.u32 LOGITS.f32 [cpu|cuda]"),
    };
    let bytes = std::fs::read(input).context(input.clone())?;
    let tokens: Vec<u32> =
        bytes.as_chunks().0.iter().map(|four| u32::from_le_bytes(*four)).collect();
    let mut engine = Engine::load(Path::new(model), EngineOptions { device, kv_type: None })?;
    let sequence = engine.start(tokens.len());
    let items = [StepItem { sequence, tokens: &tokens, logits: LogitsFor::All }];
    let logits = engine.step(&items)?;
    let bytes: Vec<u8> = logits.values().iter().flat_map(|value| value.to_le_bytes()).collect();
    std::fs::write(output, bytes).context(output.clone())
}
