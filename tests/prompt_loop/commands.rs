//! The `/` commands.

use super::terminal::{Place, plain};

#[test]
fn every_command_answers() {
    let place = Place::new();
    let mut terminal = place.run(&["story"]);
    terminal.ready();
    for (line, expected) in [
        ("/set parameter temperature 0.5", "Set parameter 'temperature' to '0.5'"),
        ("/set parameter stop \"a b\" c", "Set parameter 'stop' to"),
        ("/set parameter temprature 1", "did you mean `temperature`?"),
        ("/set parameter", "num_ctx 4096"),
        ("/set system You are brief.", "Set system message."),
        ("/set history", "Set 'history' mode."),
        ("/set nohistory", "Set 'nohistory' mode."),
        ("/set wordwrap", "Set 'wordwrap' mode."),
        ("/set nowordwrap", "Set 'nowordwrap' mode."),
        ("/set format json", "Set format to 'json' mode."),
        ("/set format yaml", "the format is `json`"),
        ("/set noformat", "Disabled format."),
        ("/set verbose", "Set 'verbose' mode."),
        ("/set quiet", "Set 'quiet' mode."),
        ("/set think", "does not support thinking"),
        ("/set think much", "is none of low, medium, high, max"),
        ("/set nothink", "Set 'nothink' mode."),
        ("/set nonsense", "/set parameter NAME"),
        ("/show info", "architecture         llama"),
        ("/show license", "CC0-1.0"),
        ("/show modelfile", "FROM "),
        ("/show parameters", "num_predict"),
        ("/show system", "You are brief."),
        ("/show template", "bos_token"),
        ("/show", "/show info"),
        ("/list", "story:latest"),
        ("/clear", "Cleared session context"),
        ("/load nothing", "nothing"),
        ("/load story", "Loading model 'story'"),
        ("/load", "a model is needed"),
        ("/save", "a name is needed"),
        ("/save no/such/name/at/all", "no/such/name/at/all"),
        ("/save kept", "Created new model 'kept'"),
        ("/?", "Available Commands:"),
        ("/help set", "/set parameter NAME"),
        ("/? shortcuts", "Search the history"),
        ("/nonsense", "Unknown command '/nonsense'. Type /? for help"),
    ] {
        let shown = plain(&terminal.says(line));
        assert!(shown.contains(expected), "{line}: {shown}");
    }
    terminal.keys("/bye\r");
    assert_eq!(terminal.end().0, 0);
}

#[test]
fn what_was_set_is_saved_and_answered_with() {
    let place = Place::new();
    let mut terminal = place.run(&["story"]);
    terminal.ready();
    terminal.says("/set system \"\"\"Be\nbrief.\"\"\"");
    terminal.says("/set parameter stop \"a b\" c");
    terminal.says("/set parameter seed 7");
    let said = plain(&terminal.says("Emma was"));
    terminal.says("/save kept");
    terminal.keys("/exit\r");
    assert_eq!(terminal.end().0, 0);
    let shown: serde_json::Value = serde_json::from_str(&place.says(&["show", "kept", "--json"])).unwrap();
    assert_eq!(shown["system"], "Be\nbrief.");
    let parameters = shown["parameters"].as_str().unwrap();
    for line in ["seed                           7", "stop                           \"a b\"", "temperature"]
    {
        assert!(parameters.contains(line), "{line}: {parameters}");
    }
    let messages = place.messages("kept");
    assert_eq!(messages[0], ("user".to_owned(), "Emma was".to_owned()));
    assert_eq!(messages[1].0, "assistant");
    assert!(said.contains(messages[1].1.trim()), "{said}: {messages:?}");
    // The same weights, not written again.
    assert_eq!(place.says(&["show", "kept", "--tensors"]), place.says(&["show", "story", "--tensors"]));
    // And it goes on from there.
    let mut terminal = place.run(&["kept"]);
    terminal.ready();
    terminal.says("And then?");
    terminal.says("/save further");
    terminal.keys("/bye\r");
    terminal.end();
    assert_eq!(place.messages("further").len(), 4);
    assert_eq!(place.messages("further")[..2], messages);
}

#[test]
fn json_is_answered_where_it_is_asked_for() {
    let place = Place::new();
    let schema = place.path("schema.json");
    std::fs::write(&schema, r#"{"type": "object", "properties": {"n": {"enum": [7]}}, "required": ["n"], "additionalProperties": false}"#).unwrap();
    let said = place.says(&["run", "story", "--format", schema.to_str().unwrap(), "A number."]);
    let value: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(value["n"], 7);
    let wrong = place.mdl(&["run", "story", "--format", "nowhere.json", "x"]).output().unwrap();
    assert_eq!(wrong.status.code(), Some(1));
    let mut terminal = place.run(&["story"]);
    terminal.ready();
    terminal.says("/set format json");
    assert!(plain(&terminal.says("A number.")).contains('{'));
}
