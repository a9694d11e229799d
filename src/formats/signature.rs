//! What a file is, by its first bytes: so that the wrong kind of file gets a helpful answer.

const NO_PICKLE: &str =
    "save the model with `safe_serialization=True`, or take the repository's .safetensors files";

const PYTORCH: &str =
    "a model's directory is named as a whole: its pytorch_model.bin is read with config.json beside it";

/// How a ZIP archive begins, such as one of PyTorch's.
pub(crate) const ZIP: &[u8; 4] = b"PK\x03\x04";

/// Kinds of file that are often found where a model is expected: first bytes, name, what to do.
const SIGNATURES: &[(&[u8], &str, &str)] = &[
    (b"GGUF", "a GGUF file", "name it with FROM or ADAPTER directly, as a .gguf file"),
    (ZIP, "a ZIP archive, such as PyTorch's files are", PYTORCH),
    (b"\x80\x02", "a Python pickle: a program, not data", NO_PICKLE),
    (b"\x80\x03", "a Python pickle: a program, not data", NO_PICKLE),
    (b"\x80\x04", "a Python pickle: a program, not data", NO_PICKLE),
    (b"\x80\x05", "a Python pickle: a program, not data", NO_PICKLE),
    (
        b"version https://git-lfs",
        "a Git LFS pointer, not the file it stands for",
        "run `git lfs pull`, or download the file itself",
    ),
    (b"<!DOCTYPE", "a web page", "the download went wrong; fetch the file itself"),
    (b"<!doctype", "a web page", "the download went wrong; fetch the file itself"),
    (b"<html", "a web page", "the download went wrong; fetch the file itself"),
    (b"tjgg", "a GGJT file, a format before GGUF", "convert the original checkpoint instead"),
    (b"fmgg", "a GGMF file, a format before GGUF", "convert the original checkpoint instead"),
    (b"lmgg", "a GGML file, a format before GGUF", "convert the original checkpoint instead"),
    (b"\x93NUMPY", "a NumPy array", "save the tensors as Safetensors"),
    (b"\x89HDF", "an HDF5 file", "save the tensors as Safetensors"),
    (b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (b"{", "a JSON text", "name the file with the weights"),
];

/// The most bytes that [`sniff`] looks at.
pub(crate) const SNIFFED: usize = 24;

/// What `start`, a file's first bytes, shows the file to be, and what to do about it.
pub(crate) fn sniff(start: &[u8]) -> Option<(&'static str, &'static str)> {
    let (_, what, help) = SIGNATURES.iter().find(|(bytes, ..)| start.starts_with(bytes))?;
    Some((what, help))
}

/// True when a Safetensors header may begin like this: a length below 2^32, then `{`.
pub(crate) fn is_safetensors(start: &[u8]) -> bool {
    start.get(4..9).is_some_and(|b| b == b"\0\0\0\0{")
}
