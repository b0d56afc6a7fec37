//! The comparison in sentences: title, headline, caveats.

use std::path::Path;
use std::time::SystemTime;

use super::record::{Comparison, SpeedRatio, TextSettings, Variant, VariantText};
use crate::bench::PeakScope;
use crate::support::calendar::{civil_date, unix_seconds};
use crate::support::units;

/// Above this many processes wanting a core before a benchmark, its figures are doubtful.
const BUSY_LOAD: f64 = 0.5;

/// What the variants' labels have in common, up to a separator; the first label where that is
/// nothing.
pub(super) fn title(variants: &[Variant]) -> String {
    let labels: Vec<&str> = variants.iter().map(|variant| variant.label.as_str()).collect();
    let Some(first) = labels.first() else { return String::new() };
    let common = &first[..common_prefix(&labels)];
    let name = common.rsplit('/').next().unwrap_or(common).trim_end_matches(['.', '-', '_', ' ']);
    if name.is_empty() { (*first).to_string() } else { name.to_string() }
}

/// The labels without what they have in common, for plots where room is short.
pub(super) fn short_labels(variants: &[Variant]) -> Vec<String> {
    let labels: Vec<&str> = variants.iter().map(|variant| variant.label.as_str()).collect();
    let common = if labels.len() > 1 { common_prefix(&labels) } else { 0 };
    labels.iter().map(|label| label[common..].to_string()).collect()
}

/// Bytes that all labels begin with, ending behind a `.`, `-` or `/` and leaving none empty.
fn common_prefix(labels: &[&str]) -> usize {
    let Some(first) = labels.first() else { return 0 };
    first
        .char_indices()
        .filter(|(_, character)| matches!(character, '.' | '-' | '/'))
        .map(|(index, _)| index + 1)
        .filter(|&end| {
            labels.iter().all(|label| label.len() > end && label.starts_with(&first[..end]))
        })
        .max()
        .unwrap_or(0)
}

/// One sentence or two for each variant.
pub(super) fn headline(comparison: &Comparison) -> Vec<String> {
    let Some(baseline) = comparison.baseline_variant() else { return Vec::new() };
    let short = short_labels(&comparison.variants);
    let named = || comparison.variants.iter().zip(&short);
    let baseline_name = named()
        .find(|(variant, _)| variant.label == baseline.label)
        .map_or(&baseline.label, |(_, name)| name);
    let sentences: Vec<String> = named()
        .filter(|(variant, _)| variant.label != baseline.label)
        .map(|(variant, name)| {
            let text = comparison.text.as_ref().zip(variant.text.as_ref());
            let text = text.map(|(settings, text)| on_text(settings, text, baseline_name));
            [about(variant, name, baseline, baseline_name)].into_iter().chain(text).collect()
        })
        .map(|sentences: Vec<String>| sentences.join(" "))
        .collect();
    if sentences.is_empty() {
        let accuracy = units::percent(baseline.evaluation.overall.accuracy);
        let questions = units::count(baseline.evaluation.overall.questions as u64);
        return vec![format!(
            "{} takes {} and answers {accuracy} of {questions} questions right.",
            baseline.label,
            units::bytes(baseline.size.file_bytes)
        )];
    }
    sentences
}

fn about(variant: &Variant, name: &str, baseline: &Variant, baseline_name: &str) -> String {
    let size = format!(
        "{name} is {} {baseline_name} ({} instead of {})",
        times_smaller(variant.times_smaller),
        units::bytes(variant.size.file_bytes),
        units::bytes(baseline.size.file_bytes)
    );
    let speed = variant.speed.as_ref().and_then(|speed| speed_phrase(&speed.ratios));
    let verdict = variant.paired.as_ref().map(|paired| paired.verdict(name));
    [Some(size), speed, verdict]
        .into_iter()
        .flatten()
        .map(|words| words + ".")
        .collect::<Vec<_>>()
        .join(" ")
}

/// What a text shows of a variant, in a sentence.
fn on_text(settings: &TextSettings, text: &VariantText, baseline_name: &str) -> String {
    let divergence = &text.divergence;
    let file = Path::new(&settings.text).file_name();
    format!(
        "On {} its perplexity is {:.2} instead of {:.2}, its predictions are {:.4} nats of KL away \
         from those of {baseline_name}, and {} of the most likely tokens are the same.",
        file.map_or(settings.text.as_str().into(), |name| name.to_string_lossy()),
        divergence.perplexity,
        divergence.base_perplexity,
        divergence.kl.mean,
        units::percent(divergence.same_top.mean),
    )
}

