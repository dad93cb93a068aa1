//! Parses values in Compose files: durations, amounts, ports, command lines, image names.

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::Duration;

use super::super::diagnostic::Report;
use super::super::scalar::{self, Number};
use super::super::tree::{Field, Value};
use crate::model::Protocol;

/// Parses a duration such as `1h5m30s20ms`, `1.5s` or `2d`.
pub(in super::super) fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("`{text}` is not a duration; write it like `90s` or `1m30s`");
    let mut total = Duration::ZERO;
    let mut rest = text.trim();
    rest = rest.strip_prefix('+').unwrap_or(rest);
    if rest == "0" {
        return Ok(total);
    }
    if rest.is_empty() {
        return Err(bad());
    }
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(bad)?;
        let amount: f64 = rest[..digits].parse().map_err(|_| bad())?;
        rest = &rest[digits..];
        let letters = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        let seconds = match &rest[..letters] {
            "w" => 7.0 * 86_400.0,
            "d" => 86_400.0,
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" | "μs" => 1e-6,
            "ns" => 1e-9,
            _ => return Err(bad()),
        };
        rest = &rest[letters..];
        total = Duration::try_from_secs_f64(amount * seconds)
            .ok()
            .and_then(|part| total.checked_add(part))
            .ok_or_else(bad)?;
    }
    Ok(total)
}

/// Parses a number from 0 to 1, and returns it in millionths.
pub(super) fn millionths(text: &str) -> Result<u32, String> {
    let ratio: Option<f64> = text.parse().ok();
    let ratio = ratio.filter(|ratio| (0.0..=1.0).contains(ratio));
    let ratio = ratio.ok_or_else(|| format!("`{text}` is not a number from 0 to 1"))?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the number is from 0 to 1,000,000"
    )]
    Ok((ratio * 1e6).round() as u32)
}

/// Parses a duration of a health check. Engines reject nonzero values below 1 ms.
pub(super) fn check_duration(text: &str) -> Result<Duration, String> {
    let duration = duration(text)?;
    if duration > Duration::ZERO && duration < Duration::from_millis(1) {
        return Err(format!("`{text}` is shorter than a millisecond"));
    }
    Ok(duration)
}

/// Parses a directory in a container.
pub(super) fn container_directory(text: &str) -> Result<String, String> {
    if text.is_empty() || text.starts_with('/') {
        Ok(text.to_owned())
    } else {
        Err(format!("`{text}` is not an absolute path in the container"))
    }
}

/// Parses an amount of bytes, as Docker does: `512m`, `1.5gb`, `4 GiB`. Units are powers of 1024.
pub(in super::super) fn bytes(text: &str) -> Result<u64, String> {
    let bad = || format!("`{text}` is not an amount of memory; write it like `512m` or `2g`");
    let lower = text.trim().to_ascii_lowercase();
    let is_amount = |c: char| c.is_ascii_digit() || c == '.' || c == ' ';
    let unit = lower.trim_end_matches(|c: char| !is_amount(c));
    let (amount, unit) = lower.split_at(unit.len());
    let shift = match unit {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        "p" | "pb" | "pib" => 50,
        _ => return Err(bad()),
    };
    let amount = without_exponent(amount.strip_suffix(' ').unwrap_or(amount));
    if let Ok(whole) = amount.parse::<u64>() {
        return whole.checked_mul(1 << shift).ok_or_else(bad);
    }
    // Calculate without floating point. Six digits of the fraction are precise enough.
    let (whole, fraction) = amount.split_once('.').ok_or_else(bad)?;
    let whole: u64 = if whole.is_empty() {
        0
    } else {
        whole.parse().map_err(|_| bad())?
    };
    let millionths = decimals(fraction, 6).ok_or_else(bad)?;
    let part = u128::from(millionths) * (1_u128 << shift) / 1_000_000;
    whole
        .checked_mul(1 << shift)
        .and_then(|bytes| bytes.checked_add(u64::try_from(part).ok()?))
        .ok_or_else(bad)
}

