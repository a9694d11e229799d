//! A TEMPLATE executed for a conversation, as Ollama does it.
//!
//! A template that mentions `.Messages` is executed once, on the whole conversation. An older one
//! knows a single exchange, `.System`, `.Prompt` and `.Response`: it is executed once per exchange,
//! and for the last, unanswered one only up to `.Response`, where the model goes on.

use std::sync::Arc;

use jiff::civil::DateTime;

use crate::diagnostic::{Result, Source};

use super::chat::{ChatMessage, ChatRequest, Think};
use super::go_values;
use super::gotemplate::{Spent, Template, Value, ast};
use super::limits::Limits;
use super::output::{self, OutputSyntax};
use super::thread::on_own_stack;

/// A parsed TEMPLATE.
#[derive(Clone, Debug)]
pub struct GoTemplate {
    template: Template,
    /// The template up to its first `.Response`.
    open: Template,
    /// Every field and variable that is mentioned, in lower case.
    names: Vec<String>,
    /// How the model writes thinking and calls.
    syntax: OutputSyntax,
}

impl GoTemplate {
    /// Reads a template; `name` is what errors call it. One that mentions neither messages nor a
    /// response gets `{{ .Response }}` at its end.
    ///
    /// # Errors
    /// The text is not a Go template, or exceeds `limits`.
    pub fn parse(name: &str, text: &str, limits: Limits) -> Result<GoTemplate> {
        let source = Arc::new(Source { name: name.to_owned(), text: text.to_owned() });
        let parsed = Template::parse(source, limits)?;
        let mut names = Vec::new();
        for list in parsed.templates().values() {
            ast::identifiers(list, &mut |name| names.push(name.to_lowercase()));
        }
        names.sort_unstable();
        names.dedup();
        let has = |name: &str| names.iter().any(|n| n == name);
        let mut templates = parsed.templates().clone();
        let mut root = templates.get("").map(|list| (**list).clone()).unwrap_or_default();
        if !has("messages") && !has("response") {
            root.push(response_node());
            templates.insert("".into(), Arc::new(root.clone()));
        }
        let syntax = output::go_syntax(&root);
        let template = parsed.with_templates(templates.clone());
        ast::truncate_after(&mut root, "Response");
        templates.insert("".into(), Arc::new(root));
        let open = parsed.with_templates(templates);
        Ok(GoTemplate { template, open, names, syntax })
    }

    /// The text it was read from.
    pub fn source(&self) -> &Source {
        self.template.source()
    }

    /// True when a field or variable of this name occurs, in lower case.
    pub fn mentions(&self, name: &str) -> bool {
        self.names.iter().any(|n| n == name)
    }

    /// How the model writes thinking and calls.
    pub fn output_syntax(&self) -> &OutputSyntax {
        &self.syntax
    }

    /// True when it has a place for a suffix.
    pub fn supports_infill(&self) -> bool {
        self.mentions("suffix")
    }

    /// The text of a conversation.
    ///
    /// # Errors
    /// The template fails on it or exceeds a budget; a tool is malformed.
    pub fn render(&self, request: &ChatRequest<'_>) -> Result<String> {
        let (system, messages) = collate(request.messages);
        if self.mentions("messages") {
            self.render_messages(request, system, &messages)
        } else {
            on_own_stack(self.template.limits().stack_bytes, || self.render_exchanges(request, &messages))
        }
    }

    /// The text for a completion between `prompt` and `suffix`.
    ///
    /// # Errors
    /// The template fails or exceeds a budget.
    pub fn render_infill(
        &self,
        prompt: &str,
        suffix: &str,
        think: Option<&Think>,
        now: DateTime,
    ) -> Result<String> {
        let mut entries = vec![
            ("Prompt".to_owned(), Value::from(prompt)),
            ("Suffix".to_owned(), Value::from(suffix)),
            ("Response".to_owned(), Value::from("")),
        ];
        entries.extend(thinking(think));
        self.template.execute(&Value::map(entries), now.date())
    }

