//! Statements.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::{Flow, Interpreter};
use crate::jinja::ast::{Body, Expression, Filter, ForLoop, MacroDefinition, Statement, Target};
use crate::jinja::error::TemplateError;
use crate::jinja::value::{LoopState, Macro, Scope, Sequence, SequenceKind, Value};

impl Interpreter {
    /// Runs statements one after another.
    pub(super) fn run(&mut self, body: &Body) -> Result<Flow, TemplateError> {
        self.budget.enter()?;
        let flow = self.run_each(body);
        self.budget.leave();
        flow
    }

    fn run_each(&mut self, body: &Body) -> Result<Flow, TemplateError> {
        for (line, statement) in body {
            let flow = self.statement(statement).map_err(|error| error.at(*line))?;
            if flow != Flow::Next {
                return Ok(flow);
            }
        }
        Ok(Flow::Next)
    }

    fn statement(&mut self, statement: &Statement) -> Result<Flow, TemplateError> {
        self.budget.step(1)?;
        match statement {
            Statement::Text(text) => self.write(text)?,
            Statement::Print(value) => {
                let value = self.evaluate(value)?;
                let text = value.display(&self.budget)?;
                self.write(&text)?;
            }
            Statement::Set(target, value) => {
                let value = self.evaluate(value)?;
                self.assign(target, value)?;
            }
            Statement::SetBlock { target, filters, body } => {
                let text = self.captured_in_scope(body)?;
                let value = self.filter_all(text, filters)?;
                self.assign(target, value)?;
            }
            Statement::If { branches, otherwise } => return self.branch(branches, otherwise),
            Statement::For(parts) => {
                let items = self.evaluate(&parts.items)?;
                let scope = self.scope.clone();
                self.repeat(parts, &items, 0, &scope)?;
            }
            Statement::Macro(definition) => {
                let value = self.macro_here(definition)?;
                self.scope.set(definition.name.clone(), value);
            }
            Statement::CallBlock { body, callee, arguments } => {
                let caller = self.macro_here(body)?;
                let result = self.call_with_body(callee, arguments, caller)?;
                let text = result.display(&self.budget)?;
                self.write(&text)?;
            }
            Statement::FilterBlock(filters, body) => {
                let text = self.captured_in_scope(body)?;
                let text = self.filter_all(text, filters)?.display(&self.budget)?;
                self.write(&text)?;
            }
            Statement::With(bindings, body) => {
                let values =
                    bindings.iter().map(|(target, value)| Ok((target, self.evaluate(value)?)));
                let values: Vec<_> = values.collect::<Result<_, TemplateError>>()?;
                let scope = self.scope.clone();
                return self.in_scope(&scope, |inner| {
                    for (target, value) in values {
                        inner.assign(target, value)?;
                    }
                    inner.run(body)
                });
            }
            Statement::Break => return Ok(Flow::Break),
            Statement::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::Next)
    }

    fn branch(
        &mut self,
        branches: &[(Expression, Body)],
        otherwise: &Body,
    ) -> Result<Flow, TemplateError> {
        for (condition, body) in branches {
            if self.evaluate(condition)?.truth() {
                return self.run(body);
            }
        }
        self.run(otherwise)
    }

    /// What statements write, in a scope of their own.
    fn captured_in_scope(&mut self, body: &Body) -> Result<Value, TemplateError> {
        let scope = self.scope.clone();
        self.captured(|inner| inner.in_scope(&scope, |inner| inner.run(body).map(|_| ())))
    }

    fn filter_all(&mut self, mut value: Value, filters: &[Filter]) -> Result<Value, TemplateError> {
        for filter in filters {
            let arguments = self.arguments(&filter.arguments)?;
            value = self.filter(&filter.name, value, arguments)?;
        }
        Ok(value)
    }

    fn macro_here(&mut self, definition: &Rc<MacroDefinition>) -> Result<Value, TemplateError> {
        self.budget.take(size_of::<Macro>() + size_of::<Scope>())?;
        let scope = self.scope.clone();
        self.macro_scopes.push(scope.clone());
        Ok(Value::Macro(Rc::new(Macro { definition: definition.clone(), scope })))
    }

    /// Sets what a target names.
    pub(super) fn assign(&mut self, target: &Target, value: Value) -> Result<(), TemplateError> {
        match target {
            Target::Name(name) => self.scope.set(name.clone(), value),
            Target::Attribute(name, attribute) => {
                let Some(Value::Namespace(namespace)) = self.scope.get(name) else {
                    return Err(TemplateError::failed(format!(
                        "{name}.{attribute} cannot be set: {name} is not a namespace"
                    )));
                };
                Self::check_attribute(attribute)?;
                let mut attributes = namespace.attributes.borrow_mut();
                self.budget.read(attributes.len())?;
                match attributes.iter_mut().find(|(known, _)| known == attribute) {
                    Some((_, old)) => *old = value,
                    None => attributes.push((attribute.clone(), value)),
                }
            }
            Target::Tuple(targets) => {
                let values = value.iterate(&self.budget)?;
                if values.items.len() != targets.len() {
                    return Err(TemplateError::failed(format!(
                        "{} values cannot be assigned to {} names",
                        values.items.len(),
                        targets.len()
                    )));
                }
                for (target, value) in targets.iter().zip(&values.items) {
                    self.assign(target, value.clone())?;
                }
            }
        }
        Ok(())
    }

    /// Names of a namespace that transformers takes.
    pub(super) fn check_attribute(name: &str) -> Result<(), TemplateError> {
        if name.starts_with('_') {
            let problem = format!("a namespace takes no name that begins with \"_\": {name}");
            return Err(TemplateError::failed(problem));
        }
        Ok(())
    }

    /// Runs a loop over `items`; `depth` loops of the same recursive tag are around it.
    pub(super) fn repeat(
        &mut self,
        parts: &Rc<ForLoop>,
        items: &Value,
        depth: usize,
        around: &Rc<Scope>,
    ) -> Result<(), TemplateError> {
        let items = self.loop_items(parts, items, around)?;
        if items.items.is_empty() {
            return self.in_scope(around, |inner| inner.run(&parts.otherwise).map(|_| ()));
        }
        let state = Rc::new(LoopState {
            items: items.clone(),
            index: Cell::new(0),
            depth,
            again: parts.recursive.then(|| (parts.clone(), around.clone())),
            last_asked: RefCell::default(),
        });
        for (index, item) in items.items.iter().enumerate() {
            state.index.set(index);
            let flow = self.in_scope(around, |inner| {
                inner.scope.set("loop".into(), Value::Loop(state.clone()));
                inner.assign(&parts.target, item.clone())?;
                inner.run(&parts.body)
            })?;
            if flow == Flow::Break {
                break;
            }
        }
        Ok(())
    }

    /// The items of a loop that its condition lets through.
    fn loop_items(
        &mut self,
        parts: &ForLoop,
        items: &Value,
        around: &Rc<Scope>,
    ) -> Result<Rc<Sequence>, TemplateError> {
        let items = items.iterate(&self.budget)?;
        let Some(condition) = &parts.condition else { return Ok(items) };
        let mut passed = Vec::new();
        for item in &items.items {
            let passes = self.in_scope(around, |inner| {
                inner.assign(&parts.target, item.clone())?;
                Ok(inner.evaluate(condition)?.truth())
            })?;
            if passes {
                passed.push(item.clone());
            }
        }
        self.budget.sequence(SequenceKind::List, passed)?.iterate(&self.budget)
    }
}
