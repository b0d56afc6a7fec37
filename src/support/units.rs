//! Figures with units, written the same way everywhere.

use std::time::Duration;

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

/// `500M` → 500,000,000, `2G` → 2,000,000,000, `4096` → 4,096: a size as command lines take it.
///
/// # Errors
/// Anything else, and 0.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.as_bytes().last() {
        Some(b'M' | b'm') => (&text[..text.len() - 1], 1_000_000),
        Some(b'G' | b'g') => (&text[..text.len() - 1], 1_000_000_000),
        _ => (text, 1u64),
    };
    let number = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    number
        .filter(|&number| number > 0)
        .ok_or_else(|| format!("expected a size like 500M or 2G, found {text:?}"))
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
        assert_eq!(count(999), "999");
        assert_eq!(duration(Duration::from_millis(200)), "200.0 ms");
        assert_eq!(duration(Duration::from_secs(200)), "3 min 20 s");
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        assert_eq!(parse_bytes("2G"), Ok(2_000_000_000));
        assert_eq!(parse_bytes("500m"), Ok(500_000_000));
        assert_eq!(parse_bytes("4096"), Ok(4096));
        for text in ["", "G", "-1M", "0", "0G", "1T", "1.5G", "99999999999G", "2 G"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }
}
