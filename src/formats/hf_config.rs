//! `config.json` and its like: typed values, and a memory of what was asked for.
//!
//! A getter takes one key or several names for it. `null` is as good as absent. Errors name the
//! key. After a family has read what it knows, [`Config::unread`] lists what it did not look at.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::quote::{clipped, quoted};
use super::{json, limits};
use crate::diagnostic::{Diagnostic, Result};

/// One key, or names for the same thing of which a file has one.
pub trait Keys: Copy {
    /// The names, the usual one first.
    fn names(&self) -> &[&str];
}

impl Keys for &str {
    fn names(&self) -> &[&str] {
        std::slice::from_ref(self)
    }
}

impl<const N: usize> Keys for [&str; N] {
    fn names(&self) -> &[&str] {
        self
    }
}

impl Keys for &[&str] {
    fn names(&self) -> &[&str] {
        self
    }
}

/// A JSON object of configuration.
#[derive(Debug)]
pub struct Config {
    path: PathBuf,
    /// Where the object stands in the file: `rope_scaling.`, empty for the file itself.
    prefix: String,
    object: Map<String, Value>,
    read: RefCell<BTreeSet<String>>,
}

impl Config {
    /// Parses a file's text; errors call the file `path`.
    ///
    /// # Errors
    /// The text is no JSON object, or has a key twice.
    pub fn parse(path: &Path, text: &[u8]) -> Result<Config> {
        if text.len() as u64 > limits::CONFIG {
            let message =
                format!("{} bytes of configuration; at most {} are read", text.len(), limits::CONFIG);
            return Err(Diagnostic::error(message).code("file-too-large").in_file(path, "").into());
        }
        let object = json::parse_object(path, text)?;
        Ok(Config { path: path.to_owned(), prefix: String::new(), object, read: RefCell::default() })
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// An error about a key.
    pub fn error(&self, key: &str, message: impl Into<String>) -> Diagnostic {
        let key = format!("{}{key}", self.prefix);
        Diagnostic::error(message).code("bad-config").in_file(&self.path, format!("key {}", quoted(&key)))
    }

    /// True when one of the names is there with a value that is not `null`. It does not count as read.
    pub fn has(&self, keys: impl Keys) -> bool {
        keys.names().iter().any(|key| self.object.get(*key).is_some_and(|value| !value.is_null()))
    }

    /// Counts keys as read: those that change nothing in the arithmetic.
    pub fn ignore(&self, keys: impl Keys) {
        self.read.borrow_mut().extend(keys.names().iter().map(|key| (*key).to_owned()));
    }

    /// The keys that nobody asked for and that are not `null`, in the file's order.
    pub fn unread(&self) -> Vec<&str> {
        let read = self.read.borrow();
        let values = self.object.iter().filter(|(_, value)| !value.is_null());
        values.map(|(key, _)| key.as_str()).filter(|key| !read.contains(*key)).collect()
    }

    /// The name that is there, and its value.
    fn find(&self, keys: impl Keys) -> Result<Option<(&str, &Value)>> {
        self.read.borrow_mut().extend(keys.names().iter().map(|key| (*key).to_owned()));
        let mut found: Option<(&str, &Value)> = None;
        for name in keys.names() {
            let Some((name, value)) = self.object.get_key_value(*name).filter(|(_, v)| !v.is_null()) else {
                continue;
            };
            match found {
                None => found = Some((name, value)),
                Some((_, first)) if first == value => {}
                Some((first, _)) => {
                    return Err(self
                        .error(name, format!("the value differs from {}'s", quoted(first)))
                        .into());
                }
            }
        }
        Ok(found)
    }

    fn typed<'a, T>(
        &'a self,
        keys: impl Keys,
        what: &str,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some((key, value)) = self.find(keys)? else { return Ok(None) };
        match convert(value) {
            Some(converted) => Ok(Some(converted)),
            None => Err(self.error(key, format!("must be {what}; it is {}", shown(value))).into()),
        }
    }

    fn required<T>(&self, keys: impl Keys, value: Option<T>) -> Result<T> {
        let key = keys.names().first().copied().unwrap_or_default();
        value.ok_or_else(|| self.error(key, "the key is missing").into())
    }

