//! The mixtures behind names such as `q4_K_M`: which type each tensor gets, as data.
//!
//! A [`Preset`] is a base type and rules; the first rule that matches a tensor decides. The table
//! chooses for every tensor the type that `llama-quantize` (autumn 2026) chooses.

use mdl_kernels::TensorType;
use mdl_kernels::TensorType::*;

/// What a tensor is to a mixture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// `output.weight`, or `token_embd.weight` of a model that has none.
    Output,
    /// `token_embd.weight` beside an `output.weight`.
    Embedding,
    /// `attn_v`, `attn_qkv` and `attn_kv_b`.
    AttentionV,
    /// `attn_k`.
    AttentionK,
    /// `attn_output`.
    AttentionOutput,
    /// `ffn_down`, of experts too.
    FeedForwardDown,
    /// Everything else that is quantized.
    Other,
}

/// What a rule asks of a tensor and its model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Nothing.
    Always,
    /// At least this many query heads for one key/value head.
    HeadsPerKv(u64),
    /// Among the first `n` tensors of its role.
    First(u64),
    /// Among the first `1/n` of its role.
    FirstPart(u64),
    /// In the first or last eighth of its role, or every third between: [`more_bits`].
    MoreBits,
    /// The model has 8 experts.
    EightExperts,
    /// Among the first `1/n` of its role, and no importance matrix is given.
    FirstPartWithoutImatrix(u64),
    /// Among the first `1/n` of its role, and an importance matrix is given.
    FirstPartWithImatrix(u64),
}

/// One line of a mixture.
pub type Rule = (Role, When, TensorType);

/// A named mixture.
#[derive(Debug)]
pub struct Preset {
    /// The name, as people write it: `q4_K_M`.
    pub name: &'static str,
    /// `general.file_type`.
    pub file_type: u32,
    /// The type of everything that no rule names.
    pub base: TensorType,
    /// The first that matches decides.
    pub rules: &'static [Rule],
}

use Role::*;
use When::*;

const NO_RULES: &[Rule] = &[];
/// Formats of 4 and 5 bits without superblocks give the first `ffn_down` an offset when the
/// importance matrix is there to make use of it.
const Q4_0_RULES: &[Rule] = &[(FeedForwardDown, FirstPartWithImatrix(8), Q4_1)];
const Q5_0_RULES: &[Rule] = &[(FeedForwardDown, FirstPartWithImatrix(8), Q5_1)];
const Q2_K_RULES: &[Rule] = &[
    (AttentionV, HeadsPerKv(4), Q4_K),
    (AttentionV, Always, Q3_K),
    (FeedForwardDown, Always, Q3_K),
    (AttentionOutput, EightExperts, Q5_K),
    (AttentionOutput, Always, Q3_K),
];
const Q3_K_S_RULES: &[Rule] = &[(AttentionOutput, EightExperts, Q5_K)];
const Q3_K_M_RULES: &[Rule] = &[
    (AttentionV, First(2), Q5_K),
    (AttentionV, Always, Q4_K),
    (FeedForwardDown, FirstPart(16), Q5_K),
    (FeedForwardDown, Always, Q4_K),
    (AttentionOutput, EightExperts, Q5_K),
    (AttentionOutput, Always, Q4_K),
];
const Q3_K_L_RULES: &[Rule] =
    &[(AttentionV, Always, Q5_K), (FeedForwardDown, Always, Q5_K), (AttentionOutput, Always, Q5_K)];
const Q4_K_S_RULES: &[Rule] = &[
    (AttentionV, First(4), Q5_K),
    (FeedForwardDown, FirstPart(8), Q5_K),
    (AttentionOutput, EightExperts, Q5_K),
];
const Q4_K_M_RULES: &[Rule] =
    &[(AttentionV, MoreBits, Q6_K), (FeedForwardDown, MoreBits, Q6_K), (AttentionOutput, EightExperts, Q5_K)];
const Q5_K_M_RULES: &[Rule] = &[(AttentionV, MoreBits, Q6_K), (FeedForwardDown, MoreBits, Q6_K)];
const IQ4_RULES: &[Rule] = &[
    (AttentionV, HeadsPerKv(4), Q5_K),
    (FeedForwardDown, FirstPartWithoutImatrix(8), Q5_K),
    (AttentionOutput, EightExperts, Q5_K),
];

