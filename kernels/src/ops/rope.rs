//! Rotary position embedding (RoPE, arXiv:2104.09864).

use super::on_level;
use super::simd::{LANES, Simd};
use crate::Level;

/// Which values of a head are a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeKind {
    /// 2i and 2i + 1: `Norm`, as GGUF stores Llama.
    Norm,
    /// i and i + dims / 2: `NeoX`, as most other families.
    Neox,
}

/// The frequencies of the pairs: at position p, pair i turns by `p * frequency[i]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Frequencies {
    values: Vec<f64>,
    magnitude: f32,
}

impl Frequencies {
    /// `base^(-2i / dims) / divisor(i)` for each of the `dims / 2` pairs: `divisor` is 1 for plain
    /// RoPE, the factor for linear scaling, the value of `rope_freqs` for Llama 3. In float64, by
    /// `libm`, so that every machine has the same.
    pub fn new(dims: usize, base: f64, divisor: impl Fn(usize) -> f64) -> Frequencies {
        let values =
            (0..dims / 2).map(|i| libm::pow(base, -2.0 * i as f64 / dims as f64) / divisor(i)).collect();
        Frequencies { values, magnitude: 1.0 }
    }

    /// The same turns, after which the length of a pair is `magnitude` times what it was: YaRN's and
    /// LongRoPE's temperature of attention.
    pub fn with_magnitude(self, magnitude: f32) -> Frequencies {
        Frequencies { magnitude, ..self }
    }

    /// The turns without the change of length.
    pub fn pure(&self) -> Frequencies {
        self.clone().with_magnitude(1.0)
    }

    /// Pairs that turn.
    pub fn pairs(&self) -> usize {
        self.values.len()
    }

    /// Writes the cosines of the pairs' angles at `position`, then the sines, times the magnitude:
    /// `[2, pairs]`. A negative position turns back.
    ///
    /// # Panics
    /// If `table` is not two values for each pair.
    pub fn table(&self, position: i64, table: &mut [f32]) {
        assert_eq!(table.len(), 2 * self.values.len(), "a table has two values for each pair");
        let (cosines, sines) = table.split_at_mut(self.values.len());
        for ((c, s), frequency) in cosines.iter_mut().zip(sines).zip(&self.values) {
            let (sin, cos) = libm::sincos(position as f64 * frequency);
            (*c, *s) = (cos as f32 * self.magnitude, sin as f32 * self.magnitude);
        }
    }
}

#[inline(always)]
fn turn([a, b]: [f32; 2], cos: f32, sin: f32) -> [f32; 2] {
    [a * cos - b * sin, a * sin + b * cos]
}

