//! What a server has room for: slots, the queue, loaded models, prompts that come again.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod server;

use std::net::TcpStream;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use server::{Raw, Server, Setup, endless, until};

/// Each test measures how long something takes: one at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

const SECOND: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(20);

/// A number of `/api/mdl/usage`, of the model that is loaded; 0 where there is none.
fn usage(server: &Server, name: &str) -> u64 {
    server.get("/api/mdl/usage").json()["models"][0][name].as_u64().unwrap_or(0)
}

/// Requests that wait, as the whole server counts them.
fn waiting(server: &Server) -> u64 {
    server.get("/api/mdl/usage").json()["requests_waiting"].as_u64().unwrap()
}

fn running(server: &Server) -> Vec<String> {
    let models = server.get("/api/ps").json()["models"].clone();
    models.as_array().unwrap().iter().map(|m| m["name"].as_str().unwrap().to_owned()).collect()
}

/// A short question in each way to ask.
fn questions() -> [(&'static str, Value); 7] {
    let messages = json!([{"role": "user", "content": "Emma"}]);
    [
        ("/api/generate", json!({"model": "story", "prompt": "Emma", "options": {"num_predict": 2}})),
        ("/api/chat", json!({"model": "story", "messages": messages, "options": {"num_predict": 2}})),
        ("/api/embed", json!({"model": "story", "input": "Emma"})),
        ("/v1/completions", json!({"model": "story", "prompt": "Emma", "max_tokens": 2})),
        ("/v1/chat/completions", json!({"model": "story", "messages": messages, "max_tokens": 2})),
        ("/v1/responses", json!({"model": "story", "input": "Emma", "max_output_tokens": 2})),
        ("/v1/messages", json!({"model": "story", "messages": messages, "max_tokens": 2})),
    ]
}

#[test]
fn a_request_beyond_the_queue_is_refused_at_once() {
    let _alone = alone();
    let server = Server::start_with(&["--max-queue", "2", "--parallel", "1"]);
    let ask = || server.open("POST", "/api/generate", "", &endless());
    let first = ask();
    until("one runs", LONG, || usage(&server, "active") == 1 && waiting(&server) == 0);
    let others = [ask(), ask()];
    until("two wait", LONG, || waiting(&server) == 2);
    let text = "server busy, please try again.  maximum pending requests exceeded";
    for (path, body) in questions() {
        for stream in [true, false] {
            let mut body = body.clone();
            if path != "/api/embed" {
                body["stream"] = json!(stream);
            }
            let asked = Instant::now();
            let answer = server.raw("POST", path, "", &body.to_string());
            assert!(asked.elapsed() < Duration::from_millis(500), "{path}: {:?}", asked.elapsed());
            assert_eq!(answer.status, 503, "{path}: {}", answer.body);
            assert_eq!(answer.header("retry-after"), Some("1"), "{path}");
            assert_eq!(answer.header("content-type"), Some("application/json"), "{path}");
            let answer = answer.json();
            match path {
                "/v1/messages" => {
                    assert_eq!(
                        (&answer["type"], &answer["error"]["type"]),
                        (&json!("error"), &json!("overloaded_error"))
                    );
                    assert_eq!(answer["error"]["message"], text);
                }
                p if p.starts_with("/v1/") => {
                    assert_eq!(
                        (&answer["error"]["message"], &answer["error"]["type"]),
                        (&json!(text), &json!("api_error"))
                    );
                }
                _ => assert_eq!(answer, json!({"error": text})),
            }
        }
    }
    // What needs no slot is answered.
    assert_eq!(server.get("/api/tags").status, 200);
    assert_eq!((usage(&server, "active"), waiting(&server)), (1, 2));
    drop((first, others));
    until("all are gone", SECOND, || usage(&server, "active") == 0 && waiting(&server) == 0);
    for (path, body) in questions() {
        assert_eq!(server.post(path, body).status, 200, "{path}");
    }
}

/// Numbers that look random and are the same each time.
fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[test]
fn a_client_that_goes_frees_its_slot() {
    let _alone = alone();
    let server = Server::start_with(&["--parallel", "2"]);
    let busy = |active: u64, queued: u64| {
        move |server: &Server| {
            let all = server.get("/api/mdl/usage").json();
            let model = &all["models"][0];
            model["active"] == active && model["waiting"] == queued && all["requests_waiting"] == queued
        }
    };
    assert_eq!(server.post("/api/generate", json!({"model": "story"})).status, 200);
    let words = "Emma was the youngest of the two daughters of a most affectionate, indulgent father. ";
    let mut state = 0x9e37_79b9_7f4a_7c15;
    let mut slowest = Duration::ZERO;
    for round in 0..24 {
        // A quarter of them in a queue: both slots are taken.
        let queued = round % 4 == 3;
        let taken: Vec<TcpStream> = match queued {
            true => (0..2).map(|_| server.open("POST", "/api/generate", "", &endless())).collect(),
            false => Vec::new(),
        };
        let before = if queued { 2 } else { 0 };
        until("the slots are taken", LONG, || busy(before, 0)(&server));
        let stream = random(&mut state).is_multiple_of(2);
        // A prompt of its own each time, so that there is something to compute; some are long.
        let prompt = format!("{round} {}", words.repeat(if round % 2 == 0 { 16 } else { 1 }));
        let messages = json!([{"role": "user", "content": prompt}]);
        let options = json!({"temperature": 0, "num_predict": 1_000_000});
        let (path, body) = match random(&mut state) % 3 {
            0 => (
                "/api/generate",
                json!({"model": "story", "prompt": prompt, "raw": true, "stream": stream, "options": options}),
            ),
            1 => (
                "/v1/chat/completions",
                json!({"model": "story", "messages": messages, "n": 2, "stream": stream}),
            ),
            _ => (
                "/v1/messages",
                json!({"model": "story", "messages": messages, "max_tokens": 4000, "stream": stream}),
            ),
        };
        let client = server.open("POST", path, "", &body.to_string());
        std::thread::sleep(Duration::from_millis(random(&mut state) % 120));
        drop(client);
        let gone = Instant::now();
        until(&format!("{path} ({round}) has left"), SECOND, || busy(before, 0)(&server));
        slowest = slowest.max(gone.elapsed());
        drop(taken);
        until("the slots are free", SECOND, || busy(0, 0)(&server));
        assert_eq!(usage(&server, "kv_pages_used"), 0);
    }
    println!("the slowest left after {slowest:?}");
    let ask = json!({"model": "story", "prompt": "Emma", "stream": false, "options": {"num_predict": 2}});
    assert_eq!(server.post("/api/generate", ask).status, 200);
}

#[test]
fn an_idle_model_stays_as_long_as_it_is_told() {
    let _alone = alone();
    let server = Server::start();
    let ask = |keep: Value| {
        let body = json!({"model": "story", "prompt": "Emma", "stream": false, "keep_alive": keep, "options": {"num_predict": 2}});
        let answer = server.post("/api/generate", body);
        assert_eq!(answer.status, 200, "{}", answer.body);
    };
    ask(json!("5m"));
    assert_eq!(running(&server), ["story:latest"]);
    ask(json!(0));
    until("it is gone", SECOND, || running(&server).is_empty());
    ask(json!("1s"));
    assert_eq!(running(&server), ["story:latest"]);
    // It does not go while it is in use, however long that is.
    let body = endless().replacen('{', r#"{"keep_alive": "1s", "#, 1);
    let client = server.open("POST", "/api/generate", "", &body);
    until("it runs", LONG, || usage(&server, "active") == 1);
    std::thread::sleep(Duration::from_millis(1600));
    assert_eq!(running(&server), ["story:latest"]);
    drop(client);
    let free = Instant::now();
    until("it is gone", 3 * SECOND, || running(&server).is_empty());
    assert!(free.elapsed() > Duration::from_millis(900), "{:?}", free.elapsed());
    assert_eq!(server.get("/api/mdl/usage").json()["models"], json!([]));
}

#[test]
fn the_operator_s_keep_alive_holds_where_a_request_says_none() {
    let _alone = alone();
    let server = Setup::new().variable("OLLAMA_KEEP_ALIVE", "1s").start();
    assert_eq!(server.post("/api/generate", json!({"model": "story"})).status, 200);
    assert_eq!(running(&server), ["story:latest"]);
    until("it is gone", 3 * SECOND, || running(&server).is_empty());
}

#[test]
fn a_model_makes_room_for_another() {
    let _alone = alone();
    let server = Setup::new().variable("MDL_MAX_LOADED_MODELS", "1").start();
    let made = json!({"model": "other", "from": "story", "system": "You are another.", "stream": false});
    assert_eq!(server.post("/api/create", made).status, 200);
    let ask = |model: &str| json!({"model": model, "prompt": "Emma", "stream": false, "keep_alive": -1, "options": {"num_predict": 2}});
    for model in ["story", "other", "story"] {
        assert_eq!(server.post("/api/generate", ask(model)).status, 200);
        assert_eq!(running(&server), [format!("{model}:latest")]);
    }
    // One that is in use is waited for.
    let client = server.open("POST", "/api/generate", "", &endless());
    until("it runs", LONG, || usage(&server, "active") == 1);
    let other = server.open("POST", "/api/generate", "", &ask("other").to_string());
    until("the other waits", LONG, || waiting(&server) == 1);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(running(&server), ["story:latest"]);
    drop(client);
    assert_eq!(Raw::read(other).status, 200);
    assert_eq!(running(&server), ["other:latest"]);
}

/// What the engine has counted: tokens of prompts, and those that it generated.
struct Read {
    computed: u64,
    cached: u64,
    generated: u64,
}

impl Read {
    fn now(server: &Server) -> Read {
        Read {
            computed: usage(server, "prompt_tokens"),
            cached: usage(server, "prompt_tokens_cached"),
            generated: usage(server, "generated_tokens"),
        }
    }

    fn since(server: &Server, before: &Read) -> Read {
        let now = Read::now(server);
        Read {
            computed: now.computed - before.computed,
            cached: now.cached - before.cached,
            generated: now.generated - before.generated,
        }
    }
}

#[test]
fn a_conversation_that_goes_on_is_not_read_again() {
    let _alone = alone();
    let server = Server::start();
    let sentence = "Emma was the youngest of the two daughters of a most affectionate, indulgent father. ";
    let options = json!({"temperature": 0, "num_predict": 24});
    let chat = |messages: &Value| {
        let before = Read::now(&server);
        let body = json!({"model": "story", "messages": messages, "options": options, "stream": false});
        let answer = server.post("/api/chat", body).json();
        assert!(answer["truncated"].is_null(), "{answer}");
        // The engine tells the end before it counts.
        let computed = answer["prompt_eval_count"].as_u64().unwrap();
        until("it is counted", LONG, || {
            usage(&server, "generated_tokens") == before.generated + answer["eval_count"].as_u64().unwrap()
        });
        let read = Read::since(&server, &before);
        assert_eq!(read.computed, computed);
        (answer, read)
    };
    assert_eq!(server.post("/api/generate", json!({"model": "story"})).status, 200);
    let mut messages = json!([{"role": "user", "content": sentence.repeat(14)}]);
    let (first, read) = chat(&messages);
    let all_of_first = read.computed + read.cached;
    assert!((200..450).contains(&all_of_first), "{all_of_first}");
    assert_eq!((first["prompt_eval_count"].as_u64(), read.cached), (Some(all_of_first), 0));
    messages.as_array_mut().unwrap().push(first["message"].clone());
    messages.as_array_mut().unwrap().push(json!({"role": "user", "content": "And then?"}));
    let (second, read) = chat(&messages);
    let computed = read.computed;
    assert_eq!(second["prompt_eval_count"], computed);
    println!(
        "first: {all_of_first} tokens; second: {} tokens, {computed} computed",
        read.computed + read.cached
    );
    // The text of an answer need not be split into the tokens that it came as; the first prompt is.
    assert!(read.cached >= all_of_first, "{} of {all_of_first}", read.cached);
    assert!(computed <= read.computed + read.cached - all_of_first);
    assert!(computed * 4 < all_of_first, "{computed} of {all_of_first}");
    // The same again: all but the last token, whose output is needed.
    assert_eq!(chat(&messages).0["prompt_eval_count"], 1);
}

/// With the tokens of the answer themselves (`context`), what is new is exactly what is computed.
#[test]
fn tokens_of_an_answer_are_not_computed_again() {
    let _alone = alone();
    let server = Server::start();
    let sentence = "Emma was the youngest of the two daughters of a most affectionate, indulgent father. ";
    let ask = |prompt: &str, context: &Value| {
        let options = json!({"temperature": 0, "num_predict": 24});
        let body = json!({"model": "story", "prompt": prompt, "context": context, "options": options, "stream": false});
        server.post("/api/generate", body).json()
    };
    let number = |answer: &Value, name: &str| answer[name].as_u64().unwrap() as usize;
    let length = |answer: &Value| answer["context"].as_array().unwrap().len();
    let first = ask(&sentence.repeat(14), &Value::Null);
    assert_eq!(length(&first), number(&first, "prompt_eval_count") + number(&first, "eval_count"));
    assert!(length(&first) > 200, "{}", length(&first));
    let mut before = first;
    for _ in 0..3 {
        let next = ask("And then?", &before["context"]);
        let prompt = length(&next) - number(&next, "eval_count");
        // A token that was generated is computed when another comes after it: not the last one, unless
        // what came after it ended the answer.
        let known = length(&before) - usize::from(before["done_reason"] == "length");
        assert_eq!(number(&next, "prompt_eval_count"), prompt - known, "{prompt} - {known}");
        before = next;
    }
}
