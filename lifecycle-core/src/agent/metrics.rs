//! Serves metrics for Prometheus on a unix socket. File permissions control access, and the socket
//! needs no port on the node.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::Registry;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::service::{Figures, Service};

/// Time limit for a request. Requests are served in sequence.
const WITHIN: Duration = Duration::from_secs(2);

/// The maximum size of a request's head.
const LONGEST_HEAD: usize = 8 << 10;

/// The delay after a failed `accept`, for example if no file descriptors are left.
const PAUSE: Duration = Duration::from_millis(100);

/// The table version and the services that the metrics describe.
#[derive(Debug, Default)]
pub(super) struct View {
    pub(super) epoch: u64,
    pub(super) version: u64,
    pub(super) services: Vec<Arc<Service>>,
}

/// Answers every request with all metrics.
pub(super) async fn serve(listener: UnixListener, view: watch::Receiver<Arc<View>>) {
    let mut registry = Registry::with_prefix("lifecycle_agent");
    registry.register_collector(Box::new(Collected(view)));
    loop {
        match listener.accept().await {
            // An invalid or slow request gets no response.
            Ok((stream, _)) => drop(timeout(WITHIN, answer(stream, &registry)).await),
            Err(error) => {
                tracing::debug!(%error, "cannot accept a metrics request");
                sleep(PAUSE).await;
            }
        }
    }
}

async fn answer(mut stream: UnixStream, registry: &Registry) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if stream.read_buf(&mut head).await? == 0 || head.len() > LONGEST_HEAD {
            return Ok(());
        }
    }
    let mut body = String::new();
    let status = match text::encode(&mut body, registry) {
        Ok(()) => "200 OK",
        Err(fmt::Error) => "500 Internal Server Error",
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n\
         content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

/// Collects the values at each request.
#[derive(Debug)]
struct Collected(watch::Receiver<Arc<View>>);

/// A metric of each service: its name, its help text, and the counter to read.
type Figure = (&'static str, &'static str, fn(&Figures) -> &AtomicU64);

const COUNTERS: [Figure; 7] = [
    (
        "accepted",
        "Connections and UDP sessions from clients",
        |of| &of.accepted,
    ),
    (
        "reset",
        "Connections reset because no endpoint became ready",
        |of| &of.reset,
    ),
    ("in_bytes", "Bytes from clients to backends", |of| {
        &of.bytes_in
    }),
    ("out_bytes", "Bytes from backends to clients", |of| {
        &of.bytes_out
    }),
    ("in_datagrams", "Datagrams from clients to backends", |of| {
        &of.datagrams_in
    }),
    (
        "out_datagrams",
        "Datagrams from backends to clients",
        |of| &of.datagrams_out,
    ),
    ("dropped_datagrams", "Datagrams dropped", |of| {
        &of.datagrams_dropped
    }),
];

const GAUGES: [Figure; 2] = [
    ("open", "Open connections and UDP sessions", |of| &of.open),
    (
        "waiting",
        "Connections waiting for a ready endpoint",
        |of| &of.waiting,
    ),
];

impl Collector for Collected {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let view = Arc::clone(&self.0.borrow());
        for (name, help, value) in [
            ("table_epoch", "Epoch of the active table", view.epoch),
            ("table_version", "Version of the active table", view.version),
        ] {
            let gauge = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value).encode(gauge)?;
        }
        per_service(&mut encoder, &view, &COUNTERS, ConstCounter::new)?;
        per_service(&mut encoder, &view, &GAUGES, ConstGauge::new)
    }
}

fn per_service<M: EncodeMetric + TypedMetric>(
    encoder: &mut DescriptorEncoder<'_>,
    view: &View,
    figures: &[Figure],
    metric: fn(u64) -> M,
) -> Result<(), fmt::Error> {
    for (name, help, read) in figures {
        let mut family = encoder.encode_descriptor(name, help, None, M::TYPE)?;
        for service in &view.services {
            let value = read(&service.figures).load(Ordering::Relaxed);
            let labels = [("service", service.name.as_str())];
            metric(value).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}
