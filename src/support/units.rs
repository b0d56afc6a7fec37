//! Figures with units, written the same way everywhere.

use std::time::Duration;

use super::table::ABSENT;

/// `1536` → `1.50 KiB`.
pub fn bytes(count: u64) -> String {
    const STEPS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut step = 0;
    while value >= 1024.0 && step + 1 < STEPS.len() {
        value /= 1024.0;
        step += 1;
    }
    format!("{value:.2} {}", STEPS[step])
}

/// `500M` → 500,000,000, `1.5GiB` → 1,610,612,736, `4096` → 4,096: a size as command lines take it,
/// in any case, with a fraction if it likes.
///
/// # Errors
/// Anything else, and less than a byte.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let problem = || format!("expected a size like 500M, 2G or 1.5GiB, found {text:?}");
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1000,
        "m" | "mb" => 1_000_000,
        "g" | "gb" => 1_000_000_000,
        "t" | "tb" => 1_000_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => return Err(problem()),
    };
    let bytes = match number.parse::<u64>() {
        Ok(whole) => whole.checked_mul(unit),
        // Floats hold every size up to 9 PB exactly; nobody gives a fraction of more.
        Err(_) => number.parse::<f64>().ok().map(|number| (number * unit as f64) as u64),
    };
    match bytes.filter(|&bytes| bytes < u64::MAX) {
        Some(0) => Err(format!("expected a byte at least, found {text:?}")),
        bytes => bytes.ok_or_else(problem),
    }
}

/// `14042` → `14,042`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Rows of a table or a set as `rows 3, 7, 9`: the first ten.
pub fn rows(rows: &[usize]) -> String {
    format!("rows {}", first_ten(rows))
}

/// The first ten: `3, 7, 9`.
fn first_ten(numbers: &[usize]) -> String {
    let shown: Vec<String> = numbers.iter().take(10).map(ToString::to_string).collect();
    let more = if numbers.len() > shown.len() { ", …" } else { "" };
    format!("{}{more}", shown.join(", "))
}

/// Things with numbers, and the verb to them: `line 3 is`, `lines 3, 7, 9 are`.
pub fn numbered(thing: &str, numbers: &[usize]) -> String {
    match numbers {
        [number] => format!("{thing} {number} is"),
        numbers => format!("{thing}s {} are", first_ten(numbers)),
    }
}

/// A share in percent: `0.3204` → `32.0 %`.
pub fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// [`duration`] of seconds that may come from a file, and be anything.
pub fn seconds(seconds: f64) -> String {
    Duration::try_from_secs_f64(seconds).map_or(ABSENT.to_string(), duration)
}

/// A duration with three figures that matter: `12.3 ms`, `4.56 s`, `3 min 20 s`.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 1.0 {
        format!("{:.1} ms", seconds * 1e3)
    } else if seconds < 120.0 {
        format!("{seconds:.2} s")
    } else {
        format!("{} min {:.0} s", (seconds / 60.0) as u64, seconds % 60.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_as_people_write_them() {
        assert_eq!(bytes(1000), "1000 B");
        assert_eq!(bytes(1536), "1.50 KiB");
        assert_eq!(count(14_042), "14,042");
        assert_eq!((rows(&[3, 7]), percent(0.3204)), ("rows 3, 7".into(), "32.0 %".into()));
        assert_eq!(rows(&[8; 11]), "rows 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, …");
        assert_eq!(count(999), "999");
        assert_eq!(duration(Duration::from_millis(200)), "200.0 ms");
        assert_eq!(duration(Duration::from_secs(200)), "3 min 20 s");
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("2G", 2_000_000_000),
            ("500m", 500_000_000),
            ("4096", 4096),
            ("2 kb", 2000),
            ("1.5GiB", 1_610_612_736),
            ("0.5t", 500_000_000_000),
            ("18446744073709551614", u64::MAX - 1),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in ["", ".", "G", "-1M", "0", "0G", "0.1", "1.2.3M", "1e9", "10 apples"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
        for text in ["99999999999G", "99999999999.9G", "18446744073709551615"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }
}
