//! Whether a TEMPLATE and the chat template of the model's file say the same, and whether an answer ends.
//!
//! A model was trained on the text that its chat template makes. A TEMPLATE that makes another text, a stop
//! text that is missing, or BOS written twice make a model worse and say nothing: a build tries them.

use jiff::civil::DateTime;

use crate::diagnostic::{Diagnostic, Errors, Result, Severity, Span};
use crate::ir::{self, ParameterValue};
use crate::tokenizer::{EncodeOptions, TokenType, Tokenizer};

use super::chat::{ChatRequest, SpecialTokens, Template};
use super::isolated::Renderer;
use super::known::{self, Known};
use super::limits::Limits;
use super::standard::{self, Conversation, REFUSES};

/// What templates are tried with.
pub struct Trial<'a> {
    /// Renders them; a chat template comes from anywhere.
    pub renderer: &'a Renderer,
    /// The texts of BOS and EOS.
    pub tokens: SpecialTokens,
    /// Cuts texts into tokens. Without it, texts are compared.
    pub tokenizer: Option<&'a Tokenizer>,
}

/// How two templates stand to each other.
#[derive(Debug)]
pub enum Agreement {
    /// They make the same tokens of as many conversations.
    Same(usize),
    /// They do not.
    Different(Box<Difference>),
    /// The first does not take a conversation that the second takes.
    Fails(&'static str, Errors),
    /// The second cannot be rendered within its limits.
    Unknown(Errors),
}

/// The first place where two texts differ.
#[derive(Debug, PartialEq, Eq)]
pub struct Difference {
    /// The conversation.
    pub conversation: &'static str,
    /// What stands before, in both.
    pub before: String,
    /// How the first goes on.
    pub first: String,
    /// How the second goes on.
    pub second: String,
}

impl Trial<'_> {
    fn render(&self, template: &Template, conversation: &Conversation, now: DateTime) -> Result<String> {
        let mut request = ChatRequest::new(&conversation.messages);
        (request.tools, request.now) = (&conversation.tools, now);
        self.renderer.render(template, &request, &self.tokens)
    }

    /// The tokens that the model reads, as a server cuts them.
    fn ids(&self, tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
        let add_special = !self.tokens.begin(text);
        tokenizer.encode(text, EncodeOptions { add_special, parse_special: true })
    }

