use half::{bf16, f16};
use proptest::prelude::*;

use super::*;
use crate::kernels::elementwise::{Activation, Norm, Rows, activate_row, gate_row, norm_row};
use crate::quant::formats::{dequantize_row, known};

/// Numbers that look random and are the same every time.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    /// Between −1 and 1.
    fn value(&mut self) -> f32 {
        (self.next() % 20_001) as f32 / 10_000.0 - 1.0
    }

    fn values(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.value()).collect()
    }

    /// A row of any codes at all, with scales between −1 and 1.
    fn row(&mut self, ggml_type: GgmlType, columns: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> =
            (0..ggml_type.row_bytes(columns).unwrap()).map(|_| self.next() as u8).collect();
        for block in bytes.chunks_exact_mut(ggml_type.block_bytes()) {
            match ggml_type {
                GgmlType::F32 => block.copy_from_slice(&self.value().to_le_bytes()),
                GgmlType::BF16 => {
                    block.copy_from_slice(&bf16::from_f32(self.value()).to_le_bytes());
                }
                GgmlType::MXFP4 => block[0] = 120 + self.next() as u8 % 8,
                _ => {
                    for &at in half_positions(ggml_type) {
                        let half = f16::from_f32(self.value());
                        block[at..at + 2].copy_from_slice(&half.to_le_bytes());
                    }
                }
            }
        }
        bytes
    }
}

/// Where a block has its f16 scales and minimums.
fn half_positions(ggml_type: GgmlType) -> &'static [usize] {
    match ggml_type {
        GgmlType::Q4_1 | GgmlType::Q5_1 | GgmlType::Q4_K | GgmlType::Q5_K => &[0, 2],
        GgmlType::Q2_K => &[80, 82],
        GgmlType::Q3_K => &[108],
        GgmlType::Q6_K => &[208],
        _ => &[0],
    }
}

/// What the product should be: dequantized weights times `inputs`, in f64, with the sum of the
/// terms' magnitudes.
fn expected(ggml_type: GgmlType, columns: usize, rows: &[u8], inputs: &[f32]) -> Vec<(f64, f64)> {
    let mut weights = vec![0.0; columns];
    let rows: Vec<Vec<f32>> = rows
        .chunks_exact(ggml_type.row_bytes(columns).unwrap())
        .map(|row| {
            dequantize_row(ggml_type, row, &mut weights).unwrap();
            weights.clone()
        })
        .collect();
    let mut products = Vec::new();
    for input in inputs.chunks_exact(columns) {
        for row in &rows {
            let terms = input.iter().zip(row).map(|(&input, &w)| f64::from(input) * f64::from(w));
            let magnitude = terms.clone().map(f64::abs).sum();
            products.push((terms.sum(), magnitude));
        }
    }
    products
}

/// The largest whole number that `bits` bits hold.
fn most(bits: ActivationBits) -> f32 {
    match bits {
        ActivationBits::Eight => 127.0,
        ActivationBits::Sixteen => 32_512.0,
    }
}

/// Inputs that `bits` bits hold exactly: whole numbers, the largest among each block.
fn exact_inputs(
    numbers: &mut Numbers,
    bits: ActivationBits,
    tokens: usize,
    columns: usize,
) -> Vec<f32> {
    let most = most(bits);
    let all = 2 * most as u64 + 1;
    let mut inputs: Vec<f32> =
        (0..tokens * columns).map(|_| (numbers.next() % all) as f32 - most).collect();
    inputs.iter_mut().step_by(32).for_each(|value| *value = most);
    inputs
}

/// The matrix for every level of this machine and for activations of 8 and 16 bits.
fn packed(
    ggml_type: GgmlType,
    rows: usize,
    columns: usize,
    bytes: &[u8],
) -> impl Iterator<Item = (Level, ActivationBits, PackedMatrix)> {
    let kinds = ActivationBits::ALL.into_iter();
    let all =
        Level::available().flat_map(move |level| kinds.clone().map(move |bits| (level, bits)));
    all.map(move |(level, bits)| {
        let matrix = PackedMatrix::pack_for(level, ggml_type, rows, columns, bytes).unwrap();
        (level, bits, matrix.with_activations(bits))
    })
}