/// Writes a number without its exponent: `1.5e3` is `1500`.
fn without_exponent(text: &str) -> Cow<'_, str> {
    let number = text.contains('e').then(|| text.parse::<f64>().ok());
    match number.flatten().filter(|number| number.is_finite()) {
        Some(number) => Cow::Owned(number.to_string()),
        None => Cow::Borrowed(text),
    }
}

/// Reads the permissions of a file. As in Docker Compose, a number without quotes has the value that
/// it has in YAML: `0440` and `0o440` are octal, and `288` is the same mode in decimal. Text consists
/// of octal digits.
pub(super) fn mode(field: &Field<'_>, report: &mut Report) -> Option<u32> {
    let is_plain = matches!(field.node.value, Value::Scalar { plain: true, .. });
    let text = field.text(report)?;
    let mode = match scalar::number(text).filter(|_| is_plain) {
        Some(Number::Integer(number)) => u32::try_from(number).ok(),
        Some(Number::Float(_)) => None,
        None => u32::from_str_radix(text.strip_prefix("0o").unwrap_or(text), 8).ok(),
    };
    let Some(mode) = mode.filter(|mode| *mode <= 0o7777) else {
        let message = format!("`{text}` is not a file mode; write it like `0440`");
        field.problem(report, message);
        return None;
    };
    let resembles_octal = text.len() >= 3 && text.bytes().all(|c| (b'0'..b'8').contains(&c));
    if is_plain && resembles_octal && !text.starts_with('0') {
        let message = format!(
            "`{text}` is a decimal number, so the mode is `0{mode:o}`; write `0{text}` for octal \
             digits"
        );
        report.warning(field.value_at(), &field.path, message);
    }
    Some(mode)
}

/// Parses a number of processors (`0.5`) to thousandths.
pub(in super::super) fn cpu_millis(text: &str) -> Result<u64, String> {
    let bad = || format!("`{text}` is not a number of processors; write it like `0.5` or `2`");
    let lower = text.trim().to_ascii_lowercase();
    let text = without_exponent(&lower);
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    if whole.is_empty() && fraction.is_empty() {
        return Err(bad());
    }
    let whole: u64 = if whole.is_empty() {
        0
    } else {
        whole.parse().map_err(|_| bad())?
    };
    let millis = decimals(fraction, 3).ok_or_else(bad)?;
    whole
        .checked_mul(1000)
        .and_then(|w| w.checked_add(millis))
        .ok_or_else(bad)
}

/// Parses the digits after a decimal point as a whole number, after truncating or padding them to
/// `places` digits.
fn decimals(digits: &str, places: usize) -> Option<u64> {
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let mut padded: String = digits.chars().take(places).collect();
    while padded.len() < places {
        padded.push('0');
    }
    padded.parse().ok()
}

/// A range of ports, including both ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PortRange {
    pub(super) first: u16,
    pub(super) last: u16,
}

impl PortRange {
    pub(super) fn size(self) -> u32 {
        u32::from(self.last) - u32::from(self.first) + 1
    }
}

/// Parses `8000` or `8000-8010`.
pub(super) fn port_range(text: &str) -> Result<PortRange, String> {
    let number = |text: &str| {
        text.parse::<u16>()
            .ok()
            .filter(|port| *port > 0)
            .ok_or_else(|| format!("`{text}` is not a port from 1 to 65535"))
    };
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(text)?, number(text)?),
    };
    if first > last {
        return Err(format!("the end of the range `{text}` is before its start"));
    }
    Ok(PortRange { first, last })
}

pub(super) fn protocol(text: &str) -> Result<Protocol, String> {
    match text.to_ascii_lowercase().as_str() {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        _ => Err(format!("the protocol `{text}` is neither `tcp` nor `udp`")),
    }
}

/// A port in the format `[[IP:][HOST]:]CONTAINER[/PROTOCOL]`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ShortPort {
    pub(super) host_ip: Option<IpAddr>,
    pub(super) host: Option<PortRange>,
    pub(super) container: PortRange,
    pub(super) protocol: Protocol,
}

