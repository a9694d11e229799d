//! A loaded model, and sessions that feed it tokens.

use std::sync::Arc;

use mdl_kernels::TensorType;

use super::backend::cpu::{Cpu, CpuOptions};
use super::backend::{Accelerator, Backend, Column, Observer, State};
use super::device::{Compute, Placed, place};
use super::kv::{KvType, PAGE, PageId, Shift};
use super::program::{Memory, Program, Room};
use super::weights::{Tensor, Tensors};
use crate::diagnostic::{Diagnostic, Result};
use crate::families::spec::{DecoderSpec, Output};

/// A model that is ready to run. Any number of sessions share it.
#[derive(Clone)]
pub struct Model {
    backend: Arc<dyn Backend>,
    note: Option<Arc<Diagnostic>>,
}

/// What a session has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionOptions {
    /// Positions (`num_ctx`).
    pub context: usize,
    /// Tokens of a step at most: a longer prompt is read in several (`num_batch`).
    pub columns: usize,
    /// Logits of a step at most; 1 to generate, more for [`Session::logits_all`].
    pub outputs: usize,
    /// How keys and values are stored; `None` for float32 beside float32 weights, half precision
    /// beside all others.
    pub kv: Option<KvType>,
}

impl Default for SessionOptions {
    fn default() -> Self {
        SessionOptions { context: 4096, columns: 256, outputs: 1, kv: None }
    }
}

impl Model {
    /// Lowers `spec` and its tensors for the CPU.
    ///
    /// # Errors
    /// See [`Program::lower`]; or the system refuses threads.
    pub fn load(
        spec: DecoderSpec,
        tensors: impl IntoIterator<Item = Tensor>,
        options: &CpuOptions,
    ) -> Result<Model> {
        let program = Program::lower(spec, Tensors::new(tensors)?)?;
        Ok(Model::on(Arc::new(Cpu::new(program, options)?)))
    }

    /// As [`Model::load`], for sessions that are observed.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn load_observable(
        spec: DecoderSpec,
        tensors: impl IntoIterator<Item = Tensor>,
        options: &CpuOptions,
    ) -> Result<Model> {
        let program = Program::lower_observable(spec, Tensors::new(tensors)?)?;
        Ok(Model::on(Arc::new(Cpu::new(program, options)?)))
    }

    /// The model that a backend holds.
    pub fn on(backend: Arc<dyn Backend>) -> Model {
        Model { backend, note: None }
    }

    /// Lowers `spec` and its tensors for the device that `compute` chooses.
    ///
    /// # Errors
    /// As [`Model::load`]; or a GPU that was asked for is not there, or fails.
    pub fn place(
        spec: DecoderSpec,
        tensors: impl IntoIterator<Item = Tensor>,
        compute: &Compute,
    ) -> Result<Model> {
        let program = Program::lower(spec, Tensors::new(tensors)?)?;
        let Placed { backend, note } = place(program, compute)?;
        Ok(Model { backend, note: note.map(Arc::new) })
    }

    /// Why the model is on the CPU though there is a GPU, where that is so.
    pub fn note(&self) -> Option<&Diagnostic> {
        self.note.as_deref()
    }

    /// The device that holds the weights, where it is not the CPU.
    pub fn accelerator(&self) -> Option<Accelerator> {
        self.backend.accelerator()
    }

    /// What the model computes.
    pub fn spec(&self) -> &DecoderSpec {
        &self.backend.program().spec
    }

    /// How.
    pub fn program(&self) -> &Program {
        self.backend.program()
    }

    fn room(&self, options: &SessionOptions) -> Room {
        let context = options.context.max(1);
        let columns = options.columns.clamp(1, context);
        let kv = options.kv.unwrap_or_else(|| self.usual_kv());
        Room {
            pages: context.div_ceil(PAGE),
            context,
            columns,
            outputs: options.outputs.clamp(1, columns),
            kv,
        }
    }

    /// How keys and values are stored where nobody says: float32 beside float32 weights, else half
    /// precision.
    pub fn usual_kv(&self) -> KvType {
        let all_f32 = self.program().matrices.iter().all(|m| m.tensor_type() == TensorType::F32);
        if all_f32 { KvType::F32 } else { KvType::F16 }
    }

    /// The memory that a session takes beside the weights, known before it is made.
    pub fn memory(&self, options: &SessionOptions) -> Memory {
        self.memory_of(&self.room(options))
    }

    /// The memory that a room takes beside the weights.
    pub fn memory_of(&self, room: &Room) -> Memory {
        let memory = self.program().memory(room);
        let scratch = self.backend.scratch_bytes(room);
        Memory { buffers: memory.buffers.saturating_add(scratch), ..memory }
    }

    /// Buffers, and a cache for many sequences.
    ///
    /// # Errors
    /// There is no memory for them.
    pub fn state(&self, room: &Room) -> Result<Box<dyn State>> {
        self.backend.state(room)
    }

    /// A session with an empty context.
    ///
    /// # Errors
    /// There is no memory for it, or the model has no head.
    pub fn session(&self, options: &SessionOptions) -> Result<Session> {
        if self.spec().output == Output::Hidden {
            let message = "the model makes embeddings and writes no text";
            return Err(Diagnostic::error(message).code("no-head").into());
        }
        let room = self.room(options);
        let state = self.backend.state(&room)?;
        let pages = (0..room.pages).map(|i| PageId(i as u32)).collect();
        Ok(Session { model: self.clone(), room, state, pages, tokens: Vec::new(), columns: Vec::new() })
    }
}

