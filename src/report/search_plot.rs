//! Size against divergence: what a search found, as an SVG file of its own.

use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use super::plots::{Area, Axis, Drawn, INK, LABEL_SIZE, TICK_SIZE, rgb, stroke, text};
use crate::search::SearchReport;
use crate::support::units;

const WIDTH: u32 = 760;
const HEIGHT: u32 = 486;
// The rectangle of the axes.
const LEFT: i32 = 74;
const RIGHT: i32 = 740;
const TOP: i32 = 78;
const BOTTOM: i32 = 430;
/// How far below the smallest measured divergence the picture ends: the curve goes down to 0, which
/// has no place on a logarithmic axis.
const DEPTH: f64 = 8.0;
// Numbers of colours in the palette.
const CURVE: usize = 0;
const CALIBRATION: usize = 1;
const HELD_OUT: usize = 2;
const MIB: f64 = 1024.0 * 1024.0;

/// A measured variant.
struct Point {
    name: String,
    size: f64,
    calibration: f64,
    held_out: Option<f64>,
}

/// Draws the predicted curve, the wanted size and every measured variant.
pub fn draw(report: &SearchReport) -> String {
    let points: Vec<Point> = report
        .variants
        .iter()
        .map(|variant| Point {
            name: variant.name.clone(),
            size: variant.file_bytes as f64 / MIB,
            calibration: variant.calibration.kl.mean,
            held_out: variant.held_out.as_ref().map(|held_out| held_out.kl.mean),
        })
        .collect();
    let curve: Vec<(f64, f64)> = report
        .curve
        .iter()
        .map(|point| (point.file_bytes as f64 / MIB, point.predicted_kl))
        .collect();
    let mut drawing = String::new();
    {
        let area = SVGBackend::with_string(&mut drawing, (WIDTH, HEIGHT)).into_drawing_area();
        draw_all(&area, report, &curve, &points)
            .and_then(|()| area.present())
            .expect("drawing into a string cannot fail");
    }
    drawing.replace("\"#010203\"", "\"#1f2933\"")
}

fn draw_all(
    area: &Area<'_>,
    report: &SearchReport,
    curve: &[(f64, f64)],
    points: &[Point],
) -> Drawn {
    area.fill(&WHITE)?;
    let title = format!("{}: divergence by size", file_name(&report.model));
    text(area, &title, (LEFT, 20), HPos::Left, LABEL_SIZE * 1.15, 1.0)?;
    legend(area, points.iter().any(|point| point.held_out.is_some()))?;
    let losses = LogAxis::around(
        points.iter().flat_map(|point| [Some(point.calibration), point.held_out]).flatten(),
        curve.first().map(|&(_, loss)| loss),
        [BOTTOM, TOP],
    );
    let budget = report.budget_bytes as f64 / MIB;
    let shown: Vec<(f64, f64)> =
        curve.iter().copied().filter(|&(_, loss)| loss >= losses.from).collect();
    let sizes = shown.iter().map(|&(size, _)| size);
    let sizes = Axis::around(sizes.chain(points.iter().map(|point| point.size)), [LEFT, RIGHT]);
    grid(area, &sizes, &losses)?;

    let x = sizes.at(budget);
    if (LEFT..=RIGHT).contains(&x) {
        for y in (TOP..BOTTOM).step_by(9) {
            stroke(area, &[(x, y), (x, (y + 5).min(BOTTOM))], &INK.mix(0.5), 1)?;
        }
        let label = format!("wanted: {}", units::bytes(report.budget_bytes));
        let anchor = if x > RIGHT - 150 { HPos::Right } else { HPos::Left };
        let beside = if x > RIGHT - 150 { x - 6 } else { x + 6 };
        text(area, &label, (beside, TOP + 8), anchor, TICK_SIZE, 0.7)?;
    }
    let path: Vec<(i32, i32)> =
        shown.iter().map(|&(size, loss)| (sizes.at(size), losses.at(loss))).collect();
    stroke(area, &path, &rgb(CURVE).mix(1.0), 2)?;
    for point in points {
        measured(area, point, &sizes, &losses)?;
    }
    Ok(())
}

/// A variant's points, one above the other, and its name beside the upper one.
fn measured(area: &Area<'_>, point: &Point, sizes: &Axis, losses: &LogAxis) -> Drawn {
    let x = sizes.at(point.size);
    let mut highest = BOTTOM;
    let drawn = [(Some(point.calibration), CALIBRATION), (point.held_out, HELD_OUT)];
    for (loss, color) in drawn {
        let Some(loss) = loss.filter(|&loss| loss > 0.0) else { continue };
        let y = losses.at(loss);
        area.draw(&Circle::new((x, y), 5, rgb(color).filled()))?;
        highest = highest.min(y);
    }
    let anchor = if x > RIGHT - 80 { HPos::Right } else { HPos::Left };
    let beside = if x > RIGHT - 80 { x - 9 } else { x + 9 };
    text(area, &point.name, (beside, highest - 9), anchor, TICK_SIZE, 1.0)
}

