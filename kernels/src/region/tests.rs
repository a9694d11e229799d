use super::*;

/// Adds `plus` to the sum of a column of another plane.
struct Sum {
    from: PlaneId,
    to: PlaneId,
    columns: usize,
    width: usize,
    tile: (usize, usize),
    plus: f32,
}

impl Operation for Sum {
    type Scratch = usize;
    fn output(&self) -> PlaneId {
        self.to
    }
    fn grid(&self) -> Grid {
        Grid {
            columns: 0..self.columns,
            tile_columns: self.tile.0,
            rows: 0..self.width,
            tile_rows: self.tile.1,
        }
    }
    fn compute(&self, planes: &Reader<'_>, tile: &mut Tile<'_>, scratch: &mut usize) {
        *scratch += 1;
        let width = planes.width(self.from);
        for c in 0..tile.columns.len() {
            let at = tile.columns.start + c;
            let sum: f32 = planes.f32(self.from)[at * width..(at + 1) * width].iter().sum();
            let rows = tile.rows.clone();
            for (row, v) in rows.zip(tile.f32(c)) {
                *v = sum + self.plus + row as f32;
            }
        }
    }
}

fn chain(threads: usize, tile: (usize, usize)) -> Vec<f32> {
    let mut planes = Planes::default();
    let a = planes.add(Kind::F32, 5, 7).unwrap();
    let b = planes.add(Kind::F32, 5, 3).unwrap();
    let team = Team::new(threads, || 0).unwrap();
    let forth = |plus| Sum { from: a, to: b, columns: 5, width: 3, tile, plus };
    let back = |plus| Sum { from: b, to: a, columns: 5, width: 7, tile, plus };
    let operations: Vec<Sum> =
        (0..40).map(|i| if i % 2 == 0 { forth(1.0) } else { back(-(i as f32)) }).collect();
    for _ in 0..20 {
        planes.f32(a).fill(0.5);
        team.run(&mut planes, &operations[..6]);
    }
    planes.f32(a).to_vec()
}

#[test]
fn threads_and_tiles_change_nothing() {
    let expected = chain(1, (5, 7));
    assert!(expected.iter().any(|v| *v != 0.5));
    for threads in [1, 2, 3, 8] {
        for tile in [(1, 1), (2, 2), (5, 1), (1, 7), (9, 9)] {
            assert_eq!(chain(threads, tile), expected, "{threads} threads, tiles {tile:?}");
        }
    }
}

#[test]
fn a_timed_region_computes_the_same() {
    for threads in [1, 2] {
        let mut planes = Planes::default();
        let a = planes.add(Kind::F32, 5, 7).unwrap();
        let b = planes.add(Kind::F32, 5, 3).unwrap();
        let steps = [
            Sum { from: a, to: b, columns: 5, width: 3, tile: (1, 1), plus: 1.0 },
            Sum { from: b, to: a, columns: 5, width: 7, tile: (1, 1), plus: 1.0 },
        ];
        let team = Team::new(threads, || 0).unwrap();
        let started = Instant::now();
        let times = team.run_timed(&mut planes, &steps);
        assert_eq!(planes.f32(a)[..2], [7.0, 8.0]);
        assert_eq!(times.len(), 2);
        assert!(times.iter().all(|t| *t > Duration::ZERO));
        assert!(times.iter().sum::<Duration>() <= started.elapsed());
        assert!(team.run_timed::<Sum>(&mut planes, &[]).is_empty());
    }
}

/// What counts the pieces it is asked to fetch, up to three, of each first tile.
struct Fetched<'a> {
    to: PlaneId,
    asked: &'a Mutex<Vec<(usize, usize)>>,
    pieces: usize,
}

impl Operation for Fetched<'_> {
    type Scratch = usize;
    fn output(&self) -> PlaneId {
        self.to
    }
    fn grid(&self) -> Grid {
        Grid { columns: 0..1, tile_columns: 1, rows: 0..8, tile_rows: 1 }
    }
    fn fetch(&self, (_, rows): (Range<usize>, Range<usize>), piece: usize) -> bool {
        if piece < self.pieces {
            self.asked.lock().unwrap().push((rows.start, piece));
        }
        piece < self.pieces
    }
    fn compute(&self, _: &Reader<'_>, tile: &mut Tile<'_>, _: &mut usize) {
        tile.f32(0).fill(1.0);
    }
}

