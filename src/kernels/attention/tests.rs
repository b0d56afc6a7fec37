//! Every vector kernel against the scalar version.

use proptest::prelude::*;

use super::*;

/// Keys, values and queries that depend on nothing but a seed.
struct Numbers(u64);

impl Numbers {
    /// Roughly normal, of the given standard deviation.
    fn next(&mut self, deviation: f32) -> f32 {
        let mut sum = 0.0;
        for _ in 0..4 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            sum += (self.0 >> 40) as f32 / (1u64 << 24) as f32 - 0.5;
        }
        sum * deviation * 1.732
    }

    fn row(&mut self, length: usize, deviation: f32) -> Vec<f32> {
        (0..length).map(|_| self.next(deviation)).collect()
    }
}

/// One item: new tokens, and the spans' lengths.
#[derive(Debug, Clone)]
struct Case {
    tokens: usize,
    spans: Vec<usize>,
}

fn case(tokens: usize, spans: &[usize]) -> Case {
    Case { tokens, spans: spans.to_vec() }
}

/// Layers of the stores; attention is over the last.
const LAYERS: usize = 2;

/// A layer of another width and the one that is asked for.
fn kv_shape(kv_heads: usize, head_size: usize) -> KvShape {
    KvShape::new([
        KvLayer { kv_heads: 1, head_size: head_size + 5 },
        KvLayer { kv_heads, head_size },
    ])
}

/// A step over stores of random contents.
struct Setup {
    shape: AttentionShape,
    kind: KvType,
    /// The standard deviation of keys.
    deviation: f32,
    sinks: Option<Vec<f32>>,
}

impl Setup {
    fn new(heads: usize, kv_heads: usize, head_size: usize) -> Self {
        let scale = 1.0 / (head_size as f32).sqrt();
        let shape = AttentionShape {
            heads,
            kv_heads,
            head_size,
            scale,
            softcap: None,
            alibi: None,
            window: None,
        };
        Self { shape, kind: KvType::I16, deviation: 1.0, sinks: None }
    }

    /// A store, with rubbish beyond its length.
    fn store(&self, numbers: &mut Numbers, length: usize, rubbish: usize) -> KeyValues {
        let AttentionShape { kv_heads, head_size, .. } = self.shape;
        let shape = kv_shape(kv_heads, head_size);
        let mut store = KeyValues::allocate(self.kind, shape, length + rubbish).unwrap();
        let width = kv_heads * head_size;
        for position in 0..store.capacity() {
            let (mut keys, values) = (numbers.row(width, self.deviation), numbers.row(width, 1.0));
            if position >= length {
                keys.fill(f32::NAN);
            }
            store.write(LAYERS - 1, position, &keys, &values);
        }
        store
    }

    /// Compares every instruction set of this machine with the scalar version.
    fn compare(&self, cases: &[Case]) {
        let AttentionShape { heads, head_size, .. } = self.shape;
        let mut numbers = Numbers((heads * 31 + head_size) as u64);
        let stores: Vec<Vec<_>> = cases
            .iter()
            .map(|case| {
                let lengths = case.spans.iter().enumerate();
                lengths
                    .map(|(index, &length)| (self.store(&mut numbers, length, index % 20), length))
                    .collect()
            })
            .collect();
        let spans: Vec<Vec<_>> = stores
            .iter()
            .map(|stores| {
                stores.iter().map(|(store, length)| Span { store, length: *length }).collect()
            })
            .collect();
        // A row before and after each item that nobody may touch.
        let mut row = 1;
        let items: Vec<AttentionItem<'_>> = cases
            .iter()
            .zip(&spans)
            .map(|(case, spans)| {
                let queries = row..row + case.tokens;
                row = queries.end + 1;
                AttentionItem { queries, spans }
            })
            .collect();
        let queries = numbers.row(row * (heads * head_size + 3), 1.0);
        let queries = Rows::new(&queries, row, heads * head_size, heads * head_size + 3);
        let expected = self.run(Level::SCALAR, queries, &items);
        // Weights are rounded; and the larger the scores, the more their last bits weigh.
        let tolerance = 2e-4 + 2e-5 * self.deviation;
        for level in Level::available().filter(|level| *level != Level::SCALAR) {
            let output = self.run(level, queries, &items);
            for (index, (output, expected)) in output.iter().zip(&expected).enumerate() {
                assert!(
                    (output - expected).abs() <= tolerance,
                    "{}: {:?}, {cases:?}: element {index} is {output}, not {expected}",
                    level.name(),
                    self.shape
                );
            }
        }
    }

