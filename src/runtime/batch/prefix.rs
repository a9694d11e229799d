//! The pages of a cache, and which tokens they hold: a tree of prefixes that sequences share.
//!
//! A node is a page whose tokens are known; its parent is the page before it. A whole page is shared by
//! reference. A page that only begins as wanted is copied. What no running sequence uses stays until its page is
//! needed, the least recently used leaf first.

use std::collections::BTreeSet;

use crate::runtime::kv::{PAGE, PageId};

/// A node of the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct NodeId(usize);

struct Node {
    parent: Option<NodeId>,
    children: Vec<NodeId>,
    /// What the page holds: [`PAGE`] tokens, or fewer in a leaf.
    tokens: Vec<u32>,
    page: PageId,
    /// Running sequences that read it. Those of a node read its ancestors, too.
    users: usize,
    used: u64,
}

/// The pages of a cache.
pub(super) struct Pool {
    nodes: Vec<Option<Node>>,
    unused_nodes: Vec<NodeId>,
    /// The first pages of all sequences.
    roots: Vec<NodeId>,
    free: Vec<PageId>,
    /// Leaves without users, the least recently used first.
    idle: BTreeSet<(u64, NodeId)>,
    clock: u64,
    pages: usize,
    /// Nodes without users.
    cached: usize,
}

/// What is known of a sequence of tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Match {
    /// Nodes that hold whole pages of it, from its start.
    pub path: Vec<NodeId>,
    /// A page that holds so many of the tokens that follow: at least one.
    pub partial: Option<(PageId, usize)>,
}

impl Pool {
    /// A pool of `pages` pages that hold nothing.
    pub(super) fn new(pages: usize) -> Pool {
        Pool {
            nodes: Vec::new(),
            unused_nodes: Vec::new(),
            roots: Vec::new(),
            free: (0..u32::try_from(pages).unwrap_or(u32::MAX)).rev().map(PageId).collect(),
            idle: BTreeSet::new(),
            clock: 0,
            pages,
            cached: 0,
        }
    }

    /// All pages; those that running sequences hold; those kept for prefixes.
    pub(super) fn usage(&self) -> (usize, usize, usize) {
        (self.pages, self.pages - self.free.len() - self.cached, self.cached)
    }

    fn node(&self, id: NodeId) -> &Node {
        match &self.nodes[id.0] {
            Some(node) => node,
            None => unreachable!("a node is named only while it is there"),
        }
    }

    fn node_mut(&mut self, id: NodeId) -> &mut Node {
        match &mut self.nodes[id.0] {
            Some(node) => node,
            None => unreachable!("a node is named only while it is there"),
        }
    }

    fn children(&self, parent: Option<NodeId>) -> &[NodeId] {
        parent.map_or(&self.roots, |p| &self.node(p).children)
    }

    fn children_mut(&mut self, parent: Option<NodeId>) -> &mut Vec<NodeId> {
        match parent {
            Some(parent) => &mut self.node_mut(parent).children,
            None => &mut self.roots,
        }
    }

    /// The page of a node.
    pub(super) fn page(&self, id: NodeId) -> PageId {
        self.node(id).page
    }

    /// What is known of `tokens` that follow `parent`. The nodes of the path get a user.
    pub(super) fn find(&mut self, parent: Option<NodeId>, tokens: &[u32]) -> Match {
        let mut found = Match::default();
        loop {
            let rest = &tokens[found.path.len() * PAGE..];
            let mut best: Option<(NodeId, usize)> = None;
            for &child in self.children(found.path.last().copied().or(parent)) {
                let common = self.node(child).tokens.iter().zip(rest).take_while(|(a, b)| a == b).count();
                if common > best.map_or(0, |(_, n)| n) {
                    best = Some((child, common));
                }
            }
            match best {
                Some((node, PAGE)) => {
                    self.enter(node);
                    found.path.push(node);
                }
                Some((node, n)) => {
                    self.touch(node);
                    found.partial = Some((self.node(node).page, n));
                    return found;
                }
                None => return found,
            }
        }
    }

    /// One more user.
    fn enter(&mut self, id: NodeId) {
        self.unidle(id);
        let node = self.node_mut(id);
        node.users += 1;
        if node.users == 1 {
            self.cached -= 1;
        }
    }

