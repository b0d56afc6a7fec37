//! Selections: what a user asks for, from a recipe to single tensors, and the format that each
//! tensor gets from it.

mod choice;
mod error;
mod pattern;
mod planned;
#[cfg(test)]
mod tests;

use self::choice::in_writing_order;
pub use self::choice::{Choice, Reason};
pub use self::error::SelectionError;
pub use self::pattern::{Pattern, PatternError, Rule};
pub(super) use self::planned::listed;
use super::plan::Plan;
use super::recipe::{
    Chooser, PER_LAYER_EMBEDDING, Recipe, RecipeError, Role, fallback, may_change,
};
use crate::gguf::{GgmlType, Metadata, TensorInfo};

/// Which tensor gets which format.
#[derive(Debug, Clone)]
pub enum Selection {
    /// What a recipe says, but for some tensors.
    Recipe(&'static Recipe, Changes),
    /// What a plan says.
    Plan(Box<Plan>),
}

/// What a user wants otherwise than the recipe has it. Precedence is llama.cpp's: what stays as it
/// is, then the formats of the token embedding and the output matrix, then the first rule that
/// names the tensor.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    /// The recipe's default format for every matrix, without exceptions.
    pub pure: bool,
    /// The format of the output matrix, be it the token embedding too.
    pub output: Option<GgmlType>,
    /// The format of the token embedding.
    pub token_embedding: Option<GgmlType>,
    /// The output matrix stays as it is.
    pub leave_output: bool,
    /// Formats for the tensors that patterns name.
    pub rules: Vec<Rule>,
    /// Tensors that stay as they are.
    pub exclude: Vec<Pattern>,
}

impl Selection {
    /// What the recipe says for every tensor.
    pub fn recipe(recipe: &'static Recipe) -> Self {
        Self::Recipe(recipe, Changes::default())
    }

    /// What to call it: the recipe's name, or `plan`.
    pub fn name(&self) -> &str {
        match self {
            Self::Recipe(recipe, _) => recipe.name,
            Self::Plan(_) => "plan",
        }
    }

    /// llama.cpp's number for files of this kind, which goes into the metadata as
    /// `general.file_type`: the recipe's; for a plan, that of the format that most weights have.
    pub fn file_type(&self, choices: &[Choice]) -> u32 {
        match self {
            Self::Recipe(recipe, _) => recipe.file_type,
            Self::Plan(_) => most_common(choices)
                .and_then(Recipe::of_format)
                .map_or(Recipe::all()[0].file_type, |recipe| recipe.file_type),
        }
    }

    /// Chooses a format for each tensor, in the order in which llama.cpp writes them: by layer, and
    /// by name within a layer, after the tensors that belong to none.
    ///
    /// # Errors
    /// See [`SelectionError`].
    pub fn choose<'a>(
        &self,
        metadata: &Metadata,
        tensors: &'a [TensorInfo],
        has_importance: bool,
    ) -> Result<Vec<Choice<'a>>, SelectionError> {
        match self {
            Self::Plan(plan) => planned::choose(plan, metadata, tensors),
            Self::Recipe(recipe, changes) => {
                changes.check(recipe, metadata, tensors)?;
                let chooser = recipe.chooser(metadata, tensors, has_importance, changes.output)?;
                let mut by_recipe = ByRecipe { recipe, changes, chooser, metadata };
                in_writing_order(tensors)
                    .into_iter()
                    .map(|tensor| by_recipe.choose(tensor))
                    .collect()
            }
        }
    }

    /// Whether a tensor must not be coded as chosen without knowing its columns' importance, for
    /// the result would be garbage.
    pub fn needs_importance(&self, choice: &Choice) -> bool {
        match self {
            Self::Recipe(recipe, _) => recipe.needs_importance(&choice.tensor.name, choice.format),
            Self::Plan(_) => false,
        }
    }
}

