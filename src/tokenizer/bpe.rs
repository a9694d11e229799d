//! Byte-level BPE: a piece starts as one token per byte, and the earliest merge of the list goes first.
//!
//! The result is that of the `tokenizers` library, to which the tests hold it; against its BPE model, this
//! one needs no string per token and none per lookup, and reads a GGUF's arrays as they are.

use super::byte_level;
use super::merge::{MAX_SYMBOLS, Merge, Merges, Scratch};
use super::vocabulary::{BadToken, TokenType, Vocabulary, shown};

/// The merges of a vocabulary.
#[derive(Debug)]
pub(super) struct Bpe {
    byte_ids: [Option<u32>; 256],
    merges: Merges,
    ignore_merges: bool,
}

impl Bpe {
    /// Takes merges as `tokenizer.ggml.merges` has them: `left right`, earliest first.
    ///
    /// # Errors
    /// A merge is no pair, names a text that is no token, makes one that is none, or is there twice.
    pub(super) fn new<'m>(
        vocabulary: &Vocabulary,
        merges: impl ExactSizeIterator<Item = &'m str>,
        ignore_merges: bool,
    ) -> Result<Bpe, BadToken> {
        let mut byte_ids = [None; 256];
        for (byte, id) in (0..=255).zip(&mut byte_ids) {
            *id = vocabulary.id(byte_level::char_of(byte).encode_utf8(&mut [0; 4]));
        }
        let merges = listed(vocabulary, merges)?;
        Ok(Bpe { byte_ids, merges, ignore_merges })
    }

    /// Appends the tokens of one piece. A byte that is no token is left out, as in training.
    pub(super) fn encode(
        &self,
        vocabulary: &Vocabulary,
        piece: &str,
        scratch: &mut Scratch,
        ids: &mut Vec<u32>,
    ) {
        if self.ignore_merges {
            let mut text = String::with_capacity(2 * piece.len());
            byte_level::write(piece.as_bytes(), &mut text);
            let whole = vocabulary.id(&text);
            if let Some(id) = whole.filter(|&id| vocabulary.token_type(id) != Some(TokenType::Control)) {
                ids.push(id);
                return;
            }
        }
        for part in piece.as_bytes().chunks(MAX_SYMBOLS) {
            let symbols = part.iter().filter_map(|&b| self.byte_ids[usize::from(b)]);
            self.merges.merge(symbols, scratch, |id| ids.push(id));
        }
    }
}

/// The merges of a list, each of which makes a token of the vocabulary.
fn listed<'m>(
    vocabulary: &Vocabulary,
    list: impl ExactSizeIterator<Item = &'m str>,
) -> Result<Merges, BadToken> {
    let mut pairs = Vec::with_capacity(list.len());
    let mut made = Vec::with_capacity(list.len());
    let mut joined = String::new();
    for (index, text) in list.enumerate() {
        let bad = |reason| BadToken { index, reason };
        let rank = u32::try_from(index).map_err(|_| bad("there are more merges than 2^32".into()))?;
        let pair = text.split_once(' ').filter(|(l, r)| !l.is_empty() && !r.is_empty() && !r.contains(' '));
        let (left, right) =
            pair.ok_or_else(|| bad(format!("{} is not two tokens and a space between", shown(text))))?;
        joined.clear();
        joined.push_str(left);
        joined.push_str(right);
        let id = |text: &str| {
            let missing = || bad(format!("{} is not in the vocabulary", shown(text)));
            vocabulary.id(text).ok_or_else(missing)
        };
        let (left, right, id) = (id(left)?, id(right)?, id(&joined)?);
        made.push(id);
        // Plain text must not become a control token; where those are parsed, the text never gets here.
        if vocabulary.token_type(id) != Some(TokenType::Control) {
            pairs.push((left, right, Merge { rank, made: id }, text));
        }
    }
    let mut merges = Merges::new(pairs.len(), made);
    for (left, right, merge, text) in pairs {
        if let Some(first) = merges.insert(left, right, merge) {
            let reason = format!("{} is merge {} already", shown(text), first.rank);
            return Err(BadToken { index: merge.rank as usize, reason });
        }
    }
    Ok(merges)
}