    /// One user less.
    pub(super) fn leave(&mut self, id: NodeId) {
        self.clock += 1;
        let used = self.clock;
        let node = self.node_mut(id);
        node.users -= 1;
        node.used = used;
        if node.users == 0 {
            self.cached += 1;
            self.idle_if_leaf(id);
        }
    }

    fn touch(&mut self, id: NodeId) {
        self.unidle(id);
        self.clock += 1;
        self.node_mut(id).used = self.clock;
        self.idle_if_leaf(id);
    }

    fn unidle(&mut self, id: NodeId) {
        let used = self.node(id).used;
        self.idle.remove(&(used, id));
    }

    fn idle_if_leaf(&mut self, id: NodeId) {
        let node = self.node(id);
        if node.users == 0 && node.children.is_empty() {
            let entry = (node.used, id);
            self.idle.insert(entry);
        }
    }

    /// A page to write to; `None` when running sequences hold all.
    pub(super) fn take(&mut self) -> Option<PageId> {
        if let Some(page) = self.free.pop() {
            return Some(page);
        }
        let (_, oldest) = *self.idle.first()?;
        Some(self.remove(oldest))
    }

    /// Gives back a page that is in no node.
    pub(super) fn give(&mut self, page: PageId) {
        self.free.push(page);
    }

    /// Removes a leaf; its page belongs to the caller.
    fn remove(&mut self, id: NodeId) -> PageId {
        self.unidle(id);
        let parent = self.node(id).parent;
        self.children_mut(parent).retain(|c| *c != id);
        let Some(node) = self.nodes[id.0].take() else { unreachable!("a node is removed once") };
        debug_assert!(node.children.is_empty());
        if node.users == 0 {
            self.cached -= 1;
        }
        self.unused_nodes.push(id);
        if let Some(parent) = parent {
            self.idle_if_leaf(parent);
        }
        node.page
    }

    /// Says that `page` holds `tokens` after `parent`. The node gets a user; where there is such a node
    /// already, that one does, and the page is free.
    pub(super) fn insert(&mut self, parent: Option<NodeId>, tokens: &[u32], page: PageId) -> NodeId {
        let same = self.children(parent).iter().copied().find(|c| self.node(*c).tokens == tokens);
        if let Some(same) = same {
            self.give(page);
            self.enter(same);
            return same;
        }
        if let Some(parent) = parent {
            self.unidle(parent);
        }
        self.clock += 1;
        let node =
            Node { parent, children: Vec::new(), tokens: tokens.to_vec(), page, users: 1, used: self.clock };
        let id = match self.unused_nodes.pop() {
            Some(id) => {
                self.nodes[id.0] = Some(node);
                id
            }
            None => {
                self.nodes.push(Some(node));
                NodeId(self.nodes.len() - 1)
            }
        };
        self.children_mut(parent).push(id);
        id
    }

    /// Keeps a page that is not full for later, unless another holds its tokens.
    pub(super) fn keep(&mut self, parent: Option<NodeId>, tokens: &[u32], page: PageId) {
        let known = self.children(parent).iter().any(|c| self.node(*c).tokens.starts_with(tokens));
        if known || tokens.is_empty() {
            self.give(page);
            return;
        }
        let id = self.insert(parent, tokens, page);
        self.leave(id);
    }

