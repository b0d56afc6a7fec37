//! Every codec against rows that ggml's reference coded, and against its own promises.

use std::io::Read;
use std::sync::LazyLock;

use half::f16;
use proptest::prelude::*;
use safetensors::SafeTensors;

use super::*;

/// 106 rows of 512 weights (Gaussian, heavy-tailed, constant, zero, single spikes, tiny, huge), what
/// `ggml_quantize_chunk` makes of them in each format, and what ggml reads back.
static VECTORS: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let packed = include_bytes!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/data/codec_vectors.safetensors.zip"
    ));
    let mut archive = zip::ZipArchive::new(std::io::Cursor::new(packed)).unwrap();
    let mut bytes = Vec::new();
    archive.by_index(0).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
});

const COLUMNS: usize = 512;
const ROWS: usize = 106;

fn vector_bytes(name: &str) -> Vec<u8> {
    SafeTensors::deserialize(&VECTORS).unwrap().tensor(name).unwrap().data().to_vec()
}

fn vector_floats(name: &str) -> Vec<f32> {
    vector_bytes(name).as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// All formats but F32, which the vectors do without.
fn coded_formats() -> impl Iterator<Item = GgmlType> {
    known().filter(|&format| format != GgmlType::F32)
}

fn quantizable() -> Vec<GgmlType> {
    known().filter(|&format| can_quantize(format)).collect()
}

fn quantized(format: GgmlType, weights: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; format.row_bytes(weights.len()).unwrap()];
    quantize_row(format, weights, &mut bytes).unwrap();
    bytes
}

fn dequantized(format: GgmlType, bytes: &[u8], columns: usize) -> Vec<f32> {
    let mut weights = vec![0.0; columns];
    dequantize_row(format, bytes, &mut weights).unwrap();
    weights
}

#[test]
fn every_row_quantizes_to_the_reference_bytes() {
    let input = vector_floats("input");
    for format in coded_formats().filter(|&format| can_quantize(format)) {
        let expected = vector_bytes(&format.name().to_lowercase());
        let row_bytes = format.row_bytes(COLUMNS).unwrap();
        assert_eq!(expected.len(), ROWS * row_bytes);
        for set in instruction_sets() {
            let mut output = vec![0; row_bytes];
            for (row, (weights, expected)) in
                input.chunks(COLUMNS).zip(expected.chunks(row_bytes)).enumerate()
            {
                quantize_row_with(set, format, weights, &mut output).unwrap();
                assert_eq!(output, expected, "{format} with {}, row {row}", set.name());
            }
        }
    }
}

fn instruction_sets() -> impl Iterator<Item = InstructionSet> {
    InstructionSet::ALL.into_iter().filter(|set| set.available())
}

#[test]
fn every_row_quantizes_with_importance_to_the_reference_bytes() {
    let input = vector_floats("input");
    let importance = vector_floats("imatrix");
    for format in known().filter(|&format| heeds_importance(format)) {
        let expected = vector_bytes(&format!("{}.imatrix", format.name().to_lowercase()));
        for set in instruction_sets() {
            let mut output = vec![0; expected.len()];
            quantize_weighted_with(set, format, &input, &importance, &mut output).unwrap();
            let row_bytes = format.row_bytes(COLUMNS).unwrap();
            for (row, (ours, theirs)) in
                output.chunks(row_bytes).zip(expected.chunks(row_bytes)).enumerate()
            {
                assert_eq!(ours, theirs, "{format} with {}, row {row}", set.name());
            }
        }
    }
}

#[test]
fn every_row_dequantizes_to_the_reference_bits() {
    for format in coded_formats() {
        let row_bytes = format.row_bytes(COLUMNS).unwrap();
        let name = format.name().to_lowercase();
        let weighted = format!("{name}.imatrix");
        for name in [Some(name), heeds_importance(format).then_some(weighted)].iter().flatten() {
            let bytes = vector_bytes(name);
            let expected = vector_floats(&format!("{name}.dequantized"));
            for set in instruction_sets() {
                let mut output = [0.0; COLUMNS];
                for (row, (bytes, expected)) in
                    bytes.chunks(row_bytes).zip(expected.chunks(COLUMNS)).enumerate()
                {
                    dequantize_row_with(set, format, bytes, &mut output).unwrap();
                    for (column, (ours, theirs)) in output.iter().zip(expected).enumerate() {
                        // The payload of a NaN (infinity times zero) is the machine's choice.
                        let same =
                            ours.to_bits() == theirs.to_bits() || ours.is_nan() && theirs.is_nan();
                        assert!(same, "{name}, row {row}, column {column}: {ours} is not {theirs}");
                    }
                }
            }
        }
    }
}

