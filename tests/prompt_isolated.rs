//! Chat templates in processes of their own: the text is the same, and a hostile template ends
//! nothing but its own process.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use jiff::civil::datetime;
use mdl::diagnostic::{Errors, Kind};
use mdl::prompt::isolated::{CHILD_ARGUMENT, ChildCommand, PoolOptions};
use mdl::prompt::{ChatMessage, ChatRequest, Limits, Renderer, SpecialTokens, Template, Think, ToolCall};
use serde_json::{Value as Json, json};

const OPTIONS: PoolOptions = PoolOptions {
    most: 2,
    idle: Duration::from_secs(60),
    wait: Duration::from_secs(30),
    time: Duration::from_secs(1),
};

fn renderer() -> Renderer {
    with(OPTIONS)
}

fn with(options: PoolOptions) -> Renderer {
    Renderer::in_children_with(ChildCommand::new(env!("CARGO_BIN_EXE_mdl")), options)
}

fn jinja(text: &str) -> Result<Template, Errors> {
    Template::choose(None, Some(text), Limits::SERVER)
}

fn render(renderer: &Renderer, text: &str) -> Result<String, Errors> {
    let messages = [ChatMessage::new("user", "x".repeat(1000)), ChatMessage::new("assistant", "y")];
    renderer.render(&jinja(text)?, &ChatRequest::new(&messages), &SpecialTokens::default())
}

fn code(result: &Result<String, Errors>) -> &'static str {
    match result {
        Ok(_) => "",
        Err(errors) => errors.0[0].code,
    }
}

/// Held by the tests that measure this process's memory or need much of it.
static MEMORY: Mutex<()> = Mutex::new(());

/// The most bytes of memory that this process had in use.
#[cfg(target_os = "linux")]
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

/// Templates that no budget of the engine stops: each is ended with its process.
fn unstoppable() -> Vec<String> {
    let doubled = "{% set a = [a, a] %}{% set b = [b, b] %}".repeat(40);
    let twice = format!("{{% set a = [1] %}}{{% set b = [1] %}}{doubled}");
    let itself = "{% set ns = namespace() %}{% set ns.x = ns %}";
    let folded = "[[[[1]*1000]*1000]*1000]*1000";
    vec![
        format!("{itself}{{{{ ns ~ '' }}}}"),
        format!("{itself}{{{{ ns|string }}}}"),
        format!("{itself}{{{{ [ns]|join(',') }}}}"),
        format!("{itself}{{% set other = namespace() %}}{{% set other.x = other %}}{{{{ ns == other }}}}"),
        format!("{itself}{{% set ns.x = [ns] %}}{{{{ ns.x ~ '' }}}}"),
        format!("{itself}{{% set ns.x = {{'a': ns}} %}}{{{{ ns.x|string|length }}}}"),
        format!("{twice}{{{{ a == b }}}}"),
        format!("{twice}{{{{ a ~ b }}}}"),
        format!("{twice}{{{{ a|string|length }}}}"),
        format!("{twice}{{{{ [a, b]|sort|length }}}}"),
        format!("{twice}{{{{ [a, b]|unique|list|length }}}}"),
        format!("{twice}{{{{ a in [b] }}}}"),
        format!("{{{{ {folded} == {folded} }}}}"),
        format!("{{% if {folded} < {folded} %}}{{% endif %}}"),
    ]
}

