//! Block formats, the recipe that chooses one for each tensor, and the quantization pipeline.

pub mod formats;
pub mod pipeline;
pub mod recipe;
