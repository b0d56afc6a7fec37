//! From clock readings to figures.

use std::time::Duration;

use super::record::{
    Distribution, LevelSummary, PeakMemory, RepeatSummary, RequestRecord, Spread, Workload,
};
use super::trace::{RequestTrace, Trace};

impl Distribution {
    /// The distribution of a sample; `None` when it is empty.
    pub fn of(sample: &[f64]) -> Option<Self> {
        let mut sorted = sample.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        Some(Self {
            count: sorted.len(),
            mean: sorted.iter().sum::<f64>() / sorted.len() as f64,
            min: *sorted.first()?,
            p50: percentile(&sorted, 50.0),
            p90: percentile(&sorted, 90.0),
            p95: percentile(&sorted, 95.0),
            p99: percentile(&sorted, 99.0),
            max: *sorted.last()?,
        })
    }
}

impl Spread {
    /// The spread of a sample; `None` when it is empty.
    pub fn of(sample: &[f64]) -> Option<Self> {
        Distribution::of(sample).map(|d| Self { min: d.min, median: d.p50, max: d.max })
    }
}

/// The `percent`-th percentile of an ascending, non-empty sample.
fn percentile(sorted: &[f64], percent: f64) -> f64 {
    let rank = percent / 100.0 * (sorted.len() - 1) as f64;
    let below = rank.floor() as usize;
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + (sorted[above] - sorted[below]) * (rank - below as f64)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// `count / time`; 0 for no time at all, which only a clock that stands still can give.
fn rate(count: f64, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { count / time.as_secs_f64() }
}

/// The figures of one request.
pub(super) fn request(
    trace: &RequestTrace,
    concurrency: usize,
    repeat: usize,
    index: usize,
    input_tokens: usize,
) -> RequestRecord {
    let since = |time: Duration| time.saturating_sub(trace.submitted);
    let first = trace.tokens.first().copied().map_or(Duration::ZERO, since);
    let last = trace.tokens.last().copied().map_or(Duration::ZERO, since);
    let gaps = trace.tokens.len().saturating_sub(1);
    let tpot = (gaps > 0).then(|| milliseconds(last - first) / gaps as f64);
    RequestRecord {
        concurrency,
        repeat,
        request: index,
        input_tokens,
        output_tokens: trace.tokens.len(),
        submitted_ms: milliseconds(trace.submitted),
        ttft_ms: milliseconds(first),
        tpot_ms: tpot,
        inter_token_ms: Distribution::of(&inter_token(trace)),
        end_to_end_ms: milliseconds(last),
        prefill_tokens_per_second: rate(input_tokens as f64, first),
        decode_tokens_per_second: tpot.map(|_| rate(gaps as f64, last - first)),
        token_ms: trace.tokens.iter().map(|&time| milliseconds(since(time)) as f32).collect(),
    }
}

/// Milliseconds between each token and the next.
fn inter_token(trace: &RequestTrace) -> Vec<f64> {
    trace.tokens.windows(2).map(|pair| milliseconds(pair[1] - pair[0])).collect()
}

/// The figures of one repeat, whose requests have the records `records`.
fn repeat(trace: &Trace, records: &[&RequestRecord]) -> RepeatSummary {
    let total = trace.prefill + trace.decode;
    let input_tokens: usize = records.iter().map(|record| record.input_tokens).sum();
    let output_tokens: usize = records.iter().map(|record| record.output_tokens).sum();
    let ttft: Vec<f64> = records.iter().map(|record| record.ttft_ms).collect();
    let tpot: Vec<f64> = records.iter().filter_map(|record| record.tpot_ms).collect();
    RepeatSummary {
        seconds: total.as_secs_f64(),
        prefill_seconds: trace.prefill.as_secs_f64(),
        decode_seconds: trace.decode.as_secs_f64(),
        input_tokens: input_tokens as u64,
        output_tokens: output_tokens as u64,
        decode_tokens: trace.decode_tokens,
        ttft_p50_ms: Distribution::of(&ttft).map_or(0.0, |d| d.p50),
        tpot_p50_ms: Distribution::of(&tpot).map(|d| d.p50),
        prefill_tokens_per_second: rate(input_tokens as f64, trace.prefill),
        decode_tokens_per_second: (trace.decode_tokens > 0)
            .then(|| rate(trace.decode_tokens as f64, trace.decode)),
        full_decode_tokens_per_second: (trace.full_decode_tokens > 0)
            .then(|| rate(trace.full_decode_tokens as f64, trace.full_decode)),
        output_tokens_per_second: rate(output_tokens as f64, total),
        requests_per_second: rate(records.len() as f64, total),
    }
}

/// The figures of one level from its repeats, and the records of its requests.
///
/// # Panics
/// If there is no repeat, or a repeat without requests: the driver never gives one.
pub(super) fn level(
    workload: &Workload,
    concurrency: usize,
    traces: &[Trace],
    peak_memory: Option<PeakMemory>,
) -> (LevelSummary, Vec<RequestRecord>) {
    let records: Vec<RequestRecord> = traces
        .iter()
        .enumerate()
        .flat_map(|(repeat, trace)| {
            trace.requests.iter().enumerate().map(move |(index, one)| {
                request(one, concurrency, repeat, index, workload.input_tokens)
            })
        })
        .collect();
    let repeats: Vec<RepeatSummary> = traces
        .iter()
        .enumerate()
        .map(|(index, trace)| {
            let own: Vec<&RequestRecord> = records.iter().filter(|r| r.repeat == index).collect();
            repeat(trace, &own)
        })
        .collect();
    let pooled = |figure: &dyn Fn(&RequestRecord) -> Option<f64>| {
        Distribution::of(&records.iter().filter_map(figure).collect::<Vec<_>>())
    };
    let spread = |figure: &dyn Fn(&RepeatSummary) -> Option<f64>| {
        Spread::of(&repeats.iter().filter_map(figure).collect::<Vec<_>>())
    };
    let gaps: Vec<f64> =
        traces.iter().flat_map(|trace| &trace.requests).flat_map(inter_token).collect();
    let present = "a level has at least one request";
    let summary = LevelSummary {
        concurrency,
        requests: traces[0].requests.len(),
        ttft_ms: pooled(&|record| Some(record.ttft_ms)).expect(present),
        tpot_ms: pooled(&|record| record.tpot_ms),
        inter_token_ms: Distribution::of(&gaps),
        end_to_end_ms: pooled(&|record| Some(record.end_to_end_ms)).expect(present),
        prefill_tokens_per_second: spread(&|r| Some(r.prefill_tokens_per_second)).expect(present),
        decode_tokens_per_second: spread(&|r| r.decode_tokens_per_second),
        full_decode_tokens_per_second: spread(&|r| r.full_decode_tokens_per_second),
        output_tokens_per_second: spread(&|r| Some(r.output_tokens_per_second)).expect(present),
        requests_per_second: spread(&|r| Some(r.requests_per_second)).expect(present),
        peak_memory,
        repeats,
    };
    (summary, records)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_match_numpy() {
        // numpy.percentile([1, 2, 4, 8], [50, 90, 95, 99])
        let d = Distribution::of(&[8.0, 1.0, 4.0, 2.0]).unwrap();
        assert_eq!((d.count, d.min, d.max, d.mean), (4, 1.0, 8.0, 3.75));
        for (found, expected) in [(d.p50, 3.0), (d.p90, 6.8), (d.p95, 7.4), (d.p99, 7.88)] {
            assert!((found - expected).abs() < 1e-12, "{found} is not {expected}");
        }
        assert_eq!(Distribution::of(&[]), None);
        assert_eq!(Distribution::of(&[5.0]).unwrap().p99, 5.0);
    }

    #[test]
    fn a_request_s_figures_follow_from_its_clock_readings() {
        let at = Duration::from_millis;
        let trace = RequestTrace { submitted: at(10), tokens: vec![at(110), at(130), at(170)] };
        let record = request(&trace, 2, 0, 1, 50);
        assert_eq!(record.output_tokens, 3);
        assert!((record.ttft_ms - 100.0).abs() < 1e-9);
        assert!((record.end_to_end_ms - 160.0).abs() < 1e-9);
        assert!((record.tpot_ms.unwrap() - 30.0).abs() < 1e-9);
        assert!((record.inter_token_ms.unwrap().max - 40.0).abs() < 1e-9);
        assert!((record.prefill_tokens_per_second - 500.0).abs() < 1e-6);
        assert!((record.decode_tokens_per_second.unwrap() - 1000.0 / 30.0).abs() < 1e-6);
        assert_eq!(record.token_ms, [100.0, 120.0, 160.0]);
    }

    #[test]
    fn a_single_output_token_has_no_time_per_output_token() {
        let trace =
            RequestTrace { submitted: Duration::ZERO, tokens: vec![Duration::from_millis(5)] };
        let record = request(&trace, 1, 0, 0, 8);
        assert_eq!((record.tpot_ms, record.inter_token_ms), (None, None));
        assert_eq!(record.ttft_ms, record.end_to_end_ms);
    }
}