    /// An integer of 0 or more.
    ///
    /// # Errors
    /// The key is missing or has another type, as for every getter below.
    pub fn u64(&self, keys: impl Keys) -> Result<u64> {
        self.required(keys, self.optional_u64(keys)?)
    }

    /// An integer of 0 or more, if it is there.
    ///
    /// # Errors
    /// It has another type.
    pub fn optional_u64(&self, keys: impl Keys) -> Result<Option<u64>> {
        self.typed(keys, "an integer of 0 or more", Value::as_u64)
    }

    /// An integer, if it is there.
    ///
    /// # Errors
    /// It has another type.
    pub fn optional_i64(&self, keys: impl Keys) -> Result<Option<i64>> {
        self.typed(keys, "an integer", Value::as_i64)
    }

    /// A count or length: an integer from 1 to [`limits::CONFIG_SIZE`].
    ///
    /// # Errors
    /// The key is missing or its value is something else.
    pub fn size(&self, keys: impl Keys) -> Result<u64> {
        self.required(keys, self.optional_size(keys)?)
    }

    /// A count or length, if it is there.
    ///
    /// # Errors
    /// It is not from 1 to [`limits::CONFIG_SIZE`].
    pub fn optional_size(&self, keys: impl Keys) -> Result<Option<u64>> {
        let what = format!("an integer from 1 to {}", limits::CONFIG_SIZE);
        self.typed(keys, &what, |v| v.as_u64().filter(|n| (1..=limits::CONFIG_SIZE).contains(n)))
    }

    /// A number that float32 holds, such as an epsilon.
    ///
    /// # Errors
    /// The key is missing or its value is something else.
    pub fn f32(&self, keys: impl Keys) -> Result<f32> {
        self.required(keys, self.optional_f32(keys)?)
    }

    /// A number that float32 holds, if it is there.
    ///
    /// # Errors
    /// It has another type, or is too large for float32.
    pub fn optional_f32(&self, keys: impl Keys) -> Result<Option<f32>> {
        self.typed(keys, "a number that float32 holds", as_f32)
    }

    /// A boolean, if it is there.
    ///
    /// # Errors
    /// It has another type.
    pub fn optional_bool(&self, keys: impl Keys) -> Result<Option<bool>> {
        self.typed(keys, "true or false", Value::as_bool)
    }

    /// A string.
    ///
    /// # Errors
    /// The key is missing or has another type.
    pub fn str(&self, keys: impl Keys) -> Result<&str> {
        self.required(keys, self.optional_str(keys)?)
    }

    /// A string, if it is there.
    ///
    /// # Errors
    /// It has another type.
    pub fn optional_str(&self, keys: impl Keys) -> Result<Option<&str>> {
        self.typed(keys, "a string", Value::as_str)
    }

