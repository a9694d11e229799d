//! LoRA adapters of PEFT, MLX and GGUF.

use std::path::Path;

use mdl::formats::adapter::{Adapter, AdapterKind};
use mdl::formats::gguf::{GgufWriter, Layout};
use mdl::ir::{Metadata, Shape, Value};
use mdl::world::MemoryWorld;
use mdl_kernels::TensorType;
use proptest::prelude::*;

use crate::bytes::{f32_safetensors, typed_safetensors};
use crate::report::{check, report};

const PEFT: &str = r#"{"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none", "use_dora": false,
    "base_model_name_or_path": "base", "modules_to_save": null, "init_lora_weights": true, "fan_in_fan_out": false}"#;
const MLX: &str = r#"{"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": {"rank": 4, "scale": 20.0, "dropout": 0.0}}"#;
const Q: &str = "base_model.model.model.layers.0.self_attn.q_proj";

type Tensors<'a> = &'a [(&'a str, &'a [u64])];

fn open(config: &str, name: &str, weights: Vec<u8>) -> mdl::diagnostic::Result<Adapter> {
    let mut world = MemoryWorld::default();
    world.insert("/a/adapter_config.json", config.as_bytes().to_vec());
    world.insert(format!("/a/{name}"), weights);
    Adapter::open(&world, Path::new("/a"))
}

fn peft(config: &str, tensors: &[(String, Vec<u64>)]) -> mdl::diagnostic::Result<Adapter> {
    let tensors: Vec<(&str, &[u64])> = tensors.iter().map(|(n, s)| (n.as_str(), s.as_slice())).collect();
    open(config, "adapter_model.safetensors", f32_safetensors(&tensors))
}

/// A and B of one module, of these shapes.
fn pair(module: &str, a: [u64; 2], b: [u64; 2]) -> Vec<(String, Vec<u64>)> {
    vec![(format!("{module}.lora_A.weight"), a.to_vec()), (format!("{module}.lora_B.weight"), b.to_vec())]
}

/// A configuration of PEFT with these members besides.
fn with(members: &str) -> String {
    format!("{{{members}, {}", &PEFT[1..])
}

#[test]
fn an_adapter_of_peft_is_read() {
    let adapter = peft(PEFT, &pair(Q, [4, 16], [32, 4])).unwrap();
    assert_eq!((adapter.kind, adapter.base_model.as_deref()), (AdapterKind::Peft, Some("base")));
    let [pair] = adapter.pairs.as_slice() else { panic!("{:?}", adapter.pairs) };
    assert_eq!(pair.target, "model.layers.0.self_attn.q_proj");
    assert_eq!((pair.scale, pair.rank, pair.b.transposed), (2.0, 4, false));
    assert_eq!((pair.rows(), pair.columns()), (32, 16));
    assert_eq!(pair.a.tensor.tensor.name, format!("{Q}.lora_A.weight"));
    assert_eq!(adapter.files[pair.a.tensor.file].path, Path::new("/a/adapter_model.safetensors"));
}

#[test]
fn an_adapter_of_mlx_is_read() {
    let tensors: Tensors<'_> =
        &[("model.layers.0.mlp.up_proj.lora_a", &[16, 4]), ("model.layers.0.mlp.up_proj.lora_b", &[4, 32])];
    let adapter = open(MLX, "adapters.safetensors", f32_safetensors(tensors)).unwrap();
    let pair = &adapter.pairs[0];
    assert_eq!((adapter.kind, pair.target.as_str()), (AdapterKind::Mlx, "model.layers.0.mlp.up_proj"));
    assert_eq!((pair.scale, pair.rank, pair.b.transposed), (20.0, 4, true));
    assert_eq!((pair.rows(), pair.columns()), (32, 16));
}

