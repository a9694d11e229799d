//! What holds for every Modelfile: generated ones keep their meaning, and random ones are parsed
//! to what a second, independent reading of the language makes of them.

use mdl::diagnostic::{Location, Severity};
use mdl::ir::Role;
use mdl::modelfile::{Ast, Keyword, Parsed, Recipe, format, lower, parse};
use proptest::prelude::*;

/// An instruction as plain text: upper-case keyword, name or role, value.
type Command = (String, String, String);

fn commands(ast: &Ast) -> Vec<Command> {
    ast.instructions()
        .map(|i| {
            let word = i.word.as_ref().map_or("", |word| ast.text(word));
            (i.keyword.name().to_owned(), word.to_owned(), ast.text(&i.value.text).to_owned())
        })
        .collect()
}

/// The language as Ollama reads it, character by character: a state machine beside our grammar.
/// `None` where Ollama reports an error.
fn state_machine(text: &str) -> Option<Vec<Command>> {
    enum State {
        Between,
        Comment,
        Keyword,
        Word,
        Value,
    }
    let newline = |c: char| c == '\r' || c == '\n';
    let blank = |c: char| c == ' ' || c == '\t';
    // Ollama drops U+200B and U+FEFF everywhere, so at the ends of a value too.
    let edge = |c: char| c.is_whitespace() || c == '\u{200B}' || c == '\u{FEFF}';
    let mut state = State::Between;
    let (mut keyword, mut word, mut buffer) = (String::new(), String::new(), String::new());
    let mut commands = Vec::new();
    for c in text.chars() {
        match state {
            State::Between if c == '#' => state = State::Comment,
            State::Between if blank(c) || newline(c) => {}
            State::Between => {
                state = State::Keyword;
                buffer = c.to_string();
            }
            State::Comment if newline(c) => state = State::Between,
            State::Comment => {}
            State::Keyword if c.is_ascii_alphabetic() => buffer.push(c),
            State::Keyword if blank(c) => {
                keyword = std::mem::take(&mut buffer).to_uppercase();
                word.clear();
                state = match Keyword::from_name(&keyword)? {
                    Keyword::Parameter | Keyword::Message => State::Word,
                    _ => State::Value,
                };
            }
            State::Keyword => return None,
            State::Word if c.is_ascii_alphanumeric() || c == '_' => buffer.push(c),
            State::Word if blank(c) && !buffer.is_empty() => {
                word = std::mem::take(&mut buffer);
                if keyword == "MESSAGE" && !["system", "user", "assistant"].contains(&word.as_str()) {
                    return None;
                }
                state = State::Value;
            }
            State::Word => return None,
            State::Value if newline(c) => match unquote(buffer.trim_matches(edge)) {
                Some(value) => {
                    commands.push((keyword.clone(), word.clone(), value.to_owned()));
                    buffer.clear();
                    state = State::Between;
                }
                None => buffer.push(c),
            },
            State::Value => buffer.push(c),
        }
    }
    match state {
        State::Between | State::Comment => {}
        State::Value => commands.push((keyword, word, unquote(buffer.trim_matches(edge))?.to_owned())),
        State::Keyword | State::Word => return None,
    }
    Some(commands)
}

fn unquote(text: &str) -> Option<&str> {
    for quote in ["\"\"\"", "\""] {
        if let Some(rest) = text.strip_prefix(quote) {
            return rest.strip_suffix(quote);
        }
    }
    Some(text)
}

/// Text made of the parts that matter to the grammar.
fn syntax() -> impl Strategy<Value = String> {
    const PARTS: [&str; 22] = [
        "FROM ",
        "from\t",
        "SYSTEM ",
        "SYSTEM \"",
        "LICENSE \"\"\"",
        "PARAMETER ",
        "PARAMETER stop ",
        "MESSAGE ",
        "user ",
        "MESSAGE user \"",
        "\"",
        "\"\"\"",
        "\"\n",
        "\"\"\"\n",
        " ",
        "\t",
        "\n",
        "\r\n",
        "\r",
        "#",
        "a",
        "b c",
    ];
    prop::collection::vec(prop::sample::select(PARTS.as_slice()), 0..30).prop_map(|parts| parts.concat())
}

/// Values of every kind, as a recipe may hold them.
fn value() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z]{1,8}", "[a-z \"]{0,12}", "[a\"\n \r\t\u{200B}é]{0,12}", "(\"{0,4}[ \na]{0,2}){0,4}"]
}

