//! What a template says, as a tree.

use std::rc::Rc;

/// Statements, each with its line.
pub(super) type Body = Vec<(usize, Statement)>;

#[derive(Debug)]
pub(super) enum Statement {
    Text(String),
    Print(Expression),
    Set(Target, Expression),
    SetBlock {
        target: Target,
        filters: Vec<Filter>,
        body: Body,
    },
    If {
        branches: Vec<(Expression, Body)>,
        otherwise: Body,
    },
    For(Rc<ForLoop>),
    Macro(Rc<MacroDefinition>),
    /// A call with a body, which the macro that is called can call in turn.
    CallBlock {
        body: Rc<MacroDefinition>,
        callee: Expression,
        arguments: Arguments,
    },
    FilterBlock(Vec<Filter>, Body),
    With(Vec<(Target, Expression)>, Body),
    Break,
    Continue,
}

/// What is assigned to.
#[derive(Debug)]
pub(super) enum Target {
    Name(Rc<str>),
    /// An attribute of a namespace.
    Attribute(Rc<str>, Rc<str>),
    Tuple(Vec<Target>),
}

#[derive(Debug)]
pub(super) struct ForLoop {
    pub target: Target,
    pub items: Expression,
    pub condition: Option<Expression>,
    pub recursive: bool,
    pub body: Body,
    pub otherwise: Body,
}

#[derive(Debug)]
pub(super) struct MacroDefinition {
    pub name: Rc<str>,
    pub parameters: Vec<Parameter>,
    pub body: Body,
    /// Whether the body mentions `varargs`, `kwargs` and `caller`. Where it does not, arguments for
    /// them are an error.
    pub uses_varargs: bool,
    pub uses_kwargs: bool,
    pub uses_caller: bool,
}

#[derive(Debug)]
pub(super) enum Expression {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Rc<str>),
    Name(Rc<str>),
    List(Vec<Expression>),
    Tuple(Vec<Expression>),
    Dict(Vec<(Expression, Expression)>),
    Attribute(Box<Expression>, Rc<str>),
    Item(Box<Expression>, Box<Expression>),
    /// Start, end and step.
    Slice(Box<Expression>, Box<[Option<Expression>; 3]>),
    Call(Box<Expression>, Arguments),
    Filter(Box<Expression>, Filter),
    Test {
        subject: Box<Expression>,
        name: Rc<str>,
        arguments: Arguments,
    },
    Not(Box<Expression>),
    Negative(Box<Expression>),
    Positive(Box<Expression>),
    Binary(Operator, Box<(Expression, Expression)>),
    Concat(Vec<Expression>),
    Compare(Box<Expression>, Vec<(Comparison, Expression)>),
    And(Box<(Expression, Expression)>),
    Or(Box<(Expression, Expression)>),
    /// The condition, and what is taken if it holds; and if not.
    Conditional(Box<(Expression, Expression)>, Option<Box<Expression>>),
}

#[derive(Debug)]
pub(super) struct Filter {
    pub name: Rc<str>,
    pub arguments: Arguments,
}

#[derive(Debug, Default)]
pub(super) struct Arguments {
    pub positional: Vec<Expression>,
    pub named: Vec<(Rc<str>, Expression)>,
    /// After `*`.
    pub more: Option<Box<Expression>>,
    /// After `**`.
    pub more_named: Option<Box<Expression>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    FloorDivide,
    Modulo,
    Power,
}

/// A macro's parameter and what it is where a call does not give it.
pub(super) type Parameter = (Rc<str>, Option<Expression>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
    NotIn,
}