/// One sequence of tokens and what the model remembers of it.
pub struct Session {
    model: Model,
    room: Room,
    state: Box<dyn State>,
    /// The only sequence's pages.
    pages: Vec<PageId>,
    /// What the cache holds, position by position.
    tokens: Vec<u32>,
    columns: Vec<Column>,
}

impl Session {
    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Positions there is room for.
    pub fn context(&self) -> usize {
        self.room.context
    }

    /// Logits of a step at most.
    pub fn outputs(&self) -> usize {
        self.room.outputs
    }

    /// The tokens in the context.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Forgets every token from position `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.tokens.truncate(len);
    }

    /// Makes `tokens` the context and returns the logits after the last. A prefix that is in the
    /// context already is not computed again.
    ///
    /// # Errors
    /// There are no tokens, more than the context holds, or one the model does not have; the model
    /// computes values that are not finite.
    pub fn prefill(&mut self, tokens: &[u32]) -> Result<&mut [f32]> {
        self.reuse(tokens);
        let from = self.tokens.len();
        self.extend(&tokens[from..])
    }

    /// Keeps the longest common prefix of the context and `tokens`, short of the last of them, whose
    /// logits are still to be computed. Returns its length.
    pub fn reuse(&mut self, tokens: &[u32]) -> usize {
        let common = self.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        self.truncate(common.min(tokens.len().saturating_sub(1)));
        self.tokens.len()
    }

    /// Adds one token and returns the logits after it.
    ///
    /// # Errors
    /// As [`Session::extend`].
    pub fn decode(&mut self, token: u32) -> Result<&mut [f32]> {
        self.extend(&[token])
    }

    /// Adds `tokens`, in steps of as many as there is room for, and returns the logits after the
    /// last. After an error the context holds the tokens of the steps before it.
    ///
    /// # Errors
    /// As [`Session::prefill`].
    pub fn extend(&mut self, tokens: &[u32]) -> Result<&mut [f32]> {
        self.check_fit(tokens)?;
        let mut rest = tokens;
        loop {
            let (now, later) = rest.split_at(rest.len().min(self.room.columns));
            let last = [now.len() - 1];
            self.step(now, if later.is_empty() { &last } else { &[] })?;
            rest = later;
            if rest.is_empty() {
                return Ok(self.state.logits(0));
            }
        }
    }

    /// Adds `tokens` in steps of at most `columns` and calls `between` after each step but the last;
    /// false from it ends early with `None`.
    ///
    /// # Errors
    /// As [`Session::prefill`].
    pub fn extend_while(
        &mut self,
        tokens: &[u32],
        mut between: impl FnMut() -> bool,
    ) -> Result<Option<&mut [f32]>> {
        self.check_fit(tokens)?;
        let mut rest = tokens;
        while rest.len() > self.room.columns {
            let (now, later) = rest.split_at(self.room.columns);
            self.step(now, &[])?;
            rest = later;
            if !between() {
                return Ok(None);
            }
        }
        self.extend(rest).map(Some)
    }

    /// Adds `tokens` and gives `each` the logits after every one, by its position.
    ///
    /// # Errors
    /// As [`Session::prefill`], or that of `each`.
    pub fn logits_all(
        &mut self,
        tokens: &[u32],
        mut each: impl FnMut(usize, &mut [f32]) -> Result<()>,
    ) -> Result<()> {
        self.check_fit(tokens)?;
        let all: Vec<usize> = (0..self.room.outputs).collect();
        for now in tokens.chunks(self.room.outputs) {
            let first = self.tokens.len();
            self.step(now, &all[..now.len()])?;
            for i in 0..now.len() {
                each(first + i, self.state.logits(i))?;
            }
        }
        Ok(())
    }

    /// Adds `tokens`, at most [`Session::outputs`], in one step and returns the logits after each.
    ///
    /// # Errors
    /// As [`Session::prefill`]; or there are too many tokens for one step.
    pub fn logits_after_each(&mut self, tokens: &[u32]) -> Result<Vec<&mut [f32]>> {
        self.check_fit(tokens)?;
        let all: Vec<usize> = (0..tokens.len()).collect();
        self.step(tokens, &all)?;
        Ok(self.state.all_logits())
    }

    /// Adds `tokens` and tells `see` what each matrix is multiplied with meanwhile.
    ///
    /// # Errors
    /// As [`Session::prefill`]; or the model is not [`Model::load_observable`].
    pub fn extend_observed(&mut self, tokens: &[u32], see: &mut Observer<'_>) -> Result<()> {
        self.check_fit(tokens)?;
        for now in tokens.chunks(self.room.columns) {
            self.fill_columns(now);
            // The logits of the last, so that values which are not finite are found.
            self.state.step_observed(&self.columns, &[&self.pages], &[now.len() - 1], see)?;
            self.tokens.extend_from_slice(now);
        }
        Ok(())
    }

    /// Makes room in a full context: drops the older half of what comes after the first `num_keep`
    /// tokens. Returns how many were dropped; 0 when `num_keep` leaves nothing to drop.
    pub fn shift(&mut self, num_keep: usize) -> usize {
        let Some(shift) = Shift::half(self.tokens.len(), num_keep) else { return 0 };
        self.state.shift(shift, &self.pages, &self.pages);
        self.tokens.drain(shift.keep..shift.keep + shift.discard);
        shift.discard
    }

    fn check_fit(&self, tokens: &[u32]) -> Result<()> {
        if tokens.is_empty() {
            return Err(Diagnostic::error("there are no tokens to evaluate").code("empty-prompt").into());
        }
        let (held, more) = (self.tokens.len(), tokens.len());
        if more > self.room.context - held {
            return Err(Diagnostic::error(format!(
                "{} tokens do not fit in a context of {}",
                held + more,
                self.room.context
            ))
            .code("context-full")
            .help("choose a larger context with `num_ctx`")
            .into());
        }
        Ok(())
    }

    fn step(&mut self, tokens: &[u32], outputs: &[usize]) -> Result<()> {
        self.fill_columns(tokens);
        self.state.step(&self.columns, &[&self.pages], outputs)?;
        self.tokens.extend_from_slice(tokens);
        Ok(())
    }

    fn fill_columns(&mut self, tokens: &[u32]) {
        let first = self.tokens.len();
        self.columns.clear();
        let columns = tokens.iter().enumerate();
        self.columns.extend(columns.map(|(i, token)| Column {
            token: *token,
            position: first + i,
            sequence: 0,
        }));
    }
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
