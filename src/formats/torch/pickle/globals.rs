//! The names that a pickle may use. Nothing is ever looked up or called by them.

use mdl_kernels::TensorType;

/// What a pickle may name.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Global {
    /// `collections.OrderedDict`
    OrderedDict,
    /// `torch.Size`: a tuple.
    Size,
    /// `_rebuild_tensor(storage, offset, size, stride)`; version 2 adds `requires_grad` and hooks.
    RebuildTensor,
    /// Version 3: the storage has no type, the last argument is it.
    RebuildTyped,
    /// `_rebuild_parameter(tensor, requires_grad, hooks)`: the tensor.
    RebuildParameter,
    /// A class of storages, by the type of its elements.
    Storage(TensorType),
    /// The class of storages that count bytes.
    UntypedStorage,
    /// A type of elements.
    Dtype(TensorType),
}

/// Every name that a pickle may use; nothing is ever looked up or called.
#[rustfmt::skip]
const GLOBALS: &[(&str, &str, Global)] = {
    use Global::*;
    use TensorType::*;
    &[
        ("collections", "OrderedDict", OrderedDict),
        ("torch", "Size", Size),
        ("torch._utils", "_rebuild_tensor", RebuildTensor),
        ("torch._utils", "_rebuild_tensor_v2", RebuildTensor),
        ("torch._utils", "_rebuild_tensor_v3", RebuildTyped),
        ("torch._utils", "_rebuild_parameter", RebuildParameter),
        ("torch", "DoubleStorage", Storage(F64)),
        ("torch", "FloatStorage", Storage(F32)),
        ("torch", "HalfStorage", Storage(F16)),
        ("torch", "BFloat16Storage", Storage(BF16)),
        ("torch", "LongStorage", Storage(I64)),
        ("torch", "IntStorage", Storage(I32)),
        ("torch", "ShortStorage", Storage(I16)),
        ("torch", "CharStorage", Storage(I8)),
        ("torch", "ByteStorage", Storage(U8)),
        ("torch", "BoolStorage", Storage(BOOL)),
        ("torch", "UntypedStorage", UntypedStorage),
        ("torch.storage", "UntypedStorage", UntypedStorage),
        ("torch", "float64", Dtype(F64)),
        ("torch", "float32", Dtype(F32)),
        ("torch", "float16", Dtype(F16)),
        ("torch", "bfloat16", Dtype(BF16)),
        ("torch", "float8_e4m3fn", Dtype(F8_E4M3)),
        ("torch", "float8_e5m2", Dtype(F8_E5M2)),
        ("torch", "float8_e8m0fnu", Dtype(F8_E8M0)),
        ("torch", "int64", Dtype(I64)),
        ("torch", "int32", Dtype(I32)),
        ("torch", "int16", Dtype(I16)),
        ("torch", "int8", Dtype(I8)),
        ("torch", "uint64", Dtype(U64)),
        ("torch", "uint32", Dtype(U32)),
        ("torch", "uint16", Dtype(U16)),
        ("torch", "uint8", Dtype(U8)),
        ("torch", "bool", Dtype(BOOL)),
    ]
};

impl Global {
    /// What a pickle calls `module.name`; `None` where it may not.
    pub(super) fn named(module: &str, name: &str) -> Option<Global> {
        GLOBALS.iter().find(|(m, n, _)| (*m, *n) == (module, name)).map(|(_, _, global)| *global)
    }
}
