//! Records of made-up measurements, for the tests of this module.

use super::record::{
    Comparison, EvaluationSettings, SCHEMA_VERSION, Speed, SpeedRatio, TextSettings, Variant,
    VariantText,
};
use super::sizes::{ModelSize, TypeShare};
use super::words;
use crate::bench::{
    self, BenchSummary, Distribution, LevelSummary, PeakMemory, PeakScope, RepeatSummary, Spread,
    Workload,
};
use crate::engine::Build;
use crate::eval::run::question_results::QuestionResult;
use crate::eval::statistics::intervals;
use crate::eval::statistics::paired::{GroupDifference, Paired};
use crate::eval::statistics::reliability::Reliability;
use crate::eval::text::divergence::{Divergence, compare_rows};
use crate::eval::{self, EvalSummary, Protocol, Score};
use crate::support::machine::Machine;

pub(super) fn settings() -> EvaluationSettings {
    EvaluationSettings {
        set: "eval-sets/starter".to_string(),
        set_sha256: "5e7".to_string(),
        protocol: Protocol::Cloze,
        shots: 0,
        limit: None,
        limit_seeded: None,
        every: 1,
        subjects: Vec::new(),
    }
}

/// A question of four choices, of which 1 is right.
pub(super) fn result(row: usize, prediction: usize) -> QuestionResult {
    QuestionResult {
        row,
        id: None,
        subject: "high_school_physics".to_string(),
        log_probabilities: vec![-1.5; 4],
        prediction,
        others: None,
        answer: 1,
        context_tokens: 10,
        choice_tokens: vec![1; 4],
        dropped_tokens: 0,
    }
}

fn score(name: &str, correct: usize, questions: usize) -> Score {
    let accuracy = correct as f64 / questions as f64;
    let standard_error = (accuracy * (1.0 - accuracy) / (questions as f64 - 1.0)).sqrt();
    Score {
        name: name.to_string(),
        questions,
        correct,
        accuracy,
        standard_error: Some(standard_error),
        chance: 0.25,
    }
}

pub(super) fn evaluation(model_sha256: &str, correct: usize, questions: usize) -> EvalSummary {
    EvalSummary {
        schema_version: eval::SCHEMA_VERSION,
        quantkit_version: env!("CARGO_PKG_VERSION").to_string(),
        build: Build::current(),
        model: "models/m.gguf".to_string(),
        model_sha256: model_sha256.to_string(),
        endpoint: None,
        set: settings().set,
        set_sha256: settings().set_sha256,
        protocol: Protocol::Cloze,
        shots: 0,
        limit: None,
        limit_seeded: None,
        every: 1,
        subjects: Vec::new(),
        shard: None,
        selection: "all questions".to_string(),
        device: "cpu".to_string(),
        kv_type: "i16".to_string(),
        activations: Some(8),
        overall: score("all", correct, questions),
        categories: ["STEM", "humanities", "social sciences", "other"]
            .map(|name| score(name, correct / 4, questions / 4))
            .to_vec(),
        other_scores: Vec::new(),
        subject_scores: ["astronomy", "high_school_biology"]
            .map(|name| score(name, correct / 2, questions / 2))
            .to_vec(),
        unscored: Vec::new(),
        shortened: 0,
        tokens_run: 5_000,
        tokens_naive: 12_000,
        seconds: 12.5,
        questions_per_second: 8.0,
        tokens_per_second: 400.0,
    }
}

fn machine() -> Machine {
    Machine {
        cpu: "Example CPU 9000".to_string(),
        physical_cores: 2,
        logical_cores: 2,
        memory_bytes: 16 << 30,
        system: "linux 6.1 x86_64".to_string(),
    }
}

fn around(value: f64) -> Distribution {
    Distribution {
        count: 8,
        mean: value,
        min: value * 0.9,
        p50: value,
        p90: value * 1.1,
        p95: value * 1.15,
        p99: value * 1.2,
        max: value * 1.25,
    }
}

fn level(concurrency: usize, speed: f64) -> LevelSummary {
    let steady = |value: f64| Spread { min: value, median: value, max: value };
    let c = concurrency as f64;
    let (prefill, decode) = (800.0 * speed, 80.0 * speed * c.powf(0.25));
    let output = decode * 0.7;
    let ttft = 2560.0 / prefill * 1e3 * (c + 1.0) / 2.0;
    let tpot = c / decode * 1e3;
    LevelSummary {
        concurrency,
        requests: concurrency,
        ttft_ms: around(ttft),
        tpot_ms: Some(around(tpot)),
        inter_token_ms: Some(around(tpot)),
        end_to_end_ms: around(ttft + tpot * 767.0),
        prefill_tokens_per_second: steady(prefill),
        decode_tokens_per_second: Some(steady(decode)),
        full_decode_tokens_per_second: Some(steady(decode)),
        output_tokens_per_second: steady(output),
        requests_per_second: steady(output / 768.0),
        peak_memory: Some(PeakMemory { bytes: 500 << 20, scope: PeakScope::Level }),
        repeats: vec![RepeatSummary {
            seconds: 768.0 * c / output,
            prefill_seconds: 2560.0 * c / prefill,
            decode_seconds: 767.0 * c / decode,
            input_tokens: 2560 * concurrency as u64,
            output_tokens: 768 * concurrency as u64,
            decode_tokens: 767 * concurrency as u64,
            ttft_p50_ms: ttft,
            tpot_p50_ms: Some(tpot),
            prefill_tokens_per_second: prefill,
            decode_tokens_per_second: Some(decode),
            full_decode_tokens_per_second: Some(decode),
            output_tokens_per_second: output,
            requests_per_second: output / 768.0,
        }],
    }
}

