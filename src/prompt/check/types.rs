//! What a TEMPLATE is given, as types: `super::super::go_values` makes the values.

/// A type, as far as it is known before there is a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// Anything: a tool's arguments, a value of a schema.
    Any,
    /// A string.
    Text,
    /// `true` or `false`.
    Bool,
    /// An integer or a float.
    Number,
    /// Elements of one type.
    List(&'static Type),
    /// Elements of one type, by names that are not known.
    Map(&'static Type),
    /// Fields that are known.
    Record(&'static Record),
}

/// A thing with fields.
#[derive(Debug)]
pub struct Record {
    /// What a person calls it: `a message`.
    pub name: &'static str,
    /// Its fields.
    pub fields: &'static [(&'static str, Type)],
    /// Methods without arguments; they return text.
    pub methods: &'static [&'static str],
}

impl PartialEq for Record {
    fn eq(&self, other: &Record) -> bool {
        self.name == other.name
    }
}

impl Eq for Record {}

impl Type {
    /// What a person calls a value of it.
    pub fn name(self) -> &'static str {
        match self {
            Type::Any => "a value",
            Type::Text => "text",
            Type::Bool => "true or false",
            Type::Number => "a number",
            Type::List(_) => "a list",
            Type::Map(_) => "a map",
            Type::Record(record) => record.name,
        }
    }

    /// True when `eq` compares it.
    pub fn is_basic(self) -> bool {
        matches!(self, Type::Text | Type::Bool | Type::Number)
    }
}

/// What `.` and `$` are at the start.
pub static VARIABLES: Record = Record {
    name: "the template",
    fields: &[
        ("System", Type::Text),
        ("Messages", Type::List(&Type::Record(&MESSAGE))),
        ("Tools", Type::List(&Type::Record(&TOOL))),
        ("Prompt", Type::Text),
        ("Response", Type::Text),
        ("Suffix", Type::Text),
        ("Think", Type::Bool),
        ("ThinkLevel", Type::Text),
        ("IsThinkSet", Type::Bool),
    ],
    methods: &[],
};

static MESSAGE: Record = Record {
    name: "a message",
    fields: &[
        ("Role", Type::Text),
        ("Content", Type::Text),
        ("Thinking", Type::Text),
        ("Images", Type::List(&Type::Any)),
        ("ToolCalls", Type::List(&Type::Record(&TOOL_CALL))),
        ("ToolName", Type::Text),
        ("ToolCallID", Type::Text),
    ],
    methods: &[],
};

static TOOL_CALL: Record = Record {
    name: "a tool call",
    fields: &[("ID", Type::Text), ("Function", Type::Record(&CALLED_FUNCTION))],
    methods: PRINTS,
};

static CALLED_FUNCTION: Record = Record {
    name: "the function of a tool call",
    fields: &[("Index", Type::Number), ("Name", Type::Text), ("Arguments", Type::Map(&Type::Any))],
    methods: PRINTS,
};

static TOOL: Record = Record {
    name: "a tool",
    fields: &[("Type", Type::Text), ("Items", Type::Any), ("Function", Type::Record(&TOOL_FUNCTION))],
    methods: PRINTS,
};

static TOOL_FUNCTION: Record = Record {
    name: "the function of a tool",
    fields: &[("Name", Type::Text), ("Description", Type::Text), ("Parameters", Type::Record(&PARAMETERS))],
    methods: PRINTS,
};

static PARAMETERS: Record = Record {
    name: "the schema of a tool",
    fields: &[
        ("Type", Type::Text),
        ("Defs", Type::Any),
        ("Items", Type::Any),
        ("Required", Type::List(&Type::Text)),
        ("Properties", Type::Map(&Type::Record(&PROPERTY))),
    ],
    methods: PRINTS,
};

static PROPERTY: Record = Record {
    name: "a property of a tool",
    fields: &[
        ("AnyOf", Type::List(&Type::Record(&PROPERTY))),
        ("Type", Type::List(&Type::Text)),
        ("Items", Type::Any),
        ("Description", Type::Text),
        ("Enum", Type::List(&Type::Any)),
        ("Properties", Type::Map(&Type::Record(&PROPERTY))),
        ("Required", Type::List(&Type::Text)),
    ],
    methods: &["String", "ToTypeScriptType"],
};

/// What prints as JSON has this method.
const PRINTS: &[&str] = &["String"];
