//! The store, as a caller sees it: what is written is read, what is damaged is told, what is
//! needed stays.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use mdl::diagnostic::{Diagnostic, Errors, Severity};
use mdl::store::{Collection, ConfigV2, Digest, Layer, Manifest, Name, Published, Store, Writer, media};

const NOW: Collection = Collection { grace: Duration::ZERO, dry_run: false };

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("models")).unwrap();
    (dir, store)
}

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

/// A model of two layers.
fn publish(writer: &Writer, as_name: &str, weights: &[u8], system: &[u8]) -> Published {
    let layers = [(media::MODEL, weights), (media::SYSTEM, system)].map(|(media, bytes)| {
        let blob = writer.put(bytes).unwrap();
        Layer::new(media, blob.digest, blob.size)
    });
    let config = ConfigV2 { model_family: "llama".into(), ..ConfigV2::default() };
    writer.publish(&name(as_name), &config.to_bytes().unwrap(), layers.to_vec()).unwrap()
}

/// Every file below `dir` but our own, by its path.
fn files(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(next) = dirs.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                found.push(path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found.retain(|f| !f.starts_with("mdl/"));
    found.sort();
    found
}

fn manifest_of(store: &Store, model: &str) -> PathBuf {
    store.read(&name(model)).unwrap().path
}

fn blob_of(store: &Store, model: &str, media_type: &str) -> PathBuf {
    store.blob_path(&store.read(&name(model)).unwrap().manifest.layer(media_type).unwrap().digest)
}

/// What a person is told, without what differs from run to run.
fn told(store: &Store, diagnostics: &[Diagnostic]) -> String {
    let mut lines = Vec::new();
    for d in diagnostics {
        lines.push(format!("{:?} [{}] {d}", d.severity, d.code));
        lines.extend(d.help.iter().map(|h| format!("    help: {h}")));
    }
    lines.join("\n").replace(&store.root().display().to_string(), "<store>")
}

fn snapshot(name: &str, text: String) {
    insta::with_settings!({
        snapshot_path => concat!(env!("CARGO_MANIFEST_DIR"), "/snapshots"),
        prepend_module_to_snapshot => false,
    }, { insta::assert_snapshot!(name, text) });
}

#[test]
fn a_store_that_is_not_there_is_empty() {
    let (_dir, store) = store();
    assert!(store.list().unwrap().is_empty());
    assert!(store.find(&name("m")).unwrap().is_none());
    assert!(store.find_blob(&Digest::of(b"")).unwrap().is_none());
    assert_eq!(store.gc(&NOW).unwrap(), Default::default());
    assert_eq!(store.verify(&[], &|_| ()).unwrap(), Default::default());
    assert!(store.remove(&name("m")).is_err());
    assert!(!store.root().exists(), "reading made a store");
}

#[test]
fn a_model_is_read_as_it_was_written() {
    let (_dir, store) = store();
    let published = publish(&store.writer().unwrap(), "me/m:t", b"weights", b"be kind");
    let stored = store.read(&name("me/m:t")).unwrap();
    assert_eq!(published.id, stored.id);
    assert_eq!(Digest::of(&fs::read(&stored.path).unwrap()), stored.id);
    assert_eq!(stored.path, store.root().join("manifests/registry.ollama.ai/me/m/t"));
    assert_eq!(store.config(&stored).unwrap().model_family, "llama");
    let system = stored.manifest.layer(media::SYSTEM).unwrap();
    assert_eq!(store.read_layer(&stored.name, system, 100).unwrap(), b"be kind");
    assert!(store.read_layer(&stored.name, system, 6).is_err());
    let weights = store.open_layer(&stored.name, stored.manifest.layer(media::MODEL).unwrap()).unwrap();
    assert_eq!(weights.len(), 7);

    let [entry] = store.list().unwrap().try_into().unwrap();
    assert_eq!(
        (entry.name.clone(), entry.id, entry.size),
        (stored.name.clone(), Some(stored.id), stored.manifest.size())
    );
    assert!(entry.damage.is_empty());
    assert_eq!(files(store.root()).len(), 4);
    assert!(store.verify(&[], &|_| ()).unwrap().damage.is_empty());
}

#[cfg(unix)]
#[test]
fn other_users_may_read_it() {
    use std::os::unix::fs::PermissionsExt;
    let (_dir, store) = store();
    publish(&store.writer().unwrap(), "m", b"weights", b"system");
    for file in files(store.root()) {
        assert_eq!(
            fs::metadata(store.root().join(&file)).unwrap().permissions().mode() & 0o777,
            0o644,
            "{file}"
        );
    }
}

/// As Ollama leaves it: older configurations, blobs with a colon in their names, files of its own.
#[cfg(unix)]
#[test]
fn an_ollama_store_is_read() {
    let (_dir, store) = store();
    let root = store.root();
    fs::create_dir_all(root.join("blobs")).unwrap();
    let put = |bytes: &[u8], separator: char| {
        let digest = Digest::of(bytes);
        fs::write(root.join(format!("blobs/sha256{separator}{}", digest.hex())), bytes).unwrap();
        (digest, bytes.len())
    };
    let config = put(include_bytes!("../testdata/store/config-rootfs.json"), '-');
    let weights = put(b"weights", ':');
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","config":{{"mediaType":"{}","size":{},"digest":"{}"}},"layers":[{{"mediaType":"{}","digest":"sha256:{}","size":7}}]}}"#,
        media::MANIFEST,
        media::CONFIG,
        config.1,
        config.0,
        media::MODEL,
        weights.0.hex(),
    );
    let place = root.join("manifests/registry.ollama.ai/library/llama2");
    fs::create_dir_all(&place).unwrap();
    fs::write(place.join("7b"), &manifest).unwrap();
    let foreign = [
        "blobs/sha256-123456789".to_owned(),
        format!("blobs/{}-partial", Digest::of(b"p").file_name()),
        format!("blobs/{}-partial-0", Digest::of(b"p").file_name()),
    ];
    for file in &foreign {
        fs::write(root.join(file), "x").unwrap();
    }

    let stored = store.read(&name("llama2:7b")).unwrap();
    assert_eq!(stored.id, Digest::of(manifest.as_bytes()));
    assert_eq!(store.config(&stored).unwrap().model_family, "llama");
    assert_eq!(
        store.open_layer(&stored.name, stored.manifest.layer(media::MODEL).unwrap()).unwrap().len(),
        7
    );
    assert!(store.verify(&[], &|_| ()).unwrap().damage.is_empty());
    assert!(store.gc(&NOW).unwrap().blobs.is_empty());

    // A copy keeps the bytes, and so the identity.
    let copy = store.writer().unwrap().copy(&name("llama2:7b"), &name("mine")).unwrap();
    assert_eq!(copy.id, stored.id);
    assert!(store.remove(&name("llama2:7b")).unwrap().collected.blobs.is_empty());
    let removed = store.remove(&name("mine")).unwrap().collected;
    assert_eq!((removed.blobs.len(), removed.warnings.len()), (2, 0));
    store.gc(&NOW).unwrap();
    for file in &foreign {
        assert!(root.join(file).exists(), "{file} is not ours to remove");
    }
}