/// A Modelfile without errors, as the instructions it has and the text it is written as.
fn modelfile() -> impl Strategy<Value = (Vec<Command>, String)> {
    let line = (0..12_u8, value(), 0..3_usize, any::<bool>(), 0..4_u8, any::<i16>());
    (prop::collection::vec(line, 0..12), any::<bool>()).prop_map(|(lines, crlf)| {
        let end = if crlf { "\r\n" } else { "\n" };
        let mut commands = vec![("FROM".to_owned(), String::new(), "x".to_owned())];
        let mut text = format!("from x{end}");
        for (kind, value, form, lower_case, blanks, number) in lines {
            let (keyword, word, value) = match kind {
                0 => ("TEMPLATE", "", value),
                1 => ("SYSTEM", "", value),
                2 => ("LICENSE", "", value),
                3 => ("MESSAGE", "user", value),
                4 => ("MESSAGE", "assistant", value),
                5 => ("PARAMETER", "stop", value),
                6 => ("PARAMETER", "seed", number.to_string()),
                7 => ("PARAMETER", "temperature", f32::from(number).abs().to_string()),
                8 => ("PARAMETER", "use_mmap", (number > 0).to_string()),
                9 => ("REQUIRES", "", format!("{}.1.2", number.unsigned_abs())),
                10 => ("ADAPTER", "", format!("./{} {}", number, value.len() % 3 + 1)),
                _ => ("FROM", "", format!("m{}", number)),
            };
            // A form that the value does not fit is found by reading it back.
            let written = [value.clone(), format!("\"{value}\""), format!("\"\"\"{value}\"\"\"")]
                .into_iter()
                .cycle()
                .skip(form)
                .take(3)
                .find(|w| {
                    let read = state_machine(&format!("SYSTEM {w}\nFROM x\n"));
                    !w.is_empty() && read.is_some_and(|r| r.len() == 2 && r[0].2 == value)
                });
            let Some(written) = written else { continue };
            match blanks {
                1 => text.push_str(&format!("{end}{end}")),
                2 => text.push_str(&format!("  # a comment \"{end}")),
                3 => text.push_str(" \t"),
                _ => {}
            }
            let typed = if lower_case { keyword.to_lowercase() } else { keyword.to_owned() };
            let word_typed = if word.is_empty() { String::new() } else { format!("{word} ") };
            text.push_str(&format!("{typed} {word_typed}{written}{end}"));
            commands.push((keyword.to_owned(), word.to_owned(), value));
        }
        (commands, text)
    })
}

fn without_errors(text: &str) -> Result<(Ast, Recipe), TestCaseError> {
    let Parsed { ast, diagnostics } = parse("m", text.as_bytes());
    prop_assert_eq!(&diagnostics, &vec![], "in {:?}", text);
    let (recipe, diagnostics) = lower(&ast);
    prop_assert_eq!(&diagnostics, &vec![], "in {:?}", text);
    Ok((ast, recipe))
}

/// What every tree is: in order, without overlap, and nothing but blanks and line ends between.
fn check_tree(ast: &Ast) {
    let mut end = 0;
    let between = |c: char| c.is_whitespace() || c == '\u{200B}' || c == '\u{FEFF}';
    for item in &ast.items {
        assert!(item.range.start >= end, "{ast:?}");
        assert!(ast.text(&(end..item.range.start)).chars().all(between), "{ast:?}");
        end = item.range.end;
    }
    let text = &ast.source.text;
    assert!(text[end..].chars().all(between), "{ast:?}");
}