/// Templates that a budget stops, in the process.
fn over_budget() -> Vec<String> {
    let mut templates: Vec<String> = [
        "{% for a in range(999) %}{% for b in range(999) %}{% for c in range(999) %}{% endfor %}{% endfor %}{% endfor %}",
        "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
        "{% set ns = namespace(x='aaaaaaaaaaaaaaaa') %}{% for i in range(64) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{% set ns = namespace(x='aaaaaaaaaaaaaaaa') %}{% for i in range(64) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{% set ns = namespace(x=[1,1]) %}{% for i in range(64) %}{% set ns.x = (ns.x + ns.x)|list %}{% endfor %}",
        "{% set ns = namespace(x='a') %}{% for i in range(64) %}{% set ns.x = ns.x|replace('a', 'aaaaaaaa') %}{% endfor %}",
        "{% set ns = namespace(x='a') %}{% for i in range(64) %}{% set ns.x = ns.x.replace('a', 'aaaaaaaa') %}{% endfor %}",
        "{% set ns = namespace(x='<') %}{% for i in range(64) %}{% set ns.x = (ns.x ~ ns.x)|e %}{% endfor %}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(64) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x|tojson }}",
        "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}",
        "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns|tojson }}",
        "{{ [1] * 99999999 }}",
        "{{ 'x' * 99999999 }}{{ 'x' * 99999999 }}",
        "{% for i in range(9999) %}{{ messages|tojson(indent=60) }}{% endfor %}",
        "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ '%99999999d'|format(1) }}",
        "{{ ('x' * 9999)|indent(99999999) }}",
        "{% for i in range(99999) %}{{ range(99999)|list|sort|length }}{% endfor %}",
        "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}",
    ]
    .map(str::to_owned)
    .to_vec();
    templates.push(format!("{{{{ {}1{} }}}}", "(".repeat(100_000), ")".repeat(100_000)));
    templates.push(format!("{{{{ {}1{} }}}}", "(".repeat(4000), ")".repeat(4000)));
    templates.push("{% if 1 %}".repeat(90_000));
    templates.push("{% for a in [1] %}".repeat(50_000));
    templates.push(format!("{{% if 1 %}}{}", "{% elif 1 %}".repeat(80_000)));
    templates.push("x".repeat((1 << 20) + 1));
    templates
}

/// A template that costs a process more than it may take is an error within the time limit, and what
/// others ask for meanwhile is answered.
#[test]
fn hostile_templates_end_only_themselves() {
    let renderer = renderer();
    assert_eq!(render(&renderer, "{{ messages[1].content }}").unwrap(), "y");
    let _alone = MEMORY.lock().unwrap();
    #[cfg(target_os = "linux")]
    let before = {
        // Forgets the peak of tests that ran before.
        std::fs::write("/proc/self/clear_refs", "5").unwrap();
        peak()
    };
    let mut crashed = 0;
    for (template, codes) in
        unstoppable().iter().map(|t| (t, &["template-time", "template-crashed"][..])).chain(
            over_budget()
                .iter()
                .map(|t| (t, &["template-budget", "template-syntax", "template-execution"][..])),
        )
    {
        let shown: String = template.chars().take(120).collect();
        std::thread::scope(|scope| {
            let hostile = scope.spawn(|| {
                let start = Instant::now();
                (render(&renderer, template), start.elapsed())
            });
            let start = Instant::now();
            for i in 0..3 {
                let text = render(&renderer, &format!("{{{{ messages|length + {i} }}}}")).unwrap();
                assert_eq!(text, (2 + i).to_string(), "{shown}");
            }
            assert!(start.elapsed() < Duration::from_secs(1), "{shown}: others took {:?}", start.elapsed());
            let (result, took) = hostile.join().unwrap();
            if std::env::var_os("SHOW").is_some() {
                eprintln!("{took:?} [{}] {shown}", code(&result));
            }
            assert!(codes.contains(&code(&result)), "{shown}: {result:?}");
            assert!(took < Duration::from_millis(1500), "{shown}: took {took:?}");
            crashed += usize::from(code(&result) == "template-crashed");
        });
    }
    assert!(crashed > 0);
    #[cfg(target_os = "linux")]
    {
        let grown = peak() - before;
        assert!(grown < 64 << 20, "this process grew by {grown} bytes");
    }
}

fn testdata() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/prompt")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn message(json: &Json) -> ChatMessage {
    let text = |json: &Json| json.as_str().unwrap_or_default().to_owned();
    let call =
        |c: &Json| ToolCall { id: text(&c["id"]), name: text(&c["name"]), arguments: c["arguments"].clone() };
    ChatMessage {
        role: text(&json["role"]),
        content: text(&json["content"]),
        tool_calls: json["tool_calls"].as_array().into_iter().flatten().map(call).collect(),
        tool_name: text(&json["tool_name"]),
        tool_call_id: text(&json["tool_call_id"]),
        ..ChatMessage::default()
    }
}

/// The chat templates of testdata by name.
fn fixtures() -> Vec<(String, String)> {
    let folders = [testdata().join("jinja"), testdata().join("../templates/jinja")];
    let entries = folders.iter().flat_map(|f| std::fs::read_dir(f).unwrap()).map(|e| e.unwrap().path());
    let mut paths: Vec<_> = entries.filter(|p| p.extension().is_some_and(|e| e == "jinja")).collect();
    paths.sort();
    paths.iter().map(|p| (p.display().to_string(), read(p))).collect()
}

