//! The machine: instructions in, one value out.

use std::collections::HashMap;
use std::path::Path;

use mdl_kernels::TensorType;

use super::super::with_conversion;
use super::globals::Global;
use super::{Id, PickledTensor, Value};
use crate::diagnostic::{Diagnostic, Result};
use crate::formats::limits;
use crate::formats::quote::quoted;

/// A stack of values and what was remembered of it.
pub(super) struct Machine<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    /// The next byte.
    at: usize,
    /// The first byte of the instruction.
    instruction: usize,
    values: Vec<Value<'a>>,
    stack: Vec<Id>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
    /// Tensors made: each takes more memory than its instruction.
    made: u64,
}

impl<'a> Machine<'a> {
    /// At the start of a pickle, which errors say is in the file `path`.
    pub(super) fn new(path: &'a Path, bytes: &'a [u8]) -> Machine<'a> {
        Machine {
            path,
            bytes,
            at: 0,
            instruction: 0,
            values: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            made: 0,
        }
    }

    fn error(&self, message: impl Into<String>) -> Diagnostic {
        Diagnostic::error(message)
            .code("bad-pickle")
            .in_file(self.path, format!("data.pkl, byte {}", self.instruction))
    }

    /// The pickle is none that PyTorch writes for tensors: what to do about it.
    fn foreign(&self, message: impl Into<String>) -> Diagnostic {
        with_conversion(self.error(message), self.path)
    }

    fn take(&mut self, len: u64) -> Result<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        let taken = usize::try_from(len).ok().and_then(|len| rest.get(..len)).ok_or_else(|| {
            let message = format!("{len} bytes are needed here, {} are left", rest.len());
            self.error(message).help("the file is damaged; fetch it again")
        })?;
        self.at += taken.len();
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N as u64)?);
        Ok(bytes)
    }

    fn u8(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn text(&mut self, len: u64) -> Result<&'a str> {
        let bytes = self.take(len)?;
        std::str::from_utf8(bytes).map_err(|_| self.error("a text is not valid UTF-8").into())
    }

    /// Up to the end of the line, which is taken as well.
    fn line(&mut self) -> Result<&'a str> {
        let rest = &self.bytes[self.at..];
        let len = rest.iter().take(limits::PICKLE_NAME + 1).position(|b| *b == b'\n');
        let len = len.ok_or_else(|| self.error("a name without an end"))?;
        let line = self.text(len as u64)?;
        self.at += 1;
        Ok(line)
    }

    fn push(&mut self, value: Value<'a>) -> Result<()> {
        if self.values.len() >= limits::PICKLE_VALUES {
            let message = format!("more than {} values", limits::PICKLE_VALUES);
            return Err(self.error(message).code("pickle-too-large").into());
        }
        self.stack.push(self.values.len() as Id);
        self.values.push(value);
        Ok(())
    }

    /// Takes what lies above the last mark, or above nothing.
    fn pop(&mut self) -> Result<Id> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err(self.error("the stack is empty").into());
        }
        self.stack.pop().ok_or_else(|| self.error("the stack is empty").into())
    }

    fn top(&self) -> Result<Id> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let top = self.stack.get(floor..).and_then(|above| above.last());
        top.copied().ok_or_else(|| self.error("the stack is empty").into())
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>> {
        let mark = self.marks.pop().ok_or_else(|| self.error("there is no mark"))?;
        Ok(self.stack.split_off(mark))
    }

    /// The value with this number.
    pub(super) fn value(&self, id: Id) -> &Value<'a> {
        // Every id is the index of a value that was pushed.
        &self.values[id as usize]
    }

    /// Runs to the end, and gives the value that is left.
    pub(super) fn run(&mut self) -> Result<Id> {
        loop {
            self.instruction = self.at;
            match self.u8()? {
                b'.' => break self.pop(),
                instruction => self.step(instruction)?,
            }
        }
    }

    fn step(&mut self, instruction: u8) -> Result<()> {
        match instruction {
            // PROTO, FRAME: nothing depends on them.
            0x80 => match self.u8()? {
                2..=5 => Ok(()),
                version => Err(self.error(format!("version {version} of pickles is not read")).into()),
            },
            0x95 => self.array::<8>().map(drop),
            b'(' => {
                self.marks.push(self.stack.len());
                Ok(())
            }
            b'0' => self.pop().map(drop),
            b'1' => self.pop_to_mark().map(drop),
            b'N' | 0x88 | 0x89 => self.push(Value::Other),
            b'J' => {
                let value = i32::from_le_bytes(self.array()?);
                self.push(Value::Int(i64::from(value)))
            }
            b'K' => {
                let value = self.u8()?;
                self.push(Value::Int(i64::from(value)))
            }
            b'M' => {
                let value = u16::from_le_bytes(self.array()?);
                self.push(Value::Int(i64::from(value)))
            }
            0x8a => {
                let len = self.u8()?;
                let bytes = self.take(u64::from(len))?;
                self.push(long(bytes).map_or(Value::Other, Value::Int))
            }
            b'G' => {
                self.array::<8>()?;
                self.push(Value::Other)
            }
            0x8c => {
                let len = u64::from(self.u8()?);
                self.push_text(len)
            }
            b'X' => {
                let len = u64::from(self.u32()?);
                self.push_text(len)
            }
            0x8d => {
                let len = u64::from_le_bytes(self.array()?);
                self.push_text(len)
            }
            // Bytes, and the strings of Python 2.
            b'U' | b'C' => {
                let len = u64::from(self.u8()?);
                self.push_bytes(instruction == b'U', len)
            }
            b'T' | b'B' => {
                let len = u64::from(self.u32()?);
                self.push_bytes(instruction == b'T', len)
            }
            0x8e => {
                let len = u64::from_le_bytes(self.array()?);
                self.push_bytes(false, len)
            }
            b')' => self.push(Value::Tuple(Box::default())),
            b't' => {
                let items = self.pop_to_mark()?;
                self.push(Value::Tuple(items.into()))
            }
            0x85..=0x87 => {
                let len = usize::from(instruction - 0x84);
                let mut items = vec![0; len];
                for item in items.iter_mut().rev() {
                    *item = self.pop()?;
                }
                self.push(Value::Tuple(items.into()))
            }
            b']' => self.push(Value::List(Vec::new())),
            b'l' => {
                let items = self.pop_to_mark()?;
                self.push(Value::List(items))
            }
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])
            }
            b'e' => {
                let items = self.pop_to_mark()?;
                self.append(items)
            }
            b'}' => self.push(Value::Dict(Vec::new())),
            b'd' => {
                let items = self.pop_to_mark()?;
                self.push(Value::Dict(Vec::new()))?;
                self.set(items)
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set(vec![key, value])
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                self.set(items)
            }
            b'q' => {
                let place = u32::from(self.u8()?);
                self.remember(place)
            }
            b'r' => {
                let place = self.u32()?;
                self.remember(place)
            }
            0x94 => self.remember(self.memo.len() as u32),
            b'h' => {
                let place = u32::from(self.u8()?);
                self.recall(place)
            }
            b'j' => {
                let place = self.u32()?;
                self.recall(place)
            }
            b'c' => {
                let module = self.line()?;
                let name = self.line()?;
                self.global(module, name)
            }
            0x93 => {
                let name = self.pop()?;
                let module = self.pop()?;
                match (self.value(module), self.value(name)) {
                    (Value::Text(module), Value::Text(name)) => self.global(module, name),
                    _ => Err(self.error("a name that is no text").into()),
                }
            }
            b'R' => self.reduce(),
            b'Q' => self.persistent(),
            // BUILD: attributes of a state dict (`_metadata`), which say nothing of its tensors.
            b'b' => {
                self.pop()?;
                match self.value(self.top()?) {
                    Value::Dict(_) => Ok(()),
                    other => {
                        let message = format!("{} with attributes is no part of a state dict", other.kind());
                        Err(self.foreign(message).into())
                    }
                }
            }
            other => {
                let message = format!("the instruction {other:#04x} is no part of a state dict");
                Err(self.foreign(message).into())
            }
        }
    }

    fn push_text(&mut self, len: u64) -> Result<()> {
        let text = self.text(len)?;
        self.push(Value::Text(text))
    }

    fn push_bytes(&mut self, text: bool, len: u64) -> Result<()> {
        let bytes = self.take(len)?;
        let text = std::str::from_utf8(bytes).ok().filter(|_| text);
        self.push(text.map_or(Value::Other, Value::Text))
    }

    fn append(&mut self, items: Vec<Id>) -> Result<()> {
        let list = self.top()?;
        match &mut self.values[list as usize] {
            Value::List(list) => {
                list.extend(items);
                Ok(())
            }
            other => {
                let kind = other.kind();
                Err(self.error(format!("{kind} is no list")).into())
            }
        }
    }

    /// Sets keys and values, one after the other, in the dictionary on top.
    fn set(&mut self, items: Vec<Id>) -> Result<()> {
        let (pairs, rest) = items.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(self.error("a key without a value").into());
        }
        let dict = self.top()?;
        match &mut self.values[dict as usize] {
            Value::Dict(dict) => {
                dict.extend(pairs.iter().map(|[key, value]| (*key, *value)));
                Ok(())
            }
            other => {
                let kind = other.kind();
                Err(self.error(format!("{kind} is no dictionary")).into())
            }
        }
    }

    fn remember(&mut self, place: u32) -> Result<()> {
        let top = self.top()?;
        self.memo.insert(place, top);
        Ok(())
    }

    /// Puts a value on the stack that is there already.
    fn again(&mut self, id: Id) -> Result<()> {
        self.stack.push(id);
        Ok(())
    }

    fn recall(&mut self, place: u32) -> Result<()> {
        let id = self.memo.get(&place).copied();
        self.again(id.ok_or_else(|| self.error(format!("nothing was remembered as {place}")))?)
    }

    fn global(&mut self, module: &str, name: &str) -> Result<()> {
        match Global::named(module, name) {
            Some(global) => self.push(Value::Global(global)),
            None => {
                let full = quoted(&format!("{module}.{name}"));
                let message = format!("the pickle names {full}, which is no part of a state dict");
                Err(self.foreign(message).code("pickle-global").into())
            }
        }
    }

    /// What a call would give, for the few things that are called.
    fn reduce(&mut self) -> Result<()> {
        let arguments = self.pop()?;
        let callable = self.pop()?;
        let &Value::Global(global) = self.value(callable) else {
            let message = format!("{} is called", self.value(callable).kind());
            return Err(self.foreign(message).into());
        };
        let Value::Tuple(arguments) = self.value(arguments) else {
            return Err(self.error("arguments that are no tuple").into());
        };
        let made = matches!(global, Global::RebuildTensor | Global::RebuildTyped);
        if made && self.made == limits::TENSORS {
            let message = format!("more than {} tensors", limits::TENSORS);
            return Err(self.error(message).code("pickle-too-large").into());
        }
        let value = match (global, &**arguments) {
            (Global::OrderedDict, []) => Value::Dict(Vec::new()),
            (Global::Size, [size]) => match self.value(*size) {
                Value::Tuple(parts) if parts.len() <= limits::SAFETENSORS_RANK => return self.again(*size),
                _ => return Err(self.error("a size that is no short tuple").into()),
            },
            (Global::RebuildTensor, [storage, offset, size, stride, ..]) => {
                self.tensor(None, [*storage, *offset, *size, *stride])?
            }
            (Global::RebuildTyped, [storage, offset, size, stride, _, _, dtype, ..]) => {
                let &Value::Global(Global::Dtype(dtype)) = self.value(*dtype) else {
                    return Err(self.error("a tensor without a type").into());
                };
                self.tensor(Some(dtype), [*storage, *offset, *size, *stride])?
            }
            (Global::RebuildParameter, [tensor, ..]) => match self.value(*tensor) {
                Value::Tensor(_) => return self.again(*tensor),
                _ => return Err(self.error("a parameter that is no tensor").into()),
            },
            _ => return Err(self.foreign("a call that no state dict has").into()),
        };
        self.made += u64::from(made);
        self.push(value)
    }

    /// `("storage", class, key, device, count)`, which PyTorch keeps outside of the pickle.
    fn persistent(&mut self) -> Result<()> {
        let id = self.pop()?;
        let Value::Tuple(parts) = self.value(id) else {
            return Err(self.error("a reference that is no tuple").into());
        };
        let &[word, class, key, _, count, ..] = &**parts else {
            return Err(self.error("a reference to a storage has five parts").into());
        };
        let (&Value::Text("storage"), &Value::Global(class), &Value::Text(key), &Value::Int(count)) =
            (self.value(word), self.value(class), self.value(key), self.value(count))
        else {
            return Err(self.error("a reference that is no storage's").into());
        };
        let dtype = match class {
            Global::Storage(dtype) => Some(dtype),
            Global::UntypedStorage => None,
            _ => return Err(self.error("a storage of no known class").into()),
        };
        let count = u64::try_from(count).map_err(|_| self.error("a storage of negative length"))?;
        if key.len() > limits::PICKLE_NAME {
            return Err(self.error(format!("a storage's name of {} bytes", key.len())).into());
        }
        self.push(Value::Storage { dtype, key, count })
    }

    fn tensor(&self, typed: Option<TensorType>, arguments: [Id; 4]) -> Result<Value<'a>> {
        let [storage, offset, size, stride] = arguments.map(|id| self.value(id));
        let &Value::Storage { dtype: stored, key, count } = storage else {
            return Err(self.error("a tensor without a storage").into());
        };
        let dtype = typed.or(stored).ok_or_else(|| self.error("a tensor without a type"))?;
        let unit = stored.map_or(1, |dtype| dtype.block_bytes() as u64);
        let storage_len = count.checked_mul(unit);
        Ok(Value::Tensor(Box::new(PickledTensor {
            storage: key.to_owned(),
            storage_len: storage_len.ok_or_else(|| self.error("the size of a storage overflows"))?,
            dtype,
            offset: self.natural(offset)?,
            shape: self.naturals(size)?,
            strides: self.naturals(stride)?,
        })))
    }

    fn natural(&self, value: &Value<'a>) -> Result<u64> {
        match value {
            Value::Int(n) if *n >= 0 => Ok(*n as u64),
            Value::Int(n) => Err(self.error(format!("{n} is negative")).into()),
            other => Err(self.error(format!("{} is no number", other.kind())).into()),
        }
    }

    fn naturals(&self, value: &Value<'a>) -> Result<Vec<u64>> {
        match value {
            Value::Tuple(items) if items.len() <= limits::SAFETENSORS_RANK => {
                items.iter().map(|item| self.natural(self.value(*item))).collect()
            }
            Value::Tuple(items) => {
                let most = limits::SAFETENSORS_RANK;
                Err(self.error(format!("{} dimensions; at most {most}", items.len())).into())
            }
            other => Err(self.error(format!("{} is no shape", other.kind())).into()),
        }
    }
}

/// A little-endian integer in two's complement of any length; `None` where it does not fit.
fn long(bytes: &[u8]) -> Option<i64> {
    let mut eight = match bytes.last() {
        Some(last) if last & 0x80 != 0 => [0xff; 8],
        _ => [0; 8],
    };
    eight.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(i64::from_le_bytes(eight))
}
