//! Evaluates expressions and writes what a build emits.