fn assert_close(actual: &[f32], expected: &[(f64, f64)], tolerance: f64, what: &str) {
    assert_eq!(actual.len(), expected.len());
    for (index, (&actual, &(value, magnitude))) in actual.iter().zip(expected).enumerate() {
        let error = (f64::from(actual) - value).abs();
        assert!(
            error <= tolerance * magnitude + 1e-30,
            "{what}, element {index}: {actual} is not {value} (terms add up to {magnitude})"
        );
    }
}

/// The product with plain rows, on the process's team.
fn multiply(matrix: &PackedMatrix, tokens: usize, inputs: &[f32], output: &mut [f32]) {
    let source = Source::Rows(Rows::new(inputs, tokens, matrix.columns(), matrix.columns()));
    let targets = &mut [Target::new(output)];
    multiply_many(Team::global(), &[matrix], &source, targets, &mut Workspace::default());
}

fn check(ggml_type: GgmlType, rows: usize, columns: usize, tokens: usize, seed: u64) {
    let mut numbers = Numbers(seed);
    let bytes: Vec<u8> = (0..rows).flat_map(|_| numbers.row(ggml_type, columns)).collect();
    let inputs = ActivationBits::ALL.map(|bits| exact_inputs(&mut numbers, bits, tokens, columns));
    let expected = inputs.each_ref().map(|inputs| expected(ggml_type, columns, &bytes, inputs));
    for (level, bits, matrix) in packed(ggml_type, rows, columns, &bytes) {
        let mut output = vec![f32::NAN; tokens * rows];
        multiply(&matrix, tokens, &inputs[bits as usize], &mut output);
        // Inputs are exact, and so are the sums in integers: what is left is f32 rounding.
        let what = format!("{ggml_type} {level:?} {bits:?} {rows}×{columns}, {tokens} tokens");
        assert_close(&output, &expected[bits as usize], 2e-6, &what);
    }
}

/// Every set gives the very results of the portable kernels.
fn check_equal(ggml_type: GgmlType, rows: usize, columns: usize, tokens: usize, seed: u64) {
    let mut numbers = Numbers(seed);
    let bytes: Vec<u8> = (0..rows).flat_map(|_| numbers.row(ggml_type, columns)).collect();
    let inputs = numbers.values(tokens * columns);
    let mut expected = [const { Vec::new() }; ActivationBits::ALL.len()];
    for (level, bits, matrix) in packed(ggml_type, rows, columns, &bytes) {
        let mut output = vec![f32::NAN; tokens * rows];
        multiply(&matrix, tokens, &inputs, &mut output);
        let output: Vec<u32> = output.into_iter().map(f32::to_bits).collect();
        // The scalar level comes first.
        let expected = &mut expected[bits as usize];
        if level == Level::SCALAR {
            *expected = output;
        } else {
            let what = format!("{ggml_type} {level:?} {bits:?} {rows}×{columns}, {tokens} tokens");
            assert!(output == *expected, "{what}");
        }
    }
}

#[test]
fn every_set_gives_the_same_bits() {
    for ggml_type in known() {
        let block = ggml_type.block_size().max(32);
        // Enough columns for several strips, and an odd number of panels.
        check_equal(ggml_type, 40, 1280_usize.next_multiple_of(block), 13, 3);
        check_equal(ggml_type, 33, block, 6, 4);
    }
}

#[test]
fn every_type_on_every_set_is_the_dequantized_product() {
    for ggml_type in known() {
        let columns = ggml_type.block_size().max(32);
        for (rows, blocks, tokens) in [(1, 1, 1), (15, 3, 2), (33, 2, 3), (16, 5, 40), (100, 3, 13)]
        {
            check(ggml_type, rows, blocks * columns, tokens, rows as u64);
        }
    }
}

#[test]
fn every_number_of_tokens_is_cut_into_tiles() {
    for ggml_type in [GgmlType::F16, GgmlType::Q4_0, GgmlType::Q6_K] {
        for tokens in 0..=40 {
            check(ggml_type, 17, 256, tokens, tokens as u64);
        }
    }
}

