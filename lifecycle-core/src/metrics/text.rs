//! Converts metrics to the OpenMetrics text format.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _, NoLabelSet, text::encode};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use super::{Family, Metric, MetricKind, MetricValue, Sample};

/// The media type of the text format.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Returns families in the OpenMetrics text format.
///
/// # Errors
/// If the encoder fails.
pub fn text(families: Vec<Family>) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Collected(families)));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Collected(Vec<Family>);

impl Collector for Collected {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for family in &self.0 {
            family_to(&mut encoder, family)?;
        }
        Ok(())
    }
}

fn family_to(encoder: &mut DescriptorEncoder<'_>, family: &Family) -> fmt::Result {
    let Metric {
        name,
        kind,
        labels,
        help,
    } = *family.metric;
    // The encoder adds these suffixes.
    let without_total = name.strip_suffix("_total").unwrap_or(name);
    let (name, unit) = match without_total.strip_suffix("_seconds") {
        Some(name) => (name, Some(Unit::Seconds)),
        None => (without_total, None),
    };
    let metric_type = match kind {
        MetricKind::Gauge => MetricType::Gauge,
        MetricKind::Counter => MetricType::Counter,
        MetricKind::Histogram(_) => MetricType::Histogram,
    };
    let mut family_encoder = encoder.encode_descriptor(name, help, unit.as_ref(), metric_type)?;
    for Sample {
        labels: values,
        value,
    } in &family.samples
    {
        let values = values.iter().map(String::as_str);
        let labels: Vec<(&str, &str)> = labels.iter().copied().zip(values).collect();
        let mut encoder = family_encoder.encode_family(&labels)?;
        match (kind, value) {
            (MetricKind::Counter, MetricValue::Number(number)) => {
                ConstCounter::new(*number).encode(encoder)?;
            }
            (_, MetricValue::Number(number)) => ConstGauge::new(*number).encode(encoder)?,
            (MetricKind::Histogram(bounds), MetricValue::Durations(durations)) => {
                let bounds = bounds.iter().copied().chain([f64::INFINITY]);
                let buckets: Vec<_> = bounds.zip(durations.counts.iter().copied()).collect();
                let count = durations.counts.iter().sum();
                let sum = durations.sum.as_secs_f64();
                encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
            }
            (MetricKind::Gauge | MetricKind::Counter, MetricValue::Durations(_)) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Recorder;
    use super::*;

    static OPEN: Metric = Metric::gauge("open", &["service"], "Open connections");
    static STARTS: Metric = Metric::counter("starts_total", &[], "Starts");
    static TOOK: Metric = Metric::histogram("took_seconds", &["step"], &[0.5], "How long it took");

    #[test]
    fn the_text_has_units_types_and_escaped_labels() {
        let recorder = Recorder::default();
        recorder.add(&STARTS, &[], 2);
        recorder.observe(&TOOK, &["start"], Duration::from_millis(250));
        recorder.observe(&TOOK, &["start"], Duration::from_secs(1));
        let open = Family::new(&OPEN).with(&["a\"b\\c\nd"], 3);
        let families = vec![open, recorder.family(&STARTS), recorder.family(&TOOK)];
        let expected = [
            "# HELP open Open connections",
            "# TYPE open gauge",
            r#"open{service="a\"b\\c\nd"} 3"#,
            "# HELP starts Starts",
            "# TYPE starts counter",
            "starts_total 2",
            "# HELP took_seconds How long it took",
            "# TYPE took_seconds histogram",
            "# UNIT took_seconds seconds",
            r#"took_seconds_sum{step="start"} 1.25"#,
            r#"took_seconds_count{step="start"} 2"#,
            r#"took_seconds_bucket{le="0.5",step="start"} 1"#,
            r#"took_seconds_bucket{le="+Inf",step="start"} 2"#,
            "# EOF",
        ];
        let text = text(families).unwrap();
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    }
}
