//! Panels times columns by vector instructions, of any set of them.

use std::marker::PhantomData;
use std::ops::Range;

use super::activation::{ActivationBlock, BLOCK};
use super::dots::Dots;
use super::packed::{Line, PackedPanel};
use super::panel::{LaidOut, Panel, Unit, multiply};
use super::spread::{Products, Put, SpreadPanel, Tiles, over_spread_panels};
use super::unpack::Format;

/// Panels and columns that are multiplied by vector instructions.
struct Vectors<'a, D, F> {
    d: D,
    lines: &'a [Line],
    x: &'a [ActivationBlock],
    units: usize,
    format: PhantomData<F>,
}

impl<D: Dots, F: Format> Vectors<'_, D, F> {
    fn count(&self) -> usize {
        self.x.len() / self.units
    }

    #[inline(always)]
    fn panel(&self, i: usize) -> PackedPanel<'_, F> {
        PackedPanel::new(self.lines, i, self.units * BLOCK)
    }
}

impl<D: Dots, F: Format> Tiles for Vectors<'_, D, F> {
    const COLUMNS: usize = D::TILE;

    #[inline(always)]
    fn spread(&self, i: usize, part: &Range<usize>, to: &mut SpreadPanel) {
        to.spread::<D, F, _>(self.d, self.panel(i), part, false);
    }

    #[inline(always)]
    fn multiply(
        &self,
        c: usize,
        part: &Range<usize>,
        panels: &[SpreadPanel],
        room: &mut LaidOut,
        products: &mut Products<'_>,
    ) -> usize {
        macro_rules! tile {
            ($tile:literal, $room:ident) => {{
                Unit::<$tile>::lay_out::<F, false>(&mut room.$room, self.x, c, self.units, part);
                for (at, panel) in panels.iter().enumerate() {
                    let mut tile = products.begin(at);
                    multiply::<D, F, _, $tile>(self.d, panel, &room.$room, &mut tile);
                    products.take(at, &tile);
                }
                $tile
            }};
        }
        match D::TILE {
            8 if self.count() - c > 4 => tile!(8, eight),
            _ => tile!(4, four),
        }
    }
}

#[inline(always)]
pub(super) fn columns_of_panels<D: Dots, F: Format>(
    d: D,
    lines: &[Line],
    panels: Range<usize>,
    units: usize,
    x: &[ActivationBlock],
    room: &mut Panel,
    put: Put<'_>,
) {
    let vectors = Vectors::<D, F> { d, lines, x, units, format: PhantomData };
    let count = vectors.count();
    if D::TILE > 1 && count >= SPREAD {
        return over_spread_panels(&vectors, panels, units, count, room, put);
    }
    let mut c = 0;
    macro_rules! tile {
        ($tile:literal, $room:ident) => {{
            Unit::<$tile>::lay_out::<F, false>(&mut room.columns.$room, x, c, units, &(0..units));
            let mut products = Products::of(&mut room.products, $tile, panels.len());
            for i in 0..panels.len() {
                let mut tile = products.begin(i);
                multiply::<D, F, _, $tile>(d, vectors.panel(i), &room.columns.$room, &mut tile);
                products.take(i, &tile);
            }
            products.put(panels.start, c..count.min(c + $tile), put);
            c += $tile;
        }};
    }
    while c < count {
        match count - c {
            2.. if D::TILE > 1 => tile!(4, four),
            _ => tile!(1, one),
        }
    }
}

/// Columns from which on panels are spread out first.
const SPREAD: usize = 9;
