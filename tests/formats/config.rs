//! `config.json`: what the getters take and what they say.

use std::path::Path;

use mdl::diagnostic::Result;
use mdl::formats::hf_config::Config;
use serde_json::json;

use crate::report::{check, report};

fn config(text: &str) -> Config {
    Config::parse(Path::new("config.json"), text.as_bytes()).unwrap()
}

#[test]
fn getters_take_what_they_should() {
    let config = config(
        r#"{"hidden_size": 4096, "n_layer": 32, "rms_norm_eps": 1e-05, "rope_theta": 10000, "tie": false,
            "hidden_act": "silu", "architectures": ["LlamaForCausalLM"], "sliding_window": null,
            "eos_token_id": [1, 2], "bos_token_id": 7, "factors": [1, 2.5], "layers": [0, 3], "offset": -3,
            "rope_scaling": {"rope_type": "llama3", "factor": 8.0}, "torch_dtype": "bfloat16"}"#,
    );
    assert_eq!(config.size("hidden_size"), Ok(4096));
    assert_eq!(config.size(["num_hidden_layers", "n_layer"]), Ok(32));
    assert_eq!(config.f32("rms_norm_eps"), Ok(1e-5));
    assert_eq!(config.optional_rope_theta(), Ok(Some(10000.0)));
    assert_eq!(config.optional_bool("tie"), Ok(Some(false)));
    assert_eq!(config.one_of("hidden_act", &["gelu", "silu"]), Ok("silu"));
    assert_eq!(config.optional_strs("architectures"), Ok(Some(vec!["LlamaForCausalLM"])));
    assert_eq!(config.optional_size("sliding_window"), Ok(None));
    assert_eq!(config.optional_size("absent"), Ok(None));
    assert!(!config.has("sliding_window"));
    assert_eq!(config.optional_ids("eos_token_id"), Ok(Some(vec![1, 2])));
    assert_eq!(config.optional_ids("bos_token_id"), Ok(Some(vec![7])));
    assert_eq!(config.optional_f32s("factors"), Ok(Some(vec![1.0, 2.5])));
    assert_eq!(config.optional_u64s("layers"), Ok(Some(vec![0, 3])));
    assert_eq!(config.optional_i64("offset"), Ok(Some(-3)));
    assert_eq!(config.require("tie", &[json!(false)]), Ok(()));
    assert_eq!(config.require("rope_theta", &[json!(10000.0)]), Ok(()));

    assert_eq!(config.unread(), ["rope_scaling", "torch_dtype"]);
    let rope = config.rope_scaling().unwrap().unwrap();
    assert_eq!(rope.f32("factor"), Ok(8.0));
    assert_eq!(rope.unread(), ["rope_type"]);
    config.ignore("torch_dtype");
    assert!(config.unread().is_empty());
}

#[test]
fn rope_theta_is_found_where_new_files_have_it() {
    let new = config(r#"{"rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default"}}"#);
    assert_eq!(new.optional_rope_theta(), Ok(Some(1e6)));
    assert_eq!(new.rope_scaling().unwrap().unwrap().str("rope_type"), Ok("default"));
    let both = config(r#"{"rope_theta": 10000, "rope_parameters": {"rope_theta": 1000000.0}}"#);
    assert!(both.optional_rope_theta().is_err());
    assert!(config(r#"{"rope_theta": 0}"#).optional_rope_theta().is_err());
}

#[test]
fn wrong_values_are_refused_by_their_key() {
    let config = config(
        r#"{"zero": 0, "minus": -1, "huge": 1e308, "large": 1431655766, "half": 1.5, "text": "8", "list": [1, -1],
            "object": {}, "number": 1, "n": 1, "m": 2, "eos": [1, 4294967296], "act": "gelu\u001b[2J",
            "rope_scaling": {"factor": "8"}}"#,
    );
    let mut text = String::new();
    let mut case =
        |name: &str, error: Option<mdl::diagnostic::Errors>| text += &report(name, &error.expect(name));
    for key in ["zero", "minus", "huge", "large", "half", "text", "list", "object", "absent"] {
        case(&format!("size {key}"), config.size(key).err());
    }
    case("float huge", config.f32("huge").err());
    case("float text", config.f32("text").err());
    case("floats", config.optional_f32s("act").err());
    case("integers", config.optional_u64s("list").err());
    case("integer", config.u64("minus").err());
    case("boolean", config.optional_bool("number").err());
    case("string", config.str("number").err());
    case("strings", config.optional_strs("list").err());
    case("one of", config.one_of("act", &["silu", "relu"]).err());
    case("only one", config.one_of("act", &["silu"]).err());
    case("names that differ", config.size(["n", "m"]).err());
    case("ids", config.optional_ids("eos").err());
    case("section", config.section("number").err());
    case("within a section", config.rope_scaling().unwrap().unwrap().f32("factor").err());
    case("required value", config.require("number", &[json!(2), json!("x")]).err());
    check("formats_config_values", &text);
}

#[test]
fn texts_that_are_no_configuration_are_refused() {
    let parse = |text: &[u8]| -> Result<Config> { Config::parse(Path::new("config.json"), text) };
    let mut text = String::new();
    for (name, bytes) in [
        ("empty", b"".as_slice()),
        ("list", b"[]"),
        ("key twice", br#"{"a": 1, "a": 1}"#),
        ("infinity", br#"{"a": Infinity}"#),
        ("number too large", br#"{"a": 1e999}"#),
        ("trailing text", b"{} {}"),
        ("cut", br#"{"a": {"b": "c"#),
        ("not UTF-8", b"{\"a\": \"\xff\"}"),
        ("deep", "[".repeat(1_000_000).as_bytes()),
        ("long", format!("{{\"a\": \"{}\"}}", "x".repeat(2 << 20)).as_bytes()),
        ("a pickle", b"PK\x03\x04"),
    ] {
        text += &report(name, &parse(bytes).expect_err(name));
    }
    check("formats_config_texts", &text);
}