#[test]
fn an_equal_blob_is_kept_once() {
    let (_dir, store) = store();
    let writer = store.writer().unwrap();
    let first = writer.put(b"bytes").unwrap();
    fs::File::options().append(true).open(&first.path).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
    let mut second = writer.blob(None).unwrap();
    second.write_all(b"by").unwrap();
    second.write_all(b"tes").unwrap();
    assert_eq!(second.written(), 5);
    let second = second.finish().unwrap();
    assert_eq!((second.digest, second.modified), (first.digest, SystemTime::UNIX_EPOCH));
    // One that was cut is mended.
    fs::write(&first.path, b"byt").unwrap();
    writer.put(b"bytes").unwrap();
    assert_eq!(fs::read(&first.path).unwrap(), b"bytes");
    assert_eq!(files(store.root()).len(), 1);
    // One that is not finished leaves nothing.
    let mut dropped = writer.blob(None).unwrap();
    dropped.write_all(&vec![1; 300_000]).unwrap();
    assert_eq!(files(store.root()).len(), 2);
    drop(dropped);
    assert_eq!(files(store.root()).len(), 1);
}

#[test]
fn a_name_keeps_its_first_spelling() {
    let (_dir, store) = store();
    let writer = store.writer().unwrap();
    publish(&writer, "Me/Llama:8B", b"1", b"a");
    let second = publish(&writer, "me/llama:8b", b"2", b"a");
    assert_eq!(second.name.full(), "registry.ollama.ai/Me/Llama:8B");
    assert_eq!(second.replaced, [Digest::of(b"1")]);
    assert_eq!(store.list().unwrap().len(), 1);
    assert_eq!(store.read(&name("ME/LLAMA:8b")).unwrap().id, second.id);
    assert_eq!(publish(&writer, "ME/llama:70b", b"3", b"a").name.full(), "registry.ollama.ai/Me/Llama:70b");
    drop(writer);
    let pruned = store.prune(&second.replaced).unwrap();
    assert_eq!(pruned.blobs.iter().map(|b| b.digest).collect::<Vec<_>>(), second.replaced);
    let removed = store.remove(&name("mE/lLAMA:8b")).unwrap();
    assert_eq!(removed.name.full(), "registry.ollama.ai/Me/Llama:8B");
    assert!(store.find(&name("Me/Llama:8B")).unwrap().is_none());
    assert!(store.find(&name("Me/Llama:70b")).unwrap().is_some());
}

