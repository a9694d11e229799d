//! What a model is, as text.

use crate::ir::{Change, Module, ParameterValue, Prompt};
use crate::passes::package;
use crate::prompt;

/// What a model is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Description {
    /// Lines of the first section: a name and a value.
    pub model: Vec<(&'static str, String)>,
    /// `completion`, `embedding`, `tools`, `insert`, `thinking`.
    pub capabilities: Vec<String>,
    /// SYSTEM.
    pub system: String,
    /// The template in force.
    pub template: String,
    /// PARAMETERs, a name and a value a line.
    pub parameters: String,
    /// Each LICENSE.
    pub licenses: Vec<String>,
    /// MESSAGEs: role and text.
    pub messages: Vec<(String, String)>,
    /// A Modelfile that makes it again.
    pub modelfile: String,
}

impl Description {
    /// Of an opened model; `modelfile` makes it again.
    pub fn of(module: &Module, modelfile: String) -> Description {
        let prompt = &module.prompt;
        let message = |m: &crate::ir::Message| (m.role.name().to_owned(), m.content.clone());
        Description {
            model: model(module),
            capabilities: prompt::capabilities(module).into_iter().map(str::to_owned).collect(),
            system: prompt.system.clone().unwrap_or_default(),
            template: prompt::template_text(module).to_owned(),
            parameters: parameters(prompt),
            licenses: prompt.licenses.clone(),
            messages: prompt.messages.iter().map(message).collect(),
            modelfile,
        }
    }

    /// True of a model that can be asked for this.
    pub fn can(&self, capability: &str) -> bool {
        self.capabilities.iter().any(|c| c == capability)
    }

    /// The sections that a person looks for first.
    pub fn overview(&self) -> String {
        let mut out = String::from("  Model\n");
        for (name, value) in &self.model {
            out.push_str(&format!("    {name:<20} {value}\n"));
        }
        let mut section = |title: &str, text: &str| {
            if !text.trim().is_empty() {
                out.push_str(&format!("\n  {title}\n"));
                text.lines().for_each(|line| out.push_str(&format!("    {line}\n")));
            }
        };
        section("Capabilities", &self.capabilities.join("\n"));
        section("Parameters", &self.parameters);
        section("System", &first_lines(&self.system));
        for license in &self.licenses {
            section("License", &first_lines(license));
        }
        out.push('\n');
        out
    }
}

/// The lines of the first section.
fn model(module: &Module) -> Vec<(&'static str, String)> {
    let architecture = module.architecture().unwrap_or("?");
    let number = |key: &str| module.metadata.u64(&format!("{architecture}.{key}"));
    let mut lines = vec![
        ("architecture", architecture.to_owned()),
        ("parameters", package::human_number(module.parameter_count())),
    ];
    lines.extend(number("context_length").map(|n| ("context length", n.to_string())));
    lines.extend(number("embedding_length").map(|n| ("embedding length", n.to_string())));
    lines.push(("quantization", package::file_type(&module.metadata)));
    for adapter in &module.adapters {
        let rank = adapter.changes.iter().find_map(|change| match &change.change {
            Change::LowRank { a, .. } => Some(a.shape().rows()),
            Change::Replace(_) => None,
        });
        let rank = rank.map(|rank| format!(" of rank {rank}")).unwrap_or_default();
        lines.push(("adapter", format!("{} matrices{rank}, not fused", adapter.changes.len())));
    }
    lines.extend(module.prompt.requires.clone().map(|r| ("requires", r)));
    lines
}

/// Parameters, a name and a value a line.
pub fn parameters(prompt: &Prompt) -> String {
    lines(&prompt.parameters)
}

/// The same of any parameters.
pub fn lines(parameters: &[(String, ParameterValue)]) -> String {
    let mut lines = String::new();
    for (name, value) in parameters {
        for text in values(value) {
            lines.push_str(&format!("{name:<30} {text}\n"));
        }
    }
    lines
}

/// The values of a parameter, texts in quotes.
pub fn values(value: &ParameterValue) -> Vec<String> {
    match value {
        ParameterValue::Strings(all) => all.iter().map(|s| format!("{s:?}")).collect(),
        ParameterValue::String(s) => vec![format!("{s:?}")],
        ParameterValue::Int(v) => vec![v.to_string()],
        ParameterValue::Float(v) => vec![v.to_string()],
        ParameterValue::Bool(v) => vec![v.to_string()],
    }
}

/// The first two lines that are not blank.
fn first_lines(text: &str) -> String {
    let mut lines = text.lines().map(str::trim).filter(|l| !l.is_empty());
    let shown: Vec<&str> = lines.by_ref().take(2).collect();
    let more = if lines.next().is_some() { "\n..." } else { "" };
    format!("{}{more}", shown.join("\n"))
}
