//! What a file may ask for at most.
//!
//! Besides these, one rule bounds memory everywhere: a list of N items is allocated only when N
//! times the smallest item fits in the bytes that are left in the file.

/// Bytes of a GGUF header: key-values and the table of tensors. The largest known one, with a
/// vocabulary of 262,144 tokens and as many merges, has 16 MiB.
pub const GGUF_HEADER: u64 = 128 << 20;
/// Bytes of a GGUF string value.
pub const GGUF_STRING: u64 = 64 << 20;
/// Key-values of a GGUF file; known models have fewer than 200.
pub const GGUF_KEY_VALUES: u64 = 4096;
/// Bytes of a GGUF key; the specification's own bound.
pub const GGUF_KEY: u64 = 65_535;
/// Bytes of a tensor's name in a GGUF file.
pub const GGUF_TENSOR_NAME: u64 = 1024;
/// Arrays within arrays, the outermost one counted.
pub const GGUF_ARRAY_DEPTH: usize = 4;
/// Dimensions of a GGUF tensor; the specification's own bound.
pub const GGUF_RANK: u32 = 4;
/// `general.alignment`, which is also a power of two.
pub const GGUF_ALIGNMENT: u64 = 1 << 20;
/// Tensors in one file, and in one index.
pub const TENSORS: u64 = 1 << 18;
/// Shards of one model.
pub const SHARDS: u64 = 4096;

/// Bytes of a Safetensors header; the specification's own bound.
pub const SAFETENSORS_HEADER: u64 = 100_000_000;
/// Dimensions of a Safetensors tensor.
pub const SAFETENSORS_RANK: usize = 8;
/// Bytes of a tensor's name in a Safetensors file.
pub const SAFETENSORS_NAME: usize = 4096;

/// Bytes of `config.json` and its like. JSON nests at most 128 deep.
pub const CONFIG: u64 = 1 << 20;
/// Bytes of `model.safetensors.index.json`.
pub const INDEX: u64 = 32 << 20;
/// A count or length in `config.json`: layers, heads, widths, vocabulary, context.
pub const CONFIG_SIZE: u64 = 1 << 28;

/// The rank of a low-rank adapter.
pub const ADAPTER_RANK: u64 = 1 << 16;
/// Patterns in `rank_pattern` or `alpha_pattern`: some adapters have one for each module.
pub const ADAPTER_PATTERNS: usize = 2048;
/// Bytes of a compiled pattern.
pub const ADAPTER_PATTERN: usize = 32 << 10;

/// Bytes of an importance matrix.
pub const IMATRIX: u64 = 1 << 30;
/// Bytes of a name in an importance matrix of the older format.
pub const IMATRIX_NAME: u64 = 1024;

/// Bytes of the table of a ZIP archive.
pub const ZIP_TABLE: u64 = 64 << 20;
/// Bytes of the pickle of a PyTorch file; it takes about 200 for each tensor.
pub const PICKLE: u64 = 16 << 20;
/// Values that a pickle makes; it makes about 12 for each tensor.
pub const PICKLE_VALUES: usize = 1 << 22;
/// Bytes of a name in a pickle: of a module, a class, a storage.
pub const PICKLE_NAME: usize = 256;
