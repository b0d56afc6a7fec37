//! The decoder against transformers' logits (`scripts/tiny_reference_models.py`), and against
//! itself: batches, chunks and forks change nothing.

use std::path::{Path, PathBuf};

use candle_core::Device;

use super::cache::Memory;
use super::decoder::BackEnd;
use super::ops::{KernelOps, KernelOptions};
use super::weights::kv_shape;
use super::{BatchItem, Decoder, SequenceCache};
use crate::gguf::{Array, GgmlType, GgufFile, GgufWriter, Metadata, TensorPlan, Value};
use crate::kernels::attention::KvType;
use crate::kernels::matmul::ActivationBits;

/// Models of llama's layers, with each kind of rotary scaling.
const LLAMA_LIKE: [&str; 7] =
    ["llama", "llama-linear", "llama-yarn", "llama-yarn-factor", "llama-llama3", "qwen2", "qwen3"];

/// Largest difference of a logit for each of [`BACK_ENDS`]; logits of these models reach 4. Our kernels
/// round keys and values to 16 bits. Candle's operations round activations too, and add up in an
/// order that depends on the processor: 1e-2 was seen on an Intel Xeon, 3.5e-2 on an AMD Zen 5.
const AGAINST_REFERENCE: [f32; 2] = [1e-2, 6e-2];

fn model_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/families/{name}.gguf"))
}

/// What the engine takes unless told otherwise.
const OPTIONS: KernelOptions =
    KernelOptions { kv_type: KvType::I16, activations: ActivationBits::Eight };

/// Our kernels.
const OURS: BackEnd = BackEnd::Kernels(OPTIONS);

/// Both back ends, on the CPU.
const BACK_ENDS: [BackEnd; 2] = [OURS, BackEnd::Tensors(Device::Cpu)];

fn load(path: &Path, back_end: BackEnd) -> Result<Decoder, String> {
    let file = GgufFile::open(path).map_err(|error| error.to_string())?;
    Decoder::load_with(file, back_end).map_err(|error| error.to_string())
}

fn tiny(name: &str) -> Decoder {
    load(&model_path(name), OURS).unwrap()
}

/// The reference's tokens and logits.
fn reference(name: &str) -> (Vec<u32>, Vec<f32>) {
    let file = GgufFile::open(&model_path(name)).unwrap();
    let tokens = file.metadata().integers("reference.tokens").unwrap();
    let logits = file.metadata().floats("reference.logits").unwrap();
    (tokens.iter().map(|&token| token as u32).collect(), logits.to_vec())
}

/// Appends tokens to a cache and returns the logits of all of them.
fn run(decoder: &mut Decoder, cache: &mut SequenceCache, tokens: &[u32]) -> Vec<f32> {
    decoder.forward(&mut [BatchItem { cache, tokens, logits: tokens.len() }]).unwrap().to_vec()
}

#[track_caller]
fn assert_close(actual: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(actual.len(), expected.len());
    let differences = actual.iter().zip(expected).map(|(a, b)| (a - b).abs());
    let largest =
        differences.fold(0f32, |largest, next| if next > largest { next } else { largest });
    assert!(largest < tolerance, "the largest difference is {largest}");
    assert!(actual.iter().all(|value| value.is_finite()));
}

/// Our kernels give the same bits however tokens are put together. Candle's operations add up in another
/// order.
#[track_caller]
fn assert_same(back_end: &BackEnd, actual: &[f32], expected: &[f32]) {
    match back_end {
        BackEnd::Kernels(_) => assert!(actual == expected, "the bits differ"),
        BackEnd::Tensors(_) => assert_close(actual, expected, 2e-3),
    }
}

/// The names of the reference models of all families (scripts/tiny_reference_models.py).
fn family_models() -> Vec<String> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/families");
    let names = std::fs::read_dir(directory).unwrap().filter_map(|entry| {
        let name = entry.unwrap().file_name().into_string().unwrap();
        name.strip_suffix(".gguf").map(str::to_string)
    });
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

