//! Runs the tree of a template.

mod calls;
mod expressions;
mod statements;

use std::rc::Rc;

use chrono::NaiveDateTime;
use serde_json::{Map, Value as Json};

use super::ast::Body;
use super::budget::Budget;
use super::error::TemplateError;
use super::value::{Function, Namespace, Scope, Value};

/// The text that a template makes of the variables.
///
/// # Errors
/// What the template raises, what goes wrong in it, and too much of anything.
pub(super) fn run(
    template: &Body,
    variables: &Map<String, Json>,
    now: NaiveDateTime,
) -> Result<String, TemplateError> {
    let mut interpreter = Interpreter {
        budget: Budget::default(),
        output: String::new(),
        scope: Rc::default(),
        namespaces: Vec::new(),
        macro_scopes: Vec::new(),
        now,
    };
    let ran = interpreter.start(variables).and_then(|()| interpreter.run(template));
    ran.map(|_| std::mem::take(&mut interpreter.output))
}

/// How a statement ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Next,
    Break,
    Continue,
}

/// A template at work.
pub(super) struct Interpreter {
    pub(super) budget: Budget,
    output: String,
    scope: Rc<Scope>,
    /// All namespaces and the scopes of all macros, to be emptied in the end: they may hold one
    /// another.
    namespaces: Vec<Rc<Namespace>>,
    macro_scopes: Vec<Rc<Scope>>,
    now: NaiveDateTime,
}

impl Interpreter {
    /// Sets the names that every template finds.
    fn start(&mut self, variables: &Map<String, Json>) -> Result<(), TemplateError> {
        for (name, function) in [
            ("range", Function::Range),
            ("dict", Function::Dict),
            ("namespace", Function::Namespace),
            ("raise_exception", Function::RaiseException),
            ("strftime_now", Function::StrftimeNow),
        ] {
            self.scope.set(name.into(), Value::Function(function));
        }
        for (name, value) in variables {
            let value = self.budget.json(value)?;
            self.scope.set(name.as_str().into(), value);
        }
        self.scope = Scope::inside(&self.scope)?;
        Ok(())
    }

    fn write(&mut self, text: &str) -> Result<(), TemplateError> {
        self.budget.take(text.len())?;
        self.output.push_str(text);
        Ok(())
    }

    /// Runs a part in a scope of its own inside `around`.
    fn in_scope<T>(
        &mut self,
        around: &Rc<Scope>,
        part: impl FnOnce(&mut Self) -> Result<T, TemplateError>,
    ) -> Result<T, TemplateError> {
        self.budget.take(size_of::<Scope>())?;
        let outer = std::mem::replace(&mut self.scope, Scope::inside(around)?);
        let result = part(self);
        self.scope = outer;
        result
    }

    /// What a part writes, instead of writing it.
    fn captured(
        &mut self,
        part: impl FnOnce(&mut Self) -> Result<(), TemplateError>,
    ) -> Result<Value, TemplateError> {
        let outer = std::mem::take(&mut self.output);
        let result = part(self);
        let text = std::mem::replace(&mut self.output, outer);
        result?;
        self.budget.text(text)
    }
}

impl Drop for Interpreter {
    /// The newest first, so that no chain of them is dropped at once.
    fn drop(&mut self) {
        for namespace in &self.namespaces {
            namespace.attributes.take();
        }
        for scope in &self.macro_scopes {
            scope.clear();
        }
        while self.macro_scopes.pop().is_some() {}
        while self.namespaces.pop().is_some() {}
    }
}
