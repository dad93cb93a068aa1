//! Measures an idle platform on local nodes: the resources that the manager and the agents use, and
//! every process that starts on the nodes.
//!
//! Local nodes are containers on this machine, so all values come from this machine's `/proc` and
//! kernel events. The measurement runs nothing on the nodes.

mod events;
mod nodes;
mod tree;
mod usage;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use events::{Events, Received};
use nodes::{Node, Program};
use tree::{Proc, Tree};
use usage::{Sample, slope};

pub use nodes::{Check, Part};
pub use tree::{CheckRuns, Started};

/// The minimum number of samples.
const SAMPLES: u32 = 90;
/// The longest interval between two samples.
const APART: Duration = Duration::from_secs(5);

/// The results for an idle platform.
#[derive(Debug, Clone)]
pub struct Rest {
    /// The duration of the measurement, without the time to settle.
    pub measured: Duration,
    /// The manager, then the agents.
    pub programs: Vec<ProgramAtRest>,
    /// The processes that started on the nodes during the measurement.
    pub started: Started,
}

/// The results for the manager or for one agent.
#[derive(Debug, Clone)]
pub struct ProgramAtRest {
    pub part: Part,
    /// The node that the program runs on.
    pub node: String,
    /// The CPU time, as a percentage of one processor.
    pub processor: f64,
    /// The resident memory in kB, at the start and at the end.
    pub memory: (u64, u64),
    /// The growth of resident memory, in kB per minute.
    pub slope: f64,
    /// The number of open files, at the start and at the end.
    pub descriptors: (u64, u64),
    /// The number of threads, at the start and at the end.
    pub threads: (u64, u64),
}

/// Waits for the time `settle`, then measures the platform for the time `measured`.
pub fn measure(platform: &str, settle: Duration, measured: Duration) -> Result<Rest, String> {
    std::thread::sleep(settle);
    let nodes = Node::all(platform)?;
    let programs = nodes::programs(&nodes)?;
    let events = Events::subscribe()?;
    let stop = Arc::new(AtomicBool::new(false));
    std::thread::scope(|scope| {
        let counting = scope.spawn(|| count(events, &nodes, &stop));
        let sampled = sample(&programs, measured);
        stop.store(true, Ordering::Relaxed);
        let started = counting
            .join()
            .map_err(|_| "counting processes panicked")??;
        let sampled = sampled?;
        let measured = sampled.first().and_then(|samples| samples.last());
        let programs = programs.iter().zip(&sampled);
        Ok(Rest {
            measured: measured.map_or(Duration::ZERO, |sample| sample.at),
            programs: programs.filter_map(|(p, s)| at_rest(p, s)).collect(),
            started,
        })
    })
}

fn count(mut events: Events, nodes: &[Node], stop: &AtomicBool) -> Result<Started, String> {
    // Raise the priority, to read the names of short-lived processes before they exit. If this is
    // not permitted, more of these processes are counted as unseen.
    let _ = rustix::process::setpriority_process(None, -20);
    let since = Instant::now();
    // Events that arrive during this call stay in the buffer.
    let mut tree = Tree::new(nodes, &nodes::running(), &Proc);
    loop {
        let stopped = stop.load(Ordering::Relaxed);
        match events.receive(!stopped)? {
            Received::Event(event) => tree.note(event, &Proc),
            Received::Nothing if stopped => return Ok(tree.finish(since.elapsed(), events.lost)),
            Received::Other | Received::Nothing => {}
        }
    }
}

/// Takes samples of each program until the measured time has passed.
fn sample(programs: &[Program], measured: Duration) -> Result<Vec<Vec<Sample>>, String> {
    let apart = (measured / SAMPLES).min(APART);
    let since = Instant::now();
    let mut all = vec![Vec::new(); programs.len()];
    loop {
        let at = since.elapsed();
        for (program, samples) in programs.iter().zip(&mut all) {
            samples.push(Sample::take(program.process, at)?);
        }
        let left = measured.saturating_sub(since.elapsed());
        if left.is_zero() {
            return Ok(all);
        }
        std::thread::sleep(left.min(apart));
    }
}

fn at_rest(program: &Program, samples: &[Sample]) -> Option<ProgramAtRest> {
    let (first, last) = (samples.first()?, samples.last()?);
    let busy = last.processor.saturating_sub(first.processor);
    let passed = last.at.saturating_sub(first.at);
    let memory = samples.iter().map(|sample| {
        let memory = u32::try_from(sample.memory).map_or(f64::INFINITY, f64::from);
        (sample.at.as_secs_f64() / 60.0, memory)
    });
    Some(ProgramAtRest {
        part: program.part,
        node: program.node.clone(),
        processor: 100.0 * busy.as_secs_f64() / passed.as_secs_f64(),
        memory: (first.memory, last.memory),
        slope: slope(&memory.collect::<Vec<_>>()),
        descriptors: (first.descriptors, last.descriptors),
        threads: (first.threads, last.threads),
    })
}

impl Rest {
    /// Returns how many processes per second started on the nodes, without those of declared health
    /// checks.
    pub fn others_per_second(&self) -> f64 {
        self.per_second(self.started.others())
    }

    fn per_second(&self, count: u64) -> f64 {
        let count = u32::try_from(count).map_or(f64::INFINITY, f64::from);
        count / self.measured.as_secs_f64()
    }
}

impl fmt::Display for Rest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "measured for {:.0?}", self.measured)?;
        writeln!(
            f,
            "\n{:<20}{:>10}{:>22}{:>15}{:>14}{:>12}",
            "", "processor", "memory", "slope", "descriptors", "threads"
        )?;
        for program in &self.programs {
            let part = match program.part {
                Part::Manager => "manager",
                Part::Agent => "agent",
            };
            writeln!(
                f,
                "{:<20}{:>8.2} %{:>22}{:>8.1} kB/min{:>14}{:>12}",
                format!("{part} on {}", program.node),
                program.processor,
                format!("{} → {} kB", program.memory.0, program.memory.1),
                program.slope,
                format!("{} → {}", program.descriptors.0, program.descriptors.1),
                format!("{} → {}", program.threads.0, program.threads.1),
            )?;
        }
        let started = &self.started;
        let all = started.others() + started.of_checks();
        writeln!(
            f,
            "\n{:<62}{:>8}{:>12}",
            "new processes on all nodes", "", "per second"
        )?;
        let mut line = |what: &str, count: u64| {
            writeln!(f, "{what:<62}{count:>8}{:>12.2}", self.per_second(count))
        };
        line("all", all)?;
        for check in &started.checks {
            let what = format!(
                "  health check of {} every {:?}: {} runs, {} seen",
                check.check.service, check.check.interval, check.runs, check.seen
            );
            line(&what, check.processes)?;
        }
        line("  others", started.others())?;
        let mut others: Vec<_> = started.others.iter().collect();
        others.sort_by(|one, other| other.1.cmp(one.1).then(one.0.cmp(other.0)));
        for ((node, what), count) in others {
            line(&format!("    {node}: {what}"), *count)?;
        }
        if started.lost_events > 0 {
            writeln!(
                f,
                "the kernel could not deliver {} events, so some new processes may be missing",
                started.lost_events
            )?;
        }
        Ok(())
    }
}