#[test]
fn the_text_is_that_of_this_process() {
    let renderer = renderer();
    let conversations: Json = serde_json::from_str(&read(&testdata().join("conversations.json"))).unwrap();
    let tokens = SpecialTokens { bos: Some("<s>".to_owned()), eos: Some("</s>".to_owned()) };
    let mut compared = 0;
    for (name, text) in fixtures() {
        let template = jinja(&text).unwrap();
        renderer.check(&template).unwrap();
        for (conversation, json) in conversations.as_object().unwrap() {
            let messages: Vec<_> = json["messages"].as_array().unwrap().iter().map(message).collect();
            let tools = json["tools"].as_array().map(Vec::as_slice).unwrap_or_default();
            for think in [None, Some(Think::Off), Some(Think::Level("high".to_owned()))] {
                let request = ChatRequest {
                    tools,
                    think,
                    now: datetime(2026, 11, 24, 13, 5, 9, 0),
                    ..ChatRequest::new(&messages)
                };
                let here = template.render(&request, &tokens);
                assert_eq!(renderer.render(&template, &request, &tokens), here, "{name} on {conversation}");
                compared += 1;
            }
        }
    }
    assert!(compared >= 2000, "only {compared} texts were compared");
    // Where it is wrong, too: message, place and help.
    for text in
        ["{{ 1 / 0 }}", "é{{ nothing.x }}", "{% if", "{{ raise_exception('é') }}", "{{ 'a'.zfill(3) }}"]
    {
        let here = jinja(text).unwrap().render(&ChatRequest::new(&[]), &tokens);
        assert!(here.is_err(), "{text}");
        assert_eq!(renderer.render(&jinja(text).unwrap(), &ChatRequest::new(&[]), &tokens), here, "{text}");
    }
    assert_eq!(renderer.check(&jinja("{% if").unwrap()).unwrap_err().0[0].code, "template-syntax");
}

#[test]
fn numbers_arrive_to_the_bit_and_deep_values_are_refused() {
    let renderer = renderer();
    let template = jinja("{{ tools|tojson }}").unwrap();
    let tools =
        [json!([0.1 + 0.2, 1.0, 1e300, 5e-324, -0.0, 9.007_199_254_740_993e15, 1, u64::MAX, i64::MIN])];
    let request = ChatRequest { tools: &tools, ..ChatRequest::new(&[]) };
    let tokens = SpecialTokens::default();
    let text = renderer.render(&template, &request, &tokens).unwrap();
    assert_eq!(text, template.render(&request, &tokens).unwrap());
    assert!(text.starts_with("[[0.30000000000000004, 1.0, 1e+300, 5e-324, -0.0, "), "{text}");

    let deep = |n| [(0..n).fold(json!(1), |inner, _| json!([inner]))];
    let result = |n| {
        let tools = deep(n);
        renderer.render(&template, &ChatRequest { tools: &tools, ..ChatRequest::new(&[]) }, &tokens)
    };
    assert!(result(112).is_ok());
    assert_eq!(code(&result(113)), "template-budget");
    assert_eq!(code(&result(1000)), "template-budget");
}

/// The largest text comes back whole; a larger conversation than a process takes is refused.
#[test]
fn sizes_are_bounded_in_both_directions() {
    let _alone = MEMORY.lock().unwrap();
    let renderer = renderer();
    let say = |bytes: usize, text: &str| {
        let messages = [ChatMessage::new("user", "x".repeat(bytes))];
        renderer.render(&jinja(text).unwrap(), &ChatRequest::new(&messages), &SpecialTokens::default())
    };
    let whole = "{{ messages[0].content }}";
    assert_eq!(say(15 << 20, whole).unwrap().len(), 15 << 20);
    assert_eq!(code(&say(17 << 20, whole)), "template-budget");
    assert_eq!(say(17 << 20, "{{ messages[0].content|length }}").unwrap(), (17 << 20).to_string());
    assert_eq!(code(&say(33 << 20, "x")), "template-budget");
    assert_eq!(say(3, whole).unwrap(), "xxx");
}

