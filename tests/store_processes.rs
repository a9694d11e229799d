//! The store under several processes at once, and under ones that are killed.
//!
//! The processes are this test binary itself, called to run the one test `child` with a task in
//! its environment.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use mdl::diagnostic::Errors;
use mdl::store::{Collection, Digest, Layer, Name, Published, Store, Writer, media};

const NOW: Collection = Collection { grace: Duration::ZERO, dry_run: false };
const TASK: &str = "MDL_TEST_STORE_TASK";
const ROOT: &str = "MDL_TEST_STORE_ROOT";
const SEED: &str = "MDL_TEST_STORE_SEED";

fn spawn(store: &Store, task: &str, seed: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--nocapture", "--test-threads=1"])
        .env(TASK, task)
        .env(ROOT, store.root())
        .env(SEED, seed.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
#[ignore = "run by the other tests, as their child"]
fn child() {
    let Ok(task) = std::env::var(TASK) else { return };
    let store = Store::open(std::env::var(ROOT).unwrap()).unwrap();
    let seed = std::env::var(SEED).unwrap().parse().unwrap();
    match task.as_str() {
        "churn" => churn(&store, seed, operations()),
        "publish" => publish_for_ever(&store, seed),
        "hold" => hold(&store),
        _ => panic!("{task}"),
    }
}

/// How many operations each process and thread does: few, unless more are asked for.
fn operations() -> u64 {
    std::env::var("MDL_TEST_STORE_OPERATIONS").map_or(60, |n| n.parse().unwrap())
}

/// Marsaglia's xorshift64.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

fn publish(writer: &Writer, name: &Name, contents: &[Vec<u8>]) -> Published {
    let layer = |bytes: &Vec<u8>| {
        let mut blob = writer.blob(None).unwrap();
        for piece in bytes.chunks(10_000) {
            blob.write_all(piece).unwrap();
        }
        let blob = blob.finish().unwrap();
        Layer::new(media::MODEL, blob.digest, blob.size)
    };
    writer.publish(name, b"{}\n", contents.iter().map(layer).collect()).unwrap()
}

/// Random operations on few names and few contents, so that they meet.
fn churn(store: &Store, seed: u64, operations: u64) {
    let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ seed);
    let name = |n: u64| Name::parse(&format!("{}:t{}", ["a", "A", "n/b"][n as usize % 3], n % 2)).unwrap();
    let content = |n: u64| vec![n as u8; 1000 + n as usize];
    let code = |error: Errors| error.0[0].code;
    for _ in 0..operations {
        match random.below(8) {
            0..=2 => {
                let writer = store.writer().unwrap();
                let contents = [content(random.below(4)), content(random.below(4))];
                let published = publish(&writer, &name(random.below(6)), &contents);
                drop(writer);
                store.prune(&published.replaced).unwrap();
            }
            3 => {
                let copied = store.writer().unwrap().copy(&name(random.below(6)), &name(random.below(6)));
                if let Err(error) = copied {
                    assert_eq!(code(error), "unknown-model");
                }
            }
            4 | 5 => {
                if let Err(error) = store.remove(&name(random.below(6))) {
                    assert_eq!(code(error), "unknown-model");
                }
            }
            6 => {
                if let Err(error) = store.gc(&NOW) {
                    assert_eq!(code(error), "store-busy");
                }
            }
            _ => {
                let report = store.verify(&[], &|_| ()).unwrap();
                assert!(report.damage.is_empty(), "{:#?}", report.damage);
                assert!(store.list().unwrap().iter().all(|e| e.damage.is_empty()));
            }
        }
    }
}

/// Publishes one version of a model after the other and says so.
fn publish_for_ever(store: &Store, seed: u64) {
    let mut random = Random(seed + 1);
    let name = Name::parse("m:t").unwrap();
    for version in seed.. {
        let mut weights = version.to_le_bytes().to_vec();
        weights.resize(8 + random.below(300_000) as usize, version as u8);
        let writer = store.writer().unwrap();
        let published = publish(&writer, &name, &[weights, b"shared".to_vec()]);
        drop(writer);
        println!("\npublished {version}");
        store.prune(&published.replaced).unwrap();
    }
}

/// Begins a blob and waits to be killed.
fn hold(store: &Store) {
    let writer = store.writer().unwrap();
    let mut blob = writer.blob(None).unwrap();
    blob.write_all(&[7; 1 << 20]).unwrap();
    blob.flush().unwrap();
    println!("\nholding");
    std::thread::sleep(Duration::from_secs(60));
}

/// A store in memory where there is such a place: then the processes wait for each other rather
/// than for the disk.
fn store() -> (tempfile::TempDir, Store) {
    let memory = std::path::Path::new("/dev/shm");
    let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
    let store = Store::open(dir.path().join("models")).unwrap();
    (dir, store)
}

fn names_in(store: &Store, dir: &str) -> Vec<String> {
    let entries = fs::read_dir(store.root().join(dir)).unwrap();
    entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
}

fn assert_whole(store: &Store) {
    let report = store.verify(&[], &|_| ()).unwrap();
    assert!(report.damage.is_empty(), "{:#?}", report.damage);
}

#[test]
fn many_processes_lose_nothing() {
    let (_dir, store) = store();
    let children: Vec<Child> = (1..=4).map(|seed| spawn(&store, "churn", seed)).collect();
    // Threads of one process hold locks of their own.
    std::thread::scope(|scope| {
        for seed in 5..=6 {
            let store = &store;
            scope.spawn(move || churn(store, seed, operations()));
        }
    });
    for child in children {
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
    }
    assert_whole(&store);
    store.gc(&NOW).unwrap();
    assert_whole(&store);
    let mut needed: Vec<Digest> = store
        .list()
        .unwrap()
        .iter()
        .flat_map(|e| e.manifest.iter().flat_map(|m| m.blobs().map(|l| l.digest)))
        .collect();
    needed.sort();
    needed.dedup();
    assert_eq!(store.blobs().unwrap().iter().map(|b| b.digest).collect::<Vec<_>>(), needed);
    // No name has two spellings.
    let names: std::collections::BTreeSet<_> = store.list().unwrap().into_iter().map(|e| e.name).collect();
    assert_eq!(names.len(), store.list().unwrap().len());
}

/// Directories of names are made, and pruned, by several at once.
#[test]
fn one_name_has_one_spelling_and_its_directories_do_not_vanish() {
    let (_dir, store) = store();
    let contents = [b"weights".to_vec()];
    publish(&store.writer().unwrap(), &Name::parse("seed").unwrap(), &contents);
    let barrier = std::sync::Barrier::new(4);
    std::thread::scope(|scope| {
        for spelling in ["Name/Space:Tag", "name/space:tag", "NAME/SPACE:TAG", "nAME/sPACE:tAG"] {
            let (store, barrier, contents) = (&store, &barrier, &contents);
            scope.spawn(move || {
                let name = Name::parse(spelling).unwrap();
                for _ in 0..25 {
                    let writer = store.writer().unwrap();
                    barrier.wait();
                    publish(&writer, &name, contents);
                    drop(writer);
                    barrier.wait();
                    assert_eq!(store.list().unwrap().len(), 2);
                    barrier.wait();
                    // One of them removes it, the others find nothing.
                    if let Err(Errors(errors)) = store.remove(&name) {
                        assert_eq!(errors[0].code, "unknown-model");
                    }
                }
            });
        }
    });
}

#[test]
fn a_killed_writer_leaves_the_old_model_or_the_new() {
    let (_dir, store) = store();
    let mut random = Random(88_172_645_463_325_252);
    let mut version = 0;
    for _ in 0..12 {
        let mut child = spawn(&store, "publish", version);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // From the first publication on, at any moment.
        let first = lines.find_map(|l| l.unwrap().strip_prefix("published ").map(str::to_owned)).unwrap();
        std::thread::sleep(Duration::from_micros(random.below(60_000)));
        child.kill().unwrap();
        child.wait().unwrap();
        let said: Vec<u64> = std::iter::once(first)
            .chain(lines.filter_map(|l| l.ok()?.strip_prefix("published ").map(str::to_owned)))
            .filter_map(|n| n.parse().ok())
            .collect();
        let acknowledged = *said.last().unwrap();

        assert_whole(&store);
        let model = store.read(&Name::parse("m:t").unwrap()).unwrap();
        let weights = fs::read(store.blob_path(&model.manifest.layers[0].digest)).unwrap();
        let found = u64::from_le_bytes(weights[..8].try_into().unwrap());
        assert!(found == acknowledged || found == acknowledged + 1, "{found} after {acknowledged}");
        version = found + 1;

        // The next writer clears up the temporary files, a collection the rest.
        drop(store.writer().unwrap());
        let temporary = |n: &String| n.contains("mdl-");
        assert!(!names_in(&store, "blobs").iter().chain(&names_in(&store, "manifests")).any(temporary));
        store.gc(&NOW).unwrap();
        assert_eq!(names_in(&store, "blobs").len(), 3);
        assert_whole(&store);
    }
    assert!(version > 12);
}

#[test]
fn a_temporary_file_stays_while_its_writer_lives() {
    let (_dir, store) = store();
    let mut child = spawn(&store, "hold", 0);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|l| l.unwrap() == "holding"));
    drop(store.writer().unwrap());
    assert!(store.gc(&NOW).is_err());
    assert_eq!(names_in(&store, "blobs").len(), 1);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(names_in(&store, "blobs").len(), 1);
    let collected = store.gc(&Collection::default()).unwrap();
    assert_eq!((collected.temporary, collected.bytes), (1, 1 << 20));
    assert!(names_in(&store, "blobs").is_empty());
}
