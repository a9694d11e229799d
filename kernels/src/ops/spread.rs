//! Products of many columns: panels are spread out into the cache first, and all columns pass over them.

use std::ops::Range;

use super::activation::BLOCK as UNIT;
use super::dots::Dots;
use super::packed::Line;
use super::panel::{LaidOut, Panel, Source, for_each_group};
use super::simd::LANES;
use super::unpack::Format;

/// What takes the products of consecutive panels, from the given one on, with a column.
pub(super) type Put<'a> = &'a mut dyn FnMut(usize, usize, &[f32]);

/// Panels and columns that are multiplied.
pub(super) trait Tiles {
    /// Columns of the largest tile.
    const COLUMNS: usize;
    /// Spreads units `part` of panel `i` out.
    fn spread(&self, i: usize, part: &Range<usize>, to: &mut SpreadPanel);
    /// Lays out units `part` of the tile of columns that begins with `c`, and multiplies them with each of `panels`;
    /// returns how many columns the tile has.
    fn multiply(
        &self,
        c: usize,
        part: &Range<usize>,
        panels: &[SpreadPanel],
        room: &mut LaidOut,
        products: &mut Products<'_>,
    ) -> usize;
}

/// Multiplies `panels` of `units` units with `count` columns: a group of panels after the other, which are in the cache
/// while all columns pass.
#[inline(always)]
pub(super) fn over_spread_panels<T: Tiles>(
    tiles: &T,
    panels: Range<usize>,
    units: usize,
    count: usize,
    room: &mut Panel,
    put: Put<'_>,
) {
    let step = part_units(units);
    let several = step < units;
    let group = spread_panels(units).min(panels.len());
    room.spread.resize_with(group.max(room.spread.len()), Default::default);
    for first in (0..panels.len()).step_by(group) {
        let len = group.min(panels.len() - first);
        let columns = if several { count + T::COLUMNS } else { T::COLUMNS };
        let mut products = Products::of(&mut room.products, columns, len);
        for start in (0..units).step_by(step) {
            let part = start..(start + step).min(units);
            for i in 0..len {
                tiles.spread(first + i, &part, &mut room.spread[i]);
            }
            products.goes_on = start > 0;
            let mut c = 0;
            while c < count {
                products.first = if several { c } else { 0 };
                let wide = tiles.multiply(c, &part, &room.spread[..len], &mut room.columns, &mut products);
                let end = count.min(c + wide);
                if part.end == units {
                    products.put(panels.start + first, c..end, put);
                }
                c = end;
            }
        }
    }
}

/// Units of a part of rows of so many units. Long rows are spread out in parts, so that several panels are in the cache
/// together and columns are laid out for all of them at once. A part begins where a block does.
const fn part_units(units: usize) -> usize {
    /// 2,048 values.
    const MOST: usize = 64;
    /// Units of the longest block of a format.
    const BLOCK: usize = 256 / UNIT;
    let parts = if units > MOST { units.div_ceil(MOST) } else { 1 };
    units.div_ceil(parts).next_multiple_of(BLOCK)
}

/// Panels of rows of so many units that are spread out together: a quarter of a megabyte, which second-level caches
/// hold.
const fn spread_panels(units: usize) -> usize {
    let part = if part_units(units) < units { part_units(units) } else { units };
    let panels = (256 << 10) / (part * UNIT * LANES + 1);
    if panels == 0 { 1 } else { panels }
}

/// Bytes of room for rows of so many units, with so many columns, at most.
pub(super) const fn bytes(units: usize, columns: usize) -> usize {
    let (panels, part) = (spread_panels(units), part_units(units) * UNIT);
    let spread = panels * (part * LANES + 2 * part / 16 * LANES * size_of::<f32>());
    let columns = if part_units(units) < units { columns.saturating_add(16) } else { 16 };
    columns.saturating_mul(panels * LANES * size_of::<f32>()).saturating_add(spread)
}

/// The products of some panels with columns, before they go where they belong: `[columns, rows]`.
pub(super) struct Products<'a> {
    values: &'a mut [f32],
    rows: usize,
    /// Where the tile at hand begins.
    first: usize,
    /// Whether the tile has sums of earlier parts.
    goes_on: bool,
}

