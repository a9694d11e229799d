//! Chat templates in Jinja, in the environment that Hugging Face's transformers gives them:
//! `trim_blocks`, `lstrip_blocks`, loop controls, `tojson`, `raise_exception`, `strftime_now`, and
//! Python's methods of strings, lists and dicts.
//!
//! There is no loader: a template cannot include or import anything.
//!
//! Two things are otherwise than in Jinja2 (`tests/prompt_templates.rs` knows the templates that they
//! touch): `{% for x in none %}` is a loop over nothing instead of an error, and text joined to a text
//! marked `safe` is not escaped for HTML.
//!
//! The engine's fuel bounds time and memory, with one gap: for a container that `~`, a comparison
//! or a filter such as `string` or `join` walks it charges only once that is done. A list that holds
//! another many times over (`[x, x]`, repeated), or a namespace that holds itself, takes more than
//! the fuel there. Printing, `tojson` and methods are charged here, before the engine walks; what is
//! left of the gap ends at the time limit. Nor does fuel bound what the compiler does with constants.
//! Templates that a server is given are therefore rendered in another process (`super::isolated`).

use std::fmt;
use std::sync::{Arc, OnceLock};

use jiff::civil::DateTime;
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, Value};

use crate::diagnostic::{Diagnostic, Errors, Result, Source, Span};

use super::chat::{ChatRequest, SpecialTokens};
use super::jinja_source;
use super::jinja_values::{self, Variables};
use super::limits::Limits;
use super::output::{self, OutputSyntax};
use super::python;
use super::thread::{on_own_stack, within};
use super::tojson;

/// The name the template has in its environment.
const NAME: &str = "chat_template";

/// A chat template. Clones share it.
#[derive(Clone, Debug)]
pub struct JinjaTemplate {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    source: Arc<Source>,
    limits: Limits,
    syntax: OutputSyntax,
    /// The compiled template, once it is needed: compiling costs time that a source decides.
    environment: OnceLock<Result<Environment<'static>>>,
}

impl JinjaTemplate {
    /// A template whose text is not compiled before it is needed. What is checked here costs time
    /// in proportion to the text; `name` is what errors call it.
    ///
    /// # Errors
    /// The text exceeds `limits`.
    pub fn unread(name: &str, text: &str, limits: Limits) -> Result<JinjaTemplate> {
        if text.len() > limits.source_bytes {
            let message =
                format!("the template has {} bytes; its source may have {}", text.len(), limits.source_bytes);
            return Err(Diagnostic::error(message).code("template-budget").into());
        }
        let source = Arc::new(Source { name: name.to_owned(), text: text.to_owned() });
        if let Some((range, message)) = jinja_source::over_budget(text, limits.tag_bytes) {
            let span = Span { source, range };
            return Err(Diagnostic::error(message).code("template-budget").at(&span).into());
        }
        let syntax = output::jinja_syntax(text);
        Ok(JinjaTemplate { inner: Arc::new(Inner { source, limits, syntax, environment: OnceLock::new() }) })
    }

    /// Reads a template; `name` is what errors call it.
    ///
    /// # Errors
    /// The text is not a Jinja template, or exceeds `limits`.
    pub fn parse(name: &str, text: &str, limits: Limits) -> Result<JinjaTemplate> {
        let template = JinjaTemplate::unread(name, text, limits)?;
        template.check()?;
        Ok(template)
    }

    /// Compiles the text, within the limits.
    ///
    /// # Errors
    /// The text is not a Jinja template, or takes too long.
    pub fn check(&self) -> Result<()> {
        let inner = self.inner.clone();
        within(inner.limits.time, inner.limits.stack_bytes, move || inner.compiled().map(|_| ()))
    }

    /// The text it was read from.
    pub fn source(&self) -> &Arc<Source> {
        &self.inner.source
    }

    /// The limits it is read and executed under.
    pub fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    /// How the model writes thinking and calls.
    pub fn output_syntax(&self) -> &OutputSyntax {
        &self.inner.syntax
    }

    /// True when the template seems to have a place for tools.
    pub fn mentions_tools(&self) -> bool {
        let text = &self.inner.source.text;
        text.contains("tools") || text.contains("tool_call")
    }

    /// The text of a conversation.
    ///
    /// # Errors
    /// The template fails, raises an exception of its own, or exceeds a budget.
    pub fn render(&self, request: &ChatRequest<'_>, tokens: &SpecialTokens) -> Result<String> {
        let limits = self.inner.limits;
        let variables =
            on_own_stack(limits.stack_bytes, || jinja_values::context(request, tokens, limits.nesting))?;
        let (inner, now) = (self.inner.clone(), request.now);
        within(limits.time, limits.stack_bytes, move || inner.render(variables, now))
    }

