//! The language of chat templates: Jinja as transformers runs it, with Python's values, within fixed
//! bounds of steps, memory and depth.
//!
//! Templates come from model files, so nothing in them is trusted: every text and list is paid for
//! before it is made (`budget`), and parsing and running stop at a depth for which the thread has
//! room. Whatever is not known is an error that names it, never a different prompt.

mod arguments;
mod ast;
mod attributes;
mod budget;
mod error;
mod filters;
mod interpreter;
mod lexer;
mod make;
mod method_names;
mod methods;
mod numbers;
mod operators;
mod parser;
mod printf;
mod reading;
mod repeat;
mod scope;
mod str_format;
#[cfg(test)]
mod tests;
mod tests_of_values;
mod text;
mod time;
mod value;

use chrono::NaiveDateTime;
use serde_json::{Map, Value as Json};

pub use error::{ErrorKind, TemplateError};

/// Room for the deepest template, in bytes of address space; only what is used takes memory.
const STACK: usize = 64 << 20;
/// The longest template, in bytes. Those of real models have some ten thousand.
const LONGEST: usize = 4 << 20;

/// The text that a template makes of the variables. `now` is the time that `strftime_now` formats.
///
/// # Errors
/// Text that is no template, what the template raises ([`ErrorKind::Raised`]), what goes wrong in
/// it, and too much of anything.
pub fn render(
    template: &str,
    variables: &Map<String, Json>,
    now: NaiveDateTime,
) -> Result<String, TemplateError> {
    if template.len() > LONGEST {
        let problem = format!("it is longer than {} MiB", LONGEST >> 20);
        return Err(TemplateError::limit(problem));
    }
    let work = || interpreter::run(&parser::parse(template)?, variables, now);
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, work);
        let thread = thread.map_err(|error| {
            TemplateError::failed(format!("no thread can be started for it: {error}"))
        })?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
