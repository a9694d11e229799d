use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::*;
use crate::modelfile;
use crate::passes::{Context, Options, resolve};
use crate::runtime::sampler::SamplerOptions;
use crate::world::SystemWorld;

/// The storyteller, built to a file once.
fn storyteller() -> Arc<Loaded> {
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
    let module = resolve::open_gguf(&SystemWorld, path).unwrap();
    Arc::new(Loaded::open(&module, Some(2)).unwrap())
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
    while engine.usage().active > 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let usage = engine.usage();
    assert_eq!((usage.pages_used, usage.waiting, usage.slots), (0, 0, 5));
    assert!(usage.pages_cached > 0 && usage.prompt_tokens_cached > 0);
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
    // A sink that panics harms nobody else.
    engine.submit(request(vec![1; 3], options(1, 2)), Box::new(|_| panic!("a bad sink")));
    assert_eq!(told(vec![1; 3]), None);
}

#[test]
fn a_text_becomes_a_vector() {
    let model = storyteller();
    let engine = engine(&model, 2, 256);
    let embed = |tokens: Vec<u32>| {
        let (sender, receiver) = mpsc::channel();
        engine.embed(tokens, Arc::default(), Box::new(move |result| sender.send(result).unwrap()));
        receiver.recv().unwrap()
    };
    let tokens = prompts(&model, 1).remove(0);
    let busy = call(&engine, request(tokens.clone(), options(1, 30)));
    let one = embed(tokens.clone()).unwrap();
    assert_eq!(one.tokens, tokens.len());
    assert_eq!(one.values.len(), model.model.spec().embedding_length);
    assert_eq!(embed(tokens.clone()).unwrap(), one);
    assert_ne!(embed(tokens[1..].to_vec()).unwrap().values, one.values);
    assert!(embed(Vec::new()).is_err());
    drop(busy.wait());
}

#[test]
fn a_dropped_engine_still_answers() {
    let model = storyteller();
    let engine = engine(&model, 1, 64);
    let calls: Vec<Call> = (0..3).map(|i| call(&engine, request(vec![1, 2, 3], options(i, 5)))).collect();
    drop(engine);
    assert!(calls.iter().all(|c| c.wait().ended.is_some()));
}
