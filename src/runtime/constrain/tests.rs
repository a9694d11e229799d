use std::path::Path;
use std::time::Instant;

use super::*;
use crate::runtime::constrain::tests::random::Random;
use serde_json::{Map, json};

/// The storyteller's tokenizer.
fn tokenizer() -> Tokenizer {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/storyteller");
    let world = crate::world::SystemWorld;
    let checked = crate::modelfile::check(&world, &directory, "Modelfile", b"FROM .");
    let (recipe, _) = checked.into_recipe().unwrap();
    let context = crate::passes::Context::new(&world, None, directory, crate::passes::Options::default());
    let module = crate::passes::resolve::run(&recipe, &context)
        .and_then(|m| crate::passes::import::run(m, &context))
        .unwrap();
    Tokenizer::from_metadata(&module.metadata).unwrap()
}

mod random {
    pub struct Random(pub u64);
    impl Random {
        pub fn below(&mut self, n: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 >> 11) % n
        }
        pub fn chance(&mut self, percent: u64) -> bool {
            self.below(100) < percent
        }
    }
}

/// A text of random tokens under a constraint; none when it is not over after `most` tokens. Tokens that
/// close something are likelier, so that texts end.
fn sample(
    tokenizer: &Tokenizer,
    constraint: &mut Constraint,
    random: &mut Random,
    most: usize,
) -> Option<String> {
    let mut text = Vec::new();
    for _ in 0..most {
        let mut logits = vec![0.0f32; tokenizer.vocab_size()];
        constraint.mask(&mut logits).unwrap();
        let allowed: Vec<u32> = (0..).zip(&logits).filter(|(_, l)| l.is_finite()).map(|(i, _)| i).collect();
        assert!(!allowed.is_empty(), "nothing may follow {:?}", String::from_utf8_lossy(&text));
        let closing =
            |id: &&u32| matches!(tokenizer.decode_bytes(**id), b"\"" | b"}" | b"]" | b"\"}" | b"],");
        let end = allowed.iter().find(|id| tokenizer.is_end_of_generation(**id));
        let token = match (end, allowed.iter().find(closing)) {
            (Some(end), _) if allowed.len() == 1 || random.chance(50) => *end,
            (_, Some(close)) if random.chance(40) => *close,
            _ => allowed[random.below(allowed.len() as u64) as usize],
        };
        if tokenizer.is_end_of_generation(token) {
            return Some(String::from_utf8(text).unwrap());
        }
        constraint.accept(token, tokenizer.decode_bytes(token)).unwrap();
        text.extend_from_slice(tokenizer.decode_bytes(token));
        if constraint.is_complete() {
            return Some(String::from_utf8(text).unwrap());
        }
    }
    None
}

/// A random schema with nesting, enums, bounds, arrays and references.
fn random_schema(random: &mut Random, depth: u32, references: bool) -> Json {
    match random.below(if depth == 0 { 6 } else { 9 }) {
        0 => json!({"type": "boolean"}),
        1 => {
            let low = random.below(50) as i64 - 25;
            json!({"type": "integer", "minimum": low, "maximum": low + random.below(1000) as i64})
        }
        2 => json!({"type": "number", "minimum": 0, "exclusiveMaximum": 1 + random.below(100)}),
        3 => json!({"type": "string", "minLength": random.below(3), "maxLength": 4 + random.below(8)}),
        4 => {
            let values: Vec<Json> = (0..=random.below(4))
                .map(|i| match i % 3 {
                    0 => json!(format!("v{}", random.below(100))),
                    1 => json!(random.below(100)),
                    _ => json!(null),
                })
                .collect();
            json!({"enum": values})
        }
        5 if references => json!({"$ref": format!("#/$defs/d{}", random.below(2))}),
        5 => json!({"type": ["string", "null"], "maxLength": 5}),
        6 => {
            let least = random.below(3);
            json!({"type": "array", "items": random_schema(random, depth - 1, references), "minItems": least, "maxItems": least + random.below(3)})
        }
        7 => json!({"anyOf": [random_schema(random, depth - 1, references), {"type": "null"}]}),
        _ => {
            let mut properties = Map::new();
            let mut required = Vec::new();
            for i in 0..=random.below(4) {
                let name = format!("p{i}");
                properties.insert(name.clone(), random_schema(random, depth - 1, references));
                if random.chance(60) {
                    required.push(json!(name));
                }
            }
            json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
        }
    }
}