#[test]
fn removing_a_model_keeps_what_others_need() {
    let (_dir, store) = store();
    let writer = store.writer().unwrap();
    publish(&writer, "a", b"shared", b"of a");
    publish(&writer, "b", b"shared", b"of b");
    publish(&writer, "n/c", b"alone", b"of c");
    drop(writer);
    let removed = store.remove(&name("a")).unwrap().collected;
    assert_eq!(removed.blobs.iter().map(|b| b.digest).collect::<Vec<_>>(), [Digest::of(b"of a")]);
    assert_eq!(removed.bytes, 4);
    assert!(!store.root().join("manifests/registry.ollama.ai/library/a").exists());
    assert!(store.root().join("manifests/registry.ollama.ai/library/b").exists());
    assert!(store.verify(&[], &|_| ()).unwrap().damage.is_empty());
    assert_eq!(store.remove(&name("b")).unwrap().collected.blobs.len(), 2);
    store.remove(&name("n/c")).unwrap();
    assert!(files(store.root()).is_empty());
    assert!(!store.root().join("manifests/registry.ollama.ai").exists());
    assert!(store.root().join("manifests").exists());
}

#[test]
fn a_build_holds_back_collection() {
    let (_dir, store) = store();
    let writer = store.writer().unwrap();
    publish(&writer, "m", b"old", b"s");
    let unpublished = writer.put(b"not yet in a manifest").unwrap();
    let Errors(errors) = store.gc(&NOW).unwrap_err();
    assert_eq!((errors[0].code, Errors(errors.clone()).exit_code()), ("store-busy", 3));
    let removed = store.remove(&name("m")).unwrap().collected;
    assert!(removed.blobs.is_empty());
    assert_eq!((removed.warnings[0].code, removed.warnings[0].severity), ("store-busy", Severity::Note));
    assert!(unpublished.path.exists());
    drop(writer);
    // Young blobs stay, unless asked for.
    assert!(store.gc(&Collection::default()).unwrap().blobs.is_empty());
    assert_eq!(store.gc(&Collection { dry_run: true, ..NOW }).unwrap().blobs.len(), 4);
    assert_eq!(store.gc(&NOW).unwrap().blobs.len(), 4);
    assert!(files(store.root()).is_empty());
}