    /// The text for `variables`, made on the present thread, which must have the stack that the
    /// limits name, and without regard to their time. Without variables, the text is only compiled.
    ///
    /// # Errors
    /// See [`JinjaTemplate::render`].
    pub fn render_here(&self, variables: Option<Variables>, now: DateTime) -> Result<String> {
        match variables {
            Some(variables) => self.inner.render(variables, now),
            None => self.inner.compiled().map(|_| String::new()),
        }
    }

    /// The names of every function that templates can call besides `strftime_now`.
    pub fn globals(&self) -> Vec<String> {
        let Ok(environment) = self.inner.compiled() else { return Vec::new() };
        let mut names: Vec<String> = environment.globals().map(|(name, _)| name.to_owned()).collect();
        names.sort_unstable();
        names
    }
}

impl Inner {
    fn compiled(&self) -> Result<&Environment<'static>> {
        let compile = || {
            let mut environment = environment(&self.limits)?;
            let text = jinja_source::without_generation_tags(&self.source.text).into_owned();
            let added = environment.add_template_owned(NAME, text);
            added.map_err(|e| explain(&self.source, &e, &self.limits))?;
            Ok(environment)
        };
        self.environment.get_or_init(compile).as_ref().map_err(Errors::clone)
    }

    fn render(&self, variables: Variables, now: DateTime) -> Result<String> {
        let environment = self.compiled()?;
        let mut variables = jinja_values::values(variables);
        let strftime_now = Value::from_function(move |format: &str| strftime(now, format));
        variables.push(("strftime_now".to_owned(), strftime_now));
        let template = environment.get_template(NAME);
        let rendered = template.and_then(|t| t.render(Value::from_pairs(variables)));
        let text = rendered.map_err(|e| explain(&self.source, &e, &self.limits))?;
        if text.len() > self.limits.output_bytes {
            let message = format!("the template makes more than {} bytes of text", self.limits.output_bytes);
            return Err(Diagnostic::error(message).code("template-budget").into());
        }
        Ok(text)
    }
}

/// transformers' environment.
fn environment(limits: &Limits) -> Result<Environment<'static>> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    let syntax = syntax.map_err(|e| Diagnostic::error(format!("the template syntax cannot be set: {e}")))?;
    environment.set_syntax(syntax);
    environment.set_fuel(Some(limits.fuel));
    environment.set_debug(true);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(python::method);
    environment.set_formatter(python::print);
    environment.add_filter("tojson", tojson::tojson);
    environment.add_test("sequence", python::is_sequence);
    environment.add_test("iterable", python::is_iterable);
    environment.add_filter("escape", python::escape);
    environment.add_filter("e", python::escape);
    // It prints otherwise than Python does.
    environment.remove_filter("pprint");
    environment.add_function("raise_exception", raise_exception);
    // It prints what the engine holds, which is nobody's business.
    environment.remove_global("debug");
    Ok(environment)
}

/// What a template says against a conversation.
#[derive(Debug)]
struct Raised;

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("raise_exception was called")
    }
}

impl std::error::Error for Raised {}

fn raise_exception(message: &Value) -> Result<Value, Error> {
    // A list could be larger than any budget once written out.
    let message = message.as_str().unwrap_or("it gives no reason").to_owned();
    Err(Error::new(ErrorKind::InvalidOperation, message).with_source(Raised))
}

fn strftime(now: DateTime, format: &str) -> Result<String, Error> {
    jiff::fmt::strtime::format(format, now)
        .map_err(|e| Error::new(ErrorKind::InvalidOperation, format!("cannot format the time: {e}")))
}

/// The engine's error for a person.
fn explain(source: &Arc<Source>, error: &Error, limits: &Limits) -> Errors {
    let (mut root, mut raised) = (error, false);
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        raised |= cause.is::<Raised>();
        if let Some(cause) = cause.downcast_ref::<Error>() {
            root = cause;
        }
        next = cause.source();
    }
    let detail = root.detail().map(str::to_owned);
    let diagnostic = match root.kind() {
        ErrorKind::OutOfFuel => {
            let message = format!("the template takes more than {} steps", limits.fuel);
            Diagnostic::error(message)
                .code("template-budget")
                .help("it loops too much, or makes too much text: each 64 bytes count as a step")
        }
        _ if raised => {
            let said = detail.unwrap_or_default();
            Diagnostic::error(format!("the template does not take this conversation: {said}"))
                .code("template-raised")
        }
        ErrorKind::SyntaxError => {
            Diagnostic::error(detail.unwrap_or_else(|| root.kind().to_string())).code("template-syntax")
        }
        kind => {
            let message = match detail {
                Some(detail) => detail,
                None => kind.to_string(),
            };
            Diagnostic::error(message).code("template-execution")
        }
    };
    match range(source, root).or_else(|| range(source, error)) {
        Some(range) => diagnostic.at(&Span { source: source.clone(), range }).into(),
        None => diagnostic.into(),
    }
}

