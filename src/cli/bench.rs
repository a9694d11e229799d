//! `mdl bench`.

use clap::Args;
use serde_json::{Value, json};

use super::progress::Chunked;
use super::{Global, table, usage, write_out};
use crate::diagnostic::Result;
use crate::passes::package::human_number;
use crate::pipeline::bench::{self, Benched, Limits, Measured, Statistics};
use crate::pipeline::models;
use crate::runtime::cost::Cost;
use crate::runtime::device::DeviceChoice;
use crate::runtime::kv::KvType;
use crate::runtime::timing::{Entry, Kind, Profile, Test};
use crate::world::SystemWorld;

/// Measures how fast models run: tokens a second of reading a prompt and of writing, each the mean of several runs
/// after one that warms up.
///
/// With --profile also where the time goes: of each operation how often it ran, how long it took, how much memory
/// it moved and how many multiply-adds it did, beside what this machine's memory and vector units did at most in
/// the same run.
#[derive(Args)]
#[command(after_help = "\
Examples:
  mdl bench story
  mdl bench story:q4_K_M story:q8_0 -p 512,4096 -n 128 -d 0,4096
  mdl bench story -p 0 -n 64 --sequences 1,2,4,8       decoding of several sequences together
  mdl bench story --profile                            where the time goes
  mdl bench model.gguf -t 1,2 --json > speed.json")]
pub(super) struct Bench {
    /// The models: names of the store, or paths of GGUF files
    #[arg(required = true, value_name = "MODEL")]
    models: Vec<String>,

    /// Tokens of a prompt to read; 0 leaves reading out
    #[arg(short, long, value_name = "N", value_delimiter = ',', default_values_t = [512])]
    prompt: Vec<usize>,

    /// Tokens to write; 0 leaves writing out
    #[arg(short = 'n', long, value_name = "N", value_delimiter = ',', default_values_t = [128])]
    generate: Vec<usize>,

    /// Tokens that the context holds before
    #[arg(short, long, value_name = "N", value_delimiter = ',', default_values_t = [0])]
    depth: Vec<usize>,

    /// Threads; as --threads, and several numbers are compared
    #[arg(short = 't', value_name = "N", value_delimiter = ',')]
    thread_counts: Vec<usize>,

    /// Tokens of a step at most
    #[arg(short, long, value_name = "N", default_value_t = 512)]
    batch: usize,

    /// Sequences that are read and written together; tokens count for each
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1])]
    sequences: Vec<usize>,

    /// Runs of each test
    #[arg(short, long, value_name = "N", default_value_t = 5)]
    repeat: usize,

    /// How keys and values are stored: f16, f32, q8_0, q4_0 [default: f16; f32 beside float32 weights]
    #[arg(long, value_name = "TYPE")]
    kv_cache_type: Option<String>,

    /// Also show where the time goes: each operation beside what memory and vector units did at most in this run
    #[arg(long)]
    profile: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Bench {
    pub(super) fn run(self, global: &Global) -> Result<()> {
        let options = self.options()?;
        let store = global.open_store()?;
        let mut found = Vec::new();
        for name in &self.models {
            let module = models::open_to_run(&SystemWorld, &store, name)?;
            for threads in self.threads(global) {
                let mut progress = Chunked::of(global.progress, "run", "tokens/s");
                let mut tell = |s: bench::Step| progress.tell(s.done, s.total, Some(s.rate));
                let options = bench::Options { threads, device: global.compute().device, ..options.clone() };
                found.push((name.as_str(), bench::bench(&module, &options, &mut tell)?));
            }
        }
        match self.json {
            true => write_out(&format!("{:#}\n", document(&found))),
            false => write_out(&text(&found)),
        }
    }

    fn options(&self) -> Result<bench::Options> {
        let tests = bench::tests(&self.prompt, &self.generate, &self.depth, &self.sequences);
        if tests.is_empty() {
            return Err(usage("`--prompt 0 --generate 0` leaves nothing to measure"));
        }
        for (name, value) in [("--repeat", self.repeat), ("--batch", self.batch)] {
            if value == 0 {
                return Err(usage(format!("`{name} 0` leaves nothing to measure")));
            }
        }
        if self.sequences.contains(&0) || self.thread_counts.contains(&0) {
            return Err(usage("at least one sequence and one thread are needed"));
        }
        let kv =
            match &self.kv_cache_type {
                None => None,
                Some(kv) => Some(KvType::parse(kv).ok_or_else(|| {
                    usage(format!("--kv-cache-type: `{kv}` is none of f16, f32, q8_0, q4_0"))
                })?),
            };
        let (batch, repeat, profile) = (self.batch, self.repeat, self.profile);
        Ok(bench::Options { tests, batch, repeat, threads: 1, device: DeviceChoice::Auto, kv, profile })
    }

    fn threads(&self, global: &Global) -> Vec<usize> {
        if !self.thread_counts.is_empty() {
            return self.thread_counts.clone();
        }
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        vec![global.threads.filter(|n| *n > 0).unwrap_or_else(cores)]
    }
}