    fn run(&self, level: Level, queries: Rows<'_>, items: &[AttentionItem<'_>]) -> Vec<f32> {
        self.run_on(&Team::new(3), level, queries, items)
    }

    fn run_on(
        &self,
        team: &Team,
        level: Level,
        queries: Rows<'_>,
        items: &[AttentionItem<'_>],
    ) -> Vec<f32> {
        let mut output = vec![7.5; queries.count() * queries.width()];
        let mut scratch = AttentionScratch::default();
        let sinks = self.sinks.as_deref();
        let layer = AttentionLayer { shape: self.shape, slot: LAYERS - 1, sinks };
        attention_with(level, team, layer, queries, items, &mut output, &mut scratch);
        output
    }
}

/// 16-bit integers, no window, no cap.
fn compare(heads: usize, kv_heads: usize, head_size: usize, cases: &[Case]) {
    Setup::new(heads, kv_heads, head_size).compare(cases);
}

#[test]
fn no_items_and_no_queries_leave_the_output_alone() {
    compare(4, 2, 64, &[]);
    compare(4, 2, 64, &[case(0, &[5])]);
}

#[test]
fn one_key_is_its_value() {
    compare(9, 3, 64, &[case(1, &[1])]);
    compare(2, 2, 16, &[case(1, &[0, 1, 0])]);
}

#[test]
fn every_head_size() {
    for head_size in [1, 7, 8, 16, 20, 50, 64, 72, 80, 96, 100, 128, 256, 512] {
        compare(4, 2, head_size, &[case(1, &[70]), case(20, &[30, 40])]);
    }
}

#[test]
fn every_grouping_of_heads() {
    for (heads, kv_heads) in
        [(1, 1), (5, 5), (9, 3), (4, 1), (5, 1), (6, 1), (8, 1), (14, 2), (12, 4), (70, 1)]
    {
        compare(heads, kv_heads, 32, &[case(1, &[67]), case(3, &[67]), case(33, &[100])]);
    }
}

#[test]
fn every_number_of_queries() {
    for tokens in (1..=70).chain([128, 299, 300]) {
        compare(3, 1, 16, &[case(tokens, &[tokens]), case(tokens, &[9, tokens + 61])]);
    }
}

#[test]
fn spans_that_end_anywhere_in_a_tile() {
    for length in [1, 15, 16, 17, 31, 63, 64, 65, 127, 128, 129] {
        compare(6, 2, 64, &[case(1, &[length, 3]), case(17, &[length, 90 - length / 2])]);
        compare(6, 2, 64, &[case(2, &[1, 1, length, 1, length]), case(1, &[length])]);
    }
}

#[test]
fn long_contexts_are_split_and_merged() {
    compare(9, 3, 64, &[case(1, &[3000])]);
    compare(3, 1, 64, &[case(2, &[1000, 700, 800])]);
    compare(2, 2, 128, &[case(12, &[2100])]);
    compare(1, 1, 64, &[case(300, &[900])]);
}

#[test]
fn sharp_softmaxes() {
    let setup = Setup { deviation: 30.0, ..Setup::new(6, 2, 64) };
    setup.compare(&[case(1, &[700]), case(40, &[128, 200])]);
}

#[test]
fn windows_that_begin_anywhere() {
    let mut setup = Setup::new(6, 2, 32);
    for window in [1, 2, 15, 16, 17, 63, 64, 65, 100, 1000] {
        setup.shape.window = Some(window);
        setup.compare(&[case(1, &[1]), case(1, &[90, 75]), case(50, &[200]), case(3, &[20, 3])]);
    }
    setup.shape.window = Some(600);
    setup.compare(&[case(1, &[3000]), case(20, &[1500, 1500])]);
}

