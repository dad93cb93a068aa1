//! Measures planning for platforms of 100, 1,000, and 5,000 nodes with ten replicas per node. Plans
//! an empty platform and a settled platform, and measures how many replicas are placed per second.
//! Prints the results without asserting them.
//!
//! `cargo bench -p benches --bench planning`. The table at the end compares planning with two basic
//! operations in the same run: copying the observed state, and writing it as JSON.

#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a benchmark that cannot continue fails, and prints to the terminal"
)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use benches::platform::{Shape, declared, now, settled};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group};
use lifecycle_core::reconcile::placement::place;
use lifecycle_core::reconcile::{Declared, History, Observed, PlanningInput, plan};

const NODES: [u32; 3] = [100, 1_000, 5_000];
const REPLICAS_PER_NODE: u32 = 10;

fn platform(nodes: u32, shape: Shape) -> Arc<Declared> {
    let declared = declared(nodes, nodes * REPLICAS_PER_NODE, shape);
    Arc::new(declared.expect("a platform of this size is valid"))
}

fn planning(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("planning");
    group.sample_size(10);
    for nodes in NODES {
        let declared = platform(nodes, Shape::Rows);
        for (state, input) in [
            ("empty", PlanningInput::new(Arc::clone(&declared), now())),
            ("settled", settled(&declared)),
        ] {
            group.throughput(Throughput::Elements(u64::from(nodes * REPLICAS_PER_NODE)));
            group.bench_with_input(BenchmarkId::new(state, nodes), &input, |b, input| {
                b.iter(|| plan(input));
            });
        }
    }
}

fn placement(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("placements");
    group.sample_size(10);
    for nodes in NODES {
        for (name, shape) in [
            ("one-service", Shape::OneService),
            ("one-replica-each", Shape::OneReplicaEach),
        ] {
            let declared = platform(nodes, shape);
            group.throughput(Throughput::Elements(u64::from(nodes * REPLICAS_PER_NODE)));
            group.bench_with_input(BenchmarkId::new(name, nodes), &declared, |b, declared| {
                b.iter(|| place(declared, &Observed::default(), &History::default()));
            });
        }
    }
}

/// Runs the work several times. Returns the shortest time.
fn shortest<T>(mut work: impl FnMut() -> T) -> Duration {
    let run = |()| {
        let since = Instant::now();
        black_box(work());
        since.elapsed()
    };
    [(); 5].map(run).into_iter().min().unwrap_or_default()
}

/// Prints how long planning takes, as a multiple of the time for basic operations on the observed
/// state.
fn ratios() {
    println!("\nplanning for a settled platform, as a multiple of a basic operation in this run");
    println!("nodes  planning      copying the observation    writing it as JSON");
    for nodes in NODES {
        let declared = platform(nodes, Shape::Rows);
        let input = settled(&declared);
        let observed = &input.observed;
        let planned = shortest(|| plan(&input));
        // Copy the views themselves, not only their shared pointers.
        let views = || observed.nodes.values().map(|view| view.as_ref().clone());
        let copied = shortest(|| views().collect::<Vec<_>>());
        let written = shortest(|| serde_json::to_vec(&observed).map(|json| json.len()));
        let times = |raw: Duration| planned.as_secs_f64() / raw.as_secs_f64();
        println!(
            "{nodes:>5}  {planned:>9.1?}  {:>6.2} × ({copied:>9.1?})    {:>6.2} × ({written:>9.1?})",
            times(copied),
            times(written),
        );
    }
}

criterion_group!(benches, planning, placement);

fn main() {
    benches();
    Criterion::default().configure_from_args().final_summary();
    // `cargo test` runs a benchmark once to check that it works; only `cargo bench` measures.
    if std::env::args().any(|argument| argument == "--bench") {
        ratios();
    }
}
