//! Downloads by several processes at once, and by ones that are killed.
//!
//! The processes are this test binary itself, called to run the one test `child`.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mdl::registry::{Client, block_on};
use mdl::store::{Digest, Name, Store};

use crate::double::Server;
use crate::{Heard, Place, noise, shelf};

const ROOT: &str = "MDL_TEST_REGISTRY_STORE";
const NAME: &str = "MDL_TEST_REGISTRY_NAME";
const TASKS: &str = "MDL_TEST_REGISTRY_TASKS";

fn spawn(place: &Place, name: &str, tasks: usize) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "processes::child", "--ignored", "--nocapture", "--test-threads=1"])
        .env(ROOT, place.store.root())
        .env(NAME, name)
        .env(TASKS, tasks.to_string())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
#[ignore = "run by the other tests, as their child"]
fn child() {
    let Ok(root) = std::env::var(ROOT) else { return };
    let store = Store::open(root).unwrap();
    let name = Name::parse(&std::env::var(NAME).unwrap()).unwrap();
    let tasks: usize = std::env::var(TASKS).unwrap().parse().unwrap();
    let client = Client::new(Place::new().options()).unwrap();
    let pulls = (0..tasks).map(|_| async { client.pull(&store, &name, &Heard::default()).await });
    block_on(futures_util::future::try_join_all(pulls)).unwrap();
}

#[test]
fn two_processes_of_many_tasks_download_once() {
    let (registry, digest) = shelf(&noise(2_000_000, 21));
    let server = Server::start(move |request| {
        if request.range().is_some() {
            std::thread::sleep(Duration::from_millis(30));
        }
        registry.answer(request)
    });
    let place = Place::new();
    let name = format!("{}/me/story", server.host());
    let children = [spawn(&place, &name, 16), spawn(&place, &name, 16)];
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let stored = place.store.read(&Name::parse(&name).unwrap()).unwrap();
    assert_eq!(stored.id, digest);
    assert!(place.store.verify(&[], &|_| {}).unwrap().damage.is_empty());
    let asked =
        server.log().into_iter().filter(|r| r.is("GET", "/blobs/")).map(|r| (r.path.clone(), r.range()));
    let asked: Vec<_> = asked.collect();
    let distinct: std::collections::HashSet<_> = asked.iter().collect();
    assert_eq!(asked.len(), distinct.len(), "no byte twice");
}

/// Bytes of each part that the record says the disk has.
fn recorded(place: &Place, digest: &Digest) -> Vec<u64> {
    let path = place.store.root().join("mdl").join(format!("{}.partial", digest.hex()));
    let record: Option<serde_json::Value> =
        std::fs::read(path).ok().and_then(|b| serde_json::from_slice(&b).ok());
    let done = record.and_then(|r| Some(r["done"].as_array()?.iter().map(|n| n.as_u64().unwrap()).collect()));
    done.unwrap_or_default()
}

#[test]
fn a_killed_download_goes_on_and_no_verified_byte_comes_twice() {
    let weights = noise(3_000_000, 22);
    let blob = Digest::of(&weights);
    let (registry, digest) = shelf(&weights);
    // 8 KiB now and then on each connection, while it is slow.
    let slow = Arc::new(AtomicBool::new(true));
    let server_slow = slow.clone();
    let server = Server::start(move |request| {
        let mut reply = registry.answer(request);
        if let Some((from, to)) = request.range().filter(|_| server_slow.load(Ordering::Relaxed)) {
            let body = std::mem::take(&mut reply.body);
            reply.headers.push(("Content-Length".to_owned(), (to - from + 1).to_string()));
            reply.stream = Some(Box::new(move |out| {
                body.chunks(1 << 13).try_for_each(|piece| {
                    std::thread::sleep(Duration::from_millis(250));
                    out.write_all(piece)?;
                    out.flush()
                })
            }));
        }
        reply
    });
    let place = Place::new();
    let name = format!("{}/me/story", server.host());
    let part = 3_000_000 / 16;
    let mut kept = Vec::new();
    for kill in 0..3 {
        let before = server.log().len();
        let start = Instant::now();
        let mut child = spawn(&place, &name, 1);
        let held: u64 = kept.iter().sum();
        // Until the disk surely has more than before.
        while recorded(&place, &blob).iter().sum::<u64>() < held + 100_000
            && child.try_wait().unwrap().is_none()
        {
            assert!(start.elapsed() < Duration::from_secs(60), "{kill}: nothing is recorded");
            std::thread::sleep(Duration::from_millis(2));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What was recorded before was not asked for again.
        for request in &server.log()[before..] {
            let Some((from, _)) = request.range() else { continue };
            let i = (from / part) as usize;
            assert!(
                from - i as u64 * part >= kept.get(i).copied().unwrap_or(0),
                "{kill}: {from} came twice: {kept:?}"
            );
        }
        kept = recorded(&place, &blob);
        assert!(place.store.list().unwrap().is_empty());
    }
    assert!(kept.iter().sum::<u64>() > 0);
    slow.store(false, Ordering::Relaxed);
    let before = server.log().len();
    assert_eq!(place.pull(&name).unwrap().id, digest);
    for request in &server.log()[before..] {
        let Some((from, _)) = request.range() else { continue };
        let i = (from / part) as usize;
        assert!(from - i as u64 * part >= kept[i], "{from} came twice: {kept:?}");
    }
    assert!(place.store.verify(&[], &|_| {}).unwrap().damage.is_empty());
}

/// A partial file whose recorded bytes were damaged is dropped once, and the download is right in the end.
#[test]
fn a_damaged_partial_file_is_dropped_once() {
    let weights = noise(300_000, 23);
    let blob = Digest::of(&weights);
    let (registry, digest) = shelf(&weights);
    let server = registry.serve();
    let place = Place::new();
    let writer = place.store.writer().unwrap();
    let partial = writer.partial(&blob, 300_000, 65_536).unwrap().unwrap();
    partial.write_at(0, &vec![7; 65_536]).unwrap();
    partial.record(&[65_536, 0, 0, 0, 0]).unwrap();
    drop((partial, writer));
    let pulled = place.pull(&format!("{}/me/story", server.host())).unwrap();
    assert_eq!(pulled.id, digest);
    let first = server.log().into_iter().filter(|r| r.range().is_some_and(|(from, _)| from == 0)).count();
    assert_eq!(first, 1, "the damaged part was asked for once, after the digest was wrong");
}
