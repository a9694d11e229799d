//! Many strings in one allocation.

/// A list of strings, end to end: a vocabulary of a hundred thousand takes two allocations.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Strings {
    text: String,
    /// Where each ends in `text`.
    ends: Vec<usize>,
}

impl Strings {
    /// An empty list.
    pub const fn new() -> Strings {
        Strings { text: String::new(), ends: Vec::new() }
    }

    /// An empty list with room for `count` strings.
    pub fn with_capacity(count: usize) -> Strings {
        Strings { text: String::new(), ends: Vec::with_capacity(count) }
    }

    /// Adds one at the end.
    pub fn push(&mut self, string: &str) {
        self.text.push_str(string);
        self.ends.push(self.text.len());
    }

    /// The number of strings.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The one at `index`.
    pub fn get(&self, index: usize) -> Option<&str> {
        let end = *self.ends.get(index)?;
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        self.text.get(start..end)
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> + Clone {
        let mut start = 0;
        self.ends.iter().map(move |&end| {
            let string = self.text.get(start..end).unwrap_or_default();
            start = end;
            string
        })
    }
}

impl std::fmt::Debug for Strings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<S: AsRef<str>> FromIterator<S> for Strings {
    fn from_iter<I: IntoIterator<Item = S>>(strings: I) -> Strings {
        let strings = strings.into_iter();
        let mut list = Strings::with_capacity(strings.size_hint().0);
        strings.for_each(|s| list.push(s.as_ref()));
        list
    }
}

impl From<Vec<String>> for Strings {
    fn from(strings: Vec<String>) -> Strings {
        strings.iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_come_back_as_they_went_in() {
        let strings: Strings = ["", "a", "", "▁é", ""].into_iter().collect();
        assert_eq!(strings.iter().collect::<Vec<_>>(), ["", "a", "", "▁é", ""]);
        assert_eq!((strings.len(), strings.iter().len()), (5, 5));
        assert_eq!((strings.get(0), strings.get(3), strings.get(4)), (Some(""), Some("▁é"), Some("")));
        assert_eq!(strings.get(5), None);
        assert_eq!(format!("{strings:?}"), r#"["", "a", "", "▁é", ""]"#);
        assert_ne!(strings, Strings::from(vec!["a".to_owned(); 5]));
    }
}