/// With fuel for more memory than a process may have, the process ends and not the machine's memory.
#[test]
#[cfg(target_os = "linux")]
fn memory_is_bounded_by_the_process() {
    let renderer = with(PoolOptions { time: Duration::from_secs(20), ..OPTIONS });
    let limits = Limits { fuel: 1 << 60, time: Duration::from_secs(20), ..Limits::SERVER };
    let text = "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(64) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}";
    let template = Template::choose(None, Some(text), limits).unwrap();
    let result = renderer.render(&template, &ChatRequest::new(&[]), &SpecialTokens::default());
    assert_eq!(code(&result), "template-crashed", "{result:?}");
    assert_eq!(render(&renderer, "x").unwrap(), "x");
}

#[test]
#[cfg(unix)]
fn a_process_that_was_killed_is_replaced() {
    let renderer = renderer();
    for i in 0..5 {
        assert_eq!(render(&renderer, "{{ messages|length }}").unwrap(), "2", "{i}");
        let processes = renderer.idle_processes();
        assert_eq!(processes.len(), 1);
        assert!(Command::new("kill").arg("-9").arg(processes[0].to_string()).status().unwrap().success());
    }
    assert_eq!(render(&renderer, "{{ messages|length }}").unwrap(), "2");
}

#[cfg(target_os = "linux")]
fn runs(process: u32) -> bool {
    Path::new(&format!("/proc/{process}")).exists()
}

#[cfg(target_os = "linux")]
fn ends(process: u32) -> bool {
    let start = Instant::now();
    while runs(process) && start.elapsed() < Duration::from_secs(5) {
        std::thread::sleep(Duration::from_millis(5));
    }
    !runs(process)
}

#[test]
#[cfg(target_os = "linux")]
fn processes_end_when_nobody_needs_them() {
    let dropped = renderer();
    render(&dropped, "x").unwrap();
    let process = dropped.idle_processes()[0];
    assert!(runs(process));
    drop(dropped);
    assert!(ends(process), "the process outlives its pool");

    let idle = with(PoolOptions { idle: Duration::from_millis(50), ..OPTIONS });
    render(&idle, "x").unwrap();
    let process = idle.idle_processes().first().copied();
    assert!(process.is_none_or(ends), "the process stays without work");
    assert!(idle.idle_processes().is_empty());
    assert_eq!(render(&idle, "x").unwrap(), "x");
}

#[test]
fn callers_wait_for_a_place_but_not_for_ever() {
    let one = with(PoolOptions { most: 1, wait: Duration::from_millis(150), ..OPTIONS });
    render(&one, "x").unwrap();
    let slow = unstoppable().swap_remove(6);
    std::thread::scope(|scope| {
        let hostile = scope.spawn(|| render(&one, &slow));
        while !one.idle_processes().is_empty() {
            std::thread::yield_now();
        }
        let busy = render(&one, "x");
        assert_eq!(code(&busy), "template-busy");
        assert_eq!(busy.unwrap_err().0[0].kind, Kind::Environment);
        assert_eq!(code(&hostile.join().unwrap()), "template-time");
    });
    assert_eq!(render(&one, "x").unwrap(), "x");

    // Many callers, few processes: each gets its own text.
    let two = renderer();
    std::thread::scope(|scope| {
        for i in 0..16 {
            let two = &two;
            scope.spawn(move || {
                for j in 0..10 {
                    assert_eq!(
                        render(two, &format!("{{{{ {i} }}}}-{{{{ {j} }}}}")).unwrap(),
                        format!("{i}-{j}")
                    );
                }
            });
        }
    });
    assert!((1..=2).contains(&two.idle_processes().len()));
}

#[test]
fn what_is_no_renderer_is_an_error() {
    for program in ["/nonexistent/mdl", "/bin/false", "/bin/cat"] {
        let renderer = Renderer::in_children_with(ChildCommand::new(program), OPTIONS);
        for _ in 0..3 {
            let result = render(&renderer, "x");
            assert_eq!(code(&result), "template-process", "{program}: {result:?}");
        }
    }
}

/// The process of `mdl __render` itself: what it does with input that is none, and at its end.
#[test]
fn a_process_without_a_parent_ends() {
    let start = |input: &[u8]| {
        let mut child = Command::new(env!("CARGO_BIN_EXE_mdl"))
            .arg(CHILD_ARGUMENT)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), input).unwrap();
        child.wait_with_output().unwrap()
    };
    let ended = start(b"");
    assert!(ended.status.success());
    assert_eq!(ended.stdout, b"\x0c\0\0\0mdl-render 1");
    assert!(!start(b"\xff\xff\xff\xffxx").status.success());
    assert!(!start(b"\x05\0\0\0xx").status.success());
    start(b"\x02\0\0\0{}");
}

