//! Rotary positions in a configuration: `rope_theta` and `rope_scaling`, or `rope_parameters`, which has both and may
//! have one set for each kind of attention.

use super::hparams::Hparams;
use crate::diagnostic::Result;
use crate::formats::hf_config::Config;

/// What a configuration says of rotary positions.
pub(super) struct RopeConfig {
    /// The base frequency.
    pub(super) theta: Option<f32>,
    /// That of blocks with a sliding window, where it is told apart.
    pub(super) local_theta: Option<f32>,
    /// The part of a head that turns.
    pub(super) partial: Option<f32>,
    /// How positions are stretched; what is read here counts as read.
    pub(super) scaling: Option<Config>,
}

/// Keys of `rope_parameters` that are not about scaling, or change nothing.
const BESIDES: &[&str] = &["rope_theta", "partial_rotary_factor", "rope_type", "type", "mrope_section"];

impl RopeConfig {
    /// Reads it.
    ///
    /// # Errors
    /// A value has another type, or is there twice with two values.
    pub(super) fn read(config: &Config) -> Result<RopeConfig> {
        let partial = config.optional_f32(["partial_rotary_factor", "rotary_pct", "rope_pct"])?;
        let both = config.rope_scaling()?;
        let (global, local) = match &both {
            Some(both) if both.has("full_attention") || both.has("sliding_attention") => {
                (both.section("full_attention")?, both.section("sliding_attention")?)
            }
            _ => (None, None),
        };
        let nested = local.is_some() || global.is_some();
        let scaling = if nested { global } else { both };
        let inner = |section: Option<&Config>| match section {
            Some(section) => section.optional_f32("rope_theta"),
            None => Ok(None),
        };
        let outer = config.optional_f32(["rope_theta", "rotary_emb_base", "rope_freq_base"])?;
        let own = inner(scaling.as_ref())?;
        if outer.is_some() && own.is_some() && outer != own {
            let message = "the value differs from `rope_parameters.rope_theta`";
            return Err(config.error("rope_theta", message).into());
        }
        let theta = outer.or(own);
        let local_theta = config.optional_f32("rope_local_base_freq")?.or(inner(local.as_ref())?);
        if [theta, local_theta].into_iter().flatten().any(|theta| theta <= 0.0) {
            return Err(config.error("rope_theta", "must be more than 0").into());
        }
        let partial = match &scaling {
            Some(scaling) => partial.or(scaling.optional_f32("partial_rotary_factor")?),
            None => partial,
        };
        if partial.is_some_and(|part| !(part > 0.0 && part <= 1.0)) {
            return Err(config.error("partial_rotary_factor", "must be more than 0 and at most 1").into());
        }
        Ok(RopeConfig { theta, local_theta, partial, scaling })
    }

    /// How positions are stretched, by name.
    ///
    /// # Errors
    /// It is no way of those that are known.
    pub(super) fn kind(&self) -> Result<&'static str> {
        let Some(scaling) = &self.scaling else { return Ok("default") };
        let known = &["default", "linear", "llama3", "yarn", "longrope", "su"];
        Ok(scaling.optional_one_of(["rope_type", "type"], known)?.unwrap_or("default"))
    }

    /// How many of a head's values turn; `usual` is the part where the configuration is silent.
    ///
    /// # Errors
    /// None would, or an odd number.
    pub(super) fn dims(&self, config: &Config, head_dim: u64, usual: f32) -> Result<u64> {
        let dims = (f64::from(self.partial.unwrap_or(usual)) * head_dim as f64) as u64;
        if dims == 0 || !dims.is_multiple_of(2) {
            let message = format!("{dims} values of a head would turn");
            return Err(config.error("partial_rotary_factor", message).into());
        }
        Ok(dims)
    }

    /// Writes the base frequency and the scaling of `dims` values that turn.
    ///
    /// # Errors
    /// A setting is not supported, or its numbers do not fit.
    pub(super) fn write(&self, dims: u64, hparams: &mut Hparams<'_>) -> Result<()> {
        let kind = self.kind()?;
        if let Some(scaling) = &self.scaling {
            scaling.ignore(BESIDES);
            match kind {
                "linear" => {
                    hparams.set("rope.scaling.type", "linear");
                    hparams.set("rope.scaling.factor", positive(scaling, "factor")? as f32);
                }
                "yarn" => yarn(scaling, hparams)?,
                "llama3" => {
                    let theta = f64::from(self.theta.unwrap_or(DEFAULT_THETA));
                    hparams.derive("rope_freqs.weight", Llama3::read(scaling)?.divisors(theta, dims));
                }
                "default" => {}
                other => {
                    let message = format!("the scaling \"{other}\" is not supported in this family");
                    return Err(scaling.error("rope_type", message).into());
                }
            }
            self.all_read()?;
        }
        if let Some(theta) = self.theta {
            hparams.set("rope.freq_base", theta);
        }
        if let Some(theta) = self.local_theta {
            hparams.set("rope.freq_base_swa", theta);
        }
        Ok(())
    }

    /// As [`RopeConfig::all_read`], of positions that are not stretched.
    ///
    /// # Errors
    /// Names the first setting that nobody read.
    pub(super) fn all_read_but_theta(&self) -> Result<()> {
        if let Some(scaling) = &self.scaling {
            scaling.ignore(BESIDES);
        }
        self.all_read()
    }

    /// Fails when the scaling has settings that nobody read.
    ///
    /// # Errors
    /// Names the first.
    pub(super) fn all_read(&self) -> Result<()> {
        let Some(scaling) = &self.scaling else { return Ok(()) };
        match scaling.unread().first() {
            Some(key) => Err(scaling.error(key, "this setting of RoPE scaling is not supported").into()),
            None => Ok(()),
        }
    }
}

