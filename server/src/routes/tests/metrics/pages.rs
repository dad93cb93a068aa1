//! Checks that `docs/metrics.md` lists every metric, and that its alert rules and the dashboard use only
//! metrics that exist.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use lifecycle_core::metrics::{Metric, MetricKind};
use serde_json::Value;

use super::Served;

const BEGIN: &str = "<!-- The test `metrics_page` writes this table. -->\n";
const END: &str = "<!-- The end of the table. -->\n";

fn path(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file)
}

fn metrics() -> Vec<&'static Metric> {
    let families = Served::standby().families();
    families.iter().map(|family| family.metric).collect()
}

fn table() -> String {
    let mut table =
        "| metric | type | labels | unit | meaning |\n|---|---|---|---|---|\n".to_owned();
    for metric in metrics() {
        let kind = match metric.kind {
            MetricKind::Gauge => "gauge",
            MetricKind::Counter => "counter",
            MetricKind::Histogram(_) => "histogram",
        };
        let labels: Vec<String> = metric.labels.iter().map(|l| format!("`{l}`")).collect();
        let unit = if metric.name.ends_with("_seconds") {
            "seconds"
        } else {
            ""
        };
        let (name, labels, help) = (metric.name, labels.join(", "), metric.help);
        writeln!(table, "| `{name}` | {kind} | {labels} | {unit} | {help} |").unwrap();
    }
    // An empty cell has one space.
    table.replace("  |", " |")
}

/// To rewrite the table, run `UPDATE_DOCS=1 cargo test -p lifecycle-manager metrics_page`.
#[tokio::test(start_paused = true)]
async fn the_metrics_page_is_up_to_date() {
    let path = path("docs/metrics.md");
    let written = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = written.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    let page = format!("{before}{BEGIN}\n{}\n{END}{after}", table());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &page).unwrap();
        return;
    }
    assert!(
        written == page,
        "docs/metrics.md is out of date: run with UPDATE_DOCS=1"
    );
}

#[tokio::test(start_paused = true)]
async fn the_table_describes_what_a_scrape_returns() {
    let served = Served::ready().await;
    served.request("GET", "/healthz", None).await;
    let scrape = served.scrape().await;
    let described: BTreeMap<String, &Metric> = metrics()
        .into_iter()
        .map(|metric| (metric.name.trim_end_matches("_total").to_owned(), metric))
        .collect();
    let names: BTreeSet<_> = described.keys().collect();
    assert_eq!(scrape.types.keys().collect::<BTreeSet<_>>(), names);
    for (name, metric) in described {
        let kind = match metric.kind {
            MetricKind::Gauge => "gauge",
            MetricKind::Counter => "counter",
            MetricKind::Histogram(_) => "histogram",
        };
        assert_eq!(scrape.types[&name], kind);
        let is_counter = metric.name.ends_with("_total");
        assert_eq!(is_counter, metric.kind == MetricKind::Counter, "{name}");
        let is_histogram = matches!(metric.kind, MetricKind::Histogram(_));
        assert_eq!(name.ends_with("_seconds"), is_histogram, "{name}");
        assert!(name.starts_with("lifecycle_"), "{name}");
        let labels = scrape.label_names(&name);
        let known = metric
            .labels
            .iter()
            .map(|&label| label.to_owned())
            .collect();
        assert!(labels.is_empty() || labels == known, "{name}: {labels:?}");
    }
}

/// Returns the names of this program's metrics in a text.
fn names_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let names = words.filter(|word| word.starts_with("lifecycle_"));
    names.map(str::to_owned).collect()
}

/// Returns the names under which Prometheus stores the series of all metrics.
fn series() -> BTreeSet<String> {
    let series = metrics().into_iter().flat_map(|metric| {
        let suffixes: &[&str] = match metric.kind {
            MetricKind::Gauge | MetricKind::Counter => &[""],
            MetricKind::Histogram(_) => &["_bucket", "_sum", "_count"],
        };
        suffixes
            .iter()
            .map(move |suffix| format!("{}{suffix}", metric.name))
    });
    series.collect()
}

#[tokio::test(start_paused = true)]
async fn alert_rules_use_only_metrics_that_exist() {
    let page = std::fs::read_to_string(path("docs/metrics.md")).unwrap();
    let (_, rules) = page.split_once("## Alert rules").unwrap();
    let used = names_in(rules);
    assert!(used.len() >= 5, "{used:?}");
    let unknown: Vec<_> = used.difference(&series()).cloned().collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

/// Returns all panels of a dashboard, also those in rows.
fn panels(dashboard: &Value) -> Vec<&Value> {
    let panels = dashboard["panels"].as_array().into_iter().flatten();
    panels
        .flat_map(|panel| std::iter::once(panel).chain(self::panels(panel)))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn the_dashboard_uses_only_metrics_that_exist() {
    let text = std::fs::read_to_string(path("examples/grafana/lifecycle.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    assert!(dashboard["schemaVersion"].as_u64().unwrap() >= 38);
    let mut used = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for panel in panels(&dashboard) {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
        assert!(panel["title"].is_string() && panel["gridPos"].is_object());
        if panel["type"] == "row" {
            continue;
        }
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{panel}");
        for target in targets {
            let names = names_in(target["expr"].as_str().unwrap());
            assert!(!names.is_empty(), "{target}");
            used.extend(names);
        }
    }
    let unknown: Vec<_> = used.difference(&series()).cloned().collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    // The panels show every metric, except the one that other expressions only select by.
    let shown = |metric: &&Metric| used.iter().any(|name| name.starts_with(metric.name));
    let missing: Vec<_> = metrics().into_iter().filter(|one| !shown(one)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