#[test]
fn capped_scores() {
    let mut setup = Setup { deviation: 8.0, ..Setup::new(4, 2, 64) };
    for cap in [0.5, 20.0, 100.0] {
        setup.shape.softcap = Some(cap);
        setup.compare(&[case(1, &[70]), case(30, &[30, 40])]);
    }
}

#[test]
fn windows_and_caps_together() {
    for head_size in [16, 64, 80, 128, 256, 512] {
        let mut setup = Setup { deviation: 4.0, ..Setup::new(4, 2, head_size) };
        for kind in KvType::ALL {
            setup.kind = kind;
            for (window, cap) in [(1, 5.0), (40, 5.0), (40, 50.0), (700, 30.0)] {
                setup.shape.window = Some(window);
                setup.shape.softcap = Some(cap);
                setup.compare(&[case(1, &[90, 75]), case(25, &[30, 140]), case(1, &[1000])]);
            }
        }
    }
}

#[test]
fn slopes_are_those_of_the_paper() {
    let slopes = |heads: usize, largest: f32| -> Vec<f32> {
        let shape = AttentionShape { alibi: Some(largest), ..Setup::new(heads, 1, 8).shape };
        (0..heads).map(|head| shape.slope(head).unwrap()).collect()
    };
    let eight = [0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625, 0.0078125, 0.00390625];
    assert_eq!(slopes(8, 8.0), eight);
    assert_eq!(slopes(1, 8.0), [0.00390625]);
    // The heads behind the eighth have every other slope of sixteen heads.
    let twelve = slopes(12, 8.0);
    assert_eq!(twelve[..8], eight);
    assert_eq!(twelve[8..], [0, 2, 4, 6].map(|head| slopes(16, 8.0)[head]));
    assert_eq!(slopes(2, 4.0), [0.25, 0.0625]);
    assert_eq!(Setup::new(4, 4, 8).shape.slope(2), None);
}

#[test]
fn alibi_prefers_near_keys_by_its_slope() {
    // All keys alike, so that weights are the biases' alone; values say which key they are of.
    let mut setup = Setup::new(2, 1, 16);
    setup.shape.alibi = Some(8.0);
    for level in Level::available() {
        for tokens in [1, 40] {
            let rows = |position: usize| (vec![1.0; 16], vec![position as f32; 16]);
            let output = over(level, &setup, 150, tokens, &[0.5; 32], rows);
            for (token, row) in output.chunks_exact(32).enumerate() {
                let seen = 150 - (tokens - 1 - token);
                for (head, output) in row.chunks_exact(16).enumerate() {
                    let slope = [1.0 / 16.0, 1.0 / 256.0][head];
                    let weight = |key: usize| (-slope * (seen - 1 - key) as f64).exp();
                    let total: f64 = (0..seen).map(weight).sum();
                    let mean = (0..seen).map(|key| weight(key) * key as f64).sum::<f64>() / total;
                    for output in output {
                        let error = (f64::from(*output) - mean).abs();
                        assert!(error < 0.02, "{}: {output}, not {mean}", level.name());
                    }
                }
            }
        }
    }
}

#[test]
fn alibi_with_all_else() {
    for (heads, kv_heads, head_size) in [(1, 1, 16), (6, 6, 20), (12, 4, 64), (10, 1, 80)] {
        let mut setup = Setup::new(heads, kv_heads, head_size);
        setup.shape.alibi = Some(8.0);
        for (kind, window, cap) in [
            (KvType::I16, None, None),
            (KvType::I16, Some(33), None),
            (KvType::I16, None, Some(2.0)),
            (KvType::I8, Some(70), Some(20.0)),
        ] {
            setup.kind = kind;
            setup.shape.window = window;
            setup.shape.softcap = cap;
            setup.compare(&[case(1, &[1]), case(1, &[67]), case(50, &[50]), case(33, &[5, 0, 95])]);
            // Split along the keys, over spans.
            setup.compare(&[case(1, &[1000, 700, 801]), case(2, &[1500])]);
        }
    }
}

