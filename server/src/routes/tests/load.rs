//! Tests the API under load: many clients watch events and endpoints over TLS while others look up
//! endpoints at a fixed rate. Clients and server are in this process. The complete test
//! (`LIFECYCLE_TEST_WHOLE`) has 1,000 watches and 2,000 lookups per second for 30 seconds.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lifecycle_core::agent::raise_file_limit;
use lifecycle_core::platform::OverrideChange;
use lifecycle_core::sim::{SimOptions, SimWorld};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::connections::{Endpoint, HERE, SOON, Tls};
use super::watches::{Watching, record_events};
use super::*;
use crate::connections::Limits;

/// The number of connections that send lookups.
const CLIENTS: u32 = 16;

/// How many clients watch with the same token and from the same address.
const PER_TOKEN: usize = 100;

/// The longest time for a single lookup.
const STARVED: Duration = Duration::from_secs(5);

/// The largest number of replicas during the test.
const MOST_REPLICAS: u16 = 4;

struct Load {
    watches: usize,
    /// Lookups per second.
    rate: u32,
    duration: Duration,
    /// How much memory client and server may use for each watch, in KiB.
    memory_of_watch: u64,
}

impl Load {
    fn of_this_run() -> Self {
        if std::env::var_os("LIFECYCLE_TEST_WHOLE").is_some() {
            Self {
                watches: 1_000,
                rate: 2_000,
                duration: Duration::from_secs(30),
                memory_of_watch: 256,
            }
        } else {
            Self {
                watches: 200,
                rate: 400,
                duration: Duration::from_secs(4),
                memory_of_watch: 256,
            }
        }
    }
}

/// Returns the resident memory of this process, in KiB.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.unwrap().trim().strip_suffix(" kB").unwrap();
    number.trim().parse().unwrap()
}

/// Reads events, from the one with the id `first`, until their ids have reached `last`. Asserts that none is
/// missing. Returns their number.
async fn watch_events(mut watch: Watching, first: u64, last: Arc<AtomicU64>) -> u64 {
    let mut expected = first;
    loop {
        let event = watch.next().await.expect("a watch ended");
        assert_eq!(event.kind, "", "{event:?}");
        assert_eq!(event.number(), expected, "a gap");
        if expected >= last.load(Ordering::SeqCst) {
            return expected - first + 1;
        }
        expected += 1;
    }
}

/// Reads lists of endpoints until one has `last` endpoints. Returns the number of lists.
async fn watch_endpoints(mut watch: Watching, last: usize) -> u64 {
    let mut lists = 0;
    let mut previous = None;
    loop {
        let event = watch.next().await.expect("a watch ended");
        assert_eq!(event.kind, "", "{event:?}");
        assert_ne!(event.id, previous, "the same list twice");
        previous.clone_from(&event.id);
        lists += 1;
        let endpoints: Vec<Value> = serde_json::from_str(&event.data).unwrap();
        if endpoints.len() == last {
            return lists;
        }
    }
}

