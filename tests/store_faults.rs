//! The store when the system refuses a call, or kills the process at it.
//!
//! `strace` injects the faults into this test binary, called to run the one test `child`: first a
//! run without any tells which calls on the store there are, then each is made to fail in a run of
//! its own. By default only some are, for time's sake; `MDL_TEST_STORE_ALL_FAULTS=1` tries all.
#![allow(clippy::unwrap_used)]
#![cfg(target_os = "linux")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use mdl::diagnostic::Result;
use mdl::store::{Collection, Digest, Layer, Name, Published, Store, Writer, media};

const TASK: &str = "MDL_TEST_STORE_TASK";
const ROOT: &str = "MDL_TEST_STORE_ROOT";
const CALLS: &str =
    "openat,write,fsync,rename,renameat,renameat2,mkdir,flock,unlink,unlinkat,rmdir,fchmod,getdents64,statx";

#[test]
#[ignore = "run by the other tests, as their child"]
fn child() {
    let Ok(task) = std::env::var(TASK) else { return };
    // Calls are counted by thread. So many come first that the test harness's own thread does not
    // get to the one that is to fail.
    for _ in 0..64 {
        let mut null = fs::File::options().read(true).write(true).open("/dev/null").unwrap();
        null.write_all(b"x").unwrap();
        null.metadata().unwrap();
    }
    match Store::open(std::env::var(ROOT).unwrap()).and_then(|store| perform(&store, &task)) {
        Ok(()) => println!("\ndone"),
        Err(e) => println!("\nrefused with {}: {e}", e.exit_code()),
    }
}

fn perform(store: &Store, task: &str) -> Result<()> {
    match task {
        "publish" => {
            let writer = store.writer()?;
            let mut layers = Vec::new();
            for bytes in [b"new".as_slice(), b"shared"] {
                let blob = writer.put(bytes)?;
                layers.push(Layer::new(media::MODEL, blob.digest, blob.size));
            }
            writer.publish(&name("n/m:t"), b"{}\n", layers).map(drop)
        }
        "remove" => store.remove(&name("n/m:t")).map(drop),
        "copy" => store.writer()?.copy(&name("n/m:t"), &name("h/n/m:u")).map(drop),
        "gc" => store.gc(&NOW).map(drop),
        _ => panic!("{task}"),
    }
}

const NOW: Collection = Collection { grace: Duration::ZERO, dry_run: false };

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn publish(writer: &Writer, as_name: &str, contents: &[&[u8]]) -> Published {
    let layer = |bytes: &&[u8]| {
        let blob = writer.put(bytes).unwrap();
        Layer::new(media::MODEL, blob.digest, blob.size)
    };
    writer.publish(&name(as_name), b"{}\n", contents.iter().map(layer).collect()).unwrap()
}

/// A store with two models, garbage and a dead temporary file; and the first model's identity.
fn prepare(root: &Path) -> (Store, Digest) {
    let _ = fs::remove_dir_all(root);
    let store = Store::open(root).unwrap();
    let writer = store.writer().unwrap();
    let old = publish(&writer, "n/m:t", &[b"old", b"shared"]);
    publish(&writer, "other", &[b"of the other", b"shared"]);
    writer.put(b"garbage").unwrap();
    fs::write(root.join("blobs/sha256-mdl-0123456789abcdef"), "left by the dead").unwrap();
    (store, old.id)
}

/// Runs the task under `strace`.
fn run(root: &Path, task: &str, arguments: &[String]) -> Output {
    Command::new("strace")
        .args(["-f", "-y", "-qq"])
        .args(arguments)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--nocapture", "--test-threads=1"])
        .env(TASK, task)
        .env(ROOT, root)
        .output()
        .unwrap()
}

/// The calls on the store that the task makes: their names, and which of their kind each is within
/// its thread.
fn calls(root: &Path, task: &str, log: &Path) -> BTreeSet<(String, usize)> {
    prepare(root);
    let output =
        run(root, task, &["-e".into(), format!("trace={CALLS}"), "-o".into(), log.display().to_string()]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("\ndone"), "{output:?}");
    let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
    let mut calls = BTreeSet::new();
    for line in fs::read_to_string(log).unwrap().lines() {
        let Some((thread, call)) = line.split_once(' ') else { continue };
        let Some((call, arguments)) = call.trim_start().split_once('(') else { continue };
        let count = counts.entry((thread.to_owned(), call.to_owned())).or_default();
        *count += 1;
        if arguments.contains(root.to_str().unwrap()) {
            calls.insert((call.to_owned(), *count));
        }
    }
    calls
}