    /// A string that must be one of `allowed`.
    ///
    /// # Errors
    /// The key is missing, or its value is none of them.
    pub fn one_of(&self, keys: impl Keys, allowed: &[&'static str]) -> Result<&'static str> {
        self.required(keys, self.optional_one_of(keys, allowed)?)
    }

    /// A string that must be one of `allowed`, if it is there.
    ///
    /// # Errors
    /// It is none of them.
    pub fn optional_one_of(&self, keys: impl Keys, allowed: &[&'static str]) -> Result<Option<&'static str>> {
        let names: Vec<String> = allowed.iter().map(|name| format!("\"{name}\"")).collect();
        let what = match names.as_slice() {
            [only] => only.clone(),
            _ => format!("one of {}", names.join(", ")),
        };
        self.typed(keys, &what, |v| {
            let text = v.as_str()?;
            allowed.iter().copied().find(|name| *name == text)
        })
    }

    /// Strings, if they are there: a list of them, or one alone.
    ///
    /// # Errors
    /// It is something else.
    pub fn optional_strs(&self, keys: impl Keys) -> Result<Option<Vec<&str>>> {
        self.typed(keys, "a string or a list of strings", |v| match v {
            Value::String(one) => Some(vec![one.as_str()]),
            Value::Array(many) => many.iter().map(Value::as_str).collect(),
            _ => None,
        })
    }

    /// Numbers that float32 holds, if they are there.
    ///
    /// # Errors
    /// It is no list of them.
    pub fn optional_f32s(&self, keys: impl Keys) -> Result<Option<Vec<f32>>> {
        self.typed(keys, "a list of numbers that float32 holds", |v| {
            v.as_array()?.iter().map(as_f32).collect()
        })
    }

    /// Integers of 0 or more, if they are there.
    ///
    /// # Errors
    /// It is no list of them.
    pub fn optional_u64s(&self, keys: impl Keys) -> Result<Option<Vec<u64>>> {
        self.typed(keys, "a list of integers of 0 or more", |v| {
            v.as_array()?.iter().map(Value::as_u64).collect()
        })
    }

    /// Token ids, if they are there: a list of them, or one alone (`eos_token_id`).
    ///
    /// # Errors
    /// It is something else, or an id is 2^31 or more.
    pub fn optional_ids(&self, keys: impl Keys) -> Result<Option<Vec<u32>>> {
        let id = |v: &Value| v.as_u64().and_then(|n| i32::try_from(n).ok()).map(|n| n as u32);
        self.typed(keys, "a token id or a list of them", |v| match v {
            Value::Array(many) => many.iter().map(id).collect(),
            one => Some(vec![id(one)?]),
        })
    }

    /// Fails unless the key is absent or its value is one of `allowed`: for a setting of which only
    /// some values are implemented.
    ///
    /// # Errors
    /// It has another value.
    pub fn require(&self, keys: impl Keys, allowed: &[Value]) -> Result<()> {
        let Some((key, value)) = self.find(keys)? else { return Ok(()) };
        if allowed.iter().any(|other| same(other, value)) {
            return Ok(());
        }
        let names: Vec<String> = allowed.iter().map(Value::to_string).collect();
        let message = format!("the value {} is not supported; {} is", shown(value), names.join(" or "));
        Err(self.error(key, message).into())
    }

    /// The object at a key, if it is there: a configuration of its own.
    ///
    /// # Errors
    /// It is no object.
    pub fn section(&self, keys: impl Keys) -> Result<Option<Config>> {
        let Some((key, _)) = self.find(keys)? else { return Ok(None) };
        let object = self.typed(keys, "an object", Value::as_object)?;
        Ok(object.map(|object| Config {
            path: self.path.clone(),
            prefix: format!("{}{key}.", self.prefix),
            object: object.clone(),
            read: RefCell::default(),
        }))
    }

    /// The object that says how RoPE is scaled: `rope_parameters`, as new files have it, or
    /// `rope_scaling`.
    ///
    /// # Errors
    /// It is no object, or both are there and differ.
    pub fn rope_scaling(&self) -> Result<Option<Config>> {
        self.section(["rope_parameters", "rope_scaling"])
    }

    /// `rope_theta`, which new files have within `rope_parameters`.
    ///
    /// # Errors
    /// It is no positive number that float32 holds, or is there twice with two values.
    pub fn optional_rope_theta(&self) -> Result<Option<f32>> {
        let outer = self.optional_f32("rope_theta")?;
        let inner = match self.object.get("rope_parameters") {
            Some(Value::Object(_)) => match self.section("rope_parameters")? {
                Some(section) => section.optional_f32("rope_theta")?,
                None => None,
            },
            _ => None,
        };
        if outer.is_some() && inner.is_some() && outer != inner {
            return Err(self
                .error("rope_theta", "the value differs from `rope_parameters.rope_theta`")
                .into());
        }
        match outer.or(inner) {
            Some(theta) if theta <= 0.0 => Err(self.error("rope_theta", "must be more than 0").into()),
            theta => Ok(theta),
        }
    }

    /// The members of the object, in the file's order: for a map whose keys are data.
    pub fn members(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.object.iter().map(|(key, value)| (key.as_str(), value))
    }
}

fn as_f32(value: &Value) -> Option<f32> {
    let narrow = value.as_f64()? as f32;
    narrow.is_finite().then_some(narrow)
}

/// Equality that takes 1 and 1.0 for the same.
fn same(left: &Value, right: &Value) -> bool {
    left == right || (left.is_number() && left.as_f64() == right.as_f64())
}

/// A value as a message shows it.
fn shown(value: &Value) -> String {
    clipped(&value.to_string(), 80)
}
