//! Shared plumbing that every room uses: one progress style, one table printer, one way to write a
//! file, one way to stop.

pub mod atomic_file;
pub mod calendar;
pub mod contain;
pub mod download;
pub mod hash;
pub mod http;
pub mod interrupt;
pub mod machine;
pub mod mapped;
pub mod parquet_file;
pub mod processor;
pub mod progress;
pub mod regular_file;
pub mod retry;
pub mod reuse;
pub mod same_file;
pub mod table;
pub mod team;
pub mod units;