#[test]
fn the_documentation_has_the_table_of_formats() {
    let page = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/formats.md"));
    assert!(page.contains(&table()), "docs/formats.md should have this table:\n{}", table());
}

#[test]
fn what_is_not_finite_is_refused_with_its_place() {
    for format in quantizable() {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut weights = vec![0.5; 256];
            weights[77] = value;
            let mut output = vec![0; format.row_bytes(256).unwrap()];
            let error = quantize_row(format, &weights, &mut output).unwrap_err();
            assert_eq!(error, CodecError::NotFinite { index: 77, value: value.to_string() });
        }
    }
}

#[test]
fn requantizing_refuses_with_the_place_too() {
    for source in [GgmlType::F16, GgmlType::BF16] {
        for format in quantizable() {
            for set in instruction_sets() {
                let mut bytes = quantized(source, &[0.5; 8192]);
                bytes[2 * 5001..2 * 5002].copy_from_slice(&0xffffu16.to_le_bytes());
                let mut output = vec![0; format.row_bytes(8192).unwrap()];
                let refused = requantize_with(set, source, &bytes, format, &mut output);
                let expected = CodecError::NotFinite { index: 5001, value: "NaN".to_string() };
                assert_eq!(refused, Err(expected), "{source} to {format}");
            }
        }
    }
}

#[test]
fn weights_beyond_the_scales_are_refused_with_their_block() {
    let unbounded = [GgmlType::F32, GgmlType::MXFP4];
    for format in quantizable().into_iter().filter(|format| !unbounded.contains(format)) {
        let mut weights = vec![0.5; 512];
        weights[300] = f32::MAX;
        let mut output = vec![0; format.row_bytes(512).unwrap()];
        let index = 300 / format.block_size() * format.block_size();
        assert_eq!(
            quantize_row(format, &weights, &mut output),
            Err(CodecError::TooLarge { ggml_type: format, index })
        );
    }
}

#[test]
fn unknown_formats_and_ragged_rows_are_refused() {
    assert!(!can_dequantize(GgmlType::IQ1_S));
    assert!(!can_quantize(GgmlType::IQ1_S));
    assert_eq!(
        dequantize_row(GgmlType::IQ1_S, &[0; 50], &mut [0.0; 256]),
        Err(CodecError::Unsupported(GgmlType::IQ1_S, "read"))
    );
    assert_eq!(
        quantize_row(GgmlType::IQ1_S, &[0.0; 256], &mut [0; 50]),
        Err(CodecError::Unsupported(GgmlType::IQ1_S, "written"))
    );
    let ragged = CodecError::Ragged { ggml_type: GgmlType::Q4_K, columns: 32, block: 256 };
    assert_eq!(quantize_row(GgmlType::Q4_K, &[0.0; 32], &mut []), Err(ragged.clone()));
    assert_eq!(dequantize_row(GgmlType::Q4_K, &[], &mut [0.0; 32]), Err(ragged));
}

