//! Finds stop sequences in text that comes in pieces.

use std::collections::HashMap;

/// What [`StopMatcher::push`] made of a piece of text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StopMatch {
    /// Text that is not part of a stop sequence and never will be: to be shown.
    pub text: String,
    /// Which stop sequence was found, by its index in the list; nothing comes after it.
    pub stop: Option<usize>,
}

/// Looks for the first of several stop sequences, and holds back the end of the text for as long
/// as it may become one.
///
/// The first is the one that ends first; of those that end in one place, the longest. What is
/// found does not depend on how the text is cut into pieces. An automaton (Aho and Corasick 1975)
/// makes one step per byte, amortised.
#[derive(Clone, Debug)]
pub struct StopMatcher {
    nodes: Vec<Node>,
    edges: HashMap<(u32, u8), u32>,
    /// The node of the longest suffix of the text that begins a stop sequence.
    state: u32,
    /// That suffix, not shown yet.
    held: String,
    stopped: Option<usize>,
}

/// A beginning of one or more stop sequences.
#[derive(Clone, Debug, Default)]
struct Node {
    /// Its bytes.
    len: usize,
    /// The longest proper suffix of it that is a node too.
    fail: u32,
    /// The longest stop sequence that it ends with.
    stop: Option<(usize, usize)>,
}

const ROOT: u32 = 0;

impl StopMatcher {
    /// Looks for these. An empty one stops nothing.
    pub fn new<S: AsRef<str>>(stops: &[S]) -> StopMatcher {
        let mut nodes = vec![Node::default()];
        let mut edges: HashMap<(u32, u8), u32> = HashMap::new();
        for (index, stop) in stops.iter().enumerate() {
            let mut at = ROOT;
            for (len, &byte) in stop.as_ref().as_bytes().iter().enumerate() {
                at = *edges.entry((at, byte)).or_insert_with(|| {
                    nodes.push(Node { len: len + 1, ..Node::default() });
                    // A list of 4 GiB would be needed to have more nodes than this counts.
                    u32::try_from(nodes.len() - 1).unwrap_or(ROOT)
                });
            }
            let node = &mut nodes[at as usize];
            if at != ROOT && node.stop.is_none() {
                node.stop = Some((index, node.len));
            }
        }
        let mut matcher = StopMatcher { nodes, edges, state: ROOT, held: String::new(), stopped: None };
        matcher.link();
        matcher
    }

    /// Fills in `fail` and `stop`, shorter nodes first.
    fn link(&mut self) {
        let mut by_len: Vec<(u32, u8, u32)> =
            self.edges.iter().map(|(&(from, byte), &to)| (from, byte, to)).collect();
        by_len.sort_unstable_by_key(|&(.., to)| (self.nodes[to as usize].len, to));
        for (from, byte, to) in by_len {
            let fail = match from {
                ROOT => ROOT,
                _ => self.step(self.nodes[from as usize].fail, byte),
            };
            let inherited = self.nodes[fail as usize].stop;
            let node = &mut self.nodes[to as usize];
            node.fail = fail;
            node.stop = node.stop.or(inherited);
        }
    }

    fn step(&self, mut state: u32, byte: u8) -> u32 {
        loop {
            match self.edges.get(&(state, byte)) {
                Some(&next) => return next,
                None if state == ROOT => return ROOT,
                None => state = self.nodes[state as usize].fail,
            }
        }
    }

    /// Takes the next piece. Once a stop sequence was found, text is dropped and the answer stays.
    pub fn push(&mut self, text: &str) -> StopMatch {
        if self.stopped.is_some() {
            return StopMatch { text: String::new(), stop: self.stopped };
        }
        let before = self.held.len();
        self.held.push_str(text);
        for at in before..self.held.len() {
            self.state = self.step(self.state, self.held.as_bytes()[at]);
            if let Some((index, len)) = self.nodes[self.state as usize].stop {
                self.stopped = Some(index);
                self.held.truncate(at + 1 - len);
                return StopMatch { text: std::mem::take(&mut self.held), stop: self.stopped };
            }
        }
        // A stop sequence begins with a character, so that this is where one begins.
        let held = self.held.split_off(self.held.len() - self.nodes[self.state as usize].len);
        StopMatch { text: std::mem::replace(&mut self.held, held), stop: None }
    }

