use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::json;

use super::*;
use crate::modelfile;
use crate::passes::{Context, Options, resolve};
use crate::runtime::constrain::{Grammar, Grammars};
use crate::runtime::device::Compute;
use crate::runtime::sampler::SamplerOptions;
use crate::world::SystemWorld;

mod embedding;
mod steps;
mod watched;

/// The storyteller, built to a file once.
fn storyteller() -> Arc<Loaded> {
    Arc::new(open_storyteller(None))
}

/// The same with a `pooling_type`.
fn open_storyteller(pooling_type: Option<u32>) -> Loaded {
    static FILE: std::sync::OnceLock<(tempfile::TempDir, std::path::PathBuf)> = std::sync::OnceLock::new();
    let (_, path) = FILE.get_or_init(|| {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("story.gguf");
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/storyteller");
        let checked = modelfile::check(&SystemWorld, &directory, "Modelfile", b"FROM .");
        let (recipe, _) = checked.into_recipe().unwrap();
        let preset = crate::passes::quantize::mixture::find("q8_0");
        let options = Options { preset, ..Options::default() };
        let context = Context::new(&SystemWorld, None, directory, options);
        let module = resolve::run(&recipe, &context)
            .and_then(|m| crate::passes::import::run(m, &context))
            .and_then(|m| crate::passes::quantize::run(m, &context))
            .unwrap();
        let mut file = std::fs::File::create(&path).unwrap();
        struct Silent;
        impl crate::codegen::Progress for Silent {}
        crate::codegen::write_weights(&module, &mut file, &path, &Silent).unwrap();
        (place, path)
    });
    let mut module = resolve::open_gguf(&SystemWorld, path).unwrap();
    if let Some(pooling_type) = pooling_type {
        let key = format!("{}.pooling_type", module.architecture().unwrap());
        module.metadata.set(key, pooling_type);
    }
    Loaded::open(&module, Compute::cpu(Some(2))).unwrap()
}

fn engine(model: &Arc<Loaded>, parallel: usize, context: usize) -> Engine {
    Engine::start(model.clone(), EngineOptions { parallel, context, columns: 64, kv: None }).unwrap()
}

/// Everything that was told of a request.
#[derive(Default)]
struct Told {
    text: String,
    tokens: Vec<u32>,
    logprobs: Vec<TokenLogprob>,
    began: Option<(usize, usize)>,
    ended: Option<(Done, Option<String>, Stats)>,
    failed: Option<String>,
}

struct Call {
    told: Arc<Mutex<Told>>,
    cancelled: Arc<AtomicBool>,
}

