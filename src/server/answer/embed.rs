//! Texts to vectors, the same for every dialect.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::oneshot;

use crate::runtime::batch::{Embedding, normalize};
use crate::server::app::App;
use crate::server::error::ApiError;
use crate::server::scheduler::Lease;

/// Stops the work when nobody waits for it any more.
struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Embeds texts, given as tokens, in their order.
///
/// # Errors
/// The engine fails, or the server stops.
pub async fn embed(app: &App, lease: &Lease, texts: Vec<Vec<u32>>) -> Result<Vec<Embedding>, ApiError> {
    let cancel = CancelOnDrop(Arc::default());
    let mut waiting = Vec::with_capacity(texts.len());
    for tokens in texts {
        let (sender, receiver) = oneshot::channel();
        // A receiver that is gone has cancelled.
        let sink = Box::new(move |result| drop(sender.send(result)));
        lease.model.engine.embed(tokens, cancel.0.clone(), sink);
        waiting.push(receiver);
    }
    let mut stopping = app.stopping();
    let mut all = Vec::with_capacity(waiting.len());
    for receiver in waiting {
        let result = tokio::select! {
            result = receiver => result.map_err(|_| ApiError::internal("the engine dropped a text"))?,
            _ = stopping.wait_for(|stop| *stop) => return Err(ApiError::stopping()),
        };
        all.push(result?);
    }
    Ok(all)
}

/// The first `dimensions` values, divided by their Euclidean length. Zeros stay zeros.
///
/// # Errors
/// 400: there are not so many, or a value is no number.
pub fn normalized(mut values: Vec<f32>, dimensions: Option<usize>) -> Result<Vec<f32>, ApiError> {
    finite(&values)?;
    if let Some(n) = dimensions {
        if n > values.len() {
            let message = format!("dimensions must not be more than {}, the embedding's", values.len());
            return Err(ApiError::bad_request(message).param("dimensions"));
        }
        values.truncate(n);
    }
    normalize(&mut values);
    Ok(values)
}

/// Refuses what is no number.
///
/// # Errors
/// 400, in Ollama's words.
pub fn finite(values: &[f32]) -> Result<(), ApiError> {
    match values.iter().all(|v| v.is_finite()) {
        true => Ok(()),
        false => Err(ApiError::bad_request("embedding contains NaN or Inf values")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn dimensions_are_of_the_embedding() {
        assert_eq!(normalized(vec![1.0], Some(2)).unwrap_err().param.as_deref(), Some("dimensions"));
        assert_eq!(normalized(vec![3.0, 4.0, 9.0], Some(2)).unwrap(), [0.6, 0.8]);
        assert_eq!(normalized(vec![0.0; 3], None).unwrap(), [0.0; 3]);
        assert_eq!(normalized(vec![1.5e38, 2e38], None).unwrap(), [0.6, 0.8]);
        assert!(normalized(vec![f32::NAN], None).is_err() && normalized(vec![f32::INFINITY], None).is_err());
    }

    proptest! {
        #[test]
        fn a_normalised_embedding_has_length_one(values in prop::collection::vec(-3.0e38f32..3.0e38, 1..64)) {
            let is_zero = values.iter().all(|v| *v == 0.0);
            let length: f64 = normalized(values, None).unwrap().iter().map(|v| f64::from(*v).powi(2)).sum();
            prop_assert!(is_zero || (length.sqrt() - 1.0).abs() < 1e-5, "{length}");
        }
    }
}