const fn preset(name: &'static str, file_type: u32, base: TensorType, rules: &'static [Rule]) -> Preset {
    Preset { name, file_type, base, rules }
}

/// Every preset, the least bits last.
pub const PRESETS: &[Preset] = &[
    preset("f32", 0, F32, NO_RULES),
    preset("f16", 1, F16, NO_RULES),
    preset("bf16", 32, BF16, NO_RULES),
    preset("q8_0", 7, Q8_0, NO_RULES),
    preset("q6_K", 18, Q6_K, NO_RULES),
    preset("q5_K_M", 17, Q5_K, Q5_K_M_RULES),
    preset("q5_K_S", 16, Q5_K, NO_RULES),
    preset("q5_1", 9, Q5_1, NO_RULES),
    preset("q5_0", 8, Q5_0, Q5_0_RULES),
    preset("q4_K_M", 15, Q4_K, Q4_K_M_RULES),
    preset("q4_K_S", 14, Q4_K, Q4_K_S_RULES),
    preset("q4_1", 3, Q4_1, NO_RULES),
    preset("q4_0", 2, Q4_0, Q4_0_RULES),
    preset("iq4_nl", 25, IQ4_NL, IQ4_RULES),
    preset("iq4_xs", 30, IQ4_XS, IQ4_RULES),
    preset("q3_K_L", 13, Q3_K, Q3_K_L_RULES),
    preset("q3_K_M", 12, Q3_K, Q3_K_M_RULES),
    preset("q3_K_S", 11, Q3_K, Q3_K_S_RULES),
    preset("q2_K", 10, Q2_K, Q2_K_RULES),
];

/// Other names people use.
pub const ALIASES: &[(&str, &str)] = &[("q3_K", "q3_K_M"), ("q4_K", "q4_K_M"), ("q5_K", "q5_K_M")];

/// The type that takes the place of one whose block does not divide the row.
pub const NARROWER: &[(TensorType, TensorType)] =
    &[(Q2_K, Q4_0), (Q3_K, Q4_0), (Q4_K, Q5_0), (Q5_K, Q5_1), (Q6_K, Q8_0), (IQ4_XS, IQ4_NL)];

/// Parts of names of tensors that stay as they are, whatever the preset: small, and sensitive.
pub const KEPT: &[&str] = &[
    "_norm.weight",
    "ffn_gate_inp.weight",
    "ffn_gate_inp_shexp.weight",
    "position_embd.weight",
    "token_types.weight",
    "ssm_conv1d",
    "shortconv.conv.weight",
    "per_layer_model_proj",
    "altup",
    "laurel",
];

/// The preset with this name or alias, in any case.
pub fn find(name: &str) -> Option<&'static Preset> {
    let name = ALIASES.iter().find(|(alias, _)| alias.eq_ignore_ascii_case(name)).map_or(name, |(_, n)| n);
    PRESETS.iter().find(|p| p.name.eq_ignore_ascii_case(name))
}

/// The preset whose files carry this `general.file_type`.
pub fn by_file_type(file_type: u64) -> Option<&'static Preset> {
    PRESETS.iter().find(|p| u64::from(p.file_type) == file_type)
}

/// True for tensor `i` of `n` where a mixture of kind M spends more bits: the first and the last
/// eighth, and every third between.
pub fn more_bits(i: u64, n: u64) -> bool {
    let eighth = n / 8;
    i < eighth || i >= 7 * n / 8 || i.saturating_sub(eighth) % 3 == 2
}

/// What a rule may ask about a tensor.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// What the tensor is.
    pub role: Role,
    /// Its number among the tensors of its role, in layer order.
    pub i: u64,
    /// How many there are of its role.
    pub n: u64,
    /// Values in a row.
    pub cols: u64,
}

/// What a rule may ask about the model.
#[derive(Clone, Copy, Debug, Default)]
pub struct Surroundings {
    /// `attention.head_count / attention.head_count_kv`.
    pub heads_per_kv: u64,
    /// `expert_count`, 0 for a dense model.
    pub experts: u64,
    /// A Llama of 80 layers, 8192 wide.
    pub llama_70b: bool,
    /// An importance matrix is given.
    pub imatrix: bool,
}

