//! Measures request rate, latency, and throughput through the agent. For comparison, the same run
//! measures direct connections and HAProxy in TCP mode. Also measures the agent's memory with
//! 10,000 idle connections. Prints the results without asserting them.
//!
//! `cargo bench -p benches --bench agent`. The comparison needs `haproxy`. The server runs in a
//! container or, without Docker, as a process. The agent and HAProxy are separate processes, each
//! with as many threads as there are processors. Each round measures direct connections, the agent,
//! and HAProxy, so that other programs on the machine affect all three equally. The results are
//! medians over the rounds.

#![expect(
    clippy::cast_precision_loss,
    clippy::print_stdout,
    reason = "a benchmark prints to the terminal, and its numbers are small enough for `f64`"
)]

mod container;
mod load;
mod process;
mod server;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use load::{Load, Measured};
use process::Ways;

/// The number of rounds.
const ROUNDS: usize = 9;

/// The duration of each measurement.
const FOR: Duration = Duration::from_millis(700);

/// The number of idle connections while memory is measured. The limit on open files may reduce the
/// number.
const IDLE: usize = 10_000;

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let ended = match arguments[..] {
        ["server", address] => server::run(address),
        ["agent", state, threads] => process::run_agent(state, threads),
        // A word after `cargo bench --` selects the loads whose names contain this word.
        _ => bench(arguments.iter().find(|argument| !argument.starts_with('-'))),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn bench(only: Option<&&str>) -> Result<(), Failure> {
    let ways = Ways::start()?;
    let runtime = tokio::runtime::Runtime::new()?;
    let mut measured: BTreeMap<(usize, usize), Vec<Measured>> = BTreeMap::new();
    let mut loads = Load::all();
    loads.retain(|load| only.is_none_or(|only| load.to_string().contains(only)));
    for round in 1..=ROUNDS {
        println!("round {round} of {ROUNDS} …");
        for (number, load) in loads.iter().enumerate() {
            for (way, proxy) in ways.all().iter().enumerate() {
                let before = proxy.processor_time()?;
                let mut result = runtime.block_on(load.run(proxy.at, FOR))?;
                result.processor = proxy.processor_time()?.saturating_sub(before);
                measured.entry((number, way)).or_default().push(result);
            }
        }
    }
    for (number, load) in loads.iter().enumerate() {
        println!("\n{load}");
        let direct = median(&measured[&(number, 0)], |one| one.rate);
        for (way, proxy) in ways.all().iter().enumerate() {
            let all = &measured[&(number, way)];
            let rate = median(all, |one| one.rate);
            print!("  {:8} {}", proxy.name, load.rate(rate));
            if way > 0 {
                print!(", {:.2} of direct", rate / direct);
            }
            if load.has_latency() {
                print!(
                    ", p99 {:.2} ms",
                    median(all, |one| one.p99.as_secs_f64() * 1e3)
                );
            }
            if way > 0 {
                let each = median(all, |one| one.processor.as_secs_f64() / one.done.max(1.0));
                print!(", CPU time {}", load.each(each));
            }
            println!();
        }
        if let (Some(agent), Some(haproxy)) =
            (measured.get(&(number, 1)), measured.get(&(number, 2)))
        {
            let ratio = |of: fn(&Measured) -> f64| median(agent, of) / median(haproxy, of);
            print!("  agent ÷ haproxy = {:.2}", ratio(|one| one.rate));
            if load.has_latency() {
                print!(", p99 {:.2}", ratio(|one| one.p99.as_secs_f64()));
            }
            println!();
        }
    }
    let idle_count = IDLE.min(process::most_connections()?);
    println!("\n{idle_count} idle connections");
    for proxy in &ways.all()[1..] {
        let before = proxy.memory()?;
        let idle = runtime.block_on(load::idle(proxy.at, idle_count))?;
        let after = proxy.memory()?;
        drop(idle);
        let each = (after - before) * 1024.0 / idle_count as f64;
        println!(
            "  {:8} {after:.0} KiB resident memory, {before:.0} KiB before: {each:.0} bytes per \
             connection",
            proxy.name
        );
    }
    Ok(())
}

fn median(all: &[Measured], of: impl Fn(&Measured) -> f64) -> f64 {
    let mut values: Vec<f64> = all.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Converts an address and a port to a socket address.
fn place(address: [u8; 4], port: u16) -> SocketAddr {
    (address, port).into()
}