fn workload() -> Workload {
    Workload { concurrency: vec![1, 2, 4], ..Workload::default() }
}

/// A benchmark that runs at `speed` times some baseline.
pub(super) fn benchmark(model_sha256: &str, speed: f64) -> BenchSummary {
    BenchSummary {
        schema_version: bench::SCHEMA_VERSION,
        quantkit_version: env!("CARGO_PKG_VERSION").to_string(),
        build: Build::current(),
        model: "models/m.gguf".to_string(),
        model_sha256: model_sha256.to_string(),
        model_bytes: 1 << 28,
        device: "cpu".to_string(),
        kv_type: "i16".to_string(),
        activations: 8,
        threads: 2,
        machine: machine(),
        load_average_before: Some(0.1),
        workload: workload(),
        complete: true,
        load_seconds: 0.4,
        levels: workload().concurrency.iter().map(|&c| level(c, speed)).collect(),
        requests: Vec::new(),
    }
}

/// A divergence at two positions, of a perplexity of 2 before and 4 after.
pub(super) fn divergence() -> Divergence {
    // The next token, and eight others that share what is left.
    let logits = |next: f32| -> Vec<f32> {
        let others = [((1.0 - next) / 8.0).ln(); 8];
        [&[next.ln()], others.as_slice()].concat().repeat(2)
    };
    Divergence::of(&compare_rows(&logits(0.5), &logits(0.25), &[0, 0])).expect("numbers")
}

/// A variant with `correct` of 120 questions right, at `speed` times some baseline.
pub(super) fn variant(label: &str, correct: usize, speed: f64) -> Variant {
    let file_bytes = if speed > 1.0 { 80 << 20 } else { 260 << 20 };
    let evaluation = evaluation(label, correct, 120);
    let benchmark = benchmark(label, speed);
    Variant {
        label: label.to_string(),
        model: format!("models/{label}.gguf"),
        model_sha256: "0123456789abcdef".repeat(4),
        directory: label.to_string(),
        size: ModelSize {
            file_bytes,
            tensor_bytes: file_bytes,
            weights: 134_515_008,
            bits_per_weight: file_bytes as f64 * 8.0 / 134_515_008.0,
            types: vec![TypeShare { name: "F16".to_string(), tensors: 211, bytes: file_bytes }],
        },
        times_smaller: f64::from(260 << 20) / file_bytes as f64,
        accuracy_interval: intervals::wilson(correct, 120),
        evaluation,
        evaluation_reused: false,
        text: None,
        reliability: Reliability::of(
            (0..120).map(|index| (0.3 + index as f64 / 200.0, index % 3 == 0)),
        ),
        paired: None,
        speed: Some(Speed {
            reused: false,
            load_seconds: 0.4,
            load_average_before: Some(0.1),
            ratios: benchmark
                .levels
                .iter()
                .map(|own| SpeedRatio::of(own, &level(own.concurrency, 1.0)))
                .collect(),
            levels: benchmark.levels,
        }),
    }
}

/// Three variants, the first of them the baseline.
pub(super) fn comparison() -> Comparison {
    let mut variants = vec![
        variant("Example-135M.F16", 56, 1.0),
        variant("Example-135M.Q4_0", 52, 2.0),
        variant("Example-135M.Q4_K_M", 56, 1.5),
    ];
    for (variant, (lost, won)) in variants.iter_mut().skip(1).zip([(7, 3), (2, 2)]) {
        let group = |name: &str, holm_p| GroupDifference {
            name: name.to_string(),
            questions: 60,
            difference: -0.033,
            interval: [-0.09, 0.02],
            right_to_wrong: lost as usize,
            wrong_to_right: won as usize,
            mcnemar_p: 0.02,
            holm_p,
        };
        variant.text = Some(VariantText { reused: false, divergence: divergence() });
        variant.paired = Some(Paired {
            questions: 120,
            difference: (f64::from(won) - f64::from(lost)) / 120.0,
            standard_error: Some(0.026),
            interval: [-0.087, 0.021],
            unpaired_standard_error: Some(0.065),
            unpaired_interval: [-0.16, 0.09],
            mcnemar_p: 0.344,
            right_to_wrong: lost as usize,
            wrong_to_right: won as usize,
            wrong_to_other_wrong: 6,
            agreement: 0.87,
            answer_probability_change: 0.031,
            choice_divergence: 0.012,
            questions_for_one_point: 6_538,
            categories: vec![group("STEM", 0.04), group("humanities", 0.5)],
            subjects: vec![group("astronomy", 0.04), group("high_school_biology", 1.0)],
        });
    }
    let mut comparison = Comparison {
        schema_version: SCHEMA_VERSION,
        quantkit_version: env!("CARGO_PKG_VERSION").to_string(),
        created: "2026-11-20 14:03 UTC".to_string(),
        title: words::title(&variants),
        baseline: variants[0].label.clone(),
        machine: machine(),
        device: "cpu".to_string(),
        kv_type: "i16".to_string(),
        activations: 8,
        threads: 2,
        evaluation: settings(),
        text: Some(TextSettings {
            text: "texts/text.txt".to_string(),
            text_sha256: "7e7".to_string(),
            context: 512,
            chunk_limit: None,
            chunks: 12,
        }),
        workload: Some(workload()),
        headline: Vec::new(),
        caveats: vec!["The weights are made up & <only> for tests.".to_string()],
        commands: vec!["quantkit compare models/*.gguf".to_string()],
        variants,
    };
    comparison.headline = words::headline(&comparison);
    comparison.caveats.extend(words::caveats(&comparison));
    comparison
}
