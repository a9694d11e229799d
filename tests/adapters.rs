//! Adapters against what the libraries that made them merge (`testdata/adapters/make.py`).

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mdl::codegen::Evaluator;
use mdl::diagnostic::Result;
use mdl::families::{self, Rows, fill_pattern};
use mdl::ir::Module;
use mdl::modelfile;
use mdl::passes::{Context, Options};
use mdl::pipeline;
use mdl::world::SystemWorld;

fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/adapters").join(name)
}

/// Compiles the base with these lines besides, up to and with `fuse`.
fn compile(lines: &str) -> Result<Module> {
    compile_on(&testdata("base"), lines)
}

fn compile_on(base: &Path, lines: &str) -> Result<Module> {
    compile_with(base, lines, Options::default())
}

fn kept(lines: &str) -> Result<Module> {
    compile_with(&testdata("base"), lines, Options { no_fuse: true, ..Options::default() })
}

fn compile_with(base: &Path, lines: &str, options: Options) -> Result<Module> {
    let text = format!("FROM {}\n{lines}", base.display());
    let checked = modelfile::check(&SystemWorld, &testdata(""), "Modelfile", text.as_bytes());
    let (recipe, _) = checked.into_recipe()?;
    let context = Context::new(&SystemWorld, None, testdata(""), options);
    pipeline::compile(&recipe, &context, &mdl::prompt::Renderer::in_process(), &mut |_, _| {})
}

fn values(module: &Module, name: &str) -> Vec<f32> {
    let tensor = module.tensor(name).unwrap_or_else(|| panic!("no {name}"));
    let evaluator = Evaluator::new(&tensor.expr, &module.files).unwrap();
    evaluator.values(0..evaluator.rows()).unwrap()
}

fn all_values(module: &Module) -> BTreeMap<String, Vec<f32>> {
    module.tensors.iter().map(|t| (t.name.clone(), values(module, &t.name))).collect()
}

/// GGUF's order of the rows of q and k: of each head, the rows of its halves in turn.
fn interleaved(rows: &[f32], heads: usize, cols: usize) -> Vec<f32> {
    let head = rows.len() / heads / cols;
    let mut out = Vec::new();
    for h in 0..heads {
        for pair in 0..head / 2 {
            for half in [0, head / 2] {
                let row = h * head + half + pair;
                out.extend_from_slice(&rows[row * cols..(row + 1) * cols]);
            }
        }
    }
    out
}

/// The merged tensors of a case by their GGUF names, in GGUF's order of rows.
fn merged(case: &str, module: &Module) -> BTreeMap<String, Vec<f32>> {
    let bytes = std::fs::read(testdata(case).join("merged.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let family = families::by_architecture("llama").unwrap();
    let by_gguf_name = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
        assert_eq!(view.dtype(), safetensors::Dtype::F32);
        let values: Vec<f32> =
            view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        let (rule, numbers) = family.by_checkpoint_name(&name).unwrap();
        let cols = if view.shape().len() == 2 { view.shape()[1] } else { 1 };
        let values = match rule.rows {
            Rows::AsTheyAre => values,
            rows => interleaved(&values, family.heads(rows, &module.metadata).unwrap() as usize, cols),
        };
        (fill_pattern(rule.gguf, numbers.block), values)
    };
    tensors.tensors().into_iter().map(by_gguf_name).collect()
}

/// The largest difference, over the largest value.
fn difference(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0.0f64, |m, v| m.max(f64::from(*v).abs()));
    found.iter().zip(expected).fold(0.0f64, |m, (a, b)| m.max((f64::from(*a) - f64::from(*b)).abs()))
        / largest
}