/// The base frequency where a configuration does not say it.
pub(super) const DEFAULT_THETA: f32 = 10_000.0;

/// A number above 0.
///
/// # Errors
/// It is missing, or none.
pub(super) fn positive(config: &Config, key: &str) -> Result<f64> {
    let value = config.f32(key)?;
    if value > 0.0 { Ok(f64::from(value)) } else { Err(config.error(key, "must be more than 0").into()) }
}

/// YaRN's numbers.
fn yarn(scaling: &Config, hparams: &mut Hparams<'_>) -> Result<()> {
    hparams.set("rope.scaling.type", "yarn");
    hparams.set("rope.scaling.factor", positive(scaling, "factor")? as f32);
    let context = match scaling.optional_size("original_max_position_embeddings")? {
        Some(context) => context,
        None => hparams.context,
    };
    hparams.size("rope.scaling.original_context_length", context, "original_max_position_embeddings")?;
    for (key, names) in [
        ("rope.scaling.yarn_ext_factor", &["extrapolation_factor"][..]),
        ("rope.scaling.yarn_attn_factor", &["attention_factor", "attn_factor"]),
        ("rope.scaling.yarn_beta_fast", &["beta_fast"]),
        ("rope.scaling.yarn_beta_slow", &["beta_slow"]),
    ] {
        if let Some(value) = scaling.optional_f32(names)? {
            hparams.set(key, value);
        }
    }
    // The bounds of the ramp are whole pairs, as in the paper's code.
    scaling.require("truncate", &[true.into()])
}

/// Llama 3.1's scaling: short wavelengths stay, long ones are stretched by `factor`, those between
/// are blended.
struct Llama3 {
    factor: f64,
    low: f64,
    high: f64,
    context: f64,
}

impl Llama3 {
    fn read(scaling: &Config) -> Result<Llama3> {
        let factors = Llama3 {
            factor: positive(scaling, "factor")?,
            low: positive(scaling, "low_freq_factor")?,
            high: positive(scaling, "high_freq_factor")?,
            context: scaling.size("original_max_position_embeddings")? as f64,
        };
        if factors.high <= factors.low {
            return Err(scaling.error("high_freq_factor", "must be more than low_freq_factor").into());
        }
        Ok(factors)
    }

    /// What each of the `dims / 2` frequencies is divided by.
    fn divisors(&self, theta: f64, dims: u64) -> Vec<f32> {
        let divisor = |i: u64| {
            // libm, not std: the bytes of the tensor must not depend on the machine.
            let wavelength = std::f64::consts::TAU * libm::pow(theta, i as f64 / dims as f64);
            if wavelength < self.context / self.high {
                1.0
            } else if wavelength > self.context / self.low {
                self.factor
            } else {
                let smooth = (self.context / wavelength - self.low) / (self.high - self.low);
                1.0 / ((1.0 - smooth) / self.factor + smooth)
            }
        };
        (0..dims).step_by(2).map(|i| divisor(i) as f32).collect()
    }
}
