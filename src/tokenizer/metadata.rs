//! Reads a tokenizer from GGUF key-values.

use super::bpe::Bpe;
use super::charsmap::Charsmap;
use super::keys::{bad, bytes, flag, floats, in_vocabulary, integers, optional_string, string};
use super::keys::{missing, strings, token_id, wrong_type};
use super::model::Model;
use super::pre_tokenizer::PreTokenizer;
use super::sentencepiece::SentencePiece;
use super::spaces::Spaces;
use super::special::{Special, Strip};
use super::unigram::Unigram;
use super::vocabulary::{Alphabet, BadToken, TokenType, Vocabulary, byte_of, shown};
use super::wordpiece::WordPiece;
use super::{Tokenizer, end};
use crate::diagnostic::{Diagnostic, Result};
use crate::ir::{Metadata, Strings};

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const SCORES: &str = "tokenizer.ggml.scores";
const TOKEN_TYPE: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";
const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
const ADD_EOS: &str = "tokenizer.ggml.add_eos_token";
const ADD_SPACE_PREFIX: &str = "tokenizer.ggml.add_space_prefix";
const REMOVE_EXTRA_WHITESPACES: &str = "tokenizer.ggml.remove_extra_whitespaces";
const CHARSMAP: &str = "tokenizer.ggml.precompiled_charsmap";
const LOWERCASE: &str = "tokenizer.ggml.normalizer.lowercase";
const STRIP_ACCENTS: &str = "tokenizer.ggml.normalizer.strip_accents";
const BOS: &str = "tokenizer.ggml.bos_token_id";
const EOS: &str = "tokenizer.ggml.eos_token_id";
const UNKNOWN: &str = "tokenizer.ggml.unknown_token_id";
const SEP: &str = "tokenizer.ggml.seperator_token_id";
const CLS: &str = "tokenizer.ggml.cls_token_id";
/// Tokens that take the white space before and after them, in lists of ids. GGUF has no keys for them: these are
/// our own.
pub(super) const LSTRIP: &str = "mdl.tokenizer.lstrip_token_ids";
pub(super) const RSTRIP: &str = "mdl.tokenizer.rstrip_token_ids";
/// Tokens that follow BOS before every text: GLM's. A key of our own too.
pub(super) const PREFIX: &str = "mdl.tokenizer.prefix_token_ids";
/// Ids that end a generation, besides EOS.
const ENDS: [&str; 2] = ["tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];
/// A list of them, which Ollama writes.
const EOS_LIST: &str = "tokenizer.ggml.eos_token_ids";

/// What a `tokenizer.ggml.model` means where the other keys are silent. The ids are those of the first
/// model of its kind, which had no keys for them.
struct Kind {
    name: &'static str,
    alphabet: Alphabet,
    bos: Option<u32>,
    eos: Option<u32>,
    unknown: Option<u32>,
    add_bos: bool,
    add_eos: bool,
    space_prefix: bool,
}

const KINDS: &[Kind] = &[
    Kind {
        name: "gpt2",
        alphabet: Alphabet::ByteLevel,
        bos: None,
        eos: None,
        unknown: None,
        add_bos: false,
        add_eos: false,
        space_prefix: false,
    },
    Kind {
        name: "llama",
        alphabet: Alphabet::Spaced,
        bos: Some(1),
        eos: Some(2),
        unknown: Some(0),
        add_bos: true,
        add_eos: false,
        space_prefix: true,
    },
    Kind {
        name: "t5",
        alphabet: Alphabet::Spaced,
        bos: None,
        eos: Some(1),
        unknown: Some(2),
        add_bos: false,
        add_eos: true,
        space_prefix: false,
    },
    // BOS and EOS are what BERT calls CLS and SEP.
    Kind {
        name: "bert",
        alphabet: Alphabet::Spaced,
        bos: Some(101),
        eos: Some(102),
        unknown: Some(100),
        add_bos: true,
        add_eos: true,
        space_prefix: false,
    },
];

pub(super) fn read(metadata: &Metadata) -> Result<Tokenizer> {
    let model = string(metadata, MODEL)?;
    let kind = KINDS.iter().find(|kind| kind.name == model).ok_or_else(|| {
        let known: Vec<_> = KINDS.iter().map(|kind| kind.name).collect();
        bad(format!("the tokenizer model {} is not supported", shown(model)))
            .help(format!("supported are {}", known.join(", ")))
    })?;
    let tokens = strings(metadata, TOKENS)?;
    if tokens.is_empty() {
        return Err(bad(format!("`{TOKENS}` is empty")).into());
    }
    let id = |key: &str, default: Option<u32>| -> Result<Option<u32>> {
        let default = default.filter(|&id| (id as usize) < tokens.len());
        Ok(token_id(metadata, key, tokens.len())?.or(default))
    };
    let bert = kind.name == "bert";
    let (bos, eos) = match bert {
        true => (id(CLS, id(BOS, kind.bos)?)?, id(SEP, id(EOS, kind.eos)?)?),
        false => (id(BOS, kind.bos)?, id(EOS, kind.eos)?),
    };
    let unknown = id(UNKNOWN, kind.unknown)?;

    let mut types = token_types(metadata, tokens, &[bos, eos, unknown])?;
    end::retype(tokens, &mut types);
    let at = |key: &'static str| move |e: BadToken| bad(format!("`{key}[{}]`: {}", e.index, e.reason));
    let vocabulary = Vocabulary::new(tokens.clone(), types, kind.alphabet).map_err(at(TOKENS))?;
    let strip = strip(metadata, &vocabulary)?;
    let special = Special::new(&vocabulary, &strip).map_err(at(TOKENS))?;

    let mut warnings = Vec::new();
    let unknown_or = || -> Result<u32> { Ok(unknown.ok_or_else(|| missing(UNKNOWN))?) };
    let model = match kind.name {
        "gpt2" => {
            let pre_tokenizer = pre_tokenizer(metadata, &mut warnings)?;
            let merges = strings(metadata, MERGES)?.iter();
            let bpe = Bpe::new(&vocabulary, merges, pre_tokenizer.ignore_merges).map_err(at(MERGES))?;
            Model::ByteLevel(pre_tokenizer, bpe)
        }
        "llama" => {
            let scores = scores(metadata, tokens.len())?;
            let model = SentencePiece::new(&vocabulary, &scores, unknown).map_err(at(SCORES))?;
            Model::SentencePiece(spaces(metadata, kind)?, model)
        }
        "t5" => {
            let scores = scores(metadata, tokens.len())?;
            let model = Unigram::new(&vocabulary, &scores, unknown_or()?).map_err(at(SCORES))?;
            Model::Unigram(spaces(metadata, kind)?, model)
        }
        _ => {
            let lowercase = flag(metadata, LOWERCASE)?.unwrap_or(true);
            let strip_accents = flag(metadata, STRIP_ACCENTS)?.unwrap_or(lowercase);
            Model::WordPiece(WordPiece::new(&vocabulary, unknown_or()?, lowercase, strip_accents))
        }
    };

    let added = |key: &str, id: Option<u32>, id_key: &str, default: bool| -> Result<Option<u32>> {
        let asked = flag(metadata, key)?;
        if asked == Some(true) && id.is_none() {
            return Err(bad(format!("`{key}` is true, but there is no `{id_key}`")).into());
        }
        Ok(id.filter(|_| asked.unwrap_or(default)))
    };
    let (before, after) = if bert {
        // What the flags say of BERT is about pairs of texts.
        (bos, eos)
    } else {
        let add_bos = kind.add_bos || matches!(&model, Model::ByteLevel(pre, _) if pre.add_bos);
        (added(ADD_BOS, bos, BOS, add_bos)?, added(ADD_EOS, eos, EOS, kind.add_eos)?)
    };
    let mut before: Vec<u32> = before.into_iter().collect();
    if !before.is_empty() {
        before.extend(id_list(metadata, PREFIX, &vocabulary)?);
    }
    let end_of_generation = ends(metadata, &vocabulary, eos)?;
    Ok(Tokenizer { vocabulary, special, model, bos, eos, before, after, end_of_generation, warnings })
}

fn pre_tokenizer(metadata: &Metadata, warnings: &mut Vec<Diagnostic>) -> Result<&'static PreTokenizer> {
    let pre = optional_string(metadata, PRE)?.filter(|pre| !pre.is_empty()).unwrap_or_else(|| {
        let message = format!("the model has no `{PRE}`: its text is cut in the way of old files");
        warnings.push(
            Diagnostic::warning(message)
                .code("no-pre-tokenizer")
                .help("answers may be worse than the model can give; convert it again"),
        );
        "default"
    });
    let known = PreTokenizer::from_name(pre).ok_or_else(|| {
        let known: Vec<_> = PreTokenizer::names().collect();
        bad(format!("the pre-tokenizer {} (`{PRE}`) is not supported", shown(pre)))
            .help(format!("supported are {}", known.join(", ")))
            .help("with another one the model would be fed tokens it was not trained on")
    })?;
    Ok(known)
}

