//! Hostile templates: each is refused by a budget, quickly, in bounded memory, and nothing panics
//! or overflows a small stack.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::time::{Duration, Instant};

use mdl::diagnostic::Errors;
use mdl::prompt::{ChatMessage, ChatRequest, Limits, SpecialTokens, Template};
use proptest::prelude::*;

/// The bound of an optimised build; a debug build of this crate's own code gets ten times that.
fn bound() -> Duration {
    Duration::from_millis(if cfg!(debug_assertions) { 2_000 } else { 200 })
}

fn go(text: &str) -> Result<String, Errors> {
    run(Some(text), None)
}

fn jinja(text: &str) -> Result<String, Errors> {
    run(None, Some(text))
}

fn run(go: Option<&str>, jinja: Option<&str>) -> Result<String, Errors> {
    let messages = [ChatMessage::new("user", "x".repeat(1000)), ChatMessage::new("assistant", "y")];
    let tokens = SpecialTokens::default();
    Template::choose(go, jinja, Limits::DEFAULT)?.render(&ChatRequest::new(&messages), &tokens)
}

/// Runs each template on a thread with a small stack and asks for an error of the given codes.
fn refused(render: fn(&str) -> Result<String, Errors>, codes: &[&str], templates: &[String]) {
    for template in templates {
        let shown: String = template.chars().take(100).collect();
        let (result, took) = std::thread::scope(|scope| {
            std::thread::Builder::new()
                .stack_size(512 << 10)
                .spawn_scoped(scope, || {
                    let start = Instant::now();
                    (render(template), start.elapsed())
                })
                .unwrap()
                .join()
                .unwrap()
        });
        if std::env::var_os("SHOW").is_some() {
            eprintln!("{took:?} {shown}");
        }
        assert!(took < bound(), "{shown}: took {took:?}");
        match result {
            Ok(text) => panic!("{shown}: rendered {} bytes", text.len()),
            Err(errors) => {
                let first = &errors.0[0];
                assert!(codes.contains(&first.code), "{shown}: [{}] {errors}", first.code);
            }
        }
    }
}

fn owned(templates: &[&str]) -> Vec<String> {
    templates.iter().map(|t| (*t).to_owned()).collect()
}