#[cfg(test)]
mod tests {
    use super::super::vocabulary::Alphabet;
    use super::*;
    use proptest::prelude::*;
    use tokenizers::Model;

    fn vocabulary(tokens: &[String]) -> Vocabulary {
        Vocabulary::new(tokens.iter().collect(), vec![TokenType::Normal; tokens.len()], Alphabet::ByteLevel)
            .unwrap()
    }

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|t| t.to_string()).collect()
    }

    #[test]
    fn broken_merges_are_named() {
        let vocabulary = vocabulary(&strings(&["a", "b", "ab"]));
        let error = |merges: &[&str]| {
            let e = Bpe::new(&vocabulary, merges.iter().copied(), false).unwrap_err();
            format!("{}: {}", e.index, e.reason)
        };
        assert_eq!(error(&["a b", "b c"]), "1: `c` is not in the vocabulary");
        assert_eq!(error(&["b a"]), "0: `ba` is not in the vocabulary");
        assert_eq!(error(&["a b", "a b"]), "1: `a b` is merge 0 already");
        for no_pair in ["", "a", " ", "a ", " a", "a b c", "a  b"] {
            assert!(error(&[no_pair]).contains("is not two tokens"), "{no_pair:?}");
        }
    }

    #[test]
    fn merges_never_make_a_control_token() {
        let tokens = strings(&["<", "s", ">", "<s", "<s>"]);
        let mut types = vec![TokenType::Normal; 5];
        types[4] = TokenType::Control;
        let vocabulary = Vocabulary::new(tokens.into(), types, Alphabet::ByteLevel).unwrap();
        for ignore_merges in [false, true] {
            let bpe = Bpe::new(&vocabulary, ["< s", "<s >"].into_iter(), ignore_merges).unwrap();
            let mut ids = Vec::new();
            bpe.encode(&vocabulary, "<s>", &mut Scratch::default(), &mut ids);
            assert_eq!(ids, [3, 2]);
        }
    }

    /// A vocabulary over a few letters and merges that may overlap and collide in any way.
    fn random_merges() -> impl Strategy<Value = (Vec<String>, Vec<(String, String)>)> {
        prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..40).prop_map(
            |picks| {
                let mut tokens = strings(&["a", "b", "c", "d"]);
                let mut merges = Vec::new();
                for (left, right) in picks {
                    let pair = (left.get(&tokens).clone(), right.get(&tokens).clone());
                    let joined = format!("{}{}", pair.0, pair.1);
                    if joined.len() > 12 || merges.contains(&pair) {
                        continue;
                    }
                    if !tokens.contains(&joined) {
                        tokens.push(joined);
                    }
                    merges.push(pair);
                }
                (tokens, merges)
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn random_merges_give_the_tokens_of_the_library(
            (tokens, merges) in random_merges(),
            text in "[abcde]{0,40}",
            ignore_merges: bool,
        ) {
            let vocab = tokens.iter().zip(0..).map(|(t, id)| (t.clone(), id));
            let theirs = tokenizers::models::bpe::BPE::builder()
                .vocab_and_merges(vocab.collect::<tokenizers::models::bpe::Vocab>(), merges.clone())
                .ignore_merges(ignore_merges)
                .build()
                .unwrap();
            let theirs: Vec<u32> = theirs.tokenize(&text).unwrap().iter().map(|t| t.id).collect();

            let vocabulary = vocabulary(&tokens);
            let merges: Vec<String> = merges.iter().map(|(l, r)| format!("{l} {r}")).collect();
            let bpe = Bpe::new(&vocabulary, merges.iter().map(String::as_str), ignore_merges).unwrap();
            let mut ids = Vec::new();
            bpe.encode(&vocabulary, &text, &mut Scratch::default(), &mut ids);
            prop_assert_eq!(ids, theirs);
        }
    }
}