/// Looks up endpoints at this rate over one connection. Returns the latencies.
async fn lookup(mut stream: Tls, token: Sensitive, rate: u32, number: u32) -> Vec<Duration> {
    let request = format!(
        "GET /v1/services/web/endpoints HTTP/1.1\r\nHost: manager\r\nAuthorization: Bearer {}\r\n\r\n",
        token.expose()
    );
    let mut ticks = interval(Duration::from_secs(1) / rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut latencies = Vec::new();
    let mut received = Vec::new();
    for _ in 0..number {
        ticks.tick().await;
        let begun = Instant::now();
        stream.write_all(request.as_bytes()).await.unwrap();
        received.clear();
        while !received.ends_with(b"]") {
            assert_ne!(stream.read_buf(&mut received).await.unwrap(), 0);
        }
        assert!(received.starts_with(b"HTTP/1.1 200 "));
        latencies.push(begun.elapsed());
    }
    latencies
}

/// Waits for all tasks.
async fn all<T>(tasks: Vec<JoinHandle<T>>) -> Vec<T> {
    let mut results = Vec::new();
    for task in tasks {
        results.push(timeout(SOON, task).await.unwrap().unwrap());
    }
    results
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_and_lookups_are_served_under_load() {
    let load = Load::of_this_run();
    raise_file_limit();
    let world = SimWorld::with_options(SimOptions {
        pace_percent: 1,
        ..SimOptions::seeded(1)
    });
    let served = Served::in_world(&world, "base:1").started().await;
    let served = served.with_endpoint().await;
    let mut tokens = Vec::new();
    for number in 0..load.watches.div_ceil(PER_TOKEN) {
        let name = format!("viewer-{number}");
        tokens.push(served.token(&name, Viewer, None).await);
    }
    let endpoint = Endpoint::serve(served.router.clone(), Limits::default()).await;

    let before = memory();
    let first = served.get("/v1/events?after=latest").await["cursor"]
        .as_u64()
        .unwrap();
    let last = Arc::new(AtomicU64::new(u64::MAX));
    let replicas = usize::from(MOST_REPLICAS);
    let (mut events, mut endpoints) = (Vec::new(), Vec::new());
    for number in 0..load.watches {
        let group = number / PER_TOKEN;
        let from = Ipv4Addr::new(127, 0, 1, u8::try_from(group).unwrap());
        let token = &tokens[group];
        if number % 2 == 0 {
            let path = format!("/v1/events?after={first}");
            let watch = Watching::open(&endpoint, from, &path, token, None).await;
            events.push(tokio::spawn(watch_events(watch, first + 1, last.clone())));
        } else {
            let path = "/v1/services/web/endpoints";
            let watch = Watching::open(&endpoint, from, path, token, None).await;
            endpoints.push(tokio::spawn(watch_endpoints(watch, replicas)));
        }
    }
    let opened = memory();

    let begun = Instant::now();
    let seconds = u32::try_from(load.duration.as_secs()).unwrap();
    let mut lookups = Vec::new();
    for number in 0..CLIENTS {
        let stream = endpoint.tls(HERE).await.unwrap();
        let token = tokens[usize::try_from(number).unwrap() % tokens.len()].clone();
        let rate = load.rate / CLIENTS;
        lookups.push(tokio::spawn(lookup(stream, token, rate, rate * seconds)));
    }
    // Meanwhile, events are recorded and the endpoints change.
    let mut replicas = (1..MOST_REPLICAS).cycle();
    while begun.elapsed() < load.duration {
        record_events(&served.manager).await;
        let scale = OverrideChange::Scale(replicas.next().unwrap());
        served.manager.override_service("web", scale).await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let mut latencies = all(lookups).await.concat();
    let took = begun.elapsed();
    let during = memory();

    let scale = OverrideChange::Scale(MOST_REPLICAS);
    served.manager.override_service("web", scale).await.unwrap();
    let lists: u64 = all(endpoints).await.iter().sum();
    let known = served.get("/v1/events?after=latest").await["cursor"]
        .as_u64()
        .unwrap();
    last.store(known + 1, Ordering::SeqCst);
    record_events(&served.manager).await;
    let received = all(events).await;

    latencies.sort_unstable();
    let at = |percent: usize| latencies[(latencies.len() - 1) * percent / 100];
    let number = u32::try_from(latencies.len()).unwrap();
    let rate = f64::from(number) / took.as_secs_f64();
    println!(
        "{} watches; {} lookups at {rate:.0}/s (offered: {}/s); latency: {:.1?} (50%), {:.1?} (99%), \
         {:.1?} (longest)",
        load.watches,
        number,
        load.rate,
        at(50),
        at(99),
        at(100),
    );
    println!(
        "{} events and {lists} lists of endpoints received; memory of clients and server: {} KiB before, \
         +{} KiB with the watches, +{} KiB after the load",
        received.iter().sum::<u64>(),
        before,
        opened.saturating_sub(before),
        during.saturating_sub(before),
    );
    assert_eq!(number, load.rate / CLIENTS * CLIENTS * seconds);
    assert!(at(100) < STARVED, "a lookup took {:?}", at(100));
    let expected = known + 1 - first;
    assert!(
        received.iter().all(|number| *number >= expected),
        "{received:?}"
    );
    let watches = u64::try_from(load.watches).unwrap();
    assert!(
        during.saturating_sub(before) < load.memory_of_watch * watches,
        "{before} KiB before, {during} KiB after"
    );
}
