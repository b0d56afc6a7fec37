//! The command line. `main` parses; each subcommand has a file of its own: arguments in, a library
//! call, a printed result out.

mod bench;
mod command_line;
mod compare;
mod convert;
mod demo;
mod divergence;
mod eval_set;
mod export;
mod fetch;
mod generate;
mod importance;
mod inspect;
mod join;
mod merge;
mod mmlu_eval;
mod options;
mod perplexity;
mod profile;
mod quantize;
mod results;
mod search;
mod serve;
mod split;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::support::redact::shown;
use crate::support::{bus_error, interrupt, open_files, printable, progress};
use options::GlobalOptions;

/// Quantize language models, and measure what is lost and what is gained.
#[derive(Debug, Parser)]
#[command(name = "quantkit", version, about, max_term_width = 100)]
struct Arguments {
    #[command(flatten)]
    global: GlobalOptions,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Fetch(fetch::Arguments),
    Export(export::Arguments),
    Convert(convert::Arguments),
    Quantize(quantize::Arguments),
    Importance(importance::Arguments),
    Search(search::Arguments),
    Split(split::Arguments),
    Join(join::Arguments),
    Inspect(inspect::Arguments),
    Generate(generate::Arguments),
    EvalSet(eval_set::Arguments),
    MmluEval(mmlu_eval::Arguments),
    Merge(merge::Arguments),
    Results(results::Arguments),
    Perplexity(perplexity::Arguments),
    Divergence(divergence::Arguments),
    Serve(serve::Arguments),
    Bench(bench::Arguments),
    Profile(profile::Arguments),
    Compare(compare::Arguments),
    Demo(demo::Arguments),
}

/// Parses the command line, runs the subcommand and turns an error into a message and a status.
pub fn main() -> ExitCode {
    let words = match serve::llama_options::spelled(std::env::args_os()) {
        Ok(words) => words,
        Err(problem) => {
            eprintln!("quantkit: error: {}", printable::lines(&problem));
            return ExitCode::from(2);
        }
    };
    let Arguments { global, command } = Arguments::parse_from(words);
    progress::set_quiet(global.quiet);
    options::start_logging(global.verbose);
    interrupt::install();
    bus_error::install();
    open_files::raise_limit();
    let result = options::start_threads(global.threads).and_then(|()| match command {
        Command::Fetch(arguments) => fetch::run(&arguments, &global),
        Command::Export(arguments) => export::run(&arguments, &global),
        Command::Convert(arguments) => convert::run(&arguments, &global),
        Command::Quantize(arguments) => quantize::run(&arguments, &global),
        Command::Importance(arguments) => importance::run(&arguments, &global),
        Command::Search(arguments) => search::run(&arguments, &global),
        Command::Split(arguments) => split::run(&arguments, &global),
        Command::Join(arguments) => join::run(&arguments, &global),
        Command::Inspect(arguments) => inspect::run(&arguments, &global),
        Command::Generate(arguments) => generate::run(&arguments, &global),
        Command::EvalSet(arguments) => eval_set::run(&arguments, &global),
        Command::MmluEval(arguments) => mmlu_eval::run(&arguments, &global),
        Command::Merge(arguments) => merge::run(&arguments, &global),
        Command::Results(arguments) => results::run(&arguments, &global),
        Command::Perplexity(arguments) => perplexity::run(&arguments, &global),
        Command::Divergence(arguments) => divergence::run(&arguments, &global),
        Command::Serve(arguments) => serve::run(&arguments, &global),
        Command::Bench(arguments) => bench::run(&arguments, &global),
        Command::Profile(arguments) => profile::run(&arguments, &global),
        Command::Compare(arguments) => compare::run(&arguments, &global),
        Command::Demo(arguments) => demo::run(&arguments, &global),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if interrupt::requested() => {
            eprintln!("quantkit: stopped: {}", printable::lines(&message(&error)));
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("quantkit: error: {}", printable::lines(&message(&error)));
            ExitCode::FAILURE
        }
    }
}

/// An error and its causes on one line. Many of our errors say their cause in their own words, so a
/// cause that has been said is not said again. What a user typed may be an address with a password.
fn message(error: &anyhow::Error) -> String {
    let said = error.chain().map(ToString::to_string).fold(String::new(), |said, cause| {
        if said.is_empty() {
            cause
        } else if said.ends_with(&cause) {
            said
        } else {
            format!("{said}: {cause}")
        }
    });
    shown(&said)
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn a_cause_is_said_once() {
        let refused = || std::io::Error::other("no space left");
        let wrapped = crate::gguf::GgufError::io("a.gguf".as_ref(), refused());
        assert_eq!(message(&anyhow::Error::new(wrapped)), "a.gguf: no space left");
        let wrapped = Err::<(), _>(refused()).context("cannot write a.gguf").unwrap_err();
        assert_eq!(message(&wrapped), "cannot write a.gguf: no space left");
    }
}
