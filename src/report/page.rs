//! The pages: `report.html`, one file that needs nothing else, and `report.md`.

use std::collections::BTreeMap;

use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Value, context};

use super::ReportError;
use super::flips::Flips;
use super::plots::{self, Bar, Interval, Line, SharePoint};
use super::record::{Comparison, Variant};
use super::{paired_tables, tables, words};
use crate::bench::{LevelSummary, Spread};
use crate::support::table::{Align, Table};
use crate::support::units;

/// The report as one self-contained HTML page, with the list of changed answers.
pub(super) fn html(comparison: &Comparison, flips: &Flips) -> Result<String, ReportError> {
    let context = context! {
        flips => flips.context(),
        script => include_str!("templates/flips.js"),
        ..html_context(comparison)
    };
    render("report.html", include_str!("templates/report.html.j2"), context)
}

/// The report as GitHub-flavoured Markdown.
pub(super) fn markdown(comparison: &Comparison) -> Result<String, ReportError> {
    render("report.md", include_str!("templates/report.md.j2"), markdown_context(comparison))
}

fn render(name: &str, template: &str, context: Value) -> Result<String, ReportError> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_auto_escape_callback(|name| {
        if name.ends_with(".html") { AutoEscape::Html } else { AutoEscape::None }
    });
    environment.add_template(name, template)?;
    Ok(environment.get_template(name)?.render(context)?)
}

fn markdown_context(comparison: &Comparison) -> Value {
    page_context(comparison, &|table| Value::from(table.to_markdown()))
}

fn html_context(comparison: &Comparison) -> Value {
    let short = words::short_labels(&comparison.variants);
    let colors: BTreeMap<&str, &str> = comparison
        .variants
        .iter()
        .zip(&short)
        .enumerate()
        .flat_map(|(index, (variant, short))| {
            [variant.label.as_str(), short.as_str()].map(|label| (label, plots::color(index)))
        })
        .collect();
    let legend: Vec<Value> = short
        .iter()
        .enumerate()
        .map(|(index, label)| context! { label, color => plots::color(index) })
        .collect();
    context! {
        cards => cards(comparison, &short),
        accuracy_plot => accuracy_plot(comparison, &short),
        size_plot => size_plot(comparison, &short),
        reliability_plot => reliability_plot(comparison),
        divergence_plot => divergence_plot(comparison, &short),
        speed_plots => speed_plots(comparison),
        colors,
        legend,
        ..page_context(comparison, &html_table)
    }
}

/// What both pages show; `table` makes a table into what the page's template takes.
fn page_context(comparison: &Comparison, table: &dyn Fn(Table) -> Value) -> Value {
    let speeds: Vec<Value> = tables::speeds(comparison)
        .into_iter()
        .map(|(concurrency, speeds)| context! { concurrency, table => table(speeds) })
        .collect();
    let settings: Vec<Value> =
        settings(comparison).into_iter().map(|(name, value)| context! { name, value }).collect();
    let paired = tables::paired(comparison);
    let compared = !paired.is_empty();
    let first = comparison.variants.first();
    let questions = first.map_or(0, |variant| variant.evaluation.overall.questions);
    context! {
        title => comparison.title.clone(),
        baseline => comparison.baseline.clone(),
        created => comparison.created.clone(),
        cpu => comparison.machine.cpu.clone(),
        headline => comparison.headline.clone(),
        caveats => comparison.caveats.clone(),
        commands => comparison.commands.clone(),
        variant_count => comparison.variants.len(),
        questions => units::count(questions as u64),
        chance => chance(comparison),
        settings,
        variants => table(tables::variants(comparison)),
        differences => compared.then(|| table(paired_tables::differences(&paired))),
        changes => compared.then(|| table(paired_tables::changes(&paired))),
        category_differences => paired_tables::category_differences(&paired).map(table),
        subject_differences => paired_tables::subject_differences(&paired).map(table),
        reliability => table(tables::reliability(comparison)),
        text => text(comparison),
        text_table => tables::text(comparison).map(table),
        categories => tables::categories(comparison).map(table),
        subjects => tables::subjects(comparison).map(table),
        speeds,
        files => table(tables::files(comparison)),
    }
}