/// The largest difference of a log-probability.
fn largest_difference(ours: &[f32], theirs: &[f32], width: usize) -> f64 {
    let log_probabilities = |logits: &[f32]| -> Vec<f64> {
        let total: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
        logits.iter().map(|&logit| f64::from(logit) - total.ln()).collect()
    };
    assert_eq!(ours.len(), theirs.len());
    let rows = ours.chunks_exact(width).zip(theirs.chunks_exact(width));
    let differences = rows.flat_map(|(ours, theirs)| {
        let pairs = log_probabilities(ours).into_iter().zip(log_probabilities(theirs));
        pairs.map(|(ours, theirs)| (ours - theirs).abs()).collect::<Vec<_>>()
    });
    // A NaN counts as the largest.
    differences.fold(0.0, |largest, next| if next <= largest { largest } else { next })
}

#[test]
fn every_scaling_has_the_logits_of_transformers_on_both_back_ends() {
    for name in LLAMA_LIKE {
        let (tokens, logits) = reference(name);
        for (back_end, bar) in BACK_ENDS.into_iter().zip(AGAINST_REFERENCE) {
            let mut decoder = load(&model_path(name), back_end).unwrap();
            let ours = run(&mut decoder, &mut SequenceCache::new(0), &tokens);
            assert_close(&ours, &logits, bar);
        }
    }
}

