//! Expressions, from what binds loosest to what binds tightest.

use super::Parser;
use crate::jinja::ast::{Arguments, Comparison, Expression, Operator};
use crate::jinja::error::TemplateError;
use crate::jinja::lexer::TokenKind;

type Parsed = Result<Expression, TemplateError>;

impl Parser {
    /// An expression, or several with commas between: a tuple. It ends at one of the words in `ends`,
    /// and where the tag or bracket does.
    pub(super) fn tuple(&mut self, with_condition: bool, ends: &[&str]) -> Parsed {
        let mut items = Vec::new();
        let mut is_tuple = false;
        loop {
            let ended = matches!(self.peek(), TokenKind::PrintEnd | TokenKind::BlockEnd)
                || self.is_sign(")")
                || ends.iter().any(|end| self.is_name(end));
            if ended {
                break;
            }
            items.push(if with_condition { self.expression()? } else { self.deeper(Self::or)? });
            if !self.skip_sign(",") {
                break;
            }
            is_tuple = true;
        }
        match items.pop() {
            Some(only) if !is_tuple => Ok(only),
            None => {
                Err(self.fail(format!("expected an expression, found {}", self.peek().describe())))
            }
            last => {
                items.extend(last);
                Ok(Expression::Tuple(items))
            }
        }
    }

    /// One expression.
    pub(super) fn expression(&mut self) -> Parsed {
        self.deeper(Self::conditional)
    }

    fn conditional(&mut self) -> Parsed {
        let mut value = self.or()?;
        while self.skip_name("if") {
            let condition = self.or()?;
            let otherwise =
                if self.skip_name("else") { Some(Box::new(self.expression()?)) } else { None };
            value = Expression::Conditional(Box::new((condition, value)), otherwise);
        }
        Ok(value)
    }

    fn or(&mut self) -> Parsed {
        let mut left = self.and()?;
        while self.skip_name("or") {
            left = Expression::Or(Box::new((left, self.and()?)));
        }
        Ok(left)
    }

    fn and(&mut self) -> Parsed {
        let mut left = self.not()?;
        while self.skip_name("and") {
            left = Expression::And(Box::new((left, self.not()?)));
        }
        Ok(left)
    }

    fn not(&mut self) -> Parsed {
        if self.skip_name("not") {
            return Ok(Expression::Not(Box::new(self.deeper(Self::not)?)));
        }
        self.comparison()
    }

    fn comparison(&mut self) -> Parsed {
        let first = self.sum()?;
        let mut others = Vec::new();
        while let Some(comparison) = self.skip_comparison() {
            others.push((comparison, self.sum()?));
        }
        if others.is_empty() {
            return Ok(first);
        }
        Ok(Expression::Compare(Box::new(first), others))
    }

    fn skip_comparison(&mut self) -> Option<Comparison> {
        let comparison = match self.peek() {
            TokenKind::Sign("==") => Comparison::Equal,
            TokenKind::Sign("!=") => Comparison::NotEqual,
            TokenKind::Sign("<") => Comparison::Less,
            TokenKind::Sign("<=") => Comparison::LessOrEqual,
            TokenKind::Sign(">") => Comparison::Greater,
            TokenKind::Sign(">=") => Comparison::GreaterOrEqual,
            TokenKind::Name(name) if **name == *"in" => Comparison::In,
            TokenKind::Name(name) if **name == *"not" => match self.look(1) {
                TokenKind::Name(name) if **name == *"in" => {
                    self.next += 1;
                    Comparison::NotIn
                }
                _ => return None,
            },
            _ => return None,
        };
        self.next += 1;
        Some(comparison)
    }

    fn sum(&mut self) -> Parsed {
        let operators = [("+", Operator::Add), ("-", Operator::Subtract)];
        self.chain(&operators, Self::concat)
    }

    fn concat(&mut self) -> Parsed {
        let first = self.product()?;
        if !self.is_sign("~") {
            return Ok(first);
        }
        let mut parts = vec![first];
        while self.skip_sign("~") {
            parts.push(self.product()?);
        }
        Ok(Expression::Concat(parts))
    }