impl<'a> Products<'a> {
    #[inline(always)]
    pub(super) fn of(room: &'a mut Vec<f32>, columns: usize, panels: usize) -> Products<'a> {
        let rows = panels * LANES;
        room.resize((columns * rows).max(room.len()), 0.0);
        Products { values: room, rows, first: 0, goes_on: false }
    }

    /// The sums of panel `at` so far.
    #[inline(always)]
    #[expect(
        clippy::needless_range_loop,
        reason = "an iterator would not be inlined with the target feature"
    )]
    pub(super) fn begin<const C: usize>(&self, at: usize) -> [[f32; LANES]; C] {
        let mut tile = [[0.0; LANES]; C];
        if self.goes_on {
            for c in 0..C {
                let start = (self.first + c) * self.rows + at * LANES;
                tile[c].copy_from_slice(&self.values[start..start + LANES]);
            }
        }
        tile
    }

    /// Takes the products of panel `at`.
    #[inline(always)]
    #[expect(
        clippy::needless_range_loop,
        reason = "an iterator would not be inlined with the target feature"
    )]
    pub(super) fn take(&mut self, at: usize, tile: &[[f32; LANES]]) {
        for c in 0..tile.len() {
            let start = (self.first + c) * self.rows + at * LANES;
            self.values[start..start + LANES].copy_from_slice(&tile[c]);
        }
    }

    /// Gives each of `columns`, which are those of the tile, the products of all panels, the first of which is panel
    /// `panel`.
    pub(super) fn put(&self, panel: usize, columns: Range<usize>, put: &mut dyn FnMut(usize, usize, &[f32])) {
        for (c, values) in columns.zip(self.values.chunks_exact(self.rows).skip(self.first)) {
            put(panel, c, values);
        }
    }
}

/// A panel spread out: a byte a value.
#[derive(Default)]
pub(super) struct SpreadPanel {
    /// `[cols / 32, 8, 16, 4]`.
    pub(super) values: Vec<[Line; 8]>,
    /// `[cols / SUB, 16]`.
    pub(super) scale: Vec<[f32; LANES]>,
    /// `[cols / SUB, 16]`, where the format has it.
    pub(super) min: Vec<[f32; LANES]>,
}

impl SpreadPanel {
    /// Takes the units `part` (of 32 values) of a panel; with `signed`, the values are less the offset.
    #[inline(always)]
    pub(super) fn spread<D: Dots, F: Format, S: Source>(
        &mut self,
        d: D,
        source: S,
        part: &Range<usize>,
        signed: bool,
    ) {
        let (subs, first) = (part.len() * (UNIT / F::SUB), part.start * (UNIT / F::SUB));
        let start = part.start;
        self.values.resize(part.len(), [[0; 64]; 8]);
        self.scale.resize(subs, [0.0; LANES]);
        self.min.resize(if F::MIN { subs } else { 0 }, [0.0; LANES]);
        for part in 0..LANES / D::LANES {
            for (unit, lines) in self.values.iter_mut().enumerate() {
                for_each_group!(G => {
                    let values = source.values(d, start + unit, G, part);
                    let values = if signed { d.less(values, F::OFFSET as u8) } else { values };
                    d.put_bytes(values, &mut lines[G], part);
                });
            }
            for (sub, scale) in self.scale.iter_mut().enumerate() {
                d.store(source.scale(d, first + sub, part), scale, part);
            }
            for (sub, min) in self.min.iter_mut().enumerate() {
                d.store(source.min(d, first + sub, part), min, part);
            }
        }
    }
}

impl Source for &SpreadPanel {
    #[inline(always)]
    fn values<D: Dots>(&self, d: D, unit: usize, g: usize, part: usize) -> D::B {
        d.bytes(&self.values[unit][g], part)
    }

    #[inline(always)]
    fn scale<D: Dots>(&self, d: D, sub: usize, part: usize) -> D::F {
        d.load(&self.scale[sub], part)
    }

    #[inline(always)]
    fn min<D: Dots>(&self, d: D, sub: usize, part: usize) -> D::F {
        d.load(&self.min[sub], part)
    }

    /// It is in the cache.
    #[inline(always)]
    fn fetch<D: Dots>(&self, _: D, _: usize) {}
}
