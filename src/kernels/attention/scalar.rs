//! The specification: plain loops, two passes, one query row and head at a time. Queries are rounded
//! as the kernels round them; weights are not.

use super::store::round_query;
use super::{AttentionItem, AttentionLayer, Step};
use crate::kernels::shared::Shared;
use crate::support::team::Team;

/// See [`super::attention`].
pub(super) fn attention(team: &Team, step: Step<'_>, output: &mut [f32]) {
    let Step { layer, queries, items } = step;
    let shape = layer.shape;
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
                one_head(layer, head, query, item, token, output);
            }
        });
    }
}

/// One query of one head.
fn one_head(
    layer: AttentionLayer<'_>,
    head: usize,
    query: &[f32],
    item: &AttentionItem<'_>,
    token: usize,
    output: &mut [f32],
) {
    let AttentionLayer { shape, slot, sinks } = layer;
    let kv_head = head / shape.group();
    let visible = item.visible(token, shape.window);
    let mut rounded = vec![0; query.len()];
    let scale = round_query(query, &mut rounded);
    let places = || {
        let spans = item.spans.iter();
        let places = spans.flat_map(|span| (0..span.length).map(|position| (span.store, position)));
        places.skip(visible.start).take(visible.len())
    };
    let mut scores: Vec<f32> = places()
        .zip(visible.clone())
        .map(|((store, position), key_position)| {
            let products = rounded.iter().enumerate().map(|(index, &query)| {
                f64::from(query) * f64::from(store.elements(slot, kv_head, position, index).0)
            });
            let key_scale = store.scales(slot, kv_head, position).0;
            let score = products.sum::<f64>() as f32 * key_scale * scale * shape.scale;
            let score = shape.softcap.map_or(score, |cap| cap * (score / cap).tanh());
            // The query is at the last position that it sees.
            let distance = (visible.end - 1 - key_position) as f32;
            shape.slope(head).map_or(score, |slope| score - slope * distance)
        })
        .collect();
    let sink = sinks.map_or(f32::NEG_INFINITY, |sinks| sinks[head]);
    let largest = scores.iter().copied().fold(sink, f32::max);
    for score in &mut scores {
        *score = (*score - largest).exp();
    }
    let total = scores.iter().sum::<f32>() + (sink - largest).exp();
    output.fill(0.0);
    for (score, (store, position)) in scores.iter().zip(places()) {
        let weight = score / total * store.scales(slot, kv_head, position).1;
        for (index, output) in output.iter_mut().enumerate() {
            *output += weight * store.elements(slot, kv_head, position, index).1;
        }
    }
}
