//! Rotary position embedding (RoPE, arXiv:2104.09864).

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
}

impl Frequencies {
    /// `base^(-2i / dims) / divisor(i)` for each of the `dims / 2` pairs: `divisor` is 1 for plain
    /// RoPE, the factor for linear scaling, the value of `rope_freqs` for Llama 3. In float64, by
    /// `libm`, so that every machine has the same.
    pub fn new(dims: usize, base: f64, divisor: impl Fn(usize) -> f64) -> Frequencies {
        let values =
            (0..dims / 2).map(|i| libm::pow(base, -2.0 * i as f64 / dims as f64) / divisor(i)).collect();
        Frequencies { values }
    }

    /// Pairs that turn.
    pub fn pairs(&self) -> usize {
        self.values.len()
    }

    /// Writes cosine and sine of each pair's angle at `position`, one after the other:
    /// `[pairs, 2]`. A negative position turns back.
    ///
    /// # Panics
    /// If `table` is not two values for each pair.
    pub fn table(&self, position: i64, table: &mut [f32]) {
        assert_eq!(table.len(), 2 * self.values.len(), "a table has two values for each pair");
        for (pair, frequency) in table.as_chunks_mut::<2>().0.iter_mut().zip(&self.values) {
            let (sin, cos) = libm::sincos(position as f64 * frequency);
            *pair = [cos as f32, sin as f32];
        }
    }
}

/// Turns the first values of a head by the angles of `table` (`[pairs, 2]`, from
/// [`Frequencies::table`]); values beyond the pairs stay.
///
/// # Panics
/// If the head has fewer values than the pairs.
pub fn rope(kind: RopeKind, head: &mut [f32], table: &[f32]) {
    let (table, _) = table.as_chunks::<2>();
    let head = &mut head[..2 * table.len()];
    match kind {
        RopeKind::Norm => {
            for ([a, b], [cos, sin]) in head.as_chunks_mut::<2>().0.iter_mut().zip(table) {
                (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
            }
        }
        RopeKind::Neox => {
            let (first, second) = head.split_at_mut(table.len());
            for ((a, b), [cos, sin]) in first.iter_mut().zip(second).zip(table) {
                (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests {
    use super::super::tests::Random;
    use super::*;

    fn turned(kind: RopeKind, head: &[f32], position: i64) -> Vec<f32> {
        let frequencies = Frequencies::new(8, 10_000.0, |_| 1.0);
        let mut table = vec![0.0; 8];
        frequencies.table(position, &mut table);
        let mut head = head.to_vec();
        rope(kind, &mut head, &table);
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
}