#[test]
fn floats_take_any_number_of_columns() {
    for ggml_type in [GgmlType::F32, GgmlType::F16, GgmlType::BF16] {
        for columns in [1, 2, 3, 5, 31, 67] {
            check(ggml_type, 35, columns, 5, columns as u64);
        }
    }
}

#[test]
fn the_largest_sums_do_not_overflow() {
    for ggml_type in known().filter(|ggml_type| ggml_type.block_size() > 1) {
        for byte in [0x00, 0xff, 0x80, 0x7f, 0x88] {
            let columns = ggml_type.block_size();
            let mut row = vec![byte; ggml_type.row_bytes(columns).unwrap()];
            for &at in half_positions(ggml_type) {
                row[at..at + 2].copy_from_slice(&f16::ONE.to_le_bytes());
            }
            if ggml_type == GgmlType::MXFP4 {
                row[0] = 127;
            }
            for (level, bits, matrix) in packed(ggml_type, 1, columns, &row) {
                for input in [most(bits), -most(bits)] {
                    let inputs = vec![input; columns];
                    let expected = expected(ggml_type, columns, &row, &inputs);
                    let mut output = [f32::NAN];
                    multiply(&matrix, 1, &inputs, &mut output);
                    let what = format!("{ggml_type} {level:?} {bits:?} {byte}");
                    assert_close(&output, &expected, 2e-6, &what);
                }
            }
        }
    }
}

#[test]
fn every_exponent_of_a_power_of_two_is_its_own() {
    let columns = 32;
    let mut bytes = Vec::new();
    // With larger ones (2¹⁰³ and more), MAGIC times the scale is not finite.
    let exponents = 0..=230;
    let rows = exponents.clone().count();
    for exponent in exponents {
        bytes.push(exponent);
        bytes.extend([0x21; 16]);
    }
    let inputs: Vec<f32> = (0..columns).map(|column| (column as f32 - 16.0) / 1024.0).collect();
    let exact = expected(GgmlType::MXFP4, columns, &bytes, &inputs);
    let mut first: Option<Vec<u32>> = None;
    for (level, bits, matrix) in packed(GgmlType::MXFP4, rows, columns, &bytes) {
        let mut output = vec![f32::NAN; rows];
        multiply(&matrix, 1, &inputs, &mut output);
        assert!(output.iter().all(|value| value.is_finite()), "{level:?} {bits:?}");
        if bits == ActivationBits::Eight {
            let output: Vec<u32> = output.iter().map(|value| value.to_bits()).collect();
            assert!(*first.get_or_insert_with(|| output.clone()) == output, "{level:?}");
        }
        // Subnormal sums have few digits.
        for (row, (value, (expected, magnitude))) in output.iter().zip(&exact).enumerate() {
            let error = (f64::from(*value) - expected).abs();
            assert!(error <= 0.01 * magnitude + 1e-43, "{level:?} {bits:?} exponent {row}");
        }
    }
}

#[test]
fn packed_weights_take_what_they_take_in_the_file() {
    let (rows, columns) = (64, 2048);
    for ggml_type in known() {
        let bytes = rows * ggml_type.row_bytes(columns).unwrap();
        let packed = PackedMatrix::pack(ggml_type, rows, columns, &vec![0; bytes]).unwrap();
        let share = packed.packed_bytes() as f64 / bytes as f64;
        assert!((1.0..1.04).contains(&share), "{ggml_type}: {share}");
    }
}