impl When {
    fn holds(self, place: Place, model: Surroundings) -> bool {
        match self {
            When::Always => true,
            When::HeadsPerKv(least) => model.heads_per_kv >= least,
            When::First(count) => place.i < count,
            When::FirstPart(part) => place.i < place.n / part,
            When::MoreBits => more_bits(place.i, place.n),
            When::EightExperts => model.experts == 8,
            When::FirstPartWithoutImatrix(part) => !model.imatrix && place.i < place.n / part,
            When::FirstPartWithImatrix(part) => model.imatrix && place.i < place.n / part,
        }
    }
}

impl Preset {
    /// The type of a tensor, before its width is looked at.
    pub fn choose(&self, place: Place, model: Surroundings) -> TensorType {
        if !self.base.is_quantized() {
            return self.base;
        }
        match place.role {
            Role::Output if !place.cols.is_multiple_of(self.base.block_len() as u64) => return Q8_0,
            Role::Output if self.base != Q8_0 => return Q6_K,
            Role::Output | Role::Embedding => return self.base,
            Role::AttentionK if model.experts == 8 => return Q8_0,
            _ => {}
        }
        let chosen = self
            .rules
            .iter()
            .find(|(role, when, _)| *role == place.role && when.holds(place, model))
            .map_or(self.base, |(_, _, dtype)| *dtype);
        if place.role == Role::AttentionV {
            if model.experts == 8 {
                return Q8_0;
            }
            if model.llama_70b && matches!(chosen, Q3_K | Q4_K) {
                return Q5_K;
            }
        }
        chosen
    }
}

/// `dtype`, or what takes its place in rows of `cols` values.
pub fn fit_width(dtype: TensorType, cols: u64) -> TensorType {
    let fits = |t: TensorType| cols.is_multiple_of(t.block_len() as u64);
    if fits(dtype) {
        return dtype;
    }
    let narrower = NARROWER.iter().find(|(from, _)| *from == dtype).map_or(F16, |(_, to)| *to);
    if fits(narrower) { narrower } else { F16 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_aliases_are_found_in_any_case() {
        assert_eq!(find("Q4_K_M").unwrap().name, "q4_K_M");
        assert_eq!(find("q4_k").unwrap().name, "q4_K_M");
        assert!(find("q4_2").is_none());
        assert_eq!(by_file_type(15).unwrap().name, "q4_K_M");
    }

    #[test]
    fn more_bits_go_to_both_ends_and_every_third() {
        let chosen: Vec<u64> = (0..24).filter(|&i| more_bits(i, 24)).collect();
        assert_eq!(chosen, [0, 1, 2, 5, 8, 11, 14, 17, 20, 21, 22, 23]);
    }

    #[test]
    fn a_row_that_is_no_whole_block_takes_the_narrower_type() {
        assert_eq!(fit_width(Q4_K, 576), Q5_0);
        assert_eq!(fit_width(Q4_K, 1536), Q4_K);
        assert_eq!(fit_width(Q6_K, 100), F16);
        assert_eq!(fit_width(F32, 1), F32);
    }

    /// The cases of Ollama's own test of its rules, where the two agree.
    #[test]
    fn known_choices() {
        let dense = Surroundings { heads_per_kv: 4, ..Default::default() };
        let eight = Surroundings { experts: 8, ..dense };
        let at = |role, i, n, cols| Place { role, i, n, cols };
        let m = find("q4_K_M").unwrap();
        let s = find("q4_K_S").unwrap();
        assert_eq!(fit_width(m.choose(at(Output, 0, 1, 100), dense), 100), F16);
        assert_eq!(m.choose(at(Output, 0, 1, 1024), dense), Q6_K);
        assert_eq!(m.choose(at(AttentionV, 2, 24, 1024), dense), Q6_K);
        assert_eq!(s.choose(at(AttentionV, 0, 24, 1024), dense), Q5_K);
        assert_eq!(m.choose(at(AttentionV, 0, 24, 1024), eight), Q8_0);
        assert_eq!(m.choose(at(AttentionK, 0, 24, 1024), eight), Q8_0);
        assert_eq!(m.choose(at(FeedForwardDown, 1, 8, 1024), dense), Q4_K);
        assert_eq!(m.choose(at(FeedForwardDown, 2, 24, 1024), dense), Q6_K);
        assert_eq!(s.choose(at(FeedForwardDown, 2, 24, 1024), dense), Q5_K);
        assert_eq!(find("q8_0").unwrap().choose(at(Output, 0, 1, 1024), dense), Q8_0);
    }
}