#[test]
fn go_templates_over_a_budget_are_refused() {
    let deep = 1_000_000;
    let mut templates = owned(&[
        "{{range 999}}{{range 999}}{{range 999}}{{end}}{{end}}{{end}}",
        "{{range 999999999999}}{{end}}",
        "{{range 999999999999}}x{{end}}",
        "{{range $i := 9999999}}{{$x := $i}}{{end}}",
        "{{$x := \"aaaaaaaaaaaaaaaa\"}}{{range 64}}{{$x = printf \"%s%s\" $x $x}}{{end}}",
        "{{$x := \"aaaaaaaaaaaaaaaa\"}}{{range 64}}{{$x = print $x $x}}{{end}}{{$x}}",
        "{{$x := \"<\"}}{{range 64}}{{$x = html $x $x}}{{end}}",
        "{{$x := \"<\"}}{{range 64}}{{$x = js $x $x}}{{end}}",
        "{{$x := \" \"}}{{range 64}}{{$x = urlquery $x $x}}{{end}}",
        "{{$x := \"\\\"\"}}{{range 64}}{{$x = json (print $x $x)}}{{end}}",
        "{{$x := \"a\"}}{{range 64}}{{$x = printf \"%q%x\" $x $x}}{{end}}",
        "{{range 64}}{{printf \"%1000000d\" 1}}{{end}}",
        "{{range 64}}{{printf \"%.1000000d\" 1}}{{end}}",
        "{{range 64}}{{printf \"%.1000000f\" 1.5}}{{end}}",
        "{{range 64}}{{printf \"%-*d\" 1000000 1}}{{end}}",
        "{{range 64}}{{printf \"%.1000000U\" 1}}{{end}}",
        "{{define \"a\"}}{{template \"a\" .}}{{end}}{{template \"a\" .}}",
        "{{template \"\"}}",
        "{{template \"\" .}}{{.Response}}",
        "{{define \"a\"}}{{template \"b\"}}{{template \"b\"}}{{end}}{{define \"b\"}}{{template \"a\"}}{{end}}{{template \"a\"}}",
        "{{block \"a\" .}}{{template \"a\" .}}{{end}}",
        "{{range 1000}}{{range $.Messages}}{{range 1000}}{{.}}{{end}}{{end}}{{end}}",
        "{{range .Messages}}{{$c := .Content}}{{range 1000000}}{{$c}}{{end}}{{end}}",
        "{{range .Messages}}{{$c := .Content}}{{range 1000000}}{{slice $c 1}}{{end}}{{end}}",
        "{{range 1000000}}{{eq (printf \"%1000000d\" 1) \"\"}}{{end}}",
        "{{range 1000000}}{{json $.Messages}}{{end}}",
        "{{range 1000000}}{{print $.Messages}}{{end}}",
    ]);
    templates.push("{{if true}}".repeat(deep / 10 + 1));
    templates.push("{{if true}}".repeat(100_000));
    templates.push(format!("{{{{{}1{}}}}}", "(".repeat(deep / 3), ")".repeat(deep / 3)));
    templates.push("{{1}}".repeat(200_000));
    templates.push(format!("{{{{print {}}}}}", "1 ".repeat(500_000)));
    templates.push(format!("{{{{.{}}}}}", "a.".repeat(500_000) + "a"));
    templates.push("{{$x := 1}}".repeat(90_000));
    templates.push("x".repeat(2 << 20));
    templates.push("{{define \"a\"}}".to_owned() + &"{{if true}}".repeat(90_000));
    templates.push("{{range 2}}".repeat(60) + &"{{end}}".repeat(60));
    templates.push((0..40).rev().fold(String::new(), |t, i| {
        let next = i + 1;
        format!("{t}{{{{define \"d{i}\"}}}}{{{{template \"d{next}\"}}}}{{{{template \"d{next}\"}}}}{{{{end}}}}")
    }) + "{{define \"d40\"}}{{end}}{{template \"d0\"}}");
    refused(go, &["template-budget"], &templates);
}

/// Steps that are cheap to count and dear to take: one call reads a long format, or makes much that
/// a precision then cuts away.
#[test]
fn go_calls_that_cost_much_are_refused() {
    let tools = [serde_json::json!({"type": "function", "function": {
        "name": "f", "description": "d".repeat(1 << 20), "parameters": {"type": "object", "properties": {}}
    }})];
    let says = |i| ChatMessage::new(if i % 2 == 0 { "user" } else { "assistant" }, "x".repeat(100));
    let messages: Vec<_> = (0..2000).map(says).collect();
    let request = ChatRequest { tools: &tools, ..ChatRequest::new(&messages) };
    let doubled = |format: &str, times: usize, then: &str| {
        format!("{{{{$f := {format:?}}}}}{{{{range {times}}}}}{{{{$f = print $f $f}}}}{{{{end}}}}{then}")
    };
    for template in [
        doubled("%[1].0s", 18, "{{range 100000}}{{$x := printf $f \"\"}}{{end}}"),
        doubled("%[1].0s", 19, "{{range 100000}}{{$x := printf $f .}}{{end}}"),
        doubled("%[1].0s", 16, "{{$f = printf $f .Tools}}{{$f}}"),
        doubled("%[", 20, "{{range 100000}}{{$x := printf $f 1}}{{end}}"),
        doubled("%[1", 19, "{{$x := printf $f 1}}{{range 100000}}{{$x = printf $f 1}}{{end}}"),
        doubled("%*[1].1d", 18, "{{range 100000}}{{$x := printf $f 1}}{{end}}"),
        doubled("a", 22, "{{$g := print $f \"\"}}{{range 400000}}{{if ne $f $g}}{{end}}{{end}}"),
        doubled("a", 22, "{{range 400000}}{{$x := slice $f 0 1}}{{end}}"),
        "{{range 100000}}{{$x := printf \"%.0s\" $.Tools}}{{end}}".to_owned(),
        "{{range 100000}}{{$x := printf \"%.0s\" $.Messages}}{{end}}".to_owned(),
        "{{range .Messages}}{{range $.Messages}}{{range $.Messages}}{{end}}{{end}}{{end}}".to_owned(),
        "{{define \"a\"}}{{range $.Messages}}{{template \"a\" $}}{{end}}{{end}}{{template \"a\" .}}"
            .to_owned(),
    ] {
        let start = Instant::now();
        // Templates that name the messages are given all of them, and the tools.
        let template = format!("{{{{with .Messages}}}}{{{{end}}}}{template}");
        let parsed = Template::choose(Some(&template), None, Limits::SERVER).unwrap();
        let result = parsed.render(&request, &SpecialTokens::default());
        let took = start.elapsed();
        if std::env::var_os("SHOW").is_some() {
            eprintln!(
                "{took:?} {template} {}",
                result.as_ref().map_or_else(|e| e.to_string(), |t| t.len().to_string())
            );
        }
        let errors = result.expect_err(&template);
        assert!(["template-budget", "template-time"].contains(&errors.0[0].code), "{template}: {errors}");
        assert!(took < bound(), "{template}: took {took:?}");
    }
    // As in Go, such a width ends the format.
    assert_eq!(go("{{printf \"%1000000000d\" 1}}{{.Response}}").unwrap(), "%!(NOVERB)%!(EXTRA int=1)y");
}

