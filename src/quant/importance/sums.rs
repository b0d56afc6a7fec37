//! What is collected: sums of squared activations and how many of them there are.

use std::collections::BTreeMap;

use super::ImportanceError;

/// Tokens of a chunk where nothing else is said; llama.cpp's choice.
pub const DEFAULT_CHUNK_TOKENS: u32 = 512;

/// One weight matrix's squared activations.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TensorSums {
    /// Sum of squares of each column's activations, expert after expert.
    pub sums: Vec<f32>,
    /// How many activations each expert's sums are of; one number for a matrix without experts.
    pub counts: Vec<u64>,
}

impl TensorSums {
    /// Columns of the matrix.
    pub fn columns(&self) -> usize {
        self.sums.len() / self.counts.len()
    }

    /// The mean square of every column; 1 for an expert that met no activation at all, as
    /// llama.cpp has it.
    pub fn into_means(self) -> Vec<f32> {
        let columns = self.columns();
        let Self { mut sums, counts } = self;
        for (expert, count) in sums.chunks_exact_mut(columns).zip(counts) {
            match count {
                0 => expert.fill(1.0),
                count => expert.iter_mut().for_each(|sum| *sum /= count as f32),
            }
        }
        sums
    }

    /// Largest of the experts' counts.
    pub(super) fn largest_count(&self) -> u64 {
        self.counts.iter().copied().max().unwrap_or(0)
    }

    /// Checks lengths and values of what a file says of the tensor `name`.
    pub(super) fn check(&self, name: &str) -> Result<(), String> {
        let (values, experts) = (self.sums.len(), self.counts.len());
        if values == 0 || experts == 0 || !values.is_multiple_of(experts) {
            return Err(format!(
                "the tensor {name:?} has {values} sums and {experts} counts; expected the same \
                 number of sums, at least one, for each count"
            ));
        }
        match self.sums.iter().position(|sum| !(sum.is_finite() && *sum >= 0.0)) {
            Some(index) => Err(format!(
                "the tensor {name:?} has {} at {}; sums of squares are finite and not negative: \
                 collect the importance again",
                self.sums[index],
                place(index, self.columns(), experts)
            )),
            None => Ok(()),
        }
    }
}

/// Column, and expert where there are several, of a value.
fn place(index: usize, columns: usize, experts: usize) -> String {
    let column = format!("column {}", index % columns);
    if experts == 1 { column } else { format!("{column} of expert {}", index / columns) }
}

/// Sums of squared activations of all weight matrices of a model, with where they come from.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ActivationSums {
    /// In the order of the files: by name, byte by byte.
    pub(super) tensors: BTreeMap<String, TensorSums>,
    pub(super) datasets: Vec<String>,
    pub(super) chunks: u32,
    /// Tokens of a chunk; `None` for a legacy file, which counts in chunks and does not say how
    /// long they were.
    pub(super) chunk_tokens: Option<u32>,
}

impl ActivationSums {
    /// Nothing yet, to be collected in chunks of so many tokens.
    pub fn new(datasets: Vec<String>, chunk_tokens: u32) -> Self {
        Self { datasets, chunk_tokens: Some(chunk_tokens), ..Self::default() }
    }

    /// Adds what one more chunk brought: for each tensor, its columns' sums of squares and of how
    /// many activations they are.
    ///
    /// # Errors
    /// Other tensors or columns than before, and sums that are not finite. Nothing is added then.
    pub fn add_chunk(&mut self, tensors: &[(&str, &[f64], u64)]) -> Result<(), ImportanceError> {
        self.check_addition(tensors).map_err(ImportanceError::Different)?;
        for &(name, squares, count) in tensors {
            let columns = squares.len();
            let tensor = self
                .tensors
                .entry(name.to_string())
                .or_insert_with(|| TensorSums { sums: vec![0.0; columns], counts: vec![0] });
            for (sum, &square) in tensor.sums.iter_mut().zip(squares) {
                *sum += square as f32;
            }
            tensor.counts[0] += count;
        }
        self.chunks += 1;
        Ok(())
    }

    fn check_addition(&self, tensors: &[(&str, &[f64], u64)]) -> Result<(), String> {
        for &(name, squares, _) in tensors {
            let known = self.tensors.get(name);
            match known {
                None if self.tensors.is_empty() => {}
                None => return Err(format!("the importance so far lacks the tensor {name}")),
                Some(known) if known.sums.len() != squares.len() || known.counts.len() != 1 => {
                    return Err(format!(
                        "{name} has {} columns in the importance so far, {} in the model",
                        known.sums.len(),
                        squares.len()
                    ));
                }
                Some(_) => {}
            }
            let old = |column: usize| known.map_or(0.0, |known| known.sums[column]);
            let overflows = |column: &usize| !(old(*column) + squares[*column] as f32).is_finite();
            if let Some(column) = (0..squares.len()).find(overflows) {
                return Err(format!(
                    "the activations of {name} in column {column} are not finite: their squares \
                     add up to {}",
                    old(column) + squares[column] as f32
                ));
            }
        }
        let is_new = |name: &&String| !tensors.iter().any(|(new, ..)| new == *name);
        match self.tensors.keys().find(is_new) {
            Some(name) => Err(format!(
                "the importance so far has the tensor {name}, which is not among those collected"
            )),
            None => Ok(()),
        }
    }

    /// The tensors by name, in the order of the names.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = (&str, &TensorSums)> {
        self.tensors.iter().map(|(name, sums)| (name.as_str(), sums))
    }

    /// The tensors, to be kept.
    pub(super) fn into_tensors(self) -> impl Iterator<Item = (String, TensorSums)> {
        self.tensors.into_iter()
    }

    /// The calibration texts, by the names of their files.
    pub fn datasets(&self) -> &[String] {
        &self.datasets
    }

    /// How many chunks of text there were; 0 where a legacy file does not say.
    pub fn chunks(&self) -> u32 {
        self.chunks
    }

    /// Tokens of a chunk; a legacy file does not say.
    pub fn chunk_tokens(&self) -> Option<u32> {
        self.chunk_tokens
    }
}
