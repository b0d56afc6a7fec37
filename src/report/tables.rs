//! The comparison as tables; the pages and the terminal print the same ones.

use super::paired_tables::{self, PairedRow};
use super::record::{Comparison, SpeedRatio, Variant};
use super::words;
use crate::bench::{LevelSummary, Spread};
use crate::eval::text::divergence::Divergence;
use crate::eval::{EvalSummary, Score};
use crate::support::table::{ABSENT, Align, Table};
use crate::support::units;

/// Size and accuracy of each variant.
pub fn variants(comparison: &Comparison) -> Table {
    let mut table = Table::new([
        ("Variant", Align::Left),
        ("File", Align::Right),
        ("Bits per weight", Align::Right),
        ("Smaller by", Align::Right),
        ("Right", Align::Right),
        ("Accuracy ± s.e.", Align::Right),
    ]);
    for variant in &comparison.variants {
        let score = &variant.evaluation.overall;
        table.row([
            variant.label.clone(),
            units::bytes(variant.size.file_bytes),
            format!("{:.2}", variant.size.bits_per_weight),
            format!("{:.2}×", variant.times_smaller),
            format!("{} of {}", score.correct, units::count(score.questions as u64)),
            accuracy(score),
        ]);
    }
    table
}

/// The variants that are compared with the baseline, by their short labels.
pub fn paired(comparison: &Comparison) -> Vec<PairedRow<'_>> {
    let short = words::short_labels(&comparison.variants);
    let variants = comparison.variants.iter().zip(short);
    variants.filter_map(|(variant, label)| Some((label, variant.paired.as_ref()?))).collect()
}

/// Each variant's perplexity and its divergence from the baseline on the text; `None` without one.
pub fn text(comparison: &Comparison) -> Option<Table> {
    let base = comparison.base_perplexity()?;
    let mut table = Table::new([
        ("Variant", Align::Left),
        ("Perplexity", Align::Right),
        ("Against the baseline", Align::Right),
        ("Mean KL ± s.e.", Align::Right),
        ("Median", Align::Right),
        ("99 %", Align::Right),
        ("Maximum", Align::Right),
        ("Same top token", Align::Right),
    ]);
    for variant in &comparison.variants {
        let label = variant.label.clone();
        match &variant.text {
            Some(text) => table.row(text_row(label, &text.divergence)),
            None if variant.label == comparison.baseline => {
                let mut row: [String; 8] = std::array::from_fn(|_| ABSENT.to_string());
                (row[0], row[1]) = (label, format!("{base:.4}"));
                table.row(row);
            }
            None => {}
        }
    }
    Some(table)
}

fn text_row(label: String, divergence: &Divergence) -> [String; 8] {
    let ratio = divergence.log_perplexity_ratio;
    let same = divergence.same_top;
    [
        label,
        format!("{:.4}", divergence.perplexity),
        format!("{:.4} ± {:.4}", ratio.mean.exp(), ratio.mean.exp() * ratio.standard_error),
        format!("{:.5} ± {:.5}", divergence.kl.mean, divergence.kl.standard_error),
        format!("{:.5}", divergence.kl_median),
        format!("{:.5}", divergence.kl_p99),
        format!("{:.5}", divergence.kl_maximum),
        format!("{:.1} ± {:.1} %", same.mean * 100.0, same.standard_error * 100.0),
    ]
}

/// Whether each variant is right as often as it is sure.
pub fn reliability(comparison: &Comparison) -> Table {
    let variants = comparison.variants.iter();
    paired_tables::reliability(
        variants
            .filter_map(|variant| Some((variant.label.as_str(), variant.reliability.as_ref()?))),
    )
}

/// The speeds at each level of concurrency, with the ratio to the baseline behind each figure.
pub fn speeds(comparison: &Comparison) -> Vec<(usize, Table)> {
    let levels = comparison.workload.iter().flat_map(|workload| &workload.concurrency).enumerate();
    levels.map(|(index, &concurrency)| (concurrency, speed(comparison, index))).collect()
}

fn speed(comparison: &Comparison, index: usize) -> Table {
    let mut table = Table::new([
        ("Variant", Align::Left),
        ("TTFT", Align::Right),
        ("TPOT", Align::Right),
        ("ITL p99", Align::Right),
        ("Prefill tok/s", Align::Right),
        ("Decode tok/s", Align::Right),
        ("Output tok/s", Align::Right),
        ("Peak memory", Align::Right),
    ]);
    let short = words::short_labels(&comparison.variants);
    for (variant, label) in comparison.variants.iter().zip(&short) {
        let speed = variant.speed.as_ref();
        let Some(level) = speed.and_then(|speed| speed.levels.get(index)) else { continue };
        let ratios = speed.and_then(|speed| speed.ratios.get(index).copied());
        let ratios = ratios.filter(|_| variant.label != comparison.baseline);
        table.row(speed_row(label, level, ratios));
    }
    table
}