#[test]
fn malformed_go_templates_are_refused_without_recursion() {
    let deep = 1_000_000;
    let templates = [
        "{".repeat(deep),
        "{{".repeat(deep / 3),
        "}".repeat(deep).replace("}}", "{{}}"),
        "{{(".repeat(deep / 4),
        "{{/*".repeat(deep / 5),
        "{{\"".repeat(deep / 4),
        format!("{{{{{}", "\"\\".repeat(deep / 3)),
        format!("{{{{{}}}}}", "|".repeat(deep / 2)),
        format!("{{{{{}}}}}", "$".repeat(deep / 2)),
        format!("{{{{{}}}}}", "-".repeat(deep / 2)),
        format!("{{{{1{}}}}}", "e+".repeat(deep / 3)),
        format!("{{{{{}}}}}", "1".repeat(deep / 2)),
        format!("{{{{.{}}}}}", ".".repeat(deep / 2)),
        format!("{{{{{}x}}}}", " ".repeat(deep / 2)),
        "{{else}}".repeat(1000),
        "{{end}}".repeat(90_000),
        "{{if".repeat(deep / 5),
        "{{break}}".to_owned(),
    ];
    // A run of single braces is text; everything else is not a template.
    assert!(go(&templates[0][..1]).is_ok());
    refused(go, &["template-syntax", "template-budget"], &templates[1..]);
}