pub(super) fn short_port(text: &str) -> Result<ShortPort, String> {
    let (addresses, protocol_name) = text.rsplit_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol(protocol_name)?;
    let (before, container) = match addresses.rsplit_once(':') {
        Some((before, container)) => (Some(before), container),
        None => (None, addresses),
    };
    let container = port_range(container)?;
    let (host_ip, host) = match before {
        None => (None, None),
        Some(before) => {
            let (ip, host) = match before.rsplit_once(':') {
                Some((ip, host)) => (Some(ip), host),
                None => (None, before),
            };
            let host_ip = ip
                .filter(|ip| !ip.is_empty())
                .map(|ip| {
                    let bare = ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']'));
                    bare.unwrap_or(ip)
                        .parse::<IpAddr>()
                        .map_err(|_| format!("`{ip}` is not an IP address"))
                })
                .transpose()?;
            let host = if host.is_empty() || host == "0" {
                None
            } else {
                Some(port_range(host)?)
            };
            (host_ip, host)
        }
    };
    if let Some(host) = host
        && host.size() != container.size()
        && container.size() > 1
    {
        return Err(format!(
            "{} host ports for {} container ports; the two ranges must have the same size",
            host.size(),
            container.size()
        ));
    }
    Ok(ShortPort {
        host_ip,
        host,
        container,
        protocol,
    })
}

/// Parses `8000` or `8000-8010`, optionally with `/udp`.
pub(super) fn exposed(text: &str) -> Result<(PortRange, Protocol), String> {
    let (range, protocol_name) = text.split_once('/').unwrap_or((text, "tcp"));
    Ok((port_range(range)?, protocol(protocol_name)?))
}

/// The maximum length of a command line, in bytes. The kernel's limit for a word is lower.
const MAX_LINE: usize = 256 << 10;

/// Splits a command line into words. Of a shell's syntax, supports only quotes and backslashes.
pub(super) fn words(line: &str) -> Result<Vec<String>, String> {
    if line.len() > MAX_LINE {
        return Err(format!("the line is longer than {} KiB", MAX_LINE >> 10));
    }
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            c if c.is_whitespace() => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next().ok_or("a `'` is not closed")? {
                        '\'' => break,
                        c => word.push(c),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next().ok_or("a `\"` is not closed")? {
                        '"' => break,
                        '\\' => match chars.next().ok_or("a `\"` is not closed")? {
                            c @ ('"' | '\\' | '$' | '`') => word.push(c),
                            c => word.extend(['\\', c]),
                        },
                        c => word.push(c),
                    }
                }
            }
            '\\' => {
                let c = chars.next().ok_or("nothing follows the last `\\`")?;
                word.get_or_insert_default().push(c);
            }
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

/// Checks an image's name: `[registry[:port]/]name[:tag][@digest]`.
pub(in super::super) fn image(text: &str) -> Result<String, String> {
    const MAX_LENGTH: usize = 255;
    if text.len() > MAX_LENGTH {
        return Err(format!(
            "the name of an image may have at most {MAX_LENGTH} characters"
        ));
    }
    let bad = |why: &str| format!("`{text}` is not an image name: {why}");
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (text, None),
    };
    if let Some(digest) = digest {
        let valid = digest
            .split_once(':')
            .is_some_and(|(kind, hex)| !kind.is_empty() && is_hex(hex));
        if !valid {
            return Err(bad(
                "the digest is not in the format `sha256:<64 hexadecimal digits>`",
            ));
        }
    }
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (rest, None),
    };
    if let Some(tag) = tag {
        let first = tag.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
        let valid = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        if !first || tag.len() > 128 || !tag.chars().all(valid) {
            return Err(bad("the tag is invalid"));
        }
    }
    let mut parts = name.split('/');
    if name.contains('/')
        && let Some(first) = name.split('/').next()
        && (first.contains(['.', ':']) || first == "localhost")
    {
        parts.next();
        if !first
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-.:[]".contains(c))
        {
            return Err(bad("the registry is not a host name"));
        }
    }
    for part in parts {
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
        let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        if !part.starts_with(edge) || !part.ends_with(edge) || !part.chars().all(inner) {
            return Err(bad(
                "names consist of lower-case letters, digits, `.`, `_` and `-`",
            ));
        }
    }
    Ok(text.to_owned())
}

