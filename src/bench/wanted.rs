//! Whether an earlier benchmark is the one that is asked for.

use super::record::{BenchSummary, SCHEMA_VERSION, Workload};
use crate::support::finished::first_difference;
use crate::support::machine::Machine;

/// What a benchmark must have been made with to be taken for a new one.
#[derive(Debug, Clone, Copy)]
pub struct WantedBench<'a> {
    /// SHA-256 of the model file.
    pub model_sha256: &'a str,
    /// The load.
    pub workload: &'a Workload,
    /// Where the model runs.
    pub device: &'a str,
    /// Elements of the key-value cache.
    pub kv_type: &'a str,
    /// Bits of the activations in products with quantized weights.
    pub activations: u8,
    /// Threads that compute.
    pub threads: usize,
    /// What it runs on.
    pub machine: &'a Machine,
}

impl WantedBench<'_> {
    /// The first thing that differs from what is wanted.
    pub fn mismatch(&self, found: &BenchSummary) -> Option<&'static str> {
        let same_hardware = found.machine.cpu == self.machine.cpu
            && found.machine.logical_cores == self.machine.logical_cores;
        first_difference(&[
            (found.schema_version == SCHEMA_VERSION, "the record's version"),
            (found.build.is_current(), "the build of quantkit"),
            (found.complete, "some levels are missing"),
            (found.model_sha256 == self.model_sha256, "the model file"),
            (found.workload == *self.workload, "the workload"),
            (found.device == self.device, "the device"),
            (found.kv_type == self.kv_type, "the key-value cache"),
            (found.activations == self.activations, "the activations' bits"),
            (found.threads == self.threads, "the number of threads"),
            (same_hardware, "the machine"),
        ])
    }
}
