//! The command line: a file per subcommand, arguments in, one call down, text out; no logic.

pub mod report;