#[test]
fn square_matrices_are_stored_as_their_maker_does() {
    let names = ["q.lora_a", "q.lora_b"].map(|name| (name, &[4u64, 4] as &[u64]));
    assert!(open(MLX, "adapters.safetensors", f32_safetensors(&names)).unwrap().pairs[0].b.transposed);
    assert!(!peft(PEFT, &pair(Q, [4, 4], [4, 4])).unwrap().pairs[0].b.transposed);
    // Of A [4, 4] and B [32, 4] only B tells.
    assert!(!peft(PEFT, &pair(Q, [4, 4], [32, 4])).unwrap().pairs[0].b.transposed);
    assert!(peft(PEFT, &pair(Q, [4, 4], [4, 32])).unwrap().pairs[0].b.transposed);
}

#[test]
fn a_file_is_read_with_the_configuration_beside_it() {
    let mut world = MemoryWorld::default();
    world.insert("/a/adapter_config.json", PEFT.as_bytes());
    let tensors = pair(Q, [4, 16], [32, 4]);
    let tensors: Vec<(&str, &[u64])> = tensors.iter().map(|(n, s)| (n.as_str(), s.as_slice())).collect();
    world.insert("/a/my.safetensors", typed_safetensors("BF16", 2, &tensors));
    assert_eq!(Adapter::open(&world, Path::new("/a/my.safetensors")).unwrap().pairs.len(), 1);
    // A directory must have one of the usual names.
    assert!(Adapter::open(&world, Path::new("/a")).is_err());
}

