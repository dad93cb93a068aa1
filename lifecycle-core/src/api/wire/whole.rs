//! Reads whole numbers that may be written with a decimal point, such as `3.0`. In JSON Schema, and
//! in languages with one type of number, this is the same number as `3`.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::Number;

fn whole<T: TryFrom<u64>>(number: &Number) -> Option<T> {
    let pointed = || {
        let value = number.as_f64().filter(|value| value.fract() == 0.0)?;
        format!("{value:.0}").parse().ok()
    };
    T::try_from(number.as_u64().or_else(pointed)?).ok()
}

pub(super) fn number<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: TryFrom<u64>,
    D: Deserializer<'de>,
{
    let number = Number::deserialize(deserializer)?;
    whole(&number)
        .ok_or_else(|| D::Error::custom("expected a whole number in the range of the member"))
}

pub(super) fn optional<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: TryFrom<u64>,
    D: Deserializer<'de>,
{
    let number = Option::<Number>::deserialize(deserializer)?;
    let number = number.map(|number| whole(&number).ok_or(number));
    number
        .transpose()
        .map_err(|_| D::Error::custom("expected a whole number in the range of the member"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<u16> {
        number(&mut serde_json::Deserializer::from_str(text)).ok()
    }

    #[test]
    fn a_decimal_point_without_a_fraction_is_accepted() {
        for (text, value) in [
            ("3", 3),
            ("3.0", 3),
            ("3e2", 300),
            ("0", 0),
            ("65535.0", 65_535),
        ] {
            assert_eq!(read(text), Some(value), "{text}");
        }
        for text in [
            "3.5", "-1", "-1.0", "65536", "65536.0", "1e300", "\"3\"", "null", "true",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
        let absent: Option<u64> =
            optional(&mut serde_json::Deserializer::from_str("null")).unwrap();
        assert_eq!(absent, None);
    }
}
