//! Calls of macros, functions and loops.

use std::rc::Rc;

use super::Interpreter;
use crate::jinja::arguments::{self, Values};
use crate::jinja::ast::{Arguments, Expression, MacroDefinition};
use crate::jinja::error::TemplateError;
use crate::jinja::methods;
use crate::jinja::time;
use crate::jinja::value::{Function, LoopState, Macro, Namespace, SequenceKind, Value};

/// The longest range, as in Jinja's sandbox.
const LONGEST_RANGE: i64 = 100_000;

impl Interpreter {
    /// The values of arguments.
    pub(super) fn arguments(&mut self, arguments: &Arguments) -> Result<Values, TemplateError> {
        let mut values = Values::default();
        for argument in &arguments.positional {
            values.positional.push(self.evaluate(argument)?);
        }
        for (name, argument) in &arguments.named {
            values.named.push((name.clone(), self.evaluate(argument)?));
        }
        if let Some(more) = &arguments.more {
            let more = self.evaluate(more)?.iterate(&self.budget)?;
            self.budget.take(more.items.len() * size_of::<Value>())?;
            values.positional.extend(more.items.iter().cloned());
        }
        if let Some(more) = &arguments.more_named {
            let Value::Dict(more) = self.evaluate(more)? else {
                return Err(TemplateError::failed("the argument after ** should be a dictionary"));
            };
            for (key, value) in &more.entries {
                values.named.push((arguments::text("a name", key)?, value.clone()));
            }
        }
        Ok(values)
    }

    /// The call of a call block, whose body the macro can call as `caller`.
    pub(super) fn call_with_body(
        &mut self,
        callee: &Expression,
        arguments: &Arguments,
        caller: Value,
    ) -> Result<Value, TemplateError> {
        let callee = self.evaluate(callee)?;
        let mut values = self.arguments(arguments)?;
        values.named.push(("caller".into(), caller));
        self.call(&callee, values)
    }

    /// Calls a value.
    pub(in crate::jinja) fn call(
        &mut self,
        callee: &Value,
        values: Values,
    ) -> Result<Value, TemplateError> {
        callee.defined()?;
        match callee {
            Value::Macro(called) => self.call_macro(called, values),
            Value::Function(function) => self.call_function(*function, values),
            Value::Method(method) => {
                methods::call(&method.receiver, &method.name, values, &self.budget)
            }
            Value::Loop(state) => self.call_loop(state, values),
            _ => Err(TemplateError::failed(format!(
                "a value of type {} cannot be called",
                callee.type_name()
            ))),
        }
    }

    fn call_macro(&mut self, called: &Rc<Macro>, values: Values) -> Result<Value, TemplateError> {
        self.captured(|inner| {
            inner.in_scope(&called.scope, |inner| {
                inner.set_arguments(&called.definition, values)?;
                inner.run(&called.definition.body).map(|_| ())
            })
        })
    }

    /// Sets the names that a macro's body finds its arguments under.
    fn set_arguments(
        &mut self,
        definition: &MacroDefinition,
        values: Values,
    ) -> Result<(), TemplateError> {
        let name = &definition.name;
        let count = definition.parameters.len();
        let Values { mut positional, mut named } = values;
        let varargs = positional.split_off(count.min(positional.len()));
        if !varargs.is_empty() && !definition.uses_varargs {
            let problem = format!("macro {name} takes at most {count} arguments");
            return Err(TemplateError::failed(problem));
        }
        let caller = take_named(&mut named, "caller");
        let mut positional = positional.into_iter();
        for (parameter, default) in &definition.parameters {
            let by_name = take_named(&mut named, parameter);
            let value = match (positional.next(), by_name, default) {
                (Some(_), Some(_), _) => {
                    let problem = format!("macro {name} is given {parameter} twice");
                    return Err(TemplateError::failed(problem));
                }
                (Some(value), ..) | (None, Some(value), _) => value,
                (None, None, Some(default)) => self.evaluate(default)?,
                (None, None, None) => Value::undefined(parameter),
            };
            self.scope.set(parameter.clone(), value);
        }
        if definition.uses_caller {
            let caller = caller.unwrap_or_else(|| Value::undefined("caller"));
            self.scope.set("caller".into(), caller);
        } else if caller.is_some() {
            return Err(TemplateError::failed(format!("macro {name} takes no caller")));
        }
        if definition.uses_varargs {
            let varargs = self.budget.sequence(SequenceKind::Tuple, varargs)?;
            self.scope.set("varargs".into(), varargs);
        }
        if definition.uses_kwargs {
            let entries = named.drain(..).map(|(name, value)| (Value::Text(name), value));
            let kwargs = self.budget.dict(entries.collect())?;
            self.scope.set("kwargs".into(), kwargs);
        }
        match named.first() {
            Some((unknown, _)) => {
                Err(TemplateError::failed(format!("macro {name} takes no {unknown}")))
            }
            None => Ok(()),
        }
    }