fn is_hex(text: &str) -> bool {
    text.len() >= 32 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_durations() {
        for (text, millis) in [
            ("10s", 10_000),
            ("1m30s", 90_000),
            ("1h5m30s20ms", 3_930_020),
            ("1.5s", 1_500),
            ("0", 0),
            ("0s", 0),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in [
            "",
            "10",
            "s",
            "1x",
            "-1s",
            "1..5s",
            "99999999999999999999999h",
            "1s 2s",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn parses_amounts() {
        for (text, amount) in [
            ("1024", 1024),
            ("512m", 512 << 20),
            ("512MB", 512 << 20),
            ("1.5g", 3 << 29),
            ("4GiB", 4 << 30),
            ("64k", 64 << 10),
            ("10b", 10),
        ] {
            assert_eq!(bytes(text), Ok(amount), "{text}");
        }
        for text in [
            "",
            "m",
            "1x",
            "-1",
            "1.2.3g",
            "99999999999999999999",
            "20000000t",
        ] {
            assert!(bytes(text).is_err(), "{text}");
        }
        assert_eq!(cpu_millis("0.5"), Ok(500));
        assert_eq!(cpu_millis("2"), Ok(2000));
        assert_eq!(cpu_millis(".25"), Ok(250));
        for text in ["", ".", "-1", "1.x", "a"] {
            assert!(cpu_millis(text).is_err(), "{text}");
        }
    }

    #[test]
    fn parses_short_ports() {
        let range = |first, last| PortRange { first, last };
        let port = short_port("127.0.0.1:8000-8002:80-82/udp").unwrap();
        assert_eq!(port.host_ip, Some("127.0.0.1".parse().unwrap()));
        assert_eq!(port.host, Some(range(8000, 8002)));
        assert_eq!(port.container, range(80, 82));
        assert_eq!(port.protocol, Protocol::Udp);
        assert_eq!(short_port("80").unwrap().host, None);
        assert_eq!(
            short_port("[::1]:8080:80").unwrap().host,
            Some(range(8080, 8080))
        );
        assert_eq!(
            short_port("::1:8080:80").unwrap().host_ip,
            Some("::1".parse().unwrap())
        );
        assert_eq!(
            short_port("1-65535:1-65535").unwrap().container.size(),
            65535
        );
        for text in [
            "",
            "0",
            "65536",
            "x:80",
            "8080:",
            "9-8",
            "80/sctp",
            "8000-8001:80-82",
            "8000:80-81",
            "a:1:2",
        ] {
            assert!(short_port(text).is_err(), "{text}");
        }
    }

    #[test]
    fn splits_command_lines() {
        let split = |line| words(line).unwrap();
        assert_eq!(split("a  b\tc"), ["a", "b", "c"]);
        assert_eq!(
            split(r#"sh -c 'echo "hi" $X' "a\"b" c\ d ''"#),
            ["sh", "-c", r#"echo "hi" $X"#, "a\"b", "c d", ""]
        );
        assert!(split("  ").is_empty());
        assert!(words(&"x ".repeat(200_000)).is_err());
        for line in ["'a", "\"a", "a\\"] {
            assert!(words(line).is_err(), "{line}");
        }
    }

    #[test]
    fn checks_image_names() {
        let digest = format!("a@sha256:{}", "0".repeat(64));
        for text in [
            "nginx",
            "nginx:1.27-alpine",
            "library/nginx",
            "localhost:5000/a/b:c",
            "ghcr.io/Owner/x".to_lowercase().as_str(),
            "a_b/c__d",
            &digest,
        ] {
            assert!(image(text).is_ok(), "{text}");
        }
        for text in [
            "",
            "Nginx",
            "a b",
            "a:",
            "a/",
            "/a",
            "a@sha256:x",
            "a:b:c",
            "-a",
        ] {
            assert!(image(text).is_err(), "{text}");
        }
    }
}
