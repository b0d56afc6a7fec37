//! Python's `strftime`, in the language of the "C" locale.

use chrono::{Datelike, NaiveDateTime, Timelike};

use super::budget::Budget;
use super::error::TemplateError;

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] =
    ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// The time written by a format. An unknown directive stays as it is, as in glibc.
///
/// # Errors
/// A text past the budget.
pub(super) fn format(
    format: &str,
    time: NaiveDateTime,
    budget: &Budget,
) -> Result<String, TemplateError> {
    let mut text = String::new();
    let mut rest = format;
    while let Some(start) = rest.find('%') {
        text.push_str(&rest[..start]);
        let directive = &rest[start + 1..];
        // glibc's flags: no padding, spaces, zeros, upper case.
        let flags = directive.len() - directive.trim_start_matches(['-', '_', '0', '^']).len();
        let Some(letter) = directive[flags..].chars().next() else {
            text.push_str(&rest[start..]);
            rest = "";
            break;
        };
        let end = flags + letter.len_utf8();
        match field(letter, time) {
            Some(value) => text.push_str(&flagged(value, &directive[..flags])),
            None => text.push_str(&rest[start..start + 1 + end]),
        }
        rest = &directive[end..];
        budget.take(16)?;
    }
    text.push_str(rest);
    budget.take(format.len())?;
    Ok(text)
}

/// What a directive stands for.
enum Field {
    Text(String),
    /// A number, its width, and what fills it up.
    Number(i64, usize, char),
}

fn flagged(field: Field, flags: &str) -> String {
    match field {
        Field::Text(text) if flags.contains('^') => text.to_uppercase(),
        Field::Text(text) => text,
        Field::Number(number, width, fill) => {
            let (width, fill) = match flags.chars().rfind(|flag| *flag != '^') {
                Some('-') => (0, fill),
                Some('_') => (width, ' '),
                Some('0') => (width, '0'),
                _ => (width, fill),
            };
            match fill {
                '0' => format!("{number:0width$}"),
                _ => format!("{number:width$}"),
            }
        }
    }
}

fn field(letter: char, time: NaiveDateTime) -> Option<Field> {
    let text = |text: &str| Some(Field::Text(text.to_string()));
    let number = |number: i64, width| Some(Field::Number(number, width, '0'));
    let spaced = |number: i64, width| Some(Field::Number(number, width, ' '));
    let (weekday, ordinal) = (i64::from(time.weekday().num_days_from_sunday()), time.ordinal0());
    let (month, day) = (MONTHS[time.month0() as usize], i64::from(time.day()));
    let weekday_name = WEEKDAYS[weekday as usize];
    let year = i64::from(time.year());
    let hour = i64::from(time.hour());
    let (_, hour12) = time.hour12();
    let half = if time.hour() < 12 { "AM" } else { "PM" };
    let (minute, second) = (i64::from(time.minute()), i64::from(time.second()));
    // Days before the first Sunday, or Monday, of a year are in week 0.
    let week = |weekday: i64| (i64::from(ordinal) + 7 - weekday) / 7;
    let composed = |parts: &str| {
        let spelled = format(parts, time, &Budget::default());
        spelled.ok().map(Field::Text)
    };
    match letter {
        '%' => text("%"),
        'n' => text("\n"),
        't' => text("\t"),
        'a' => text(&weekday_name[..3]),
        'A' => text(weekday_name),
        'b' | 'h' => text(&month[..3]),
        'B' => text(month),
        'c' => composed("%a %b %e %H:%M:%S %Y"),
        'C' => number(year.div_euclid(100), 2),
        'd' => number(day, 2),
        'D' | 'x' => composed("%m/%d/%y"),
        'e' => spaced(day, 2),
        'f' => number(i64::from(time.nanosecond() / 1000), 6),
        'F' => composed("%Y-%m-%d"),
        'g' => number(i64::from(time.iso_week().year()).rem_euclid(100), 2),
        'G' => number(time.iso_week().year().into(), 1),
        'H' => number(hour, 2),
        'I' => number(hour12.into(), 2),
        'j' => number(i64::from(ordinal) + 1, 3),
        'k' => spaced(hour, 2),
        'l' => spaced(hour12.into(), 2),
        'm' => number(time.month().into(), 2),
        'M' => number(minute, 2),
        'p' => text(half),
        'P' => text(&half.to_lowercase()),
        'r' => composed("%I:%M:%S %p"),
        'R' => composed("%H:%M"),
        's' => number(time.and_utc().timestamp(), 1),
        'S' => number(second, 2),
        'T' | 'X' => composed("%H:%M:%S"),
        'u' => number(if weekday == 0 { 7 } else { weekday }, 1),
        'U' => number(week(weekday), 2),
        'V' => number(time.iso_week().week().into(), 2),
        'w' => number(weekday, 1),
        'W' => number(week((weekday + 6) % 7), 2),
        'y' => number(year.rem_euclid(100), 2),
        'Y' => number(year, 1),
        // A time without a zone, as transformers takes it.
        'z' | 'Z' => text(""),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, NaiveDate};

    use super::*;

    #[track_caller]
    fn assert_formatted(pattern: &str, seconds: i64, expected: &str) {
        let time = DateTime::from_timestamp(seconds, 123_456_789).unwrap().naive_utc();
        assert_eq!(format(pattern, time, &Budget::default()).unwrap(), expected);
    }

    #[test]
    fn dates_read_as_in_strftime() {
        let leap_day = 1_709_164_800 + 3_600 * 13 + 62;
        assert_formatted(
            "%d %b %Y, %A %H:%M:%S %q%%",
            leap_day,
            "29 Feb 2024, Thursday 13:01:02 %q%",
        );
        assert_formatted("%a %Y-%m-%d", 951_868_800, "Wed 2000-03-01");
        assert_formatted("%-d %e %-I %p %y %j %f", leap_day, "29 29 1 PM 24 060 123456");
        assert_formatted(
            "%c|%x|%X|%U|%W|%V|%G|%u|%w",
            leap_day,
            "Thu Feb 29 13:01:02 2024|02/29/24|13:01:02|08|09|09|2024|4|4",
        );
        assert_formatted("%B%", 0, "January%");
    }

    #[test]
    fn weeks_begin_on_the_day_that_the_directive_says() {
        let new_year = NaiveDate::from_ymd_opt(2023, 1, 1).unwrap();
        let sunday = new_year.and_hms_opt(0, 0, 0).unwrap();
        let text = format("%U %W %V %G %u %w %Z%z.", sunday, &Budget::default()).unwrap();
        assert_eq!(text, "01 00 52 2022 7 0 .");
    }
}
