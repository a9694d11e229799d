//! The command line: a file per subcommand, arguments in, one call down, text out; no logic.

mod adapters;
mod annotations;
mod archive;
mod bench;
mod build;
mod caches;
mod check;
mod completions;
mod create;
mod diff;
mod doctor;
mod du;
mod eval;
mod fmt;
mod imatrix;
mod login;
mod lsp;
mod man;
mod models;
mod ollama;
mod origin;
mod progress;
mod pull;
mod push;
pub mod report;
mod remote;
mod run;
mod serve;
mod show;
mod sign;
mod transfer;
mod verify;

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::diagnostic::{Diagnostic, Errors, Result, Severity};
use crate::prompt::isolated;
use crate::registry;
use crate::runtime::device::{Compute, DeviceChoice};
use crate::store::Store;
use crate::terminal::screen::{Screen, printable, write as write_out};
use crate::terminal::table;

/// A compiler for language models: a Modelfile in, content-addressed artifacts out.
#[derive(Parser)]
#[command(name = "mdl", version, max_term_width = 100, after_help = EXAMPLES, infer_subcommands = false)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  mdl build -q q4_K_M -t story Modelfile    compile a Modelfile and name the result
  mdl run story \"Once upon a time\"          run it
  mdl eval story:q4 --against story:f16     how far it is from its float weights
  mdl check --message-format json           diagnose ./Modelfile for an editor or CI

Exit codes: 0 done, 1 the input is wrong, 2 usage, 3 the environment failed, 130 interrupted.";

/// Options of every command.
#[derive(Args, Clone)]
struct Global {
    /// The model store [default: $MDL_MODELS, else the platform's data directory]
    #[arg(long, global = true, value_name = "DIR")]
    store: Option<PathBuf>,

    /// How diagnostics are printed
    #[arg(long, global = true, value_enum, default_value_t = MessageFormat::Human, value_name = "FORMAT")]
    message_format: MessageFormat,

    /// When to use colour
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto, value_name = "WHEN")]
    color: Color,

    /// How progress is shown [auto: bars on a terminal, lines elsewhere]
    #[arg(long, global = true, value_enum, default_value_t = progress::Style::Auto, value_name = "STYLE")]
    progress: progress::Style,

    /// Threads to use [default: all cores]
    #[arg(long, global = true, value_name = "N")]
    threads: Option<usize>,

    /// Where models compute: auto, cpu, cuda, or cuda:N for one of several GPUs [default: $MDL_DEVICE, or auto]
    #[arg(long, global = true, value_name = "DEVICE")]
    device: Option<DeviceChoice>,

    /// Use no network: what is not on this machine is an error
    #[arg(long, global = true)]
    offline: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum MessageFormat {
    /// For people: the source line and a caret
    Human,
    /// One JSON object per diagnostic, as docs/schemas/diagnostic.schema.json says
    Json,
    /// The annotations that GitHub Actions shows on a pull request
    Github,
    /// A SARIF 2.1.0 document on standard output; of `mdl check`
    Sarif,
    /// A GitLab Code Quality report on standard output; of `mdl check`
    Gitlab,
}

