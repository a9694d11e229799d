//! A conversation that a running server of the same store computes.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};

use super::terminal::{Place, plain};

/// It ends with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn serve(place: &Place) -> (Server, String) {
    let mut child = place.mdl(&["serve", "--host", "127.0.0.1:0"]).stdout(Stdio::null()).spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    let url = loop {
        line.clear();
        assert!(log.read_line(&mut line).unwrap() > 0, "the server did not start");
        if let Some((_, url)) = line.split_once("listening on ") {
            break url.trim().to_owned();
        }
    };
    std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
    (Server(child), url)
}

#[test]
fn the_loop_is_the_same_where_a_server_computes() {
    let place = Place::new();
    let (_server, url) = serve(&place);
    let mut told = Vec::new();
    for local in [true, false] {
        let arguments = if local { &["story", "--local"][..] } else { &["story"] };
        let mut terminal = place.run_with(arguments, |command| {
            command.env("MDL_HOST", &url).env("MDL_NOHISTORY", "1");
        });
        let mut shown = terminal.ready();
        for line in [
            "Emma was",
            "/set system You are brief.",
            "/set parameter seed 7",
            "And then?",
            "/show info",
            "/show parameters",
            "/show system",
            "/show template",
            "/show license",
            "/list",
            "/save kept",
            "/load kept",
            "/show parameters",
            "More?",
            "/set think",
        ] {
            shown.push_str(&terminal.says(line));
        }
        terminal.keys("/load st\t");
        terminal.until("story:latest");
        terminal.keys("\u{15}");
        terminal.ready();
        terminal.keys("/bye\r");
        assert_eq!(terminal.end().0, 0);
        let loaded = place.says(&["ps", "--host", &url]);
        assert_eq!(loaded.contains("story:latest"), !local, "{loaded}");
        assert_eq!(place.messages("kept").len(), 4);
        place.says(&["rm", "kept"]);
        let shown = plain(&shown);
        let lines = shown.lines().filter(|l| !l.contains(" ago") && !l.trim().is_empty());
        told.push(lines.map(str::to_owned).collect::<Vec<_>>());
    }
    assert_eq!(told[0], told[1]);
}

#[test]
fn an_interrupt_reaches_the_server() {
    let place = Place::new();
    let (_server, url) = serve(&place);
    let mut terminal = place.run_with(&["story", "--set", "num_predict=-1", "--host", &url], |_| ());
    terminal.ready();
    terminal.keys("Emma was very much\r");
    terminal.until("\n");
    terminal.until(" ");
    std::thread::sleep(std::time::Duration::from_millis(50));
    terminal.keys("\u{3}");
    terminal.ready();
    terminal.says("/save kept");
    terminal.keys("\u{4}");
    assert_eq!(terminal.end().0, 0);
    assert_eq!(place.messages("kept").len(), 2);
}