#[test]
fn jinja_templates_over_a_budget_are_refused() {
    let deep = 1_000_000;
    let mut templates = owned(&[
        "{% for a in range(999) %}{% for b in range(999) %}{% for c in range(999) %}{% endfor %}{% endfor %}{% endfor %}",
        "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
        "{% set ns = namespace(x='aaaaaaaaaaaaaaaa') %}{% for i in range(64) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{% set ns = namespace(x='aaaaaaaaaaaaaaaa') %}{% for i in range(64) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{% set ns = namespace(x=[1,1]) %}{% for i in range(64) %}{% set ns.x = (ns.x + ns.x)|list %}{% endfor %}",
        "{% set ns = namespace(x='a') %}{% for i in range(64) %}{% set ns.x = ns.x|replace('a', 'aaaaaaaa') %}{% endfor %}",
        "{% set ns = namespace(x='a') %}{% for i in range(64) %}{% set ns.x = ns.x.replace('a', 'aaaaaaaa') %}{% endfor %}",
        "{% set ns = namespace(x='a') %}{% for i in range(64) %}{% set ns.x = ns.x.join('aaaaaaaa') %}{% endfor %}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(64) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x|tojson }}",
        "{% set ns = namespace(x='<') %}{% for i in range(64) %}{% set ns.x = (ns.x ~ ns.x)|e %}{% endfor %}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(64) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(64) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ','.join([ns.x]) }}",
        "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}",
        "{% set ns = namespace() %}{% set ns.x = [ns] %}{{ ns.x }}",
        "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns|tojson }}",
        "{{ [1] * 99999999 }}",
        "{{ 'x' * 99999999 }}{{ 'x' * 99999999 }}",
        "{% for i in range(99) %}{{ 'x' * 999999 }}{% endfor %}",
        "{% for i in range(999) %}{{ ('x ' * 99999).rsplit()|length }}{% endfor %}",
        "{% for i in range(9999) %}{{ messages|tojson }}{% endfor %}",
        "{% for i in range(9999) %}{{ messages|tojson(indent=60) }}{% endfor %}",
        "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ '%99999999d'|format(1) }}",
        "{{ ('x' * 9999)|indent(99999999) }}",
        "{% for i in range(99999) %}{{ range(99999)|list|sort|length }}{% endfor %}",
        "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}",
    ]);
    templates.push("x".repeat(2 << 20));
    templates.push(
        "{{ 1 }}".repeat(140_000)
            + "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
    );
    templates.push(format!("{{{{ {}1{} }}}}", "(".repeat(deep / 3), ")".repeat(deep / 3)));
    templates.push(format!("{{{{ {}1{} }}}}", "[".repeat(deep / 3), "]".repeat(deep / 3)));
    templates.push(format!("{{{{ {}1 }}}}", "not ".repeat(deep / 5)));
    templates.push(format!("{{{{ {}1 }}}}", "-".repeat(deep / 2)));
    templates.push(format!("{{{{ 1{} }}}}", "+1".repeat(deep / 3)));
    templates.push(format!("{{{{ 1{} }}}}", "|e".repeat(deep / 3)));
    templates.push(format!("{{{{ a{} }}}}", ".a".repeat(deep / 3)));
    templates.push(format!("{{{{ a{} }}}}", "[0]".repeat(deep / 4)));
    templates.push(format!("{{{{ 1{} }}}}", " if 1 else 1".repeat(deep / 13)));
    templates.push(format!("{{{{ 2{} }}}}", "**2".repeat(deep / 4)));
    templates.push("{% if 1 %}".repeat(90_000));
    templates.push("{% if 1 %}{% elif 1 %}".to_owned() + &"{% elif 1 %}".repeat(80_000) + "{% endif %}");
    refused(jinja, &["template-budget", "template-syntax", "template-execution"], &templates);
}

/// A value nested as deep as the fuel allows is made, shown, compared and dropped.
#[test]
fn deep_jinja_values_do_not_overflow_the_stack() {
    let make = "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}";
    for template in [
        format!("{make}{{% endfor %}}"),
        format!("{make}{{% if i == 40000 %}}{{{{ ns.x }}}}{{% endif %}}{{% endfor %}}"),
        format!("{make}{{% if i == 40000 %}}{{{{ ns.x|tojson }}}}{{% endif %}}{{% endfor %}}"),
        format!(
            "{make}{{% if i == 40000 %}}{{{{ ns.x == [ns.x] }}}}{{% break %}}{{% endif %}}{{% endfor %}}"
        ),
        format!("{make}{{% if i == 40000 %}}{{{{ {{ns.x: 1}} }}}}{{% break %}}{{% endif %}}{{% endfor %}}"),
        format!(
            "{make}{{% if i == 40000 %}}{{{{ [ns.x, ns.x]|sort|length }}}}{{% break %}}{{% endif %}}{{% endfor %}}"
        ),
        format!(
            "{make}{{% if i == 40000 %}}{{{{ [ns.x, ns.x]|unique|list|length }}}}{{% break %}}{{% endif %}}{{% endfor %}}"
        ),
        format!("{make}{{% if i == 40000 %}}{{{{ ns.nothing.x }}}}{{% break %}}{{% endif %}}{{% endfor %}}"),
    ] {
        let start = Instant::now();
        let result = jinja(&template);
        assert!(start.elapsed() < bound(), "{template}: {:?}", start.elapsed());
        drop(result);
    }
}