#[test]
fn sinks_take_their_share() {
    let mut setup = Setup::new(6, 2, 64);
    setup.sinks = Some(vec![0.0, 2.0, -3.0, 40.0, -200.0, f32::NEG_INFINITY]);
    setup.compare(&[case(1, &[1]), case(1, &[70]), case(30, &[30, 40])]);
    setup.compare(&[case(1, &[3000]), case(2, &[1000, 700])]);
    setup.shape.window = Some(20);
    setup.shape.softcap = Some(10.0);
    setup.shape.alibi = Some(8.0);
    setup.compare(&[case(1, &[70]), case(30, &[30, 40]), case(1, &[900, 600])]);
    // One key of a score of nothing, and a sink of nothing: half of it.
    let setup = Setup { sinks: Some(vec![0.0, 3f32.ln()]), ..Setup::new(2, 1, 16) };
    for level in Level::available() {
        let rows = |_| (vec![0.0; 16], vec![1.0; 16]);
        let output = over(level, &setup, 1, 1, &[1.0; 32], rows);
        assert!(output[..16].iter().all(|value| (value - 0.5).abs() < 1e-4), "{output:?}");
        assert!(output[16..].iter().all(|value| (value - 0.25).abs() < 1e-4), "{output:?}");
    }
}

#[test]
#[should_panic(expected = "a sink for each of 2 heads")]
fn sinks_of_other_heads_are_refused() {
    let setup = Setup { sinks: Some(vec![0.0; 3]), ..Setup::new(2, 1, 8) };
    setup.compare(&[case(1, &[1])]);
}

#[test]
#[should_panic(expected = "layer 1 of a store")]
fn a_store_of_another_width_is_refused() {
    let store = Setup::new(1, 1, 8).store(&mut Numbers(1), 4, 0);
    let spans = [Span { store: &store, length: 4 }];
    let items = [AttentionItem { queries: 0..1, spans: &spans }];
    Setup::new(1, 1, 16).run(Level::SCALAR, Rows::new(&[0.0; 16], 1, 16, 16), &items);
}

#[test]
fn eight_bits() {
    for head_size in [7, 64, 80] {
        let mut setup = Setup { kind: KvType::I8, ..Setup::new(6, 2, head_size) };
        setup.compare(&[case(1, &[70]), case(30, &[30, 40]), case(1, &[1000]), case(2, &[5])]);
        setup.shape.window = Some(33);
        setup.compare(&[case(1, &[70]), case(30, &[30, 40])]);
    }
}

/// Attention over one store whose rows are `row(position)`, with every query as given.
fn over(
    level: Level,
    setup: &Setup,
    length: usize,
    tokens: usize,
    query: &[f32],
    row: impl Fn(usize) -> (Vec<f32>, Vec<f32>),
) -> Vec<f32> {
    let AttentionShape { kv_heads, head_size, .. } = setup.shape;
    let shape = kv_shape(kv_heads, head_size);
    let mut store = KeyValues::allocate(setup.kind, shape, length).unwrap();
    for position in 0..length {
        let (keys, values) = row(position);
        store.write(LAYERS - 1, position, &keys, &values);
    }
    let queries = query.repeat(tokens);
    let spans = [Span { store: &store, length }];
    let items = [AttentionItem { queries: 0..tokens, spans: &spans }];
    setup.run(level, Rows::new(&queries, tokens, query.len(), query.len()), &items)
}

#[test]
fn extremes_do_not_overflow() {
    let size = 256;
    let setup = Setup::new(1, 1, size);
    let spike = |value: f32| {
        let mut row = vec![0.0; size];
        row[9] = value;
        row
    };
    let rows = [vec![1.0; size], vec![-1e3; size], spike(3e4), spike(-1e-3), vec![0.0; size]];
    for level in Level::available() {
        for (key, value, tokens) in rows
            .iter()
            .flat_map(|key| rows.iter().map(move |value| (key, value)))
            .flat_map(|(key, value)| [1, 20].map(|tokens| (key, value, tokens)))
        {
            // All positions are alike, so the output is their value, whatever the query.
            for query in &rows {
                let output =
                    over(level, &setup, 130, tokens, query, |_| (key.clone(), value.clone()));
                for (output, value) in output.iter().zip(value.iter().cycle()) {
                    assert!((output - value).abs() <= value.abs() * 1e-3, "{output} {value}");
                }
            }
        }
    }
}

