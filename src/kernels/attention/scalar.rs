//! The specification: plain loops, two passes, one query row and head at a time.

use rayon::prelude::*;

use super::{AttentionItem, AttentionShape};

/// See [`super::attention`].
pub(super) fn attention(
    shape: AttentionShape,
    queries: &[f32],
    items: &[AttentionItem<'_>],
    output: &mut [f32],
) {
    let mut owners = vec![None; queries.len() / (shape.heads * shape.head_size)];
    for item in items {
        for row in item.queries.clone() {
            owners[row] = Some(item);
        }
    }
    let heads = queries.par_chunks_exact(shape.head_size);
    output.par_chunks_exact_mut(shape.head_size).zip(heads).enumerate().for_each(
        |(index, (output, query))| {
            let (row, head) = (index / shape.heads, index % shape.heads);
            if let Some(item) = owners[row] {
                let hidden = item.queries.end - 1 - row;
                let kv_head = head / (shape.heads / shape.kv_heads);
                one_head(shape, kv_head, query, item, item.context() - hidden, output);
            }
        },
    );
}

/// One query of one head over the first `visible` positions of `item`.
fn one_head(
    shape: AttentionShape,
    kv_head: usize,
    query: &[f32],
    item: &AttentionItem<'_>,
    visible: usize,
    output: &mut [f32],
) {
    let size = shape.head_size;
    let rows = || {
        item.spans.iter().flat_map(|span| {
            let start = kv_head * span.capacity * size;
            let filled = start..start + span.length * size;
            let keys = span.keys[filled.clone()].chunks_exact(size);
            keys.zip(span.values[filled].chunks_exact(size))
        })
    };
    let dot = |key: &[half::f16]| -> f32 {
        query.iter().zip(key).map(|(query, key)| query * key.to_f32()).sum()
    };
    let mut scores: Vec<f32> =
        rows().take(visible).map(|(key, _)| dot(key) * shape.scale).collect();
    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for score in &mut scores {
        *score = (*score - largest).exp();
    }
    let total: f32 = scores.iter().sum();
    output.fill(0.0);
    for (score, (_, value)) in scores.iter().zip(rows()) {
        let weight = score / total;
        for (output, value) in output.iter_mut().zip(value) {
            *output += weight * value.to_f32();
        }
    }
}
