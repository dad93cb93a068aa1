//! Reads the resource usage of a process from `/proc`.

use std::fs;
use std::time::Duration;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// The time since the first sample.
    pub(crate) at: Duration,
    /// The CPU time so far.
    pub(crate) processor: Duration,
    /// The resident memory in kB.
    pub(crate) memory: u64,
    pub(crate) threads: u64,
    pub(crate) descriptors: u64,
}

impl Sample {
    pub(crate) fn take(process: u32, at: Duration) -> Result<Self, String> {
        let directory = format!("/proc/{process}");
        let read = |file: &str| {
            fs::read_to_string(format!("{directory}/{file}"))
                .map_err(|error| format!("reading {directory}/{file}: {error}"))
        };
        let incomplete = || format!("reading {directory}: a field is missing");
        let (stat, status) = (read("stat")?, read("status")?);
        // Search from the end: the program's name (field 2) is in parentheses, but may itself
        // contain a parenthesis.
        let fields = stat.rsplit_once(") ").ok_or_else(incomplete)?.1;
        let fields: Vec<&str> = fields.split(' ').collect();
        let ticks = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        let (user, system) = (ticks(14), ticks(15));
        let ticks = user.zip(system).map(|(user, system)| user + system);
        let value = |name: &str| {
            let mut lines = status.lines();
            let line = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line?.split_ascii_whitespace().next()?.parse::<u64>().ok()
        };
        let open = fs::read_dir(format!("{directory}/fd"))
            .map_err(|error| format!("reading {directory}/fd: {error}; run this as root"))?;
        Ok(Self {
            at,
            processor: time(ticks.ok_or_else(incomplete)?),
            memory: value("VmRSS").ok_or_else(incomplete)?,
            threads: value("Threads").ok_or_else(incomplete)?,
            descriptors: open.count().try_into().unwrap_or(u64::MAX),
        })
    }
}

fn time(ticks: u64) -> Duration {
    Duration::from_secs(ticks)
        / u32::try_from(rustix::param::clock_ticks_per_second()).unwrap_or(100)
}

/// Returns the slope of the least-squares line through the points.
pub(crate) fn slope(points: &[(f64, f64)]) -> f64 {
    let mean = |of: fn(&(f64, f64)) -> f64| {
        let count = u32::try_from(points.len()).map_or(f64::INFINITY, f64::from);
        points.iter().map(of).sum::<f64>() / count
    };
    let (x, y) = (mean(|p| p.0), mean(|p| p.1));
    let both: f64 = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum();
    let square: f64 = points.iter().map(|p| (p.0 - x).powi(2)).sum();
    if square > 0.0 { both / square } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slope_matches_a_line_through_the_points() {
        let line: Vec<_> = [0.0, 1.0, 2.0, 5.0].map(|x| (x, 3.0 + 20.0 * x)).into();
        assert!((slope(&line) - 20.0).abs() < 1e-9);
        // These symmetric deviations from a flat line leave the slope at zero.
        let noisy = [(0.0, 1.0), (1.0, -1.0), (2.0, -1.0), (3.0, 1.0)];
        assert!(slope(&noisy).abs() < 1e-9);
        assert!(slope(&[(1.0, 5.0)]).abs() < 1e-9);
    }

    #[test]
    fn samples_a_process() {
        let process = std::process::id();
        let before = Sample::take(process, Duration::ZERO).unwrap();
        let kept = vec![7_u8; 64 << 20];
        let file = std::fs::File::open("/dev/null").unwrap();
        let after = Sample::take(process, Duration::ZERO).unwrap();
        assert!(
            after.memory >= before.memory + (60 << 10),
            "{before:?} {after:?}"
        );
        assert!(
            after.descriptors > before.descriptors,
            "{before:?} {after:?}"
        );
        assert!(after.processor >= before.processor, "{before:?} {after:?}");
        drop((kept, file));
    }
}
