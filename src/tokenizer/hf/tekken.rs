//! Mistral's own `tekken.json`: byte-level BPE as a list of byte strings in order of rank.
//!
//! Source: mistral-common's `Tekkenizer`. The first ids are special tokens; a vocabulary has the first ranks of the
//! list that its size has room for. Two tokens merge when their bytes together are a token, those of the lowest rank
//! first: written out, a merge for each way to cut each token in two.

use std::collections::HashMap;

use base64::Engine as _;
use serde::Deserialize;

use super::super::byte_level::char_of;
use super::super::vocabulary::TokenType;
use super::pipeline::{TEKKEN, Template};
use super::tokens::Entry;
use super::{Draft, HfTokenizerFiles};
use crate::diagnostic::Result;

const FILE: &str = "tekken.json";

/// Ids at most: known vocabularies have 131,072.
const MOST: usize = 1 << 22;

/// Bytes of a token at most; the longest known has 128.
const LONGEST: usize = 1 << 10;

/// Special tokens of files that do not name theirs, in order of id.
const NAMES: &[&str] = &[
    "<unk>",
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
    "[TOOL_CALLS]",
    "[IMG]",
    "<pad>",
    "[IMG_BREAK]",
    "[IMG_END]",
    "[PREFIX]",
    "[MIDDLE]",
    "[SUFFIX]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "[TOOL_CONTENT]",
];

#[derive(Deserialize)]
struct Tekken {
    config: Config,
    vocab: Vec<Token>,
    #[serde(default)]
    special_tokens: Option<Vec<SpecialToken>>,
}

#[derive(Deserialize)]
struct Config {
    pattern: String,
    default_vocab_size: usize,
    default_num_special_tokens: usize,
}

#[derive(Deserialize)]
struct Token {
    rank: usize,
    token_bytes: String,
}

#[derive(Deserialize)]
struct SpecialToken {
    rank: usize,
    token_str: String,
}

/// Reads it.
///
/// # Errors
/// The file is broken, or cuts text in another way.
pub(super) fn import(files: &HfTokenizerFiles<'_>, bytes: &[u8]) -> Result<Draft> {
    let wrong = |place: &str, message: String| files.error(FILE, place, message);
    let tekken: Tekken =
        serde_json::from_slice(bytes).map_err(|e| wrong("", format!("this is no tokenizer: {e}")))?;
    let Config { pattern, default_vocab_size: size, default_num_special_tokens: special } = &tekken.config;
    if pattern != TEKKEN {
        let error = wrong("config.pattern", "text is cut in a way that is not known".to_owned());
        return Err(error.help("the model would be fed tokens it was not trained on").into());
    }
    let room = size.checked_sub(*special).filter(|room| *room >= 256 && *size <= MOST);
    let Some(room) = room else {
        let message = format!("{size} ids, {special} of them special: that is no vocabulary of bytes");
        return Err(wrong("config.default_vocab_size", message).into());
    };
    let tokens = tokens(files, &tekken.vocab, room)?;
    let text = |bytes: &[u8]| bytes.iter().map(|byte| char_of(*byte)).collect::<String>();
    let mut entries = specials(files, &tekken.special_tokens, *special)?;
    entries.extend(tokens.iter().map(|bytes| Entry::own(text(bytes), TokenType::Normal, 0.0)));
    let id = |name: &str| entries.iter().position(|e| e.text == name).map(|id| id as u64);
    let ids = vec![("bos", id("<s>")), ("eos", id("</s>")), ("unk", id("<unk>")), ("pad", id("<pad>"))];
    let merges = merges(files, &tokens)?;
    let merges = merges.iter().map(|(left, right)| format!("{} {}", text(left), text(right))).collect();
    Ok(Draft {
        file: FILE,
        model: "gpt2",
        pre: "tekken",
        entries,
        merges: Some(merges),
        ids,
        add_bos: true,
        add_eos: Some(false),
        template: Template::default(),
        ..Draft::default()
    })
}

/// The special tokens, and names for the ids that have none.
fn specials(
    files: &HfTokenizerFiles<'_>,
    named: &Option<Vec<SpecialToken>>,
    count: usize,
) -> Result<Vec<Entry>> {
    let mut names: Vec<String> = (0..count).map(|id| format!("<SPECIAL_{id}>")).collect();
    match named {
        Some(named) => {
            for token in named {
                let place = || format!("special_tokens, rank {}", token.rank);
                let name = names.get_mut(token.rank).ok_or_else(|| {
                    files.error(FILE, place(), format!("there are only {count} special tokens"))
                })?;
                name.clone_from(&token.token_str);
            }
        }
        None => names.iter_mut().zip(NAMES).for_each(|(name, known)| *name = (*known).to_owned()),
    }
    Ok(names.into_iter().map(|name| Entry::own(name, TokenType::Control, 0.0)).collect())
}