#[test]
fn only_old_and_unneeded_blobs_are_collected() {
    let (_dir, store) = store();
    let writer = store.writer().unwrap();
    publish(&writer, "m", b"needed", b"s");
    let (old, young, future) =
        (writer.put(b"old").unwrap(), writer.put(b"young").unwrap(), writer.put(b"f").unwrap());
    drop(writer);
    let age =
        |path: &Path, time| fs::File::options().append(true).open(path).unwrap().set_modified(time).unwrap();
    age(&old.path, SystemTime::now() - Duration::from_secs(3700));
    age(&young.path, SystemTime::now() - Duration::from_secs(3500));
    age(&future.path, SystemTime::now() + Duration::from_secs(1_000_000));
    age(&store.blob_path(&Digest::of(b"needed")), SystemTime::UNIX_EPOCH);
    for foreign in ["sha256-dead", "notes.txt", &Digest::of(b"u").file_name().to_uppercase()] {
        let path = store.root().join("blobs").join(foreign);
        fs::write(&path, "x").unwrap();
        age(&path, SystemTime::UNIX_EPOCH);
    }
    fs::create_dir(store.blob_path(&Digest::of(b"a directory"))).unwrap();
    let dead = store.root().join("blobs/sha256-mdl-0123456789abcdef");
    fs::write(&dead, "12345").unwrap();
    let collected = store.gc(&Collection::default()).unwrap();
    assert_eq!(collected.blobs.iter().map(|b| b.digest).collect::<Vec<_>>(), [old.digest]);
    assert_eq!((collected.temporary, collected.bytes, dead.exists()), (1, 8, false));
    assert!(young.path.exists() && future.path.exists());
    assert_eq!(fs::read_dir(store.root().join("blobs")).unwrap().count(), 5 + 4);
}

#[cfg(unix)]
#[test]
fn a_blob_that_is_a_link_is_read_and_never_removed() {
    let (dir, store) = store();
    publish(&store.writer().unwrap(), "m", b"weights", b"s");
    let blob = blob_of(&store, "m", media::MODEL);
    let elsewhere = dir.path().join("elsewhere");
    fs::rename(&blob, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &blob).unwrap();
    let report = store.verify(&[], &|_| ()).unwrap();
    assert_eq!((report.damage.len(), report.blobs), (0, 3));
    store.remove(&name("m")).unwrap();
    store.gc(&NOW).unwrap();
    assert!(blob.exists() && elsewhere.exists());
}

#[test]
fn nothing_is_collected_while_a_manifest_cannot_be_read() {
    let (_dir, store) = store();
    let writer = store.writer().unwrap();
    publish(&writer, "good", b"good", b"s");
    publish(&writer, "bad", b"bad", b"s");
    let garbage = writer.put(b"garbage").unwrap();
    drop(writer);
    let bad = manifest_of(&store, "bad");
    let whole = fs::read(&bad).unwrap();
    fs::write(&bad, &whole[..whole.len() / 2]).unwrap();
    let collected = store.gc(&NOW).unwrap();
    assert!(collected.blobs.is_empty() && garbage.path.exists());
    snapshot("store_gc_unsure", told(&store, &collected.warnings));
    let removed = store.remove(&name("good")).unwrap().collected;
    assert!(removed.blobs.is_empty() && removed.warnings.len() == 1);

    // A manifest whose place spells no name still counts for its blobs.
    fs::write(&bad, &whole).unwrap();
    let strange = bad.with_file_name("no such tag");
    fs::rename(&bad, &strange).unwrap();
    assert_eq!(store.gc(&NOW).unwrap().blobs.len(), 2);
    assert!(store.blob_path(&Digest::of(b"bad")).exists());
    // Hidden files are never manifests.
    fs::write(store.root().join("manifests/.DS_Store"), "x").unwrap();
    fs::remove_file(&strange).unwrap();
    assert_eq!(store.gc(&NOW).unwrap().blobs.len(), 3);

    // A disk that is not mounted has no manifests either.
    let kept = store.writer().unwrap().put(b"kept").unwrap();
    fs::remove_file(store.root().join("manifests/.DS_Store")).unwrap();
    fs::remove_dir_all(store.root().join("manifests")).unwrap();
    std::fs::write(store.root().join("manifests"), "").unwrap();
    assert!(store.gc(&NOW).is_err());
    assert!(kept.path.exists());
}