fn scores(metadata: &Metadata, tokens: usize) -> Result<Vec<f32>> {
    let scores = floats(metadata, SCORES)?;
    if scores.len() != tokens {
        return Err(bad(format!("`{SCORES}` has {} entries, `{TOKENS}` has {tokens}", scores.len())).into());
    }
    Ok(scores)
}

fn spaces(metadata: &Metadata, kind: &Kind) -> Result<Spaces> {
    let charsmap = bytes(metadata, CHARSMAP)?.map(|bytes| Charsmap::read(&bytes));
    let charsmap = charsmap.transpose().map_err(|why| bad(format!("`{CHARSMAP}` is broken: {why}")))?;
    Ok(Spaces {
        prefix: flag(metadata, ADD_SPACE_PREFIX)?.unwrap_or(kind.space_prefix),
        merge: flag(metadata, REMOVE_EXTRA_WHITESPACES)?.unwrap_or(false),
        charsmap,
    })
}

/// The tokens' types. Old files have none: all tokens are plain text but for those that say of themselves
/// that they are bytes and for `named`, whose texts must not be plain.
fn token_types(metadata: &Metadata, tokens: &Strings, named: &[Option<u32>]) -> Result<Vec<TokenType>> {
    let Some(value) = metadata.get(TOKEN_TYPE) else {
        let byte = |text: &str| if byte_of(text).is_some() { TokenType::Byte } else { TokenType::Normal };
        let mut types: Vec<TokenType> = tokens.iter().map(byte).collect();
        for &id in named.iter().flatten() {
            types[id as usize] = TokenType::Control;
        }
        return Ok(types);
    };
    let array = value.as_array().ok_or_else(|| wrong_type(TOKEN_TYPE, "an array of integers"))?;
    if array.len() != tokens.len() {
        let (types, tokens) = (array.len(), tokens.len());
        return Err(bad(format!("`{TOKEN_TYPE}` has {types} entries, `{TOKENS}` has {tokens}")).into());
    }
    let ids = integers(array).ok_or_else(|| wrong_type(TOKEN_TYPE, "an array of integers"))?;
    let mut types = Vec::with_capacity(ids.len());
    for (index, id) in ids.into_iter().enumerate() {
        let no_type = || bad(format!("`{TOKEN_TYPE}[{index}]` is no type of a token: those are 0 to 6"));
        // 0 is what a writer puts where it knows of none.
        let kind = if id == Some(0) { Some(TokenType::Normal) } else { id.and_then(TokenType::from_id) };
        types.push(kind.ok_or_else(no_type)?);
    }
    Ok(types)
}

