//! The specification: plain loops, two passes, one query row and head at a time. Queries are rounded
//! as the kernels round them; weights are not.

use super::store::round_query;
use super::{AttentionItem, AttentionShape, Step};
use crate::kernels::shared::Shared;
use crate::support::team::Team;

/// See [`super::attention`].
pub(super) fn attention(team: &Team, step: Step<'_>, output: &mut [f32]) {
    let Step { shape, layer, queries, items } = step;
    let width = shape.heads * shape.head_size;
    let output = Shared::of(output);
    for item in items {
        team.run(item.queries.len(), |token| {
            let row = item.queries.start + token;
            let query = queries.row(row);
            // SAFETY: a token's row is nobody else's, as `super::check` made sure.
            let output = unsafe { output.slice(row * width..(row + 1) * width) };
            let heads = query.chunks_exact(shape.head_size);
            for (head, (query, output)) in
                heads.zip(output.chunks_exact_mut(shape.head_size)).enumerate()
            {
                one_head(shape, layer, head / shape.group(), query, item, token, output);
            }
        });
    }
}

/// One query of one head.
fn one_head(
    shape: AttentionShape,
    layer: usize,
    kv_head: usize,
    query: &[f32],
    item: &AttentionItem<'_>,
    token: usize,
    output: &mut [f32],
) {
    let visible = item.visible(token, shape.window);
    let mut rounded = vec![0; query.len()];
    let scale = round_query(query, &mut rounded);
    let places = || {
        let spans = item.spans.iter();
        let places = spans.flat_map(|span| (0..span.length).map(|position| (span.store, position)));
        places.skip(visible.start).take(visible.len())
    };
    let mut scores: Vec<f32> = places()
        .map(|(store, position)| {
            let products = rounded.iter().enumerate().map(|(index, &query)| {
                f64::from(query) * f64::from(store.elements(layer, kv_head, position, index).0)
            });
            let key_scale = store.scales(layer, kv_head, position).0;
            let score = products.sum::<f64>() as f32 * key_scale * scale * shape.scale;
            shape.softcap.map_or(score, |cap| cap * (score / cap).tanh())
        })
        .collect();
    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for score in &mut scores {
        *score = (*score - largest).exp();
    }
    let total: f32 = scores.iter().sum();
    output.fill(0.0);
    for (score, (store, position)) in scores.iter().zip(places()) {
        let weight = score / total * store.scales(layer, kv_head, position).1;
        for (index, output) in output.iter_mut().enumerate() {
            *output += weight * store.elements(layer, kv_head, position, index).1;
        }
    }
}
