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

/// A merge's place in the list; less is earlier.
type Rank = u32;

/// The merges of a vocabulary.
#[derive(Debug)]
pub(super) struct Bpe {
    byte_ids: [Option<u32>; 256],
    ranks: HashMap<(u32, u32), Rank>,
    /// The token that each merge makes.
    made: Vec<u32>,
    ignore_merges: bool,
}

/// A token of a piece under way, in a doubly linked list.
#[derive(Clone, Copy)]
struct Symbol {
    id: u32,
    previous: u32,
    /// The symbol itself once it has been merged into the one before.
    next: u32,
}

/// No symbol.
const NONE: u32 = u32::MAX;

/// The most bytes that are merged as one piece: more than any context, and few enough to count in
/// 32 bits.
const MAX_PIECE: usize = 1 << 30;

/// Buffers that a text's pieces share.
#[derive(Default)]
pub(super) struct Scratch {
    symbols: Vec<Symbol>,
    heap: Vec<Reverse<Candidate>>,
    text: String,
}

/// A merge that may happen, as one number: earlier merges are less, then those further left.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate(u64);

impl Candidate {
    fn new(rank: Rank, left: u32) -> Candidate {
        Candidate(u64::from(rank) << 32 | u64::from(left))
    }

    fn rank(self) -> Rank {
        (self.0 >> 32) as u32
    }

    fn left(self) -> u32 {
        self.0 as u32
    }
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
        let mut ranks = HashMap::with_capacity(merges.len());
        let mut made = Vec::with_capacity(merges.len());
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
            made.push(id);
            // Plain text must not become a control token; where those are parsed, the text never
            // gets here.
            if vocabulary.token_type(id) == Some(TokenType::Control) {
                continue;
            }
            if let Some(first) = ranks.insert(pair, rank) {
                return Err(bad(format!("{} is merge {first} already", shown(merge))));
            }
        }
        Ok(Bpe { byte_ids, ranks, made, ignore_merges })
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
        for part in piece.as_bytes().chunks(MAX_PIECE) {
            self.merge(part, scratch, ids);
        }
    }

    fn merge(&self, part: &[u8], scratch: &mut Scratch, ids: &mut Vec<u32>) {
        let symbols = &mut scratch.symbols;
        symbols.clear();
        let known = part.iter().filter_map(|&b| self.byte_ids[usize::from(b)]);
        symbols.extend(known.zip(0..).map(|(id, at)| Symbol {
            id,
            previous: if at == 0 { NONE } else { at - 1 },
            next: at + 1,
        }));
        if let Some(last) = symbols.last_mut() {
            last.next = NONE;
        }
        let mut first = std::mem::take(&mut scratch.heap);
        let pairs = symbols.windows(2).zip(0..);
        first.extend(
            pairs.filter_map(|(pair, left)| self.candidate(left, pair[0].id, pair[1].id)).map(Reverse),
        );
        let mut heap = BinaryHeap::from(first);
        while let Some(Reverse(candidate)) = heap.pop() {
            let left = candidate.left();
            let Symbol { id: left_id, previous, next: right } = symbols[left as usize];
            if right == NONE || right == left {
                continue;
            }
            let Symbol { id: right_id, next, .. } = symbols[right as usize];
            // Neighbours may have changed since; the pair still has to become the same token.
            let made = self.made[candidate.rank() as usize];
            let rank = self.ranks.get(&(left_id, right_id));
            if rank.is_none_or(|&rank| self.made[rank as usize] != made) {
                continue;
            }
            symbols[right as usize].next = right;
            symbols[left as usize].id = made;
            symbols[left as usize].next = next;
            if next != NONE {
                symbols[next as usize].previous = left;
                heap.extend(self.candidate(left, made, symbols[next as usize].id).map(Reverse));
            }
            if previous != NONE {
                heap.extend(self.candidate(previous, symbols[previous as usize].id, made).map(Reverse));
            }
        }
        scratch.heap = heap.into_vec();
        ids.extend(symbols.iter().zip(0..).filter(|(s, at)| s.next != *at).map(|(s, _)| s.id));
    }

    fn candidate(&self, left: u32, left_id: u32, right_id: u32) -> Option<Candidate> {
        self.ranks.get(&(left_id, right_id)).map(|&rank| Candidate::new(rank, left))
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
