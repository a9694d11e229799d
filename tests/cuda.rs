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

#[test]
fn a_full_context_and_a_small_one_end_as_on_the_cpu() {
    let store = store("q8_0");
    let run = |device: &str| {
        let mut command = mdl(store.path(), "");
        command.args(["run", "--device", device, "--set", "temperature=0", "--set", "num_ctx=48", "--raw"]);
        // More than the context holds: its older half goes, and the keys of the rest turn.
        let output = command.args(["--set", "num_predict=80", "story", "Once upon a time"]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(run("cuda"), run("cpu"));
}

#[test]
fn predictions_are_those_of_the_cpu() {
    for preset in ["q4_K_M", "f16"] {
        let store = store(preset);
        let mut command = mdl(store.path(), "");
        command.args([
            "eval",
            "--device",
            "cuda",
            "--against-device",
            "cpu",
            "--ctx",
            "128",
            "--chunks",
            "2",
            "--json",
        ]);
        let output = command.args(["story", "--against", "story"]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let divergence = document["kl_divergence"]["value"].as_f64().unwrap();
        // Attention of many columns rounds queries and weights to half precision.
        assert!(divergence < 1e-4, "{preset}: {divergence}");
    }
}

/// What a GPU that does not work comes to: options of the stand-in, and what is said of it.
const BROKEN: &[(&str, &str)] = &[
    ("devices=0", "no GPU"),
    ("version=11080", "supports CUDA 11.8, 12.0 is needed"),
    ("capability=7.5", "compute capability 7.5"),
    ("fail=cuInit:999", "cannot start the driver"),
    ("fail=cuInit:803", "cannot start the driver"),
    ("fail=cuDeviceGetCount:100", "cannot count the GPUs"),
    ("fail=cuDevicePrimaryCtxRetain:2", "cannot open a GPU"),
    ("fail=cuDevicePrimaryCtxRetain:46", "cannot open a GPU"),
    ("fail=cuStreamCreate:2", "cannot make a stream"),
    ("fail=cuMemGetInfo_v2:999", "free memory"),
    ("memory=2M", "bytes of GPU memory"),
    ("fail=cuMemAlloc_v2@3:2", "bytes of GPU memory"),
    ("fail=cuModuleLoadData:222", "cannot load GPU kernels"),
    ("fail=cuModuleGetFunction:500", "cannot find a GPU kernel"),
];

#[test]
fn a_gpu_that_fails_is_an_error_or_left_alone() {
    let store = store("q8_0");
    for (options, said) in BROKEN {
        let mut command = mdl(store.path(), options);
        command.args(["run", "--set", "num_predict=4", "--raw", "story", "Once"]);
        let auto = command.args(["--device", "auto"]).output().unwrap();
        let stderr = String::from_utf8_lossy(&auto.stderr);
        assert!(auto.status.success() && !auto.stdout.is_empty(), "{options}: {stderr}");
        assert!(stderr.contains("computing on the CPU"), "{options}: {stderr}");

        let mut command = mdl(store.path(), options);
        command.args(["run", "--set", "num_predict=4", "--raw", "story", "Once"]);
        let cuda = command.args(["--device", "cuda"]).output().unwrap();
        let stderr = String::from_utf8_lossy(&cuda.stderr);
        assert_eq!(cuda.status.code(), Some(3), "{options}: {stderr}");
        assert!(
            stderr.contains("error[") && stderr.contains(said) && !stderr.contains("panicked"),
            "{options}: {stderr}"
        );
    }
}

#[test]
fn what_fails_in_a_step_is_an_error() {
    let store = store("q8_0");
    for options in [
        "fail=cuLaunchKernel@60:719",
        "fail=cuLaunchKernel@120:700",
        "fail=cuStreamSynchronize@60:702",
        "fail=cuMemcpyDtoHAsync_v2:999",
        "fail=cuGraphLaunch:700",
        "fail=cuStreamBeginCapture_v2:999",
        "fail=cuGraphInstantiateWithFlags:2",
    ] {
        let mut command = mdl(store.path(), options);
        command.args([
            "run",
            "--device",
            "cuda",
            "--set",
            "num_predict=30",
            "--set",
            "temperature=0",
            "--raw",
        ]);
        let output = command.args(["story", "Once"]).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{options}: {stderr}");
        assert!(stderr.contains("error[cuda]") && !stderr.contains("panicked"), "{options}: {stderr}");
    }
}

#[test]
fn a_gpu_that_is_not_there_is_named() {
    let store = store("q8_0");
    let mut command = mdl(store.path(), "devices=2");
    command.args(["run", "--device", "cuda:2", "story", "Once"]);
    refuses(&mut command, 3, "there is no GPU 2: 2 found");
    let mut command = mdl(store.path(), "");
    command.args(["run", "--device", "gpu", "story", "Once"]);
    refuses(&mut command, 2, "expected auto, cpu, cuda or cuda:N");
    // Without a driver there is nothing to say, unless it was asked for.
    let mut command = mdl(store.path(), "");
    command.env_remove("LD_LIBRARY_PATH").args(["run", "--device", "cuda", "story", "Once"]);
    refuses(&mut command, 3, "the NVIDIA driver is not installed");
    let mut command = mdl(store.path(), "");
    command.env_remove("LD_LIBRARY_PATH").args(["run", "--set", "num_predict=4", "--raw", "story", "Once"]);
    command.assert().success().stderr("");
}

/// Runs the command, which fails with this code, and says this.
fn refuses(command: &mut Command, code: i32, said: &str) {
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(stderr.contains(said), "{stderr}");
}

#[test]
fn steps_are_recorded_and_replayed() {
    let store = store("q8_0");
    let log = store.path().join("log");
    story(store.path(), &format!("log={}", log.display()), "cuda");
    let log = std::fs::read_to_string(log).unwrap();
    let count = |what: &str| log.lines().filter(|line| line.starts_with(what)).count();
    // One for the prompt, one of the first token, which loads what it needs; then a recording, and the rest.
    assert_eq!((count("graph instantiate"), count("graph launch")), (1, 22), "{log}");
}
