//! What a build leaves when it is killed or the disk is full.

#![allow(clippy::unwrap_used, clippy::expect_used)]
#![cfg(unix)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

const MDL: &str = env!("CARGO_BIN_EXE_mdl");

fn storyteller() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/storyteller/Modelfile")
}

fn mdl(store: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(MDL);
    command.arg("--store").arg(store).args(["--progress", "none"]).args(arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn build<'a>(preset: &'a str, modelfile: &'a str) -> [&'a str; 6] {
    ["build", "-q", preset, "-t", "m", modelfile]
}

/// `mdl verify` finds nothing wrong, and a model that is listed is whole.
fn assert_sound(store: &Path) {
    let verified = mdl(store, &["verify"]).output().unwrap();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
}

/// Files whose names are no digests: what a killed build leaves.
fn leftovers(store: &Path) -> usize {
    let Ok(blobs) = std::fs::read_dir(store.join("blobs")) else { return 0 };
    blobs.filter(|e| e.as_ref().unwrap().file_name().len() != "sha256-".len() + 64).count()
}

#[test]
fn a_killed_build_leaves_a_sound_store() {
    let place = tempfile::tempdir().unwrap();
    let modelfile = storyteller().display().to_string();
    let started = Instant::now();
    let whole = mdl(&place.path().join("timed"), &build("q5_K_M", &modelfile)).output().unwrap();
    assert!(whole.status.success());
    let length = started.elapsed();

    let store = place.path().join("store");
    // SplitMix64: the moments are random, and the same in every run.
    let mut state = 1u64;
    let mut random = || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) as f64 / u64::MAX as f64
    };
    let mut length = length;
    let (mut killed, mut left) = (0, 0);
    for round in 0..400 {
        if killed == 50 {
            break;
        }
        // Another type in each round, so that there is always something to write.
        let types = ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q6_K", "q4_K_S", "q3_K_M", "f16", "bf16"];
        let mut child = mdl(&store, &build(types[round % types.len()], &modelfile)).spawn().unwrap();
        std::thread::sleep(length.mul_f64(random()));
        // The moments follow how long builds take here, now.
        match child.try_wait().unwrap() {
            None => (killed, length) = (killed + 1, length.mul_f64(1.05)),
            Some(_) => length = length.mul_f64(0.9),
        }
        let _ = child.kill();
        child.wait().unwrap();
        left += leftovers(&store);
        if store.exists() {
            assert_sound(&store);
        }
        // Begin again from nothing now and then, so that blobs are not all there already.
        if round % 10 == 9 {
            let built = mdl(&store, &build("q4_K_M", &modelfile)).output().unwrap();
            assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
            assert_sound(&store);
            assert_eq!(leftovers(&store), 0, "the next build removes what killed ones left");
            std::fs::remove_dir_all(&store).unwrap();
        }
    }
    eprintln!("{killed} builds were killed; {left} temporary files were left in all");
    assert_eq!(killed, 50, "the moments miss the build");
}

/// Needs the right to mount: as in a container that runs as root.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_said_and_leaves_the_store_as_it_was() {
    struct Mounted(PathBuf);
    impl Drop for Mounted {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
        }
    }
    let place = tempfile::tempdir().unwrap();
    let disk = place.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=6m", "tmpfs"])
        .arg(&disk)
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success());
    if !mounted {
        eprintln!("skipped: a small disk cannot be mounted here");
        return;
    }
    let disk = Mounted(disk);
    let store = disk.0.join("store");
    let modelfile = storyteller().display().to_string();
    let small = mdl(&store, &build("q4_0", &modelfile)).output().unwrap();
    assert!(small.status.success(), "{}", String::from_utf8_lossy(&small.stderr));
    let before = mdl(&store, &["list", "--json"]).output().unwrap().stdout;

    let large = mdl(&store, &build("f32", &modelfile)).output().unwrap();
    let message = String::from_utf8_lossy(&large.stderr);
    assert_eq!(large.status.code(), Some(3), "{message}");
    assert!(message.contains("No space left on device"), "{message}");
    assert!(message.contains("free some space"), "{message}");
    assert_eq!(mdl(&store, &["list", "--json"]).output().unwrap().stdout, before);
    assert_sound(&store);
    assert_eq!(leftovers(&store), 0);

    // What fits still works.
    let again = mdl(&store, &["build", "-q", "q3_K_S", "-t", "n", &modelfile]).output().unwrap();
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
}
