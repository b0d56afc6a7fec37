//! A paired comparison in words.

use super::Paired;
use crate::support::units;

impl Paired {
    /// What a variant loses or gains against the baseline, in a sentence without its full stop: the
    /// difference with its interval, whether chance explains it, and how many answers changed.
    pub fn verdict(&self, name: &str) -> String {
        let points = format!("{:.1} points of accuracy", self.difference.abs() * 100.0);
        let change = match self.difference {
            0.0 => format!("{name} neither loses nor gains accuracy"),
            difference if difference < 0.0 => format!("{name} loses {points}"),
            _ => format!("{name} gains {points}"),
        };
        let verdict = if self.distinguishable() {
            "more than chance explains"
        } else {
            "no difference shown"
        };
        format!(
            "{change} (95 % interval {}, {}): {verdict} on these {} questions; {} of the answers changed",
            interval_in_points(self.interval),
            p_value(self.mcnemar_p),
            units::count(self.questions as u64),
            units::percent(self.changed() as f64 / self.questions as f64),
        )
    }
}

/// An interval of a share as `−1.1 to +0.3`, in points.
pub fn interval_in_points(interval: [f64; 2]) -> String {
    let [low, high] = interval.map(|bound| format!("{:+.1}", bound * 100.0).replace('-', "−"));
    format!("{low} to {high}")
}

/// `p = 0.82`, `p < 0.001`.
fn p_value(p: f64) -> String {
    match p {
        p if p < 0.001 => "exact McNemar p < 0.001".to_string(),
        p if p < 0.1 => format!("exact McNemar p = {p:.3}"),
        p => format!("exact McNemar p = {p:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Answer;
    use super::*;

    /// 120 questions, of which the baseline answers all right but 40.
    fn paired(lost: usize, won: usize, other: usize) -> Paired {
        let answer = |prediction| Answer {
            subject: "astronomy",
            answer: 0,
            prediction,
            log_probabilities: &[-1.0, -1.0, -1.0],
        };
        let baseline: Vec<_> = (0..120).map(|i| answer(usize::from(i >= 80))).collect();
        let variant: Vec<_> = (0..120)
            .map(|i| match i {
                _ if i < lost => answer(1),
                _ if i < 80 => answer(0),
                _ if i < 80 + won => answer(0),
                _ if i < 80 + won + other => answer(2),
                _ => answer(1),
            })
            .collect();
        Paired::of(&baseline, &variant).expect("there are questions")
    }

    #[test]
    fn a_verdict_names_direction_interval_and_changes() {
        assert_eq!(
            paired(7, 3, 6).verdict("Q4_0"),
            "Q4_0 loses 3.3 points of accuracy (95 % interval −8.8 to +2.3, exact McNemar p = 0.34): \
             no difference shown on these 120 questions; 13.3 % of the answers changed"
        );
        let gained = paired(0, 14, 0).verdict("Q4_0");
        assert!(gained.starts_with("Q4_0 gains 11.7 points"), "{gained}");
        assert!(gained.contains("p < 0.001): more than chance explains"), "{gained}");
        let even = paired(2, 2, 0).verdict("Q4_0");
        assert!(even.starts_with("Q4_0 neither loses nor gains accuracy (95 %"), "{even}");
    }
}