/// What every run is, whatever the input.
fn check_any(bytes: &[u8]) {
    let Parsed { ast, diagnostics } = parse("m", bytes);
    let (_, more) = lower(&ast);
    for d in diagnostics.iter().chain(&more).filter(|d| d.severity != Severity::Note) {
        let Some(Location::Text(span)) = &d.location else { panic!("{d:?}") };
        assert!(span.source.text.get(span.range.clone()).is_some(), "{d:?}");
        assert!(!mdl::cli::report::render(d, true).is_empty());
    }
    if !ast.items.is_empty() {
        check_tree(&ast);
    }
    assert_eq!(
        ast.has_errors(),
        diagnostics.iter().any(|d| d.severity == Severity::Error) && !ast.items.is_empty()
    );
    if !ast.has_errors() {
        let once = format(&ast);
        let again = parse("m", once.as_bytes());
        assert_eq!(again.diagnostics, [], "{once:?}");
        assert_eq!(commands(&again.ast), commands(&ast));
        assert_eq!(format(&again.ast), once);
    }
    assert!(!ast.to_string().contains('\u{1b}'));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_ollama_reads_is_read_the_same(text in syntax()) {
        if let Some(expected) = state_machine(&text) {
            let Parsed { ast, diagnostics } = parse("m", text.as_bytes());
            // The one exception: keywords that need a value, and have an empty one.
            if diagnostics.iter().all(|d| ["missing-value", "unknown-parameter"].contains(&d.code)) {
                let empty = |c: &&Command| c.2.is_empty() && ["FROM", "PARAMETER"].contains(&c.0.as_str());
                let errors = expected.iter().filter(empty).count();
                prop_assert!(diagnostics.len() <= errors, "{text:?}: {diagnostics:?}");
                let kept = commands(&ast);
                let mut expected = expected.iter();
                prop_assert!(kept.iter().all(|c| expected.any(|e| e == c)), "{text:?}: {kept:?}");
                prop_assert_eq!(kept.len() + diagnostics.len(), state_machine(&text).map_or(0, |c| c.len()));
            } else {
                prop_assert!(false, "{text:?} is read as {expected:?}, but: {diagnostics:?}");
            }
        }
    }

    #[test]
    fn any_syntax_is_taken(text in syntax()) {
        check_any(text.as_bytes());
    }

    #[test]
    fn any_bytes_are_taken(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        check_any(&bytes);
    }

    #[test]
    fn any_text_is_taken(text in "(\\PC|[\r\n\"# ]|FROM |SYSTEM \"\"\"|PARAMETER stop |[\u{FEFF}\u{200B}\u{85}\u{2028}]){0,40}") {
        check_any(text.as_bytes());
    }

    #[test]
    fn what_is_written_is_read((expected, text) in modelfile()) {
        let (ast, recipe) = without_errors(&text)?;
        prop_assert_eq!(&commands(&ast), &expected, "in {:?}", text);

        let stops: Vec<&str> =
            expected.iter().filter(|c| c.1 == "stop").map(|c| c.2.as_str()).collect();
        match recipe.prompt.parameter("stop") {
            Some(mdl::ir::ParameterValue::Strings(all)) => prop_assert_eq!(all, &stops),
            other => prop_assert!(other.is_none() && stops.is_empty()),
        }
        let last = |keyword: &str| expected.iter().rfind(|c| c.0 == keyword).map(|c| c.2.clone());
        prop_assert_eq!(&recipe.prompt.system, &last("SYSTEM"));
        prop_assert_eq!(&recipe.prompt.template, &last("TEMPLATE"));
        prop_assert_eq!(&recipe.prompt.requires, &last("REQUIRES"));
        let users = expected.iter().filter(|c| c.1 == "user").count();
        prop_assert_eq!(recipe.prompt.messages.iter().filter(|m| m.role == Role::User).count(), users);
    }

    #[test]
    fn formatting_keeps_the_meaning((_, text) in modelfile()) {
        let (ast, recipe) = without_errors(&text)?;
        let once = format(&ast);
        let (again, same) = without_errors(&once)?;
        prop_assert!(same.means_the_same(&recipe), "{once:?}");
        prop_assert_eq!(format(&again), once);
    }

    #[test]
    fn printing_keeps_the_meaning((_, text) in modelfile()) {
        let (_, recipe) = without_errors(&text)?;
        let (printed, lost) = recipe.to_modelfile();
        prop_assert_eq!(lost, vec![]);
        prop_assert!(without_errors(&printed)?.1.means_the_same(&recipe), "{printed:?}");
    }

    #[test]
    fn encodings_do_not_matter((_, text) in modelfile()) {
        let plain = parse("m", text.as_bytes());
        let encode = |mark: [u8; 2], unit: fn(u16) -> [u8; 2]| -> Vec<u8> {
            mark.into_iter().chain(text.encode_utf16().flat_map(unit)).collect()
        };
        for bytes in [
            format!("\u{FEFF}{text}").into_bytes(),
            encode([0xFF, 0xFE], u16::to_le_bytes),
            encode([0xFE, 0xFF], u16::to_be_bytes),
        ] {
            prop_assert_eq!(&parse("m", &bytes).ast, &plain.ast);
        }
    }
}
