//! How fast decode products read packed weights: for each format a matrix far beyond the last-level
//! cache, one row of activations or a few, on one thread and more, beside what the machine reads at
//! that moment; and a matrix within the second-level cache, where instructions are what bounds it.
//!
//! ```text
//! cargo run --release --example decode_products -- [FORMAT…] [--tokens N] [--columns N]
//! ```
//! `QUANTKIT_ISA` picks the kernels.

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;
use memmap2::MmapMut;
use quantkit::gguf::GgmlType;
use quantkit::kernels::elementwise::Rows;
use quantkit::kernels::matmul::{PackedMatrix, Source, Target, Workspace, multiply_many};
use quantkit::kernels::peak;
use quantkit::quant::formats::{known, quantize_row};
use quantkit::support::processor::{InstructionSet, Level};
use quantkit::support::team::Team;

/// Measure products of one or few rows of activations with packed weights
#[derive(Debug, Parser)]
struct Arguments {
    /// Formats, by ggml's names; all where absent
    #[arg(value_name = "FORMAT")]
    formats: Vec<String>,
    /// Rows of activations
    #[arg(long, default_value_t = 1)]
    tokens: usize,
    /// Columns of the matrix
    #[arg(long, default_value_t = 2048)]
    columns: usize,
    /// Size of the large matrix
    #[arg(long, default_value_t = 256)]
    mebibytes: usize,
    /// Times each thing is measured; the best counts
    #[arg(long, default_value_t = 5)]
    repeat: usize,
}

/// Packed bytes of the matrix that stays in the cache.
const CACHED_BYTES: usize = 256 << 10;

/// How long one measurement of it lasts.
const CACHED_TIME: Duration = Duration::from_millis(30);

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let formats: Vec<GgmlType> = known()
        .filter(|ggml_type| {
            arguments.formats.is_empty()
                || arguments.formats.iter().any(|name| *name == ggml_type.to_string())
        })
        .collect();
    let cores = rayon::current_num_threads();
    let teams: Vec<Team> =
        if cores > 1 { vec![1, cores] } else { vec![1] }.into_iter().map(Team::new).collect();
    println!(
        "{}, {} tokens, {} columns; GB/s of {} MiB and share of reads",
        Level::current().name(),
        arguments.tokens,
        arguments.columns,
        arguments.mebibytes
    );
    println!("format   in cache GB/s  weights/ns   threads: GB/s of reads …");
    for ggml_type in formats {
        let Ok(small) = matrix(&arguments, ggml_type, CACHED_BYTES) else { continue };
        let large = matrix(&arguments, ggml_type, arguments.mebibytes << 20)?;
        let mut product = Product::new(&arguments);
        let cached = product.cached_rate(&teams[0], &small, arguments.repeat);
        let weights = (small.rows() * small.columns()) as f64 / small.packed_bytes() as f64;
        print!(
            "{:8} {:12.1} {:11.1}  ",
            ggml_type.to_string(),
            cached / 1e9,
            cached * weights / 1e9
        );
        for team in &teams {
            let (mut best, mut limit) = (0.0f64, 0.0f64);
            for _ in 0..arguments.repeat {
                best = best.max(product.rate(team, &large));
                limit = limit.max(read_rate(team, &large)?);
            }
            print!(
                "   {}: {:5.1} of {:5.1} {:3.0} %",
                team.threads(),
                best / 1e9,
                limit / 1e9,
                100.0 * best / limit
            );
        }
        println!();
    }
    Ok(())
}

/// A matrix of about so many bytes.
fn matrix(arguments: &Arguments, ggml_type: GgmlType, bytes: usize) -> Result<PackedMatrix> {
    let columns = arguments.columns;
    let row_bytes = ggml_type.row_bytes(columns).context("the columns are not whole blocks")?;
    let rows = (bytes / row_bytes).next_multiple_of(64);
    let mut row = vec![0; row_bytes];
    quantize_row(ggml_type, &values(columns), &mut row)?;
    Ok(PackedMatrix::pack(ggml_type, rows, columns, &row.repeat(rows))?)
}

fn values(count: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 2_654_435_761) % 20_011) as f32 / 10_000.0 - 1.0).collect()
}

/// Inputs, and room for results.
struct Product {
    tokens: usize,
    columns: usize,
    inputs: Vec<f32>,
    outputs: Vec<f32>,
    workspace: Workspace,
}

impl Product {
    fn new(arguments: &Arguments) -> Self {
        let Arguments { tokens, columns, .. } = *arguments;
        let inputs = values(tokens * columns);
        Self { tokens, columns, inputs, outputs: Vec::new(), workspace: Workspace::default() }
    }

    fn run(&mut self, team: &Team, matrix: &PackedMatrix) {
        self.outputs.resize(self.tokens * matrix.rows(), 0.0);
        let rows = Rows::new(black_box(&self.inputs), self.tokens, self.columns, self.columns);
        let targets = &mut [Target::new(&mut self.outputs)];
        multiply_many(team, &[matrix], &Source::Rows(rows), targets, &mut self.workspace);
    }

    /// Packed bytes a second.
    fn rate(&mut self, team: &Team, matrix: &PackedMatrix) -> f64 {
        self.run(team, matrix);
        let started = Instant::now();
        self.run(team, matrix);
        matrix.packed_bytes() as f64 / started.elapsed().as_secs_f64()
    }

    /// The same of a matrix that is in the cache.
    fn cached_rate(&mut self, team: &Team, matrix: &PackedMatrix, repeat: usize) -> f64 {
        let mut best = 0.0f64;
        for _ in 0..repeat {
            let (started, mut runs) = (Instant::now(), 0);
            while started.elapsed() < CACHED_TIME {
                self.run(team, matrix);
                runs += 1;
            }
            let bytes = runs * matrix.packed_bytes();
            best = best.max(bytes as f64 / started.elapsed().as_secs_f64());
        }
        best
    }
}

/// How fast a team reads as many bytes as the matrix has, a part a thread.
fn read_rate(team: &Team, matrix: &PackedMatrix) -> Result<f64> {
    let mut buffer = MmapMut::map_anon(matrix.packed_bytes())?;
    // Where there are no huge pages, weights have none either.
    #[cfg(target_os = "linux")]
    let _ = buffer.advise(memmap2::Advice::HugePage);
    buffer.fill(1);
    let set = InstructionSet::current();
    let parts = team.threads() * 4;
    let part = buffer.len() / parts;
    let read = || {
        team.run(parts, |task| _ = black_box(peak::read(set, &buffer[task * part..][..part])));
    };
    read();
    let started = Instant::now();
    read();
    Ok((parts * part) as f64 / started.elapsed().as_secs_f64())
}