#[test]
fn what_random_schemas_allow_validates() {
    let tokenizer = tokenizer();
    let grammars = Grammars::new(&tokenizer).unwrap();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut finished = 0;
    let count = 1000;
    for i in 0..count {
        let mut schema = random_schema(&mut random, 3, true);
        let defs =
            json!({"d0": random_schema(&mut random, 1, false), "d1": random_schema(&mut random, 0, false)});
        schema.as_object_mut().unwrap().insert("$defs".to_owned(), defs);
        let mut constraint = grammars.constraint(&Grammar::Schema(schema.clone()), None).unwrap();
        let Some(text) = sample(&tokenizer, &mut constraint, &mut random, 400) else { continue };
        let value: Json = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{i}: {e}: {text}"));
        let validator = jsonschema::validator_for(&schema).unwrap();
        assert!(validator.is_valid(&value), "{i}: {text} does not satisfy {schema}");
        finished += 1;
    }
    println!("{finished} of {count} texts ended, and all of them validate");
    assert!(finished > count * 9 / 10, "{finished}");
}

#[test]
fn json_is_an_object() {
    let tokenizer = tokenizer();
    let grammars = Grammars::new(&tokenizer).unwrap();
    let mut random = Random(7);
    let mut finished = 0;
    for _ in 0..40 {
        let mut constraint = grammars.constraint(&Grammar::Json, None).unwrap();
        if let Some(text) = sample(&tokenizer, &mut constraint, &mut random, 300) {
            assert!(serde_json::from_str::<Map<String, Json>>(&text).is_ok(), "{text}");
            finished += 1;
        }
    }
    assert!(finished > 10, "{finished}");
}

/// As pydantic writes a union with a discriminator.
#[test]
fn unions_that_a_property_tells_apart_are_taken() {
    let tokenizer = tokenizer();
    let grammars = Grammars::new(&tokenizer).unwrap();
    let pet = |name: &str| json!({"type": "object", "properties": {"kind": {"const": name}}, "required": ["kind"], "additionalProperties": false});
    let schema = json!({
        "type": "object", "required": ["pet"], "additionalProperties": false,
        "properties": {"pet": {"oneOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}],
            "discriminator": {"propertyName": "kind", "mapping": {"cat": "#/$defs/Cat", "dog": "#/$defs/Dog"}}}},
        "$defs": {"Cat": pet("cat"), "Dog": pet("dog")}
    });
    let mut constraint = grammars.constraint(&Grammar::Schema(schema), None).unwrap();
    let text = sample(&tokenizer, &mut constraint, &mut Random(3), 200).unwrap();
    assert!(text.contains("cat") || text.contains("dog"), "{text}");
}

#[test]
fn what_is_not_supported_is_named() {
    let tokenizer = tokenizer();
    let grammars = Grammars::new(&tokenizer).unwrap();
    let mut told = String::new();
    for schema in [
        json!({"not": {"type": "string"}}),
        json!({"type": "object", "properties": {"a": {"if": {}, "then": {}}}}),
        json!({"type": "array", "uniqueItems": true}),
        json!({"type": "array", "contains": {"type": "null"}}),
        json!({"type": "object", "propertyNames": {"maxLength": 3}}),
        json!({"type": "object", "dependentRequired": {"a": ["b"]}}),
        json!({"type": "string", "nullable": true}),
        json!({"$ref": "https://example.com/schema.json"}),
        json!({"$ref": "#/$defs/missing"}),
        json!({"type": "strnig"}),
        json!({"type": "string", "pattern": "("}),
        json!({"type": "string", "pattern": "(?=a)b"}),
        json!({"type": "string", "format": "no-such-format"}),
        json!({"properties": 7}),
        json!([1]),
        json!({"type": "integer", "minimum": 5, "maximum": 3}),
        json!({"x-guidance": {"lenient": true}}),
        json!({"oneOf": [{"type": "integer"}, {"type": "number"}]}),
    ] {
        let result = grammars.constraint(&Grammar::Schema(schema.clone()), None);
        let message = result.err().map_or("TAKEN".to_owned(), |e| e.to_string());
        told.push_str(&format!("{schema}\n    {message}\n"));
    }
    insta::with_settings!({snapshot_path => concat!(env!("CARGO_MANIFEST_DIR"), "/snapshots"), prepend_module_to_snapshot => false}, {
        insta::assert_snapshot!("constrain_unsupported", told);
    });
}