#[test]
fn verify_names_each_damage() {
    let (_dir, store) = store();
    let writer = store.writer().unwrap();
    for (model, weights) in
        [("flipped", "weights A"), ("zeroed", "weights B"), ("cut", "weights C"), ("gone", "D")]
    {
        publish(&writer, model, weights.as_bytes(), b"the same system");
    }
    publish(&writer, "torn", b"E", b"the same system");
    publish(&writer, "sound", b"F", b"the same system");
    publish(&writer, "also/flipped", b"weights A", b"the same system");
    let loose = writer.put(b"loose").unwrap();
    drop(writer);
    fs::write(blob_of(&store, "flipped", media::MODEL), b"weights a").unwrap();
    fs::write(blob_of(&store, "zeroed", media::MODEL), [0; 9]).unwrap();
    fs::write(blob_of(&store, "cut", media::MODEL), b"weights").unwrap();
    fs::remove_file(blob_of(&store, "gone", media::MODEL)).unwrap();
    fs::write(&loose.path, b"LOOSE").unwrap();
    let torn = manifest_of(&store, "torn");
    fs::write(&torn, &fs::read(&torn).unwrap()[..99]).unwrap();
    fs::write(torn.with_file_name("wrong name"), "x").unwrap();

    let progress = std::sync::Mutex::new(Vec::new());
    let report = store.verify(&[], &|p| progress.lock().unwrap().push((p.done, p.total))).unwrap();
    let mut lines: Vec<String> =
        report.damage.iter().map(|d| told(&store, std::slice::from_ref(d))).collect();
    lines.sort();
    snapshot("store_verify_damage", lines.join("\n"));
    assert_eq!((report.models, report.damaged.len()), (6, 4));
    let last = progress.into_inner().unwrap().into_iter().max().unwrap();
    assert_eq!(last, (report.bytes, report.bytes));

    assert!(store.verify(&[name("sound")], &|_| ()).unwrap().damage.is_empty());
    assert_eq!(store.verify(&[name("flipped")], &|_| ()).unwrap().damage.len(), 1);
    assert_eq!(store.verify(&[name("cut")], &|_| ()).unwrap().damage.len(), 1);
    assert!(store.verify(&[name("absent")], &|_| ()).is_err());

    // The list marks what a look at the directories tells.
    let marked: Vec<String> = store
        .list()
        .unwrap()
        .into_iter()
        .filter(|e| !e.damage.is_empty())
        .map(|e| format!("{} {}", e.name, e.damage[0].code))
        .collect();
    assert_eq!(marked.len(), 3, "{marked:?}");
    for wanted in ["cut:latest blob-size", "gone:latest missing-blob", "torn:latest invalid-manifest"] {
        assert!(marked.iter().any(|m| m == wanted), "{marked:?}");
    }
    let cut = store.read(&name("cut")).unwrap();
    let refused =
        store.open_layer(&cut.name, cut.manifest.layer(media::MODEL).unwrap()).err().unwrap().to_string();
    assert!(refused.contains("cut:latest") && refused.contains("sha256:"), "{refused}");

    // Discarded, built again: whole.
    assert!(!store.discard(&Digest::of(b"the same system")).unwrap());
    for digest in &report.damaged {
        assert!(store.discard(digest).unwrap());
        assert!(!store.discard(digest).unwrap());
    }
    let writer = store.writer().unwrap();
    for (model, weights) in
        [("flipped", "weights A"), ("zeroed", "weights B"), ("cut", "weights C"), ("gone", "D")]
    {
        publish(&writer, model, weights.as_bytes(), b"the same system");
    }
    publish(&writer, "torn", b"E", b"the same system");
    drop(writer);
    fs::remove_file(torn.with_file_name("wrong name")).unwrap();
    assert!(store.verify(&[], &|_| ()).unwrap().damage.is_empty());
    assert!(store.list().unwrap().iter().all(|e| e.damage.is_empty()));
}