    fn product(&mut self) -> Parsed {
        let operators = [
            ("*", Operator::Multiply),
            ("/", Operator::Divide),
            ("//", Operator::FloorDivide),
            ("%", Operator::Modulo),
        ];
        self.chain(&operators, Self::power)
    }

    fn power(&mut self) -> Parsed {
        self.chain(&[("**", Operator::Power)], |parser| parser.unary(true))
    }

    /// Operands with operators between, the left ones first.
    fn chain(
        &mut self,
        operators: &[(&str, Operator)],
        operand: impl Fn(&mut Self) -> Parsed,
    ) -> Parsed {
        let mut left = operand(self)?;
        while let Some(&(_, operator)) = operators.iter().find(|(sign, _)| self.is_sign(sign)) {
            self.next += 1;
            let right = operand(self)?;
            left = Expression::Binary(operator, Box::new((left, right)));
        }
        Ok(left)
    }

    fn unary(&mut self, with_filters: bool) -> Parsed {
        let value = if self.skip_sign("-") {
            Expression::Negative(Box::new(self.deeper(|parser| parser.unary(false))?))
        } else if self.skip_sign("+") {
            Expression::Positive(Box::new(self.deeper(|parser| parser.unary(false))?))
        } else {
            self.primary()?
        };
        let value = self.postfix(value)?;
        if with_filters { self.filtered(value) } else { Ok(value) }
    }

    fn primary(&mut self) -> Parsed {
        let line = self.line();
        Ok(match self.advance() {
            TokenKind::Name(name) => match &*name {
                "true" | "True" => Expression::Bool(true),
                "false" | "False" => Expression::Bool(false),
                "none" | "None" => Expression::None,
                _ => {
                    self.mention(&name);
                    Expression::Name(name)
                }
            },
            TokenKind::Text(text) => {
                let mut whole = text.to_string();
                while let TokenKind::Text(more) = self.peek() {
                    whole.push_str(more);
                    self.next += 1;
                }
                Expression::Text(whole.into())
            }
            TokenKind::Int(number) => Expression::Int(number),
            TokenKind::Float(number) => Expression::Float(number),
            TokenKind::Sign("(") => {
                if self.skip_sign(")") {
                    return Ok(Expression::Tuple(Vec::new()));
                }
                let value = self.tuple(true, &[])?;
                self.expect_sign(")")?;
                value
            }
            TokenKind::Sign("[") => Expression::List(self.items("]", Self::expression)?),
            TokenKind::Sign("{") => Expression::Dict(self.items("}", |parser| {
                let key = parser.expression()?;
                parser.expect_sign(":")?;
                Ok((key, parser.expression()?))
            })?),
            other => {
                let problem = format!("expected an expression, found {}", other.describe());
                return Err(TemplateError::syntax(line, problem));
            }
        })
    }

    /// Records the names that say which arguments the macro around takes.
    fn mention(&mut self, name: &str) {
        let Some(mentions) = self.macros.last_mut() else { return };
        match name {
            "varargs" => mentions.varargs = true,
            "kwargs" => mentions.kwargs = true,
            "caller" => mentions.caller = true,
            _ => {}
        }
    }

    /// Items with commas between, up to the closing sign.
    fn items<T>(
        &mut self,
        close: &str,
        mut item: impl FnMut(&mut Self) -> Result<T, TemplateError>,
    ) -> Result<Vec<T>, TemplateError> {
        let mut items = Vec::new();
        while !self.skip_sign(close) {
            if !items.is_empty() {
                self.expect_sign(",")?;
                if self.skip_sign(close) {
                    break;
                }
            }
            items.push(item(self)?);
        }
        Ok(items)
    }

    /// Attributes, items and calls behind a value.
    fn postfix(&mut self, mut value: Expression) -> Parsed {
        loop {
            if self.skip_sign(".") {
                value = match self.advance() {
                    TokenKind::Name(name) => Expression::Attribute(Box::new(value), name),
                    TokenKind::Int(index) => {
                        Expression::Item(Box::new(value), Box::new(Expression::Int(index)))
                    }
                    other => {
                        let found = other.describe();
                        return Err(
                            self.fail(format!("expected a name after \".\", found {found}"))
                        );
                    }
                };
            } else if self.skip_sign("[") {
                value = self.subscript(value)?;
            } else if self.is_sign("(") {
                value = Expression::Call(Box::new(value), self.arguments()?);
            } else {
                return Ok(value);
            }
        }
    }

