//! Any text is a Go template or an error, and executing it ends within its budgets.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use mdl::diagnostic::Source;
use mdl::prompt::gotemplate::{Spent, Template, Value};
use mdl::prompt::limits::Limits;

fuzz_target!(|text: &str| {
    let limits = Limits { fuel: 20_000, output_bytes: 1 << 20, source_bytes: 1 << 16, ..Limits::DEFAULT };
    let _ = mdl::prompt::check::check(text, None, limits);
    let source = Arc::new(Source { name: "fuzz".to_owned(), text: text.to_owned() });
    let Ok(template) = Template::parse(source, limits) else { return };
    let message = Value::map([
        ("Role".to_owned(), Value::from("user")),
        ("Content".to_owned(), Value::from("héllo <world> & \"all\"")),
    ]);
    let data = Value::map([
        ("System".to_owned(), Value::from("be brief")),
        ("Prompt".to_owned(), Value::from("why?")),
        ("Response".to_owned(), Value::from("")),
        ("Messages".to_owned(), Value::list(vec![message.clone(), message])),
        ("N".to_owned(), Value::Int(-3)),
        ("F".to_owned(), Value::Float(2.5)),
        ("Nothing".to_owned(), Value::Null),
    ]);
    let today = jiff::civil::date(2026, 11, 24);
    let _ = template.execute_here(&data, today, &mut Spent::default());
});