#[test]
fn rounding_the_inputs_costs_half_a_step() {
    // No input is off by more than half a step of 1/127 and the rounding of its scale; or what
    // `quantize_twice` says, and then f32 rounding counts too.
    let largest = |bits| match bits {
        ActivationBits::Eight => 0.5 / 127.0 + 1.0 / 2048.0,
        ActivationBits::Sixteen => 0.51 / 32_512.0 + 2e-6,
    };
    let (rows, columns, tokens) = (40, 512, 6);
    for ggml_type in known().filter(|ggml_type| ggml_type.block_size() > 1) {
        let mut numbers = Numbers(7);
        let bytes: Vec<u8> = (0..rows).flat_map(|_| numbers.row(ggml_type, columns)).collect();
        let inputs = numbers.values(tokens * columns);
        let exact = expected(ggml_type, columns, &bytes, &inputs);
        let ones = vec![1.0; tokens * columns];
        let weights = expected(ggml_type, columns, &bytes, &ones);
        for (level, bits, matrix) in packed(ggml_type, rows, columns, &bytes) {
            let mut output = vec![f32::NAN; tokens * rows];
            multiply(&matrix, tokens, &inputs, &mut output);
            for ((&actual, (value, _)), (_, magnitude)) in output.iter().zip(&exact).zip(&weights) {
                let error = (f64::from(actual) - value).abs();
                assert!(error <= magnitude * largest(bits), "{ggml_type} {level:?} {bits:?}");
            }
        }
    }
}

#[test]
fn many_matrices_are_multiplied_as_each_alone() {
    let (columns, tokens) = (256, 21);
    let mut numbers = Numbers(11);
    let inputs = numbers.values(tokens * columns);
    for level in Level::available() {
        let [eight, sixteen] = ActivationBits::ALL;
        let matrices: Vec<PackedMatrix> = [
            (GgmlType::Q4_K, 50, eight),
            (GgmlType::F16, 70, eight),
            (GgmlType::Q6_K, 0, eight),
            (GgmlType::Q5_1, 40, sixteen),
            (GgmlType::Q8_0, 16, eight),
        ]
        .into_iter()
        .map(|(ggml_type, rows, bits)| {
            let bytes: Vec<u8> = (0..rows).flat_map(|_| numbers.row(ggml_type, columns)).collect();
            let matrix = PackedMatrix::pack_for(level, ggml_type, rows, columns, &bytes).unwrap();
            matrix.with_activations(bits)
        })
        .collect();
        let outputs = || -> Vec<Vec<f32>> {
            matrices.iter().map(|matrix| vec![f32::NAN; tokens * matrix.rows()]).collect()
        };
        let (mut together, mut alone) = (outputs(), outputs());
        let references: Vec<&PackedMatrix> = matrices.iter().collect();
        let mut targets: Vec<Target<'_>> =
            together.iter_mut().map(|output| Target::new(output)).collect();
        let source = Source::Rows(Rows::new(&inputs, tokens, columns, columns));
        let workspace = &mut Workspace::default();
        multiply_many(Team::global(), &references, &source, &mut targets, workspace);
        for (matrix, output) in matrices.iter().zip(&mut alone) {
            multiply(matrix, tokens, &inputs, output);
        }
        assert_eq!(together, alone);
    }
}

#[test]
fn a_token_gets_the_same_result_in_any_company() {
    let (rows, columns) = (48, 256);
    for ggml_type in known() {
        let mut numbers = Numbers(13);
        let bytes: Vec<u8> = (0..rows).flat_map(|_| numbers.row(ggml_type, columns)).collect();
        let inputs = numbers.values(40 * columns);
        for (level, bits, matrix) in packed(ggml_type, rows, columns, &bytes) {
            let mut all = vec![0.0; 40 * rows];
            multiply(&matrix, 40, &inputs, &mut all);
            for (input, all) in inputs.chunks_exact(columns).zip(all.chunks_exact(rows)) {
                let mut one = vec![0.0; rows];
                multiply(&matrix, 1, input, &mut one);
                assert_eq!(one, all, "{ggml_type} {level:?} {bits:?}");
            }
        }
    }
}

