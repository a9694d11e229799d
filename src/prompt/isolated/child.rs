//! The process that renders.

use std::io::{self, Write as _};
use std::process;
use std::sync::mpsc::{self, Receiver};
use std::thread;

use crate::diagnostic::Result;
use crate::prompt::jinja::JinjaTemplate;
use crate::prompt::limits::Limits;

use super::restrict::restrict;
use super::wire::{self, Failure, Request};

/// Compiled templates that are kept.
const KEPT: usize = 8;

/// Exit codes, for whoever traces the process.
const FAILED: i32 = 70;

/// Renders what standard input asks for until it ends. Never returns.
pub fn child_main() -> ! {
    process::exit(match serve() {
        Ok(()) => 0,
        Err(_) => FAILED,
    })
}

/// Reads requests here and renders them on a thread with a stack for it: the end of input ends the
/// process, whatever that thread does.
fn serve() -> io::Result<()> {
    let (sender, requests) = mpsc::sync_channel(0);
    thread::Builder::new()
        .name("template".to_owned())
        .stack_size(Limits::DEFAULT.stack_bytes)
        .spawn(move || answer_all(&requests))?;
    restrict()?;
    wire::write_frame(&mut io::stdout().lock(), &[wire::READY])?;
    let mut input = io::stdin().lock();
    while let Some(frame) = wire::read_frame(&mut input, wire::REQUEST_BYTES)? {
        if sender.send(frame).is_err() {
            break;
        }
    }
    Ok(())
}

/// Ends the process when its thread panics: the parent then starts another.
struct EndOnPanic;

impl Drop for EndOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            process::exit(FAILED);
        }
    }
}

fn answer_all(requests: &Receiver<Vec<u8>>) {
    let _end = EndOnPanic;
    let mut kept = Vec::new();
    for frame in requests {
        if answer(&frame, &mut kept).is_err() {
            process::exit(FAILED);
        }
    }
}

fn answer(frame: &[u8], kept: &mut Vec<JinjaTemplate>) -> io::Result<()> {
    let request = Request::decode(frame).ok_or(io::ErrorKind::InvalidData)?;
    let rendered = find(&request, kept).and_then(|template| {
        let input = request.into_input();
        let (variables, now) = input.ok_or_else(|| crate::diagnostic::Errors(Vec::new()))?;
        template.render_here(variables, now)
    });
    let mut out = io::stdout().lock();
    match rendered {
        Ok(text) => wire::write_frame(&mut out, &[&[wire::TEXT], text.as_bytes()])?,
        Err(errors) => {
            let json = serde_json::to_vec(&Failure::new(&errors))?;
            wire::write_frame(&mut out, &[&[wire::ERROR], &json])?;
        }
    }
    out.flush()
}

/// The template of a request, from the last ones where it is among them.
fn find(request: &Request<'_>, kept: &mut Vec<JinjaTemplate>) -> Result<JinjaTemplate> {
    let same = |t: &JinjaTemplate| {
        *t.limits() == request.limits && t.source().text == request.source && t.source().name == request.name
    };
    let template = match kept.iter().position(same) {
        Some(at) => kept.remove(at),
        None => JinjaTemplate::unread(&request.name, &request.source, request.limits)?,
    };
    kept.truncate(KEPT - 1);
    kept.insert(0, template.clone());
    Ok(template)
}
