//! Parses the arguments, calls the library, prints the diagnostics, sets the exit code.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    mdl::cli::main()
}
