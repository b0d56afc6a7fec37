//! What is stored comes back, and nothing overflows.

use super::*;

fn row(size: usize, seed: f32) -> Vec<f32> {
    (0..size).map(|i| (i as f32 * 1.3 + seed).sin() * seed).collect()
}

#[test]
fn what_is_written_comes_back_to_within_half_a_step() {
    for kind in [KvType::I16, KvType::I8] {
        for head_size in [1, 7, 16, 50, 64, 80, 256] {
            let shape = KvShape::new([KvLayer { kv_heads: 3, head_size }; 2]);
            let mut store = KeyValues::allocate(kind, shape, 37).unwrap();
            assert_eq!(store.capacity(), 48);
            let token = |layer: usize, position: usize| {
                let seed = (layer * 100 + position + 1) as f32;
                (row(3 * head_size, seed), row(3 * head_size, seed * 0.01))
            };
            for layer in 0..2 {
                for position in (0..48).rev() {
                    let (keys, values) = token(layer, position);
                    store.write(layer, position, &keys, &values);
                }
            }
            for (layer, position) in (0..96).map(|i| (i / 48, i % 48)) {
                let (keys, values) = token(layer, position);
                for (index, (key, value)) in keys.iter().zip(values).enumerate() {
                    let (kv_head, index) = (index / head_size, index % head_size);
                    let scales = store.scales(layer, kv_head, position);
                    let elements = store.elements(layer, kv_head, position, index);
                    assert!((elements.0 * scales.0 - key).abs() <= scales.0 * 0.51);
                    assert!((elements.1 * scales.1 - value).abs() <= scales.1 * 0.51);
                }
            }
        }
    }
}

#[test]
fn a_copy_is_what_it_was_wherever_it_goes() {
    for kind in [KvType::I16, KvType::I8] {
        for head_size in [3, 16, 34] {
            let shape = KvShape::new([KvLayer { kv_heads: 2, head_size }; 2]);
            let [mut from, mut to] = [52, 21]
                .map(|capacity| KeyValues::allocate(kind, shape.clone(), capacity).unwrap());
            for (layer, position) in (0..104).map(|i| (i / 52, i % 52)) {
                let keys = row(2 * head_size, (layer * 50 + position + 1) as f32);
                from.write(layer, position, &keys, &row(2 * head_size, position as f32 + 0.1));
            }
            to.copy(&from, 32..52);
            for (layer, kv_head) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                for (new, old) in (32..52).enumerate() {
                    let scales = |store: &KeyValues, at| store.scales(layer, kv_head, at);
                    assert_eq!(scales(&to, new), scales(&from, old));
                    for index in 0..head_size {
                        let element =
                            |store: &KeyValues, at| store.elements(layer, kv_head, at, index);
                        assert_eq!(element(&to, new), element(&from, old));
                    }
                }
            }
        }
    }
}

#[test]
fn no_norm_is_too_large_and_no_range_wasted() {
    let spike = |size: usize| {
        let mut row = vec![0.0; size];
        row[size / 2] = -3e30;
        row
    };
    for size in [1, 2, 64, 256, 512] {
        for row in [vec![1e-20; size], vec![1e38; size], row(size, 4.0), spike(size)] {
            let mut elements = vec![0; size];
            let scale = round_query(&row, &mut elements);
            let norm = elements.iter().map(|&e| f64::from(e).powi(2)).sum::<f64>().sqrt();
            assert!(norm * norm < 2f64.powi(31), "{norm}");
            assert!(norm > 32_700.0, "{norm}");
            let worst = row.iter().zip(&elements).map(|(v, &e)| v / scale - f32::from(e));
            assert!(worst.fold(0f32, |worst, e| worst.max(e.abs())) < 0.51);
        }
    }
}

#[test]
fn rows_without_magnitude_or_with_too_much() {
    let mut elements = [1; 3];
    let tiny = f32::from_bits(1);
    for nothing in [[0.0; 3], [tiny, -tiny, 0.0]] {
        assert_eq!(round_query(&nothing, &mut elements), f32::MIN_POSITIVE);
        assert_eq!(elements, [0; 3]);
    }
    for broken in [f32::NAN, f32::INFINITY] {
        assert!(round_query(&[1.0, broken, 2.0], &mut elements).is_nan());
        let shape = KvShape::new([KvLayer { kv_heads: 1, head_size: 2 }]);
        let mut store = KeyValues::allocate(KvType::I16, shape, 2).unwrap();
        store.write(0, 0, &[1.0, 2.0], &[1.0, broken]);
        store.write(0, 1, &[broken, 2.0], &[1.0, 2.0]);
        for position in 0..2 {
            let (key, value) = store.scales(0, 0, position);
            assert!(key.is_nan() && value == 0.0);
        }
    }
}

#[test]
fn room_that_nobody_has_is_none() {
    let shape = KvShape::new([KvLayer { kv_heads: 1, head_size: 8 }; 2]);
    for capacity in [1 << 50, usize::MAX, usize::MAX - 15] {
        assert!(KeyValues::allocate(KvType::I16, shape.clone(), capacity).is_none());
    }
}

#[test]
fn layers_of_different_widths_keep_to_themselves() {
    let layers = [(1, 512), (4, 7), (2, 64), (3, 1)];
    let layers = layers.map(|(kv_heads, head_size)| KvLayer { kv_heads, head_size });
    let shape = KvShape::new(layers);
    assert_eq!((shape.layers(), shape.layer(1), shape.layer(4)), (4, Some(layers[1]), None));
    for kind in KvType::ALL {
        // Elements with their padding, and two scales a head.
        let head = |padded: usize| 2 * (padded * kind.bytes() + 4);
        let bytes = head(512) + 4 * head(16) + 2 * head(64) + 3 * head(16);
        assert_eq!(shape.bytes_per_token(kind), bytes);
        let mut store = KeyValues::allocate(kind, shape.clone(), 20).unwrap();
        let mut copied = KeyValues::allocate(kind, shape.clone(), 50).unwrap();
        let rows = |slot: usize, position: usize| {
            let KvLayer { kv_heads, head_size } = layers[slot];
            let seed = (slot * 40 + position + 1) as f32;
            (row(kv_heads * head_size, seed), row(kv_heads * head_size, -0.01 * seed))
        };
        for (slot, position) in (0..80).map(|i| (i / 20, i % 20)) {
            let (keys, values) = rows(slot, position);
            store.write(slot, position, &keys, &values);
        }
        copied.copy(&store, 16..20);
        for (slot, position) in (0..80).map(|i| (i / 20, i % 20)) {
            let (keys, values) = rows(slot, position);
            for (index, (key, value)) in keys.iter().zip(values).enumerate() {
                let (kv_head, index) =
                    (index / layers[slot].head_size, index % layers[slot].head_size);
                let copy = (position >= 16).then(|| (&copied, position - 16));
                for (store, position) in [(&store, position)].into_iter().chain(copy) {
                    let scales = store.scales(slot, kv_head, position);
                    let elements = store.elements(slot, kv_head, position, index);
                    assert!((elements.0 * scales.0 - key).abs() <= scales.0 * 0.51);
                    assert!((elements.1 * scales.1 - value).abs() <= scales.1 * 0.51);
                }
            }
        }
    }
}
