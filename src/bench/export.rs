//! The files of a benchmark: `bench.json` holds everything but the tokens' times, `levels.csv` and
//! `requests.csv` are flat tables of it, `requests.parquet` has the tokens' times too.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float32Builder, Float64Array, ListBuilder, RecordBatch, UInt64Array};

use super::BenchError;
use super::record::{BenchSummary, Distribution, LevelSummary, RequestRecord, Spread};
use crate::support::atomic_file::{self, write_atomically};
use crate::support::parquet_file::write_parquet;

/// Finds out before anything is measured whether results can be written.
pub(super) fn check_writable(directory: &Path) -> Result<(), BenchError> {
    let path = directory.join("bench.json");
    atomic_file::check_writable(&path).map_err(|error| BenchError::io(&path, error))
}

/// Writes all files of the benchmark as it stands.
pub(super) fn write(summary: &BenchSummary, directory: &Path) -> Result<(), BenchError> {
    let put = |name: &str, bytes: &[u8]| {
        let path = directory.join(name);
        write_atomically(&path, bytes).map_err(|error| BenchError::io(&path, error))
    };
    put("levels.csv", csv(summary.levels.iter().map(level_row)).as_bytes())?;
    put("requests.csv", csv(summary.requests.iter().map(request_row)).as_bytes())?;
    write_requests(&summary.requests, &directory.join("requests.parquet"))?;
    let json = serde_json::to_vec_pretty(summary)
        .map_err(|error| BenchError::io(&directory.join("bench.json"), error.into()))?;
    put("bench.json", &json)
}

/// A cell of a flat table.
#[derive(Debug, Clone, Copy)]
enum Cell {
    Count(u64),
    Number(Option<f64>),
}

/// Column names with their cells.
type Row = Vec<(String, Cell)>;

/// Rows that all have the same columns, as CSV with a header.
fn csv(rows: impl Iterator<Item = Row>) -> String {
    let mut text = String::new();
    for row in rows {
        if text.is_empty() {
            let names: Vec<&str> = row.iter().map(|(name, _)| name.as_str()).collect();
            text += &names.join(",");
            text.push('\n');
        }
        let cells: Vec<String> = row
            .iter()
            .map(|(_, cell)| match cell {
                Cell::Count(count) => count.to_string(),
                Cell::Number(number) => number.map_or(String::new(), |n| format!("{n:.6}")),
            })
            .collect();
        text += &cells.join(",");
        text.push('\n');
    }
    text
}

fn count(name: &str, count: usize) -> (String, Cell) {
    (name.to_string(), Cell::Count(count as u64))
}

fn number(name: &str, number: impl Into<Option<f64>>) -> (String, Cell) {
    (name.to_string(), Cell::Number(number.into()))
}

/// A figure's name and how to get it.
type Figure<T> = (&'static str, fn(&T) -> f64);

const DISTRIBUTION: [Figure<Distribution>; 7] = [
    ("mean", |d| d.mean),
    ("min", |d| d.min),
    ("p50", |d| d.p50),
    ("p90", |d| d.p90),
    ("p95", |d| d.p95),
    ("p99", |d| d.p99),
    ("max", |d| d.max),
];
const SPREAD: [Figure<Spread>; 3] =
    [("min", |s| s.min), ("median", |s| s.median), ("max", |s| s.max)];

fn distribution(name: &str, of: Option<Distribution>) -> Row {
    figures(name, of.as_ref(), &DISTRIBUTION)
}

fn spread(name: &str, of: Option<Spread>) -> Row {
    figures(name, of.as_ref(), &SPREAD)
}

fn figures<T>(name: &str, of: Option<&T>, figures: &[Figure<T>]) -> Row {
    figures.iter().map(|(figure, get)| number(&format!("{name}_{figure}"), of.map(get))).collect()
}

fn level_row(level: &LevelSummary) -> Row {
    let mut row = vec![
        count("concurrency", level.concurrency),
        count("requests", level.requests),
        count("repeats", level.repeats.len()),
    ];
    row.extend(distribution("ttft_ms", Some(level.ttft_ms)));
    row.extend(distribution("tpot_ms", level.tpot_ms));
    row.extend(distribution("inter_token_ms", level.inter_token_ms));
    row.extend(distribution("end_to_end_ms", Some(level.end_to_end_ms)));
    row.extend(spread("prefill_tokens_per_second", Some(level.prefill_tokens_per_second)));
    row.extend(spread("decode_tokens_per_second", level.decode_tokens_per_second));
    row.extend(spread("full_decode_tokens_per_second", level.full_decode_tokens_per_second));
    row.extend(spread("output_tokens_per_second", Some(level.output_tokens_per_second)));
    row.extend(spread("requests_per_second", Some(level.requests_per_second)));
    row.push(number("peak_memory_bytes", level.peak_memory.map(|peak| peak.bytes as f64)));
    row
}

fn request_row(record: &RequestRecord) -> Row {
    let mut row = vec![
        count("concurrency", record.concurrency),
        count("repeat", record.repeat),
        count("request", record.request),
        count("input_tokens", record.input_tokens),
        count("output_tokens", record.output_tokens),
        number("submitted_ms", record.submitted_ms),
        number("ttft_ms", record.ttft_ms),
        number("tpot_ms", record.tpot_ms),
    ];
    row.extend(distribution("inter_token_ms", record.inter_token_ms));
    row.extend([
        number("end_to_end_ms", record.end_to_end_ms),
        number("prefill_tokens_per_second", record.prefill_tokens_per_second),
        number("decode_tokens_per_second", record.decode_tokens_per_second),
    ]);
    row
}

fn write_requests(records: &[RequestRecord], path: &Path) -> Result<(), BenchError> {
    let rows: Vec<Row> = records.iter().map(request_row).collect();
    let Some(first) = rows.first() else { return Ok(()) };
    let mut columns: Vec<(String, ArrayRef)> = Vec::new();
    for (index, (name, cell)) in first.iter().enumerate() {
        let array: ArrayRef = match cell {
            Cell::Count(_) => {
                Arc::new(UInt64Array::from_iter(rows.iter().map(|row| match row[index].1 {
                    Cell::Count(count) => Some(count),
                    Cell::Number(_) => None,
                })))
            }
            Cell::Number(_) => {
                Arc::new(Float64Array::from_iter(rows.iter().map(|row| match row[index].1 {
                    Cell::Count(_) => None,
                    Cell::Number(number) => number,
                })))
            }
        };
        columns.push((name.clone(), array));
    }
    let mut times = ListBuilder::new(Float32Builder::new());
    for record in records {
        times.values().append_slice(&record.token_ms);
        times.append(true);
    }
    columns.push(("token_ms".to_string(), Arc::new(times.finish())));
    RecordBatch::try_from_iter(columns)
        .map_err(std::io::Error::other)
        .and_then(|batch| write_parquet(path, &batch))
        .map_err(|error| BenchError::io(path, error))
}
