//! What an operation of a region costs beside its work: regions of 240 operations that do next to nothing.
//!
//! `cargo bench -p mdl-kernels --bench region`

use std::time::{Duration, Instant};

use mdl_kernels::region::{Grid, Kind, Operation, PlaneId, Planes, Reader, Team, Tile};

/// One value a tile.
struct Touch {
    from: PlaneId,
    to: PlaneId,
    tiles: usize,
}

impl Operation for Touch {
    type Scratch = ();

    fn output(&self) -> PlaneId {
        self.to
    }

    fn grid(&self) -> Grid {
        Grid { columns: 0..1, tile_columns: 1, rows: 0..16 * self.tiles, tile_rows: 16 }
    }

    fn compute(&self, planes: &Reader<'_>, tile: &mut Tile<'_>, _: &mut ()) {
        let at = tile.rows.start;
        tile.f32(0)[0] = planes.f32(self.from)[at] + 1.0;
    }
}

/// Microseconds a region, at best and in the middle, with a pause before each.
fn region(threads: usize, tiles: usize, pause: Duration) -> Result<[f64; 2], Box<dyn std::error::Error>> {
    let mut planes = Planes::default();
    let add = |planes: &mut Planes| planes.add(Kind::F32, 1, 16 * tiles);
    let ids = [add(&mut planes), add(&mut planes)].map(|id| id.map_err(|_| "no memory"));
    let (a, b) = (ids[0]?, ids[1]?);
    let team = Team::new(threads, || ())?;
    let operation =
        |i| if i % 2 == 0 { Touch { from: a, to: b, tiles } } else { Touch { from: b, to: a, tiles } };
    let operations: Vec<Touch> = (0..240).map(operation).collect();
    let mut times = Vec::new();
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(300) {
        let start = Instant::now();
        while start.elapsed() < pause {}
        if pause > Duration::from_millis(1) {
            std::thread::sleep(pause);
        }
        let start = Instant::now();
        team.run(&mut planes, &operations);
        times.push(start.elapsed().as_secs_f64() * 1e6);
    }
    times.sort_by(f64::total_cmp);
    Ok([times[0], times[times.len() / 2]])
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Run as a test, there is nothing to measure.
    if !std::env::args().any(|a| a == "--bench") {
        return Ok(());
    }
    println!("{:>7} {:>6} {:>9} {:>9} {:>9}", "threads", "tiles", "pause us", "best us", "median us");
    for threads in [1, 2] {
        for tiles in [1, 2, 8] {
            for pause in [0, 50, 2000] {
                let [best, median] = region(threads, tiles, Duration::from_micros(pause))?;
                println!("{threads:7} {tiles:6} {pause:9} {best:9.1} {median:9.1}");
            }
        }
    }
    Ok(())
}
