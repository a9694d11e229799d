//! The source of a chat template, before the engine reads it.

use std::borrow::Cow;
use std::ops::Range;

/// `{% generation %}` marks what a trainer learns from and prints nothing: it becomes a condition
/// that always holds, of the same length, so that places stay what they are.
pub fn without_generation_tags(text: &str) -> Cow<'_, str> {
    if !text.contains("generation") {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("{%") {
        let tag_start = at + 2;
        let inside = rest[tag_start..].trim_start_matches(['-', '+']).trim_start();
        let inside_at = rest.len() - inside.len();
        out.push_str(&rest[..inside_at]);
        rest = inside;
        for (word, replacement) in [("endgeneration", "endif        "), ("generation", "if true   ")] {
            if let Some(after) = rest.strip_prefix(word)
                && after.trim_start().trim_start_matches(['-', '+']).starts_with("%}")
            {
                out.push_str(replacement);
                rest = after;
                break;
            }
        }
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// The first place where a source is more than the engine's recursion bears: a tag of more than
/// `most` bytes outside of strings, or a chain of `elif` as long.
pub fn over_budget(text: &str, most: usize) -> Option<(Range<usize>, String)> {
    if let Some((at, word)) = text.match_indices("elif").nth(most / 4) {
        return Some((at..at + word.len(), format!("the template has more than {} `elif`", most / 4)));
    }
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(brace) = text[at..].find('{') {
        let start = at + brace;
        let closing = match bytes.get(start + 1) {
            Some(b'{') => "}}",
            Some(b'%') => "%}",
            Some(b'#') => {
                at = text[start..].find("#}").map_or(text.len(), |end| start + end + 2);
                continue;
            }
            _ => {
                at = start + 1;
                continue;
            }
        };
        let (end, code) = tag_end(bytes, start + 2, closing.as_bytes());
        if code > most {
            let message = format!("the tag has more than {most} bytes besides its strings");
            return Some((start..start + 2, message));
        }
        at = end;
        let inside = text.get(start + 2..end.saturating_sub(2)).unwrap_or_default();
        if inside.trim_matches(['-', '+', ' ', '\t', '\n', '\r']) == "raw" {
            at = text[at..].find("endraw").map_or(text.len(), |skip| at + skip);
        }
    }
    None
}

/// Where the tag whose inside begins at `at` ends, and its bytes outside of strings.
fn tag_end(bytes: &[u8], mut at: usize, closing: &[u8]) -> (usize, usize) {
    let mut code = 0;
    let mut quote = None;
    while let Some(&b) = bytes.get(at) {
        match quote {
            Some(_) if b == b'\\' => at += 1,
            Some(q) if b == q => quote = None,
            Some(_) => {}
            None if bytes[at..].starts_with(closing) => return (at + closing.len(), code),
            None => {
                code += 1;
                if matches!(b, b'"' | b'\'') {
                    quote = Some(b);
                }
            }
        }
        at += 1;
    }
    (bytes.len(), code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_counts() {
        let long = "x".repeat(100);
        assert!(over_budget(&format!("{long}{{{{ '{long}' }}}}{{# {long} #}}"), 20).is_none());
        assert!(over_budget(&format!("{{% raw %}}{{{{ {long}{{% endraw %}}"), 20).is_none());
        assert!(over_budget(&format!("{{{{ '\\'{long}' }}}}"), 20).is_none());
        let (range, _) = over_budget(&format!("ab{{{{ {long} }}}}"), 20).unwrap();
        assert_eq!(range, 2..4);
        assert!(over_budget(&format!("{{% {long} %}}"), 20).is_some());
        assert!(over_budget(&format!("{{% raw %}}{{% endraw %}}{{{{ {long}"), 20).is_some());
    }

    #[test]
    fn generation_tags_become_conditions_of_the_same_length() {
        let text = "{% generation %}{{ a }}{%- endgeneration -%} generation {{ generation }}";
        let replaced = without_generation_tags(text);
        assert_eq!(replaced, "{% if true    %}{{ a }}{%- endif         -%} generation {{ generation }}");
        assert_eq!(replaced.len(), text.len());
    }
}
