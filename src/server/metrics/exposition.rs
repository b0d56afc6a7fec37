//! Prometheus' text format and its successor, OpenMetrics.

use std::fmt::Write;

use super::histogram::Snapshot;

/// How metrics are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' text format, version 0.0.4.
    Text,
    /// OpenMetrics, version 1.0.0.
    OpenMetrics,
}

impl Format {
    /// The format for what a client says that it accepts.
    pub fn accepted(accept: &str) -> Self {
        match accept.contains("application/openmetrics-text") {
            true => Self::OpenMetrics,
            false => Self::Text,
        }
    }

    /// Its media type.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// What a family's values are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// They only grow. Their samples' names end in `_total`.
    Counter,
    /// They rise and fall.
    Gauge,
    /// Counts by size.
    Histogram,
}

/// Labels with their values.
pub type Labels<'a> = &'a [(&'a str, &'a str)];

/// Metrics as text.
#[derive(Debug)]
pub struct Page {
    format: Format,
    text: String,
}

/// A family whose samples are being written. One without samples leaves no trace.
#[derive(Debug)]
pub struct Family<'a> {
    text: &'a mut String,
    /// What is written before the first sample.
    head: String,
    /// The name of its samples.
    name: String,
}

impl Page {
    /// An empty page.
    pub fn new(format: Format) -> Self {
        Self { format, text: String::new() }
    }

    /// Begins a family. A counter's name comes without `_total`. No family may come twice.
    pub fn family(&mut self, name: &str, kind: Kind, help: &str) -> Family<'_> {
        let samples = match kind {
            Kind::Counter => format!("{name}_total"),
            Kind::Gauge | Kind::Histogram => name.to_string(),
        };
        // The older format knows no families, only names of samples.
        let described = match self.format {
            Format::Text => &samples,
            Format::OpenMetrics => name,
        };
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        let head = format!("# HELP {described} {help}\n# TYPE {described} {kind}\n");
        Family { text: &mut self.text, head, name: samples }
    }

    /// The text.
    pub fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }
}

impl Family<'_> {
    /// A value of a counter or a gauge.
    pub fn sample(&mut self, labels: Labels<'_>, value: f64) {
        self.line("", labels, None, value);
    }

    /// The lines of a histogram.
    pub fn histogram(&mut self, labels: Labels<'_>, snapshot: &Snapshot) {
        for &(limit, count) in &snapshot.buckets {
            self.line("_bucket", labels, Some(&format!("{limit:?}")), count as f64);
        }
        self.line("_bucket", labels, Some("+Inf"), snapshot.count as f64);
        self.line("_sum", labels, None, snapshot.sum);
        self.line("_count", labels, None, snapshot.count as f64);
    }

    fn line(&mut self, suffix: &str, labels: Labels<'_>, limit: Option<&str>, value: f64) {
        self.text.push_str(&std::mem::take(&mut self.head));
        self.text.push_str(&self.name);
        self.text.push_str(suffix);
        let all = labels.iter().copied().chain(limit.map(|limit| ("le", limit)));
        let mut opening = '{';
        for (label, value) in all {
            self.text.push(opening);
            opening = ',';
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            // Writing to a text cannot fail.
            let _ = write!(self.text, "{label}=\"{value}\"");
        }
        if opening == ',' {
            self.text.push('}');
        }
        let _ = match value {
            f64::INFINITY => writeln!(self.text, " +Inf"),
            value => writeln!(self.text, " {value}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::metrics::histogram::Histogram;

    fn page(format: Format) -> String {
        let mut page = Page::new(format);
        let mut counter = page.family("a:b", Kind::Counter, "Two\nlines \\.");
        counter.sample(&[("name", "a\"b\\c\nd"), ("other", "x")], 3.0);
        page.family("plain", Kind::Gauge, "No label.").sample(&[], 0.5);
        page.family("nothing", Kind::Gauge, "No sample.");
        let histogram = Histogram::new(&[0.5, 1.0]);
        histogram.observe(0.75);
        histogram.observe(2.0);
        let mut family = page.family("sizes", Kind::Histogram, "Sizes.");
        family.histogram(&[("name", "n")], &histogram.snapshot());
        page.finish()
    }

    #[test]
    fn counters_are_described_by_the_name_that_each_format_knows() {
        let text = page(Format::Text);
        assert_eq!(
            text,
            "# HELP a:b_total Two\\nlines \\\\.\n\
             # TYPE a:b_total counter\n\
             a:b_total{name=\"a\\\"b\\\\c\\nd\",other=\"x\"} 3\n\
             # HELP plain No label.\n\
             # TYPE plain gauge\n\
             plain 0.5\n\
             # HELP sizes Sizes.\n\
             # TYPE sizes histogram\n\
             sizes_bucket{name=\"n\",le=\"0.5\"} 0\n\
             sizes_bucket{name=\"n\",le=\"1.0\"} 1\n\
             sizes_bucket{name=\"n\",le=\"+Inf\"} 2\n\
             sizes_sum{name=\"n\"} 2.75\n\
             sizes_count{name=\"n\"} 2\n"
        );
        let newer = page(Format::OpenMetrics);
        assert_eq!(
            newer,
            text.replace("HELP a:b_total", "HELP a:b").replace("TYPE a:b_total", "TYPE a:b")
                + "# EOF\n"
        );
    }

    #[test]
    fn a_client_gets_the_format_that_it_asks_for() {
        let prometheus =
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2";
        assert_eq!(Format::accepted(prometheus), Format::OpenMetrics);
        assert_eq!(Format::accepted("*/*"), Format::Text);
        assert_eq!(Format::accepted(""), Format::Text);
    }
}