/// Where an error is: its bytes where the engine has them, else its line.
fn range(source: &Source, error: &Error) -> Option<std::ops::Range<usize>> {
    let text = &source.text;
    if let Some(range) = error.range()
        && text.get(range.clone()).is_some()
    {
        return Some(range);
    }
    let line = error.line()?;
    let start = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum::<usize>();
    let length = text[start..].find('\n').unwrap_or(text.len() - start);
    Some(start..start + length)
}

#[cfg(test)]
mod tests {
    use jiff::civil::datetime;
    use serde_json::Value as Json;

    use super::*;

    fn render(template: &str, data: &Json) -> Result<String, String> {
        let variables = data.as_object().unwrap().iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        JinjaTemplate::parse("template", template, Limits::DEFAULT)
            .and_then(|t| t.render_here(Some(variables), datetime(2026, 11, 24, 13, 5, 9, 0)))
            .map_err(|e| e.to_string())
    }

    /// What the engine's fuel misses: a comparison that walks 2^24 items that are there once.
    #[test]
    fn a_template_that_takes_too_long_is_given_up() {
        let doubled = "{% set a = [a, a] %}{% set b = [b, b] %}".repeat(24);
        let text = format!("{{% set a = [1] %}}{{% set b = [1] %}}{doubled}{{{{ a == b }}}}");
        let limits = Limits { time: std::time::Duration::from_millis(20), ..Limits::DEFAULT };
        let template = JinjaTemplate::parse("template", &text, limits).unwrap();
        let error =
            template.render(&ChatRequest::new(&[]), &SpecialTokens::default()).unwrap_err().to_string();
        assert!(error.contains("takes more than 0.02 seconds"), "{error}");
    }

    /// What a template can name is a list that grows only on purpose.
    #[test]
    fn functions_filters_and_tests_are_those_of_the_list() {
        let environment = environment(&Limits::DEFAULT).unwrap();
        let mut globals: Vec<_> = environment.globals().map(|(name, _)| name.to_owned()).collect();
        globals.sort();
        let mut report = format!("functions:\n  {}\n", globals.join("\n  "));
        // The engine names its filters and tests nowhere else.
        let shown = format!("{environment:?}");
        for kind in ["filters", "tests"] {
            let list = shown.split_once(&format!(" {kind}: [")).unwrap().1.split_once(']').unwrap().0;
            report.push_str(&format!("{kind}:\n  {}\n", list.replace('"', "").replace(", ", "\n  ")));
        }
        insta::with_settings!({
            snapshot_path => concat!(env!("CARGO_MANIFEST_DIR"), "/snapshots"),
            prepend_module_to_snapshot => false,
            omit_expression => true,
        }, { insta::assert_snapshot!("prompt_jinja_names", report) });
    }

    #[test]
    fn snippets_come_out_as_jinja2_has_them() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/prompt/jinja/snippets.json");
        let fixture: Json = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let mut wrong = Vec::new();
        for case in fixture["cases"].as_array().unwrap() {
            let template = case["template"].as_str().unwrap();
            let got = render(template, &fixture["data"]);
            match (case.get("output").and_then(Json::as_str), &got) {
                (Some(expected), Ok(text)) if expected == text => {}
                (None, Err(_)) => {}
                (Some(expected), got) => {
                    wrong.push(format!("{template}\n  jinja2: {expected:?}\n  mdl:    {got:?}"));
                }
                (None, Ok(text)) => {
                    wrong.push(format!("{template}\n  jinja2: {}\n  mdl:    {text:?}", case["error"]))
                }
            }
        }
        assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
    }

    /// What Jinja2 has and this engine has not: an error that names it, never other text.
    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        for (template, named) in [
            ("{{ '%s' % 'a' }}", "%"),
            ("{{ +1 }}", "+"),
            ("{{ 's' is callable }}", "callable"),
            ("{{ lipsum() }}", "lipsum"),
            ("{{ cycler('a') }}", "cycler"),
            ("{{ 'a b'|wordcount }}", "wordcount"),
            ("{{ 'a b'|truncate(1) }}", "truncate"),
            ("{{ 'a'|urlencode }}", "urlencode"),
            ("{{ {}|pprint }}", "pprint"),
            ("{{ 'a'.center(3) }}", "center"),
            ("{{ 'a'.zfill(3) }}", "zfill"),
            ("{{ debug() }}", "debug"),
        ] {
            let error = render(template, &Json::Object(serde_json::Map::new())).unwrap_err();
            assert!(error.starts_with("template:1:") && error.contains(named), "{template}: {error}");
        }
    }
}
