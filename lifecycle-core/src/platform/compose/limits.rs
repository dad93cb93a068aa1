//! Reads the keys for kernel limits and block devices of a container. The basic limits of
//! processors and memory are read with `deploy`.

use std::collections::BTreeMap;

use super::super::diagnostic::Report;
use super::super::tree::Field;
use super::keys::{self, supported_entries};
use super::service::pairs;
use super::value;
use crate::model::{BlockIo, KernelLimits, Ulimit};

/// Reads the value of a key that this module supports. Returns `false` for any other key.
pub(super) fn read(
    key: &str,
    field: &Field<'_>,
    kernel: &mut KernelLimits,
    report: &mut Report,
) -> bool {
    let micros = 1_000_000_000;
    match key {
        "ulimits" => kernel.ulimits = ulimits(field, report),
        "sysctls" => {
            let mut sysctls = BTreeMap::new();
            for (name, value) in pairs(field, report) {
                match value {
                    Some(value) => drop(sysctls.insert(name, value)),
                    None => field.problem(report, format!("`{name}` has no value")),
                }
            }
            kernel.sysctls = sysctls;
        }
        "storage_opt" => {
            for (name, value) in pairs(field, report) {
                kernel.storage_opt.insert(name, value.unwrap_or_default());
            }
        }
        "shm_size" => kernel.shm_bytes = field.parse_number(report, value::bytes),
        "pids_limit" => kernel.pids = integer(field, -1, i64::from(i32::MAX), report),
        "oom_score_adj" => kernel.oom_score_adj = integer(field, -1000, 1000, report),
        "oom_kill_disable" => {
            kernel.oom_kill_disable = field.boolean(report).unwrap_or_default();
        }
        "memswap_limit" => {
            kernel.memory_swap = field.parse_number(report, |text| match text.trim() {
                "-1" => Ok(-1),
                amount => value::bytes(amount).and_then(|bytes| {
                    i64::try_from(bytes).map_err(|_| format!("`{amount}` is too large"))
                }),
            });
        }
        "mem_swappiness" => kernel.memory_swappiness = integer(field, 0, 100, report),
        "cpu_shares" => kernel.cpu_shares = integer(field, 0, 262_144, report),
        "cpu_period" => kernel.cpu_period = period(field, report),
        "cpu_quota" => kernel.cpu_quota = integer(field, -1, micros, report),
        "cpu_rt_period" => kernel.cpu_rt_period = period(field, report),
        "cpu_rt_runtime" => kernel.cpu_rt_runtime = period(field, report),
        "cpuset" => kernel.cpuset = field.parse(report, processors),
        "blkio_config" => block_io(field, &mut kernel.block_io, report),
        _ => return false,
    }
    true
}

/// Parses a whole number within bounds. The number may be negative.
pub(super) fn integer(
    field: &Field<'_>,
    least: i64,
    most: i64,
    report: &mut Report,
) -> Option<i64> {
    field.parse_number(report, |text| {
        text.parse()
            .ok()
            .filter(|number| (least..=most).contains(number))
            .ok_or_else(|| format!("`{text}` is not a whole number from {least} to {most}"))
    })
}

/// Reads microseconds, as a number or as a duration.
fn period(field: &Field<'_>, report: &mut Report) -> Option<i64> {
    field.parse_number(report, |text| {
        if let Ok(number) = text.parse::<u32>() {
            return Ok(number.into());
        }
        let micros = value::duration(text)?.as_micros();
        i64::try_from(micros).map_err(|_| format!("`{text}` is too long"))
    })
}

fn processors(text: &str) -> Result<String, String> {
    let is_number = |text: &str| text.parse::<u16>().is_ok();
    let good = text.split(',').all(|part| match part.split_once('-') {
        Some((first, last)) => is_number(first) && is_number(last),
        None => is_number(part),
    });
    if good {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "`{text}` is not a set of processors; write it like `0-3,5`"
        ))
    }
}

/// Reads `nofile: 1024`, or `nofile: {soft: 1024, hard: 4096}`.
fn ulimits(field: &Field<'_>, report: &mut Report) -> BTreeMap<String, Ulimit> {
    let mut limits = BTreeMap::new();
    for (name, entry) in field.entries(report) {
        let limit = if entry.is_map() {
            let (mut soft, mut hard) = (None, None);
            for (key, field) in supported_entries(&entry, keys::ULIMIT, report) {
                let number = integer(&field, -1, i64::MAX, report);
                match key {
                    "soft" => soft = number,
                    _ => hard = number,
                }
            }
            for key in ["soft", "hard"] {
                if entry.get(key).is_none() {
                    entry.problem(report, format!("`{key}` is missing"));
                }
            }
            soft.zip(hard)
        } else {
            integer(&entry, -1, i64::MAX, report).map(|both| (both, both))
        };
        let Some((soft, hard)) = limit else { continue };
        if hard != -1 && (soft == -1 || soft > hard) {
            entry.problem_with_help(
                report,
                format!("the soft limit {soft} is above the hard limit {hard}"),
                "raise `hard`, or lower `soft`",
            );
            continue;
        }
        limits.insert(name.to_owned(), Ulimit { soft, hard });
    }
    limits
}

fn block_io(field: &Field<'_>, block_io: &mut BlockIo, report: &mut Report) {
    let weight = |field: &Field<'_>, report: &mut Report| {
        let weight = field.number(report, 10, 1000);
        weight.and_then(|weight| u16::try_from(weight).ok())
    };
    for (key, field) in supported_entries(field, keys::BLOCK_IO, report) {
        if key == "weight" {
            block_io.weight = weight(&field, report);
            continue;
        }
        let in_bytes = key.ends_with("_bps");
        for item in field.items(report) {
            let mut path = None;
            let mut amount = None;
            for (inner, field) in item.entries(report) {
                match inner {
                    "path" => path = field.text(report),
                    "weight" if key == "weight_device" => {
                        amount = weight(&field, report).map(u64::from);
                    }
                    "rate" if key != "weight_device" && in_bytes => {
                        amount = field.parse_number(report, value::bytes);
                    }
                    "rate" if key != "weight_device" => {
                        amount = field.number(report, 1, u32::MAX).map(u64::from);
                    }
                    _ => {
                        let known = ["path", "rate", "weight"];
                        report.unknown_key(field.at, &field.path, inner, known);
                    }
                }
            }
            let Some((path, amount)) = path.zip(amount) else {
                item.problem(report, "`path` and either `weight` or `rate` are required");
                continue;
            };
            let path = path.to_owned();
            match key {
                "weight_device" => {
                    let weight = u16::try_from(amount).unwrap_or(u16::MAX);
                    block_io.device_weights.insert(path, weight);
                }
                "device_read_bps" => drop(block_io.read_bps.insert(path, amount)),
                "device_write_bps" => drop(block_io.write_bps.insert(path, amount)),
                "device_read_iops" => drop(block_io.read_iops.insert(path, amount)),
                _ => drop(block_io.write_iops.insert(path, amount)),
            }
        }
    }
}