fn times_smaller(times: f64) -> String {
    if (0.995..1.005).contains(&times) {
        "as large as".to_string()
    } else if times > 1.0 {
        format!("{times:.1}× smaller than")
    } else {
        format!("{:.1}× larger than", 1.0 / times)
    }
}

fn speed_phrase(ratios: &[SpeedRatio]) -> Option<String> {
    let (first, last) = (ratios.first()?, ratios.last()?);
    let first_token = if first.ttft <= 1.0 {
        format!("the first token comes {:.1}× as fast", 1.0 / first.ttft)
    } else {
        format!("the first token takes {:.1}× as long", first.ttft)
    };
    let one = match first.decode {
        Some(decode) => format!(
            "At concurrency {} {first_token} and decoding runs at {decode:.1}× the speed",
            first.concurrency
        ),
        None => format!("At concurrency {} {first_token}", first.concurrency),
    };
    if ratios.len() < 2 {
        return Some(one);
    }
    Some(format!(
        "{one}; at concurrency {} the total output is {:.1}×",
        last.concurrency, last.output
    ))
}

/// What the reader should keep in mind, as far as the figures themselves tell.
pub(super) fn caveats(comparison: &Comparison) -> Vec<String> {
    let mut caveats = Vec::new();
    let Some(baseline) = comparison.baseline_variant() else { return caveats };
    let overall = &baseline.evaluation.overall;
    if baseline.accuracy_interval[0] <= overall.chance {
        caveats.push(format!(
            "The baseline's accuracy ({}) cannot be told from guessing ({}): on this set it says \
             little about what quantization costs.",
            units::percent(overall.accuracy),
            units::percent(overall.chance)
        ));
    }
    let paired = || comparison.variants.iter().filter_map(|variant| variant.paired.as_ref());
    let widest =
        paired().map(|paired| (paired.interval[1] - paired.interval[0]) / 2.0).fold(0.0, f64::max);
    let needed = paired().map(|paired| paired.questions_for_one_point).max();
    if let Some(needed) = needed {
        caveats.push(format!(
            "With {} questions, a change in accuracy of less than about {} cannot be seen. To see one \
             of 1 point with a probability of 80 %, {} questions are needed where answers change as \
             often as here.",
            units::count(overall.questions as u64),
            points(widest),
            units::count(needed)
        ));
    }
    caveats.extend(comparison.variants.iter().flat_map(long_questions));
    caveats.extend(speed_caveats(comparison));
    caveats
}

/// What became of the questions that were too long for a variant's context.
fn long_questions(variant: &Variant) -> Vec<String> {
    let Variant { label, directory, evaluation, .. } = variant;
    let mut caveats = Vec::new();
    let unscored = &evaluation.unscored;
    if !unscored.is_empty() {
        let rows: Vec<usize> = unscored.iter().map(|question| question.row).collect();
        caveats.push(format!(
            "{label} could not be asked {} of the questions ({}); its figures do not \
             count them, and {directory}/summary.json says why.",
            units::count(unscored.len() as u64),
            units::rows(&rows),
        ));
    }
    if evaluation.shortened > 0 {
        caveats.push(format!(
            "{} questions lost their left end to fit the context of {label}; dropped_tokens in \
             {directory}/questions.parquet says which.",
            units::count(evaluation.shortened as u64)
        ));
    }
    caveats
}

fn speed_caveats(comparison: &Comparison) -> Vec<String> {
    let mut caveats = Vec::new();
    let Some(workload) = &comparison.workload else { return caveats };
    let speeds = || comparison.variants.iter().filter_map(|variant| variant.speed.as_ref());
    if workload.repeats == 1 {
        caveats.push(
            "Each level of concurrency was measured once, so the speeds come without a spread \
             (--repeats gives one)."
                .to_string(),
        );
    }
    let busiest = speeds().filter_map(|speed| speed.load_average_before).fold(0.0, f64::max);
    if busiest > BUSY_LOAD {
        caveats.push(format!(
            "The machine was busy: up to {busiest:.1} processes wanted a core in the minute before \
             a benchmark began. Speeds may be too low."
        ));
    }
    let whole_process = |peak: PeakScope| peak == PeakScope::Process;
    let peaks = speeds().flat_map(|speed| &speed.levels).filter_map(|level| level.peak_memory);
    if peaks.map(|peak| peak.scope).any(whole_process) {
        caveats.push(
            "Peak memory is that of the whole process so far: the system cannot reset its count."
                .to_string(),
        );
    }
    caveats
}

