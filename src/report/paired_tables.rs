//! Variants against a baseline, question by question, as tables.

use crate::eval::statistics::paired::{GroupDifference, Paired, interval_in_points};
use crate::eval::statistics::reliability::Reliability;
use crate::support::table::{ABSENT, Align, Table};
use crate::support::units;

/// A variant's name, and how it compares with the baseline.
pub type PairedRow<'a> = (String, &'a Paired);

/// Each variant's accuracy against the baseline's.
pub fn differences(variants: &[PairedRow<'_>]) -> Table {
    let mut table = Table::new([
        ("Variant", Align::Left),
        ("Difference ± s.e.", Align::Right),
        ("95 % interval", Align::Right),
        ("Unpaired interval", Align::Right),
        ("McNemar p", Align::Right),
        ("Questions for 1 point", Align::Right),
    ]);
    for (label, paired) in variants {
        let error = paired.standard_error;
        let error = error.map_or(ABSENT.to_string(), |error| format!("{:.1}", error * 100.0));
        table.row([
            label.clone(),
            format!("{} ± {error}", signed(paired.difference)),
            interval_in_points(paired.interval),
            interval_in_points(paired.unpaired_interval),
            p_value(paired.mcnemar_p),
            units::count(paired.questions_for_one_point),
        ]);
    }
    table
}

/// How each variant's answers differ from the baseline's.
pub fn changes(variants: &[PairedRow<'_>]) -> Table {
    let mut table = Table::new([
        ("Variant", Align::Left),
        ("Right → wrong", Align::Right),
        ("Wrong → right", Align::Right),
        ("Wrong → other wrong", Align::Right),
        ("Same choice", Align::Right),
        ("Mean |Δp| of the answer", Align::Right),
        ("KL over the choices", Align::Right),
    ]);
    for (label, paired) in variants {
        table.row([
            label.clone(),
            units::count(paired.right_to_wrong as u64),
            units::count(paired.wrong_to_right as u64),
            units::count(paired.wrong_to_other_wrong as u64),
            units::percent(paired.agreement),
            format!("{:.2} %", paired.answer_probability_change * 100.0),
            format!("{:.5}", paired.choice_divergence),
        ]);
    }
    table
}

/// Each variant's difference in each category, with Holm's p-values over the categories; `None`
/// where there are none.
pub fn category_differences(variants: &[PairedRow<'_>]) -> Option<Table> {
    group_differences(variants, "Category", |paired| &paired.categories)
}

/// Each variant's difference in each subject, with Holm's p-values over the subjects.
pub fn subject_differences(variants: &[PairedRow<'_>]) -> Option<Table> {
    group_differences(variants, "Subject", |paired| &paired.subjects)
}

fn group_differences(
    variants: &[PairedRow<'_>],
    what: &str,
    groups: fn(&Paired) -> &[GroupDifference],
) -> Option<Table> {
    let variants: Vec<(&str, &[GroupDifference])> =
        variants.iter().map(|(label, paired)| (label.as_str(), groups(paired))).collect();
    let (_, first) = variants.iter().max_by_key(|(_, groups)| groups.len())?;
    if first.is_empty() {
        return None;
    }
    let mut columns = vec![(what.to_string(), Align::Left), ("Questions".into(), Align::Right)];
    for (label, _) in &variants {
        columns.push(((*label).to_string(), Align::Right));
        columns.push(("95 % interval".into(), Align::Right));
        columns.push(("Holm p".into(), Align::Right));
    }
    let mut table = Table::new(columns);
    for group in *first {
        let mut row = vec![group.name.replace('_', " "), units::count(group.questions as u64)];
        for (_, groups) in &variants {
            row.extend(match groups.iter().find(|own| own.name == group.name) {
                None => [const { String::new() }; 3],
                Some(own) => {
                    [signed(own.difference), interval_in_points(own.interval), p_value(own.holm_p)]
                }
            });
        }
        table.row(row);
    }
    Some(table)
}

/// A difference of accuracies in points, with its sign.
pub(super) fn signed(difference: f64) -> String {
    if difference == 0.0 {
        return "0.0".to_string();
    }
    format!("{:+.1}", difference * 100.0).replace('-', "−")
}

fn p_value(p: f64) -> String {
    if p < 0.001 { "< 0.001".to_string() } else { format!("{p:.3}") }
}

/// Whether each of some models is right as often as it is sure.
pub fn reliability<'a>(models: impl IntoIterator<Item = (&'a str, &'a Reliability)>) -> Table {
    let mut table = Table::new([
        ("Variant", Align::Left),
        ("Calibration error", Align::Right),
        ("Confidence − accuracy", Align::Right),
    ]);
    for (label, reliability) in models {
        table.row([
            label.to_string(),
            format!("{:.2} %", reliability.expected_calibration_error * 100.0),
            format!("{} points", signed(reliability.overconfidence)),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixtures;
    use crate::report::tables;

    #[test]
    fn a_row_stands_for_each_variant_and_each_group() {
        let comparison = fixtures::comparison();
        let mut rows = tables::paired(&comparison);
        assert_eq!(differences(&rows).rows().len(), 2);
        assert_eq!(changes(&rows).rows()[0][1..4], ["7", "3", "6"]);
        assert_eq!(category_differences(&rows).unwrap().rows().len(), 2);
        assert!(category_differences(&[]).is_none());

        // A subject whose only question the first variant could not be asked.
        let mut fewer = rows[0].1.clone();
        fewer.subjects.pop();
        rows[0].1 = &fewer;
        let table = subject_differences(&rows).unwrap();
        let last = table.rows().last().unwrap();
        assert_eq!(
            (last[0].as_str(), last[2].as_str(), last[5].as_str()),
            ("high school biology", "", "−3.3")
        );
    }

    #[test]
    fn differences_carry_their_sign() {
        assert_eq!([-0.004, 0.0, 0.0123].map(signed), ["−0.4", "0.0", "+1.2"]);
    }
}
