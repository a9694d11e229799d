//! Looks at a GGUF model from outside: logits, greedy tokens, token ids, speed.
//!
//! ```text
//! evaluate logits     MODEL IDS OUT            float32 [tokens, vocabulary], row i after token i
//! evaluate greedy     MODEL N IDS              N ids; an end-of-generation token does not end it
//! evaluate tokenize   MODEL TEXT               ids of the text, with BOS where the model wants it
//! evaluate speed      MODEL PROMPT N           tokens/s of a prompt of so many tokens, and of N more
//! ```
//!
//! TEXT and IDS are files; ids are decimal numbers with white space between them.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use mdl::diagnostic::{Diagnostic, Result};
use mdl::passes::resolve;
use mdl::runtime::engine::{Session, SessionOptions};
use mdl::runtime::generate::{Greedy, Sampler as _};
use mdl::runtime::loaded::Loaded;
use mdl::tokenizer::EncodeOptions;
use mdl::world::SystemWorld;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments.as_slice() {
        ["logits", model, ids, out] => logits(model, ids, out),
        ["greedy", model, n, ids] => number(n).and_then(|n| greedy(model, n, ids)),
        ["tokenize", model, text] => tokenize(model, text),
        ["speed", model, prompt, n] => {
            number(prompt).and_then(|prompt| number(n).and_then(|n| speed(model, prompt, n)))
        }
        _ => Err(Diagnostic::usage("see the top of examples/evaluate.rs").into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(errors) => {
            eprintln!("{errors}");
            ExitCode::from(errors.exit_code())
        }
    }
}

fn open(model: &str) -> Result<Loaded> {
    let threads = std::env::var("MDL_THREADS").ok().and_then(|t| t.parse().ok());
    Loaded::open(
        &resolve::open_gguf(&SystemWorld, Path::new(model))?,
        mdl::runtime::device::Compute::cpu(threads),
    )
}

fn session(loaded: &Loaded, context: usize, outputs: usize) -> Result<Session> {
    let columns = context.clamp(1, 512);
    loaded.model.session(&SessionOptions { context, columns, outputs, ..SessionOptions::default() })
}

fn read(path: &str) -> Result<String> {
    std::fs::read_to_string(path).map_err(|e| Diagnostic::io("read", Path::new(path), &e).into())
}

fn number(text: &str) -> Result<usize> {
    text.parse().map_err(|_| Diagnostic::usage(format!("`{text}` is no number")).into())
}

fn ids(path: &str) -> Result<Vec<u32>> {
    let parse = |word: &str| word.parse().map_err(|_| Diagnostic::error(format!("`{word}` is no id")).into());
    read(path)?.split_whitespace().map(parse).collect()
}

fn logits(model: &str, path: &str, out: &str) -> Result<()> {
    let loaded = open(model)?;
    let tokens = ids(path)?;
    let failed = |e: std::io::Error| Diagnostic::io("write", Path::new(out), &e);
    let mut file = std::io::BufWriter::new(std::fs::File::create(out).map_err(failed)?);
    session(&loaded, tokens.len(), 64.min(tokens.len()))?.logits_all(&tokens, |_, row| {
        for value in row {
            file.write_all(&value.to_le_bytes()).map_err(failed)?;
        }
        Ok(())
    })?;
    file.flush().map_err(|e| failed(e).into())
}

fn greedy(model: &str, n: usize, path: &str) -> Result<()> {
    let loaded = open(model)?;
    let tokens = ids(path)?;
    let mut session = session(&loaded, tokens.len() + n, 1)?;
    let mut chosen = Vec::with_capacity(n);
    let mut token = Greedy.sample(session.prefill(&tokens)?)?;
    for _ in 0..n {
        chosen.push(token.to_string());
        token = Greedy.sample(session.decode(token)?)?;
    }
    println!("{}", chosen.join(" "));
    Ok(())
}

fn tokenize(model: &str, path: &str) -> Result<()> {
    let options = EncodeOptions { add_special: true, parse_special: false };
    let ids = open(model)?.tokenizer.encode(&read(path)?, options);
    println!("{}", ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" "));
    Ok(())
}

fn speed(model: &str, prompt: usize, n: usize) -> Result<()> {
    let loaded = open(model)?;
    let vocabulary = loaded.tokenizer.vocab_size() as u32;
    let tokens: Vec<u32> = (0..prompt as u32).map(|i| i.wrapping_mul(7919) % vocabulary).collect();
    let mut session = session(&loaded, prompt + n, 1)?;
    session.prefill(&tokens[..1])?;
    session.truncate(0);
    let started = Instant::now();
    let mut token = Greedy.sample(session.prefill(&tokens)?)?;
    let prefill = started.elapsed();
    let started = Instant::now();
    for _ in 0..n {
        token = Greedy.sample(session.decode(token)?)?;
    }
    let decode = started.elapsed();
    let rate = |n: usize, seconds: f64| n as f64 / seconds;
    println!("{:.1} {:.1}", rate(prompt, prefill.as_secs_f64()), rate(n, decode.as_secs_f64()));
    Ok(())
}
