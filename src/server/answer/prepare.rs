//! A job made ready for a leased model, and started.

use std::sync::Arc;
use std::time::Duration;

use super::{Answer, Job};
use crate::prompt::output::{OutputSyntax, ReaderOptions};
use crate::runtime::answer::{Bounds, Ready, Refusal, Truncation, ready};
use crate::runtime::options::GenerateOptions;
use crate::server::app::App;
use crate::server::error::ApiError;
use crate::server::scheduler::Lease;

/// A job that can start.
pub struct Prepared {
    /// The model.
    pub lease: Lease,
    /// What the model reads, and how it answers.
    pub ready: Ready,
    pub(super) job: Job,
}

/// Makes a job ready for the leased model.
///
/// # Errors
/// 400: the model does not support what is asked, an option is out of its range, the prompt does not fit
/// and may not be truncated, or a schema is not supported.
pub async fn prepare(app: &Arc<App>, lease: Lease, job: Job) -> Result<Prepared, ApiError> {
    app.blocking(move |app| {
        let model = lease.model.clone();
        let bounds = Bounds { context: model.context, stops: app.config.limits.stops };
        let ready = ready(&model.loaded, &model.name.to_string(), &bounds, &job)?;
        if let Some(truncation) = &ready.truncation {
            tracing::warn!(
                model = %model.name, messages = truncation.messages, tokens = truncation.tokens,
                context = truncation.context, "the prompt was truncated"
            );
        }
        Ok(Prepared { lease, ready, job })
    })
    .await
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> ApiError {
        match refusal {
            Refusal::Request { message, param, code } => {
                ApiError { param: param.map(str::to_owned), code, ..ApiError::bad_request(message) }
            }
            Refusal::Failed(errors) => errors.into(),
        }
    }
}

impl Prepared {
    /// The number of tokens of the prompt.
    pub fn prompt_tokens(&self) -> usize {
        self.ready.tokens.len()
    }

    /// Starts the only answer.
    ///
    /// # Errors
    /// 400: the grammar is not supported.
    pub async fn start(self, app: &Arc<App>) -> Result<Answer, ApiError> {
        let mut all = self.start_all(app, 1).await?;
        all.pop().ok_or_else(|| ApiError::internal("no answer was started"))
    }

    /// Starts `n` answers; where there is a seed, each has its own: the first that of the request, the next
    /// one more.
    ///
    /// # Errors
    /// As [`Prepared::start`].
    pub async fn start_all(mut self, app: &Arc<App>, n: u32) -> Result<Vec<Answer>, ApiError> {
        // From here on each answer waits for itself.
        self.lease.started();
        let places = (0..n).map(|_| app.scheduler.wait()).collect::<Result<Vec<_>, _>>()?;
        let model = self.lease.model.clone();
        let mut ready = self.ready;
        let mut constraints = Vec::new();
        if ready.grammar.is_some() {
            (ready, constraints) = app
                .blocking(move |_| {
                    let constraints = ready.constraints(n, || model.grammars())?;
                    Ok((ready, constraints))
                })
                .await?;
        }
        let leases: Vec<Lease> = places.iter().map(|_| self.lease.again()).collect();
        let started = Arc::new(Started {
            load_duration: self.lease.load_duration,
            tokens: ready.tokens,
            truncation: ready.truncation,
            options: ready.options,
            syntax: ready.syntax,
            reader: ready.reader,
            job: self.job,
        });
        let mut constraints = constraints.into_iter();
        let answers = (0..n).zip(places).zip(leases).map(|((i, place), lease)| {
            Answer::start(app, started.clone(), i, constraints.next(), lease, place)
        });
        Ok(answers.collect())
    }
}

/// What the answers to one job share.
pub(super) struct Started {
    pub load_duration: Duration,
    pub tokens: Vec<u32>,
    pub truncation: Option<Truncation>,
    pub options: GenerateOptions,
    pub syntax: OutputSyntax,
    pub reader: ReaderOptions,
    pub job: Job,
}
