//! Dates for records and reports, in UTC.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Whole seconds from the beginning of 1970; 0 for what was before.
pub fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A moment to the second, as RFC 3339 writes it: `2026-11-20T14:03:05Z`.
pub fn utc_second(time: SystemTime) -> String {
    let seconds = unix_seconds(time);
    let (year, month, day) = civil_date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// A date as HTTP writes it (`Fri, 20 Nov 2026 14:03:05 GMT`); `None` for other text.
pub fn from_http_date(text: &str) -> Option<SystemTime> {
    let words: Vec<&str> = text.split_once(", ")?.1.split([' ', ':']).collect();
    let [day, month, year, hours, minutes, seconds, "GMT"] = words[..] else { return None };
    let number = |text: &str, most: u64| text.parse().ok().filter(|&value: &u64| value <= most);
    let day = number(day, 31)?.checked_sub(1)?;
    let month = MONTHS.iter().position(|name| *name == month)? as u64 + 1;
    let year = number(year, 9999).filter(|&year| year >= 1970)?;
    let (hours, minutes, seconds) =
        (number(hours, 23)?, number(minutes, 59)?, number(seconds, 60)?);
    // Not after the first of that month, and not long before: no leap day is counted.
    let least = (year - 1970) * 365 + (month - 1) * 28;
    let first = (least..).find(|&days| civil_date(days) == (year, month, 1))?;
    let seconds = (((first + day) * 24 + hours) * 60 + minutes) * 60 + seconds;
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// Year, month (1–12) and day (1–31) of the Gregorian calendar for a number of days since
/// 1 January 1970.
pub fn civil_date(days: u64) -> (u64, u64, u64) {
    let leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let mut left = days;
    let mut year = 1970;
    while left >= 365 + u64::from(leap(year)) {
        left -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    (year, month, left + 1)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn moments_are_written_to_the_second() {
        assert_eq!(utc_second(UNIX_EPOCH), "1970-01-01T00:00:00Z");
        let later = UNIX_EPOCH + Duration::from_millis(1_795_183_385_999);
        assert_eq!(utc_second(later), "2026-11-20T14:03:05Z");
    }

    #[test]
    fn dates_of_http_are_read() {
        let read = |text: &str| from_http_date(text).map(utc_second);
        let later = Some("2026-11-20T14:03:05Z".to_string());
        assert_eq!(read("Fri, 20 Nov 2026 14:03:05 GMT"), later);
        assert_eq!(read("Thu, 29 Feb 2024 00:00:00 GMT").as_deref(), Some("2024-02-29T00:00:00Z"));
        for wrong in ["", "12", "Fri, 20 Nov 2026", "Fri, 00 Nov 2026 14:03:05 GMT", "x, y"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn leap_years_follow_the_gregorian_rule() {
        assert_eq!(civil_date(0), (1970, 1, 1));
        assert_eq!(civil_date(11_016), (2000, 2, 29));
        assert_eq!(civil_date(20_777), (2026, 11, 20));
        assert_eq!(civil_date(47_541), (2100, 3, 1));
    }
}