#[test]
fn every_family_has_the_log_probabilities_of_transformers() {
    let models = family_models();
    assert!(models.len() > 35, "{}", models.len());
    let mut problems = Vec::new();
    for name in models {
        let (tokens, logits) = reference(&name);
        let width = logits.len() / tokens.len();
        // Weights are F16 on both sides; candle's back end rounds activations and caches to it too.
        for (back_end, bar) in BACK_ENDS.into_iter().zip([5e-3, 6e-2]) {
            let mut decoder = match load(&model_path(&name), back_end) {
                Ok(decoder) => decoder,
                Err(problem) => {
                    problems.push(format!("{name}: {problem}"));
                    break;
                }
            };
            let whole = run(&mut decoder, &mut SequenceCache::new(tokens.len()), &tokens);
            let mut cache = SequenceCache::new(tokens.len());
            let chunks = tokens.chunks(7).flat_map(|part| run(&mut decoder, &mut cache, part));
            let chunks: Vec<f32> = chunks.collect();
            for (how, ours) in [("in one step", &whole), ("in chunks", &chunks)] {
                let difference = largest_difference(ours, &logits, width);
                if difference.is_nan() || difference >= bar {
                    problems.push(format!("{name} {how}: {difference:.1e}, not below {bar:.0e}"));
                }
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn a_prompt_in_chunks_gives_the_logits_of_one_piece() {
    let mut decoder = tiny("llama");
    let (tokens, _) = reference("llama");
    let whole = run(&mut decoder, &mut SequenceCache::new(tokens.len()), &tokens);
    for (chunk, expected_tokens) in [(1, 0), (1, 40), (7, 5), (16, 0), (39, 100)] {
        let mut cache = SequenceCache::new(expected_tokens);
        let chunks = tokens.chunks(chunk).flat_map(|tokens| run(&mut decoder, &mut cache, tokens));
        assert_same(&OURS, &chunks.collect::<Vec<_>>(), &whole);
        assert_eq!(cache.length(), tokens.len());
    }
}

/// Beyond blocks and parts of keys, windows, and segments.
#[test]
fn a_long_text_in_any_pieces_and_forks_gives_the_same_bits() {
    for name in ["llama", "gemma2", "gemma3", "gemma4-shared", "bloom", "smollm3"] {
        let mut decoder = tiny(name);
        let (tokens, _) = reference(name);
        let tokens: Vec<u32> = tokens.iter().copied().cycle().take(700).collect();
        let width = decoder.vocabulary();
        let whole = run(&mut decoder, &mut SequenceCache::new(700), &tokens);
        for (chunk, room) in [(512, 700), (64, 1), (7, 100)] {
            let mut cache = SequenceCache::new(room);
            let chunks = tokens.chunks(chunk).flat_map(|part| run(&mut decoder, &mut cache, part));
            let chunks: Vec<f32> = chunks.collect();
            assert!(chunks == whole, "{name} by {chunk}");
            for start in [1, 63, 64, 130, 600] {
                let mut fork = cache.fork_at(start, 3);
                let some = &tokens[start..start + 70];
                let grown = run(&mut decoder, &mut fork, &some[..1]);
                assert!(grown == whole[start * width..][..width], "{name} from {start}");
                let grown = run(&mut decoder, &mut fork, &some[1..]);
                let expected = &whole[(start + 1) * width..(start + 70) * width];
                assert!(grown == expected, "{name} from {start}");
            }
        }
    }
}

#[test]
fn a_batch_gives_each_sequence_the_logits_that_it_gets_alone() {
    for back_end in BACK_ENDS {
        let mut decoder = load(&model_path("llama-yarn"), back_end.clone()).unwrap();
        let (tokens, _) = reference("llama-yarn");
        let parts = [&tokens[..1], &tokens[3..20], &tokens[20..21], &tokens[5..40]];
        let prefixes = [&tokens[..9], &tokens[..0], &tokens[..30], &tokens[..3]];
        let new_caches = |decoder: &mut Decoder| {
            prefixes.map(|prefix| {
                let mut cache = SequenceCache::new(0);
                if !prefix.is_empty() {
                    run(decoder, &mut cache, prefix);
                }
                cache
            })
        };
        let mut caches = new_caches(&mut decoder);
        let alone: Vec<f32> = caches
            .iter_mut()
            .zip(parts)
            .flat_map(|(cache, part)| run(&mut decoder, cache, part))
            .collect();
        let mut caches = new_caches(&mut decoder);
        let mut items: Vec<_> = caches
            .iter_mut()
            .zip(parts)
            .map(|(cache, tokens)| BatchItem { cache, tokens, logits: tokens.len() })
            .collect();
        assert_same(&back_end, decoder.forward(&mut items).unwrap(), &alone);
    }
}

/// LongRoPE: the original context is 32 tokens, the reference has more.
#[test]
fn a_sequence_is_short_or_long_from_its_first_token_on() {
    let (tokens, _) = reference("phi3-longrope");
    for back_end in BACK_ENDS {
        let mut decoder = load(&model_path("phi3-longrope"), back_end).unwrap();
        assert_eq!(decoder.original_context(), Some(32));
        let (mut short, mut long) = (SequenceCache::new(32), SequenceCache::new(33));
        let of_short = run(&mut decoder, &mut short, &tokens[..20]);
        let of_long = run(&mut decoder, &mut long, &tokens[..20]);
        assert!(largest_difference(&of_short, &of_long, decoder.vocabulary()) > 0.1);

        // Both go on in one step, as forks, and as they would have without a break.
        let (mut short_fork, mut long_fork) = (short.fork(100), long.fork(0));
        let mut items = [(&mut short_fork, 12), (&mut long_fork, 13)].map(|(cache, count)| {
            let tokens = &tokens[20..20 + count];
            BatchItem { cache, tokens, logits: tokens.len() }
        });
        let together = decoder.forward(&mut items).unwrap().to_vec();
        let (of_short, of_long) = together.split_at(12 * decoder.vocabulary());
        for (found, count) in [(of_short, 32), (of_long, 33)] {
            let whole = run(&mut decoder, &mut SequenceCache::new(0), &tokens[..count]);
            assert_same(&OURS, found, &whole[20 * decoder.vocabulary()..]);
        }

        // A short one stays one, and a refusal changes nothing.
        let mut items = [BatchItem { cache: &mut short_fork, tokens: &tokens[32..33], logits: 1 }];
        let error = decoder.forward(&mut items).unwrap_err().to_string();
        assert!(error.contains("a sequence of 33 tokens was begun for 32"), "{error}");
        assert_eq!(short_fork.length(), 32);
        run(&mut decoder, &mut long_fork, &tokens[33..40]);
        // Nothing is decided before the first token.
        let mut empty = SequenceCache::new(8).fork(40);
        run(&mut decoder, &mut empty, &tokens[..8]);
        run(&mut decoder, &mut empty, &tokens[8..40]);
    }
}

#[test]
fn only_the_wanted_rows_come_back() {
    let mut decoder = tiny("llama");
    let (tokens, _) = reference("llama");
    let all = run(&mut decoder, &mut SequenceCache::new(0), &tokens);
    let mut caches = [(); 3].map(|()| SequenceCache::new(0));
    let mut items: Vec<_> = caches
        .iter_mut()
        .zip([2, 0, 1])
        .map(|(cache, logits)| BatchItem { cache, tokens: &tokens, logits })
        .collect();
    let width = decoder.vocabulary();
    let wanted = decoder.forward(&mut items).unwrap();
    let last = |rows: usize| &all[all.len() - rows * width..];
    assert_same(&OURS, wanted, &[last(2), last(1)].concat());
}

#[test]
fn forks_and_their_parent_go_on_as_fresh_sequences_would() {
    let (mut decoder, mut other) = (tiny("llama"), tiny("llama"));
    let width = decoder.vocabulary();
    let (tokens, _) = reference("llama");
    let (prefix, rest) = tokens.split_at(12);
    let mut fresh = |suffix: &[u32]| {
        let logits = run(&mut other, &mut SequenceCache::new(0), &[prefix, suffix].concat());
        logits[prefix.len() * width..].to_vec()
    };
    let mut parent = SequenceCache::new(40);
    run(&mut decoder, &mut parent, prefix);
    let mut first = parent.fork(3);
    let mut second = parent.fork(0);
    assert_same(&OURS, &run(&mut decoder, &mut first, &rest[..9]), &fresh(&rest[..9]));
    assert_same(&OURS, &run(&mut decoder, &mut second, &rest[9..]), &fresh(&rest[9..]));
    assert_same(&OURS, &run(&mut decoder, &mut parent, &rest[4..7]), &fresh(&rest[4..7]));
    let mut grandchild = first.fork(1);
    drop((parent, first));
    let grown = run(&mut decoder, &mut grandchild, &rest[9..20]);
    let expected = fresh(&rest[..20]);
    assert_same(&OURS, &grown, &expected[9 * width..]);
}

#[test]
fn a_fork_at_any_length_goes_on_as_a_fresh_sequence_would() {
    for (back_end, bar) in BACK_ENDS.into_iter().zip(AGAINST_REFERENCE) {
        let mut decoder = load(&model_path("llama"), back_end).unwrap();
        let (tokens, logits) = reference("llama");
        let width = decoder.vocabulary();
        let mut parent = SequenceCache::new(tokens.len());
        run(&mut decoder, &mut parent, &tokens[..20]);
        for length in [0, 1, 7, 15, 16, 17, 20] {
            let mut fork = parent.fork_at(length, tokens.len() - length);
            // The parent goes on in between, in segments that the fork does not see.
            run(&mut decoder, &mut parent, &tokens[3..4]);
            let grown = run(&mut decoder, &mut fork, &tokens[length..]);
            assert_close(&grown, &logits[length * width..], bar);
            // The last one that holds a segment writes over what it does not see of it.
            let mut again = fork.fork_at(length + 1, 4);
            drop(fork);
            let grown = run(&mut decoder, &mut again, &tokens[length + 1..]);
            assert_close(&grown, &logits[(length + 1) * width..], bar);
        }
        let pieces: Vec<_> = parent.held().collect();
        assert!(pieces.iter().map(|piece| piece.1).sum::<usize>() >= parent.length());
        let mut alone = SequenceCache::new(tokens.len());
        run(&mut decoder, &mut alone, &tokens[..20]);
        let mut only = alone.fork_at(5, tokens.len() - 5);
        drop(alone);
        let grown = run(&mut decoder, &mut only, &tokens[5..]);
        assert_close(&grown, &logits[5 * width..], bar);
        assert_eq!(only.held().count(), 1, "the segment is its own again");
    }
}

#[test]
fn a_parent_that_is_forked_at_every_token_stays_in_few_pieces() {
    for back_end in BACK_ENDS {
        let mut decoder = load(&model_path("llama"), back_end.clone()).unwrap();
        let (tokens, logits) = reference("llama");
        let mut parent = SequenceCache::new(0);
        let mut forks = Vec::new();
        let (mut grown, mut before) = (Vec::new(), Vec::new());
        for token in &tokens[..32] {
            let of_fork = |fork: &mut SequenceCache| run(&mut decoder, fork, &tokens[3..4]);
            before.extend(forks.last_mut().map(of_fork));
            grown.extend(run(&mut decoder, &mut parent, std::slice::from_ref(token)));
            assert!(parent.segments(0).count() <= 4, "{:?}", parent.segments(0).count());
            forks.push(parent.fork(1));
        }
        assert_close(&grown, &logits[..grown.len()], AGAINST_REFERENCE[0]);
        assert_eq!((before.len(), parent.length()), (31, 32));
        // What was copied is a part of the parent alone: the forks go on from what they share.
        let mut last = forks[0].fork(1);
        assert_eq!(last.length(), 2);
        assert_same(
            &back_end,
            &run(&mut decoder, &mut last, &tokens[5..6]),
            &run(&mut decoder, &mut forks[0], &tokens[5..6]),
        );
    }
}

/// All logits of the tokens, in stages: embeddings, layers in two parts, output.
fn run_in_stages(decoder: &mut Decoder, tokens: &[u32], at: usize) -> Vec<f32> {
    let residual = decoder.begin(tokens).unwrap();
    let residual = decoder.run_layers(0..at, &residual).unwrap();
    let residual = decoder.run_layers(at..decoder.layers(), &residual).unwrap();
    decoder.finish(&residual, 0..tokens.len()).unwrap()
}

#[test]
fn a_forward_pass_in_stages_gives_the_same_logits() {
    for name in LLAMA_LIKE {
        let (tokens, _) = reference(name);
        let expected = run(&mut tiny(name), &mut SequenceCache::new(0), &tokens);
        let mut decoder = tiny(name);
        for at in 0..=decoder.layers() {
            assert_same(&OURS, &run_in_stages(&mut decoder, &tokens, at), &expected);
        }
        let residual = decoder.begin(&tokens).unwrap();
        let residual = decoder.run_layers(0..decoder.layers(), &residual).unwrap();
        let some = decoder.finish(&residual, 3..5).unwrap();
        let width = decoder.vocabulary();
        assert_same(&OURS, &some, &expected[3 * width..5 * width]);
    }
}

#[test]
fn an_exchanged_matrix_counts_until_it_is_exchanged_back() {
    let mut decoder = tiny("llama");
    let (tokens, _) = reference("llama");
    let before = run_in_stages(&mut decoder, &tokens, 1);
    let file = GgufFile::open(&model_path("llama")).unwrap();
    for name in ["token_embd.weight", "blk.0.attn_k.weight", "blk.1.ffn_down.weight"] {
        let tensor = file.tensor(name).unwrap();
        let bytes = file.tensor_bytes(tensor).to_vec();
        let mut same = decoder.stand_in(name, tensor.ggml_type, bytes).unwrap();
        let zeroes = vec![0; 4 * tensor.weights() as usize];
        let mut zero = decoder.stand_in(name, GgmlType::F32, zeroes).unwrap();
        decoder.exchange(&mut same);
        assert_eq!(run_in_stages(&mut decoder, &tokens, 1), before, "{name}");
        decoder.exchange(&mut zero);
        assert_ne!(run_in_stages(&mut decoder, &tokens, 1), before, "{name}");
        decoder.exchange(&mut zero);
        decoder.exchange(&mut same);
        assert_eq!(run_in_stages(&mut decoder, &tokens, 1), before, "{name}");
    }
    for (name, problem) in [
        ("blk.9.attn_k.weight", "no such tensor"),
        ("output_norm.weight", "no matrix that can be exchanged"),
    ] {
        let error = decoder.stand_in(name, GgmlType::F32, Vec::new()).unwrap_err();
        assert!(error.to_string().contains(problem), "{error}");
    }
}

#[test]
fn room_that_nobody_has_is_an_error() {
    let ops = KernelOps::new(kv_shape(tiny("llama").spec()), OPTIONS);
    for capacity in [1 << 50, usize::MAX] {
        let error = ops.allocate(capacity).unwrap_err().to_string();
        assert!(error.contains("no memory") && error.contains("fewer"), "{error}");
    }
}

/// Copies a tiny model with changes to its metadata and its tensors' plans.
fn change(target: &Path, metadata: impl Fn(&mut Metadata), tensors: impl Fn(&mut Vec<TensorPlan>)) {
    let file = GgufFile::open(&model_path("llama")).unwrap();
    let plans = file.tensors().iter().map(|tensor| TensorPlan {
        name: tensor.name.clone(),
        dimensions: tensor.dimensions.clone(),
        ggml_type: tensor.ggml_type,
    });
    let (mut changed, mut plans) = (file.metadata().clone(), plans.collect());
    metadata(&mut changed);
    tensors(&mut plans);
    let mut writer = GgufWriter::create(target, &changed, plans.clone()).unwrap();
    for plan in &plans {
        let count: u64 = plan.dimensions.iter().product();
        let bytes = plan.ggml_type.row_bytes(count as usize).unwrap();
        writer.write(&vec![0; bytes]).unwrap();
    }
    writer.finish().unwrap();
}

#[test]
fn a_file_that_does_not_fit_is_refused_with_the_name_of_what_does_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.gguf");
    let refusal = |metadata: &dyn Fn(&mut Metadata), tensors: &dyn Fn(&mut Vec<TensorPlan>)| {
        change(&path, metadata, tensors);
        let error = load(&path, BackEnd::Kernels(OPTIONS)).unwrap_err();
        assert!(error.contains("model.gguf"), "{error}");
        error
    };
    let same = |_: &mut Metadata| {};
    let set = |key: &'static str, value: u32| {
        move |metadata: &mut Metadata| metadata.set(key, Value::U32(value))
    };
    let error = refusal(&set("llama.feed_forward_length", 96), &|_| {});
    for part in ["blk.0.ffn_gate.weight", "96 rows of 32", "32 rows of 32"] {
        assert!(error.contains(part), "{error}");
    }
    let error = refusal(&set("llama.block_count", u32::MAX), &|_| {});
    assert!(error.contains("more than 10000"), "{error}");
    let error = refusal(&set("llama.block_count", 3), &|_| {});
    assert!(error.contains("blk.2.attn_norm.weight is missing"), "{error}");
    let error = refusal(&set("llama.block_count", 1), &|_| {});
    assert!(error.contains("no place for the tensor \"blk.1."), "{error}");
    let error = refusal(&same, &|tensors| tensors.retain(|t| t.name != "blk.1.attn_k.weight"));
    assert!(error.contains("blk.1.attn_k.weight is missing"), "{error}");
    let error = refusal(&same, &|tensors| tensors.retain(|t| t.name != "token_embd.weight"));
    assert!(error.contains("token_embd.weight"), "{error}");
    let error = refusal(&same, &|tensors| tensors[1].dimensions.push(3));
    assert!(error.contains(" rows of "), "{error}");
    let gpt = |metadata: &mut Metadata| {
        metadata.set("general.architecture", Value::String("gpt9".into()));
    };
    assert!(refusal(&gpt, &|_| {}).contains("qwen2, qwen3"));
    let array = |metadata: &mut Metadata| {
        metadata.set("llama.block_count", Value::Array(Array::U32(vec![2, 2])));
    };
    assert!(refusal(&array, &|_| {}).contains("llama.block_count"));
}
