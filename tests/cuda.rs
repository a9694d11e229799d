//! The GPU backend without a GPU: `mdl` with a stand-in for the NVIDIA driver that runs the kernels on the CPU
//! (kernels/tests/cuda/driver).
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../kernels/tests/cuda/driver.rs"]
mod driver;

use std::path::Path;

use assert_cmd::Command;

/// `mdl` with the stand-in, which is told `options`.
fn mdl(store: &Path, options: &str) -> Command {
    let mut command = Command::cargo_bin("mdl").unwrap();
    command.env("LD_LIBRARY_PATH", driver::folder()).env("MDL_STANDIN_CUDA", options).env("MDL_OFFLINE", "1");
    command.env_remove("MDL_DEVICE").arg("--store").arg(store).args(["--progress", "none", "--threads", "2"]);
    command
}

/// A store with the storyteller in some quantization, as `story`.
fn store(preset: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let modelfile = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/storyteller/Modelfile");
    mdl(folder.path(), "").args(["build", "-q", preset, "-t", "story"]).arg(modelfile).assert().success();
    folder
}

fn story(store: &Path, options: &str, device: &str) -> String {
    let mut command = mdl(store, options);
    command.args(["run", "--device", device, "--set", "temperature=0", "--set", "num_predict=24", "--raw"]);
    let output = command.args(["story", "Once upon a time"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_gpu_tells_the_story_of_the_cpu() {
    for preset in ["q4_K_M", "q8_0", "f16"] {
        let store = store(preset);
        let cpu = story(store.path(), "", "cpu");
        assert_eq!(story(store.path(), "", "cuda"), cpu, "{preset}");
        assert_eq!(story(store.path(), "", "auto"), cpu, "{preset}");
    }
}