    fn without_bos<'t>(&self, text: &'t str) -> &'t str {
        let bos = self.tokens.bos.as_deref().unwrap_or_default();
        text.strip_prefix(bos).unwrap_or(text)
    }

    fn same(&self, a: &str, b: &str) -> bool {
        match self.tokenizer {
            Some(tokenizer) => a == b || self.ids(tokenizer, a) == self.ids(tokenizer, b),
            None => self.without_bos(a) == self.without_bos(b),
        }
    }

    /// Compares two templates on the conversations that the second takes; those with tools only where both
    /// have a place for them.
    pub fn compare(&self, first: &Template, second: &Template) -> Agreement {
        let tools = first.supports_tools() && second.supports_tools();
        let now = standard::NOW;
        let mut count = 0;
        for conversation in standard::conversations().iter().filter(|c| tools || c.tools.is_empty()) {
            let expected = match self.render(second, conversation, now) {
                Ok(text) => text,
                Err(e) if e.0.iter().all(|d| REFUSES.contains(&d.code)) => continue,
                Err(e) => return Agreement::Unknown(e),
            };
            let got = match self.render(first, conversation, now) {
                Ok(text) => text,
                Err(e) => return Agreement::Fails(conversation.name, e),
            };
            if !self.same(&got, &expected) {
                return Agreement::Different(Box::new(self.difference(conversation.name, &got, &expected)));
            }
            count += 1;
        }
        Agreement::Same(count)
    }

    fn difference(&self, conversation: &'static str, first: &str, second: &str) -> Difference {
        let (mut first, mut second) = (first, second);
        // Where one leaves BOS to the tokenizer, that is no difference.
        if self.tokens.begin(first) != self.tokens.begin(second) {
            (first, second) = (self.without_bos(first), self.without_bos(second));
        }
        let same = first.chars().zip(second.chars()).take_while(|(a, b)| a == b).map(|(c, _)| c.len_utf8());
        let at: usize = same.sum();
        // Not in the middle of a tag.
        let at = first[..at].rfind('<').filter(|tag| !first[*tag..at].contains('>')).unwrap_or(at);
        let mut before: Vec<char> = first[..at].chars().rev().take(BEFORE).collect();
        before.reverse();
        let excerpt = |text: &str| text[at..].chars().take(AFTER).collect();
        Difference {
            conversation,
            before: before.into_iter().collect(),
            first: excerpt(first),
            second: excerpt(second),
        }
    }

    /// The text after an answer, up to the next question; none where the template does not show both.
    fn after_answer(&self, template: &Template) -> Option<String> {
        let turns = Conversation { name: "two turns", messages: standard::turns(), tools: Vec::new() };
        let text = self.render(template, &turns, standard::NOW).ok()?;
        let (_, rest) = text.split_once(standard::ANSWER)?;
        let (between, _) = rest.split_once(standard::NEXT_QUESTION)?;
        Some(between.to_owned())
    }

    /// What a model writes after its answer where nothing ends it: the text after an answer holds neither a
    /// token that ends a generation nor one of `stop`.
    pub fn unstopped(&self, template: &Template, stop: &[String]) -> Option<String> {
        let tokenizer = self.tokenizer?;
        let between = self.after_answer(template)?;
        let ids = tokenizer.encode(&between, EncodeOptions { add_special: false, parse_special: true });
        let stops = ids.iter().any(|&id| tokenizer.is_end_of_generation(id))
            || stop.iter().any(|s| !s.is_empty() && between.contains(s.as_str()));
        if stops || between.trim().is_empty() {
            return None;
        }
        // Where a token of its own ends the turn it is named; of plain text, the first line.
        let first = between.trim_start();
        let control = ids.iter().find(|&&id| tokenizer.token_type(id) == Some(TokenType::Control));
        let mark = control.and_then(|&id| tokenizer.token_text(id)).filter(|text| first.starts_with(text));
        Some(mark.or_else(|| first.lines().next()).unwrap_or_default().to_owned())
    }

    /// True when the text of a question begins with BOS twice.
    pub fn doubles_bos(&self, template: &Template) -> bool {
        let (Some(tokenizer), Some(question)) =
            (self.tokenizer, standard::conversations().into_iter().next())
        else {
            return false;
        };
        let Ok(text) = self.render(template, &question, standard::NOW) else { return false };
        let ids = self.ids(tokenizer, &text);
        tokenizer.bos().is_some_and(|bos| ids.starts_with(&[bos, bos]))
    }

    /// Warnings about what a build is given: TEMPLATE against the chat template of the file, what ends an
    /// answer, BOS. `span` is the TEMPLATE's place, where the Modelfile has one.
    ///
    /// # Errors
    /// TEMPLATE is malformed.
    pub fn review(
        &self,
        prompt: &ir::Prompt,
        chat_template: Option<&str>,
        span: Option<&Span>,
    ) -> Result<Vec<Diagnostic>> {
        let choose = |go, jinja| Template::choose(go, jinja, Limits::DEFAULT);
        let own = prompt.template.as_deref().filter(|t| !t.is_empty());
        if prompt.renderer.is_some() || (own.is_none() && chat_template.is_none()) {
            return Ok(Vec::new());
        }
        let go = own.map(|text| choose(Some(text), None)).transpose()?;
        let mut warnings = Vec::new();
        let jinja = chat_template.and_then(|text| match choose(None, Some(text)) {
            Ok(template) => Some(template),
            Err(errors) => {
                let as_warning = |d| Diagnostic { severity: Severity::Warning, ..d };
                warnings.extend(errors.0.into_iter().map(as_warning));
                None
            }
        });
        if let (Some(go), Some(jinja)) = (&go, &jinja) {
            warnings.extend(disagreement(self.compare(go, jinja)));
        }
        let Some(template) = go.or(jinja) else { return Ok(warnings) };
        if let Some(text) = self.unstopped(&template, &stop_texts(prompt)) {
            warnings.push(
                Diagnostic::warning(format!("nothing ends the model's answer before {text:?}"))
                    .code("template-stop")
                    .help("after an answer the template writes it, and it is neither a token that ends an answer nor a stop text")
                    .help(format!("add `PARAMETER stop {text:?}`")),
            );
        }
        if self.doubles_bos(&template) {
            let bos = self.tokens.bos.as_deref().unwrap_or_default();
            warnings.push(
                Diagnostic::warning(format!(
                    "the template writes the token that begins a text, {bos}, twice"
                ))
                .code("template-bos")
                .help("write it once, or leave it out: the tokenizer adds it"),
            );
        }
        let place = |d: Diagnostic| match span {
            Some(span) if own.is_some() => d.at(span),
            _ => d,
        };
        Ok(warnings.into_iter().map(place).collect())
    }

    /// Gives a model without TEMPLATE the known one that says the same as its chat template, with the stop
    /// texts that belong to it unless there are some. Returns which.
    ///
    /// A chat template that is near a known one in its letters may yet make another text; and one that has
    /// a place for tools is better than a TEMPLATE that has none. Then there is none to adopt.
    pub fn adopt(&self, prompt: &mut ir::Prompt, chat_template: &str) -> Option<&'static Known> {
        if prompt.template.is_some() || prompt.renderer.is_some() {
            return None;
        }
        let known = known::nearest(chat_template)?;
        let jinja = Template::choose(None, Some(chat_template), Limits::DEFAULT).ok()?;
        let go = Template::choose(Some(known.go), None, Limits::DEFAULT).ok()?;
        if jinja.supports_tools() && !go.supports_tools() {
            return None;
        }
        let Agreement::Same(1..) = self.compare(&go, &jinja) else { return None };
        prompt.template = Some(known.go.to_owned());
        if prompt.parameter("stop").is_none() {
            let stop = known.stop.iter().map(|s| (*s).to_owned()).collect();
            prompt.parameters.push(("stop".to_owned(), ParameterValue::Strings(stop)));
        }
        Some(known)
    }
}