/// Schemas that mean no good are refused, or at least do not take long.
#[test]
fn hostile_schemas_end_soon() {
    let tokenizer = tokenizer();
    let grammars = Grammars::new(&tokenizer).unwrap();
    let nested = |n: usize| {
        let mut schema = json!({"type": "null"});
        for _ in 0..n {
            schema = json!({"type": "object", "properties": {"a": schema}});
        }
        schema
    };
    let many: Vec<String> = (0..100_000).map(|i| format!("value {i}")).collect();
    let cases = [
        ("nested objects", nested(60)),
        (
            "parentheses",
            json!({"type": "string", "pattern": format!("{}a{}", "(".repeat(60_000), ")".repeat(60_000))}),
        ),
        (
            "nested groups",
            json!({"type": "string", "pattern": format!("{}a{}", "(".repeat(2000), ")".repeat(2000))}),
        ),
        ("repetition", json!({"type": "string", "pattern": "(a{0,100000}){0,100000}"})),
        (
            "a cycle",
            json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}),
        ),
        ("an enum", json!({"enum": many})),
        ("large counts", json!({"type": "array", "items": {"type": "string"}, "minItems": 4_000_000_000u64})),
        ("a long string", json!({"type": "string", "minLength": 4_000_000_000u64})),
    ];
    for (name, schema) in cases {
        let started = Instant::now();
        let result = grammars.constraint(&Grammar::Schema(schema), None);
        assert!(started.elapsed().as_secs_f64() < 2.5, "{name} took {:?}", started.elapsed());
        println!("{name}: {:?} {:?}", result.err().map(|e| e.to_string()), started.elapsed());
    }
    let deep = grammars.constraint(&Grammar::Schema(nested(100)), None);
    assert!(deep.err().unwrap().to_string().contains("nested deeper"));
}