#[test]
fn a_template_cannot_reach_anything() {
    for template in [
        "{{ self.__init__.__globals__ }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ lipsum.__globals__['os'].popen('id').read() }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ messages.__class__.__base__ }}{{ messages.__class__.x }}",
        "{{ request.application.__globals__ }}",
        "{{ config.items() }}",
        "{{ get_flashed_messages.__globals__ }}",
        "{{ ''|attr('__class__')|attr('__mro__')|attr('x') }}",
        "{{ (''|attr('__class__')).x }}",
        "{{ raise_exception.__globals__['x'] }}",
        "{{ strftime_now.__globals__['x'] }}",
        "{{ open('/etc/passwd').read() }}",
        "{{ import('os') }}",
        "{% include '/etc/passwd' %}",
        "{% import '/etc/passwd' as x %}",
        "{% extends '/etc/passwd' %}",
        "{% from 'os' import x %}",
        "{{ env('HOME') }}",
        "{{ debug() }}",
    ] {
        assert!(jinja(template).is_err(), "{template} rendered {:?}", jinja(template));
    }
    for template in [
        "{{ env \"HOME\" }}",
        "{{ readFile \"/etc/passwd\" }}",
        "{{ call .System }}",
        "{{ call . }}",
        "{{ .System.Foo }}",
        "{{ template \"/etc/passwd\" }}",
        "{{ .Messages.Len }}",
        "{{ (index .Messages 0).String }}",
        "{{ index .Messages -1 }}",
        "{{ exec \"id\" }}",
    ] {
        assert!(go(template).is_err(), "{template} rendered {:?}", go(template));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_a_go_template_or_an_error(text in "\\PC{0,80}") {
        let _ = go(&text);
    }

    #[test]
    fn any_mix_of_tokens_is_a_go_template_or_an_error(parts in prop::collection::vec(prop::sample::select(vec![
        "{{", "}}", "{{-", "-}}", "{{ ", " }}", "{{- ", " -}}", "{{/*", "*/}}", "if ", "else ", "end", "range ", "with ", "define ", "template ",
        "block ", "break", "continue", ".", ".Messages", ".System", ".Content", "$", "$x", " := ", " = ", ", ", "|", "(", ")", "\"a\"", "`b`", "'c'",
        "1", "-2", "3.5", "1e9", "0x", "nil", "true", " ", "\n", "text", "print ", "printf \"%v %d\" ", "eq ", "and ", "or ", "not ", "len ", "index ",
        "slice ", "json ", "html ", "é", "\u{0}", "\\", "\"", "'", "`",
    ]), 0..24)) {
        let _ = go(&parts.concat());
    }

    #[test]
    fn any_printf_format_prints(format in "[%a-zA-Z0-9 .*#+\\[\\]-]{0,20}", n in any::<i64>(), f in any::<f64>()) {
        let template = format!("{{{{ printf {format:?} {n} {f:e} \"é\" nil true .Messages }}}}");
        let _ = go(&template);
        let _ = go(&format!("{{{{ printf {format:?} \"é\" {n} }}}}"));
    }

    #[test]
    fn any_text_is_a_jinja_template_or_an_error(text in "(\\{\\{|\\}\\}|\\{%|%\\}|[-+ ]|generation|endgeneration|if|for|messages|[a-z.|()\\[\\]'\"é]){0,24}") {
        let _ = jinja(&text);
    }
}
