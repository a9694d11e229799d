//! The values a template works on, typed as Go would have them.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::diagnostic::{Diagnostic, Result};

/// A value. Cloning is cheap.
#[derive(Clone, Debug)]
pub enum Value {
    /// No value at all: a missing key, `nil`.
    Nil,
    /// A nil that an element of a map or list holds. Unlike [`Value::Nil`] it has no fields.
    Null,
    /// `bool`.
    Bool(bool),
    /// Any integer type.
    Int(i64),
    /// `float64`.
    Float(f64),
    /// `string`.
    String(Arc<str>),
    /// A slice.
    List(Arc<List>),
    /// A map with string keys, sorted as Go prints and visits them.
    Map(Arc<Map>),
    /// A struct.
    Struct(Arc<Struct>),
}

/// How `{{.X}}` and `print` show a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Display {
    /// As Go's fmt does: `[a b]`, `map[k:v]`, `{a b}`.
    Go,
    /// As JSON.
    Json,
    /// A list of one as its element, printed and in JSON (`"type": "string"` of a JSON schema).
    OneOrMany,
}

/// A slice.
#[derive(Debug)]
pub struct List {
    /// The elements.
    pub items: Vec<Value>,
    /// How it prints.
    pub display: Display,
}

/// A map.
#[derive(Debug)]
pub struct Map {
    /// The elements by key.
    pub entries: BTreeMap<String, Value>,
    /// How it prints.
    pub display: Display,
}

/// A struct type: what its fields are called.
#[derive(Debug)]
pub struct StructType {
    /// The name in error messages.
    pub name: &'static str,
    /// The fields, in order.
    pub fields: &'static [FieldType],
    /// How it prints.
    pub display: Display,
}

/// A field of a struct type.
#[derive(Debug)]
pub struct FieldType {
    /// As templates spell it.
    pub name: &'static str,
    /// As JSON spells it.
    pub json: &'static str,
    /// True when JSON leaves it out while it is empty.
    pub omit_empty: bool,
}

/// A struct.
#[derive(Debug)]
pub struct Struct {
    /// Its type.
    pub kind: &'static StructType,
    /// One value per field of the type.
    pub fields: Vec<Value>,
}

impl Struct {
    /// The value of a field.
    pub fn field(&self, name: &str) -> Option<&Value> {
        let i = self.kind.fields.iter().position(|f| f.name == name)?;
        self.fields.get(i)
    }
}

impl Value {
    /// A list that prints as Go prints one.
    pub fn list(items: Vec<Value>) -> Value {
        Value::list_as(items, Display::Go)
    }

    /// A list.
    pub fn list_as(items: Vec<Value>, display: Display) -> Value {
        Value::List(Arc::new(List { items, display }))
    }

    /// A map that prints as Go prints one.
    pub fn map(entries: impl IntoIterator<Item = (String, Value)>) -> Value {
        Value::map_as(entries, Display::Go)
    }

    /// A map.
    pub fn map_as(entries: impl IntoIterator<Item = (String, Value)>, display: Display) -> Value {
        Value::Map(Arc::new(Map { entries: entries.into_iter().collect(), display }))
    }

    /// A struct; `fields` are in the type's order.
    pub fn structure(kind: &'static StructType, fields: Vec<Value>) -> Value {
        Value::Struct(Arc::new(Struct { kind, fields }))
    }

    /// JSON as Go decodes it into `any`: numbers become float64, except integers that float64
    /// cannot hold.
    ///
    /// # Errors
    /// The value is nested deeper than `nesting`.
    pub fn from_json(json: &serde_json::Value, nesting: usize) -> Result<Value> {
        use serde_json::Value as Json;
        let below = || -> Result<usize> {
            nesting.checked_sub(1).ok_or_else(|| {
                Diagnostic::error("a value given to the template is nested too deeply")
                    .code("template-budget")
                    .into()
            })
        };
        Ok(match json {
            Json::Null => Value::Null,
            Json::Bool(b) => Value::Bool(*b),
            Json::Number(n) => match (n.as_i64(), n.as_f64()) {
                (Some(i), Some(f)) if f as i64 == i && f.abs() < (1_u64 << 53) as f64 => Value::Float(f),
                (Some(i), _) => Value::Int(i),
                (None, f) => Value::Float(f.unwrap_or(f64::NAN)),
            },
            Json::String(s) => Value::from(s.as_str()),
            Json::Array(items) => {
                let below = below()?;
                Value::list(items.iter().map(|v| Value::from_json(v, below)).collect::<Result<_>>()?)
            }
            Json::Object(entries) => {
                let below = below()?;
                let entries = entries.iter().map(|(k, v)| Ok((k.clone(), Value::from_json(v, below)?)));
                Value::map(entries.collect::<Result<BTreeMap<_, _>>>()?)
            }
        })
    }

    /// The truth of a value: false, zero, nil and what is empty are false.
    pub fn is_true(&self) -> bool {
        match self {
            Value::Nil | Value::Null => false,
            Value::Bool(b) => *b,
            Value::Int(i) => *i != 0,
            Value::Float(f) => *f != 0.0,
            Value::String(s) => !s.is_empty(),
            Value::List(list) => !list.items.is_empty(),
            Value::Map(map) => !map.entries.is_empty(),
            Value::Struct(_) => true,
        }
    }

    /// True for both kinds of nil.
    pub fn is_nil(&self) -> bool {
        matches!(self, Value::Nil | Value::Null)
    }

    /// The type's name as Go spells it.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::Nil | Value::Null => "nil",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Float(_) => "float64",
            Value::String(_) => "string",
            Value::List(_) => "[]interface {}",
            Value::Map(_) => "map[string]interface {}",
            Value::Struct(s) => s.kind.name,
        }
    }

    /// How it prints, where it says so itself.
    pub fn display(&self) -> Display {
        match self {
            Value::List(list) => list.display,
            Value::Map(map) => map.display,
            Value::Struct(s) => s.kind.display,
            _ => Display::Go,
        }
    }
}

impl From<&str> for Value {
    fn from(s: &str) -> Value {
        Value::String(s.into())
    }
}

impl From<String> for Value {
    fn from(s: String) -> Value {
        Value::String(s.into())
    }
}

impl From<bool> for Value {
    fn from(b: bool) -> Value {
        Value::Bool(b)
    }
}
