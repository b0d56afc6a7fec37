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
}

/// Keys or values.
#[derive(Default)]
struct Buffer {
    elements: Vec<i16>,
    scales: Vec<f32>,
}

impl Buffer {
    fn push(&mut self, row: &[f32]) {
        let start = self.elements.len();
        self.elements.resize(start + row.len(), 0);
        self.scales.push(encode_row(row, &mut self.elements[start..]));
    }

    fn rows(&self) -> CacheRows<'_> {
        CacheRows { elements: &self.elements, scales: &self.scales }
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

/// Compares every instruction set of this machine with the scalar version.
fn compare(heads: usize, kv_heads: usize, head_size: usize, deviation: f32, cases: &[Case]) {
    let shape =
        AttentionShape { heads, kv_heads, head_size, scale: 1.0 / (head_size as f32).sqrt() };
    let mut numbers = Numbers((heads * 31 + head_size) as u64);
    // What lies beyond a span's length must not matter.
    let buffers: Vec<Vec<(Buffer, usize)>> = cases
        .iter()
        .map(|case| {
            let spans = case.spans.iter().flat_map(|&length| [length; 2]);
            spans
                .enumerate()
                .map(|(index, length)| {
                    let capacity = length + index / 2 % 3;
                    let deviation = if index % 2 == 0 { deviation } else { 1.0 };
                    let mut buffer = Buffer::default();
                    for cell in 0..kv_heads * capacity {
                        let filled = cell % capacity < length;
                        let row: Vec<f32> = (0..head_size)
                            .map(|_| if filled { numbers.next(deviation) } else { f32::NAN })
                            .collect();
                        buffer.push(&row);
                    }
                    (buffer, length)
                })
                .collect()
        })
        .collect();
    // A row before and after each item that nobody may touch.
    let mut row = 1;
    let items: Vec<AttentionItem<'_>> = cases
        .iter()
        .zip(&buffers)
        .map(|(case, buffers)| {
            let queries = row..row + case.tokens;
            row = queries.end + 1;
            let spans = buffers.chunks_exact(2).map(|pair| {
                let ((keys, length), (values, _)) = (&pair[0], &pair[1]);
                let capacity = keys.scales.len() / kv_heads;
                (keys.rows(), values.rows(), *length, capacity)
            });
            let spans = spans
                .map(|(keys, values, length, capacity)| CacheSpan {
                    keys,
                    values,
                    length,
                    capacity,
                })
                .collect();
            AttentionItem { queries, spans }
        })
        .collect();
    let queries: Vec<f32> = (0..row * heads * head_size).map(|_| numbers.next(1.0)).collect();
    let untouched = vec![7.5; queries.len()];
    let mut expected = untouched.clone();
    attention_with(InstructionSet::Scalar, shape, &queries, &items, &mut expected);
    // The larger the scores, the more their last bits weigh in the exponential.
    let tolerance = 2e-5 * deviation.max(1.0);
    for set in InstructionSet::ALL.into_iter().filter(|set| set.available()) {
        let mut output = untouched.clone();
        attention_with(set, shape, &queries, &items, &mut output);
        for (index, (output, expected)) in output.iter().zip(&expected).enumerate() {
            let distance = (output - expected).abs();
            assert!(
                distance <= tolerance * expected.abs().max(0.1),
                "{}: {heads} heads, {kv_heads} kv heads, head size {head_size}, {cases:?}: \
                 element {index} is {output}, not {expected}",
                set.name()
            );
        }
    }
}

#[test]
fn no_items_and_no_queries_leave_the_output_alone() {
    compare(4, 2, 64, 1.0, &[]);
    compare(4, 2, 64, 1.0, &[case(0, &[5])]);
}

#[test]
fn one_key_is_its_value() {
    compare(9, 3, 64, 1.0, &[case(1, &[1])]);
    compare(2, 2, 16, 1.0, &[case(1, &[0, 1, 0])]);
}

#[test]
fn every_head_size() {
    for head_size in [1, 7, 8, 16, 20, 64, 72, 80, 96, 100, 128, 256] {
        compare(4, 2, head_size, 1.0, &[case(1, &[70]), case(20, &[30, 40])]);
    }
}

#[test]
fn every_grouping_of_heads() {
    for (heads, kv_heads) in [(1, 1), (5, 5), (9, 3), (8, 1), (14, 2), (12, 4), (70, 1)] {
        compare(heads, kv_heads, 32, 1.0, &[case(1, &[67]), case(3, &[67]), case(33, &[100])]);
    }
}

#[test]
fn every_number_of_queries() {
    for tokens in 1..=70 {
        compare(3, 1, 16, 1.0, &[case(tokens, &[tokens]), case(tokens, &[9, tokens + 61])]);
    }
}

#[test]
fn spans_that_end_anywhere_in_a_tile() {
    for length in [1, 15, 16, 17, 31, 63, 64, 65, 127, 128, 129] {
        compare(6, 2, 64, 1.0, &[case(1, &[length, 3]), case(17, &[length, 90 - length / 2])]);
        compare(6, 2, 64, 1.0, &[case(2, &[1, 1, length, 1, length]), case(1, &[length])]);
    }
}

#[test]
fn long_contexts_are_split_and_merged() {
    compare(9, 3, 64, 1.0, &[case(1, &[3000])]);
    compare(3, 1, 64, 1.0, &[case(2, &[1000, 700, 800])]);
    compare(2, 2, 128, 1.0, &[case(12, &[2100])]);
    compare(1, 1, 64, 1.0, &[case(300, &[900])]);
}

#[test]
fn sharp_softmaxes() {
    compare(6, 2, 64, 30.0, &[case(1, &[700]), case(40, &[128, 200])]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_batch(
        group in 1usize..5,
        kv_heads in 1usize..4,
        head_size in 1usize..100,
        cases in prop::collection::vec((1usize..50, prop::collection::vec(0usize..150, 0..4)), 0..5),
    ) {
        let cases: Vec<Case> = cases
            .into_iter()
            .map(|(tokens, mut spans)| {
                spans.push(tokens);
                Case { tokens, spans }
            })
            .collect();
        compare(group * kv_heads, kv_heads, head_size, 1.0, &cases);
    }
}

#[test]
#[should_panic(expected = "more queries than positions")]
fn queries_without_positions_are_refused() {
    compare(1, 1, 8, 1.0, &[case(3, &[2])]);
}