impl Call {
    fn wait(&self) -> std::sync::MutexGuard<'_, Told> {
        let start = Instant::now();
        loop {
            let told = self.told.lock().unwrap();
            if told.ended.is_some() || told.failed.is_some() {
                return told;
            }
            drop(told);
            assert!(start.elapsed() < Duration::from_secs(60), "no end");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn options(seed: i64, num_predict: usize) -> GenerateOptions {
    GenerateOptions {
        sampler: SamplerOptions {
            seed,
            temperature: if seed < 0 { 0.0 } else { 1.0 },
            ..SamplerOptions::default()
        },
        num_predict: Some(num_predict),
        ..GenerateOptions::default()
    }
}

fn request(prompt: Vec<u32>, options: GenerateOptions) -> Request {
    Request {
        prompt,
        options,
        shift: true,
        logprobs: None,
        logit_bias: Vec::new(),
        constraint: None,
        cancelled: Arc::default(),
    }
}

fn call(engine: &Engine, request: Request) -> Call {
    let told = Arc::new(Mutex::new(Told::default()));
    let call = Call { told: told.clone(), cancelled: request.cancelled.clone() };
    engine.submit(
        request,
        Box::new(move |event| {
            let mut told = told.lock().unwrap();
            assert!(told.ended.is_none() && told.failed.is_none(), "nothing comes after the end");
            match event {
                Event::Began { cached, evaluated } => told.began = Some((cached, evaluated)),
                Event::Text { text, tokens, logprobs } => {
                    told.text.push_str(&text);
                    told.tokens.extend(tokens);
                    told.logprobs.extend(logprobs);
                }
                Event::Ended { done, stop, stats } => told.ended = Some((done, stop, stats)),
                Event::Failed(errors) => told.failed = Some(errors.to_string()),
            }
        }),
    );
    call
}

/// Prompts of unequal lengths, half of which begin alike.
fn prompts(model: &Loaded, n: usize) -> Vec<Vec<u32>> {
    let shared = "Once upon a time there was a little girl who lived near the sea. ".repeat(2);
    (0..n)
        .map(|i| {
            let own = format!("Number {i} had {} shells and a boat. ", i * 7).repeat(1 + i % 4);
            model.tokens(&if i % 2 == 0 { format!("{shared}{own}") } else { own })
        })
        .collect()
}

/// Prompt, seed and options say everything: not who else asks, nor what the cache holds.
#[test]
fn an_answer_does_not_depend_on_others() {
    let model = storyteller();
    let alone = |prompt: &[u32], seed| {
        let engine = engine(&model, 1, 256);
        let call = call(&engine, request(prompt.to_vec(), options(seed, 24)));
        call.wait().tokens.clone()
    };
    let prompts = prompts(&model, 12);
    let engine = engine(&model, 5, 256);
    let expected: Vec<Vec<u32>> = prompts.iter().zip(-1..).map(|(p, seed)| alone(p, seed)).collect();
    for round in 0..3 {
        let calls: Vec<Call> = prompts
            .iter()
            .zip(-1..)
            .map(|(p, seed)| call(&engine, request(p.clone(), options(seed, 24))))
            .collect();
        // Some leave, and nobody else notices.
        for i in (round..calls.len()).step_by(5) {
            calls[i].cancelled.store(true, Ordering::Relaxed);
        }
        for (i, call) in calls.iter().enumerate() {
            let told = call.wait();
            if call.cancelled.load(Ordering::Relaxed) {
                assert!(expected[i].starts_with(&told.tokens));
            } else {
                assert_eq!(told.tokens, expected[i], "round {round}, request {i}");
            }
        }
    }
    idle(&engine);
    let usage = engine.usage();
    assert_eq!(usage.slots, 5);
    assert!(usage.pages_cached > 0 && usage.prompt_tokens_cached > 0);
}

/// A session of its own generates the same text: sampler, stops, limits and shifts mean the same here.
#[test]
fn an_answer_is_that_of_a_session() {
    let model = storyteller();
    let prompts = prompts(&model, 6);
    for (context, predict) in [(256, 20), (48, 70)] {
        let engine = engine(&model, 3, context);
        let asked: Vec<(Vec<u32>, GenerateOptions)> = prompts
            .iter()
            .zip(-1..)
            .map(|(prompt, seed)| {
                let mut options = options(seed, predict);
                options.num_ctx = Some(context as u64);
                if seed == 2 {
                    options.stop = vec![" the".to_owned()];
                    options.sampler.repeat_penalty = 1.3;
                }
                (prompt[..prompt.len().min(context - 9)].to_vec(), options)
            })
            .collect();
        let calls: Vec<Call> =
            asked.iter().map(|(p, o)| call(&engine, request(p.clone(), o.clone()))).collect();
        for ((prompt, options), call) in asked.iter().zip(&calls) {
            let mut session = model.session(options).unwrap();
            let mut text = String::new();
            let mut write = |piece: &str| {
                text.push_str(piece);
                Ok(())
            };
            let outcome =
                model.generate(&mut session, prompt, options, &AtomicBool::new(false), &mut write).unwrap();
            let told = call.wait();
            let (done, _, stats) = told.ended.as_ref().unwrap();
            assert_eq!((&told.text, *done), (&text, outcome.done));
            assert_eq!(stats.eval_count, outcome.stats.eval_count);
            assert_eq!(stats.prompt_eval_count + stats.prompt_cached_count, prompt.len());
        }
    }
}

/// Many at once, some of which leave after any number of tokens: exactly then, and nobody else notices.
#[test]
fn who_leaves_leaves_at_once() {
    let model = storyteller();
    let prompts = prompts(&model, 20);
    let hot = |i: usize| {
        let mut options = options(i as i64, 12);
        options.sampler.temperature = [0.0, 0.4, 1.0, 1.7][i % 4];
        options
    };
    let engine = engine(&model, 4, 256);
    let expected: Vec<Vec<u32>> =
        (0..20).map(|i| call(&engine, request(prompts[i].clone(), hot(i))).wait().tokens.clone()).collect();
    let mut random = 0x2545_f491_4f6c_dd1du64;
    let mut ends = Vec::new();
    for (i, prompt) in prompts.iter().enumerate() {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let leaves_after = (!random.is_multiple_of(3)).then_some(1 + random as usize / 3 % 9);
        let request = request(prompt.clone(), hot(i));
        let cancelled = request.cancelled.clone();
        let (sender, receiver) = mpsc::channel();
        let mut tokens = Vec::new();
        let sink = move |event| match event {
            Event::Text { tokens: more, .. } => {
                tokens.extend(more);
                if leaves_after.is_some_and(|n| tokens.len() >= n) {
                    cancelled.store(true, Ordering::Relaxed);
                }
            }
            Event::Ended { done, .. } => sender.send((done, tokens.clone())).unwrap(),
            Event::Failed(errors) => panic!("{errors}"),
            Event::Began { .. } => {}
        };
        engine.submit(request, Box::new(sink));
        ends.push((leaves_after, receiver));
    }
    for ((leaves_after, end), expected) in ends.into_iter().zip(expected) {
        let (done, tokens) = end.recv().unwrap();
        match leaves_after {
            Some(n) if n < expected.len() => assert_eq!((done, &*tokens), (Done::Cancelled, &expected[..n])),
            _ => assert_eq!(tokens, expected),
        }
    }
    idle(&engine);
}

/// Waits until nothing runs; then nothing holds a page.
fn idle(engine: &Engine) {
    let start = Instant::now();
    while engine.usage().active > 0 {
        assert!(start.elapsed() < Duration::from_secs(60), "it never rests");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!((engine.usage().pages_used, engine.usage().waiting), (0, 0));
}

#[test]
fn the_second_turn_computes_only_what_is_new() {
    let model = storyteller();
    let engine = engine(&model, 2, 512);
    let prompt = prompts(&model, 1).remove(0);
    let first = call(&engine, request(prompt.clone(), options(3, 20)));
    let first = first.wait();
    assert_eq!(first.began, Some((0, prompt.len())));
    // What was said last has not been computed; all before it has.
    let mut second = [prompt.clone(), first.tokens.clone()].concat();
    let known = second.len() - 1;
    second.extend(model.tokens("And then?").iter().skip(1));
    let turn = call(&engine, request(second.clone(), options(3, 4)));
    assert_eq!(turn.wait().began, Some((known, second.len() - known)));
    // No whole page of it is known.
    let short = call(&engine, request(vec![9; 5], options(3, 4)));
    let short = [&[9; 5], &short.wait().tokens[..], &[1, 2]].concat();
    let turn = call(&engine, request(short.clone(), options(3, 1)));
    assert_eq!(turn.wait().began, Some((short.len() - 3, 3)));
}

#[test]
fn a_small_cache_is_enough_for_many() {
    let model = storyteller();
    let engine = engine(&model, 3, 48);
    let prompts: Vec<Vec<u32>> = prompts(&model, 9)
        .into_iter()
        .map(|mut p| {
            p.truncate(30);
            p
        })
        .collect();
    let alone: Vec<Vec<u32>> = prompts
        .iter()
        .map(|p| call(&engine, request(p.clone(), options(5, 60))).wait().tokens.clone())
        .collect();
    // Each runs over its context, so that it is shifted, once it shares its pages and once not.
    for _ in 0..2 {
        let calls: Vec<Call> =
            prompts.iter().map(|p| call(&engine, request(p.clone(), options(5, 60)))).collect();
        for (call, expected) in calls.iter().zip(&alone) {
            let told = call.wait();
            assert_eq!(&told.tokens, expected);
        }
    }
    let without = Request { shift: false, ..request(prompts[0].clone(), options(5, 60)) };
    let call = call(&engine, without);
    let told = call.wait();
    assert_eq!(told.ended.as_ref().unwrap().0, Done::Length);
    assert!(told.tokens.len() <= 48 - 30 + 1, "{}", told.tokens.len());
}

#[test]
fn who_leaves_frees_the_slot() {
    let model = storyteller();
    let engine = engine(&model, 1, 256);
    let endless = call(&engine, request(prompts(&model, 1).remove(0), options(7, 100_000)));
    let next = call(&engine, request(prompts(&model, 2).remove(1), options(7, 3)));
    while endless.told.lock().unwrap().tokens.len() < 3 {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(next.told.lock().unwrap().began.is_none());
    endless.cancelled.store(true, Ordering::Relaxed);
    assert!(next.wait().ended.is_some());
    assert_eq!(endless.wait().ended.as_ref().unwrap().0, Done::Cancelled);
}

#[test]
fn stops_logprobs_and_biases() {
    let model = storyteller();
    let engine = engine(&model, 2, 256);
    let prompt = model.tokens("Once upon a time");
    let plain = call(&engine, Request { logprobs: Some(3), ..request(prompt.clone(), options(-1, 12)) });
    let plain = plain.wait();
    for (token, logprob) in plain.tokens.iter().zip(&plain.logprobs) {
        // The likeliest is chosen.
        assert_eq!((logprob.token, logprob.top[0].token, logprob.top.len()), (*token, *token, 3));
        assert!(logprob.logprob <= 0.0 && logprob.top[0].logprob == logprob.logprob);
        assert!(logprob.top.windows(2).all(|w| w[0].logprob >= w[1].logprob));
    }
    let biased =
        Request { logit_bias: vec![(plain.tokens[0], -100.0)], ..request(prompt.clone(), options(-1, 12)) };
    assert_ne!(call(&engine, biased).wait().tokens[0], plain.tokens[0]);
    let word: String = plain.text.split_whitespace().nth(2).unwrap().to_owned();
    let stopping = GenerateOptions { stop: vec![word.clone()], ..options(-1, 12) };
    let stopped = call(&engine, request(prompt, stopping));
    let stopped = stopped.wait();
    assert_eq!(stopped.text, plain.text.split(&word).next().unwrap());
    let (done, stop, _) = stopped.ended.as_ref().unwrap();
    assert_eq!((*done, stop.as_deref()), (Done::Stop, Some(word.as_str())));
}

#[test]
fn what_is_wrong_is_told() {
    let model = storyteller();
    let engine = engine(&model, 1, 32);
    let told = |prompt: Vec<u32>| call(&engine, request(prompt, options(1, 2))).wait().failed.clone();
    assert_eq!(told(Vec::new()).as_deref(), Some("there are no tokens to evaluate"));
    assert_eq!(told(vec![1; 33]).as_deref(), Some("33 tokens do not fit in a context of 32"));
    assert!(told(vec![u32::MAX]).unwrap().contains("beyond the vocabulary"));
    assert_eq!(told(vec![1; 3]), None);
    // A sink that panics harms nobody else, is not called again, and ends its request.
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let bad = move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        panic!("a bad sink");
    };
    let ends = (0..2048).filter(|t| model.tokenizer.is_end_of_generation(*t));
    let logit_bias = ends.map(|t| (t, f32::NEG_INFINITY)).collect();
    let endless = Request { logit_bias, ..request(vec![1; 3], options(1, 200)) };
    let before = engine.usage().generated_tokens;
    engine.submit(endless, Box::new(bad));
    assert_eq!(told(vec![1; 3]), None);
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    assert!(engine.usage().generated_tokens <= before + 1 + 2);
    // Nor does one of no number, or of a grammar that cannot be followed.
    let engine = self::engine(&model, 3, 64);
    let prompt = model.tokens("Once upon a time");
    let expected = call(&engine, request(prompt.clone(), options(4, 8))).wait().tokens.clone();
    let mut dead = grammar(&model, json!({"type": "boolean"}));
    assert!(dead.accept(prompt[0], b"Once").is_err());
    let nan = Request { logit_bias: vec![(7, f32::NAN)], ..request(prompt.clone(), options(4, 8)) };
    let dead = Request { constraint: Some(dead), ..request(prompt.clone(), options(4, 8)) };
    let (nan, dead) = (call(&engine, nan), call(&engine, dead));
    let fine = call(&engine, request(prompt, options(4, 8)));
    assert!(nan.wait().failed.as_ref().unwrap().contains("token 7 is NaN"));
    assert!(dead.wait().failed.as_ref().unwrap().contains("grammar"));
    assert_eq!(fine.wait().tokens, expected);
}

fn grammar(model: &Loaded, schema: serde_json::Value) -> Constraint {
    Grammars::new(&model.tokenizer).unwrap().constraint(&Grammar::Schema(schema), None).unwrap()
}

#[test]
fn a_constraint_ends_its_text() {
    let model = storyteller();
    let engine = engine(&model, 2, 128);
    let prompt = model.tokens("Is the sea blue? ");
    let constraint = Some(grammar(&model, json!({"type": "boolean"})));
    let free = call(&engine, request(prompt.clone(), options(2, 20)));
    let ruled = call(&engine, Request { constraint, ..request(prompt, options(2, 20)) });
    let ruled = ruled.wait();
    assert!(matches!(ruled.text.as_str(), "true" | "false"), "{}", ruled.text);
    assert_eq!(ruled.ended.as_ref().unwrap().0, Done::Stop);
    assert_eq!(free.wait().ended.as_ref().unwrap().2.eval_count, 20);
}

#[test]
fn a_dropped_engine_still_answers() {
    let model = storyteller();
    let engine = engine(&model, 1, 64);
    let calls: Vec<Call> = (0..3).map(|i| call(&engine, request(vec![1, 2, 3], options(i, 5)))).collect();
    drop(engine);
    assert!(calls.iter().all(|c| c.wait().ended.is_some()));
}