/// While a template runs that does not end, the end of input ends the process all the same.
#[test]
#[cfg(target_os = "linux")]
fn a_process_ends_with_its_parent_even_at_work() {
    let source = format!("{{{{ {0} == {0} }}}}", "[[[[1]*1000]*1000]*1000]*1000");
    let limits = serde_json::to_value(Limits::SERVER).unwrap();
    let request = json!({
        "name": "t", "source": source, "limits": limits, "variables": [], "floats": [], "now": "2026-11-24T13:05:09"
    });
    let request = serde_json::to_vec(&request).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_mdl"))
        .arg(CHILD_ARGUMENT)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut input, &(request.len() as u32).to_le_bytes()).unwrap();
    std::io::Write::write_all(&mut input, &request).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    assert!(child.try_wait().unwrap().is_none(), "it does not work for ever");
    drop(input);
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        assert!(start.elapsed() < Duration::from_secs(2), "it goes on");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A process that waits for work has given up everything it does not need.
#[test]
#[cfg(target_os = "linux")]
fn a_process_has_no_powers() {
    let renderer = renderer();
    render(&renderer, "x").unwrap();
    let proc = PathBuf::from(format!("/proc/{}", renderer.idle_processes()[0]));
    let limits = read(&proc.join("limits"));
    let limit = |name: &str| {
        let line = limits.lines().find(|l| l.starts_with(name)).unwrap();
        line[name.len()..].split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>()
    };
    for name in ["Max core file size", "Max file size", "Max open files", "Max processes"] {
        assert_eq!(limit(name), ["0", "0"], "{name}");
    }
    assert!(limit("Max address space")[1].parse::<u64>().unwrap() < 2 << 30);
    assert_eq!(std::fs::read_link(proc.join("cwd")).unwrap(), Path::new("/"));
    assert_eq!(read(&proc.join("environ")), "MALLOC_ARENA_MAX=1\0");
    // Besides its pipes it has only what whoever started the test left open for all.
    let inherited = |fd: &str| {
        let info = read(Path::new(&format!("/proc/self/fdinfo/{fd}")));
        let flags = info.lines().find_map(|l| l.strip_prefix("flags:")).unwrap().trim().to_owned();
        i64::from_str_radix(&flags, 8).unwrap() & 0o2_000_000 == 0
    };
    for entry in std::fs::read_dir(proc.join("fd")).unwrap() {
        let fd = entry.unwrap().file_name().into_string().unwrap();
        assert!(["0", "1", "2"].contains(&fd.as_str()) || inherited(&fd), "{fd}");
    }
}

#[test]
fn injections_reach_nothing() {
    let renderer = renderer();
    let payloads = read(&testdata().join("jinja/injections.txt"));
    let payloads: Vec<_> = payloads.lines().filter(|l| !l.is_empty()).collect();
    assert!(payloads.len() >= 30);
    for payload in payloads {
        let start = Instant::now();
        let result = render(&renderer, payload);
        assert!(["template-execution", "template-syntax"].contains(&code(&result)), "{payload}: {result:?}");
        assert!(start.elapsed() < Duration::from_millis(500), "{payload}");
    }
}

/// A normal template costs less than a millisecond more than nothing, once its process runs.
#[test]
fn a_round_trip_is_short() {
    let renderer = renderer();
    let template = jinja(&read(&testdata().join("jinja/qwen2.5.jinja"))).unwrap();
    let messages = [
        ChatMessage::new("system", "You are a helpful assistant."),
        ChatMessage::new("user", "What is the capital of France?"),
        ChatMessage::new("assistant", "Paris."),
        ChatMessage::new("user", "And of Italy?"),
    ];
    let request = ChatRequest::new(&messages);
    let mut took: Vec<Duration> = (0..200)
        .map(|_| {
            let start = Instant::now();
            renderer.render(&template, &request, &SpecialTokens::default()).unwrap();
            start.elapsed()
        })
        .collect();
    took.sort();
    eprintln!("median {:?}, 95% {:?}", took[100], took[190]);
    // A loaded machine and a build without optimisation get ten times the bound.
    assert!(took[100] < Duration::from_millis(10), "{:?}", took[100]);
}