/// Characters that are shown before a difference.
const BEFORE: usize = 24;
/// Characters that are shown of each side.
const AFTER: usize = 40;

fn disagreement(agreement: Agreement) -> Option<Diagnostic> {
    let another = |what: String| Diagnostic::warning(what).code("template-disagrees");
    match agreement {
        Agreement::Same(_) => None,
        Agreement::Different(d) => Some(
            another("TEMPLATE makes another text than the model's own chat template".to_owned())
                .help(format!("on {}, after {:?}", d.conversation, d.before))
                .help(format!("TEMPLATE goes on      {:?}", d.first))
                .help(format!("chat template goes on {:?}", d.second)),
        ),
        Agreement::Fails(conversation, errors) => {
            Some(another(format!("TEMPLATE fails on {conversation}")).help(errors.to_string()))
        }
        Agreement::Unknown(errors) => Some(
            another("the model's own chat template cannot be compared with TEMPLATE".to_owned())
                .help(errors.to_string()),
        ),
    }
}

fn stop_texts(prompt: &ir::Prompt) -> Vec<String> {
    match prompt.parameter("stop") {
        Some(ParameterValue::Strings(texts)) => texts.clone(),
        Some(ParameterValue::String(text)) => vec![text.clone()],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::known::KNOWN;
    use super::*;

    fn trial(bos: &str, eos: &str) -> Trial<'static> {
        static RENDERER: std::sync::OnceLock<Renderer> = std::sync::OnceLock::new();
        let tokens = SpecialTokens { bos: Some(bos.to_owned()), eos: Some(eos.to_owned()) };
        Trial { renderer: RENDERER.get_or_init(Renderer::in_process), tokens, tokenizer: None }
    }

    fn go(text: &str) -> Template {
        Template::choose(Some(text), None, Limits::DEFAULT).unwrap()
    }

    fn jinja(text: &str) -> Template {
        Template::choose(None, Some(text), Limits::DEFAULT).unwrap()
    }

    /// BOS and EOS as the models have them whose template it is.
    fn special(name: &str) -> (&'static str, &'static str) {
        match name {
            "starcoder2-instruct" => ("<|endoftext|>", "<|endoftext|>"),
            "llama3-instruct" | "chatqa" => ("<|begin_of_text|>", "<|eot_id|>"),
            _ => ("<s>", "</s>"),
        }
    }

    #[test]
    fn each_known_template_ends_an_answer() {
        for known in &KNOWN {
            let (bos, eos) = special(known.name);
            let between = trial(bos, eos).after_answer(&go(known.go)).unwrap();
            let ends = known.stop.iter().any(|stop| between.contains(stop)) || between.contains(eos);
            assert!(ends, "{}: {between:?}", known.name);
        }
    }

    #[test]
    fn each_known_template_says_in_go_what_it_says_in_jinja() {
        for known in &KNOWN {
            let (bos, eos) = special(known.name);
            for text in known.jinja {
                match trial(bos, eos).compare(&go(known.go), &jinja(text)) {
                    Agreement::Same(2..) => {}
                    other => panic!("{}: {other:#?}", known.name),
                }
            }
        }
    }
}