fn speed_row(label: &str, level: &LevelSummary, ratios: Option<SpeedRatio>) -> [String; 8] {
    let with = |figure: Option<String>, ratio: Option<f64>| match (figure, ratio) {
        (None, _) => ABSENT.to_string(),
        (Some(figure), None) => figure,
        (Some(figure), Some(ratio)) => format!("{figure} ({ratio:.2}×)"),
    };
    let rate = |spread: Spread| format!("{:.1}", spread.median);
    [
        label.to_string(),
        with(Some(milliseconds(level.ttft_ms.p50)), ratios.map(|r| r.ttft)),
        with(level.tpot_ms.map(|d| milliseconds(d.p50)), ratios.and_then(|r| r.tpot)),
        with(level.inter_token_ms.map(|d| milliseconds(d.p99)), None),
        with(Some(rate(level.prefill_tokens_per_second)), ratios.map(|r| r.prefill)),
        with(level.decode_tokens_per_second.map(rate), ratios.and_then(|r| r.decode)),
        with(Some(rate(level.output_tokens_per_second)), ratios.map(|r| r.output)),
        with(level.peak_memory.map(|peak| units::bytes(peak.bytes)), None),
    ]
}

/// Accuracy in each of MMLU's categories; `None` where the set has none of them.
pub fn categories(comparison: &Comparison) -> Option<Table> {
    groups(comparison, "Category", |evaluation| &evaluation.categories)
}

/// Accuracy in each subject.
pub fn subjects(comparison: &Comparison) -> Option<Table> {
    groups(comparison, "Subject", |evaluation| &evaluation.subject_scores)
}

fn groups(
    comparison: &Comparison,
    what: &str,
    scores: fn(&EvalSummary) -> &[Score],
) -> Option<Table> {
    let groups = scores(&comparison.variants.first()?.evaluation);
    if groups.is_empty() {
        return None;
    }
    let short = words::short_labels(&comparison.variants);
    let mut columns = vec![(what.to_string(), Align::Left), ("Questions".into(), Align::Right)];
    columns.extend(short.into_iter().map(|label| (label, Align::Right)));
    let mut table = Table::new(columns);
    for group in groups {
        let mut row = vec![group.name.replace('_', " "), units::count(group.questions as u64)];
        for variant in &comparison.variants {
            let score = scores(&variant.evaluation).iter().find(|score| score.name == group.name);
            row.push(score.map_or(ABSENT.to_string(), accuracy));
        }
        table.row(row);
    }
    Some(table)
}

/// Where each variant comes from, so that its figures can be traced.
pub fn files(comparison: &Comparison) -> Table {
    let mut table =
        Table::new(["Variant", "Model file", "Tensors", "SHA-256"].map(|name| (name, Align::Left)));
    for variant in &comparison.variants {
        table.row([
            variant.label.clone(),
            variant.model.clone(),
            tensors(variant),
            variant.model_sha256.clone(),
        ]);
    }
    table
}

fn tensors(variant: &Variant) -> String {
    let shares: Vec<String> =
        variant.size.types.iter().map(|t| format!("{} {}", t.tensors, t.name)).collect();
    shares.join(", ")
}

fn accuracy(score: &Score) -> String {
    let error = score.standard_error;
    let error = error.map_or(ABSENT.to_string(), |error| format!("{:.1}", error * 100.0));
    format!("{:.1} ± {error} %", score.accuracy * 100.0)
}

/// Milliseconds with three figures that matter, in seconds from a thousand on.
fn milliseconds(time: f64) -> String {
    match time {
        time if time >= 9_999.5 => format!("{:.1} s", time / 1e3),
        time if time >= 999.5 => format!("{:.2} s", time / 1e3),
        time if time >= 99.5 => format!("{time:.0} ms"),
        time if time >= 9.95 => format!("{time:.1} ms"),
        time => format!("{time:.2} ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixtures;

    #[test]
    fn the_baseline_has_no_difference_and_no_ratios() {
        let comparison = fixtures::comparison();
        assert_eq!(variants(&comparison).rows().len(), 3);
        assert_eq!(paired(&comparison).len(), 2);
        let speeds = speeds(&comparison);
        assert_eq!(speeds.iter().map(|(level, _)| *level).collect::<Vec<_>>(), [1, 2, 4]);
        let rows = speeds[0].1.rows();
        assert!(!rows[0].iter().any(|cell| cell.contains('×')), "{:?}", rows[0]);
        assert!(rows[1][5].contains("(2.00×)"), "{:?}", rows[1]);
    }

    #[test]
    fn the_baseline_has_a_perplexity_and_no_divergence() {
        let mut comparison = fixtures::comparison();
        let table = text(&comparison).unwrap();
        let rows = table.rows();
        let base = format!("{:.4}", fixtures::divergence().base_perplexity);
        assert_eq!(rows[0][..3], ["Example-135M.F16", &base, "–"]);
        assert!(rows[1][3].contains(" ± "), "{:?}", rows[1]);
        comparison.variants.iter_mut().for_each(|variant| variant.text = None);
        assert!(text(&comparison).is_none());
    }

    #[test]
    fn times_keep_three_figures() {
        let found = [2.346, 23.46, 234.6, 2346.0, 12_346.0].map(milliseconds);
        assert_eq!(found, ["2.35 ms", "23.5 ms", "235 ms", "2.35 s", "12.3 s"]);
    }
}