/// The text that was read, in words; `None` without one.
fn text(comparison: &Comparison) -> Option<String> {
    let text = comparison.text.as_ref()?;
    let positions = comparison.variants.iter().find_map(|v| v.text.as_ref())?.divergence.positions;
    Some(format!(
        "{}, {} windows of {} tokens, {} positions",
        text.text,
        units::count(text.chunks as u64),
        units::count(text.context as u64),
        units::count(positions as u64)
    ))
}

fn html_table(table: Table) -> Value {
    let columns: Vec<Value> = table
        .columns()
        .iter()
        .map(|(name, align)| context! { name, right => *align == Align::Right })
        .collect();
    let rows: Vec<Vec<Value>> =
        table.rows().iter().map(|row| row.iter().map(|cell| html_cell(cell)).collect()).collect();
    context! { columns, rows }
}

/// A cell whose ratio, in brackets at its end, is set apart.
fn html_cell(cell: &str) -> Value {
    let split = cell.strip_suffix("×)").and_then(|rest| rest.rsplit_once(" ("));
    match split {
        Some((text, ratio)) => context! { text, ratio => format!("{ratio}×") },
        None => context! { text => cell },
    }
}

fn chance(comparison: &Comparison) -> String {
    let evaluation = comparison.variants.first().map(|variant| &variant.evaluation);
    units::percent(evaluation.map_or(0.0, |evaluation| evaluation.overall.chance))
}

/// What each variant gives and costs against the baseline, in large figures.
fn cards(comparison: &Comparison, short: &[String]) -> Vec<Value> {
    let others = comparison
        .variants
        .iter()
        .enumerate()
        .filter(|(_, variant)| variant.label != comparison.baseline);
    others
        .zip(&comparison.headline)
        .map(|((index, variant), sentence)| {
            context! {
                label => short[index].clone(),
                color => plots::color(index),
                figures => figures(variant),
                sentence,
            }
        })
        .collect()
}

fn figures(variant: &Variant) -> Vec<Value> {
    let figure = |value: String, caption: String| context! { value, caption };
    let mut figures =
        vec![figure(format!("{:.1}×", variant.times_smaller), "smaller file".to_string())];
    let ratios = variant.speed.as_ref().map(|speed| speed.ratios.as_slice()).unwrap_or_default();
    if let (Some(first), Some(last)) = (ratios.first(), ratios.last()) {
        let decode = first.decode.unwrap_or(first.output);
        let caption = format!("decode speed, concurrency {}", first.concurrency);
        figures.push(figure(format!("{decode:.1}×"), caption));
        if ratios.len() > 1 {
            let caption = format!("output speed, concurrency {}", last.concurrency);
            figures.push(figure(format!("{:.1}×", last.output), caption));
        }
    }
    if let Some(paired) = &variant.paired {
        let verdict = if paired.distinguishable() { "beyond chance" } else { "within chance" };
        let caption = format!("points of accuracy, {verdict}");
        figures.push(figure(paired_tables::signed(paired.difference), caption));
    }
    if let Some(text) = &variant.text {
        let kl = format!("{:.3}", text.divergence.kl.mean);
        figures.push(figure(kl, "nats of KL on a text".to_string()));
    }
    figures
}