#[test]
fn what_is_not_finite_gives_nan_to_those_who_see_it() {
    let setup = Setup::new(2, 1, 16);
    let good = vec![1.0; 16];
    for level in Level::available() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut row = good.clone();
            row[3] = bad;
            for tokens in [2, 40] {
                for (key, value) in [(&row, &good), (&good, &row)] {
                    // The last position but one.
                    let output = over(level, &setup, 100, tokens, &[0.1; 32], |position| {
                        if position == 98 {
                            (key.clone(), value.clone())
                        } else {
                            (good.clone(), good.clone())
                        }
                    });
                    let (before, after) = output.split_at((tokens - 2) * 32);
                    assert!(before.iter().all(|value| (value - 1.0).abs() < 1e-3));
                    assert!(after.iter().all(|value| value.is_nan()), "{after:?}");
                }
                let mut query = vec![0.1; 32];
                query[20] = bad;
                let output =
                    over(level, &setup, 100, tokens, &query, |_| (good.clone(), good.clone()));
                for row in output.chunks_exact(32) {
                    assert!(row[..16].iter().all(|value| (value - 1.0).abs() < 1e-3));
                    assert!(row[16..].iter().all(|value| value.is_nan()));
                }
            }
        }
    }
}

/// The outputs of the last `tokens` queries over a context of `length`, where at most `chunk` of them are
/// computed at once, over spans that are cut at these positions.
fn in_chunks(
    level: Level,
    setup: &Setup,
    (length, tokens): (usize, usize),
    chunk: usize,
    cuts: &[usize],
) -> Vec<f32> {
    let AttentionShape { heads, kv_heads, head_size, .. } = setup.shape;
    let (width, kv_width) = (heads * head_size, kv_heads * head_size);
    let mut numbers = Numbers(5);
    let mut stores: Vec<(KeyValues, Range<usize>)> = Vec::new();
    let mut start = 0;
    for &end in cuts.iter().chain([&length]) {
        let store =
            KeyValues::allocate(setup.kind, kv_shape(kv_heads, head_size), end - start).unwrap();
        stores.push((store, start..end));
        start = end;
    }
    for (store, positions) in &mut stores {
        for place in 0..positions.len() {
            let (keys, values) = (numbers.row(kv_width, 2.0), numbers.row(kv_width, 1.0));
            store.write(LAYERS - 1, place, &keys, &values);
        }
    }
    let queries = Numbers(7).row(tokens * width, 1.0);
    let mut output = Vec::new();
    for (index, queries) in queries.chunks(chunk * width).enumerate() {
        let count = queries.len() / width;
        let context = length - tokens + index * chunk + count;
        let spans: Vec<_> = stores
            .iter()
            .filter(|(_, positions)| positions.start < context)
            .map(|(store, range)| Span { store, length: context.min(range.end) - range.start })
            .collect();
        let items = [AttentionItem { queries: 0..count, spans: &spans }];
        output.extend(setup.run(level, Rows::new(queries, count, width, width), &items));
    }
    output
}

#[test]
fn a_row_has_the_same_bits_alone_and_among_others_in_any_pieces() {
    let plain = Setup::new(3, 1, 64);
    let mut setups = vec![Setup { kind: KvType::I8, ..Setup::new(6, 2, 20) }];
    for (window, softcap, alibi) in [
        (None, None, None),
        (Some(100), None, None),
        (Some(600), Some(3.0), None),
        (None, None, Some(8.0)),
        (Some(70), Some(3.0), Some(8.0)),
    ] {
        let shape = AttentionShape { window, softcap, alibi, ..plain.shape };
        let sinks = Some(vec![0.5, -1.0, 3.0]);
        setups.push(Setup { shape, sinks, kind: KvType::I16, deviation: 1.0 });
    }
    for setup in &setups {
        for level in Level::available() {
            let run =
                |chunk: usize, cuts: &[usize]| in_chunks(level, setup, (1170, 150), chunk, cuts);
            let whole = run(150, &[]);
            for (chunk, cuts) in [
                (1, &[][..]),
                (2, &[64]),
                (7, &[]),
                (13, &[128, 192, 1024]),
                (64, &[1088]),
                (149, &[512, 1152]),
            ] {
                let output = run(chunk, cuts);
                let differing = output.iter().zip(&whole).position(|(one, other)| one != other);
                let (level, shape) = (level.name(), setup.shape);
                assert_eq!(differing, None, "{level}: {shape:?}, by {chunk}, cut at {cuts:?}");
            }
        }
    }
}