#[test]
fn what_comes_next_is_fetched_once_by_the_thread_that_reads_it() {
    let mut planes = Planes::default();
    let to = planes.add(Kind::F32, 1, 8).unwrap();
    let asked: [Mutex<Vec<(usize, usize)>>; 4] = Default::default();
    // The third has nothing to fetch: the fourth is fetched while the second and the third end.
    let steps: Vec<Fetched<'_>> =
        asked.iter().zip([3, 2, 0, 3]).map(|(asked, pieces)| Fetched { to, asked, pieces }).collect();
    Team::new(2, || 0).unwrap().run(&mut planes, &steps);
    let asked = asked.map(|asked| {
        let mut asked = asked.into_inner().unwrap();
        asked.sort();
        asked
    });
    let of = |pieces: usize| [0, 4].into_iter().flat_map(|row| (0..pieces).map(move |p| (row, p))).collect();
    let expected: [Vec<(usize, usize)>; 4] = [vec![], of(2), vec![], of(3)];
    assert_eq!(asked, expected);
}

#[test]
fn an_empty_grid_is_passed_over() {
    let mut planes = Planes::default();
    let a = planes.add(Kind::F32, 2, 2).unwrap();
    let b = planes.add(Kind::F32, 2, 2).unwrap();
    let team = Team::new(2, || 0).unwrap();
    let sum = |from, to, columns| Sum { from, to, columns, width: 2, tile: (1, 1), plus: 1.0 };
    team.run(&mut planes, &[sum(a, b, 0), sum(a, b, 2), sum(b, a, 0), sum(a, b, 0)]);
    assert_eq!(
        (planes.f32(a)[..].to_vec(), planes.f32(b)[..].to_vec()),
        (vec![0.0; 4], vec![1.0, 2.0, 1.0, 2.0])
    );
    team.run(&mut planes, &[sum(a, b, 0)]);
    team.run(&mut planes, &[] as &[Sum]);
}

#[test]
fn callers_take_turns() {
    let team = Team::new(2, || 0).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut planes = Planes::default();
                let a = planes.add(Kind::F32, 5, 7).unwrap();
                let b = planes.add(Kind::F32, 5, 3).unwrap();
                let steps = [
                    Sum { from: a, to: b, columns: 5, width: 3, tile: (1, 1), plus: 1.0 },
                    Sum { from: b, to: a, columns: 5, width: 7, tile: (1, 1), plus: 1.0 },
                ];
                for _ in 0..50 {
                    planes.f32(a).fill(0.0);
                    team.run(&mut planes, &steps);
                    assert_eq!(planes.f32(a)[..2], [7.0, 8.0]);
                }
            });
        }
    });
}

#[test]
fn reading_the_output_ends_the_region_for_all() {
    for threads in [1, 3] {
        let mut planes = Planes::default();
        let a = planes.add(Kind::F32, 4, 4).unwrap();
        let team = Team::new(threads, || 0).unwrap();
        let bad = Sum { from: a, to: a, columns: 4, width: 4, tile: (1, 4), plus: 0.0 };
        let outcome =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| team.run(&mut planes, &[bad])));
        assert!(outcome.is_err());
        // The team still works.
        let b = planes.add(Kind::F32, 4, 4).unwrap();
        let good = Sum { from: a, to: b, columns: 4, width: 4, tile: (1, 4), plus: 2.0 };
        team.run(&mut planes, &[good]);
        assert_eq!(planes.f32(b)[..4], [2.0, 3.0, 4.0, 5.0]);
    }
}

#[test]
#[should_panic(expected = "a grid lies in its plane")]
fn a_grid_beyond_the_plane_is_refused() {
    let mut planes = Planes::default();
    let a = planes.add(Kind::F32, 2, 2).unwrap();
    let b = planes.add(Kind::F32, 2, 2).unwrap();
    let wide = Sum { from: a, to: b, columns: 2, width: 3, tile: (1, 1), plus: 0.0 };
    Team::new(1, || 0).unwrap().run(&mut planes, &[wide]);
}

#[test]
fn too_large_is_an_error() {
    let error = Planes::default().add(Kind::F32, usize::MAX, 2).unwrap_err();
    assert_eq!(error.bytes, None);
    assert!(Planes::default().add(Kind::F16, 1 << 40, 1 << 14).is_err());
}
