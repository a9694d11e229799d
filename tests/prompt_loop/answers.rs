//! How answers look: width, styles, thinking, locales.

use super::terminal::{Place, plain, root};

/// The lines of an answer: what was shown after the line that was typed.
fn answer(shown: &str) -> Vec<String> {
    plain(shown).lines().skip(1).map(str::to_owned).collect()
}

#[test]
fn words_wrap_at_the_width_which_may_change() {
    let place = Place::new();
    let mut terminal = place.run(&["story", "--set", "num_predict=60"]);
    terminal.ready();
    for columns in [80, 40] {
        terminal.resize(columns);
        let shown = terminal.says("Emma was");
        let lines = answer(&shown);
        let longest = lines.iter().map(|l| l.trim_end().len()).max().unwrap();
        assert!(
            longest <= usize::from(columns) && longest > usize::from(columns) / 2,
            "{columns}: {shown:?}"
        );
        assert!(lines.len() > 2, "{columns}: {shown:?}");
    }
    terminal.says("/set nowordwrap");
    let shown = terminal.says("Emma was");
    assert!(answer(&shown).iter().any(|l| l.len() > 60), "{shown:?}");
    terminal.keys("/bye\r");
    terminal.end();
}

#[test]
fn thinking_is_dim_or_hidden() {
    let place = Place::new();
    place.build_here("thinks", &root("tests/clients/thinks.modelfile"));
    let mut terminal = place.run(&["thinks"]);
    terminal.ready();
    let shown = terminal.says("Emma was");
    assert!(shown.contains("\u{1b}[2mThinking...\r\n\u{1b}[22m"), "{shown:?}");
    assert!(plain(&shown).contains("...done thinking."), "{shown:?}");
    terminal.says("/set nothink");
    assert!(!plain(&terminal.says("Emma was")).contains("Thinking..."));
    assert!(plain(&terminal.says("/set think high")).contains("Set 'think' mode to 'high'."));
    assert!(plain(&terminal.says("Emma was")).contains("Thinking..."));
    terminal.keys("/bye\r");
    terminal.end();
    let mut terminal = place.run(&["thinks", "--hidethinking", "--think"]);
    terminal.ready();
    assert!(!plain(&terminal.says("Emma was")).contains("hinking"));
    terminal.keys("/bye\r");
    terminal.end();
    let refused = place.mdl(&["run", "story", "--think=high", "x"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let unknown = place.mdl(&["run", "story", "--think=hard", "x"]).output().unwrap();
    assert_eq!(unknown.status.code(), Some(2));
}

#[test]
fn styles_are_left_out_where_they_are_not_wanted() {
    let place = Place::new();
    place.build_here("thinks", &root("tests/clients/thinks.modelfile"));
    let mut terminal = place.run_with(&["thinks"], |command| {
        command.env("NO_COLOR", "1");
    });
    terminal.ready();
    let shown = terminal.says("Emma was");
    let styles = regex::Regex::new("\u{1b}\\[[0-9;]*m").unwrap();
    assert!(!styles.is_match(&shown), "{shown:?}");
    assert!(plain(&shown).contains("Thinking..."));
    terminal.keys("/bye\r");
    assert_eq!(terminal.end().0, 0);
    // A terminal that knows no sequences is sent none.
    let mut terminal = place.run_with(&["thinks"], |command| {
        command.env("TERM", "dumb");
    });
    terminal.until(">>> ");
    terminal.keys("Emma was\n");
    let shown = terminal.until(">>> ");
    assert!(!shown.contains('\u{1b}') && shown.contains("Thinking..."), "{shown:?}");
    terminal.keys("\"\"\"a\n");
    terminal.until("... ");
    terminal.keys("b\"\"\"\n");
    terminal.until(">>> ");
    terminal.keys("\u{4}");
    assert_eq!(terminal.end().0, 0);
}

#[test]
fn a_locale_without_unicode_loses_nothing() {
    let place = Place::new();
    let mut terminal = place.run_with(&["story"], |command| {
        command.env("LC_ALL", "C").env("LANG", "C");
    });
    terminal.ready();
    terminal.says("naïve 語");
    terminal.says("/save kept");
    terminal.keys("/bye\r");
    assert_eq!(terminal.end().0, 0);
    assert_eq!(place.messages("kept")[0].1, "naïve 語");
}

#[test]
fn timings_come_on_demand() {
    let place = Place::new();
    let mut terminal = place.run(&["story"]);
    terminal.ready();
    terminal.says("/set verbose");
    let shown = plain(&terminal.says("Emma was"));
    for label in ["total duration:", "prompt eval count:", "eval count:           6 token(s)", "eval rate:"] {
        assert!(shown.contains(label), "{label}: {shown}");
    }
    terminal.keys("/bye\r");
    terminal.end();
}

/// What a model or its metadata say cannot steer the terminal.
#[test]
fn control_sequences_do_not_reach_the_terminal() {
    let place = Place::new();
    let modelfile = place.path("hostile.modelfile");
    std::fs::write(
        &modelfile,
        "FROM story\nSYSTEM \"\"\"bell\u{7} and \u{9b}31m\"\"\"\nLICENSE \"\"\"title\u{1b}]0;x\u{7}\"\"\"\n",
    )
    .unwrap();
    place.build_here("hostile", &modelfile);
    let mut terminal = place.run(&["hostile"]);
    terminal.ready();
    for line in ["/show system", "/show license", "/show info", "/show modelfile"] {
        let shown = terminal.says(line);
        assert!(!shown.contains(['\u{7}', '\u{9b}']) && !shown.contains("\u{1b}]"), "{line}: {shown:?}");
    }
    assert!(terminal.says("/show system").contains("bell\u{fffd}"));
    terminal.keys("/bye\r");
    terminal.end();
}