#[test]
fn every_set_prepares_the_same_words() {
    let mut numbers = Numbers(23);
    // More blocks than are prepared together, of every size that f32 has.
    let mut inputs = numbers.values(37 * 32);
    let usual = inputs.clone();
    for (block, values) in inputs.chunks_exact_mut(32).enumerate() {
        let sizes = [0.0, 1e-42, 1e-36, 0.9e-30, 1.1e-30, 1e-9, 1.0, 1e4, 1e20, 3e38];
        values.iter_mut().for_each(|value| *value *= sizes[block % sizes.len()]);
    }
    let cases = [(ActivationKind::Quantized, &usual), (ActivationKind::QuantizedTwice, &inputs)];
    for (kind, inputs) in cases {
        for count in (32..=inputs.len()).step_by(32) {
            let words = |set| {
                let mut words = vec![0; kind.token_words(count)];
                kernel::fill(set, kind, &inputs[..count], &mut words);
                words
            };
            let expected = words(Level::SCALAR.set);
            for level in Level::available() {
                assert!(words(level.set) == expected, "{kind:?} {level:?}, {count} columns");
            }
        }
    }
}

#[test]
fn an_input_that_is_not_finite_is_not_hidden() {
    let columns = 64;
    let mut numbers = Numbers(29);
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut inputs = numbers.values(columns);
        inputs[40] = value;
        let bytes = numbers.row(GgmlType::Q5_1, columns);
        for (level, bits, matrix) in packed(GgmlType::Q5_1, 1, columns, &bytes) {
            let mut output = [0.0];
            multiply(&matrix, 1, &inputs, &mut output);
            assert!(!output[0].is_finite(), "{value} with {level:?} {bits:?}: {}", output[0]);
        }
    }
}

#[test]
fn sources_are_computed_as_their_rows_would_be() {
    let (rows, columns, tokens, stride) = (50, 96, 70, 2 * 96 + 3);
    let mut numbers = Numbers(17);
    let (values, weight, bias) =
        (numbers.values(tokens * stride), numbers.values(columns), numbers.values(columns));
    // Both lie in the rows of one matrix.
    let [a, b] = [0, columns].map(|first| Rows::new(&values[first..], tokens, columns, stride));
    let (weight, epsilon) = (Some(&weight[..]), 1e-5);
    let sources = [
        Source::Rows(a),
        Source::Normalized { rows: a, norm: Norm::Rms { weight, epsilon } },
        Source::Normalized { rows: a, norm: Norm::Layer { weight, bias: Some(&bias), epsilon } },
        Source::Activated { activation: Activation::GeluErf, rows: a },
        Source::Gated { activation: Activation::Silu, gate: a, up: b },
        Source::Gated { activation: Activation::GeluTanh, gate: a, up: b },
    ];
    for ggml_type in [GgmlType::F16, GgmlType::Q4_0] {
        let bytes: Vec<u8> = (0..rows).flat_map(|_| numbers.row(ggml_type, columns)).collect();
        for level in Level::available() {
            let matrix = PackedMatrix::pack_for(level, ggml_type, rows, columns, &bytes).unwrap();
            for source in &sources {
                let mut computed = vec![0.0; tokens * columns];
                for (token, row) in computed.chunks_exact_mut(columns).enumerate() {
                    match source {
                        Source::Rows(rows) => row.copy_from_slice(rows.row(token)),
                        Source::Normalized { norm, .. } => norm_row(*norm, a.row(token), row),
                        Source::Activated { activation, .. } => {
                            activate_row(*activation, a.row(token), row);
                        }
                        Source::Gated { activation, .. } => {
                            gate_row(*activation, a.row(token), b.row(token), row);
                        }
                    }
                }
                let mut expected = vec![f32::NAN; tokens * rows];
                multiply(&matrix, tokens, &computed, &mut expected);
                let mut output = vec![f32::NAN; tokens * rows];
                let targets = &mut [Target::new(&mut output)];
                let workspace = &mut Workspace::default();
                multiply_many(Team::global(), &[&matrix], source, targets, workspace);
                assert_eq!(output, expected, "{ggml_type} {level:?}");
            }
        }
    }
}

