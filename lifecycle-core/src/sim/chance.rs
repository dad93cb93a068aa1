//! Draws that depend on the seed and on what they are for, never on what was drawn before:
//! a call more on one node changes nothing on another.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::options::Span;

/// Where draws come from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chance {
    seed: u64,
    pace_percent: u32,
}

impl Chance {
    pub(super) fn new(seed: u64, pace_percent: u32) -> Self {
        Self { seed, pace_percent }
    }

    /// FNV-1a over the purpose; it is stable where the standard library's hashers are not.
    fn rng(self, purpose: &[&str], number: u64) -> StdRng {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64 ^ self.seed;
        let mut mix = |byte: u8| {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        };
        for part in purpose {
            part.bytes().for_each(&mut mix);
            mix(0);
        }
        number.to_le_bytes().into_iter().for_each(mix);
        StdRng::seed_from_u64(hash)
    }

    /// A duration of the span, at the world's pace.
    pub(super) fn between(self, span: Span, purpose: &[&str], number: u64) -> Duration {
        let least = micros(span.least);
        let most = micros(span.most).max(least);
        let drawn = self.rng(purpose, number).random_range(least..=most);
        self.paced(Duration::from_micros(drawn))
    }

    /// A duration at the world's pace.
    pub(super) fn paced(self, duration: Duration) -> Duration {
        duration.saturating_mul(self.pace_percent) / 100
    }

    /// Whether something of this rate happens.
    pub(super) fn happens(self, rate: f64, purpose: &[&str], number: u64) -> bool {
        rate > 0.0 && self.rng(purpose, number).random::<f64>() < rate
    }

    /// 64 hexadecimal digits.
    pub(super) fn hex(self, purpose: &[&str], number: u64) -> String {
        hex::encode(self.rng(purpose, number).random::<[u8; 32]>())
    }

    /// A public key in OpenSSH form: the fixed head of an ed25519 key, and 32 drawn bytes.
    pub(super) fn host_key(self, purpose: &[&str], number: u64) -> String {
        const ALPHABET: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut rng = self.rng(purpose, number);
        let mut key = String::from("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI");
        for place in 0..43 {
            // The first of them shares its bits with the head's last byte.
            let bound = if place == 0 { 16 } else { ALPHABET.len() };
            key.push(char::from(ALPHABET[rng.random_range(0..bound)]));
        }
        key
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draw_depends_on_seed_purpose_and_number_alone() {
        let chance = Chance::new(7, 100);
        let span = Span::millis(100, 2_000);
        let first = chance.between(span, &["ready", "web-1"], 1);
        let _ = chance.between(span, &["ready", "db-1"], 1);
        assert_eq!(first, chance.between(span, &["ready", "web-1"], 1));
        assert_ne!(first, chance.between(span, &["ready", "web-1"], 2));
        assert_ne!(
            first,
            Chance::new(8, 100).between(span, &["ready", "web-1"], 1)
        );
        assert!((span.least..=span.most).contains(&first));
        assert_eq!(
            first / 10,
            Chance::new(7, 10).between(span, &["ready", "web-1"], 1)
        );
    }

    #[test]
    fn the_parts_of_a_purpose_do_not_run_together() {
        let chance = Chance::new(7, 100);
        assert_ne!(chance.hex(&["ab", "c"], 1), chance.hex(&["a", "bc"], 1));
    }
}