#[test]
fn fused_weights_are_those_that_the_makers_merge() {
    let base = all_values(&compile("").unwrap());
    for case in [
        "peft-plain",
        "peft-patterns",
        "peft-dora",
        "peft-head",
        "peft-embed",
        "peft-embed-alone",
        "peft-head-lora",
        "peft-tied",
        "mlx-lora",
        "mlx-dora",
        "mlx-embed",
        "mlx-full",
    ] {
        let module = compile(&format!("ADAPTER {case}\n")).unwrap();
        let mut expected = merged(case, &module);
        // The output matrix follows the embeddings, until one of them changes alone.
        let untied = ["peft-head", "peft-embed", "peft-embed-alone", "peft-head-lora"].contains(&case);
        assert_eq!(module.tensor("output.weight").is_some(), untied, "{case}");
        if case.starts_with("peft-embed") {
            expected.insert("output.weight".to_owned(), base["token_embd.weight"].clone());
        }
        let found = all_values(&module);
        let mut changed = 0;
        for (name, found) in &found {
            match expected.remove(name) {
                Some(expected) => {
                    let worst = difference(found, &expected);
                    assert!(worst < 5e-7, "{case} {name}: {worst}");
                    changed += usize::from(base.get(name) != Some(found));
                }
                None => assert_eq!(Some(found), base.get(name), "{case} {name} is the base's"),
            }
        }
        assert!(expected.is_empty(), "{case}: {:?}", expected.keys());
        assert!(changed >= 2, "{case}");
    }
}

/// llama.cpp's converter puts the rows of `lora_b` in GGUF's order, as import does those of the matrix.
#[test]
fn an_adapter_in_gguf_gives_what_the_one_it_was_made_from_gives() {
    for (gguf, peft) in [("adapter", "plain"), ("embed", "embed-alone")] {
        let gguf = compile(&format!("ADAPTER gguf/{gguf}.gguf\n")).unwrap();
        let peft = compile(&format!("ADAPTER peft-{peft}\n")).unwrap();
        assert_eq!(all_values(&gguf), all_values(&peft));
    }
}

/// An adapter of PEFT in a folder of its own, with tensors of zeros.
fn written(directory: &Path, name: &str, config: &str, tensors: &[(&str, &[usize])]) -> String {
    let place = directory.join(name);
    std::fs::create_dir_all(&place).unwrap();
    let config = format!(r#"{{"peft_type": "LORA", "r": 4, "lora_alpha": 8, {config}}}"#);
    std::fs::write(place.join("adapter_config.json"), config).unwrap();
    let bytes: Vec<Vec<u8>> = tensors.iter().map(|(_, s)| vec![0; s.iter().product::<usize>() * 4]).collect();
    let views = tensors.iter().zip(&bytes).map(|((name, shape), bytes)| {
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.to_vec(), bytes);
        (*name, view.unwrap())
    });
    let bytes = safetensors::serialize(views, None).unwrap();
    std::fs::write(place.join("adapter_model.safetensors"), bytes).unwrap();
    place.display().to_string()
}

fn gguf_for(directory: &Path, architecture: &str) -> String {
    let bytes = std::fs::read(testdata("gguf/adapter.gguf")).unwrap();
    // The same length, so that nothing moves.
    let at = bytes.windows(5).position(|w| w == b"llama").unwrap();
    let mut bytes = bytes;
    bytes[at..at + 5].copy_from_slice(architecture.as_bytes());
    let path = directory.join("other.gguf");
    std::fs::write(&path, bytes).unwrap();
    path.display().to_string()
}

