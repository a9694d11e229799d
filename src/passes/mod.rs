//! The passes: each rewrites the module and reads no weight.
