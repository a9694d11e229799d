//! Byte-pair encoding: merges neighbouring tokens, the earliest merge of the list first.
//!
//! A piece starts as one token per byte. Candidates wait in a heap ordered by the merge's rank and
//! then by place, so that a piece of n bytes takes O(n log n) however hostile it is. The result is
//! that of the `tokenizers` library, to which the tests hold it; against its BPE model, this
//! one needs no string per token and none per lookup, and reads a GGUF's arrays as they are.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use super::byte_level;
use super::vocabulary::{BadToken, TokenType, Vocabulary, shown};

/// What two neighbours become.
#[derive(Clone, Copy, Debug)]
struct Merge {
    /// Place in the list of merges; less is earlier.
    rank: u32,
    /// The token they become.
    id: u32,
}

/// The merges of a vocabulary.
#[derive(Debug)]
pub(super) struct Bpe {
    byte_ids: [Option<u32>; 256],
    merges: HashMap<(u32, u32), Merge>,
    ignore_merges: bool,
}

/// A token of a piece under way, in a doubly linked list.
struct Symbol {
    id: u32,
    previous: usize,
    next: usize,
    /// False once it has been merged into the one before.
    alive: bool,
}

const NONE: usize = usize::MAX;

/// Buffers that a text's pieces share.
#[derive(Default)]
pub(super) struct Scratch {
    symbols: Vec<Symbol>,
    /// Rank, left symbol, resulting token.
    heap: BinaryHeap<Reverse<(u32, usize, u32)>>,
    text: String,
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
        let mut map = HashMap::with_capacity(merges.len());
        let mut joined = String::new();
        for (index, merge) in merges.enumerate() {
            let bad = |reason| BadToken { index, reason };
            let rank = u32::try_from(index).map_err(|_| bad("there are more merges than 2^32".into()))?;
            let pair =
                merge.split_once(' ').filter(|(l, r)| !l.is_empty() && !r.is_empty() && !r.contains(' '));
            let (left, right) =
                pair.ok_or_else(|| bad(format!("{} is not two tokens and a space between", shown(merge))))?;
            joined.clear();
            joined.push_str(left);
            joined.push_str(right);
            let id = |text: &str| {
                let missing = || bad(format!("{} is not in the vocabulary", shown(text)));
                vocabulary.id(text).ok_or_else(missing)
            };
            let (pair, id) = ((id(left)?, id(right)?), id(&joined)?);
            // Plain text must not become a control token; where those are parsed, the text never
            // gets here.
            if vocabulary.token_type(id) == Some(TokenType::Control) {
                continue;
            }
            if let Some(first) = map.insert(pair, Merge { rank, id }) {
                return Err(bad(format!("{} is merge {} already", shown(merge), first.rank)));
            }
        }
        Ok(Bpe { byte_ids, merges: map, ignore_merges })
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
            scratch.text.clear();
            byte_level::write(piece.as_bytes(), &mut scratch.text);
            let whole = vocabulary.id(&scratch.text);
            if let Some(id) = whole.filter(|&id| vocabulary.token_type(id) != Some(TokenType::Control)) {
                ids.push(id);
                return;
            }
        }
        let Scratch { symbols, heap, .. } = scratch;
        symbols.clear();
        heap.clear();
        let known = piece.bytes().filter_map(|b| self.byte_ids[usize::from(b)]);
        symbols.extend(known.enumerate().map(|(at, id)| Symbol {
            id,
            previous: at.checked_sub(1).unwrap_or(NONE),
            next: at + 1,
            alive: true,
        }));
        if let Some(last) = symbols.last_mut() {
            last.next = NONE;
        }
        for left in 1..symbols.len() {
            self.consider(symbols, heap, left - 1, left);
        }
        while let Some(Reverse((_, left, id))) = heap.pop() {
            let right = symbols[left].next;
            if !symbols[left].alive || right == NONE {
                continue;
            }
            // Neighbours may have changed since; the pair still has to become the same token.
            let pair = (symbols[left].id, symbols[right].id);
            if self.merges.get(&pair).is_none_or(|m| m.id != id) {
                continue;
            }
            let next = symbols[right].next;
            symbols[right].alive = false;
            symbols[left].id = id;
            symbols[left].next = next;
            if next != NONE {
                symbols[next].previous = left;
                self.consider(symbols, heap, left, next);
            }
            let previous = symbols[left].previous;
            if previous != NONE {
                self.consider(symbols, heap, previous, left);
            }
        }
        ids.extend(symbols.iter().filter(|s| s.alive).map(|s| s.id));
    }

    fn consider(
        &self,
        symbols: &[Symbol],
        heap: &mut BinaryHeap<Reverse<(u32, usize, u32)>>,
        left: usize,
        right: usize,
    ) {
        if let Some(merge) = self.merges.get(&(symbols[left].id, symbols[right].id)) {
            heap.push(Reverse((merge.rank, left, merge.id)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokenizers::Model;

    fn vocabulary(tokens: &[String]) -> Vocabulary {
        Vocabulary::new(tokens, vec![TokenType::Normal; tokens.len()]).unwrap()
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
        let vocabulary = Vocabulary::new(&tokens, types).unwrap();
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