    fn subscript(&mut self, value: Expression) -> Parsed {
        let value = Box::new(value);
        let start = if self.is_sign(":") { None } else { Some(self.expression()?) };
        if !self.skip_sign(":") {
            let mut keys: Vec<_> = start.into_iter().collect();
            let is_tuple = self.is_sign(",");
            while self.skip_sign(",") && !self.is_sign("]") {
                keys.push(self.expression()?);
            }
            self.expect_sign("]")?;
            let key = match keys.pop() {
                Some(key) if !is_tuple => key,
                last => {
                    keys.extend(last);
                    Expression::Tuple(keys)
                }
            };
            return Ok(Expression::Item(value, Box::new(key)));
        }
        let end =
            if self.is_sign(":") || self.is_sign("]") { None } else { Some(self.expression()?) };
        let step =
            if self.skip_sign(":") && !self.is_sign("]") { Some(self.expression()?) } else { None };
        self.expect_sign("]")?;
        Ok(Expression::Slice(value, Box::new([start, end, step])))
    }

    /// Filters, tests and calls behind a value.
    fn filtered(&mut self, mut value: Expression) -> Parsed {
        loop {
            if self.skip_sign("|") {
                value = Expression::Filter(Box::new(value), self.filter()?);
            } else if self.skip_name("is") {
                value = self.test(value)?;
            } else if self.is_sign("(") {
                value = Expression::Call(Box::new(value), self.arguments()?);
            } else {
                return Ok(value);
            }
        }
    }

    fn test(&mut self, value: Expression) -> Parsed {
        let negated = self.skip_name("not");
        let name = self.expect_name()?;
        let ends = ["else", "or", "and"].iter().any(|word| self.is_name(word));
        let arguments = match self.peek() {
            TokenKind::Sign("(") => self.arguments()?,
            TokenKind::Name(word) if **word == *"is" => {
                return Err(self.fail("tests with \"is\" cannot follow one another"));
            }
            TokenKind::Name(_)
            | TokenKind::Text(_)
            | TokenKind::Int(_)
            | TokenKind::Float(_)
            | TokenKind::Sign("[" | "{")
                if !ends =>
            {
                let argument = self.deeper(Self::primary)?;
                let positional = vec![self.postfix(argument)?];
                Arguments { positional, ..Arguments::default() }
            }
            _ => Arguments::default(),
        };
        let test = Expression::Test { subject: Box::new(value), name, arguments };
        Ok(if negated { Expression::Not(Box::new(test)) } else { test })
    }

    /// Arguments in parentheses.
    pub(super) fn arguments(&mut self) -> Result<Arguments, TemplateError> {
        self.expect_sign("(")?;
        let mut arguments = Arguments::default();
        self.items(")", |parser| parser.argument(&mut arguments))?;
        Ok(arguments)
    }

    fn argument(&mut self, arguments: &mut Arguments) -> Result<(), TemplateError> {
        let out_of_order = "an argument comes after others that should come last";
        if self.skip_sign("*") {
            if arguments.more.is_some() || arguments.more_named.is_some() {
                return Err(self.fail(out_of_order));
            }
            arguments.more = Some(Box::new(self.expression()?));
            return Ok(());
        }
        if arguments.more_named.is_some() {
            return Err(self.fail(out_of_order));
        }
        if self.skip_sign("**") {
            arguments.more_named = Some(Box::new(self.expression()?));
            return Ok(());
        }
        if let (TokenKind::Name(name), TokenKind::Sign("=")) = (self.peek(), self.look(1)) {
            let name = name.clone();
            self.next += 2;
            arguments.named.push((name, self.expression()?));
            return Ok(());
        }
        if !arguments.named.is_empty() || arguments.more.is_some() {
            return Err(self.fail(out_of_order));
        }
        arguments.positional.push(self.expression()?);
        Ok(())
    }
}