#[test]
fn a_sequence_has_the_same_bits_whatever_sequences_and_threads_there_are() {
    let setup = Setup::new(3, 1, 64);
    let mut numbers = Numbers(11);
    // Decode steps, and a few tokens at the end of a long context.
    let (tokens, lengths) = ([1, 1, 7, 1, 20], [3000, 1, 2500, 700, 600]);
    let stores = lengths.map(|length| setup.store(&mut numbers, length, 0));
    let spans: Vec<_> = stores.iter().zip(lengths).collect();
    let spans: Vec<_> = spans.iter().map(|&(store, length)| [Span { store, length }]).collect();
    let rows: usize = tokens.iter().sum();
    let queries = numbers.row(rows * 192, 1.0);
    let mut start = 0;
    let items: Vec<_> = tokens
        .iter()
        .zip(&spans)
        .map(|(tokens, spans)| {
            start += tokens;
            AttentionItem { queries: start - tokens..start, spans }
        })
        .collect();
    for level in Level::available() {
        let together = |threads: usize| {
            let queries = Rows::new(&queries, rows, 192, 192);
            setup.run_on(&Team::new(threads), level, queries, &items)
        };
        let all = together(1);
        assert!(all == together(2) && all == together(5), "{}", level.name());
        for item in &items {
            let range = item.queries.start * 192..item.queries.end * 192;
            let count = item.queries.len();
            let alone = [AttentionItem { queries: 0..count, spans: item.spans }];
            let queries = Rows::new(&queries[range.clone()], count, 192, 192);
            let output = setup.run_on(&Team::new(3), level, queries, &alone);
            assert!(output == all[range], "{}: {:?}", level.name(), item.queries);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_batch(
        group in 1usize..9,
        kv_heads in 1usize..4,
        head_size in 1usize..100,
        window in prop::option::of(1usize..200),
        softcap in prop::option::of(1f32..50.0),
        alibi in prop::option::of(1f32..16.0),
        has_sinks: bool,
        eight_bits: bool,
        cases in prop::collection::vec((1usize..50, prop::collection::vec(0usize..150, 0..4)), 0..4),
    ) {
        let cases: Vec<Case> = cases
            .into_iter()
            .map(|(tokens, mut spans)| {
                spans.push(tokens);
                Case { tokens, spans }
            })
            .collect();
        let mut setup = Setup::new(group * kv_heads, kv_heads, head_size);
        setup.shape = AttentionShape { window, softcap, alibi, ..setup.shape };
        setup.sinks = has_sinks.then(|| Numbers(3).row(setup.shape.heads, 2.0));
        setup.kind = if eight_bits { KvType::I8 } else { KvType::I16 };
        setup.compare(&cases);
    }
}

#[test]
#[should_panic(expected = "more queries than positions")]
fn queries_without_positions_are_refused() {
    compare(1, 1, 8, &[case(3, &[2])]);
}

#[test]
#[should_panic(expected = "two items share a row")]
fn rows_of_two_items_are_refused() {
    let setup = Setup::new(1, 1, 8);
    let store = setup.store(&mut Numbers(1), 4, 0);
    let spans = [Span { store: &store, length: 4 }];
    let items = [0..2, 1..3].map(|queries| AttentionItem { queries, spans: &spans });
    setup.run(Level::SCALAR, Rows::new(&[0.0; 24], 3, 8, 8), &items);
}
