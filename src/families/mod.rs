//! One file per model family: names, metadata and the decoder's specification.
