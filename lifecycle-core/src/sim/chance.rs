//! Makes random draws. A draw depends on the seed and on the draw's purpose, but not on previous
//! draws. An additional call on one node therefore does not affect other nodes.

use std::time::Duration;

use super::options::Span;

/// `SplitMix64` (Steele, Lea, Flood 2014). Unlike library generators, it never changes, so that old
/// seeds stay valid.
struct Draws(u64);

impl Draws {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number from 0 to `bound`, exclusive. The bias of the modulo operation is
    /// negligible here.
    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// Returns a number from 0 to 1, exclusive.
    fn share(&mut self) -> f64 {
        let high = u32::try_from(self.next() >> 32).unwrap_or(u32::MAX);
        f64::from(high) / (f64::from(u32::MAX) + 1.0)
    }
}

/// Creates the random draws for a seed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chance {
    seed: u64,
    pace_percent: u32,
}

impl Chance {
    pub(super) fn new(seed: u64, pace_percent: u32) -> Self {
        Self { seed, pace_percent }
    }

    pub(super) fn seed(self) -> u64 {
        self.seed
    }

    /// Creates the draws for a purpose. Uses FNV-1a, which is stable, unlike the standard library's
    /// hashers.
    fn draws(self, purpose: &[&str], number: u64) -> Draws {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64 ^ self.seed;
        let mut mix = |byte: u8| {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        };
        for part in purpose {
            part.bytes().for_each(&mut mix);
            mix(0);
        }
        number.to_le_bytes().into_iter().for_each(mix);
        Draws(hash)
    }

    /// Returns a duration in the span, scaled by the world's pace.
    pub(super) fn between(self, span: Span, purpose: &[&str], number: u64) -> Duration {
        let least = micros(span.least);
        let most = micros(span.most).max(least);
        let span = (most - least).saturating_add(1);
        let drawn = self.draws(purpose, number).below(span);
        self.paced(Duration::from_micros(least + drawn))
    }

    /// Returns a duration scaled by the world's pace.
    pub(super) fn paced(self, duration: Duration) -> Duration {
        duration.saturating_mul(self.pace_percent) / 100
    }

    /// Returns whether an event with this rate happens.
    pub(super) fn happens(self, rate: f64, purpose: &[&str], number: u64) -> bool {
        rate > 0.0 && self.draws(purpose, number).share() < rate
    }

    /// Returns 64 hexadecimal digits.
    pub(super) fn hex(self, purpose: &[&str], number: u64) -> String {
        let mut draws = self.draws(purpose, number);
        let bytes = (0..4).flat_map(|_| draws.next().to_be_bytes());
        hex::encode(bytes.collect::<Vec<u8>>())
    }

    /// Returns a public key in OpenSSH format: the fixed head of an ed25519 key, and 32 random
    /// bytes.
    pub(super) fn host_key(self, purpose: &[&str], number: u64) -> String {
        const ALPHABET: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut draws = self.draws(purpose, number);
        let mut key = String::from("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI");
        for index in 0..43 {
            // The first character also encodes the last two bits of the head, which are 0.
            let bound = if index == 0 { 16 } else { 64 };
            let at = usize::try_from(draws.below(bound)).unwrap_or_default();
            key.push(char::from(ALPHABET[at]));
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
    fn a_draw_depends_only_on_seed_purpose_and_number() {
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
    fn the_parts_of_a_purpose_are_separated() {
        let chance = Chance::new(7, 100);
        assert_ne!(chance.hex(&["ab", "c"], 1), chance.hex(&["a", "bc"], 1));
    }
}