fn accuracy_plot(comparison: &Comparison, short: &[String]) -> String {
    let rows: Vec<Interval> = comparison
        .variants
        .iter()
        .zip(short)
        .map(|(variant, label)| {
            let [low, high] = variant.accuracy_interval.map(|bound| bound * 100.0);
            Interval {
                label: label.clone(),
                value: variant.evaluation.overall.accuracy * 100.0,
                low,
                high,
                text: format!(
                    "{:.1} % ({low:.1}–{high:.1})",
                    variant.evaluation.overall.accuracy * 100.0
                ),
            }
        })
        .collect();
    let chance = comparison.variants.first().map_or(0.0, |v| v.evaluation.overall.chance);
    plots::intervals(&rows, chance * 100.0, &format!("chance {:.0} %", chance * 100.0))
}

fn reliability_plot(comparison: &Comparison) -> String {
    let points = |variant: &Variant| -> Vec<SharePoint> {
        let bins = variant.reliability.iter().flat_map(|reliability| &reliability.bins);
        let total = variant.evaluation.overall.questions as f64;
        bins.map(|bin| SharePoint {
            x: bin.confidence * 100.0,
            y: bin.accuracy * 100.0,
            share: bin.questions as f64 / total,
        })
        .collect()
    };
    plots::reliability(&comparison.variants.iter().map(points).collect::<Vec<_>>())
}

/// The mean divergence of each variant, with the baseline's, which is none.
fn divergence_plot(comparison: &Comparison, short: &[String]) -> Option<String> {
    comparison.base_perplexity()?;
    let row = |(variant, label): (&Variant, &String)| {
        let divergence = variant.text.as_ref().map(|text| &text.divergence);
        let value = divergence.map_or(0.0, |divergence| divergence.kl.mean);
        Bar { label: label.clone(), value, text: format!("{value:.5}") }
    };
    let rows: Vec<Bar> = comparison.variants.iter().zip(short).map(row).collect();
    Some(plots::bars("Mean divergence", &rows))
}

fn size_plot(comparison: &Comparison, short: &[String]) -> String {
    let rows: Vec<Bar> = comparison
        .variants
        .iter()
        .zip(short)
        .map(|(variant, label)| Bar {
            label: label.clone(),
            value: variant.size.file_bytes as f64,
            text: format!(
                "{} · {:.2} bits per weight",
                units::bytes(variant.size.file_bytes),
                variant.size.bits_per_weight
            ),
        })
        .collect();
    plots::bars("File sizes", &rows)
}

