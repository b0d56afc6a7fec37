//! What a model file holds, and how two of them differ, whichever container they use.

mod container;
mod diff;
mod shown;
mod summary;

pub use container::{Container, ContainerTensor, InspectError};
pub use diff::{Change, DataDifference, Difference, MetadataChange, TensorChange, compare};
pub use shown::{Limits, ShownValue};
pub use summary::{MetadataEntry, Summary, TensorEntry, Totals, TypeTotals, summarize};
