//! The report's plots as inline SVG. Text and lines take the page's own colour, so that they can be
//! read on light and dark pages; labels stand above what they name, so that they are never cut.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Width of every plot in its own units; pages scale it.
const WIDTH: u32 = 480;
/// Stands for the page's text colour until the SVG is done.
pub(super) const INK: RGBColor = RGBColor(1, 2, 3);
pub(super) const LABEL_SIZE: f64 = 14.0;
pub(super) const TICK_SIZE: f64 = 12.0;
/// Height of a row that has its label above its bar.
const ROW: i32 = 48;

/// Colours of the variants: the first is the baseline's; all are legible on white and on black.
const PALETTE: [&str; 8] =
    ["#64748b", "#2f7ee6", "#e0662a", "#1a9b6c", "#a05fd6", "#d64a8c", "#b58a0e", "#1797a6"];

/// The colour of the variant at `index`.
pub(super) fn color(index: usize) -> &'static str {
    PALETTE[index % PALETTE.len()]
}

pub(super) fn rgb(index: usize) -> RGBColor {
    let part = |from: usize| u8::from_str_radix(&color(index)[from..from + 2], 16).unwrap_or(0);
    RGBColor(part(1), part(3), part(5))
}

/// A value with its interval.
#[derive(Debug, Clone)]
pub(super) struct Interval {
    pub label: String,
    pub value: f64,
    pub low: f64,
    pub high: f64,
    /// The value as text.
    pub text: String,
}

/// A bar.
#[derive(Debug, Clone)]
pub(super) struct Bar {
    pub label: String,
    pub value: f64,
    /// The value as text.
    pub text: String,
}

/// A line over the levels of concurrency: a median with its range at each.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub points: Vec<Option<[f64; 3]>>,
}

/// A point that stands for a share of all.
#[derive(Debug, Clone, Copy)]
pub(super) struct SharePoint {
    pub x: f64,
    pub y: f64,
    /// From 0 to 1.
    pub share: f64,
}

pub(super) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
pub(super) type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

/// Intervals one above the other on a common axis in percent, with a dashed line at `reference`.
pub(super) fn intervals(rows: &[Interval], reference: f64, reference_text: &str) -> String {
    let top = 26;
    let bottom = top + ROW * rows.len() as i32;
    svg("Accuracy with intervals", bottom + 30, |area| {
        let values = rows.iter().flat_map(|row| [row.low, row.high]).chain([reference]);
        let axis = Axis::around(values, [8, WIDTH as i32 - 8]);
        for &tick in &axis.ticks {
            let x = axis.at(tick);
            for index in 0..rows.len() as i32 {
                let from = top + ROW * index + 22;
                stroke(area, &[(x, from), (x, from + 22)], &INK.mix(0.12), 1)?;
            }
            let anchor = axis.anchor(x, 20);
            text(area, &axis.name(tick), (x, bottom + 14), anchor, TICK_SIZE, 0.7)?;
        }
        let x = axis.at(reference);
        // The line passes behind the labels' places, so that it crosses no text.
        for index in 0..rows.len() as i32 {
            let from = top + ROW * index + 22;
            for y in (from..from + 24).step_by(8) {
                stroke(area, &[(x, y), (x, y + 5)], &INK.mix(0.55), 1)?;
            }
        }
        text(area, reference_text, (x, top - 14), axis.anchor(x, 70), TICK_SIZE, 0.7)?;
        for (index, row) in rows.iter().enumerate() {
            let y = top + ROW * index as i32;
            heading(area, &row.label, &row.text, y + 12)?;
            let y = y + 32;
            let (low, high, value) = (axis.at(row.low), axis.at(row.high), axis.at(row.value));
            stroke(area, &[(low, y), (high, y)], &rgb(index).mix(1.0), 3)?;
            for x in [low, high] {
                stroke(area, &[(x, y - 5), (x, y + 5)], &rgb(index).mix(1.0), 2)?;
            }
            area.draw(&Circle::new((value, y), 6, rgb(index).filled()))?;
        }
        Ok(())
    })
}

/// Bars one above the other, the longest over the whole width.
pub(super) fn bars(title: &str, rows: &[Bar]) -> String {
    let height = ROW * rows.len() as i32 + 6;
    svg(title, height, |area| {
        let most = rows.iter().map(|row| row.value).fold(f64::MIN_POSITIVE, f64::max);
        let room = f64::from(WIDTH - 16);
        for (index, row) in rows.iter().enumerate() {
            let y = ROW * index as i32;
            heading(area, &row.label, &row.text, y + 14)?;
            let length = (row.value / most * room).round().max(1.0) as i32;
            let corners = [(8, y + 26), (8 + length, y + 42)];
            area.draw(&Rectangle::new(corners, rgb(index).filled()))?;
        }
        Ok(())
    })
}