    fn render_messages(
        &self,
        request: &ChatRequest<'_>,
        system: String,
        messages: &[(&ChatMessage, String)],
    ) -> Result<String> {
        let nesting = self.template.limits().nesting;
        let values = messages.iter().map(|(m, content)| go_values::message(m, content, nesting));
        let mut entries = vec![
            ("System".to_owned(), Value::from(system)),
            ("Messages".to_owned(), Value::list(values.collect::<Result<_>>()?)),
            ("Tools".to_owned(), go_values::tools(request.tools, nesting)?),
            ("Response".to_owned(), Value::from("")),
        ];
        entries.extend(thinking(request.think.as_ref()));
        self.template.execute(&Value::map(entries), request.now.date())
    }

    /// Executes the template for each exchange, on the present thread.
    fn render_exchanges(
        &self,
        request: &ChatRequest<'_>,
        messages: &[(&ChatMessage, String)],
    ) -> Result<String> {
        let mut spent = Spent::default();
        let mut text = String::new();
        let mut exchange = Exchange::default();
        let mut execute = |template: &Template, exchange: &mut Exchange| -> Result<()> {
            let data = std::mem::take(exchange).data(request.think.as_ref());
            text.push_str(&template.execute_here(&data, request.now.date(), &mut spent)?);
            Ok(())
        };
        for (message, content) in messages {
            match message.role.as_str() {
                "system" => {
                    if !exchange.prompt.is_empty() || !exchange.response.is_empty() {
                        execute(&self.template, &mut exchange)?;
                    }
                    exchange.system.clone_from(content);
                }
                "user" => {
                    if !exchange.response.is_empty() {
                        execute(&self.template, &mut exchange)?;
                    }
                    exchange.prompt.clone_from(content);
                }
                "assistant" => exchange.response.clone_from(content),
                _ => {}
            }
        }
        execute(&self.open, &mut exchange)?;
        Ok(text)
    }
}

/// `{{ .Response }}`.
fn response_node() -> ast::Node {
    let place = ast::Place { start: 0, end: 0 };
    let operand = ast::Operand { term: ast::Term::Dot, fields: vec!["Response".into()], place };
    let commands = vec![ast::Command { operands: vec![operand] }];
    ast::Node::Action(ast::Pipeline { variables: Vec::new(), assigns: false, commands, place })
}

/// What an older template knows: one question and its answer.
#[derive(Default)]
struct Exchange {
    system: String,
    prompt: String,
    response: String,
}

impl Exchange {
    fn data(self, think: Option<&Think>) -> Value {
        let mut entries = vec![
            ("System".to_owned(), Value::from(self.system)),
            ("Prompt".to_owned(), Value::from(self.prompt)),
            ("Response".to_owned(), Value::from(self.response)),
        ];
        entries.extend(thinking(think));
        Value::map(entries)
    }
}

fn thinking(think: Option<&Think>) -> [(String, Value); 3] {
    let level = match think {
        Some(Think::Level(level)) => level.as_str(),
        _ => "",
    };
    [
        ("Think".to_owned(), Value::Bool(matches!(think, Some(Think::On | Think::Level(_))))),
        ("ThinkLevel".to_owned(), Value::from(level)),
        ("IsThinkSet".to_owned(), Value::Bool(think.is_some())),
    ]
}

/// All system messages together, and the conversation with neighbours of one role merged; what
/// tools answered stays apart.
fn collate(messages: &[ChatMessage]) -> (String, Vec<(&ChatMessage, String)>) {
    let system: Vec<&str> =
        messages.iter().filter(|m| m.role == "system").map(|m| m.content.as_str()).collect();
    let mut merged: Vec<(&ChatMessage, String)> = Vec::with_capacity(messages.len());
    for message in messages {
        match merged.last_mut() {
            Some((last, content)) if last.role == message.role && message.role != "tool" => {
                content.push_str("\n\n");
                content.push_str(&message.content);
            }
            _ => merged.push((message, message.content.clone())),
        }
    }
    (system.join("\n\n"), merged)
}