/// The largest error that a block of these weights may come back with: half a step of the format's
/// grid plus what rounding the scales costs, generously.
fn tolerance(format: GgmlType, block: &[f32]) -> f32 {
    let largest = block.iter().fold(0.0f32, |largest, weight| largest.max(weight.abs()));
    match format {
        GgmlType::F32 => 0.0,
        GgmlType::F16 => largest / 2048.0,
        GgmlType::BF16 => largest / 256.0,
        GgmlType::Q8_0 => largest / 127.0 * 0.6,
        GgmlType::Q4_0 => largest / 8.0 * 1.01,
        GgmlType::Q5_0 => largest / 16.0 * 1.01,
        GgmlType::Q4_1 => largest * 2.0 / 15.0 * 0.6,
        GgmlType::Q5_1 => largest * 2.0 / 31.0 * 0.6,
        // Not derived: the worst of 2.9 million super-blocks of uniform weights was 0.479 of the largest.
        GgmlType::Q2_K => largest * 2.0 / 3.0,
        GgmlType::Q3_K => largest / 4.0 * 1.5,
        // The first trial's grid spans the weights, and a step s of it is at most 2 L/15 or 2 L/31. It
        // loses up to s/2, and another trial is taken only where the sum of w · e² is smaller, whose
        // w = σ + |x| (σ is the root of the mean square) are at least σ each and at most 64 σ in all. Hence no
        // weight loses more than √64 · s/2 = 4 s. Rounding scales and minimums to six bits costs
        // up to 31/126 of the largest scale and 1/126 of the largest minimum: less than one step.
        GgmlType::Q4_K => largest * 2.0 / 15.0 * 5.0,
        GgmlType::Q5_K => largest * 2.0 / 31.0 * 5.0,
        GgmlType::Q6_K => largest / 32.0 * 1.5,
        // The largest weight L of a block is tried as -T for T from 120 to 134, and as 127. A trial's
        // scale is the one of least squares, L/T · Σ u³v / Σ u²v², where u are the weights in units of
        // L/T and v the values that they round to; squares of weights are their importance. A weight
        // loses the most beyond the grid's upper end, 113, hence as one that is as large as L and of
        // the other sign. Each of the 30 others lowers the quotient the most at u = 101, from where v
        // is 113, so that it is at least
        //   (134³ · (127 + 113) + 30 · 101³ · 113) / (134² · (127² + 113²) + 30 · 101² · 113²) = 0.9195
        // for T = 134, where quotient / T is least. What comes back is 113 · 0.9195/134 L = 0.7754 L;
        // the f16 of the scale may take 2⁻¹¹ of it.
        GgmlType::IQ4_NL => largest * 0.226,
        // The same, and six bits for a scale: where it is as large as the super-block's largest and of
        // the other sign, 32 is cut to 31, which leaves 0.7508 L. Any other is off by half a step, a
        // 64th of the largest scale, which by the same quotient is at most L/107: 113/107/64 L less
        // comes back, 0.7589 L. The f16 that all multiply may be subnormal, 2⁻²⁵ off.
        GgmlType::IQ4_XS => largest * 0.25 + 127.0 * 32.0 * 2f32.powi(-25),
        // Values of up to 8 times the scale, of which 6 is the largest; and half the gap below 6.
        GgmlType::MXFP4 => largest / 4.0,
        other => panic!("{other} has no tolerance yet"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_comes_back_is_within_the_step(
        weights in prop::collection::vec(-4.0f32..4.0, 512),
        exponent in -4i32..4,
    ) {
        let weights: Vec<f32> = weights.iter().map(|weight| weight * 2f32.powi(exponent)).collect();
        for format in quantizable() {
            let back = dequantized(format, &quantized(format, &weights), weights.len());
            for (block, back) in weights.chunks(256).zip(back.chunks(256)) {
                let allowed = tolerance(format, block) + f16::MIN_POSITIVE.to_f32();
                for (weight, back) in block.iter().zip(back) {
                    prop_assert!((weight - back).abs() <= allowed, "{} {} {}", format, weight, back);
                }
            }
        }
    }

    #[test]
    fn any_finite_bits_and_any_bytes_are_coded_without_panic(
        bits in prop::collection::vec(any::<u32>(), 256),
        bytes in prop::collection::vec(any::<u8>(), 1024),
    ) {
        let weights: Vec<f32> = bits
            .iter()
            .map(|&bits| f32::from_bits(bits))
            .map(|weight| if weight.is_finite() { weight } else { 1.0 })
            .collect();
        for format in quantizable() {
            let mut output = vec![0; format.row_bytes(weights.len()).unwrap()];
            let coded = quantize_row(format, &weights, &mut output);
            let refused = matches!(coded, Err(CodecError::TooLarge { .. }));
            prop_assert!(coded.is_ok() || refused);
        }
        for format in known() {
            let block = &bytes[..format.block_bytes()];
            dequantized(format, block, format.block_size());
        }
    }

    #[test]
    fn every_instruction_set_gives_the_portable_bytes(
        weights in prop::collection::vec(-1.0f32..1.0, 1024),
        spread in 0u32..60,
        zeros in any::<u64>(),
    ) {
        // Blocks of very different magnitudes, with runs of zeros among them.
        let weights: Vec<f32> = weights
            .iter()
            .enumerate()
            .map(|(index, weight)| match (zeros >> (index / 16 % 64)) & 1 {
                1 if index % 3 > 0 || spread % 2 == 0 => 0.0,
                _ => weight * 2f32.powi(-((index as u32 / 32 * 7 % (spread + 1)) as i32)),
            })
            .collect();
        for format in known() {
            let mut expected = None;
            for set in instruction_sets() {
                let mut bytes = vec![0x3a; format.row_bytes(weights.len()).unwrap()];
                if can_quantize(format) {
                    quantize_row_with(set, format, &weights, &mut bytes).unwrap();
                }
                let mut back = vec![0f32; weights.len()];
                dequantize_row_with(set, format, &bytes, &mut back).unwrap();
                let found = (bytes, back.into_iter().map(f32::to_bits).collect::<Vec<u32>>());
                // The first set is the portable one.
                let expected = expected.get_or_insert_with(|| found.clone());
                prop_assert!(found == *expected, "{} with {}", format, set.name());
            }
        }
    }

    #[test]
    fn importance_gives_the_same_bytes_with_every_instruction_set(
        weights in prop::collection::vec(-1.0f32..1.0, 768 * 5),
        importance in prop::collection::vec(0.0f32..4.0, 768),
        rows in 1usize..=5,
        units in 1usize..=3,
        spread in 0u32..40,
    ) {
        let columns = 256 * units;
        let weights: Vec<f32> = weights[..rows * columns]
            .iter()
            .enumerate()
            .map(|(index, weight)| weight * 2f32.powi(-((index as u32 / 32 * 7 % (spread + 1)) as i32)))
            .collect();
        for format in known().filter(|&format| heeds_importance(format)) {
            let mut expected = None;
            for set in instruction_sets() {
                let mut bytes = vec![0x3a; format.row_bytes(columns).unwrap() * rows];
                quantize_weighted_with(set, format, &weights, &importance[..columns], &mut bytes)
                    .unwrap();
                let expected = expected.get_or_insert_with(|| bytes.clone());
                prop_assert!(bytes == *expected, "{} with {}", format, set.name());
            }
            // Rows do not depend on one another.
            let row_bytes = format.row_bytes(columns).unwrap();
            let mut last = vec![0; row_bytes];
            let row = &weights[(rows - 1) * columns..];
            quantize_weighted(format, row, &importance[..columns], &mut last).unwrap();
            prop_assert!(expected.unwrap().ends_with(&last), "{}", format);
        }
    }

    #[test]
    fn requantizing_is_reading_and_writing(
        halves in prop::collection::vec(any::<u16>(), 256 * 20),
        super_blocks in 1usize..=20,
    ) {
        let sources = [GgmlType::F16, GgmlType::BF16, GgmlType::F32, GgmlType::Q8_0];
        for source in sources {
            // Any finite halves, as bytes of any source.
            let weights: Vec<f32> = halves[..256 * super_blocks]
                .iter()
                .map(|&bits| f16::from_bits(bits).to_f32())
                .map(|weight| if weight.is_finite() { weight / 2.0 } else { 1.0 })
                .collect();
            let bytes = quantized(source, &weights);
            let weights = dequantized(source, &bytes, weights.len());
            for format in quantizable() {
                let expected = quantized(format, &weights);
                for set in instruction_sets() {
                    let mut output = vec![0x3a; expected.len()];
                    requantize_with(set, source, &bytes, format, &mut output).unwrap();
                    prop_assert!(output == expected, "{} to {}", source, format);
                }
            }
        }
    }

    #[test]
    fn any_length_is_coded_or_refused(columns in 0usize..600) {
        let weights = vec![0.25; columns];
        for format in quantizable() {
            let bytes = format.row_bytes(columns);
            let mut output = vec![0; bytes.unwrap_or(0)];
            prop_assert_eq!(quantize_row(format, &weights, &mut output).is_ok(), bytes.is_some());
        }
    }
}