#[test]
fn patterns_change_rank_and_alpha() {
    let config = with(r#""rank_pattern": {"k_proj": 2}, "alpha_pattern": {"v_proj": 1}, "use_rslora": true"#);
    let mut tensors = pair(Q, [4, 16], [32, 4]);
    tensors.extend(pair(&Q.replace('q', "k"), [2, 16], [8, 2]));
    tensors.extend(pair(&Q.replace('q', "v"), [4, 16], [8, 4]));
    let adapter = peft(&config, &tensors).unwrap();
    let scales: Vec<_> =
        adapter.pairs.iter().map(|p| (p.target.rsplit('.').next().unwrap(), p.rank, p.scale)).collect();
    assert_eq!(scales, [("k_proj", 2, 8.0 / 2f32.sqrt()), ("q_proj", 4, 4.0), ("v_proj", 4, 0.5)]);
}

fn gguf(keys: &[(&str, Value)], tensors: &[(&str, &[u64])]) -> mdl::diagnostic::Result<Adapter> {
    let mut metadata = Metadata::default();
    for (key, value) in keys {
        metadata.set(*key, value.clone());
    }
    let tensors =
        tensors.iter().map(|(n, s)| ((*n).to_owned(), Shape(s.to_vec()), TensorType::F32)).collect();
    let layout = Layout::new(&metadata, tensors).unwrap();
    let lens: Vec<u64> = layout.tensors().iter().map(|t| t.len).collect();
    let mut writer = GgufWriter::new(Vec::new(), layout).unwrap();
    for len in lens {
        writer.write_data(&vec![0; len as usize]).unwrap();
    }
    let mut world = MemoryWorld::default();
    world.insert("/a/lora.gguf", writer.finish().unwrap());
    assert_eq!(
        Adapter::open(&world, Path::new("/a")).map(|a| a.pairs),
        Adapter::open(&world, Path::new("/a/lora.gguf")).map(|a| a.pairs)
    );
    Adapter::open(&world, Path::new("/a/lora.gguf"))
}

fn gguf_keys(alpha: f32) -> Vec<(&'static str, Value)> {
    vec![
        ("general.type", "adapter".into()),
        ("general.architecture", "llama".into()),
        ("adapter.type", "lora".into()),
        ("adapter.lora.alpha", alpha.into()),
    ]
}

const GGUF_PAIR: Tensors<'static> =
    &[("blk.0.attn_q.weight.lora_a", &[4, 16]), ("blk.0.attn_q.weight.lora_b", &[32, 4])];

#[test]
fn an_adapter_in_gguf_is_read() {
    let adapter = gguf(&gguf_keys(8.0), GGUF_PAIR).unwrap();
    assert_eq!((adapter.kind, adapter.architecture.as_deref()), (AdapterKind::Gguf, Some("llama")));
    let pair = &adapter.pairs[0];
    assert_eq!((pair.target.as_str(), pair.scale, pair.rank), ("blk.0.attn_q", 2.0, 4));
    assert_eq!((pair.rows(), pair.columns()), (32, 16));
    assert_eq!(gguf(&gguf_keys(0.0), GGUF_PAIR).unwrap().pairs[0].scale, 1.0);
}

#[test]
fn what_cannot_be_fused_is_refused_by_name() {
    let good = || pair(Q, [4, 16], [32, 4]);
    let mut text = String::new();
    let mut case = |name: &str, result: mdl::diagnostic::Result<Adapter>| {
        text += &report(name, &result.expect_err(name))
    };

    for (key, value) in [
        ("use_bdlora", "{}"),
        ("kasa_config", "{\"beta\": 1}"),
        ("lora_bias", "true"),
        ("use_qalora", "true"),
        ("layer_replication", "[[0, 4], [2, 8]]"),
        ("trainable_token_indices", "[1]"),
        ("target_parameters", "[\"mlp.experts.gate_up_proj\"]"),
        ("alora_invocation_tokens", "[1, 2]"),
    ] {
        let config = PEFT.replace("\"use_dora\": false,", "");
        case(key, peft(&format!("{{\"{key}\": {value}, {}", &config[1..]), &good()));
    }
    case("bias", peft(&PEFT.replace("none", "some"), &good()));
    for method in ["IA3", "LOHA", "LOKR", "PROMPT_TUNING", "NEW"] {
        case(method, peft(&PEFT.replace("LORA", method), &good()));
    }
    case("init pissa", peft(&PEFT.replace("weights\": true", "weights\": \"pissa\""), &good()));
    case("r 0", peft(&PEFT.replace("\"r\": 4", "\"r\": 0"), &good()));
    case("r -1", peft(&PEFT.replace("\"r\": 4", "\"r\": -1"), &good()));
    case("r 2^31", peft(&PEFT.replace("\"r\": 4", "\"r\": 2147483648"), &good()));
    case("r 100000", peft(&PEFT.replace("\"r\": 4", "\"r\": 100000"), &good()));
    case("r absent", peft(&PEFT.replace("\"r\": 4,", ""), &good()));
    case("alpha 0", peft(&PEFT.replace("alpha\": 8", "alpha\": 0"), &good()));
    case("alpha 1e308", peft(&PEFT.replace("alpha\": 8", "alpha\": 1e308"), &good()));
    case("alpha absent", peft(&PEFT.replace("\"lora_alpha\": 8,", ""), &good()));
    case("rank pattern of 0", peft(&with(r#""rank_pattern": {"q_proj": 0}"#), &good()));
    case("pattern is none", peft(&with(r#""rank_pattern": {"(q_proj": 4}"#), &good()));
    case("pattern looks ahead", peft(&with(r#""alpha_pattern": {"q(?!_proj)": 4}"#), &good()));
    case("neither PEFT nor MLX", peft("{}", &good()));
    case("MLX DoRA", peft(&MLX.replace("\"lora\"", "\"dora\""), &good()));
    case("MLX of another kind", peft(&MLX.replace("\"lora\"", "\"ia3\""), &good()));
    case("MLX without parameters", peft(r#"{"fine_tune_type": "lora"}"#, &good()));
    case("MLX alpha and scale", peft(&MLX.replace("\"rank\"", "\"alpha\": 16, \"rank\""), &good()));

    case("no A", peft(PEFT, &good()[1..]));
    case("no B", peft(PEFT, &good()[..1]));
    case("no tensors", open(PEFT, "adapter_model.safetensors", b"\x02\0\0\0\0\0\0\0{}".to_vec()));
    case("wrong rank", peft(PEFT, &pair(Q, [8, 16], [32, 8])));
    case("ranks differ", peft(PEFT, &pair(Q, [4, 16], [32, 8])));
    let named = |name: &str| [good(), vec![(name.to_owned(), vec![4, 4])]].concat();
    case("two As", peft(PEFT, &named(&format!("{Q}.lora_A.default.weight"))));
    case("embedding", peft(PEFT, &named("base_model.model.model.embed_tokens.lora_embedding_A")));
    let vector = |name: &str, n: u64| [good(), vec![(name.to_owned(), vec![n])]].concat();
    let magnitude = format!("{Q}.lora_magnitude_vector");
    let dora = PEFT.replace("dora\": false", "dora\": true");
    case("magnitude without DoRA", peft(PEFT, &vector(&magnitude, 32)));
    case("magnitude of another size", peft(&dora, &vector(&magnitude, 16)));
    case("magnitude is a matrix", peft(&dora, &named(&magnitude)));
    case("magnitude alone", peft(&dora, &[(magnitude.clone(), vec![32])]));
    case("no magnitude", peft(&dora, &good()));
    case("DoRA of an embedding", {
        let name = |part: &str| format!("base_model.model.model.embed_tokens.lora_{part}");
        let tensors = [
            (name("embedding_A"), vec![4, 9]),
            (name("embedding_B"), vec![6, 4]),
            (name("magnitude_vector"), vec![6]),
        ];
        peft(&dora, &tensors)
    });
    case(
        "two kinds of factors",
        peft(
            PEFT,
            &[named(&format!("{Q}.lora_embedding_A")), named(&format!("{Q}.lora_embedding_B"))[2..].to_vec()]
                .concat(),
        ),
    );
    case("not a target", peft(&with(r#""target_modules": ["k_proj", "proj"]"#), &good()));
    case("not a target pattern", peft(&with(r#""target_modules": ".*k_proj""#), &good()));
    case("whole bias", peft(PEFT, &vector(&format!("{Q}.base_layer.bias"), 32)));
    case("bias of B", peft(PEFT, &vector(&format!("{Q}.lora_B.bias"), 32)));
    case("original module", peft(PEFT, &named("base_model.model.lm_head.original_module.weight")));
    case(
        "whole twice",
        peft(
            PEFT,
            &[
                named("base_model.model.lm_head.weight"),
                vec![("lm_head.modules_to_save.weight".to_owned(), vec![4, 4])],
            ]
            .concat(),
        ),
    );
    case("another whole tensor", peft(PEFT, &named("base_model.model.norm.weight")));
    for name in ["hada_w1_a", "lokr_w1", "ia3_l", "trainable_tokens_delta", "lora_E"] {
        case(name, peft(PEFT, &named(&format!("{Q}.{name}"))));
    }
    case("no module", peft(PEFT, &named(".lora_A.weight")));
    let conv = vec![
        (format!("{Q}.lora_A.weight"), vec![4, 16, 3, 3]),
        (format!("{Q}.lora_B.weight"), vec![32, 4, 1, 1]),
    ];
    case("convolution", peft(PEFT, &conv));
    let integers = [(format!("{Q}.lora_A.weight"), [4u64, 16])];
    let integers: Vec<(&str, &[u64])> = integers.iter().map(|(n, s)| (n.as_str(), s.as_slice())).collect();
    case("integers", open(PEFT, "adapter_model.safetensors", typed_safetensors("I8", 1, &integers)));

    case("no configuration", {
        let mut world = MemoryWorld::default();
        world.insert("/a/adapter_model.safetensors", f32_safetensors(&[("a", &[1])]));
        Adapter::open(&world, Path::new("/a"))
    });
    case("pickle", open(PEFT, "adapter_model.bin", b"PK\x03\x04".to_vec()));
    case(
        "missing shard",
        open(PEFT, "adapter_model-00001-of-00002.safetensors", f32_safetensors(&[("a", &[1])])),
    );

    case("GGUF model", gguf(&[("general.type", "model".into())], GGUF_PAIR));
    case("GGUF without type", gguf(&[], GGUF_PAIR));
    case(
        "GGUF of another kind",
        gguf(&[("general.type", "adapter".into()), ("adapter.type", "ia3".into())], GGUF_PAIR),
    );
    case("GGUF without alpha", gguf(&gguf_keys(1.0)[..3], GGUF_PAIR));
    case("GGUF alpha NaN", gguf(&gguf_keys(f32::NAN), GGUF_PAIR));
    case("GGUF activated", {
        let mut keys = gguf_keys(8.0);
        keys.push(("adapter.alora.invocation_tokens", vec![1u32].into()));
        gguf(&keys, GGUF_PAIR)
    });
    case("GGUF no B", gguf(&gguf_keys(8.0), &GGUF_PAIR[..1]));
    case(
        "GGUF ranks differ",
        gguf(&gguf_keys(8.0), &[GGUF_PAIR[0], ("blk.0.attn_q.weight.lora_b", &[32, 8])]),
    );
    case("GGUF embedding", gguf(&gguf_keys(8.0), &[("token_embd.weight.lora_a", &[4, 16])]));
    case(
        "GGUF embedding of another rank",
        gguf(
            &gguf_keys(8.0),
            &[("token_embd.weight.lora_a", &[16, 4]), ("token_embd.weight.lora_b", &[8, 3])],
        ),
    );
    case("GGUF experts", gguf(&gguf_keys(8.0), &[("blk.0.ffn_up_exps.weight.lora_a", &[2, 4, 16])]));
    case("GGUF another tensor", gguf(&gguf_keys(8.0), &[("blk.0.attn_q.weight", &[4, 16])]));
    case("GGUF no tensors", gguf(&gguf_keys(8.0), &[]));
    check("formats_malformed_adapters", &text);
}

/// Names and shapes as adapters have them, and a little otherwise.
fn tensor() -> impl Strategy<Value = (String, Vec<u64>)> {
    let prefix = prop::sample::select(vec!["base_model.model.", "", "base_model."]);
    let module = prop::sample::select(vec![
        "model.layers.0.self_attn.q_proj",
        "model.embed_tokens",
        "lm_head",
        "m",
        "",
    ]);
    let wrapper =
        prop::sample::select(vec!["", ".base_layer", ".modules_to_save", ".modules_to_save.default"]);
    let end = prop::sample::select(vec![
        ".lora_A.weight",
        ".lora_B.weight",
        ".lora_A.default.weight",
        ".lora_a",
        ".lora_b",
        ".lora_embedding_A",
        ".lora_embedding_B",
        ".lora_magnitude_vector",
        ".lora_magnitude_vector.weight",
        ".m",
        ".weight",
        ".bias",
        ".lora_B.bias",
        ".",
        "",
    ]);
    let dims = prop::collection::vec(prop::sample::select(vec![1u64, 2, 4, 8]), 0..4);
    (prefix, module, wrapper, end, dims)
        .prop_map(|(prefix, module, wrapper, end, dims)| (format!("{prefix}{module}{wrapper}{end}"), dims))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the tensors: an error, or factors that go together and a length for each row.
    #[test]
    fn what_is_read_goes_together(
        tensors in prop::collection::vec(tensor(), 1..6),
        config in prop::sample::select(vec![
            PEFT.to_owned(),
            MLX.to_owned(),
            MLX.replace("\"lora\"", "\"dora\""),
            MLX.replace("\"lora\"", "\"full\""),
            PEFT.replace("dora\": false", "dora\": true"),
            PEFT.replace("null", "[\"lm_head\", \"\"]").replace("none", "all"),
        ]),
    ) {
        let mut tensors = tensors;
        tensors.sort();
        tensors.dedup_by(|a, b| a.0 == b.0);
        if tensors.iter().all(|(name, _)| !name.is_empty()) && let Ok(adapter) = peft(&config, &tensors) {
            prop_assert!(!adapter.pairs.is_empty() || !adapter.whole.is_empty());
            for pair in &adapter.pairs {
                prop_assert_eq!((pair.a.rows(), pair.b.columns()), (pair.rank, pair.rank));
                prop_assert!(pair.scale.is_finite() && pair.scale != 0.0);
                let lengths = pair.magnitude.as_ref().map(|m| m.tensor.shape.len());
                prop_assert!(lengths.is_none_or(|n| n == pair.rows()));
            }
            let parts = adapter.pairs.iter().map(|p| if p.magnitude.is_some() { 3 } else { 2 }).sum::<usize>();
            prop_assert_eq!(parts + adapter.whole.len(), tensors.len(), "nothing is passed over");
        }
    }
}