#[test]
fn no_refused_call_and_no_kill_damages_a_store() {
    let memory = Path::new("/dev/shm");
    let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
    let works = Command::new("strace").args(["-qq", "-o", "/dev/null", "true"]).status();
    if !works.is_ok_and(|s| s.success()) {
        eprintln!("skipped: strace does not work here");
        return;
    }
    let all = std::env::var_os("MDL_TEST_STORE_ALL_FAULTS").is_some();
    let (root, log) = (dir.path().join("models"), dir.path().join("log"));
    let mut tried = 0;
    for (task, faults) in [
        ("publish", ["error=EIO", "error=ENOSPC", "signal=SIGKILL"]),
        ("remove", ["error=EIO", "error=EMFILE", "signal=SIGKILL"]),
        ("copy", ["error=EIO", "error=EDQUOT", "signal=SIGKILL"]),
        ("gc", ["error=EIO", "error=EACCES", "signal=SIGKILL"]),
    ] {
        let points = calls(&root, task, &log);
        assert!(points.len() > 10, "{points:?}");
        for (i, (call, nth)) in points.iter().enumerate() {
            for (j, fault) in faults.iter().enumerate() {
                // A different one of the calls each, so that in the end each kind meets each fault.
                if all || (i + j * 5) % 16 == 0 {
                    tried += 1;
                    try_fault(&root, task, call, *nth, fault);
                }
            }
        }
    }
    assert!(tried > 20, "{tried}");
    println!("{tried} faults");
}

fn try_fault(root: &Path, task: &str, call: &str, nth: usize, fault: &str) {
    let (store, old) = prepare(root);
    let output = run(
        root,
        task,
        &["-e".into(), format!("inject={call}:{fault}:when={nth}"), "-o".into(), "/dev/null".into()],
    );
    let said = String::from_utf8_lossy(&output.stdout);
    let context =
        format!("{task} with {fault} at {call} {nth}\n{said}{}", String::from_utf8_lossy(&output.stderr));
    let killed = fault.starts_with("signal");

    let report = store.verify(&[], &|_| ()).unwrap();
    assert!(report.damage.is_empty(), "{context}\n{:#?}", report.damage);
    let model = store.find(&name("n/m:t")).unwrap().map(|m| m.id);
    let copy = store.find(&name("h/n/m:u")).unwrap().map(|m| m.id);
    assert!(store.find(&name("other")).unwrap().is_some(), "{context}");
    let changed = match task {
        "publish" => model.is_some_and(|m| m != old),
        "remove" => model.is_none(),
        "copy" => copy.is_some(),
        _ => false,
    };
    assert!(task == "remove" || model.is_some(), "{context}");
    if said.contains("\ndone") {
        assert!(changed || task == "gc", "{context}");
    } else if let Some((_, error)) = said.split_once("\nrefused with ") {
        assert!(!changed, "{context}");
        assert!(error.starts_with("3: ") && error.contains(root.to_str().unwrap()), "{context}");
    } else {
        assert!(killed && !output.status.success(), "{context}");
    }

    // What is left over goes; nothing that is needed does; all works again.
    store.gc(&NOW).unwrap();
    let blobs = fs::read_dir(root.join("blobs")).unwrap().map(|e| e.unwrap().file_name());
    let loose: Vec<_> = blobs.filter(|b| b.to_str().is_none_or(|b| b.parse::<Digest>().is_err())).collect();
    assert!(loose.is_empty(), "{context}\n{loose:?}");
    assert!(store.verify(&[], &|_| ()).unwrap().damage.is_empty(), "{context}");
    assert!(store.find_blob(&Digest::of(b"garbage")).unwrap().is_none(), "{context}");
    publish(&store.writer().unwrap(), "n/m:t", &[b"new", b"shared"]);
}
