//! What a model brings besides weights: how to speak to it, and under which license.

/// Who says a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Role {
    System,
    User,
    Assistant,
    Tool,
}

impl Role {
    /// The role's name, as templates and the API spell it.
    pub fn name(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
        }
    }

    /// The role with this name, spelled exactly.
    pub fn from_name(name: &str) -> Option<Role> {
        [Role::System, Role::User, Role::Assistant, Role::Tool].into_iter().find(|r| r.name() == name)
    }
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who says it.
    pub role: Role,
    /// What.
    pub content: String,
}

/// A PARAMETER's value, of the type its table entry has.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum ParameterValue {
    Int(i64),
    Float(f32),
    Bool(bool),
    String(String),
    /// `stop`: each occurrence adds one.
    Strings(Vec<String>),
}

/// Everything of a Modelfile that is neither weights nor where they come from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prompt {
    /// TEMPLATE, a Go template.
    pub template: Option<String>,
    /// SYSTEM.
    pub system: Option<String>,
    /// MESSAGE, in order.
    pub messages: Vec<Message>,
    /// PARAMETER, in order of first appearance; a name is there once.
    pub parameters: Vec<(String, ParameterValue)>,
    /// LICENSE, in order.
    pub licenses: Vec<String>,
    /// RENDERER: a built-in prompt renderer, instead of a template.
    pub renderer: Option<String>,
    /// PARSER: a built-in output parser.
    pub parser: Option<String>,
    /// REQUIRES: the least version that can run the model, without a leading `v`.
    pub requires: Option<String>,
}

impl Prompt {
    /// The value of a parameter.
    pub fn parameter(&self, name: &str) -> Option<&ParameterValue> {
        self.parameters.iter().find(|(n, _)| n == name).map(|(_, v)| v)
    }
}
