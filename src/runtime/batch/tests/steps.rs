//! What goes into steps, and what becomes of requests when one breaks.

use super::watched::{Fate, until, watched};
use super::*;

/// A hook's gate: the first steps wait until the test has asked all it wants to.
#[derive(Clone, Default)]
struct Gate(Arc<AtomicBool>);

impl Gate {
    fn open(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn pass(&self) {
        until("the gate", || self.0.load(Ordering::Acquire));
    }
}

/// Asks once nothing but the gate holds the engine up, so that all that is asked next waits together.
fn behind_the_gate(engine: &Engine) -> Call {
    let first = call(engine, request(vec![1, 2], options(-1, 1)));
    until("the first step", || engine.usage().active == 1);
    first
}

/// While one decodes, every step has its token, and of prompts no more than a part.
#[test]
fn a_long_prompt_stalls_nobody() {
    let gate = Gate::default();
    let pass = gate.clone();
    let hook = move |step, _: &[_]| {
        if step == 3 {
            pass.pass();
        }
        Fate::Computed
    };
    let (model, watch) = watched(Box::new(hook));
    let options_of = EngineOptions { parallel: 3, context: 512, columns: 200, kv: None };
    let engine = Engine::start(model.clone(), options_of).unwrap();
    let long = prompts(&model, 8).concat();
    let (one, two) = (long[..300].to_vec(), long[7..50].to_vec());
    let writer = call(&engine, request(vec![5; 20], options(1, 40)));
    until("the third step", || watch.seen(|s| s.steps.len()) == 3);
    let others = [one, two].map(|p| call(&engine, request(p, options(2, 4))));
    gate.open();
    others.iter().for_each(|c| assert!(c.wait().ended.is_some()));
    let tokens = writer.wait().tokens.len();
    assert_eq!(tokens, 40);
    let steps = watch.seen(|s| std::mem::take(&mut s.steps));
    assert_eq!(steps[0].len(), 20);
    let mut beside = Vec::new();
    for (i, step) in steps[1..tokens].iter().enumerate() {
        // The writer was first, so that its table is.
        let own: Vec<usize> = step.iter().filter(|c| c.sequence == 0).map(|c| c.position).collect();
        assert_eq!(own, [20 + i], "step {i}");
        beside.push(step.len() - 1);
    }
    let shares: Vec<usize> = beside.into_iter().filter(|n| *n > 2).collect();
    assert_eq!(shares, [128, 128, 44 + 43]);
}

#[test]
fn prompts_are_read_in_the_order_they_came() {
    let gate = Gate::default();
    let pass = gate.clone();
    let (model, watch) = watched(Box::new(move |_, _| {
        pass.pass();
        Fate::Computed
    }));
    let engine = engine(&model, 1, 64);
    let first = behind_the_gate(&engine);
    let calls: Vec<Call> = (0..5).map(|i| call(&engine, request(vec![10 + i; 3], options(1, 2)))).collect();
    // Who leaves the queue is told, and never computed.
    calls[2].cancelled.store(true, Ordering::Relaxed);
    gate.open();
    drop(first.wait());
    calls.iter().for_each(|c| assert!(c.wait().ended.is_some()));
    let begun: Vec<u32> =
        watch.seen(|s| s.steps.iter().flatten().filter(|c| c.position == 0).map(|c| c.token).collect());
    assert_eq!(begun, [1, 10, 11, 13, 14]);
    assert_eq!(calls[2].wait().ended.as_ref().unwrap().0, Done::Cancelled);
}

#[test]
fn a_slot_is_free_in_the_next_step() {
    let cancelled: Arc<AtomicBool> = Arc::default();
    let gate = Gate::default();
    let (leave, pass) = (cancelled.clone(), gate.clone());
    let (model, watch) = watched(Box::new(move |step, _| {
        pass.pass();
        leave.fetch_or(step == 4, Ordering::Relaxed);
        Fate::Computed
    }));
    let engine = engine(&model, 1, 64);
    let endless = Request { cancelled, ..request(vec![1, 2, 3], options(-1, 100_000)) };
    let endless = call(&engine, endless);
    let next = call(&engine, request(vec![4, 5], options(-1, 1)));
    gate.open();
    drop(next.wait());
    assert_eq!(endless.wait().ended.as_ref().unwrap().0, Done::Cancelled);
    let steps = watch.seen(|s| std::mem::take(&mut s.steps));
    assert_eq!(steps[4].len(), 1);
    let after: Vec<(u32, usize)> = steps[5].iter().map(|c| (c.token, c.position)).collect();
    assert_eq!(after, [(4, 0), (5, 1)]);
}

/// Those that are asked together share what the first of them computes.
#[test]
fn the_same_prompt_is_computed_once() {
    let gate = Gate::default();
    let pass = gate.clone();
    let (model, watch) = watched(Box::new(move |_, _| {
        pass.pass();
        Fate::Computed
    }));
    let engine = engine(&model, 5, 256);
    let prompt: Vec<u32> = prompts(&model, 4).concat()[..120].to_vec();
    let alone = call(&self::engine(&storyteller(), 1, 256), request(prompt.clone(), options(3, 6)));
    let first = behind_the_gate(&engine);
    let calls: Vec<Call> = (0..4).map(|_| call(&engine, request(prompt.clone(), options(3, 6)))).collect();
    gate.open();
    drop(first.wait());
    let evaluated: Vec<usize> = calls
        .iter()
        .map(|c| {
            let told = c.wait();
            assert_eq!(told.tokens, alone.wait().tokens);
            let (cached, evaluated) = told.began.unwrap();
            assert_eq!(cached + evaluated, 120);
            evaluated
        })
        .collect();
    // 64 and 56 columns of the first; beside the 56 eight of the second; then seven whole pages are known.
    assert_eq!(evaluated, [120, 16, 8, 8]);
    let columns = watch.seen(|s| s.steps.iter().flatten().filter(|c| (2..120).contains(&c.position)).count());
    assert!(columns <= 120 + 16 + 8 + 8, "{columns}");
    idle(&engine);
    let usage = engine.usage();
    assert_eq!((usage.prompt_tokens, usage.prompt_tokens_cached), (2 + 152, 480 - 152));
    assert_eq!(usage.generated_tokens, 1 + 4 * 6);
}

#[test]
fn a_step_that_is_refused_fails_who_made_it_so() {
    let (model, _) =
        watched(Box::new(|_, columns| match columns.iter().any(|c| c.token == 77 && c.position == 1) {
            true => Fate::Refused,
            false => Fate::Computed,
        }));
    let engine = engine(&model, 4, 128);
    let prompts: Vec<Vec<u32>> = prompts(&model, 3).into_iter().map(|p| p[..20].to_vec()).collect();
    let ask = |p: &Vec<u32>| call(&engine, request(p.clone(), options(9, 15)));
    let expected: Vec<Vec<u32>> = prompts.iter().map(|p| ask(p).wait().tokens.clone()).collect();
    let before: Vec<Call> = prompts.iter().map(ask).collect();
    let bad = ask(&vec![3, 77, 5]);
    assert!(bad.wait().failed.as_ref().unwrap().contains("the step is refused"));
    for (call, expected) in before.iter().zip(&expected) {
        assert_eq!(&call.wait().tokens, expected);
    }
    idle(&engine);
}

#[test]
fn a_panic_fails_who_runs_and_nobody_else() {
    let gate = Gate::default();
    let pass = gate.clone();
    let (model, watch) = watched(Box::new(move |step, _| {
        pass.pass();
        if step == 3 { Fate::Panics } else { Fate::Computed }
    }));
    let engine = engine(&model, 2, 64);
    let calls: Vec<Call> =
        (0..4).map(|i| call(&engine, request(vec![20 + i, 2, 3], options(-1, 12)))).collect();
    gate.open();
    for (i, one) in calls.iter().enumerate() {
        let told = one.wait();
        if i < 2 {
            assert!(told.failed.as_ref().unwrap().contains("a step failed; this is a bug"));
        } else {
            assert_eq!(told.tokens.len(), 12);
        }
    }
    // What the old cache held is not believed to be in the new one.
    let again = call(&engine, request(vec![20, 2, 3], options(-1, 12)));
    let expected = call(&self::engine(&storyteller(), 1, 64), request(vec![20, 2, 3], options(-1, 12)));
    assert_eq!(again.wait().tokens, expected.wait().tokens);
    idle(&engine);
    // There was never room for two.
    assert_eq!(watch.seen(|s| s.states), (1, 1));
}

#[test]
fn without_a_cache_every_request_is_told() {
    let (model, watch) = watched(Box::new(|step, _| if step == 0 { Fate::Panics } else { Fate::Computed }));
    let engine = engine(&model, 2, 64);
    watch.seen(|s| s.full = true);
    let ask = || call(&engine, request(vec![1, 2, 3], options(-1, 3)));
    assert!(ask().wait().failed.as_ref().unwrap().contains("a step failed"));
    for _ in 0..3 {
        assert!(ask().wait().failed.as_ref().unwrap().contains("there is no memory for a cache"));
    }
    watch.seen(|s| s.full = false);
    assert_eq!(ask().wait().tokens.len(), 3);
}

/// What is dropped on the way tells of it.
#[test]
fn nobody_waits_for_ever() {
    let (sender, receiver) = mpsc::channel();
    let events = sender.clone();
    let listener = Listener::new(Box::new(move |event| events.send(format!("{event:?}")).unwrap()));
    drop(Waiting::Generate(Box::new(request(vec![1], options(1, 1))), listener));
    assert!(receiver.try_recv().unwrap().contains("the engine failed"));
    let result = sender.clone();
    let listener = EmbedListener::new(Box::new(move |r| result.send(format!("{r:?}")).unwrap()));
    drop(Waiting::Embed(vec![1], Arc::default(), listener));
    assert!(receiver.try_recv().unwrap().contains("the engine failed"));
    // Once, and not after another end.
    let mut listener = Listener::new(Box::new(move |event| sender.send(format!("{event:?}")).unwrap()));
    listener.tell(Event::Ended { done: Done::Stop, stop: None, stats: Stats::default() });
    assert!(listener.is_gone());
    drop(listener);
    assert!(receiver.try_recv().unwrap().starts_with("Ended"));
    assert!(receiver.try_recv().is_err());
}
