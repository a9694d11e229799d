//! What is counted, for Prometheus.

use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::scheduler::Scheduler;
use crate::runtime::generate::Stats;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    route: String,
    method: String,
    status: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ModelLabels {
    model: String,
}

/// Counters of the server. `started = finished + failed + cancelled + running`.
pub struct Metrics {
    registry: Mutex<Registry>,
    requests: Family<RequestLabels, Counter>,
    started: Counter,
    finished: Counter,
    failed: Counter,
    cancelled: Counter,
    running: Gauge,
    waiting: Gauge,
    prompt_tokens: Counter,
    prompt_tokens_cached: Counter,
    generated_tokens: Counter,
    prompt_time: Histogram,
    first_token_time: Histogram,
    token_time: Histogram,
    slots: Family<ModelLabels, Gauge>,
    slots_active: Family<ModelLabels, Gauge>,
    kv_pages: Family<ModelLabels, Gauge>,
    kv_pages_used: Family<ModelLabels, Gauge>,
    kv_pages_cached: Family<ModelLabels, Gauge>,
    model_bytes: Family<ModelLabels, Gauge<f64, AtomicU64>>,
}

fn times() -> Histogram {
    Histogram::new([0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0])
}

impl Metrics {
    /// All zero.
    pub fn new() -> Metrics {
        let metrics = Metrics {
            registry: Mutex::default(),
            requests: Family::default(),
            started: Counter::default(),
            finished: Counter::default(),
            failed: Counter::default(),
            cancelled: Counter::default(),
            running: Gauge::default(),
            waiting: Gauge::default(),
            prompt_tokens: Counter::default(),
            prompt_tokens_cached: Counter::default(),
            generated_tokens: Counter::default(),
            prompt_time: times(),
            first_token_time: times(),
            token_time: times(),
            slots: Family::default(),
            slots_active: Family::default(),
            kv_pages: Family::default(),
            kv_pages_used: Family::default(),
            kv_pages_cached: Family::default(),
            model_bytes: Family::default(),
        };
        let mut r = Registry::with_prefix("mdl");
        r.register("requests", "HTTP requests", metrics.requests.clone());
        r.register("answers_started", "Answers begun", metrics.started.clone());
        r.register("answers_finished", "Answers that ended by themselves", metrics.finished.clone());
        r.register("answers_failed", "Answers that failed", metrics.failed.clone());
        r.register("answers_cancelled", "Answers whose client went away", metrics.cancelled.clone());
        r.register("answers_running", "Answers being made, waiting ones included", metrics.running.clone());
        r.register("requests_waiting", "Requests that wait for a model or a slot", metrics.waiting.clone());
        r.register("prompt_tokens", "Tokens of prompts that were computed", metrics.prompt_tokens.clone());
        r.register(
            "prompt_tokens_cached",
            "Tokens of prompts that were in the cache",
            metrics.prompt_tokens_cached.clone(),
        );
        r.register("generated_tokens", "Tokens that were generated", metrics.generated_tokens.clone());
        let unit = Unit::Seconds;
        r.register_with_unit(
            "prompt",
            "From request to the end of its prompt",
            unit.clone(),
            metrics.prompt_time.clone(),
        );
        r.register_with_unit(
            "time_to_first_token",
            "From request to first token",
            unit.clone(),
            metrics.first_token_time.clone(),
        );
        r.register_with_unit(
            "inter_token",
            "Between two tokens of an answer",
            unit,
            metrics.token_time.clone(),
        );
        r.register("slots", "Sequences that a model can compute at once", metrics.slots.clone());
        r.register("slots_active", "Sequences that it computes", metrics.slots_active.clone());
        r.register("kv_pages", "Pages of a model's KV cache", metrics.kv_pages.clone());
        r.register("kv_pages_used", "Pages that running sequences hold", metrics.kv_pages_used.clone());
        r.register(
            "kv_pages_cached",
            "Pages kept for prefixes that come again",
            metrics.kv_pages_cached.clone(),
        );
        r.register_with_unit("model", "Memory of a loaded model", Unit::Bytes, metrics.model_bytes.clone());
        *metrics.registry.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = r;
        metrics
    }

    /// A request was answered with a status.
    pub fn request(&self, route: &str, method: &str, status: u16) {
        // A method can be any word.
        let known = ["GET", "HEAD", "POST", "DELETE", "OPTIONS"].contains(&method);
        let method = if known { method } else { "other" };
        let labels = RequestLabels { route: route.to_owned(), method: method.to_owned(), status };
        self.requests.get_or_create(&labels).inc();
    }

    /// An answer was asked of an engine.
    pub fn started(&self) {
        self.started.inc();
        self.running.inc();
    }

    /// Its prompt has been read, after so long.
    pub fn began(&self, after: Duration) {
        self.prompt_time.observe(after.as_secs_f64());
    }

    /// Its first token came, after so long.
    pub fn first_token(&self, after: Duration) {
        self.first_token_time.observe(after.as_secs_f64());
    }

    /// The time between two of its tokens.
    pub fn between(&self, time: Duration) {
        self.token_time.observe(time.as_secs_f64());
    }

    /// It ended.
    pub fn finished(&self, stats: &Stats) {
        self.finished.inc();
        self.running.dec();
        self.prompt_tokens.inc_by(stats.prompt_eval_count as u64);
        self.prompt_tokens_cached.inc_by(stats.prompt_cached_count as u64);
        self.generated_tokens.inc_by(stats.eval_count as u64);
    }

    /// It failed.
    pub fn failed(&self) {
        self.failed.inc();
        self.running.dec();
    }

    /// Its client went away.
    pub fn cancelled(&self) {
        self.cancelled.inc();
        self.running.dec();
    }

    /// Everything as text.
    pub fn encode(&self, scheduler: &Scheduler) -> String {
        self.waiting.set(i64::try_from(scheduler.waiting()).unwrap_or(i64::MAX));
        let families =
            [&self.slots, &self.slots_active, &self.kv_pages, &self.kv_pages_used, &self.kv_pages_cached];
        families.iter().for_each(|f| f.clear());
        self.model_bytes.clear();
        for running in scheduler.running() {
            let usage = running.model.engine.usage();
            let labels = ModelLabels { model: running.model.name.to_string() };
            let values = [usage.slots, usage.active, usage.pages, usage.pages_used, usage.pages_cached];
            for (family, value) in families.iter().zip(values) {
                family.get_or_create(&labels).set(i64::try_from(value).unwrap_or(i64::MAX));
            }
            self.model_bytes.get_or_create(&labels).set(running.model.size as f64);
        }
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // Writing to a string does not fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
        text
    }
}
