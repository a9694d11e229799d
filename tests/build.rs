//! `mdl build` and its kin as a person or a pipeline calls them, on the storyteller model.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};
use std::process::Output;

use assert_cmd::Command;

fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name)
}

/// A store and a place for Modelfiles that go when the test ends.
struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        Place { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Runs mdl on the store of this place.
    fn mdl(&self, arguments: &[&str]) -> Output {
        let mut command = Command::cargo_bin("mdl").unwrap();
        command.arg("--store").arg(self.path("store")).args(["--progress", "none"]).args(arguments);
        command.output().unwrap()
    }

    /// Runs mdl, which must succeed; returns what it printed.
    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.mdl(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// Runs mdl, which must fail with this exit code; returns its diagnostics.
    fn fails(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.mdl(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", text(&output.stderr));
        text(&output.stderr)
    }

    /// The Modelfile of the storyteller with more lines.
    fn storyteller(&self, name: &str, more: &str) -> String {
        let from = testdata("storyteller");
        self.write(name, &format!("FROM {}\n{more}", from.display())).display().to_string()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The manifest's digest: the last line that a build prints.
fn digest(printed: &str) -> String {
    let last = printed.lines().last().unwrap().to_owned();
    assert!(last.starts_with("sha256:"), "{printed}");
    last
}

#[test]
fn the_same_sources_give_the_same_manifest() {
    let (here, there) = (Place::new(), Place::new());
    let (a, b) =
        (here.storyteller("a/Modelfile", "SYSTEM x\n"), there.storyteller("b/c/Modelfile", "SYSTEM x\n"));
    let one = digest(&here.ok(&["build", "--threads", "1", "-q", "q4_K_M", "-t", "m", &a]));
    let two = digest(&there.ok(&["build", "--threads", "2", "-q", "q4_K_M", "-t", "n:x", &b]));
    assert_eq!(one, two);
}

#[test]
fn every_preset_builds_and_says_its_type() {
    let place = Place::new();
    let modelfile = place.storyteller("Modelfile", "");
    for preset in mdl::passes::quantize::mixture::PRESETS {
        let path = place.path(preset.name).display().to_string();
        place.ok(&["build", "-q", preset.name, "--emit", "gguf", "-o", &path, &modelfile]);
        let file: std::sync::Arc<[u8]> = std::fs::read(&path).unwrap().into();
        let gguf = mdl::formats::gguf::Gguf::read(Path::new(&path), &file).unwrap();
        assert_eq!(gguf.metadata.u64("general.file_type"), Some(preset.file_type.into()));
        let norm = gguf.tensor("blk.0.attn_norm.weight").unwrap();
        assert_eq!(norm.dtype, mdl_kernels::TensorType::F32, "{}", preset.name);
        let gate = gguf.tensor("blk.0.ffn_gate.weight").unwrap();
        assert_eq!(gate.dtype, preset.base, "{}", preset.name);
    }
}

#[test]
fn a_new_system_prompt_writes_no_weights() {
    let place = Place::new();
    let before = place.storyteller("before/Modelfile", "SYSTEM one\n");
    let after = place.storyteller("after/Modelfile", "SYSTEM two\n");
    let first = digest(&place.ok(&["build", "-q", "q4_0", "-t", "m", &before]));
    let blobs = weights(&place);
    let second = digest(&place.ok(&["build", "-q", "q4_0", "-t", "m", &after]));
    assert_ne!(first, second);
    assert_eq!(weights(&place), blobs, "the same file, not written again");
    assert_eq!(place.ok(&["show", "m", "--system"]), "two\n");
}

/// The large blobs of a store: name, modification time.
fn weights(place: &Place) -> Vec<(String, std::time::SystemTime)> {
    let mut found: Vec<_> = std::fs::read_dir(place.path("store/blobs"))
        .unwrap()
        .map(|e| e.unwrap())
        .filter(|e| e.metadata().unwrap().len() > 1_000_000)
        .map(|e| (e.file_name().into_string().unwrap(), e.metadata().unwrap().modified().unwrap()))
        .collect();
    found.sort();
    found
}

#[test]
fn tensors_of_an_earlier_build_are_the_bytes_of_a_fresh_one() {
    let (reusing, fresh) = (Place::new(), Place::new());
    let modelfile = reusing.storyteller("Modelfile", "");
    reusing.ok(&["build", "-q", "q4_K_M", "-t", "m", &modelfile]);
    let changed = ["build", "-q", "q4_K_M", "--tensor-type", "blk.1.attn_v=q8_0", "-t", "m2", &modelfile];
    assert_eq!(digest(&reusing.ok(&changed)), digest(&fresh.ok(&changed)));
}

#[test]
fn a_stored_model_is_a_source() {
    let place = Place::new();
    let base = place.storyteller("base/Modelfile", "PARAMETER temperature 0.3\nLICENSE one\n");
    place.ok(&["build", "-t", "base", &base]);
    let over = place.write("over/Modelfile", "FROM base\nSYSTEM be brief\nLICENSE two\n");
    place.ok(&["build", "-t", "over", &over.display().to_string()]);
    assert_eq!(weights(&place).len(), 1, "the weights are shared");
    assert_eq!(place.ok(&["show", "over", "--license"]), "one\ntwo\n");
    assert!(place.ok(&["show", "over", "--parameters"]).contains("temperature"));

    // What `show --modelfile` prints builds the same model again.
    let again = place.write("again/Modelfile", &place.ok(&["show", "over", "--modelfile"]));
    let first = place.ok(&["build", "-t", "over", &over.display().to_string()]);
    assert_eq!(digest(&place.ok(&["build", "-t", "again", &again.display().to_string()])), digest(&first));
}

#[test]
fn quantizing_a_stored_model_equals_quantizing_the_checkpoint() {
    let place = Place::new();
    let modelfile = place.storyteller("Modelfile", "");
    place.ok(&["build", "-t", "full", &modelfile]);
    place.ok(&["build", "-q", "q5_K_M", "-t", "direct", &modelfile]);
    let over = place.write("over/Modelfile", "FROM full\n").display().to_string();
    place.ok(&["build", "-q", "q5_K_M", "-t", "later", &over]);
    assert_eq!(place.ok(&["show", "direct", "--tensors"]), place.ok(&["show", "later", "--tensors"]));
    assert_eq!(weights(&place).len(), 2, "bit for bit the same file");
}

#[test]
fn what_is_quantized_is_not_quantized_again() {
    let place = Place::new();
    place.ok(&["build", "-q", "q4_0", "-t", "small", &place.storyteller("Modelfile", "")]);
    let over = place.write("over/Modelfile", "FROM small\n").display().to_string();
    let message = place.fails(1, &["build", "-q", "q8_0", "-t", "again", &over]);
    assert!(message.contains("--allow-requantize"), "{message}");
    place.ok(&["build", "-q", "q8_0", "--allow-requantize", "-t", "again", &over]);
}

#[test]
fn an_adapter_is_fused() {
    let place = Place::new();
    let adapter = format!("ADAPTER {}\n", testdata("storyteller-lora").display());
    let (with, without) = (place.storyteller("a/Modelfile", &adapter), place.storyteller("b/Modelfile", ""));
    let tensors = |name: &str| place.ok(&["show", name, "--tensors"]);
    place.ok(&["build", "-q", "q8_0", "-t", "with", &with]);
    place.ok(&["build", "-q", "q8_0", "-t", "without", &without]);
    assert_eq!(tensors("with"), tensors("without"));
    assert_eq!(weights(&place).len(), 2, "other weights");
    let plan = place.ok(&["build", "--emit", "plan", "-q", "q8_0", &with]);
    let line = plan.lines().rfind(|l| l.starts_with("tensor blk.0.attn_q.weight")).unwrap();
    assert!(line.contains("encode Q8_0 (low_rank x2 (permute_rope 8 (load BF16"), "{line}");
    assert!(
        line.contains("b=(permute_rope 8 (load F32"),
        "the rows of b go with those of the matrix: {line}"
    );
}

#[test]
fn an_adapter_is_kept_and_shown() {
    let place = Place::new();
    let adapter = testdata("storyteller-lora");
    let modelfile = place.storyteller("Modelfile", &format!("ADAPTER {} 0.5\n", adapter.display()));
    let plain = place.storyteller("plain/Modelfile", "");
    place.ok(&["build", "-q", "q8_0", "-t", "plain", &plain]);
    place.ok(&["build", "-q", "q8_0", "-t", "kept", "--no-fuse", &modelfile]);
    let weights = |name: &str| {
        let text = place.ok(&["show", name, "--modelfile"]);
        text.lines().find(|line| line.starts_with("FROM ")).map(str::to_owned).unwrap()
    };
    assert_eq!(weights("kept"), weights("plain"), "the weights are the base's own");
    assert!(place.ok(&["show", "kept"]).contains("28 matrices of rank 8, not fused"));
    // The Modelfile that is shown builds the same model.
    let shown = place.ok(&["show", "kept", "--modelfile"]);
    assert_eq!(shown.lines().filter(|line| line.starts_with("ADAPTER ")).count(), 1);
    let again = place.write("again/Modelfile", &shown).display().to_string();
    place.ok(&["build", "-t", "again", "--no-fuse", &again]);
    assert_eq!(place.ok(&["show", "again", "--modelfile"]).replace("again", "kept"), shown);
    // What a model is, it stays under another prompt; it is fused where its weights are written anew.
    let brief = place.write("brief/Modelfile", "FROM kept\nSYSTEM You are brief.\n").display().to_string();
    place.ok(&["build", "-t", "brief", &brief]);
    let of = |name: &str, keyword: &str| {
        let text = place.ok(&["show", name, "--modelfile"]);
        text.lines().filter(|line| line.starts_with(keyword)).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(
        (of("brief", "FROM "), of("brief", "ADAPTER ")),
        (of("kept", "FROM "), of("kept", "ADAPTER "))
    );
    place.ok(&["build", "-t", "fused", "-q", "q8_0", "--allow-requantize", &brief]);
    assert!(of("fused", "ADAPTER ").is_empty() && of("fused", "FROM ") != of("kept", "FROM "));
    place.ok(&["verify"]);

    let message = place.fails(2, &["build", "--emit", "gguf", "-o", "x.gguf", "--no-fuse", &modelfile]);
    assert!(message.contains("no place for adapters"), "{message}");
}

#[test]
fn a_build_says_how_much_adapters_move() {
    let place = Place::new();
    let adapter = testdata("storyteller-lora");
    let modelfile =
        place.storyteller("Modelfile", &format!("ADAPTER {0}\nADAPTER {0} 0.25\n", adapter.display()));
    let output = place.mdl(&["build", "-q", "q4_0", "-t", "m", "--verbose", &modelfile]);
    let shown = text(&output.stderr).replace(&adapter.display().to_string(), "storyteller-lora");
    insta::with_settings!({
        snapshot_path => concat!(env!("CARGO_MANIFEST_DIR"), "/snapshots"),
        prepend_module_to_snapshot => false,
        omit_expression => true,
    }, { insta::assert_snapshot!("adapters_movement", shown) });
}

#[test]
fn an_adapter_that_changes_nothing_is_refused() {
    let place = Place::new();
    let source = testdata("storyteller-lora");
    let zero = place.path("zero");
    std::fs::create_dir(&zero).unwrap();
    std::fs::copy(source.join("adapter_config.json"), zero.join("adapter_config.json")).unwrap();
    let mut bytes = std::fs::read(source.join("adapter_model.safetensors")).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize + 8;
    bytes[header..].fill(0);
    std::fs::write(zero.join("adapter_model.safetensors"), bytes).unwrap();
    let modelfile = place.storyteller("Modelfile", &format!("ADAPTER {}\n", zero.display()));
    let message = place.fails(1, &["build", "-q", "q8_0", "-t", "m", &modelfile]);
    assert!(message.contains("changes nothing"), "{message}");
    assert_eq!(place.ok(&["list", "--json"]), "[]\n", "nothing got a name");
}

#[test]
fn damaged_weights_name_the_tensor_and_get_no_name() {
    let place = Place::new();
    let copy = place.path("copy");
    std::fs::create_dir(&copy).unwrap();
    for name in ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(testdata("storyteller").join(name), copy.join(name)).unwrap();
    }
    let mut bytes = std::fs::read(testdata("storyteller/model.safetensors")).unwrap();
    let at = bytes.len() - 1000;
    bytes[at..at + 2].copy_from_slice(&0x7FC0u16.to_le_bytes());
    std::fs::write(copy.join("model.safetensors"), bytes).unwrap();
    for preset in ["q4_K_M", "q4_0", "f16", "bf16", "f32"] {
        let message = place.fails(1, &["build", "-q", preset, "-t", "m", &copy.display().to_string()]);
        assert!(message.contains("tensor `"), "{preset}: {message}");
    }
    assert_eq!(place.ok(&["list", "--json"]), "[]\n");
    place.ok(&["verify"]);
}

#[test]
fn what_matches_nothing_is_an_error() {
    let place = Place::new();
    let modelfile = place.storyteller("Modelfile", "");
    let message =
        place.fails(1, &["build", "-q", "q4_0", "-t", "m", "--tensor-type", "attn_x=q8_0", &modelfile]);
    assert!(message.contains("matches no tensor"), "{message}");
    assert!(place.fails(2, &["build", "--tensor-type", "attn_v", &modelfile]).contains("no `=`"));
    assert!(place.fails(2, &["build", "-q", "q4_k_x", &modelfile]).contains("did you mean"));
}

#[test]
fn a_tensor_type_is_for_matrices() {
    let place = Place::new();
    let modelfile = place.storyteller("Modelfile", "");
    place.ok(&["build", "-q", "q4_0", "--tensor-type", "attn=q8_0", "-t", "m", &modelfile]);
    let tensors = place.ok(&["show", "m", "--tensors"]);
    let line = |name: &str| tensors.lines().find(|l| l.starts_with(name)).unwrap().to_owned();
    assert!(line("blk.0.attn_q.weight").contains("Q8_0"), "{tensors}");
    assert!(line("blk.0.attn_norm.weight").contains("F32"), "norms stay: {tensors}");
    let only = ["build", "-q", "q4_0", "--tensor-type", "attn_norm=q8_0", "-t", "m", &modelfile];
    assert!(place.fails(1, &only).contains("matches no tensor"));
}

#[test]
fn a_damaged_blob_is_neither_reused_nor_kept() {
    let (place, fresh) = (Place::new(), Place::new());
    let modelfile = place.storyteller("Modelfile", "");
    let first = ["build", "-q", "q4_0", "-t", "m", &modelfile];
    let second = ["build", "-q", "q4_0", "--tensor-type", "blk.0.attn_v=q8_0", "-t", "n", &modelfile];
    place.ok(&first);
    let blob = place.path("store/blobs").join(&weights(&place)[0].0);
    let mut bytes = std::fs::read(&blob).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 0x55;
    std::fs::write(&blob, bytes).unwrap();
    assert_eq!(digest(&place.ok(&second)), digest(&fresh.ok(&second)), "its tensors are made again");
    let over = place.write("over/Modelfile", "FROM m\n").display().to_string();
    assert!(place.fails(1, &["build", "-t", "o", &over]).contains("damaged"));
    place.ok(&first);
    place.ok(&["verify"]);
}

#[test]
fn a_gguf_file_has_the_usual_permissions() {
    let place = Place::new();
    let (out, plain) = (place.path("m.gguf"), place.write("plain", ""));
    let modelfile = place.storyteller("Modelfile", "");
    place.ok(&["build", "-q", "q4_0", "--emit", "gguf", "-o", &out.display().to_string(), &modelfile]);
    let permissions = |path: &Path| std::fs::metadata(path).unwrap().permissions();
    assert_eq!(permissions(&out), permissions(&plain));
}

#[test]
fn exit_codes_tell_whose_fault_it_is() {
    let place = Place::new();
    place.fails(1, &["build", &place.path("absent").display().to_string()]);
    place.fails(
        1,
        &["build", "-t", "m", &place.write("a/Modelfile", "FROM nothing-there\n").display().to_string()],
    );
    place.fails(2, &["build", "--no-such-option"]);
    place.fails(2, &["build", "-t", "a b", &place.storyteller("Modelfile", "")]);
    let file = place.write("file", "").display().to_string();
    let output = Command::cargo_bin("mdl").unwrap().args(["--store", &file, "list"]).output().unwrap();
    assert!(!output.status.success());
    place.fails(1, &["show", "absent"]);
    place.fails(1, &["rm", "absent"]);
}

#[test]
fn models_are_listed_copied_and_removed() {
    let place = Place::new();
    place.ok(&["build", "-q", "q4_0", "-t", "one", &place.storyteller("Modelfile", "")]);
    place.ok(&["cp", "one", "two:tag"]);
    let list = place.ok(&["list"]);
    assert!(list.contains("one:latest") && list.contains("two:tag"), "{list}");
    place.ok(&["rm", "one"]);
    place.ok(&["verify"]);
    assert!(place.ok(&["show", "two:tag"]).contains("Q4_0"));
    place.ok(&["rm", "two:tag"]);
    assert!(weights(&place).is_empty(), "the weights go with the last model that uses them");
}

#[test]
fn a_dry_run_changes_nothing() {
    let place = Place::new();
    let printed =
        place.ok(&["build", "--dry-run", "-q", "q4_K_M", "-t", "m", &place.storyteller("Modelfile", "")]);
    assert!(printed.contains("m:latest") && printed.contains("Q4_K_M"), "{printed}");
    assert!(!place.path("store").exists());
}

#[test]
fn the_plan_is_stable() {
    let place = Place::new();
    let plan =
        place.ok(&["build", "--emit", "plan", "-q", "q4_K_M", &place.storyteller("Modelfile", "SYSTEM s\n")]);
    let settings = insta::Settings::clone_current();
    let mut settings = settings;
    settings.set_snapshot_path(concat!(env!("CARGO_MANIFEST_DIR"), "/snapshots"));
    settings.set_prepend_module_to_snapshot(false);
    settings.bind(|| insta::assert_snapshot!("build_plan_storyteller", plan));
}