/// Turns the first values of a head by the angles of `table` (`[2, pairs]`, from
/// [`Frequencies::table`]); values beyond the pairs stay.
///
/// # Panics
/// If the head has fewer values than the pairs.
pub fn rope(level: Level, kind: RopeKind, head: &mut [f32], table: &[f32]) {
    let head = &mut head[..table.len() / 2 * 2];
    #[inline(always)]
    fn norm<S: Simd>(_: S, head: &mut [f32], table: &[f32]) {
        let (cosines, sines) = table.split_at(table.len() / 2);
        let ((pairs, pairs_rest), (cosines, cosines_rest)) =
            (head.as_chunks_mut().0.as_chunks_mut(), cosines.as_chunks());
        let (sines, sines_rest) = sines.as_chunks();
        for ((pairs, cosines), sines) in pairs.iter_mut().zip(cosines).zip(sines) {
            // Of a fixed length, for the compiler to take the pairs apart in registers.
            let pairs: &mut [[f32; 2]; LANES] = pairs;
            let (cosines, sines): (&[f32; LANES], &[f32; LANES]) = (cosines, sines);
            let turned: [[f32; 2]; LANES] = std::array::from_fn(|i| turn(pairs[i], cosines[i], sines[i]));
            *pairs = turned;
        }
        for ((pair, cos), sin) in pairs_rest.iter_mut().zip(cosines_rest).zip(sines_rest) {
            *pair = turn(*pair, *cos, *sin);
        }
    }
    #[inline(always)]
    fn neox<S: Simd>(s: S, head: &mut [f32], table: &[f32]) {
        let (cosines, sines) = table.split_at(table.len() / 2);
        let (first, second) = head.split_at_mut(cosines.len());
        let ((first, first_rest), (second, second_rest)) = (first.as_chunks_mut(), second.as_chunks_mut());
        let ((cosines, cosines_rest), (sines, sines_rest)) = (cosines.as_chunks(), sines.as_chunks());
        for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cosines).zip(sines) {
            let (x, y, cos, sin) = (s.load(a), s.load(b), s.load(cos), s.load(sin));
            s.store(s.sub(s.mul(x, cos), s.mul(y, sin)), a);
            s.store(s.add(s.mul(x, sin), s.mul(y, cos)), b);
        }
        let rest = first_rest.iter_mut().zip(second_rest);
        for (((a, b), cos), sin) in rest.zip(cosines_rest).zip(sines_rest) {
            [*a, *b] = turn([*a, *b], *cos, *sin);
        }
    }
    match kind {
        RopeKind::Norm => on_level!(level, norm(head: &mut [f32], table: &[f32])),
        RopeKind::Neox => on_level!(level, neox(head: &mut [f32], table: &[f32])),
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests {
    use super::super::tests::{Random, bits};
    use super::*;

    fn turned(kind: RopeKind, head: &[f32], position: i64) -> Vec<f32> {
        let frequencies = Frequencies::new(8, 10_000.0, |_| 1.0);
        let mut table = vec![0.0; 8];
        frequencies.table(position, &mut table);
        let mut head = head.to_vec();
        rope(Level::Portable, kind, &mut head, &table);
        head
    }

    #[test]
    fn pairs_turn_by_their_angle() {
        let head = [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 2.0, 5.0];
        let norm = turned(RopeKind::Norm, &head, 3);
        assert_eq!((norm[0], norm[1]), (3f64.cos() as f32, 3f64.sin() as f32));
        let angle = 3.0 * 10_000f64.powf(-0.75);
        assert!((norm[6] + 2.0 * angle.sin() as f32).abs() < 1e-6 && norm[8] == 5.0);
        let neox = turned(RopeKind::Neox, &head, 3);
        assert_eq!((neox[0], neox[4]), (3f64.cos() as f32, 3f64.sin() as f32));
    }

    #[test]
    fn a_magnitude_stretches() {
        let frequencies = Frequencies::new(4, 100.0, |_| 1.0).with_magnitude(2.0);
        let (mut table, mut pure) = ([0.0; 4], [0.0; 4]);
        frequencies.table(5, &mut table);
        frequencies.pure().table(5, &mut pure);
        assert_eq!(table, pure.map(|v| 2.0 * v));
    }

    #[test]
    fn turns_add_up() {
        let head = Random(6).floats(8);
        for kind in [RopeKind::Norm, RopeKind::Neox] {
            let back = turned(kind, &turned(kind, &head, 700), -700);
            let shifted = turned(kind, &turned(kind, &head, 700), -300);
            for ((a, b), (c, d)) in back.iter().zip(&head).zip(shifted.iter().zip(turned(kind, &head, 400))) {
                assert!((a - b).abs() < 1e-5 && (c - d).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn levels_agree() {
        let mut random = Random(7);
        for kind in [RopeKind::Norm, RopeKind::Neox] {
            for pairs in [0, 1, 8, 31, 32, 64] {
                let table = random.floats(2 * pairs);
                for head in [random.floats(2 * pairs + 3), random.hostile(2 * pairs + 3)] {
                    let run = |level| {
                        let mut head = head.clone();
                        rope(level, kind, &mut head, &table);
                        bits(&head)
                    };
                    for level in Level::available() {
                        assert_eq!(run(level), run(Level::Portable), "{kind:?} {pairs} {level:?}");
                    }
                }
            }
        }
    }
}
