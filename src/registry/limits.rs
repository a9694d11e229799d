//! What a registry may cost, as one table.

use std::time::Duration;

use crate::store::MANIFEST_LIMIT;

/// Bounds on time and size. The registry is not trusted with any of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a manifest.
    pub manifest: u64,
    /// Bytes of a blob: 8 TiB, so that the list of its parts stays short.
    pub blob: u64,
    /// Bytes of the answer of a token service.
    pub token: u64,
    /// Bytes that are read of an error's text.
    pub error: u64,
    /// To connect, TLS included.
    pub connect: Duration,
    /// Until an answer begins.
    pub answer: Duration,
    /// Until the answer to a finished upload begins: the registry hashes what it got.
    pub commit: Duration,
    /// For a small answer as a whole.
    pub small: Duration,
    /// A connection that brings next to nothing for so long is given up.
    pub stall: Duration,
    /// Bytes a second that are more than next to nothing.
    pub least_rate: u64,
    /// How often a part is tried again without having got further.
    pub retries: u32,
    /// How often a small request is tried again.
    pub small_retries: u32,
    /// The first pause; it doubles.
    pub pause: Duration,
    /// The longest pause, also of those that a registry asks for.
    pub longest_pause: Duration,
    /// Connections of a transfer at once.
    pub connections: usize,
    /// Blobs of a transfer at once.
    pub blobs: usize,
    /// The least bytes of a part.
    pub least_part: u64,
    /// The most bytes of a part.
    pub most_part: u64,
    /// Bytes of an upload's chunk.
    pub chunk: u64,
    /// How often the disk is asked what it surely has.
    pub record: Duration,
    /// How many redirects lead to an answer.
    pub redirects: usize,
    /// How long a credential helper may take: it may ask a person.
    pub helper: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        let seconds = Duration::from_secs;
        Limits {
            manifest: MANIFEST_LIMIT,
            blob: 8 << 40,
            token: 1 << 20,
            error: 8 << 10,
            connect: seconds(15),
            answer: seconds(30),
            commit: seconds(600),
            small: seconds(60),
            stall: seconds(30),
            least_rate: 256,
            retries: 6,
            small_retries: 2,
            pause: seconds(1),
            longest_pause: seconds(60),
            connections: 16,
            blobs: 4,
            least_part: 100_000_000,
            most_part: 1_000_000_000,
            chunk: 64 << 20,
            record: seconds(2),
            redirects: 5,
            helper: seconds(60),
        }
    }
}

impl Limits {
    /// Bytes of each part of a blob but the last.
    pub(super) fn part(&self, size: u64) -> u64 {
        (size / 16).clamp(self.least_part.max(1), self.most_part.max(self.least_part).max(1))
    }

    /// How long to wait before the try that follows `tries` failed ones: doubled each time, and up to half
    /// of it more by chance, so that many clients do not come back at once.
    pub(super) fn pause_after(&self, tries: u32, asked: Option<Duration>) -> Duration {
        let doubled = self.pause.saturating_mul(1 << tries.saturating_sub(1).min(16));
        let mut random = [0; 2];
        let _ = getrandom::fill(&mut random);
        let more = doubled.mul_f64(f64::from(u16::from_le_bytes(random)) / f64::from(u16::MAX) / 2.0);
        asked.unwrap_or_default().max(doubled.saturating_add(more)).min(self.longest_pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_a_sixteenth_within_bounds() {
        let limits = Limits::default();
        for (size, part) in [
            (0, 100_000_000),
            (1_600_000_000, 100_000_000),
            (3_200_000_000, 200_000_000),
            (u64::MAX, 1_000_000_000),
        ] {
            assert_eq!(limits.part(size), part, "{size}");
        }
        assert!(limits.blob / limits.most_part < 10_000);
    }

    #[test]
    fn pauses_double_and_end() {
        let limits = Limits::default();
        for (tries, least) in [(1, 1), (2, 2), (3, 4), (6, 32), (40, 60)] {
            let pause = limits.pause_after(tries, None);
            let least = Duration::from_secs(least);
            assert!(
                pause >= least && pause <= (least * 3 / 2).max(limits.longest_pause),
                "{tries}: {pause:?}"
            );
        }
        assert_eq!(limits.pause_after(1, Some(Duration::from_secs(20))), Duration::from_secs(20));
        assert_eq!(limits.pause_after(1, Some(Duration::from_secs(9999))), limits.longest_pause);
    }
}