/// Lines over the levels of concurrency, which stand at equal distances; the value axis begins at 0.
pub(super) fn lines(title: &str, levels: &[usize], series: &[Line]) -> String {
    let (left, right, top, bottom) = (56, WIDTH as i32 - 18, 12, 228);
    svg(title, bottom + 46, |area| {
        let values = series.iter().flat_map(|line| line.points.iter().flatten().flatten().copied());
        let axis = Axis::around(values.chain([0.0]), [bottom, top]);
        for &tick in &axis.ticks {
            let y = axis.at(tick);
            stroke(area, &[(left, y), (right, y)], &INK.mix(0.12), 1)?;
            text(area, &axis.name(tick), (left - 8, y), HPos::Right, TICK_SIZE, 0.7)?;
        }
        let gaps = levels.len().saturating_sub(1).max(1) as i32;
        let inset = 24;
        let x_at = |index: usize| match levels.len() {
            1 => (left + right) / 2,
            _ => left + inset + (right - left - 2 * inset) * index as i32 / gaps,
        };
        for (index, level) in levels.iter().enumerate() {
            let x = x_at(index);
            text(area, &level.to_string(), (x, bottom + 14), HPos::Center, TICK_SIZE, 0.7)?;
        }
        let middle = ((left + right) / 2, bottom + 34);
        text(area, "requests in flight", middle, HPos::Center, TICK_SIZE, 0.7)?;
        for (number, line) in series.iter().enumerate() {
            let points = line.points.iter().enumerate().filter_map(|(index, point)| {
                let [low, value, high] = (*point)?;
                Some((x_at(index), axis.at(low), axis.at(value), axis.at(high)))
            });
            let points: Vec<_> = points.collect();
            let path: Vec<(i32, i32)> = points.iter().map(|&(x, _, y, _)| (x, y)).collect();
            stroke(area, &path, &rgb(number).mix(1.0), 2)?;
            for &(x, low, y, high) in &points {
                if low - high > 8 {
                    stroke(area, &[(x, low), (x, high)], &rgb(number).mix(0.5), 2)?;
                }
                area.draw(&Circle::new((x, y), 4, rgb(number).filled()))?;
            }
        }
        Ok(())
    })
}

/// Accuracy over confidence, both in percent, a line a series; the dashed diagonal is where they
/// are equal. A point's area grows with its share of the questions.
pub(super) fn reliability(series: &[Vec<SharePoint>]) -> String {
    let (left, right, top, bottom) = (56, WIDTH as i32 - 18, 12, 268);
    svg("Accuracy over confidence", bottom + 46, |area| {
        let ends = [0.0, 100.0];
        let across = Axis::around(ends.into_iter(), [left, right]);
        let up = Axis::around(ends.into_iter(), [bottom, top]);
        for &tick in &up.ticks {
            let y = up.at(tick);
            stroke(area, &[(left, y), (right, y)], &INK.mix(0.12), 1)?;
            text(area, &up.name(tick), (left - 8, y), HPos::Right, TICK_SIZE, 0.7)?;
            let x = across.at(tick);
            let anchor = across.anchor(x, 20);
            text(area, &across.name(tick), (x, bottom + 14), anchor, TICK_SIZE, 0.7)?;
        }
        let middle = ((left + right) / 2, bottom + 34);
        text(area, "confidence", middle, HPos::Center, TICK_SIZE, 0.7)?;
        for start in (0..100).step_by(4) {
            let (from, to) = (f64::from(start), f64::from(start + 2));
            let ends = [from, to].map(|place| (across.at(place), up.at(place)));
            stroke(area, &ends, &INK.mix(0.55), 1)?;
        }
        for (number, points) in series.iter().enumerate() {
            let place = |point: &SharePoint| (across.at(point.x), up.at(point.y));
            let path: Vec<(i32, i32)> = points.iter().map(place).collect();
            stroke(area, &path, &rgb(number).mix(1.0), 2)?;
            for point in points {
                let radius = (2.0 + 10.0 * point.share.sqrt()).round() as i32;
                area.draw(&Circle::new(place(point), radius, rgb(number).mix(0.7).filled()))?;
            }
        }
        Ok(())
    })
}

/// Draws into a new SVG and makes it fit for a page: scalable, described, in the page's colours,
/// and without the namespace, which inline SVG does not need.
fn svg(description: &str, height: i32, draw: impl FnOnce(&Area<'_>) -> Drawn) -> String {
    let height = height.unsigned_abs();
    let mut drawing = String::new();
    {
        let area = SVGBackend::with_string(&mut drawing, (WIDTH, height)).into_drawing_area();
        draw(&area).and_then(|()| area.present()).expect("drawing into a string cannot fail");
    }
    let body = drawing.split_once('>').map_or("", |(_, body)| body);
    let body = body.replace("\"#010203\"", "\"currentColor\"");
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{description}\">{body}"
    )
}

/// A row's label on the left and its value on the right.
fn heading(area: &Area<'_>, label: &str, value: &str, y: i32) -> Drawn {
    // A label gives way to the value: what is cut is still named by the table and the legend.
    let room = 62usize.saturating_sub(value.chars().count());
    let label = if label.chars().count() > room {
        let tail: Vec<char> = label.chars().rev().take(room.saturating_sub(1)).collect();
        format!("…{}", tail.into_iter().rev().collect::<String>())
    } else {
        label.to_string()
    };
    text(area, &label, (8, y), HPos::Left, LABEL_SIZE, 1.0)?;
    text(area, value, (WIDTH as i32 - 8, y), HPos::Right, LABEL_SIZE, 0.8)
}