#[test]
fn a_model_is_not_published_without_its_blobs() {
    let (_dir, store) = store();
    let writer = store.writer().unwrap();
    let before = publish(&writer, "m", b"old", b"s");
    let blob = writer.put(b"new").unwrap();
    let snapshot_before = files(store.root());
    for layer in [
        Layer::new(media::MODEL, Digest::of(b"absent"), 6),
        Layer::new(media::MODEL, blob.digest, 4),
        Layer::new(media::MODEL, blob.digest, 0),
    ] {
        let config = ConfigV2 { model_family: "llama".into(), ..ConfigV2::default() };
        assert!(writer.publish(&name("m"), &config.to_bytes().unwrap(), vec![layer.clone()]).is_err());
        assert!(writer.publish(&name("other"), &config.to_bytes().unwrap(), vec![layer]).is_err());
    }
    assert!(writer.publish_manifest(&name("m"), b"{}").is_err());
    assert!(writer.copy(&name("absent"), &name("m")).is_err());
    assert_eq!(files(store.root()), snapshot_before);
    assert_eq!(store.read(&name("m")).unwrap().id, before.id);
    assert_eq!(store.list().unwrap().len(), 1);
}

#[test]
fn a_failed_step_leaves_the_store_as_it_was() {
    let (_dir, store) = store();
    let writer = store.writer().unwrap();
    publish(&writer, "m:t", b"weights", b"s");
    let stored = store.read(&name("m:t")).unwrap();
    // A directory stands where the tag goes; a file where a directory goes; one where a blob goes.
    let manifests = store.root().join("manifests/registry.ollama.ai");
    fs::create_dir_all(manifests.join("library/m/dir/x")).unwrap();
    fs::write(manifests.join("file"), "").unwrap();
    fs::create_dir_all(store.blob_path(&Digest::of(b"taken")).join("x")).unwrap();
    let before = files(store.root());
    for bad in ["m:dir", "file/m:t"] {
        let Errors(errors) = writer.publish_manifest(&name(bad), &stored.bytes).unwrap_err();
        assert_eq!(Errors(errors).exit_code(), 3);
    }
    assert!(writer.put(b"taken").is_err());
    assert_eq!(files(store.root()), before);
    drop(writer);
    let blocked = Store::open(store.root().join("blobs/sub")).unwrap();
    fs::write(blocked.root(), "").unwrap();
    assert!(Store::open(blocked.root()).is_err());
    assert_eq!(blocked.writer().unwrap_err().exit_code(), 3);
}

#[test]
fn hostile_manifests_on_disk_are_told_by_their_path() {
    let (_dir, store) = store();
    publish(&store.writer().unwrap(), "m", b"weights", b"s");
    let path = manifest_of(&store, "m");
    let good = String::from_utf8(fs::read(&path).unwrap()).unwrap();
    let digest = Digest::of(b"weights").to_string();
    let mut texts = Vec::new();
    for bad in [
        good.replace(&digest, "sha256:../../../../etc/passwd"),
        good.replace("\"size\":7", "\"size\":-7"),
        good.replace("\"size\":7", "\"size\":1e99"),
        good.replace("\"layers\":[", "\"layers\":[[[["),
        good[..100].to_owned(),
        String::new(),
        "x".repeat(5 << 20),
    ] {
        assert_ne!(bad, good);
        fs::write(&path, bad).unwrap();
        let Errors(errors) = store.read(&name("m")).unwrap_err();
        texts.push(told(&store, &errors));
    }
    snapshot("store_invalid_manifests", texts.join("\n"));
    // It can still be removed.
    store.remove(&name("m")).unwrap();
    assert!(store.list().unwrap().is_empty());
}