impl MessageFormat {
    /// Formats that are one document over all diagnostics.
    fn is_document(self) -> bool {
        matches!(self, MessageFormat::Sarif | MessageFormat::Gitlab)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Color {
    Auto,
    Always,
    Never,
}

#[derive(Subcommand)]
enum Command {
    /// Compile a Modelfile into a model
    Build(build::Build),
    /// Make a model of a Modelfile, with Ollama's arguments
    Create(create::Create),
    /// Run a model: one prompt, or a conversation
    Run(run::Run),
    /// Serve models over HTTP: the Ollama, OpenAI and Anthropic APIs
    #[command(visible_alias = "start")]
    Serve(serve::Serve),
    /// List the models in a server's memory
    Ps(remote::Ps),
    /// Take models out of a server's memory
    Stop(remote::Stop),
    /// Diagnose a Modelfile without building it
    Check(check::Check),
    /// Format a Modelfile
    Fmt(fmt::Fmt),
    /// Show what a model is made of
    Show(show::Show),
    /// Say what differs between two models
    Diff(diff::Diff),
    /// Measure how well a model predicts a text, and how far it is from its source
    Eval(eval::Eval),
    /// Measure how fast models run, and where the time goes
    Bench(bench::Bench),
    /// Compute an importance matrix from a text
    Imatrix(imatrix::Imatrix),
    /// Bring a model from a registry
    Pull(pull::Pull),
    /// Bring a model to a registry
    Push(push::Push),
    /// Log in to a registry
    Login(login::Login),
    /// Forget the login to a registry
    Logout(login::Logout),
    /// Connect this machine to Ollama's registry
    Signin(login::Signin),
    /// Disconnect this machine from Ollama's registry
    Signout(login::Signout),
    /// List the models of the store
    #[command(visible_alias = "ls")]
    List(models::List),
    /// Copy a model to another name
    Cp(models::Cp),
    /// Remove models
    Rm(models::Rm),
    /// Sign a model
    Sign(sign::Sign),
    /// Re-hash every blob and follow every manifest; check signatures
    Verify(verify::Verify),
    /// Remove what no model uses and what killed builds left
    Gc(models::Gc),
    /// Write models to one file, for a machine without a network
    Save(archive::Save),
    /// Read the models of such a file
    Load(archive::Load),
    /// Say what takes the room in the store
    Du(du::Du),
    /// Print what a report of a mistake needs, and no secret
    Doctor(doctor::Doctor),
    /// Speak with an editor about Modelfiles: the Language Server Protocol
    Lsp(lsp::Lsp),
    /// Print what completes commands in a shell
    Completions(completions::Completions),
    /// Print the manual, or write a page for each command
    Man(man::Man),
}

/// Parses the process's arguments, runs the command, prints its diagnostics.
pub fn main() -> ExitCode {
    // Not a command: how `mdl` starts itself to render templates.
    if std::env::args_os().nth(1).is_some_and(|first| first == isolated::CHILD_ARGUMENT) {
        isolated::child_main();
    }
    let drop_in = ollama::is_on();
    if let Some(code) = drop_in.then(ollama::answer).flatten() {
        return code;
    }
    let exit = |code: u8| ExitCode::from(if drop_in { ollama::exit_code(code) } else { code });
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            let _ = e.print();
            return exit(u8::try_from(e.exit_code()).unwrap_or(2));
        }
    };
    let mut global = cli.global.clone();
    global.offline |= registry::is_offline(&|name| std::env::var_os(name));
    if drop_in {
        global.store = global.store.or_else(ollama::models);
    }
    if global.message_format.is_document() && !matches!(cli.command, Command::Check(_)) {
        global.message_format = MessageFormat::Human;
        let d =
            Diagnostic::usage("`--message-format sarif` and `gitlab` are documents that `mdl check` writes");
        global.print(&[d.help("other commands write `human`, `json` and `github`")]);
        return ExitCode::from(2);
    }
    if global.device.is_none()
        && let Some(text) = std::env::var("MDL_DEVICE").ok().filter(|text| !text.is_empty())
    {
        match text.parse() {
            Ok(device) => global.device = Some(device),
            Err(expected) => {
                global.print(&[Diagnostic::usage(format!("MDL_DEVICE is `{text}`: {expected}"))]);
                return ExitCode::from(2);
            }
        }
    }
    if let Some(threads) = global.threads {
        // Only fails when the pool exists already, which it does not yet.
        let _ = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    }
    let result = match cli.command {
        Command::Build(c) => c.run(&global),
        Command::Create(c) => c.run(&global),
        Command::Run(c) => c.run(&global),
        Command::Serve(c) => c.run(&global),
        Command::Ps(c) => c.run(&global),
        Command::Stop(c) => c.run(&global),
        Command::Check(c) => c.run(&global),
        Command::Fmt(c) => c.run(&global),
        Command::Show(c) => c.run(&global),
        Command::Diff(c) => match c.run(&global) {
            Ok(code) => return code,
            Err(errors) => Err(errors),
        },
        Command::Eval(c) => c.run(&global),
        Command::Bench(c) => c.run(&global),
        Command::Imatrix(c) => c.run(&global),
        Command::Pull(c) => c.run(&global),
        Command::Push(c) => c.run(&global),
        Command::Login(c) => c.run(&global),
        Command::Logout(c) => c.run(&global),
        Command::Signin(c) => c.run(&global),
        Command::Signout(c) => c.run(&global),
        Command::List(c) => c.run(&global),
        Command::Cp(c) => c.run(&global),
        Command::Rm(c) => c.run(&global),
        Command::Sign(c) => c.run(&global),
        Command::Verify(c) => c.run(&global),
        Command::Gc(c) => c.run(&global),
        Command::Save(c) => c.run(&global),
        Command::Load(c) => c.run(&global),
        Command::Du(c) => c.run(&global),
        Command::Doctor(c) => c.run(&global),
        Command::Lsp(c) => c.run(&global),
        Command::Completions(c) => c.run(),
        Command::Man(c) => c.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(errors) if errors.0.is_empty() => ExitCode::from(Interrupted::EXIT_CODE),
        Err(mut errors) => {
            if global.offline {
                say_that_nothing_was_fetched(&mut errors);
            }
            global.print(&errors.0);
            exit(errors.exit_code())
        }
    }
}