    fn call_loop(&mut self, state: &Rc<LoopState>, values: Values) -> Result<Value, TemplateError> {
        let Some((parts, scope)) = &state.again else {
            return Err(TemplateError::failed("only a loop marked recursive can be called"));
        };
        let [items] = values.bind_all("loop", ["iterable"])?;
        self.captured(|inner| {
            inner.budget.enter()?;
            let result = inner.repeat(parts, &items, state.depth + 1, scope);
            inner.budget.leave();
            result
        })
    }

    fn call_function(
        &mut self,
        function: Function,
        values: Values,
    ) -> Result<Value, TemplateError> {
        match function {
            Function::Range => self.range(values),
            Function::Dict => {
                let entries = self.entries("dict", values)?;
                self.budget.dict(entries)
            }
            Function::Namespace => self.namespace(values),
            Function::RaiseException => {
                let [message] = values.bind_all("raise_exception", ["message"])?;
                Err(TemplateError::raised(&*message.display(&self.budget)?))
            }
            Function::StrftimeNow => {
                let [format] = values.bind_all("strftime_now", ["format"])?;
                let format = arguments::text("strftime_now", &format)?;
                self.budget.text(time::format(&format, self.now, &self.budget)?)
            }
        }
    }

    fn range(&mut self, values: Values) -> Result<Value, TemplateError> {
        let [first, second, step] = values.bind("range", ["start", "stop", "step"])?;
        let int = |value| arguments::int("range", value, 0);
        let (start, stop) = match second {
            Some(stop) => (int(first)?, int(Some(stop))?),
            None => (0, int(first)?),
        };
        let step = arguments::int("range", step, 1)?;
        if step == 0 {
            return Err(TemplateError::failed("range cannot have a step of 0"));
        }
        let distance = if step > 0 { stop.checked_sub(start) } else { start.checked_sub(stop) };
        let count =
            distance.map(|distance| distance.max(0).unsigned_abs().div_ceil(step.unsigned_abs()));
        match count {
            Some(count) if count <= LONGEST_RANGE as u64 => {
                let numbers = (0..count as i64).map(|index| Value::Int(start + index * step));
                self.budget.sequence(SequenceKind::Range, numbers.collect())
            }
            _ => Err(TemplateError::failed(format!("a range has at most {LONGEST_RANGE} numbers"))),
        }
    }

    /// The entries of `dict(mapping, key=value)`.
    fn entries(&mut self, of: &str, values: Values) -> Result<Vec<(Value, Value)>, TemplateError> {
        let mut entries = Vec::new();
        for mapping in values.positional {
            match &mapping {
                Value::Dict(dict) => entries.extend(dict.entries.iter().cloned()),
                _ => {
                    for pair in &mapping.iterate(&self.budget)?.items {
                        let pair = pair.iterate(&self.budget)?;
                        let [key, value] = &pair.items[..] else {
                            let problem = format!("{of} needs pairs of a key and a value");
                            return Err(TemplateError::failed(problem));
                        };
                        entries.push((key.clone(), value.clone()));
                    }
                }
            }
        }
        entries.extend(values.named.into_iter().map(|(name, value)| (Value::Text(name), value)));
        Ok(entries)
    }

    fn namespace(&mut self, values: Values) -> Result<Value, TemplateError> {
        let entries = self.entries("namespace", values)?;
        // The same name counts once.
        let Value::Dict(entries) = self.budget.dict(entries)? else {
            unreachable!("a dictionary was made")
        };
        let namespace = Rc::new(Namespace::default());
        for (name, value) in &entries.entries {
            let name = arguments::text("the name in a namespace", name)?;
            Self::check_attribute(&name)?;
            namespace.attributes.borrow_mut().push((name, value.clone()));
        }
        self.namespaces.push(namespace.clone());
        Ok(Value::Namespace(namespace))
    }
}

/// Takes the value with a name out of the others.
fn take_named(named: &mut Vec<(Rc<str>, Value)>, name: &str) -> Option<Value> {
    let index = named.iter().position(|(known, _)| **known == *name)?;
    Some(named.remove(index).1)
}