#[test]
fn calls_are_written_as_their_family_writes_them() {
    use crate::prompt::output::{OutputReader, OutputSyntax, Piece, ReaderOptions, jinja_syntax};
    let tokenizer = tokenizer();
    let grammars = Grammars::new(&tokenizer).unwrap();
    let mut random = Random(11);
    let tools = vec![
        json!({"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"$ref": "#/$defs/c"}}, "required": ["city"], "additionalProperties": false, "$defs": {"c": {"enum": ["Rome", "Bern"]}}}}}),
        json!({"type": "function", "function": {"name": "stop", "parameters": {"type": "object", "properties": {}, "additionalProperties": false}}}),
    ];
    let templates = [
        "tools <tool_call>",
        "tools [TOOL_CALLS]",
        "tools [TOOL_CALLS][ARGS]",
        "tools <|python_tag|>",
        "tools <｜tool▁calls▁begin｜><｜tool▁sep｜>```json",
        "tools <｜tool▁calls▁begin｜><｜tool▁sep｜>",
        "tools <|tool_calls_section_begin|><|tool_call_argument_begin|>",
        "tools <|START_ACTION|> \"tool_name\"",
        "tools <TOOLCALL>",
        "tools <tool_call><function=<parameter=",
        "tools <minimax:tool_call><invoke name=",
        "tools <function name=<param name=",
        "tools <tool_call><arg_key><arg_value>",
    ];
    for template in templates {
        let syntax = jinja_syntax(template).tools.unwrap();
        let grammar = Grammar::Tools { syntax: syntax.clone(), tools: tools.clone(), parallel: true };
        for _ in 0..5 {
            let mut constraint = grammars.constraint(&grammar, None).unwrap();
            let text = sample(&tokenizer, &mut constraint, &mut random, 600).unwrap();
            let options =
                ReaderOptions { tools: vec!["weather".into(), "stop".into()], ..ReaderOptions::default() };
            let mut reader =
                OutputReader::new(&OutputSyntax { thinking: None, tools: Some(syntax.clone()) }, options);
            let mut pieces = reader.push(&text);
            pieces.extend(reader.finish());
            assert!(
                !pieces.is_empty() && pieces.iter().all(|p| matches!(p, Piece::ToolCall { .. })),
                "{template}: {text:?} {pieces:?}"
            );
        }
    }
}

/// A text between tags is any text up to its tag, and what follows is what the family writes.
#[test]
fn a_text_between_tags_ends_at_its_tag() {
    use crate::prompt::output::jinja_syntax;
    let tokenizer = tokenizer();
    let grammars = Grammars::new(&tokenizer).unwrap();
    let parameters = json!({
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "unit": {"enum": ["C", "F"]}},
        "required": ["city", "unit"],
    });
    let tools = vec![json!({"type": "function", "function": {"name": "weather", "parameters": parameters}})];
    let syntax = jinja_syntax("tools <tool_call><function=<parameter=").tools.unwrap();
    let grammar = Grammar::Tools { syntax, tools, parallel: true };
    let call =
        |arguments: &str| format!("<tool_call>\n<function=weather>\n{arguments}</function>\n</tool_call>");
    let city = "<parameter=city>\nA <b>\n\"c\"\n</parameter>\n";
    let unit = "<parameter=unit>\nC\n</parameter>\n";
    for (text, fits) in [
        (call(&format!("{city}{unit}")), true),
        (call(&format!("{city}<parameter=days>\n3\n</parameter>\n{unit}")), true),
        (call(unit), false),
        (call(&format!("{city}<parameter=days>\nx\n</parameter>\n{unit}")), false),
        (call(&format!("{city}<parameter=other>\nx\n</parameter>\n{unit}")), false),
    ] {
        let mut constraint = grammars.constraint(&grammar, None).unwrap();
        let allowed =
            tokenizer.encode(&text, crate::tokenizer::EncodeOptions::default()).into_iter().all(|id| {
                let mut logits = vec![0.0; tokenizer.vocab_size()];
                constraint.mask(&mut logits).unwrap();
                logits[id as usize] == 0.0 && constraint.accept(id, tokenizer.decode_bytes(id)).is_ok()
            });
        assert_eq!(allowed, fits, "{text}");
    }
}

#[test]
fn a_grammar_can_begin_after_thinking() {
    let tokenizer = tokenizer();
    let grammars = Grammars::new(&tokenizer).unwrap();
    let after = After { open: "<think>", close: "</think>", begun: true };
    let mut constraint = grammars.constraint(&Grammar::Json, Some(after)).unwrap();
    let mut logits = vec![0.0; tokenizer.vocab_size()];
    for part in [&b"so it is </th"[..], b"ink", b"> "] {
        constraint.mask(&mut logits).unwrap();
        assert!(logits.iter().all(|l| *l == 0.0));
        constraint.accept(1, part).unwrap();
    }
    constraint.mask(&mut logits).unwrap();
    assert!(logits.contains(&f32::NEG_INFINITY));
    // A model that does not begin to think is constrained from its first token on.
    let perhaps = || grammars.constraint(&Grammar::Json, Some(After { begun: false, ..after })).unwrap();
    let open = (0..tokenizer.vocab_size() as u32).find(|id| tokenizer.decode_bytes(*id) == b"<").unwrap();
    for (likeliest, thinks) in [(open, true), (0, false)] {
        let mut logits = vec![0.0; tokenizer.vocab_size()];
        logits[likeliest as usize] = 9.0;
        perhaps().mask(&mut logits).unwrap();
        assert_eq!(logits.contains(&f32::NEG_INFINITY), !thinks);
    }
}

#[test]
fn the_cache_is_bounded() {
    let tokenizer = tokenizer();
    let grammars = Grammars::new(&tokenizer).unwrap();
    for i in 0..100 {
        grammars.constraint(&Grammar::Schema(json!({"const": i})), None).unwrap();
    }
    assert_eq!(grammars.kept.lock().unwrap().len(), Limits::default().kept);
}