fn speed_plots(comparison: &Comparison) -> Vec<Value> {
    type Figure = fn(&LevelSummary) -> Option<[f64; 3]>;
    let Some(workload) = &comparison.workload else { return Vec::new() };
    fn range(spread: Spread) -> [f64; 3] {
        [spread.min, spread.median, spread.max]
    }
    let plots: [(&'static str, Figure); 4] = [
        ("Time to first token in seconds: median and range, lower is better", |level| {
            let d = level.ttft_ms;
            Some([d.min, d.p50, d.max].map(|time| time / 1e3))
        }),
        ("Time per output token in milliseconds: median and range, lower is better", |level| {
            level.tpot_ms.map(|d| [d.min, d.p50, d.max])
        }),
        ("Decode: tokens per second over all requests, higher is better", |level| {
            level.decode_tokens_per_second.map(range)
        }),
        ("Output: generated tokens per second, prefill included, higher is better", |level| {
            Some(range(level.output_tokens_per_second))
        }),
    ];
    let draw = |(caption, figure): &(&'static str, Figure)| {
        let series: Vec<Line> = comparison
            .variants
            .iter()
            .map(|variant| {
                let levels = variant.speed.as_ref().map(|speed| speed.levels.as_slice());
                Line { points: levels.unwrap_or_default().iter().map(figure).collect() }
            })
            .collect();
        let svg = plots::lines(caption, &workload.concurrency, &series);
        context! { caption => *caption, svg }
    };
    plots.iter().map(draw).collect()
}

/// Names and values of what was set and what it ran on.
fn settings(comparison: &Comparison) -> Vec<(&'static str, String)> {
    let evaluation = &comparison.evaluation;
    let machine = &comparison.machine;
    let protocol = evaluation.protocol.described(evaluation.shots);
    let mut set = evaluation.set.clone();
    if let Some(variant) = comparison.variants.first() {
        set += &format!(", {}", variant.evaluation.selection);
    }
    let mut settings = vec![
        ("Questions", set),
        ("Set SHA-256", evaluation.set_sha256.clone()),
        ("Protocol", protocol),
    ];
    if let Some(text) = text(comparison) {
        settings.push(("Text", text));
    }
    if let Some(text) = &comparison.text {
        settings.push(("Text SHA-256", text.text_sha256.clone()));
    }
    if let Some(workload) = &comparison.workload {
        let levels: Vec<String> = workload.concurrency.iter().map(usize::to_string).collect();
        let requests = match workload.requests {
            Some(requests) => format!("{requests} requests a level"),
            None => "as many requests as the concurrency".to_string(),
        };
        settings.push((
            "Load",
            format!(
                "{} input + {} output tokens, concurrency {}, {requests}, {} repeat(s)",
                units::count(workload.input_tokens as u64),
                units::count(workload.output_tokens as u64),
                levels.join(", "),
                workload.repeats
            ),
        ));
    }
    settings.extend([
        ("Processor", machine.cpu.clone()),
        ("Cores", format!("{} ({} threads)", machine.physical_cores, machine.logical_cores)),
        ("Memory", units::bytes(machine.memory_bytes)),
        ("System", machine.system.clone()),
        (
            "Device, threads, key-value cache, activations",
            format!(
                "{}, {}, {}, {} bits",
                comparison.device, comparison.threads, comparison.kv_type, comparison.activations
            ),
        ),
        ("quantkit", comparison.quantkit_version.clone()),
        ("Made", comparison.created.clone()),
    ]);
    settings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixtures;

    #[test]
    fn the_html_page_is_self_contained_and_names_every_variant() {
        let comparison = fixtures::comparison();
        let page = html(&comparison, &Flips::default()).unwrap();
        for variant in &comparison.variants {
            assert!(page.contains(&variant.label), "{} is missing", variant.label);
        }
        for outside in ["http:", "https:", "src=", "href=", "@import", "url("] {
            assert!(!page.contains(outside), "the page refers to something outside: {outside}");
        }
        assert_eq!(page.matches("<svg").count(), 8);
        assert!(page.contains("made up &amp; &lt;only&gt;"), "text is escaped");
    }

    #[test]
    fn a_comparison_without_speed_leaves_that_part_out() {
        let mut comparison = fixtures::comparison();
        comparison.workload = None;
        comparison.variants.iter_mut().for_each(|variant| variant.speed = None);
        comparison.headline = words::headline(&comparison);
        let page = html(&comparison, &Flips::default()).unwrap();
        assert_eq!(page.matches("<svg").count(), 4);
        assert!(!page.contains("Speed") && !markdown(&comparison).unwrap().contains("## Speed"));
    }

    #[test]
    fn a_comparison_without_a_text_leaves_that_part_out() {
        let mut comparison = fixtures::comparison();
        let heading = "Perplexity and divergence";
        let both = |comparison: &Comparison| {
            [html(comparison, &Flips::default()).unwrap(), markdown(comparison).unwrap()]
        };
        for page in both(&comparison) {
            assert!(page.contains(heading) && page.contains("12 windows of 512 tokens"));
        }
        comparison.text = None;
        comparison.variants.iter_mut().for_each(|variant| variant.text = None);
        for page in both(&comparison) {
            assert!(!page.contains(heading) && !page.contains("KL on a text"));
        }
    }

    #[test]
    fn the_markdown_page_has_a_table_for_each_level() {
        let page = markdown(&fixtures::comparison()).unwrap();
        assert_eq!(page.matches("| Variant | TTFT |").count(), 3);
        assert!(page.contains("made up & <only>"));
    }
}