/// `0.004` → `0.4 points`.
pub(super) fn points(difference: f64) -> String {
    format!("{:.1} points", difference * 100.0)
}

/// A moment as `2026-11-20 14:03 UTC`.
pub(super) fn utc_minute(time: SystemTime) -> String {
    let seconds = unix_seconds(time);
    let (year, month, day) = civil_date(seconds / 86_400);
    let (hour, minute) = (seconds / 3600 % 24, seconds / 60 % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02} UTC")
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::eval::Unscored;
    use crate::report::fixtures;

    #[test]
    fn a_title_is_what_names_have_in_common() {
        let of = |labels: &[&str]| {
            let variants: Vec<Variant> =
                labels.iter().map(|label| fixtures::variant(label, 40, 1.0)).collect();
            (title(&variants), short_labels(&variants))
        };
        let owned = |labels: &[&str]| labels.iter().map(|l| (*l).to_string()).collect::<Vec<_>>();
        assert_eq!(
            of(&["Smol-135M.F16", "Smol-135M.Q4_0", "Smol-135M.Q4_K_M"]),
            ("Smol-135M".to_string(), owned(&["F16", "Q4_0", "Q4_K_M"]))
        );
        assert_eq!(of(&["a.Q4_0", "a.Q4_1"]).1, owned(&["Q4_0", "Q4_1"]));
        assert_eq!(of(&["one", "two"]), ("one".to_string(), owned(&["one", "two"])));
        assert_eq!(of(&["only.F16"]), ("only".to_string(), owned(&["only.F16"])));
    }

    #[test]
    fn the_headline_names_size_speed_and_accuracy() {
        let comparison = fixtures::comparison();
        let headline = headline(&comparison);
        assert_eq!(headline.len(), 2);
        for part in ["Q4_0 is 3.2× smaller than F16", "concurrency 1", "McNemar p"] {
            assert!(headline[0].contains(part), "{part} is missing in {:?}", headline[0]);
        }
    }

    #[test]
    fn the_headline_says_what_a_text_shows() {
        let mut comparison = fixtures::comparison();
        let headline = super::headline(&comparison);
        let part = " On text.txt its perplexity is 4.00 instead of 2.00, its predictions are ";
        assert!(headline[0].contains(part), "{:?}", headline[0]);
        assert!(headline[0].contains("100.0 % of the most likely tokens are the same."));
        comparison.variants[1].text = None;
        assert!(!super::headline(&comparison)[0].contains("perplexity"));
    }

    #[test]
    fn questions_that_were_too_long_are_pointed_out() {
        let mut comparison = fixtures::comparison();
        let unscored = |row| Unscored {
            row,
            subject: "anatomy".to_string(),
            reason: "longer than the context".to_string(),
        };
        let evaluation = &mut comparison.variants[1].evaluation;
        evaluation.unscored = (0..12).map(unscored).collect();
        evaluation.shortened = 1_003;
        let caveats = caveats(&comparison).join(" ");
        for part in [
            "Example-135M.Q4_0 could not be asked 12 of the questions (rows 0, 1, ",
            "9, …)",
            "1,003 questions lost their left end",
        ] {
            assert!(caveats.contains(part), "{part} is missing in {caveats}");
        }
    }

    #[test]
    fn a_baseline_that_guesses_is_pointed_out() {
        let mut comparison = fixtures::comparison();
        assert!(!caveats(&comparison).iter().any(|caveat| caveat.contains("guessing")));
        comparison.variants[0].accuracy_interval[0] = 0.2;
        assert!(caveats(&comparison).iter().any(|caveat| caveat.contains("guessing")));
    }

    #[test]
    fn dates_follow_the_calendar() {
        let at = |seconds| utc_minute(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01 00:00 UTC");
        assert_eq!(at(951_782_400), "2000-02-29 00:00 UTC");
        assert_eq!(at(1_795_183_380), "2026-11-20 14:03 UTC");
    }
}
