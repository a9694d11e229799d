//! Texts become vectors: those of the model itself, whatever else runs.

use super::*;
use crate::runtime::backend::Column;
use crate::runtime::kv::PageId;

/// The last norm's output at every position, from one step.
fn hidden(model: &Model, tokens: &[u32]) -> Vec<Vec<f32>> {
    let n = tokens.len();
    let kv = model.usual_kv();
    let room = Room { pages: n.div_ceil(PAGE), context: n, columns: n, outputs: n, kv };
    let mut state = model.state(&room).unwrap();
    let columns: Vec<Column> = tokens
        .iter()
        .enumerate()
        .map(|(position, token)| Column { token: *token, position, sequence: 0 })
        .collect();
    let pages: Vec<PageId> = (0..room.pages as u32).map(PageId).collect();
    state.step(&columns, &[&pages], &(0..n).collect::<Vec<_>>()).unwrap();
    (0..n).map(|i| state.hidden(i)).collect()
}

fn mean(all: &[Vec<f32>]) -> Vec<f32> {
    let n = all.len() as f64;
    (0..all[0].len()).map(|i| (all.iter().map(|h| f64::from(h[i])).sum::<f64>() / n) as f32).collect()
}

#[test]
fn a_vector_is_the_models_own() {
    for pooling in [None, Some(1), Some(2), Some(3)] {
        let model = Arc::new(open_storyteller(pooling));
        let engine = engine(&model, 2, 256);
        let embed = |tokens: &[u32]| {
            let (sender, receiver) = mpsc::channel();
            let sink = Box::new(move |result| sender.send(result).unwrap());
            engine.embed(tokens.to_vec(), Arc::default(), sink);
            receiver.recv().unwrap().unwrap()
        };
        let tokens = prompts(&model, 1).remove(0);
        let all = hidden(&model.model, &tokens);
        let expected = match pooling {
            Some(1) => mean(&all),
            Some(2) => all[0].clone(),
            _ => all[tokens.len() - 1].clone(),
        };
        // Beside a generation of the same text; then from the cache, where it helps.
        let busy = call(&engine, request(tokens.clone(), options(1, 30)));
        for _ in 0..2 {
            let embedding = embed(&tokens);
            assert_eq!(
                embedding,
                Embedding { values: expected.clone(), tokens: tokens.len() },
                "{pooling:?}"
            );
        }
        assert_eq!(busy.wait().tokens.len(), 30);
        idle(&engine);
        let usage = engine.usage();
        assert_eq!(usage.prompt_tokens + usage.prompt_tokens_cached, 3 * tokens.len() as u64);
        let shares = pooling.is_none_or(|p| p == 3);
        assert!(if shares { usage.prompt_tokens_cached > 0 } else { usage.prompt_tokens_cached == 0 });
    }
}

#[test]
fn who_leaves_or_asks_wrongly_is_told() {
    let model = storyteller();
    let engine = engine(&model, 1, 64);
    let embed = |tokens: Vec<u32>, cancelled: bool| {
        let (sender, receiver) = mpsc::channel();
        let sink = Box::new(move |result| sender.send(result).unwrap());
        engine.embed(tokens, Arc::new(AtomicBool::new(cancelled)), sink);
        receiver.recv().unwrap().map_err(|e| e.to_string())
    };
    assert_eq!(embed(Vec::new(), false).unwrap_err(), "there are no tokens to evaluate");
    assert!(embed(vec![1; 65], false).unwrap_err().contains("do not fit"));
    assert_eq!(embed(vec![1; 9], true).unwrap_err(), "the request was cancelled");
    assert_eq!(embed(vec![1; 64], false).unwrap().tokens, 64);
}
