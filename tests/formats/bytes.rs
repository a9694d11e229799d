//! Builds files byte by byte, right or wrong.

use std::io;
use std::sync::Arc;

use mdl::world::File;

/// The first `len` bytes of a file.
pub struct Cut {
    pub bytes: Arc<[u8]>,
    pub len: usize,
}

impl File for Cut {
    fn stamp(&self) -> std::io::Result<mdl::world::Stamp> {
        self.bytes.stamp()
    }

    fn len(&self) -> u64 {
        self.len as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64).filter(|end| *end <= self.len as u64);
        end.ok_or(io::ErrorKind::UnexpectedEof)?;
        self.bytes.read_at(offset, buf)
    }
}

/// A file in the making.
#[derive(Clone, Default)]
pub struct Raw(pub Vec<u8>);

impl Raw {
    /// Magic, version 3 and the two counts.
    pub fn gguf(tensors: u64, keys: u64) -> Raw {
        Raw::default().raw(b"GGUF").u32(3).u64(tensors).u64(keys)
    }

    pub fn raw(mut self, bytes: &[u8]) -> Raw {
        self.0.extend(bytes);
        self
    }

    pub fn u8(self, v: u8) -> Raw {
        self.raw(&[v])
    }

    pub fn u32(self, v: u32) -> Raw {
        self.raw(&v.to_le_bytes())
    }

    pub fn u64(self, v: u64) -> Raw {
        self.raw(&v.to_le_bytes())
    }

    pub fn f32(self, v: f32) -> Raw {
        self.raw(&v.to_le_bytes())
    }

    /// A length and the text.
    pub fn text(self, text: impl AsRef<[u8]>) -> Raw {
        self.u64(text.as_ref().len() as u64).raw(text.as_ref())
    }

    /// A key and the number of its value's type.
    pub fn key(self, key: impl AsRef<[u8]>, value_type: u32) -> Raw {
        self.text(key).u32(value_type)
    }

    /// A tensor's entry; dimensions innermost first.
    pub fn tensor(self, name: impl AsRef<[u8]>, ne: &[u64], dtype: u32, offset: u64) -> Raw {
        let raw = self.text(name).u32(ne.len() as u32);
        ne.iter().fold(raw, |raw, d| raw.u64(*d)).u32(dtype).u64(offset)
    }

    pub fn pad(mut self, alignment: usize) -> Raw {
        self.0.resize(self.0.len().next_multiple_of(alignment), 0);
        self
    }

    pub fn zeros(mut self, n: usize) -> Raw {
        self.0.resize(self.0.len() + n, 0);
        self
    }

    pub fn file(self) -> Arc<[u8]> {
        self.0.into()
    }
}

/// A Safetensors file: this header, then this many bytes.
pub fn safetensors(header: &str, data: usize) -> Vec<u8> {
    Raw::default().text(header).zeros(data).0
}

/// A Safetensors file of F32 tensors that lie one after the other.
pub fn f32_safetensors(tensors: &[(&str, &[u64])]) -> Vec<u8> {
    typed_safetensors("F32", 4, tensors)
}

/// A Safetensors file of tensors of one type.
pub fn typed_safetensors(dtype: &str, width: u64, tensors: &[(&str, &[u64])]) -> Vec<u8> {
    let mut end = 0;
    let mut entries = Vec::new();
    for (name, shape) in tensors {
        let begin = end;
        end += shape.iter().product::<u64>() * width;
        entries.push(format!(
            r#""{name}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{begin},{end}]}}"#
        ));
    }
    safetensors(&format!("{{{}}}", entries.join(",")), end as usize)
}
