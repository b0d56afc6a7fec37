//! Names and their values: scopes inside one another.

use std::cell::RefCell;
use std::rc::Rc;

use super::error::TemplateError;
use super::value::{Scope, Value};

/// Scopes inside one another.
const DEPTH: usize = 1000;

impl Scope {
    /// A new scope inside `around`.
    pub(super) fn inside(around: &Rc<Self>) -> Result<Rc<Self>, TemplateError> {
        let depth = around.depth + 1;
        if depth > DEPTH {
            let problem = format!("its macros and loops are nested more than {DEPTH} deep");
            return Err(TemplateError::limit(problem));
        }
        Ok(Rc::new(Self { names: RefCell::default(), around: Some(around.clone()), depth }))
    }

    /// The value of a name, here or further out.
    pub(super) fn get(&self, name: &str) -> Option<Value> {
        let mut scope = self;
        loop {
            let found = scope.names.borrow().iter().find(|(known, _)| **known == *name).cloned();
            if let Some((_, value)) = found {
                return Some(value);
            }
            scope = scope.around.as_deref()?;
        }
    }

    /// Sets a name here.
    pub(super) fn set(&self, name: Rc<str>, value: Value) {
        let mut names = self.names.borrow_mut();
        match names.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value,
            None => names.push((name, value)),
        }
    }

    /// Forgets all names: macros and the scopes that they were made in hold one another.
    pub(super) fn clear(&self) {
        self.names.take();
    }
}