    /// Takes the last node of a sequence's path out of the tree, if no other sequence uses it: its page belongs to
    /// the caller. What was kept after it goes.
    pub(super) fn detach(&mut self, id: NodeId) -> Option<PageId> {
        if self.node(id).users != 1 {
            return None;
        }
        let mut doomed = self.node(id).children.clone();
        let mut next = 0;
        while next < doomed.len() {
            let children = self.node(doomed[next]).children.clone();
            doomed.extend(children);
            next += 1;
        }
        for child in doomed.into_iter().rev() {
            let page = self.remove(child);
            self.give(page);
        }
        Some(self.remove(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Tokens that are known.
    fn len(found: &Match) -> usize {
        found.path.len() * PAGE + found.partial.map_or(0, |(_, n)| n)
    }

    /// A sequence as the engine has it.
    struct Run {
        tokens: Vec<u32>,
        path: Vec<NodeId>,
        own: Option<PageId>,
    }

    /// A cache: what every page holds.
    struct Model {
        pool: Pool,
        pages: Vec<Vec<u32>>,
        runs: Vec<Run>,
    }

    impl Model {
        fn new(pages: usize) -> Model {
            Model { pool: Pool::new(pages), pages: vec![Vec::new(); pages], runs: Vec::new() }
        }

        fn begin(&mut self, tokens: &[u32]) -> Option<usize> {
            let found = self.pool.find(None, &tokens[..tokens.len() - 1]);
            let known = len(&found);
            for (node, chunk) in found.path.iter().zip(tokens.chunks(PAGE)) {
                assert_eq!(self.pages[self.pool.page(*node).index()], chunk);
            }
            let mut run = Run { tokens: tokens.to_vec(), path: found.path, own: None };
            for (i, chunk) in tokens.chunks(PAGE).enumerate().skip(run.path.len()) {
                let Some(page) = self.pool.take() else {
                    run.path.drain(..).rev().for_each(|n| self.pool.leave(n));
                    return None;
                };
                if let Some((from, n)) = found.partial.filter(|_| i == known / PAGE) {
                    assert_eq!(self.pages[from.index()][..n], chunk[..n]);
                }
                self.pages[page.index()] = chunk.to_vec();
                if chunk.len() == PAGE {
                    run.path.push(self.pool.insert(run.path.last().copied(), chunk, page));
                } else {
                    run.own = Some(page);
                }
            }
            self.runs.push(run);
            Some(known)
        }

        fn end(&mut self, i: usize) {
            let run = self.runs.swap_remove(i);
            if let Some(page) = run.own {
                let rest = &run.tokens[run.path.len() * PAGE..];
                self.pool.keep(run.path.last().copied(), rest, page);
            }
            run.path.into_iter().rev().for_each(|n| self.pool.leave(n));
        }

        fn check(&self) {
            for run in &self.runs {
                for (node, chunk) in run.path.iter().zip(run.tokens.chunks(PAGE)) {
                    assert_eq!(self.pages[self.pool.page(*node).index()], chunk);
                }
            }
            let (all, used, cached) = self.pool.usage();
            assert_eq!(all, self.pages.len());
            assert_eq!(cached, self.pool.nodes.iter().flatten().filter(|n| n.users == 0).count());
            let mut held: Vec<PageId> = self
                .runs
                .iter()
                .flat_map(|r| r.path.iter().map(|n| self.pool.page(*n)).chain(r.own))
                .collect();
            held.sort_unstable();
            held.dedup();
            assert_eq!(used, held.len());
        }
    }

    #[test]
    fn a_second_turn_knows_the_first() {
        let mut model = Model::new(16);
        let first: Vec<u32> = (0..37).collect();
        assert_eq!(model.begin(&first), Some(0));
        model.end(0);
        // All of it but the last token, which is to be computed.
        let longer: Vec<u32> = (0..50).collect();
        assert_eq!(model.begin(&longer), Some(37));
        assert_eq!(model.begin(&first), Some(36));
        // Parts in the middle of a page.
        let mut other = first.clone();
        other[20] = 99;
        assert_eq!(model.begin(&other), Some(20));
        model.check();
    }

    #[test]
    fn the_least_recently_used_leaf_goes_first() {
        let mut model = Model::new(4);
        let page = |first: u32| -> Vec<u32> { (first..first + 17).collect() };
        for first in [0, 100] {
            model.begin(&page(first)).unwrap();
            model.end(0);
        }
        assert_eq!(model.begin(&page(0)), Some(16));
        model.end(0);
        // Room for two pages: the leaf of 100 and its parent go.
        model.begin(&page(200)).unwrap();
        model.end(0);
        assert_eq!(model.begin(&page(0)), Some(16));
        model.end(0);
        assert_eq!(model.begin(&page(100)), Some(0));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn pages_hold_what_the_tree_says(
            steps in prop::collection::vec((any::<bool>(), prop::collection::vec(0u32..2, 1..70), 0usize..8), 1..60)
        ) {
            let mut model = Model::new(12);
            for (begin, tokens, which) in steps {
                if begin {
                    model.begin(&tokens);
                } else if !model.runs.is_empty() {
                    model.end(which % model.runs.len());
                }
                model.check();
            }
            while !model.runs.is_empty() {
                model.end(0);
            }
            model.check();
            prop_assert_eq!(model.pool.usage().1, 0);
        }
    }
}
