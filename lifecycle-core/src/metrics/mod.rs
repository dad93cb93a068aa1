//! Metrics: what this process counts and measures, for monitoring.
//!
//! A [`Metric`] describes a metric. A [`Family`] contains its values at one time. A [`Recorder`] stores
//! the values of counters and histograms; the values of most gauges are computed when they are read, so
//! that they cannot be out of date. With the feature `metrics`, `text` converts families to the
//! OpenMetrics text format, which Prometheus reads.

mod recorder;
#[cfg(feature = "metrics")]
mod text;

use std::time::Duration;

pub use recorder::Recorder;
#[cfg(feature = "metrics")]
pub use text::{CONTENT_TYPE, text};

/// The upper bounds of the buckets for durations of computations and requests, in seconds.
pub const SHORT: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// The upper bounds of the buckets for durations of changes to the platform, in seconds.
pub const LONG: &[f64] = &[
    0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0,
];

/// The description of a metric.
#[derive(Debug, PartialEq)]
pub struct Metric {
    /// The name under which the metric is published. It ends with the unit, if there is one; the name of
    /// a counter ends with `_total`.
    pub name: &'static str,
    pub kind: MetricKind,
    /// The names of the labels.
    pub labels: &'static [&'static str],
    /// One sentence for people, without the period at its end.
    pub help: &'static str,
}

/// How the values of a metric change.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MetricKind {
    /// A number that can increase and decrease.
    Gauge,
    /// A number that only increases, until the process ends.
    Counter,
    /// A distribution of durations. Contains the upper bounds of the buckets in seconds, in ascending
    /// order; a last bucket has no bound.
    Histogram(&'static [f64]),
}

impl Metric {
    /// Describes a gauge.
    pub const fn gauge(
        name: &'static str,
        labels: &'static [&'static str],
        help: &'static str,
    ) -> Self {
        let kind = MetricKind::Gauge;
        Self {
            name,
            kind,
            labels,
            help,
        }
    }

    /// Describes a counter.
    pub const fn counter(
        name: &'static str,
        labels: &'static [&'static str],
        help: &'static str,
    ) -> Self {
        let kind = MetricKind::Counter;
        Self {
            name,
            kind,
            labels,
            help,
        }
    }

    /// Describes a histogram of durations.
    pub const fn histogram(
        name: &'static str,
        labels: &'static [&'static str],
        bounds: &'static [f64],
        help: &'static str,
    ) -> Self {
        let kind = MetricKind::Histogram(bounds);
        Self {
            name,
            kind,
            labels,
            help,
        }
    }

    /// Returns the value of a metric that has not been counted or measured yet.
    fn zero(&self) -> MetricValue {
        match self.kind {
            MetricKind::Gauge | MetricKind::Counter => MetricValue::Number(0),
            MetricKind::Histogram(bounds) => MetricValue::Durations(Durations {
                counts: vec![0; bounds.len() + 1],
                sum: Duration::ZERO,
            }),
        }
    }
}

/// The values of a metric.
#[derive(Debug, Clone, PartialEq)]
pub struct Family {
    pub metric: &'static Metric,
    pub samples: Vec<Sample>,
}

/// One value of a metric.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The values of the labels, in the order of their names.
    pub labels: Vec<String>,
    pub value: MetricValue,
}

/// The value of a metric.
#[derive(Debug, Clone, PartialEq)]
pub enum MetricValue {
    /// The value of a gauge or a counter.
    Number(u64),
    /// The value of a histogram.
    Durations(Durations),
}

/// A distribution of durations.
#[derive(Debug, Clone, PartialEq)]
pub struct Durations {
    /// For each bucket, the number of durations in this bucket alone.
    pub counts: Vec<u64>,
    /// The sum of all durations.
    pub sum: Duration,
}

impl Family {
    /// Creates a family without values.
    pub fn new(metric: &'static Metric) -> Self {
        Self {
            metric,
            samples: Vec::new(),
        }
    }

    /// Adds the value of a gauge or a counter.
    pub fn push(&mut self, labels: &[&str], number: u64) {
        debug_assert_eq!(labels.len(), self.metric.labels.len(), "{:?}", self.metric);
        self.samples.push(Sample {
            labels: labels.iter().map(|&label| label.to_owned()).collect(),
            value: MetricValue::Number(number),
        });
    }

    /// Adds the value of a gauge or a counter.
    #[must_use]
    pub fn with(mut self, labels: &[&str], number: u64) -> Self {
        self.push(labels, number);
        self
    }
}
