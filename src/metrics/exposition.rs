//! Prometheus' text format, version 0.0.4, as it is written:
//! <https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>.

use std::fmt::Write;

use super::{BUCKETS, Histogram};

/// Every name begins so.
const PREFIX: &str = "simpletuner_live_";

/// What the samples of a family are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FamilyType {
    /// Numbers that only grow, or begin again at zero.
    Counter,
    /// Numbers that go up and down.
    Gauge,
}

/// A text that grows by one family of samples after the other.
#[derive(Debug, Default)]
pub struct Exposition(String);

impl Exposition {
    /// Adds a family: its name without the prefix, what it is, and its samples. A family without samples is left out.
    pub fn family<'a, L, V>(
        &mut self,
        name: &str,
        family_type: FamilyType,
        help: &str,
        samples: impl IntoIterator<Item = (L, V)>,
    ) where
        L: AsRef<[(&'static str, &'a str)]>,
        V: Into<Value>,
    {
        let family_type = match family_type {
            FamilyType::Counter => "counter",
            FamilyType::Gauge => "gauge",
        };
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_some() {
            self.header(name, family_type, help);
        }
        for (labels, value) in samples {
            self.sample(name, labels.as_ref(), value.into());
        }
    }

    /// Adds whether the mount answers.
    pub fn up(&mut self, answers: bool) {
        let help = "Whether the mount answers.";
        self.single("up", FamilyType::Gauge, help, answers);
    }

    /// Adds a family with one sample, which has no labels.
    pub fn single(
        &mut self,
        name: &str,
        family_type: FamilyType,
        help: &str,
        value: impl Into<Value>,
    ) {
        self.family(name, family_type, help, [([], value)]);
    }

    /// Adds a family of histograms.
    pub fn histograms<'a>(
        &mut self,
        name: &str,
        help: &str,
        histograms: impl IntoIterator<Item = ((&'static str, &'a str), &'a Histogram)>,
    ) {
        let mut histograms = histograms.into_iter().peekable();
        if histograms.peek().is_some() {
            self.header(name, "histogram", help);
        }
        for (label, histogram) in histograms {
            let counts = histogram.cumulative();
            let bounds = BUCKETS.map(|bound| bound.to_string());
            let bounds = bounds.iter().map(String::as_str).chain(["+Inf"]);
            for (bound, count) in bounds.zip(counts) {
                let labels = [label, ("le", bound)];
                self.sample(&format!("{name}_bucket"), &labels, count.into());
            }
            let sum = histogram.sum().into();
            self.sample(&format!("{name}_sum"), &[label], sum);
            let count = counts[BUCKETS.len()].into();
            self.sample(&format!("{name}_count"), &[label], count);
        }
    }

    /// All that was added.
    pub fn into_text(self) -> String {
        self.0
    }

    fn header(&mut self, name: &str, family_type: &str, help: &str) {
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        // Writing into a `String` cannot fail.
        let _ = writeln!(self.0, "# HELP {PREFIX}{name} {help}");
        let _ = writeln!(self.0, "# TYPE {PREFIX}{name} {family_type}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], Value(value): Value) {
        let escaped = |text: &str| {
            let text = text.replace('\\', "\\\\").replace('"', "\\\"");
            text.replace('\n', "\\n")
        };
        let labels: Vec<String> = labels
            .iter()
            .map(|(label, text)| format!("{label}=\"{}\"", escaped(text)))
            .collect();
        let labels = match labels.is_empty() {
            true => String::new(),
            false => format!("{{{}}}", labels.join(",")),
        };
        let _ = writeln!(self.0, "{PREFIX}{name}{labels} {value}");
    }
}

/// A sample's value.
#[derive(Clone, Copy, Debug)]
pub struct Value(f64);

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self(value)
    }
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self(value as f64)
    }
}

impl From<usize> for Value {
    fn from(value: usize) -> Self {
        Self(value as f64)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self(f64::from(u8::from(value)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::parse;
    use super::*;

    #[test]
    fn a_family_has_its_help_its_type_and_its_samples() {
        let mut text = Exposition::default();
        text.up(true);
        let none: [([(&str, &str); 0], u64); 0] = [];
        text.family("none", FamilyType::Counter, "Nothing.", none);
        text.family(
            "errors_total",
            FamilyType::Counter,
            "Errors,\nby \\errno.",
            [([("errno", "EIO")], 2_u64), ([("errno", "a\"b\\c\nd")], 3)],
        );
        assert_eq!(
            text.into_text(),
            "# HELP simpletuner_live_up Whether the mount answers.
# TYPE simpletuner_live_up gauge
simpletuner_live_up 1
# HELP simpletuner_live_errors_total Errors,\\nby \\\\errno.
# TYPE simpletuner_live_errors_total counter
simpletuner_live_errors_total{errno=\"EIO\"} 2
simpletuner_live_errors_total{errno=\"a\\\"b\\\\c\\nd\"} 3
"
        );
    }

    #[test]
    fn a_histogram_has_a_bucket_for_each_bound_and_one_for_all() {
        let histogram = Histogram::default();
        histogram.observe(Duration::from_millis(20));
        histogram.observe(Duration::from_secs(60));
        let mut text = Exposition::default();
        let label = ("provider", "aws");
        text.histograms("call_seconds", "Calls.", [(label, &histogram)]);
        let text = text.into_text();
        for line in [
            "call_seconds_bucket{provider=\"aws\",le=\"0.01\"} 0\n",
            "call_seconds_bucket{provider=\"aws\",le=\"0.025\"} 1\n",
            "call_seconds_bucket{provider=\"aws\",le=\"1\"} 1\n",
            "call_seconds_bucket{provider=\"aws\",le=\"+Inf\"} 2\n",
            "call_seconds_sum{provider=\"aws\"} 60.02\n",
            "call_seconds_count{provider=\"aws\"} 2\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
        let samples = parse(&text);
        assert_eq!(samples.len(), BUCKETS.len() + 3);
        assert_eq!(samples[0].label("le"), Some("0.005"));
    }
}