impl Changes {
    /// The first rule that names the tensor.
    fn rule(&self, name: &str) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.pattern.matches(name))
    }

    fn check(
        &self,
        recipe: &Recipe,
        metadata: &Metadata,
        tensors: &[TensorInfo],
    ) -> Result<(), SelectionError> {
        if recipe.only_pure && !self.pure {
            return Err(SelectionError::OnlyPure { recipe: recipe.name });
        }
        for rule in &self.rules {
            rule.pattern.expect_a_match("--tensor-type", tensors)?;
            let mut named = tensors.iter().filter(|tensor| rule.pattern.matches(&tensor.name));
            if let Some(tensor) = named.next()
                && !may_change(metadata, tensor)
                && !named.any(|tensor| may_change(metadata, tensor))
            {
                return Err(SelectionError::NeverChanged {
                    pattern: rule.pattern.to_string(),
                    tensor: tensor.name.clone(),
                });
            }
        }
        for pattern in &self.exclude {
            pattern.expect_a_match("--exclude", tensors)?;
        }
        let has_output = tensors.iter().any(|tensor| Role::of(&tensor.name) == Role::Output);
        let uses_output_type = !self.pure && recipe.default.block_size() > 1;
        if !has_output && (self.leave_output || (self.output.is_some() && !uses_output_type)) {
            tracing::warn!(
                "the model has no output matrix of its own, as its token embedding doubles as one: \
                 see --token-embedding-type and --exclude"
            );
        }
        Ok(())
    }
}

/// A recipe and its changes at work on a model.
struct ByRecipe<'a> {
    recipe: &'static Recipe,
    changes: &'a Changes,
    chooser: Chooser,
    metadata: &'a Metadata,
}

/// A format that may not fit the tensor's rows.
struct Wanted {
    format: GgmlType,
    reason: Reason,
    /// The option that allows no other.
    exactly: Option<&'static str>,
}

impl ByRecipe<'_> {
    fn choose<'a>(&mut self, tensor: &'a TensorInfo) -> Result<Choice<'a>, SelectionError> {
        let kept = |reason| Ok(Choice { tensor, format: tensor.ggml_type, reason });
        if !may_change(self.metadata, tensor) {
            return kept(Reason::Kept);
        }
        if self.changes.leave_output && Role::of(&tensor.name) == Role::Output {
            return kept(Reason::Left("--leave-output".to_string()));
        }
        let Wanted { format: wanted, reason, exactly } = self.wanted(tensor)?;
        if let Some(pattern) = self.changes.exclude.iter().find(|it| it.matches(&tensor.name)) {
            return kept(Reason::Left(format!("--exclude {pattern}")));
        }
        let columns = tensor.columns();
        let format = fallback(wanted, columns);
        if format == wanted {
            return Ok(Choice { tensor, format, reason });
        }
        if let Some(asked_by) = exactly {
            let tensor = tensor.name.clone();
            return Err(SelectionError::Ragged { tensor, columns, format: wanted, asked_by });
        }
        let asked_by = match reason {
            Reason::Asked(option) => Some(option),
            _ => None,
        };
        Ok(Choice { tensor, format, reason: Reason::Fallback { wanted, columns, asked_by } })
    }

    fn wanted(&mut self, tensor: &TensorInfo) -> Result<Wanted, RecipeError> {
        let Self { recipe, changes, .. } = *self;
        let rule = changes.rule(&tensor.name);
        let asked = |format, option: String, exactly| {
            let reason = Reason::Asked(option);
            Ok(Wanted { format, reason, exactly })
        };
        let by_option = match Role::of(&tensor.name) {
            // The embeddings of single layers follow the token embedding unless a rule names them.
            Role::TokenEmbedding if tensor.name != PER_LAYER_EMBEDDING || rule.is_none() => {
                changes.token_embedding.map(|format| (format, "--token-embedding-type"))
            }
            Role::Output => changes.output.map(|format| (format, "--output-type")),
            _ => None,
        };
        if let Some((format, option)) = by_option {
            return asked(format, option.to_string(), Some(option));
        }
        if let Some(Rule { pattern, format }) = rule {
            return asked(*format, format!("--tensor-type {pattern}"), None);
        }
        if changes.pure {
            let (format, reason) = (recipe.default, Reason::Default);
            return Ok(Wanted { format, reason, exactly: None });
        }
        let wanted = self.chooser.wanted(tensor)?;
        let reason = wanted.exception.map_or(Reason::Default, Reason::Exception);
        let is_asked =
            changes.output == Some(wanted.format) && self.chooser.doubles_as_output(tensor);
        let exactly = is_asked.then_some("--output-type");
        Ok(Wanted { format: wanted.format, reason, exactly })
    }
}

/// The format that most weights have.
fn most_common(choices: &[Choice]) -> Option<GgmlType> {
    let weights_of = |format: GgmlType| -> u64 {
        let same = choices.iter().filter(|choice| choice.format == format);
        same.map(|choice| choice.tensor.weights()).sum()
    };
    let formats: std::collections::BTreeSet<GgmlType> =
        choices.iter().map(|choice| choice.format).collect();
    formats.into_iter().max_by_key(|&format| weights_of(format))
}