#[test]
fn an_adapter_for_another_model_is_refused_with_what_differs() {
    let place = tempfile::tempdir().unwrap();
    let here = place.path();
    let written =
        |name: &str, config: &str, tensors: &[(&str, &[usize])]| written(here, name, config, tensors);
    let base = r#""base_model_name_or_path": "another/model""#;
    let storyteller = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/storyteller-lora");
    let q = "base_model.model.model.layers.0.self_attn.q_proj";
    let (q_a, q_b) = (format!("{q}.lora_A.weight"), format!("{q}.lora_B.weight"));
    let q_bias = format!("{q}.base_layer.bias");
    let mut text = String::new();
    for (case, adapter) in [
        ("a larger model", storyteller.display().to_string()),
        ("another architecture", gguf_for(here, "gemma")),
        (
            "another family",
            written(
                "family",
                base,
                &[
                    ("base_model.model.transformer.h.0.attn.c_attn.lora_A.weight", &[4, 16]),
                    ("base_model.model.transformer.h.0.attn.c_attn.lora_B.weight", &[48, 4]),
                ],
            ),
        ),
        (
            "more layers",
            written(
                "layers",
                base,
                &[
                    ("base_model.model.model.layers.2.mlp.up_proj.lora_A.weight", &[4, 16]),
                    ("base_model.model.model.layers.2.mlp.up_proj.lora_B.weight", &[24, 4]),
                ],
            ),
        ),
        (
            "more tokens",
            written(
                "tokens",
                base,
                &[
                    ("base_model.model.model.embed_tokens.weight", &[259, 16]),
                    ("base_model.model.lm_head.weight", &[259, 16]),
                    (&q_a, &[4, 16]),
                    (&q_b, &[16, 4]),
                ],
            ),
        ),
        (
            "another bias",
            written("bias", r#""bias": "all""#, &[(&q_bias, &[24]), (&q_a, &[4, 16]), (&q_b, &[16, 4])]),
        ),
    ] {
        let errors = compile(&format!("ADAPTER {adapter}\n")).expect_err(case);
        text += &format!("[{case}]\n");
        for d in &errors.0 {
            text += &format!("{} ({})\n", d.message, d.code);
            for help in &d.help {
                text += &format!("  help: {help}\n");
            }
        }
    }
    insta::with_settings!({
        snapshot_path => concat!(env!("CARGO_MANIFEST_DIR"), "/snapshots"),
        prepend_module_to_snapshot => false,
        omit_expression => true,
    }, { insta::assert_snapshot!("adapters_another_base", text) });
}

/// Names of a model that has the base as a part, or is a part of it.
#[test]
fn names_may_have_another_prefix() {
    let place = tempfile::tempdir().unwrap();
    for (number, prefix) in ["layers", "model.layers", "model.language_model.layers"].iter().enumerate() {
        let name = |part: &str| format!("base_model.model.{prefix}.1.mlp.up_proj.lora_{part}.weight");
        let tensors: [(&str, &[usize]); 2] = [(&name("A"), &[4, 16]), (&name("B"), &[24, 4])];
        let adapter = written(place.path(), &number.to_string(), r#""bias": "none""#, &tensors);
        let module = compile(&format!("ADAPTER {adapter}\n")).unwrap();
        let plan = module.tensor("blk.1.ffn_up.weight").unwrap().expr.to_string();
        assert!(plan.contains("low_rank"), "{prefix}: {plan}");
    }
}

/// The rows of a q or k matrix are the rows of `b`: to fuse and then bring the rows into GGUF's order is
/// to bring the rows of `b` into that order and then fuse, to the bit. The rows of `a`, one for each
/// rank, have no part in it; to move them changes the matrix.
#[test]
fn the_rows_of_b_go_the_way_of_the_rows_of_the_matrix() {
    use mdl::ir::{Expr, Shape};
    let (heads, rows, cols, rank) = (8, 256, 256, 8);
    let fill = |seed: u64, rows: u64, cols: u64| {
        let value = |i: u64| ((i * 2_654_435_761 + seed * 40_503) % 8191) as f32 / 4096.0 - 1.0;
        let values: Vec<f32> = (0..rows * cols).map(value).collect();
        Expr::Const { values: values.into(), shape: Shape(vec![rows, cols]) }
    };
    let permute = |of: &Expr| Expr::PermuteRope { of: Box::new(of.clone()), heads };
    let (w, a, b) = (fill(1, rows, cols), fill(2, rank, cols), fill(3, rows, rank));
    let low_rank = |base: &Expr, a: &Expr, b: &Expr| Expr::LowRank {
        base: Box::new(base.clone()),
        a: Box::new(a.clone()),
        b: Box::new(b.clone()),
        scale: 0.75,
    };
    let evaluated = |expr: &Expr| {
        let evaluator = Evaluator::new(expr, &[]).unwrap();
        evaluator.values(0..evaluator.rows()).unwrap()
    };
    let fused_then_moved = evaluated(&permute(&low_rank(&w, &a, &b)));
    let moved_then_fused = evaluated(&low_rank(&permute(&w), &a, &permute(&b)));
    assert_eq!(fused_then_moved, moved_then_fused);

    // The dense sum in float64, its rows moved after.
    let (w64, a64, b64) = (evaluated(&w), evaluated(&a), evaluated(&b));
    let (cols, rank) = (cols as usize, rank as usize);
    let dense: Vec<f32> = (0..w64.len())
        .map(|i| {
            let (row, col) = (i / cols, i % cols);
            let product: f64 =
                (0..rank).map(|k| f64::from(b64[row * rank + k]) * f64::from(a64[k * cols + col])).sum();
            (f64::from(w64[i]) + 0.75 * product) as f32
        })
        .collect();
    let dense = interleaved(&dense, heads as usize, cols);
    assert!(difference(&fused_then_moved, &dense) < 5e-7);

    let a_moved = Expr::PermuteRope { of: Box::new(a.clone()), heads: 1 };
    let wrong = evaluated(&low_rank(&permute(&w), &a_moved, &b));
    assert!(difference(&wrong, &dense) > 0.1);
}

#[test]
fn adapters_add_up_each_by_its_scale() {
    let base = all_values(&compile("").unwrap());
    let of = |lines: &str| all_values(&compile(lines).unwrap());
    let (plain, lora) = (of("ADAPTER peft-plain\n"), of("ADAPTER mlx-lora\n"));
    let both = of("ADAPTER peft-plain 0.5\nADAPTER ./mlx-lora -2\n");
    let mut changed_by_both = 0;
    for (name, found) in &both {
        let (base, plain, lora) = (&base[name], &plain[name], &lora[name]);
        let expected: Vec<f32> = (0..base.len())
            .map(|i| {
                let by = |fused: &[f32]| f64::from(fused[i]) - f64::from(base[i]);
                (f64::from(base[i]) + 0.5 * by(plain) - 2.0 * by(lora)) as f32
            })
            .collect();
        assert!(difference(found, &expected) < 2e-6, "{name}");
        changed_by_both += usize::from(plain != base && lora != base);
    }
    assert_eq!(changed_by_both, 6);
}

#[test]
fn what_is_no_product_has_no_scale() {
    for case in ["peft-dora", "peft-head", "mlx-full", "mlx-dora"] {
        let errors = compile(&format!("ADAPTER {case} 0.5\n")).expect_err(case);
        assert_eq!(errors.0[0].code, "adapter-scale", "{case}");
        let span = match &errors.0[0].location {
            Some(mdl::diagnostic::Location::Text(span)) => &span.source.text[span.range.clone()],
            other => panic!("{other:?}"),
        };
        assert_eq!(span, "0.5");
        assert!(compile(&format!("ADAPTER {case} 1.0\n")).is_ok(), "{case}");
    }
}

#[test]
fn only_products_of_matrices_that_are_multiplied_can_be_kept() {
    for (case, why) in [
        ("peft-dora", "it brings the whole of `blk.0.attn_k.bias`"),
        ("mlx-dora", "it is a DoRA, which gives the rows of `blk.0.ffn_up.weight` new lengths"),
        ("peft-head", "it brings the whole of `output.weight`"),
        ("peft-embed", "it brings the whole of `token_embd.weight`"),
        ("mlx-embed", "it changes the embeddings"),
        ("peft-head-lora", "it changes the output matrix, which is the embedding matrix"),
        ("mlx-full", "it brings the whole of `blk.1.attn_norm.weight`"),
    ] {
        let error = kept(&format!("ADAPTER {case}\n")).expect_err(case).0.remove(0);
        assert_eq!(error.message, format!("the adapter cannot be kept beside the model: {why}"), "{case}");
        assert_eq!(error.code, "adapter-kept");
        assert!(error.help[0].starts_with("fuse it instead"), "{case}");
    }
}

/// The file that an adapter is kept as, fused, gives what the adapter gives; alone or with others.
#[test]
fn a_kept_adapter_is_the_same_adapter() {
    let place = tempfile::tempdir().unwrap();
    // Ranks and alphas differ from matrix to matrix; its biases could not be kept.
    let patterns = place.path().join("patterns");
    std::fs::create_dir(&patterns).unwrap();
    let config = std::fs::read_to_string(testdata("peft-patterns/adapter_config.json")).unwrap();
    let config = config.replace("\"bias\": \"all\"", "\"bias\": \"none\"");
    std::fs::write(patterns.join("adapter_config.json"), config).unwrap();
    let bytes = std::fs::read(testdata("peft-patterns/adapter_model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let factors = tensors.tensors().into_iter().filter(|(name, _)| !name.ends_with("bias"));
    let factors = safetensors::serialize(factors, None).unwrap();
    std::fs::write(patterns.join("adapter_model.safetensors"), factors).unwrap();

    for (number, lines) in [
        "ADAPTER peft-plain\n".to_owned(),
        "ADAPTER peft-plain -0.25\nADAPTER mlx-lora\n".to_owned(),
        format!("ADAPTER {}\n", patterns.display()),
    ]
    .iter()
    .enumerate()
    {
        let module = kept(lines).unwrap();
        assert!(module.tensors.iter().all(|t| !t.expr.to_string().contains("low_rank")));
        let mut again = String::new();
        for (i, file) in mdl::passes::unfused::files(&module).iter().enumerate() {
            let path = place.path().join(format!("{number}-{i}.gguf"));
            let mut bytes = Vec::new();
            mdl::codegen::write_weights(file, &mut bytes, &path, &()).unwrap();
            std::fs::write(&path, bytes).unwrap();
            again += &format!("ADAPTER {}\n", path.display());
        }
        let (found, expected) = (all_values(&compile(&again).unwrap()), all_values(&compile(lines).unwrap()));
        for (name, expected) in &expected {
            let worst = difference(&found[name], expected);
            assert!(worst < 1e-6, "{lines:?} {name}: {worst}");
        }
    }
}

/// A base in GGUF has the rows of q and k in GGUF's order already; those of an adapter of a checkpoint's
/// names are brought into it.
#[test]
fn a_base_in_gguf_takes_the_adapters_of_its_checkpoint() {
    let place = tempfile::tempdir().unwrap();
    let base = place.path().join("base.gguf");
    let mut bytes = Vec::new();
    mdl::codegen::write_weights(&compile("").unwrap(), &mut bytes, &base, &()).unwrap();
    std::fs::write(&base, bytes).unwrap();
    for case in ["peft-plain", "peft-dora", "peft-head", "mlx-embed", "gguf/adapter.gguf"] {
        let lines = format!("ADAPTER {case}\n");
        assert_eq!(
            all_values(&compile_on(&base, &lines).unwrap()),
            all_values(&compile(&lines).unwrap()),
            "{case}"
        );
    }
}

/// An expert's matrix is one of a stack.
#[test]
fn an_expert_is_changed_alone() {
    let place = tempfile::tempdir().unwrap();
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/families/qwen3moe");
    let plain = compile_on(&base, "").unwrap();
    let stack = plain.tensor("blk.0.ffn_up_exps.weight").unwrap().shape().0;
    let (rows, cols) = (stack[1] as usize, stack[2] as usize);
    let adapter = |expert: &str| {
        let name = |part: &str| {
            format!("base_model.model.model.layers.0.mlp.experts.{expert}.up_proj.lora_{part}.weight")
        };
        let tensors: [(&str, &[usize]); 2] = [(&name("A"), &[4, cols]), (&name("B"), &[rows, 4])];
        let path = written(place.path(), expert, r#""bias": "none""#, &tensors);
        // Ones instead of zeros.
        let file = Path::new(&path).join("adapter_model.safetensors");
        let mut bytes = std::fs::read(&file).unwrap();
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize + 8;
        bytes[header..].chunks_exact_mut(4).for_each(|v| v.copy_from_slice(&1f32.to_le_bytes()));
        std::fs::write(&file, bytes).unwrap();
        format!("ADAPTER {path}\n")
    };
    let module = compile_on(&base, &adapter("1")).unwrap();
    let (before, after) = (all_values(&plain), all_values(&module));
    for (name, before) in &before {
        for (i, (b, a)) in before.iter().zip(&after[name]).enumerate() {
            let of_expert = name == "blk.0.ffn_up_exps.weight" && i / (rows * cols) == 1;
            // Rank 4 and scale 2.
            let expected = if of_expert { b + 8.0 } else { *b };
            assert!((a - expected).abs() < 0.1, "{name} {i}: {b} {a}");
            assert!(of_expert || a == b, "{name} {i}");
        }
    }
    assert!(compile_on(&base, &adapter("99")).is_err());
}