#[test]
fn targets_take_a_bias_and_are_added_to() {
    let columns = 64;
    let mut numbers = Numbers(19);
    let mut workspace = Workspace::default();
    for (rows, tokens) in [(1, 1), (16, 3), (70, 5), (64, 30), (33, 2)] {
        let (inputs, bias) = (numbers.values(tokens * columns), numbers.values(rows));
        let before = numbers.values(tokens * rows);
        let source = Source::Rows(Rows::new(&inputs, tokens, columns, columns));
        for ggml_type in [GgmlType::BF16, GgmlType::Q8_0] {
            let bytes: Vec<u8> = (0..rows).flat_map(|_| numbers.row(ggml_type, columns)).collect();
            for (level, bits, matrix) in packed(ggml_type, rows, columns, &bytes) {
                let mut product = vec![f32::NAN; tokens * rows];
                multiply(&matrix, tokens, &inputs, &mut product);
                for (bias, update) in [
                    (None, Update::Add(1.0)),
                    (None, Update::Add(0.22)),
                    (Some(&bias), Update::Replace),
                    (Some(&bias), Update::Add(1.0)),
                    (Some(&bias), Update::Add(-1.5)),
                ] {
                    let mut values = before.clone();
                    let bias = bias.map(Vec::as_slice);
                    let targets = &mut [Target { values: &mut values, bias, update }];
                    multiply_many(Team::global(), &[&matrix], &source, targets, &mut workspace);
                    for (index, value) in values.into_iter().enumerate() {
                        let sum = bias.map_or(product[index], |b| product[index] + b[index % rows]);
                        let expected = match update {
                            Update::Replace => sum,
                            // With a factor of one it is the plain sum to the bit.
                            Update::Add(1.0) => before[index] + sum,
                            Update::Add(factor) => before[index] + factor * sum,
                        };
                        assert_eq!(
                            value, expected,
                            "{ggml_type} {level:?} {bits:?} {rows} {tokens} {index}"
                        );
                    }
                }
            }
        }
    }
}

fn product_of(columns: usize, target: usize, bias: Option<&[f32]>) {
    let matrix = PackedMatrix::pack(GgmlType::F32, 2, 3, &[0; 24]).unwrap();
    let inputs = vec![0.0; 2 * columns];
    let source = Source::Rows(Rows::new(&inputs, 2, columns, columns));
    let targets = &mut [Target { values: &mut vec![0.0; target], bias, update: Update::Replace }];
    multiply_many(Team::global(), &[&matrix], &source, targets, &mut Workspace::default());
}

#[test]
#[should_panic(expected = "the source has the matrix's columns")]
fn a_source_of_other_columns_panics() {
    product_of(4, 4, None);
}

#[test]
#[should_panic(expected = "the target is tokens × rows")]
fn a_target_of_another_length_panics() {
    product_of(3, 5, None);
}

#[test]
#[should_panic(expected = "the bias has the matrix's rows")]
fn a_bias_of_another_length_panics() {
    product_of(3, 4, Some(&[0.0; 3]));
}

#[test]
fn what_cannot_be_multiplied_is_refused() {
    let refused = PackedMatrix::pack(GgmlType::I32, 1, 1, &[0; 4]).unwrap_err();
    assert!(refused.to_string().contains("I32"), "{refused}");
    assert!(matches!(
        PackedMatrix::pack(GgmlType::Q4_K, 1, 576, &[0; 324]),
        Err(PackError::Format(CodecError::Ragged { columns: 576, block: 256, .. }))
    ));
}

#[test]
fn weights_without_memory_are_refused() {
    assert!(AlignedBytes::zeroed(1 << 60).is_none());
}

#[test]
fn the_empty_product_is_zero() {
    let matrix = PackedMatrix::pack(GgmlType::F16, 3, 0, &[]).unwrap();
    let mut output = [f32::NAN; 6];
    multiply(&matrix, 2, &[], &mut output);
    assert_eq!(output, [0.0; 6]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn awkward_shapes(
        ggml_type in prop::sample::select(known().collect::<Vec<_>>()),
        rows in 1usize..300,
        blocks in 1usize..4,
        tokens in 0usize..20,
        seed: u64,
    ) {
        check(ggml_type, rows, blocks * ggml_type.block_size().max(32), tokens, seed);
        check_equal(ggml_type, rows, blocks * ggml_type.block_size().max(32), tokens, seed);
    }
}