/// `prefill 512`, `decode 128 @ 4096`, `decode 128 x 8`.
fn name(test: &Test) -> String {
    let kind = match test.kind {
        Kind::Prefill => "prefill",
        Kind::Decode => "decode",
    };
    let depth = if test.depth > 0 { format!(" @ {}", test.depth) } else { String::new() };
    let sequences = if test.sequences > 1 { format!(" x {}", test.sequences) } else { String::new() };
    format!("{kind} {}{depth}{sequences}", test.tokens)
}

/// The table of speeds, then where the time of each test went.
fn text(found: &[(&str, Benched)]) -> String {
    let header =
        ["MODEL", "TYPE", "SIZE", "PARAMETERS", "KV", "THREADS", "TEST", "TOKENS/S", "MEDIAN", "MOST"];
    let mut rows = Vec::new();
    for (model, benched) in found {
        for measured in &benched.measured {
            let speed = Statistics::of(&measured.samples);
            rows.push(vec![
                (*model).to_owned(),
                benched.file_type.clone(),
                table::size(benched.bytes),
                human_number(benched.parameters),
                benched.kv.name().to_owned(),
                benched.threads.to_string(),
                name(&measured.test),
                format!("{:.2} ± {:.2}", speed.mean, speed.deviation),
                format!("{:.2}", speed.median),
                format!("{:.2}", speed.max),
            ]);
        }
    }
    let mut out = format!("{}\n{}\n", machine(found), table::columns(&header, &rows));
    for (model, benched) in found {
        let Some(limits) = &benched.limits else { continue };
        for Measured { test, profile, .. } in &benched.measured {
            let Some(profile) = profile else { continue };
            out.push_str(&format!(
                "\n{model}, {}, {} threads: {:.3} ms a step\n",
                name(test),
                benched.threads,
                1e3 * profile.total.as_secs_f64() / profile.steps.max(1) as f64
            ));
            out.push_str(&profile_table(profile, limits));
        }
        out.push_str(&format!(
            "\nlimits with {} threads: {:.1} GB/s read of {}; GMAC/s: {:.0} of int8, {:.0} of bf16, {:.0} of float32\n",
            benched.threads,
            limits.read / 1e9,
            table::size(limits.read_bytes),
            limits.int8_macs / 1e9,
            limits.bf16_macs / 1e9,
            limits.float_macs / 1e9
        ));
    }
    out
}

fn machine(found: &[(&str, Benched)]) -> String {
    let first = found.first().map(|(_, b)| b);
    let place = match first.and_then(|b| b.accelerator.as_deref()) {
        Some(accelerator) => accelerator.to_owned(),
        None => {
            let level = first.map(|b| b.level.name()).unwrap_or_default();
            format!("{}, {level}", mdl_kernels::cpu::name())
        }
    };
    format!("mdl {} on {place}\n", env!("CARGO_PKG_VERSION"))
}

fn profile_table(profile: &Profile, limits: &Limits) -> String {
    let header = ["OPERATION", "CALLS", "MS", "SHARE", "MB", "GB/S", "OF READ", "GMAC/S", "OF PEAK"];
    let total = profile.total.as_secs_f64().max(1e-12);
    let mut rows: Vec<Vec<String>> = Vec::new();
    for entry in &profile.entries {
        let shares = Shares::of(entry, limits);
        let some = |value: f64, text: String| if value > 0.0 { text } else { String::new() };
        rows.push(vec![
            entry.cost.name.clone(),
            entry.calls.to_string(),
            format!("{:.3}", 1e3 * entry.time.as_secs_f64()),
            format!("{:.1} %", 100.0 * entry.time.as_secs_f64() / total),
            format!("{:.2}", entry.cost.bytes as f64 / 1e6),
            format!("{:.1}", shares.bandwidth / 1e9),
            format!("{:.0} %", 100.0 * shares.of_read),
            some(shares.macs, format!("{:.1}", shares.macs / 1e9)),
            some(shares.macs, format!("{:.0} %", 100.0 * shares.of_peak)),
        ]);
    }
    let rest = profile.rest().as_secs_f64();
    let mut last = vec!["between operations".to_owned(), profile.steps.to_string()];
    last.extend([format!("{:.3}", 1e3 * rest), format!("{:.1} %", 100.0 * rest / total)]);
    last.resize(header.len(), String::new());
    rows.push(last);
    table::columns(&header, &rows) + "\n"
}