pub(super) fn text(
    area: &Area<'_>,
    content: &str,
    at: (i32, i32),
    horizontal: HPos,
    size: f64,
    opacity: f64,
) -> Drawn {
    // The SVG back end divides sizes by this factor.
    let color = INK.mix(opacity);
    let style = ("sans-serif", size * 1.24)
        .into_text_style(area)
        .color(&color)
        .pos(Pos::new(horizontal, VPos::Center));
    area.draw(&Text::new(content.to_string(), at, style))
}

pub(super) fn stroke(area: &Area<'_>, path: &[(i32, i32)], color: &RGBAColor, width: u32) -> Drawn {
    area.draw(&PathElement::new(path.to_vec(), color.stroke_width(width)))
}

/// A linear axis with round ticks.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Axis {
    from: f64,
    to: f64,
    pixels: [i32; 2],
    step: f64,
    pub(super) ticks: Vec<f64>,
}

impl Axis {
    /// An axis that holds all values, from the first to the second pixel.
    pub(super) fn around(values: impl Iterator<Item = f64>, pixels: [i32; 2]) -> Self {
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
            (low.min(value), high.max(value))
        });
        let span = if high > low { high - low } else { 1.0 };
        let step = round_step(span / 4.5);
        let first = (low / step).floor();
        let last = (low.max(high) / step).ceil().max(first + 1.0);
        let ticks = (0..=(last - first) as usize).map(|i| (first + i as f64) * step).collect();
        Self { from: first * step, to: last * step, pixels, step, ticks }
    }

    pub(super) fn at(&self, value: f64) -> i32 {
        let [start, end] = self.pixels.map(f64::from);
        (start + (value - self.from) / (self.to - self.from) * (end - start)).round() as i32
    }

    pub(super) fn name(&self, tick: f64) -> String {
        let decimals = (-self.step.log10().floor()).max(0.0) as usize;
        format!("{tick:.decimals$}")
    }

    /// How a text of about `width` pixels around `x` is anchored so that it stays in the picture.
    fn anchor(&self, x: i32, width: i32) -> HPos {
        if x - width / 2 < 4 {
            HPos::Left
        } else if x + width / 2 > WIDTH as i32 - 4 {
            HPos::Right
        } else {
            HPos::Center
        }
    }
}

/// The smallest of 1, 2, 2.5 and 5 times a power of ten that is at least `step`.
fn round_step(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|factor| factor * power)
        .find(|&round| round >= step * 0.999_999)
        .unwrap_or(power * 10.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_have_round_ticks_around_all_values() {
        let axis = Axis::around([0.0, 118.0].into_iter(), [200, 0]);
        assert_eq!(axis.ticks, [0.0, 50.0, 100.0, 150.0]);
        assert_eq!((axis.at(0.0), axis.at(150.0), axis.at(75.0)), (200, 0, 100));
        let names: Vec<String> = axis.ticks.iter().map(|&tick| axis.name(tick)).collect();
        assert_eq!(names, ["0", "50", "100", "150"]);
        let axis = Axis::around([0.0, 0.9].into_iter(), [0, 1]);
        assert_eq!(axis.name(axis.ticks[1]), "0.2");
        let flat = Axis::around([3.0, 3.0].into_iter(), [0, 100]);
        assert!(flat.ticks.len() >= 2 && flat.from <= 3.0 && 3.0 < flat.to);
    }

    #[test]
    fn a_plot_is_inline_svg_in_the_page_s_colours() {
        let row = Interval {
            label: "a & b".to_string(),
            value: 30.0,
            low: 25.0,
            high: 35.0,
            text: "30 %".to_string(),
        };
        let plot = intervals(&[row], 25.0, "chance");
        assert!(plot.starts_with("<svg viewBox=\"0 0 480 ") && plot.trim_end().ends_with("</svg>"));
        assert!(plot.contains("currentColor") && !plot.contains("#010203"));
        assert!(!plot.contains("http"));
        assert!(plot.contains("a &amp; b"), "labels are escaped");
    }

    #[test]
    fn a_reliability_plot_has_a_circle_a_bin_and_a_diagonal() {
        let point = |x, y| SharePoint { x, y, share: 0.25 };
        let series = [vec![point(30.0, 25.0), point(60.0, 70.0)], vec![point(90.0, 50.0)]];
        let plot = reliability(&series);
        assert_eq!(plot.matches("<circle").count(), 3);
        let lines = |plot: &str| plot.matches("<polyline").count();
        assert!(lines(&reliability(&[])) >= 25, "the diagonal is dashed");
    }

    #[test]
    fn a_level_without_a_figure_leaves_a_gap() {
        let line = Line { points: vec![Some([1.0, 2.0, 3.0]), None, Some([4.0, 4.0, 4.0])] };
        let plot = lines("TPOT", &[1, 2, 4], &[line]);
        assert_eq!(plot.matches("<circle").count(), 2);
    }
}
