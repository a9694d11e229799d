//! Writes a file front to back, as its [`Layout`] says.

use std::io::{self, Write};

use super::Layout;

/// Writes the tensors' bytes in order, in pieces of any size, and the padding between them.
#[derive(Debug)]
pub struct GgufWriter<W: Write> {
    out: W,
    layout: Layout,
    /// The tensor that the next byte belongs to.
    tensor: usize,
    /// Bytes of it that are written.
    written: u64,
}

impl<W: Write> GgufWriter<W> {
    /// Writes the header.
    ///
    /// # Errors
    /// `out` fails.
    pub fn new(mut out: W, layout: Layout) -> io::Result<GgufWriter<W>> {
        out.write_all(layout.header())?;
        Ok(GgufWriter { out, layout, tensor: 0, written: 0 })
    }

    /// The index of the tensor that the next byte belongs to.
    pub fn tensor(&self) -> usize {
        self.tensor
    }

    /// Writes the next bytes of the current tensor, and its padding after the last of them.
    ///
    /// # Errors
    /// `out` fails; or `bytes` go beyond the tensor's end (`InvalidInput`, nothing is written).
    pub fn write_data(&mut self, bytes: &[u8]) -> io::Result<()> {
        let invalid = |message: String| Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        let Some(tensor) = self.layout.tensors().get(self.tensor) else {
            return invalid("every tensor is written already".to_owned());
        };
        let left = tensor.len - self.written;
        if bytes.len() as u64 > left {
            return invalid(format!(
                "{} bytes for tensor `{}`, which has room for {left}",
                bytes.len(),
                tensor.name
            ));
        }
        self.out.write_all(bytes)?;
        self.written += bytes.len() as u64;
        if self.written == tensor.len {
            let end = tensor.offset + tensor.len;
            let next =
                self.layout.tensors().get(self.tensor + 1).map_or(self.layout.total_len(), |t| t.offset);
            io::copy(&mut io::Read::take(io::repeat(0), next - end), &mut self.out)?;
            self.tensor += 1;
            self.written = 0;
        }
        Ok(())
    }

    /// Flushes and gives `out` back.
    ///
    /// # Errors
    /// `out` fails; or a tensor's bytes are missing (`InvalidInput`).
    pub fn finish(mut self) -> io::Result<W> {
        if let Some(tensor) = self.layout.tensors().get(self.tensor) {
            let message =
                format!("tensor `{}` has {} of its {} bytes", tensor.name, self.written, tensor.len);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        self.out.flush()?;
        Ok(self.out)
    }
}

#[cfg(test)]
mod tests {
    use mdl_kernels::TensorType;

    use super::*;
    use crate::ir::{Metadata, Shape};

    fn layout() -> Layout {
        let tensors = vec![
            ("a".to_owned(), Shape(vec![3]), TensorType::F32),
            ("b".to_owned(), Shape(vec![2]), TensorType::F16),
        ];
        Layout::new(&Metadata::default(), tensors).unwrap()
    }

    #[test]
    fn pieces_and_padding_make_the_planned_file() {
        let layout = layout();
        let mut writer = GgufWriter::new(Vec::new(), layout.clone()).unwrap();
        for byte in 1..=12 {
            writer.write_data(&[byte]).unwrap();
        }
        assert_eq!(writer.tensor(), 1);
        writer.write_data(&[20, 21, 22, 23]).unwrap();
        let bytes = writer.finish().unwrap();
        assert_eq!(bytes.len() as u64, layout.total_len());
        let data = &bytes[layout.data_offset() as usize..];
        assert_eq!(data[..12], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
        assert_eq!(data[12..32], [0; 20]);
        assert_eq!(data[32..36], [20, 21, 22, 23]);
        assert_eq!(data[36..], [0; 28]);
    }

    #[test]
    fn too_few_and_too_many_bytes_are_errors() {
        let mut writer = GgufWriter::new(Vec::new(), layout()).unwrap();
        assert!(writer.write_data(&[0; 13]).is_err());
        writer.write_data(&[0; 12]).unwrap();
        writer.write_data(&[0; 3]).unwrap();
        assert!(writer.finish().is_err());

        let mut writer = GgufWriter::new(Vec::new(), layout()).unwrap();
        writer.write_data(&[0; 12]).unwrap();
        writer.write_data(&[0; 4]).unwrap();
        assert!(writer.write_data(&[0]).is_err());
        assert!(writer.finish().is_ok());
    }
}