/// How near an operation is to the limits.
struct Shares {
    /// Bytes a second.
    bandwidth: f64,
    of_read: f64,
    /// Multiply-adds a second.
    macs: f64,
    of_peak: f64,
}

impl Shares {
    fn of(entry: &Entry, limits: &Limits) -> Shares {
        let seconds = entry.time.as_secs_f64().max(1e-12);
        let Cost { float_macs, bf16_macs, int8_macs, .. } = entry.cost;
        let [float, bf16, int8] = [float_macs, bf16_macs, int8_macs].map(|macs| macs as f64 / seconds);
        let bandwidth = entry.cost.bytes as f64 / seconds;
        Shares {
            bandwidth,
            of_read: bandwidth / limits.read,
            macs: float + bf16 + int8,
            of_peak: float / limits.float_macs + bf16 / limits.bf16_macs + int8 / limits.int8_macs,
        }
    }
}

/// One document.
fn document(found: &[(&str, Benched)]) -> Value {
    let results: Vec<Value> = found.iter().map(|(model, benched)| result(model, benched)).collect();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "cpu": {
            "name": mdl_kernels::cpu::name(),
            "features": mdl_kernels::cpu::features(),
            "level": found.first().map(|(_, b)| b.level.name()),
        },
        "results": results,
    })
}

fn result(model: &str, benched: &Benched) -> Value {
    let limits = benched.limits.as_ref();
    let tests = benched.measured.iter().map(|measured| {
        let Measured { test, samples, profile } = measured;
        let speed = Statistics::of(samples);
        let mut value = json!({
            "name": name(test),
            "kind": match test.kind { Kind::Prefill => "prefill", Kind::Decode => "decode" },
            "tokens": test.tokens,
            "depth": test.depth,
            "sequences": test.sequences,
            "tokens_per_second": {
                "mean": speed.mean,
                "median": speed.median,
                "min": speed.min,
                "max": speed.max,
                "standard_deviation": speed.deviation,
                "samples": samples,
            },
        });
        if let Some((profile, limits)) = profile.as_ref().zip(limits) {
            value["profile"] = profile_value(profile, limits);
        }
        value
    });
    let tests: Vec<Value> = tests.collect();
    let mut value = json!({
        "model": model,
        "architecture": benched.architecture,
        "type": benched.file_type,
        "bytes": benched.bytes,
        "parameters": benched.parameters,
        "threads": benched.threads,
        "batch": benched.batch,
        "kv_cache_type": benched.kv.name(),
        "tests": tests,
    });
    if let Some(limits) = limits {
        value["limits"] = json!({
            "read_bytes_per_second": limits.read,
            "read_bytes": limits.read_bytes,
            "float32_macs_per_second": limits.float_macs,
            "bf16_macs_per_second": limits.bf16_macs,
            "int8_macs_per_second": limits.int8_macs,
        });
    }
    value
}

fn profile_value(profile: &Profile, limits: &Limits) -> Value {
    let operations = profile.entries.iter().map(|entry| {
        let shares = Shares::of(entry, limits);
        json!({
            "operation": entry.cost.name,
            "calls": entry.calls,
            "seconds": entry.time.as_secs_f64(),
            "bytes": entry.cost.bytes,
            "float32_macs": entry.cost.float_macs,
            "bf16_macs": entry.cost.bf16_macs,
            "int8_macs": entry.cost.int8_macs,
            "share_of_read": shares.of_read,
            "share_of_peak": shares.of_peak,
        })
    });
    let operations: Vec<Value> = operations.collect();
    json!({
        "seconds": profile.total.as_secs_f64(),
        "steps": profile.steps,
        "between_operations_seconds": profile.rest().as_secs_f64(),
        "operations": operations,
    })
}
