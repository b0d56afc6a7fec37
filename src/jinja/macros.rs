//! Macros, which templates define and call.

use std::rc::Rc;

use super::ast::MacroDefinition;
use super::scope::Scope;

/// A macro with the names that it sees.
#[derive(Debug)]
pub(super) struct Macro {
    pub definition: Rc<MacroDefinition>,
    pub scope: Rc<Scope>,
}
