//! Block formats, the recipe that chooses one for each tensor, and the quantization pipeline.

pub mod formats;
pub mod importance;
pub mod pipeline;
pub mod plan;
pub mod recipe;
pub mod selection;
pub mod source;
pub mod weighing;
