//! Shared plumbing that every room uses: one progress style, one table printer, one way to write a
//! file, one way to stop.

pub mod atomic_directory;
pub mod atomic_file;
pub mod bus_error;
pub mod calendar;
pub mod contain;
pub mod directory;
pub mod download;
pub mod finished;
pub mod hash;
pub mod http;
pub mod input_file;
pub mod interrupt;
pub mod lfs_pointer;
pub mod machine;
pub mod mapped;
pub mod open_files;
pub mod parquet_file;
pub mod partial;
pub mod path_text;
pub mod printable;
pub mod processor;
pub mod progress;
pub mod redact;
pub mod regular_file;
pub mod retry;
pub mod reuse;
pub mod same_file;
pub mod sealed_line;
pub mod table;
pub mod team;
pub mod turns;
pub mod units;