/// Which special tokens take the white space beside them: as our own importer wrote, else as is known of a few
/// models by name.
fn strip(metadata: &Metadata, vocabulary: &Vocabulary) -> Result<Strip> {
    if metadata.get(LSTRIP).is_none() && metadata.get(RSTRIP).is_none() {
        return Ok(Strip::known(metadata, vocabulary));
    }
    let ids = |key: &str| id_list(metadata, key, vocabulary);
    Ok(Strip::new(ids(LSTRIP)?, ids(RSTRIP)?))
}

fn id_list(metadata: &Metadata, key: &str, vocabulary: &Vocabulary) -> Result<Vec<u32>> {
    let Some(value) = metadata.get(key) else { return Ok(Vec::new()) };
    let ids = value.as_array().and_then(integers).ok_or_else(|| wrong_type(key, "an array of integers"))?;
    let checked = ids.into_iter().enumerate().map(|(index, id)| {
        let id = id.and_then(|id| in_vocabulary(id, vocabulary.len()));
        Ok(id.ok_or_else(|| bad(format!("`{key}[{index}]` is no token of the vocabulary")))?)
    });
    checked.collect()
}

/// The ids that end a generation, sorted.
fn ends(metadata: &Metadata, vocabulary: &Vocabulary, eos: Option<u32>) -> Result<Vec<u32>> {
    let mut ends = end::named(vocabulary);
    ends.extend(eos);
    for key in ENDS {
        ends.extend(token_id(metadata, key, vocabulary.len())?);
    }
    ends.extend(id_list(metadata, EOS_LIST, vocabulary)?);
    ends.sort_unstable();
    ends.dedup();
    Ok(ends)
}