impl Global {
    /// Prints diagnostics to standard error, and counts them by the way they end a command.
    fn print(&self, diagnostics: &[Diagnostic]) {
        let color = match self.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
        };
        for d in diagnostics {
            match self.message_format {
                MessageFormat::Human => anstream::eprintln!("{}", report::render(d, color)),
                MessageFormat::Json => eprintln!("{}", report::json(d)),
                MessageFormat::Github => eprintln!("{}", annotations::github(d)),
                // `mdl check` prints all of them at once.
                MessageFormat::Sarif | MessageFormat::Gitlab => {}
            }
        }
    }

    /// What standard output can do.
    fn screen(&self) -> Screen {
        Screen::of_stdout(match self.color {
            Color::Always => Some(true),
            Color::Never => Some(false),
            Color::Auto => None,
        })
    }

    /// Prints warnings; under `deny` they are errors.
    ///
    /// # Errors
    /// There were warnings and `deny` is set.
    fn warn(&self, warnings: &[Diagnostic], deny: bool) -> Result<()> {
        self.print(warnings);
        let count = warnings.iter().filter(|d| d.severity == Severity::Warning).count();
        if deny && count > 0 {
            let message = if count == 1 { "1 warning".to_owned() } else { format!("{count} warnings") };
            return Err(Diagnostic::error(format!("{message}, and `--deny-warnings` is given"))
                .code("denied-warnings")
                .into());
        }
        Ok(())
    }

    /// What models compute with.
    fn compute(&self) -> Compute {
        Compute { threads: self.threads.filter(|n| *n > 0), device: self.device.unwrap_or_default() }
    }

    /// The store; one that is not there reads as an empty one.
    fn open_store(&self) -> Result<Store> {
        Store::open(Store::locate(self.store.as_deref(), &|name| std::env::var_os(name))?)
    }
}

/// Errors of what is missing on this machine.
const MISSING: &[&str] = &["from-not-found", "unknown-model"];

/// Under `--offline`, a model that is missing may be so for that alone.
fn say_that_nothing_was_fetched(errors: &mut Errors) {
    for d in errors.0.iter_mut().filter(|d| MISSING.contains(&d.code)) {
        d.help.push("`--offline` is given, or MDL_OFFLINE set, so no registry was asked".to_owned());
    }
}

/// Ctrl-C was pressed: no error to print, but an exit code of its own.
struct Interrupted;

impl Interrupted {
    /// 128 + SIGINT, as shells expect.
    const EXIT_CODE: u8 = 130;

    fn error() -> Errors {
        Errors(Vec::new())
    }
}

/// An error that stands alone, for a command that has no text to point at.
fn usage(message: impl Into<String>) -> Errors {
    Diagnostic::usage(message).into()
}
