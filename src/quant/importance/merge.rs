//! Several collections on one model become one.

use std::path::{Path, PathBuf};

use super::sums::{DEFAULT_CHUNK_TOKENS, TensorSums};
use super::{ActivationSums, ImportanceError};

/// Chunks of different lengths cannot be counted together.
fn warn_of_different_chunks(parts: &[(PathBuf, ActivationSums)]) {
    let lengths = parts.iter().filter_map(|(path, part)| Some((path, part.chunk_tokens?)));
    let mut lengths = lengths.clone().zip(lengths.skip(1));
    if let Some(((a, of_a), (b, of_b))) = lengths.find(|((_, a), (_, b))| a != b) {
        tracing::warn!(
            "{} has chunks of {of_a} tokens, {} of {of_b}: the sum's chunks are counted as if all \
             were as long as the first file's",
            a.display(),
            b.display()
        );
    }
}

impl ActivationSums {
    /// Adds collections up, as if their texts had been one. `legacy_chunk_tokens` is how long the
    /// chunks of legacy files were, which count in chunks; without it they are taken to be as long
    /// as those of the first other file, or else [`DEFAULT_CHUNK_TOKENS`].
    ///
    /// # Errors
    /// Collections on different models, by the first tensor that is missing or has other columns.
    pub fn merge(
        parts: Vec<(PathBuf, Self)>,
        legacy_chunk_tokens: Option<u32>,
    ) -> Result<Self, ImportanceError> {
        let known = parts.iter().find_map(|(_, part)| part.chunk_tokens);
        warn_of_different_chunks(&parts);
        let chunk_tokens = legacy_chunk_tokens.or(known).unwrap_or(DEFAULT_CHUNK_TOKENS);
        let mut parts = parts.into_iter().map(|(path, part)| {
            let part = part.into_tokens(chunk_tokens);
            (path, part)
        });
        let Some((first_path, mut merged)) = parts.next() else {
            return Err(ImportanceError::Different("there is nothing to merge".to_string()));
        };
        for (path, part) in parts {
            merged.check_same_model(&part, &first_path, &path)?;
            merged.add(part);
        }
        for (name, tensor) in &merged.tensors {
            tensor
                .check(name)
                .map_err(|problem| ImportanceError::Different(format!("merged, {problem}")))?;
        }
        merged.count_chunks();
        Ok(merged)
    }

    /// Counts tokens where it counted chunks.
    fn into_tokens(mut self, chunk_tokens: u32) -> Self {
        if self.chunk_tokens.is_none() {
            for tensor in self.tensors.values_mut() {
                tensor.sums.iter_mut().for_each(|sum| *sum *= chunk_tokens as f32);
                for count in &mut tensor.counts {
                    *count *= u64::from(chunk_tokens);
                }
            }
            self.chunk_tokens = Some(chunk_tokens);
        }
        self
    }

    fn check_same_model(
        &self,
        other: &Self,
        path: &Path,
        other_path: &Path,
    ) -> Result<(), ImportanceError> {
        let problem = |words: String| {
            let path = path.display();
            Err(ImportanceError::malformed(
                other_path,
                format!("collected on another model than {path}: {words}"),
            ))
        };
        for (name, tensor) in &self.tensors {
            let Some(other) = other.tensors.get(name) else {
                return problem(format!("it lacks the tensor {name}"));
            };
            if tensor.sums.len() != other.sums.len() {
                return problem(format!(
                    "the tensor {name} has {} columns in all, there {}",
                    other.sums.len(),
                    tensor.sums.len()
                ));
            }
            let (experts, others) = (tensor.counts.len(), other.counts.len());
            if experts != others && experts != 1 && others != 1 {
                return problem(format!("the tensor {name} has {others} experts, there {experts}"));
            }
        }
        match other.tensors.keys().find(|name| !self.tensors.contains_key(*name)) {
            Some(name) => problem(format!("it has the tensor {name}, which is not there")),
            None => Ok(()),
        }
    }

    /// Adds a collection on the same model.
    fn add(&mut self, other: Self) {
        for (name, mut theirs) in other.tensors {
            let Some(ours) = self.tensors.get_mut(&name) else { continue };
            let experts = ours.counts.len().max(theirs.counts.len());
            ours.spread(experts);
            theirs.spread(experts);
            for (sum, more) in ours.sums.iter_mut().zip(&theirs.sums) {
                *sum += more;
            }
            for (count, more) in ours.counts.iter_mut().zip(&theirs.counts) {
                *count += more;
            }
        }
        self.datasets.extend(other.datasets);
    }

    /// The number of chunks that the largest count makes, as llama-imatrix counts them.
    fn count_chunks(&mut self) {
        let tokens = self.tensors.values().map(TensorSums::largest_count).max().unwrap_or(0);
        let chunks = tokens / u64::from(self.chunk_tokens.unwrap_or(DEFAULT_CHUNK_TOKENS));
        self.chunks = u32::try_from(chunks).unwrap_or(u32::MAX);
    }
}

impl TensorSums {
    /// Gives each expert the one count that a legacy file has for all.
    fn spread(&mut self, experts: usize) {
        if self.counts.len() == 1 {
            self.counts = vec![self.counts[0]; experts];
        }
    }
}
