//! Stores what a process has counted and measured since its start.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Family, Metric, MetricKind, MetricValue, Sample};

/// The values of metrics, by the name of the metric and the values of its labels. Every label value is
/// stored until the process ends, so callers must use only few different ones.
#[derive(Debug, Default)]
pub struct Recorder(Mutex<BTreeMap<&'static str, Values>>);

type Values = BTreeMap<Vec<String>, MetricValue>;

impl Recorder {
    /// Adds to a counter. Adding 0 publishes a counter before its first increase, which Prometheus
    /// would not notice otherwise.
    pub fn add(&self, metric: &'static Metric, labels: &[&str], by: u64) {
        self.change(metric, labels, |value| {
            if let MetricValue::Number(number) = value {
                *number = number.saturating_add(by);
            }
        });
    }

    /// Sets a gauge.
    pub fn set(&self, metric: &'static Metric, labels: &[&str], to: u64) {
        self.change(metric, labels, |value| *value = MetricValue::Number(to));
    }

    /// Adds a duration to a histogram.
    pub fn observe(&self, metric: &'static Metric, labels: &[&str], took: Duration) {
        let MetricKind::Histogram(bounds) = metric.kind else {
            return;
        };
        let bucket = bounds.partition_point(|bound| *bound < took.as_secs_f64());
        self.change(metric, labels, |value| {
            if let MetricValue::Durations(durations) = value {
                durations.counts[bucket] += 1;
                durations.sum = durations.sum.saturating_add(took);
            }
        });
    }

    /// Forgets the values with other labels.
    pub fn retain(&self, metric: &'static Metric, keep: impl Fn(&[String]) -> bool) {
        if let Some(values) = self.values().get_mut(metric.name) {
            values.retain(|labels, _| keep(labels));
        }
    }

    /// Returns the values of a metric. A metric without labels always has a value.
    pub fn family(&self, metric: &'static Metric) -> Family {
        let values = self.values();
        let recorded = values.get(metric.name).into_iter().flatten();
        let mut samples: Vec<Sample> = recorded
            .map(|(labels, value)| Sample {
                labels: labels.clone(),
                value: value.clone(),
            })
            .collect();
        if samples.is_empty() && metric.labels.is_empty() {
            samples.push(Sample {
                labels: Vec::new(),
                value: metric.zero(),
            });
        }
        Family { metric, samples }
    }

    fn change(&self, metric: &'static Metric, labels: &[&str], change: impl Fn(&mut MetricValue)) {
        debug_assert_eq!(labels.len(), metric.labels.len(), "{metric:?}");
        let labels = labels.iter().map(|&label| label.to_owned()).collect();
        let mut values = self.values();
        let values = values.entry(metric.name).or_default();
        change(values.entry(labels).or_insert_with(|| metric.zero()));
    }

    fn values(&self) -> MutexGuard<'_, BTreeMap<&'static str, Values>> {
        // Ignore poisoning: a change that panics leaves valid values.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Durations;
    use super::*;

    static STARTS: Metric = Metric::counter("starts_total", &["node"], "Starts");
    static NUMBER: Metric = Metric::gauge("number", &[], "A number");
    static TOOK: Metric = Metric::histogram("took_seconds", &[], &[0.5, 1.0], "How long it took");

    fn numbers(family: Family) -> Vec<(Vec<String>, MetricValue)> {
        let samples = family.samples.into_iter();
        samples.map(|one| (one.labels, one.value)).collect()
    }

    #[test]
    fn counters_have_one_value_for_each_label() {
        let recorder = Recorder::default();
        assert!(recorder.family(&STARTS).samples.is_empty());
        recorder.add(&STARTS, &["n2"], 0);
        recorder.add(&STARTS, &["n1"], 1);
        recorder.add(&STARTS, &["n1"], 2);
        let value = |node: &str, number| (vec![node.to_owned()], MetricValue::Number(number));
        let counted = numbers(recorder.family(&STARTS));
        assert_eq!(counted, [value("n1", 3), value("n2", 0)]);
        recorder.retain(&STARTS, |labels| labels[0] == "n2");
        assert_eq!(numbers(recorder.family(&STARTS)), [value("n2", 0)]);
    }

    #[test]
    fn a_metric_without_labels_always_has_a_value() {
        let recorder = Recorder::default();
        let value = |number| [(Vec::new(), MetricValue::Number(number))];
        assert_eq!(numbers(recorder.family(&NUMBER)), value(0));
        recorder.set(&NUMBER, &[], 7);
        recorder.set(&NUMBER, &[], 5);
        assert_eq!(numbers(recorder.family(&NUMBER)), value(5));
    }

    #[test]
    fn a_duration_belongs_to_the_first_bucket_whose_bound_it_does_not_exceed() {
        let recorder = Recorder::default();
        let durations = |counts: [u64; 3], sum| {
            let sum = Duration::from_millis(sum);
            let counts = counts.to_vec();
            vec![(
                Vec::new(),
                MetricValue::Durations(Durations { counts, sum }),
            )]
        };
        assert_eq!(
            numbers(recorder.family(&TOOK)),
            durations([0, 0, 0], 0),
            "nothing was measured"
        );
        for millis in [0, 500, 501, 1_000, 2_000] {
            recorder.observe(&TOOK, &[], Duration::from_millis(millis));
        }
        let measured = numbers(recorder.family(&TOOK));
        assert_eq!(measured, durations([2, 2, 1], 4_001));
    }
}
