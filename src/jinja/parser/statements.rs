//! Tags.

use std::rc::Rc;

use super::{Mentions, Parser};
use crate::jinja::ast::{
    Arguments, Body, Expression, Filter, ForLoop, MacroDefinition, Parameter, Statement, Target,
};
use crate::jinja::error::TemplateError;
use crate::jinja::lexer::TokenKind;

impl Parser {
    /// Statements up to a tag with one of the `ends`, whose name comes next; or, without ends, up to
    /// the end of the template.
    pub(super) fn body(&mut self, ends: &[&str]) -> Result<Body, TemplateError> {
        self.deeper(|parser| parser.statements(ends))
    }

    fn statements(&mut self, ends: &[&str]) -> Result<Body, TemplateError> {
        let mut body = Vec::new();
        loop {
            let line = self.line();
            match self.advance() {
                TokenKind::Data(text) => body.push((line, Statement::Text(text))),
                TokenKind::PrintBegin => {
                    let value = self.tuple(true, &[])?;
                    self.expect_kind(&TokenKind::PrintEnd)?;
                    body.push((line, Statement::Print(value)));
                }
                TokenKind::BlockBegin => {
                    if ends.iter().any(|end| self.is_name(end)) {
                        return Ok(body);
                    }
                    let name = self.expect_name()?;
                    let statement = self.statement(&name)?;
                    self.expect_kind(&TokenKind::BlockEnd)?;
                    body.push((line, statement));
                }
                TokenKind::End if ends.is_empty() => {
                    self.next -= 1;
                    return Ok(body);
                }
                _ => return Err(self.fail(format!("a block does not end: {ends:?} is missing"))),
            }
        }
    }

    /// The body of a tag, up to the end of the name of the tag that ends it.
    fn block(&mut self, ends: &[&str]) -> Result<(Body, Rc<str>), TemplateError> {
        self.skip_sign(":");
        self.expect_kind(&TokenKind::BlockEnd)?;
        let body = self.body(ends)?;
        let end = self.expect_name()?;
        Ok((body, end))
    }

    fn statement(&mut self, name: &str) -> Result<Statement, TemplateError> {
        match name {
            "set" => self.set(),
            "if" => self.if_(),
            "for" => self.for_(),
            "macro" => self.macro_(),
            "call" => self.call_block(),
            "filter" => {
                let filters = self.filters(true)?;
                let (body, _) = self.apart(|parser| parser.block(&["endfilter"]))?;
                Ok(Statement::FilterBlock(filters, body))
            }
            "with" => self.with(),
            // What the assistant says, which training looks for: a scope of its own.
            "generation" => {
                let (body, _) = self.apart(|parser| parser.block(&["endgeneration"]))?;
                Ok(Statement::With(Vec::new(), body))
            }
            "break" | "continue" if self.loops == 0 => {
                Err(self.fail(format!("\"{name}\" has no loop around it that it could reach")))
            }
            "break" => Ok(Statement::Break),
            "continue" => Ok(Statement::Continue),
            "include" | "import" | "from" | "extends" => Err(self.fail(format!(
                "\"{name}\" asks for another template, and a chat template stands alone"
            ))),
            _ => Err(self.fail(format!("\"{name}\" is no tag that quantkit knows"))),
        }
    }

    fn set(&mut self) -> Result<Statement, TemplateError> {
        let target = self.target(&["="])?;
        if self.skip_sign("=") {
            return Ok(Statement::Set(target, self.tuple(true, &[])?));
        }
        let filters = self.filters(false)?;
        let (body, _) = self.apart(|parser| parser.block(&["endset"]))?;
        Ok(Statement::SetBlock { target, filters, body })
    }

    fn if_(&mut self) -> Result<Statement, TemplateError> {
        let mut branches = Vec::new();
        loop {
            let condition = self.tuple(false, &[])?;
            let (body, end) = self.block(&["elif", "else", "endif"])?;
            branches.push((condition, body));
            match &*end {
                "elif" => {}
                "else" => {
                    let (otherwise, _) = self.block(&["endif"])?;
                    return Ok(Statement::If { branches, otherwise });
                }
                _ => return Ok(Statement::If { branches, otherwise: Vec::new() }),
            }
        }
    }

    fn for_(&mut self) -> Result<Statement, TemplateError> {
        let target = self.target(&["in"])?;
        if !self.skip_name("in") {
            return Err(self.fail("expected \"in\" after the name that a loop sets"));
        }
        let items = self.tuple(false, &["recursive"])?;
        let condition = if self.skip_name("if") { Some(self.expression()?) } else { None };
        let recursive = self.skip_name("recursive");
        self.loops += 1;
        let (body, end) = self.block(&["endfor", "else"])?;
        self.loops -= 1;
        let otherwise = if *end == *"else" { self.block(&["endfor"])?.0 } else { Vec::new() };
        let parts = ForLoop { target, items, condition, recursive, body, otherwise };
        Ok(Statement::For(Rc::new(parts)))
    }

