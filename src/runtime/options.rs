//! What PARAMETER, and later a request, says about a generation.

use super::sampler::SamplerOptions;
use crate::diagnostic::{Diagnostic, Result};
use crate::ir::ParameterValue;
use crate::modelfile::parameters;

/// The context of a model that does not say `num_ctx`, where it was trained on as much.
const DEFAULT_CONTEXT: u64 = 4096;

/// The least context.
const LEAST_CONTEXT: u64 = 4;

/// How to generate.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateOptions {
    /// How to choose tokens.
    pub sampler: SamplerOptions,
    /// Positions of context; at most as many as the model was trained on.
    pub num_ctx: Option<u64>,
    /// Columns computed at a time while the prompt is read.
    pub num_batch: usize,
    /// Tokens to generate at most.
    pub num_predict: Option<usize>,
    /// Tokens at the start that a shift of the context keeps.
    pub num_keep: usize,
    /// Threads; all cores where it is not said.
    pub num_thread: Option<usize>,
    /// Blocks on a GPU: 0 for none; any other number leaves it to the runtime.
    pub num_gpu: Option<i64>,
    /// Texts that end a generation.
    pub stop: Vec<String>,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        GenerateOptions {
            sampler: SamplerOptions::default(),
            num_ctx: None,
            num_batch: 512,
            num_predict: None,
            num_keep: 4,
            num_thread: None,
            num_gpu: None,
            stop: Vec::new(),
        }
    }
}

impl GenerateOptions {
    /// Reads parameters in order; a later one goes before an earlier one.
    ///
    /// # Errors
    /// A value is out of its range.
    pub fn from_parameters<'a>(
        parameters: impl IntoIterator<Item = &'a (String, ParameterValue)>,
    ) -> Result<GenerateOptions> {
        let mut options = GenerateOptions::default();
        for (name, value) in parameters {
            if let Some(known) = parameters::find(name)
                && known.is_out_of_range(value)
            {
                let message = format!("the parameter `{name}` must be {}", known.range_in_words());
                return Err(Diagnostic::error(message).code("parameter-range").into());
            }
            options.set(name, value);
        }
        options.sampler.check()?;
        Ok(options)
    }

    /// Parameters that say nothing about a generation on this backend, such as `main_gpu`, change nothing.
    fn set(&mut self, name: &str, value: &ParameterValue) {
        use ParameterValue::{Float, Int, Strings};
        let count = |v: i64| usize::try_from(v).ok();
        let sampler = &mut self.sampler;
        match (name, value) {
            ("temperature", Float(v)) => sampler.temperature = *v,
            ("top_k", Int(v)) => sampler.top_k = *v,
            ("top_p", Float(v)) => sampler.top_p = *v,
            ("min_p", Float(v)) => sampler.min_p = *v,
            ("typical_p", Float(v)) => sampler.typical_p = *v,
            ("repeat_last_n", Int(v)) => sampler.repeat_last_n = *v,
            ("repeat_penalty", Float(v)) => sampler.repeat_penalty = *v,
            ("presence_penalty", Float(v)) => sampler.presence_penalty = *v,
            ("frequency_penalty", Float(v)) => sampler.frequency_penalty = *v,
            ("seed", Int(v)) => sampler.seed = *v,
            ("num_ctx", Int(v)) => self.num_ctx = u64::try_from(*v).ok().filter(|n| *n > 0),
            ("num_batch", Int(v)) => self.num_batch = count(*v).filter(|n| *n > 0).unwrap_or(512),
            ("num_predict", Int(v)) => self.num_predict = count(*v),
            ("num_keep", Int(v)) => self.num_keep = count(*v).unwrap_or(usize::MAX),
            ("num_gpu", Int(v)) => self.num_gpu = Some(*v),
            ("num_thread", Int(v)) => self.num_thread = count(*v).filter(|n| *n > 0),
            ("stop", Strings(v)) => self.stop = v.clone(),
            _ => {}
        }
    }

    /// The context of a session with a model that was trained on `trained` positions.
    pub fn context(&self, trained: u64) -> u64 {
        let trained = trained.max(LEAST_CONTEXT);
        self.num_ctx.unwrap_or(DEFAULT_CONTEXT).clamp(LEAST_CONTEXT, trained)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, value: ParameterValue) -> Result<GenerateOptions> {
        GenerateOptions::from_parameters(&[(name.to_owned(), value)])
    }

    #[test]
    fn parameters_are_read_by_name() {
        assert_eq!(read("temperature", ParameterValue::Float(0.5)).unwrap().sampler.temperature, 0.5);
        assert_eq!(read("num_predict", ParameterValue::Int(-1)).unwrap().num_predict, None);
        assert_eq!(read("num_predict", ParameterValue::Int(7)).unwrap().num_predict, Some(7));
        assert_eq!(read("main_gpu", ParameterValue::Int(1)).unwrap(), GenerateOptions::default());
        assert!(read("top_p", ParameterValue::Float(1.5)).is_err());
    }

    #[test]
    fn a_context_is_no_longer_than_the_training_was() {
        let with = |n| GenerateOptions { num_ctx: n, ..GenerateOptions::default() };
        assert_eq!(with(None).context(512), 512);
        assert_eq!(with(None).context(131_072), 4096);
        assert_eq!(with(Some(8192)).context(131_072), 8192);
        assert_eq!(with(Some(1)).context(512), 4);
    }
}
