//! The types a tensor can have: their numbers, names and block geometry.
//!
//! Numbers and layouts are those of the GGUF specification (`ggml_type`); types that only a
//! checkpoint's files have get numbers that no GGUF file has. A row of `cols` values is stored as
//! `cols / block_len` blocks of `block_bytes` bytes each.

use std::fmt;

macro_rules! tensor_types {
    (
        gguf { $($variant:ident = $id:literal, $block_len:literal, $block_bytes:literal;)* }
        checkpoints { $($source:ident = $source_id:literal, $source_bytes:literal;)* }
    ) => {
        /// A tensor's type: GGML's, or one that only a checkpoint has. Names are spelled as the
        /// formats spell them.
        #[allow(non_camel_case_types, missing_docs)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum TensorType {
            $($variant = $id,)*
            $($source = $source_id,)*
        }

        impl TensorType {
            /// Every type of GGUF, in the order of its number.
            pub const ALL: &'static [TensorType] = &[$(TensorType::$variant,)*];

            /// The types that only checkpoints have: they are read, never written.
            pub const CHECKPOINT_ONLY: &'static [TensorType] = &[$(TensorType::$source,)*];

            /// The type with this number in a GGUF file.
            pub fn from_id(id: u32) -> Option<TensorType> {
                match id {
                    $($id => Some(TensorType::$variant),)*
                    _ => None,
                }
            }

            /// The name, as the format spells it: `Q4_K`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(TensorType::$variant => stringify!($variant),)*
                    $(TensorType::$source => stringify!($source),)*
                }
            }

            /// Values in one block.
            pub const fn block_len(self) -> usize {
                match self {
                    $(TensorType::$variant => $block_len,)*
                    $(TensorType::$source => 1,)*
                }
            }

            /// Bytes of one block.
            pub const fn block_bytes(self) -> usize {
                match self {
                    $(TensorType::$variant => $block_bytes,)*
                    $(TensorType::$source => $source_bytes,)*
                }
            }
        }
    };
}

tensor_types! {
    gguf {
        F32 = 0, 1, 4;
        F16 = 1, 1, 2;
        Q4_0 = 2, 32, 18;
        Q4_1 = 3, 32, 20;
        Q5_0 = 6, 32, 22;
        Q5_1 = 7, 32, 24;
        Q8_0 = 8, 32, 34;
        Q8_1 = 9, 32, 36;
        Q2_K = 10, 256, 84;
        Q3_K = 11, 256, 110;
        Q4_K = 12, 256, 144;
        Q5_K = 13, 256, 176;
        Q6_K = 14, 256, 210;
        Q8_K = 15, 256, 292;
        IQ2_XXS = 16, 256, 66;
        IQ2_XS = 17, 256, 74;
        IQ3_XXS = 18, 256, 98;
        IQ1_S = 19, 256, 50;
        IQ4_NL = 20, 32, 18;
        IQ3_S = 21, 256, 110;
        IQ2_S = 22, 256, 82;
        IQ4_XS = 23, 256, 136;
        I8 = 24, 1, 1;
        I16 = 25, 1, 2;
        I32 = 26, 1, 4;
        I64 = 27, 1, 8;
        F64 = 28, 1, 8;
        IQ1_M = 29, 256, 56;
        BF16 = 30, 1, 2;
        TQ1_0 = 34, 256, 54;
        TQ2_0 = 35, 256, 66;
        MXFP4 = 39, 32, 17;
    }
    checkpoints {
        F8_E4M3 = 0x1_0000, 1;
        F8_E5M2 = 0x1_0001, 1;
        F8_E8M0 = 0x1_0002, 1;
        BOOL = 0x1_0003, 1;
        U8 = 0x1_0004, 1;
        U16 = 0x1_0005, 2;
        U32 = 0x1_0006, 4;
        U64 = 0x1_0007, 8;
    }
}

impl TensorType {
    /// The number of the type in a GGUF file; one that no GGUF file has for a checkpoint's type.
    pub const fn id(self) -> u32 {
        self as u32
    }

    /// True for a type that only checkpoints have.
    pub const fn is_checkpoint_only(self) -> bool {
        self.id() >= TensorType::F8_E4M3.id()
    }

    /// The type of GGUF with this name, in any case: `q4_k` and `Q4_K` are the same.
    pub fn from_name(name: &str) -> Option<TensorType> {
        Self::ALL.iter().copied().find(|t| t.name().eq_ignore_ascii_case(name))
    }

    /// Bytes of one row of `cols` values; `None` when `cols` is no multiple of the block or the
    /// size does not fit.
    pub const fn row_bytes(self, cols: u64) -> Option<u64> {
        if !cols.is_multiple_of(self.block_len() as u64) {
            return None;
        }
        (cols / self.block_len() as u64).checked_mul(self.block_bytes() as u64)
    }

    /// True for types whose values share a scale with their block.
    pub const fn is_quantized(self) -> bool {
        self.block_len() > 1
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_names_round_trip() {
        for &t in TensorType::ALL {
            assert_eq!(TensorType::from_id(t.id()), Some(t));
            assert_eq!(TensorType::from_name(&t.name().to_lowercase()), Some(t));
        }
        for &t in TensorType::CHECKPOINT_ONLY {
            assert!(t.is_checkpoint_only());
            assert_eq!((TensorType::from_id(t.id()), TensorType::from_name(t.name())), (None, None));
        }
        assert_eq!(TensorType::from_id(4), None);
        assert_eq!(TensorType::from_name("Q4_2"), None);
    }

    #[test]
    fn a_row_must_be_whole_blocks() {
        assert_eq!(TensorType::Q4_K.row_bytes(512), Some(288));
        assert_eq!(TensorType::Q4_K.row_bytes(576), None);
        assert_eq!(TensorType::F64.row_bytes(u64::MAX), None);
    }
}