    fn macro_(&mut self) -> Result<Statement, TemplateError> {
        let name = self.expect_name()?;
        let parameters = self.parameters()?;
        Ok(Statement::Macro(Rc::new(self.definition(name, parameters, "endmacro")?)))
    }

    fn call_block(&mut self) -> Result<Statement, TemplateError> {
        let parameters = if self.is_sign("(") { self.parameters()? } else { Vec::new() };
        let Expression::Call(callee, arguments) = self.expression()? else {
            return Err(self.fail("a call block should call something"));
        };
        let definition = self.definition("caller".into(), parameters, "endcall")?;
        Ok(Statement::CallBlock { body: Rc::new(definition), callee: *callee, arguments })
    }

    fn definition(
        &mut self,
        name: Rc<str>,
        parameters: Vec<Parameter>,
        end: &str,
    ) -> Result<MacroDefinition, TemplateError> {
        self.macros.push(Mentions::default());
        let block = self.apart(|parser| parser.block(&[end]));
        let mentions = self.macros.pop().unwrap_or_default();
        if let Some(around) = self.macros.last_mut() {
            around.add(mentions);
        }
        let (body, _) = block?;
        Ok(MacroDefinition {
            name,
            parameters,
            body,
            uses_varargs: mentions.varargs,
            uses_kwargs: mentions.kwargs,
            uses_caller: mentions.caller,
        })
    }

    fn parameters(&mut self) -> Result<Vec<Parameter>, TemplateError> {
        self.expect_sign("(")?;
        let mut parameters: Vec<Parameter> = Vec::new();
        while !self.is_sign(")") {
            if !parameters.is_empty() {
                self.expect_sign(",")?;
            }
            let name = self.expect_name()?;
            let default = if self.skip_sign("=") { Some(self.expression()?) } else { None };
            parameters.push((name, default));
        }
        self.expect_sign(")")?;
        Ok(parameters)
    }

    fn with(&mut self) -> Result<Statement, TemplateError> {
        let mut bindings = Vec::new();
        while !matches!(self.peek(), TokenKind::BlockEnd) {
            if !bindings.is_empty() {
                self.expect_sign(",")?;
            }
            let target = self.target(&["="])?;
            self.expect_sign("=")?;
            bindings.push((target, self.expression()?));
        }
        let (body, _) = self.block(&["endwith"])?;
        Ok(Statement::With(bindings, body))
    }

    /// `| first | second(…)`; the first one without its sign where `inline`.
    fn filters(&mut self, inline: bool) -> Result<Vec<Filter>, TemplateError> {
        let mut filters = Vec::new();
        while (inline && filters.is_empty()) || self.skip_sign("|") {
            filters.push(self.filter()?);
        }
        Ok(filters)
    }

    /// The name of a filter and its arguments.
    pub(super) fn filter(&mut self) -> Result<Filter, TemplateError> {
        let name = self.expect_name()?;
        let arguments = if self.is_sign("(") { self.arguments()? } else { Arguments::default() };
        Ok(Filter { name, arguments })
    }

    /// What is assigned to, up to one of the words or signs in `ends`.
    fn target(&mut self, ends: &[&str]) -> Result<Target, TemplateError> {
        let mut targets = vec![self.one_target()?];
        let mut is_tuple = false;
        while self.skip_sign(",") {
            is_tuple = true;
            let ended = ends.iter().any(|end| self.is_name(end) || self.is_sign(end));
            if ended || matches!(self.peek(), TokenKind::BlockEnd) {
                break;
            }
            targets.push(self.one_target()?);
        }
        match targets.pop() {
            Some(only) if !is_tuple => Ok(only),
            last => {
                targets.extend(last);
                Ok(Target::Tuple(targets))
            }
        }
    }

    fn one_target(&mut self) -> Result<Target, TemplateError> {
        if self.skip_sign("(") {
            let target = self.deeper(|parser| parser.target(&[")"]))?;
            self.expect_sign(")")?;
            return Ok(target);
        }
        let name = self.expect_name()?;
        if ["true", "false", "none", "True", "False", "None"].contains(&&*name) {
            return Err(self.fail(format!("{name} cannot be assigned to")));
        }
        if self.skip_sign(".") {
            return Ok(Target::Attribute(name, self.expect_name()?));
        }
        Ok(Target::Name(name))
    }
}