#[cfg(unix)]
#[test]
fn a_pipe_is_no_manifest() {
    let (_dir, store) = store();
    publish(&store.writer().unwrap(), "m", b"weights", b"s");
    let path = manifest_of(&store, "m");
    fs::remove_file(&path).unwrap();
    if std::process::Command::new("mkfifo").arg(&path).status().is_ok_and(|s| s.success()) {
        assert!(store.read(&name("m")).unwrap_err().to_string().contains("not a regular file"));
        assert_eq!(store.list().unwrap()[0].damage.len(), 1);
    }
}

#[test]
fn a_missing_model_is_told_with_the_nearest() {
    let (_dir, store) = store();
    publish(&store.writer().unwrap(), "llama3:8b", b"weights", b"s");
    let told_of = |n: &str| told(&store, &store.read(&name(n)).unwrap_err().0);
    snapshot("store_unknown_model", ["llama3", "lama3:8b", "something-else"].map(told_of).join("\n"));
}

#[test]
fn a_manifest_of_many_layers_fits() {
    let (_dir, store) = store();
    let writer = store.writer().unwrap();
    let blob = writer.put(b"tensor").unwrap();
    let layer = |i: u32| Layer {
        name: format!("model.layers.{i}.self_attn.q_proj.weight"),
        ..Layer::new(media::TENSOR, blob.digest, blob.size)
    };
    let published = writer.publish(&name("m"), b"{}", (0..2_000).map(layer).collect()).unwrap();
    let stored = store.read(&name("m")).unwrap();
    assert_eq!((stored.id, stored.manifest.layers.len()), (published.id, 2_000));
    assert_eq!(Manifest::parse(&stored.bytes).unwrap(), stored.manifest);
}

/// A real file system with no room left.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error_and_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    let mount = |args: &[&str]| std::process::Command::new(args[0]).args(&args[1..]).arg(dir.path()).output();
    if !mount(&["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs"]).is_ok_and(|o| o.status.success()) {
        eprintln!("skipped: a file system can be mounted by root alone");
        return;
    }
    let result = std::panic::catch_unwind(|| {
        let store = Store::open(dir.path().join("models")).unwrap();
        let writer = store.writer().unwrap();
        let before = publish(&writer, "m", b"weights", b"s");
        let listed = files(store.root());
        let mut blob = writer.blob(Some(4 << 20)).unwrap();
        let error = std::iter::repeat_with(|| blob.write_all(&[1; 65_536])).find_map(Result::err).unwrap();
        let told_of = blob.diagnose(&error);
        assert_eq!(told_of.code, "disk-full");
        assert!(told_of.message.contains("of 4194304 bytes"), "{told_of}");
        assert_eq!(Errors::from(told_of).exit_code(), 3);
        assert_eq!(blob.finish().unwrap_err().0[0].code, "blob-incomplete");
        assert_eq!(files(store.root()), listed);
        // All but nothing is free, whatever is tried next.
        let mut filler = fs::File::create(dir.path().join("filler")).unwrap();
        while filler.write(&[0; 4096]).is_ok() {}
        assert!(writer.put(b"another").is_err());
        let stored = store.read(&name("m")).unwrap();
        assert!(writer.publish_manifest(&name("other"), &stored.bytes).is_err());
        assert!(store.cache().find(&[0; 32]).is_none());
        store.cache().remember(&stored.id, 1, &[([0; 32], 0, 1)]);
        assert_eq!(files(store.root()), listed);
        assert_eq!(store.read(&name("m")).unwrap().id, before.id);
        // Room is made: all works without a restart.
        drop(filler);
        fs::remove_file(dir.path().join("filler")).unwrap();
        publish(&writer, "other", b"weights", b"t");
        assert!(store.verify(&[], &|_| ()).unwrap().damage.is_empty());
    });
    assert!(mount(&["umount"]).unwrap().status.success());
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}