    /// Ends the text: returns what was held back, which is no stop sequence now.
    pub fn finish(&mut self) -> String {
        self.state = ROOT;
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_end_is_held_back_while_it_may_be_a_stop() {
        let mut matcher = StopMatcher::new(&["<|end|>", "User:"]);
        assert_eq!(matcher.push("Hello <"), StopMatch { text: "Hello ".into(), stop: None });
        assert_eq!(matcher.push("|e"), StopMatch::default());
        assert_eq!(matcher.push("gg> Us"), StopMatch { text: "<|egg> ".into(), stop: None });
        assert_eq!(matcher.push("er: no"), StopMatch { text: String::new(), stop: Some(1) });
        assert_eq!(matcher.push("more"), StopMatch { text: String::new(), stop: Some(1) });
        assert_eq!(matcher.finish(), "");
    }

    #[test]
    fn what_is_held_comes_at_the_end() {
        let mut matcher = StopMatcher::new(&["\n\n"]);
        assert_eq!(matcher.push("a\n").text, "a");
        assert_eq!(matcher.finish(), "\n");
    }

    #[test]
    fn the_first_to_end_wins_then_the_longest() {
        assert_eq!(
            StopMatcher::new(&["abcd", "bc"]).push("xabcd"),
            StopMatch { text: "xa".into(), stop: Some(1) }
        );
        assert_eq!(
            StopMatcher::new(&["bc", "abc"]).push("xabc"),
            StopMatch { text: "x".into(), stop: Some(1) }
        );
        assert_eq!(
            StopMatcher::new(&["", "🙂", "🙂"]).push("é🙂"),
            StopMatch { text: "é".into(), stop: Some(1) }
        );
        assert_eq!(StopMatcher::new::<&str>(&[]).push("ab"), StopMatch { text: "ab".into(), stop: None });
    }

    #[test]
    fn many_stops_and_long_runs_are_linear() {
        let stops: Vec<String> = (0..20_000).map(|i| format!("stop {i:05}!")).collect();
        let mut matcher = StopMatcher::new(&stops);
        assert_eq!(matcher.push("stop 12345"), StopMatch::default());
        assert_eq!(matcher.push("!").stop, Some(12345));
        // Each byte falls back from a run of a thousand: one step each, not a thousand.
        let mut matcher = StopMatcher::new(&["a".repeat(1000) + "b"]);
        let mut shown = 0;
        for _ in 0..100_000 {
            shown += matcher.push("a").text.len();
        }
        assert_eq!(shown + matcher.finish().len(), 100_000);
    }

    /// Every place where a stop sequence ends, by trying all.
    fn expected(stops: &[String], text: &str) -> StopMatch {
        for end in 0..=text.len() {
            let ending = stops.iter().enumerate().filter(|(_, s)| !s.is_empty());
            let ending = ending.filter(|(_, s)| text.as_bytes()[..end].ends_with(s.as_bytes()));
            // The longest, and the first of equals.
            if let Some((index, stop)) = ending.rev().max_by_key(|(_, s)| s.len()) {
                return StopMatch { text: text[..end - stop.len()].to_owned(), stop: Some(index) };
            }
        }
        StopMatch { text: text.to_owned(), stop: None }
    }

    proptest! {
        #[test]
        fn it_finds_what_a_whole_search_finds(
            stops in prop::collection::vec("[abé]{0,4}", 0..5),
            pieces in prop::collection::vec("[abé]{0,5}", 0..8),
        ) {
            let mut matcher = StopMatcher::new(&stops);
            let mut found = StopMatch::default();
            for piece in &pieces {
                let next = matcher.push(piece);
                found.text += &next.text;
                found.stop = next.stop;
            }
            found.text += &matcher.finish();
            prop_assert_eq!(found, expected(&stops, &pieces.concat()));
        }
    }
}