fn legend(area: &Area<'_>, has_held_out: bool) -> Drawn {
    let mut x = LEFT;
    let y = 42;
    stroke(area, &[(x, y), (x + 22, y)], &rgb(CURVE).mix(1.0), 2)?;
    text(area, "best of each size, predicted", (x + 30, y), HPos::Left, TICK_SIZE, 0.8)?;
    x += 220;
    let texts = [("measured on the calibration text", CALIBRATION), ("on held-out text", HELD_OUT)];
    for (words, color) in texts.into_iter().take(if has_held_out { 2 } else { 1 }) {
        area.draw(&Circle::new((x, y), 5, rgb(color).filled()))?;
        text(area, words, (x + 11, y), HPos::Left, TICK_SIZE, 0.8)?;
        x += 230;
    }
    Ok(())
}

fn grid(area: &Area<'_>, sizes: &Axis, losses: &LogAxis) -> Drawn {
    for &tick in &sizes.ticks {
        let x = sizes.at(tick);
        stroke(area, &[(x, TOP), (x, BOTTOM)], &INK.mix(0.08), 1)?;
        text(area, &sizes.name(tick), (x, BOTTOM + 14), HPos::Center, TICK_SIZE, 0.7)?;
    }
    for (tick, name) in losses.ticks() {
        let y = losses.at(tick);
        stroke(area, &[(LEFT, y), (RIGHT, y)], &INK.mix(0.08), 1)?;
        text(area, &name, (LEFT - 8, y), HPos::Right, TICK_SIZE, 0.7)?;
    }
    let middle = (LEFT + RIGHT) / 2;
    text(area, "file, MiB", (middle, BOTTOM + 36), HPos::Center, TICK_SIZE, 0.7)?;
    text(area, "mean KL, nats", (8, TOP - 14), HPos::Left, TICK_SIZE, 0.7)
}

/// A logarithmic axis over whole steps of 1, 2 and 5 times powers of ten.
struct LogAxis {
    from: f64,
    to: f64,
    pixels: [i32; 2],
}

impl LogAxis {
    /// An axis around the measured values and as much of the curve as is near them.
    fn around(measured: impl Iterator<Item = f64>, largest: Option<f64>, pixels: [i32; 2]) -> Self {
        let (low, high) = measured
            .filter(|&value| value > 0.0)
            .fold((f64::INFINITY, 0.0f64), |(low, high), value| (low.min(value), high.max(value)));
        let (low, high) = if high > 0.0 { (low, high) } else { (1e-3, 1.0) };
        let top = largest.unwrap_or(high).clamp(high, high * 1e3);
        Self { from: step_below(low / DEPTH), to: step_above(top), pixels }
    }

    fn at(&self, value: f64) -> i32 {
        let [start, end] = self.pixels.map(f64::from);
        let place = (value / self.from).ln() / (self.to / self.from).ln();
        (start + place * (end - start)).round() as i32
    }

    /// The ticks in the axis, with their names.
    fn ticks(&self) -> Vec<(f64, String)> {
        let first = self.from.log10().floor() as i32;
        let last = self.to.log10().ceil() as i32;
        let is_inside =
            |tick: f64| tick >= self.from * (1.0 - 1e-9) && tick <= self.to * (1.0 + 1e-9);
        let mut ticks = Vec::new();
        for power in first..=last {
            for factor in [1.0, 2.0, 5.0] {
                let tick = factor * 10f64.powi(power);
                if is_inside(tick) {
                    let decimals = usize::try_from(-power).unwrap_or(0);
                    ticks.push((tick, format!("{tick:.decimals$}")));
                }
            }
        }
        ticks
    }
}

fn step_below(value: f64) -> f64 {
    let power = 10f64.powf(value.log10().floor());
    [5.0, 2.0].into_iter().map(|factor| factor * power).find(|&step| step <= value).unwrap_or(power)
}

fn step_above(value: f64) -> f64 {
    let power = 10f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 5.0].into_iter().map(|factor| factor * power);
    steps.into_iter().find(|&step| step >= value * (1.0 - 1e-9)).unwrap_or(10.0 * power)
}

fn file_name(path: &str) -> String {
    let name = std::path::Path::new(path).file_name();
    name.map_or(path.to_string(), |name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithmic_axes_have_round_ticks() {
        let axis = LogAxis::around([0.03, 0.05].into_iter(), Some(0.7), [100, 0]);
        assert_eq!((axis.from, axis.to), (0.002, 1.0));
        assert_eq!((axis.at(0.002), axis.at(1.0)), (100, 0));
        let names: Vec<String> = axis.ticks().into_iter().map(|(_, name)| name).collect();
        assert_eq!(names, ["0.002", "0.005", "0.01", "0.02", "0.05", "0.1", "0.2", "0.5", "1"]);
        let empty = LogAxis::around([0.0].into_iter(), None, [100, 0]);
        assert!(empty.from < empty.to && empty.from > 0.0);
    }
}
