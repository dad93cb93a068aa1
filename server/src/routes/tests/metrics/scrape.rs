//! Reads the OpenMetrics text format line by line, and checks its rules.

use std::collections::{BTreeMap, BTreeSet};

/// A response of `GET /metrics`.
#[derive(Debug)]
pub(super) struct Scrape {
    pub(super) text: String,
    /// The type of each metric.
    pub(super) types: BTreeMap<String, String>,
    /// The values, by name and labels.
    samples: BTreeMap<(String, BTreeMap<String, String>), String>,
}

impl Scrape {
    pub(super) fn parse(text: &str) -> Self {
        let mut types: BTreeMap<String, String> = BTreeMap::new();
        let mut samples = BTreeMap::new();
        let body = text.strip_suffix("# EOF\n").expect("the end is marked");
        let mut family = "";
        for line in body.lines() {
            if let Some(comment) = line.strip_prefix("# ") {
                let mut words = comment.splitn(3, ' ');
                let keyword = words.next().unwrap();
                let (name, rest) = (words.next().unwrap(), words.next().unwrap());
                match keyword {
                    "HELP" => {
                        assert!(!types.contains_key(name), "{name} is repeated");
                        assert!(!rest.is_empty() && !rest.ends_with('.'), "{line}");
                        family = name;
                    }
                    "TYPE" => drop(types.insert(name.to_owned(), rest.to_owned())),
                    "UNIT" => assert!(name.ends_with(&format!("_{rest}")), "{line}"),
                    _ => panic!("{line}"),
                }
                assert_eq!(name, family, "{line}");
                continue;
            }
            let (series, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series_of(series);
            let suffix = name.strip_prefix(family).expect(line);
            match types[family].as_str() {
                "gauge" => assert_eq!(suffix, "", "{line}"),
                "counter" => assert_eq!(suffix, "_total", "{line}"),
                "histogram" => assert!(["_bucket", "_sum", "_count"].contains(&suffix), "{line}"),
                other => panic!("{other}"),
            }
            assert!(value.parse::<f64>().is_ok(), "{line}");
            let before = samples.insert((name, labels), value.to_owned());
            assert_eq!(before, None, "{series} is repeated");
        }
        let scrape = Self {
            text: text.to_owned(),
            types,
            samples,
        };
        scrape.check_histograms();
        scrape
    }

    /// Checks that the numbers in the buckets never decrease, and that the last bucket contains all.
    fn check_histograms(&self) {
        let mut buckets: BTreeMap<_, Vec<(f64, u64)>> = BTreeMap::new();
        for ((name, labels), number) in &self.samples {
            if let Some(family) = name.strip_suffix("_bucket") {
                let mut labels = labels.clone();
                let bound = labels.remove("le").unwrap().replace("+Inf", "inf");
                let key = (format!("{family}_count"), labels);
                let bound = bound.parse().unwrap();
                let number = number.parse().unwrap();
                buckets.entry(key).or_default().push((bound, number));
            }
        }
        for (key, mut buckets) in buckets {
            buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
            assert!(buckets.is_sorted_by(|a, b| a.1 <= b.1), "{key:?}");
            let (bound, all) = *buckets.last().unwrap();
            assert!(bound.is_infinite(), "{key:?}");
            assert_eq!(all.to_string(), self.samples[&key]);
        }
    }

    /// Returns the value of a series such as `name{label="value"}`, if it exists.
    pub(super) fn get(&self, series: &str) -> Option<u64> {
        let value = self.samples.get(&series_of(series))?;
        Some(value.parse().unwrap())
    }

    pub(super) fn value(&self, series: &str) -> u64 {
        let value = self.get(series);
        value.unwrap_or_else(|| panic!("no {series} in\n{}", self.text))
    }

    /// Returns the values of a label.
    pub(super) fn labels(&self, metric: &str, label: &str) -> BTreeSet<String> {
        let samples = self.samples.keys().filter(|(name, _)| name == metric);
        let values = samples.filter_map(|(_, labels)| labels.get(label).cloned());
        values.collect()
    }

    /// Returns the names of the labels of a metric, without those of buckets.
    pub(super) fn label_names(&self, family: &str) -> BTreeSet<String> {
        let suffixes = ["", "_total", "_bucket", "_sum", "_count"];
        let names = suffixes.map(|suffix| format!("{family}{suffix}"));
        let samples = self.samples.keys();
        let own = samples.filter(|(name, _)| names.contains(name));
        let labels = own.flat_map(|(_, labels)| labels.keys().cloned());
        labels.filter(|label| label != "le").collect()
    }
}

fn series_of(series: &str) -> (String, BTreeMap<String, String>) {
    let Some((name, rest)) = series.split_once('{') else {
        return (series.to_owned(), BTreeMap::new());
    };
    let mut rest = rest.strip_suffix('}').unwrap();
    let mut labels = BTreeMap::new();
    while !rest.is_empty() {
        let (label, after) = rest.split_once("=\"").unwrap();
        let (value, after) = after.split_once('"').unwrap();
        assert!(
            !value.contains('\\'),
            "{series}: escapes are not supported here"
        );
        let before = labels.insert(label.to_owned(), value.to_owned());
        assert_eq!(before, None, "{series}");
        rest = after.strip_prefix(',').unwrap_or(after);
    }
    (name.to_owned(), labels)
}
