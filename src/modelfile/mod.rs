//! The Modelfile language: parse, AST, lower, format, lint.
