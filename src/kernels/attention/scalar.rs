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
            let first = kv_head * span.capacity;
            let keys = span.keys.part(first, span.length, size);
            let values = span.values.part(first, span.length, size);
            keys.rows(size).zip(values.rows(size))
        })
    };
    let dot = |(key, scale): (&[i16], f32)| -> f32 {
        query.iter().zip(key).map(|(query, &key)| query * (f32::from(key) * scale)).sum()
    };
    let mut scores: Vec<f32> =
        rows().take(visible).map(|(key, _)| dot(key) * shape.scale).collect();
    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for score in &mut scores {
        *score = (*score - largest).exp();
    }
    let total: f32 = scores.iter().sum();
    output.fill(0.0);
    for (score, (_, (value, scale))) in scores.iter().zip(rows()) {
        let weight = score / total;
        for (output, &value) in output.iter_mut().zip(value) {
            *output += weight * (f32::from(value) * scale);
        }
    }
}
