//! Keys: several lines, paste, Ctrl-C, Ctrl-D, history, completion, an editor.

use std::os::unix::fs::PermissionsExt as _;

use super::terminal::{Place, READY, plain};

const CTRL_C: &str = "\u{3}";
const CTRL_D: &str = "\u{4}";

#[test]
fn several_lines_are_one_message() {
    let place = Place::new();
    let mut terminal = place.run(&["story"]);
    terminal.ready();
    // Between quotes.
    terminal.keys("\"\"\"Emma\r");
    terminal.until("... ");
    terminal.keys("  was\"\"\"\r");
    terminal.ready();
    // Typed ahead, while the line before is read.
    terminal.says("\"\"\"a\rb\"\"\"");
    // Pasted: the line breaks in it send nothing.
    terminal.keys("\u{1b}[200~one\ntwo\u{1b}[201~");
    terminal.until("two");
    terminal.says(" three");
    // Unicode as it is, also where it is composed.
    terminal.says("naïve 語 e\u{301} 👩\u{200d}🚀");
    terminal.says("/save kept");
    terminal.keys(CTRL_D);
    assert_eq!(terminal.end().0, 0);
    let messages = place.messages("kept");
    let asked: Vec<&str> = messages.iter().filter(|m| m.0 == "user").map(|m| m.1.as_str()).collect();
    assert_eq!(asked, ["Emma\n  was", "a\nb", "one\ntwo three", "naïve 語 e\u{301} 👩\u{200d}🚀"]);
}

#[test]
fn an_interrupt_stops_the_answer_and_keeps_what_was_said() {
    let place = Place::new();
    let mut terminal = place.run(&["story", "--set", "num_predict=-1"]);
    terminal.ready();
    terminal.keys("Emma was very much\r");
    // Some words of it, on a line of their own.
    terminal.until("\n");
    let begun = terminal.until(" ");
    std::thread::sleep(std::time::Duration::from_millis(50));
    terminal.keys(CTRL_C);
    terminal.ready();
    terminal.says("/save kept");
    // At an empty prompt there is a word on how to leave; a line that was begun is dropped.
    terminal.keys(CTRL_C);
    terminal.until("Use Ctrl + d or /bye to exit.");
    terminal.ready();
    terminal.keys("half a mess");
    terminal.until("alf a mess");
    terminal.keys(CTRL_C);
    assert!(!terminal.ready().contains("exit"));
    // So is a block.
    terminal.keys("\"\"\"block\r");
    terminal.until("... ");
    terminal.keys(CTRL_C);
    terminal.ready();
    terminal.keys(CTRL_D);
    assert_eq!(terminal.end().0, 0);
    let messages = place.messages("kept");
    assert_eq!(messages.len(), 2, "{messages:?}");
    assert!(messages[1].1.trim_start().starts_with(plain(&begun).trim()), "{begun:?} {messages:?}");
}

#[test]
fn a_history_is_kept_for_its_owner_and_searched() {
    let place = Place::new();
    let file = place.path(".local/share/mdl/history");
    let mut terminal = place.run(&["story"]);
    terminal.ready();
    terminal.says("The first question");
    terminal.says("The second question");
    terminal.says("/set nohistory");
    terminal.says("A secret");
    terminal.keys("/bye\r");
    terminal.end();
    let kept = std::fs::read_to_string(&file).unwrap();
    assert!(kept.contains("The first question") && !kept.contains("A secret"), "{kept}");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    // Another run: up, up, and a search.
    let mut terminal = place.run(&["story"]);
    terminal.ready();
    terminal.keys("\u{1b}[A\u{1b}[A");
    terminal.until("The second question");
    terminal.keys("\u{15}");
    terminal.ready();
    terminal.keys("\u{12}first");
    terminal.until("The first question");
    terminal.keys("\r");
    terminal.ready();
    terminal.keys("/bye\r");
    terminal.end();
    // In private mode nothing is read and nothing written.
    let before = std::fs::read_to_string(&file).unwrap();
    for private in ["MDL_NOHISTORY", "OLLAMA_NOHISTORY"] {
        let mut terminal = place.run_with(&["story"], |command| {
            command.env(private, "1");
        });
        terminal.ready();
        terminal.says("Private");
        terminal.keys("/bye\r");
        terminal.end();
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), before);
}

#[test]
fn commands_parameters_and_models_are_completed() {
    let place = Place::new();
    let mut terminal = place.run(&["story"]);
    terminal.ready();
    for (typed, completed) in
        [("/cl\t", "/clear"), ("/set parameter temp\t", "temperature"), ("/load st\t", "story:latest")]
    {
        terminal.keys(typed);
        terminal.until(completed);
        terminal.keys("\u{15}");
        terminal.ready();
    }
    terminal.keys(CTRL_D);
    assert_eq!(terminal.end().0, 0);
}

#[test]
fn a_message_is_written_in_an_editor() {
    let place = Place::new();
    let editor = place.path("editor.sh");
    std::fs::write(&editor, "#!/bin/sh\nstat -c %a \"$2\" > mode\necho \"in two lines\" >> \"$2\"\n")
        .unwrap();
    std::fs::set_permissions(&editor, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut terminal = place.run_with(&["story"], |command| {
        command.env("VISUAL", "false").env("MDL_EDITOR", format!("{} --wait", editor.display()));
    });
    terminal.ready();
    terminal.keys("A question ");
    terminal.until("question ");
    terminal.keys("\u{18}\u{5}");
    terminal.until("in two lines");
    terminal.keys("\r");
    terminal.ready();
    terminal.says("/save kept");
    terminal.keys(CTRL_D);
    assert_eq!(terminal.end().0, 0);
    assert_eq!(place.messages("kept")[0].1, "A question in two lines");
    assert_eq!(std::fs::read_to_string(place.path("mode")).unwrap().trim(), "600");
    // One that fails leaves what was typed.
    let mut terminal = place.run_with(&["story"], |command| {
        command.env("EDITOR", "false");
    });
    terminal.ready();
    terminal.keys("typed\u{18}\u{5}");
    terminal.until("the editor `false` failed");
    terminal.until(">>> typed");
    terminal.keys(CTRL_C);
    terminal.until(READY);
}