/// The bytes of the first `room` tokens; the first 256 are the bytes themselves.
fn tokens(files: &HfTokenizerFiles<'_>, vocab: &[Token], room: usize) -> Result<Vec<Vec<u8>>> {
    let mut tokens = Vec::with_capacity(room.min(vocab.len()));
    for (rank, token) in vocab.iter().take(room).enumerate() {
        let wrong = |message: &str| files.error(FILE, format!("vocab[{rank}]"), message);
        if token.rank != rank {
            return Err(wrong("the ranks are not in order").into());
        }
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(&token.token_bytes)
            .map_err(|_| wrong("`token_bytes` is no base64"))?;
        if bytes.is_empty() || bytes.len() > LONGEST || (rank < 256 && bytes != [rank as u8]) {
            return Err(wrong("this is no token: the first 256 are the bytes, none is empty").into());
        }
        tokens.push(bytes);
    }
    if tokens.len() < room {
        let message = format!("{} tokens where the vocabulary has room for {room}", tokens.len());
        return Err(files.error(FILE, "vocab", message).into());
    }
    Ok(tokens)
}

/// Each way to make a token of two others: those of the lowest rank first, and of one token those whose parts rank
/// lowest.
fn merges<'t>(files: &HfTokenizerFiles<'_>, tokens: &'t [Vec<u8>]) -> Result<Vec<(&'t [u8], &'t [u8])>> {
    let mut ranks: HashMap<&[u8], usize> = HashMap::with_capacity(tokens.len());
    for (rank, bytes) in tokens.iter().enumerate() {
        if ranks.insert(bytes, rank).is_some() {
            return Err(files.error(FILE, format!("vocab[{rank}]"), "the token is there twice").into());
        }
    }
    let mut all = Vec::new();
    for (rank, bytes) in tokens.iter().enumerate().skip(256) {
        let mut own: Vec<(usize, usize, usize)> = (1..bytes.len())
            .filter_map(|at| Some((*ranks.get(&bytes[..at])?, *ranks.get(&bytes[at..])?, at)))
            .collect();
        if own.is_empty() {
            let message = "no two tokens make this one, so that no text leads to it";
            return Err(files.error(FILE, format!("vocab[{rank}]"), message).into());
        }
        own.sort_unstable();
        all.extend(own.into_iter().map(|(.., at)| bytes.split_at(at)));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn file(tokens: &[&[u8]], size: usize) -> Vec<u8> {
        let bytes = (0..=255u8).map(|byte| vec![byte]).chain(tokens.iter().map(|t| t.to_vec()));
        let vocab: Vec<serde_json::Value> = bytes
            .enumerate()
            .map(|(rank, bytes)| {
                let text = base64::engine::general_purpose::STANDARD.encode(bytes);
                serde_json::json!({ "rank": rank, "token_bytes": text, "token_str": null })
            })
            .collect();
        let config = serde_json::json!({
            "pattern": TEKKEN, "default_vocab_size": size, "default_num_special_tokens": 22,
        });
        serde_json::to_vec(&serde_json::json!({ "config": config, "vocab": vocab })).unwrap()
    }

    #[test]
    fn ranks_become_merges() {
        let files = HfTokenizerFiles::none(Path::new("m"));
        let draft = import(&files, &file(&[b"ab", b"bc", b"abc", b"later"], 22 + 256 + 3)).unwrap();
        assert_eq!(draft.merges.unwrap(), ["a b", "b c", "a bc", "ab c"]);
        let texts: Vec<&str> = draft.entries.iter().map(|e| e.text.as_str()).collect();
        assert_eq!(
            (texts[1], texts[21], texts[22 + 32], texts[22 + 258]),
            ("<s>", "<SPECIAL_21>", "Ġ", "abc")
        );
        assert_eq!(texts.len(), 22 + 256 + 3);
    }

    #[test]
    fn what_is_no_vocabulary_is_refused() {
        let files = HfTokenizerFiles::none(Path::new("m"));
        let refused = |bytes: &[u8]| import(&files, bytes).unwrap_err().to_string();
        for (bytes, message) in [
            (b"{}".to_vec(), "this is no tokenizer"),
            (file(&[], 22), "no vocabulary of bytes"),
            (file(&[], 22 + 300), "256 tokens where the vocabulary has room for 300"),
            (file(&[b"abc"], 22 + 257), "no two tokens make this one"),
            (file(&[b"ab", b"ab"], 22 + 258), "there twice"),
        ] {
            assert!(refused(&bytes).contains(message), "{}", refused(&bytes));
        }
    }
}
