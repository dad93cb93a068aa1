//! The numbers and booleans that Docker Compose reads from plain scalars.
//!
//! The parser keeps scalars as text. Docker Compose's YAML library converts a scalar without quotes
//! to a number if its text has one of these forms, and keys that accept text get the number in its
//! canonical form: `0440`, `0o440` and `0x120` are `288`, `1_000` and `1e3` are `1000`, `1.10` is
//! `1.1`. `22:22`, `yes` and `2024-01-01` are text.

use std::borrow::Cow;

/// A number as written in YAML.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Number {
    Integer(i128),
    Float(f64),
}

/// Returns the number that is read from a plain scalar, if any.
pub(super) fn number(text: &str) -> Option<Number> {
    match text {
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => {
            return Some(Number::Float(f64::INFINITY));
        }
        "-.inf" | "-.Inf" | "-.INF" => return Some(Number::Float(f64::NEG_INFINITY)),
        ".nan" | ".NaN" | ".NAN" => return Some(Number::Float(f64::NAN)),
        "-0" => return Some(Number::Float(-0.0)),
        _ => {}
    }
    if !text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c)) {
        return None;
    }
    // Underscores may separate digits, but not after a leading point.
    let digits = if text.starts_with('.') {
        Cow::Borrowed(text)
    } else {
        Cow::Owned(text.replace('_', ""))
    };
    integer(&digits)
        .map(Number::Integer)
        .or_else(|| float(&digits).map(Number::Float))
}

/// Returns the text that Docker Compose uses for a plain scalar, if it differs from the text in the
/// file.
pub(super) fn canonical(text: &str) -> Option<String> {
    let canonical = match text {
        "True" | "TRUE" => "true".to_owned(),
        "False" | "FALSE" => "false".to_owned(),
        _ => match number(text)? {
            Number::Integer(number) => number.to_string(),
            Number::Float(number) => shortest(number),
        },
    };
    (canonical != text).then_some(canonical)
}

/// Returns a number in decimal notation, without an exponent, if this differs from the text in the
/// file.
pub(super) fn decimal(text: &str) -> Option<String> {
    let decimal = match number(text)? {
        Number::Integer(number) => number.to_string(),
        // A whole number with too many digits; its conversion would change the digits.
        Number::Float(_) if text.bytes().all(|c| c.is_ascii_digit()) && !text.starts_with('0') => {
            return None;
        }
        Number::Float(number) => number.to_string(),
    };
    (decimal != text).then_some(decimal)
}

/// Parses an integer of 64 bits: decimal, or with the prefix `0x`, `0o`, `0` or `0b`.
fn integer(text: &str) -> Option<i128> {
    let (is_negative, has_sign, digits) = match text.as_bytes().first()? {
        b'-' => (true, true, &text[1..]),
        b'+' => (false, true, &text[1..]),
        _ => (false, false, text),
    };
    let (radix, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &digits[2..]),
        [b'0', b'o' | b'O', ..] => (8, &digits[2..]),
        [b'0', b'b' | b'B', ..] => (2, &digits[2..]),
        [b'0', _, ..] => (8, &digits[1..]),
        _ => (10, digits),
    };
    // A second sign is not valid.
    if !digits.starts_with(|c: char| c.is_ascii_hexdigit()) {
        return None;
    }
    let magnitude = i128::from(u64::from_str_radix(digits, radix).ok()?);
    let value = if is_negative { -magnitude } else { magnitude };
    let most = if has_sign {
        i128::from(i64::MAX)
    } else {
        i128::from(u64::MAX)
    };
    (i128::from(i64::MIN)..=most)
        .contains(&value)
        .then_some(value)
}

/// Parses a decimal number with an optional fraction and exponent.
fn float(text: &str) -> Option<f64> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let are_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let has_digits = !(whole.is_empty() && fraction.is_empty());
    let is_exponent = |text: &str| {
        let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
        !digits.is_empty() && are_digits(digits)
    };
    let is_number =
        has_digits && are_digits(whole) && are_digits(fraction) && exponent.is_none_or(is_exponent);
    let value: f64 = is_number.then(|| text.parse().ok()).flatten()?;
    value.is_finite().then_some(value)
}

/// Formats a number with as few digits as possible, and with an exponent if it has more than six
/// digits before the point, or is very small.
fn shortest(number: f64) -> String {
    if number.is_nan() {
        return "NaN".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let scientific = format!("{number:e}");
    let Some((mantissa, exponent)) = scientific.split_once('e') else {
        return scientific;
    };
    match exponent.parse::<i32>() {
        Ok(power) if !(-4..6).contains(&power) => {
            let sign = if power < 0 { '-' } else { '+' };
            format!("{mantissa}e{sign}{:02}", power.unsigned_abs())
        }
        _ => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_have_the_text_of_their_numbers() {
        for (text, expected) in [
            ("0440", "288"),
            ("0o440", "288"),
            ("0O440", "288"),
            ("0x120", "288"),
            ("0b101", "5"),
            ("-0x10", "-16"),
            ("1_000_000", "1000000"),
            ("+5", "5"),
            ("007", "7"),
            ("08", "8"),
            ("0128", "128"),
            ("1e3", "1000"),
            ("1.5e3", "1500"),
            ("1.10", "1.1"),
            ("1.0", "1"),
            ("2.", "2"),
            (".50", "0.5"),
            ("1e5", "100000"),
            ("1e6", "1e+06"),
            ("1234567.5", "1.2345675e+06"),
            ("1e21", "1e+21"),
            ("1.5e-7", "1.5e-07"),
            ("0.0001", "0.0001"),
            ("-0", "-0"),
            ("18446744073709551615", "18446744073709551615"),
            ("18446744073709551616", "1.8446744073709552e+19"),
            (".inf", "+Inf"),
            ("-.INF", "-Inf"),
            (".NaN", "NaN"),
            ("True", "true"),
            ("FALSE", "false"),
        ] {
            let found = canonical(text).unwrap_or_else(|| text.to_owned());
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn decimal_numbers_have_no_exponent() {
        for (text, expected) in [
            ("1e6", "1000000"),
            ("1.5e-7", "0.00000015"),
            ("0x10", "16"),
            ("3.0", "3"),
        ] {
            assert_eq!(decimal(text).as_deref(), Some(expected), "{text}");
        }
        for text in ["3", "0.5", "1k", "22:22", "true", "99999999999999999999999"] {
            assert_eq!(decimal(text), None, "{text}");
        }
    }

    #[test]
    fn other_scalars_are_text() {
        for text in [
            "",
            "-",
            "+",
            ".",
            "_",
            "_1",
            "--1",
            "+-1",
            "0x",
            "0xg",
            "0x-1",
            "1e",
            "1e+",
            "1.2.3",
            "22:22",
            "1:30",
            "8080:80",
            "2024-01-01",
            "yes",
            "On",
            "true",
            "1k",
            "512m",
            "e3",
            "inf",
            "NaN",
            "0b2",
            "1e999",
            "-18446744073709551615x",
            ".5_0",
        ] {
            assert_eq!(canonical(text), None, "{text}");
            assert_eq!(number(text), None, "{text}");
        }
    }
}
