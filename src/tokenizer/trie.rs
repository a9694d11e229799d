//! Every token of a set that begins at a place in a text.

/// The bytes of tokens, as a tree: nodes in order of depth, so that the children of one stand together.
#[derive(Debug, Default)]
pub(super) struct Trie {
    /// For each node, the byte that leads to it.
    labels: Vec<u8>,
    /// For each node, its token or [`NONE`].
    ids: Vec<u32>,
    /// For each node, the first of its children; they end where the next node's begin.
    children: Vec<u32>,
}

const NONE: u32 = u32::MAX;

impl Trie {
    /// Takes texts and ids; of the same text, the last id counts. Texts that are empty are left out, and so
    /// is what lies beyond 2^32 nodes.
    pub(super) fn new<'t>(tokens: impl Iterator<Item = (&'t [u8], u32)>) -> Trie {
        let mut tokens: Vec<(&[u8], u32)> = tokens.filter(|(text, _)| !text.is_empty()).collect();
        // Stable, so that the last of the same text stays the last.
        tokens.sort_by_key(|(text, _)| *text);
        let mut trie = Trie { labels: vec![0], ids: vec![NONE], children: Vec::new() };
        // The tokens below each node that has no children yet, and how deep it is.
        let mut waiting = std::collections::VecDeque::from([(0..tokens.len(), 0usize)]);
        while let Some((range, depth)) = waiting.pop_front() {
            trie.children.push(u32::try_from(trie.labels.len()).unwrap_or(NONE));
            let mut at = range.start;
            while at < range.end {
                let Some(&byte) = tokens[at].0.get(depth) else {
                    at += 1;
                    continue;
                };
                let group = &tokens[at..range.end];
                let len = group.partition_point(|(text, _)| text.get(depth).is_some_and(|&b| b <= byte));
                let own = group[..len].iter().take_while(|(text, _)| text.len() == depth + 1).last();
                trie.labels.push(byte);
                trie.ids.push(own.map_or(NONE, |(_, id)| *id));
                waiting.push_back((at..at + len, depth + 1));
                at += len;
            }
        }
        trie.children.push(u32::try_from(trie.labels.len()).unwrap_or(NONE));
        trie
    }

    /// The lengths and ids of the tokens that `text` begins with, shortest first.
    pub(super) fn prefixes<'a>(&'a self, text: &'a [u8]) -> impl Iterator<Item = (usize, u32)> + 'a {
        let mut node = 0;
        let mut len = 0;
        std::iter::from_fn(move || {
            loop {
                node = self.child(node, *text.get(len)?)?;
                len += 1;
                let id = self.ids[node];
                if id != NONE {
                    return Some((len, id));
                }
            }
        })
    }

    fn child(&self, node: usize, byte: u8) -> Option<usize> {
        let first = *self.children.get(node)? as usize;
        let end = *self.children.get(node + 1)? as usize;
        let at = self.labels.get(first..end)?.binary_search(&byte).ok()?;
        Some(first + at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_finds_what_a_list_finds(
            tokens in prop::collection::vec("[abc]{0,5}", 0..30),
            text in "[abcd]{0,12}",
        ) {
            let trie = Trie::new(tokens.iter().map(String::as_bytes).zip(0..));
            let found: Vec<_> = trie.prefixes(text.as_bytes()).collect();
            let expected: Vec<_> = (1..=text.len())
                .filter_map(|len| Some((len, tokens.iter().rposition(|t| *t == text[..len])? as u32)))
                .collect();
            prop_assert_eq!(found, expected);
        }
    }
}
