//! Recipes: which tensor gets which format.
//!
//! The choices are llama.cpp's (`src/llama-quant.cpp`), so that a file made here has the types of
//! one made there: tensors that matter more than their size (the output matrix, some layers' value
//! and down projections) get more bits, norms and other small tensors stay as they are, and a
//! tensor whose rows are not a whole number of blocks falls back to a format with smaller blocks.

mod error;
mod model;
mod table;

pub use self::error::RecipeError;
use self::model::{ModelFacts, Place, checked_layer};
pub use self::model::{PER_LAYER_EMBEDDING, Role, layer_of, may_change};
pub use self::table::Recipe;
use self::table::{Exception, Experts, RECIPES};
use crate::gguf::{GgmlType, Metadata, TensorInfo};

/// A format, and whether it is an exception to the recipe's default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// The format.
    pub format: GgmlType,
    /// What the tensor does, where that is why it has another format than most.
    pub exception: Option<Role>,
}

/// A recipe at work on a model: it counts the tensors of the roles that go by layer, so it must be
/// asked about one after the other in the order in which they are written.
#[derive(Debug)]
pub struct Chooser {
    recipe: &'static Recipe,
    model: ModelFacts,
    /// The format of the output matrix, where the user has chosen one.
    output_type: Option<GgmlType>,
    seen_attention_value: usize,
    seen_feed_forward_down: usize,
}

impl Recipe {
    /// The recipe with this name or alias, in any case.
    pub fn from_name(name: &str) -> Option<&'static Self> {
        RECIPES.iter().find(|recipe| {
            let mut names = std::iter::once(&recipe.name).chain(recipe.aliases);
            names.any(|own| own.eq_ignore_ascii_case(name))
        })
    }

    /// All recipes, from most to fewest bits.
    pub fn all() -> &'static [Self] {
        &RECIPES
    }

    /// The recipe that files of mostly this format are called after.
    pub fn of_format(format: GgmlType) -> Option<&'static Self> {
        Self::from_name(format.name())
    }

    /// Whether some matrices must not be coded as `format` without knowing the importance of their
    /// columns, for the result would be garbage. llama.cpp draws the line here.
    pub fn needs_importance(&self, name: &str, format: GgmlType) -> bool {
        let embeds = matches!(Role::of(name), Role::Output | Role::TokenEmbedding);
        self.name == "Q2_K_S" && format == GgmlType::Q2_K && !embeds
    }

    /// Starts choosing for a model; `output_type` overrides what the recipe has for the output
    /// matrix.
    ///
    /// # Errors
    /// A missing layer count, where the recipe goes by it.
    pub fn chooser(
        &'static self,
        metadata: &Metadata,
        tensors: &[TensorInfo],
        has_importance: bool,
        output_type: Option<GgmlType>,
    ) -> Result<Chooser, RecipeError> {
        let model = ModelFacts::new(metadata, tensors, has_importance);
        if model.layers == 0 && self.feed_forward_down.iter().any(Exception::goes_by_layer) {
            let architecture = metadata.string("general.architecture").unwrap_or_default();
            let key = format!("{architecture}.block_count");
            return Err(RecipeError::NoLayerCount { recipe: self.name, key });
        }
        Ok(Chooser {
            recipe: self,
            model,
            output_type,
            seen_attention_value: 0,
            seen_feed_forward_down: 0,
        })
    }
}

impl Chooser {
    /// The format that the recipe has for the next tensor, whatever its rows allow.
    ///
    /// # Errors
    /// In models of experts, a feed-forward tensor whose name has no layer.
    pub fn wanted(&mut self, tensor: &TensorInfo) -> Result<Wanted, RecipeError> {
        let role = Role::of(&tensor.name);
        let format = self.wanted_format(role, tensor)?;
        let exception = (format != self.recipe.default).then_some(role);
        Ok(Wanted { format, exception })
    }

    /// Whether the tensor is a token embedding that is the output matrix, too.
    pub fn doubles_as_output(&self, tensor: &TensorInfo) -> bool {
        Role::of(&tensor.name) == Role::TokenEmbedding && self.model.tied_output
    }

    fn wanted_format(&mut self, role: Role, tensor: &TensorInfo) -> Result<GgmlType, RecipeError> {
        let Self { recipe, ref model, .. } = *self;
        if recipe.default.block_size() == 1 {
            return Ok(recipe.default);
        }
        if model.is_glm5_next && is_kept_precise_in_glm5_next(&tensor.name) {
            return Ok(GgmlType::Q8_0);
        }
        if role == Role::Output || self.doubles_as_output(tensor) {
            return Ok(self.output_format(tensor));
        }
        if let Some(Experts { format, others }) = recipe.experts {
            return Ok(if is_expert(model, role, tensor) { format } else { others });
        }
        Ok(match role {
            Role::AttentionValue => self.attention_value_format(),
            Role::AttentionKey if model.experts == 8 => GgmlType::Q8_0,
            Role::AttentionOutput => {
                exception(recipe, model, recipe.attention_output, Place::default())
            }
            Role::FeedForwardUp => {
                self.feed_forward_layer(tensor, 0)?;
                recipe.default
            }
            Role::FeedForwardDown => {
                let layer = self.feed_forward_layer(tensor, self.seen_feed_forward_down)?;
                self.seen_feed_forward_down += 1;
                let place = Place { layer, layers: self.model.layers };
                exception(recipe, &self.model, recipe.feed_forward_down, place)
            }
            _ => recipe.default,
        })
    }

    fn attention_value_format(&mut self) -> GgmlType {
        let model = &self.model;
        let place = Place { layer: self.seen_attention_value, layers: model.attention_values };
        self.seen_attention_value += 1;
        if model.experts == 8 {
            return GgmlType::Q8_0;
        }
        let format = exception(self.recipe, model, self.recipe.attention_value, place);
        // Eight query heads share a value head there: more bits cost next to nothing.
        let cheap = matches!(format, GgmlType::Q3_K | GgmlType::Q4_K);
        if model.is_70b && cheap { GgmlType::Q5_K } else { format }
    }

    /// The output matrix, or the token embedding that doubles as one.
    fn output_format(&self, tensor: &TensorInfo) -> GgmlType {
        let default = self.recipe.default;
        let ragged = !tensor.columns().is_multiple_of(default.block_size());
        let is_large = ragged
            || self.model.is_falcon
            || self.recipe.experts.is_some()
            || default == GgmlType::Q8_0;
        self.output_type.unwrap_or(if is_large { GgmlType::Q8_0 } else { GgmlType::Q6_K })
    }

    /// The layer of a feed-forward tensor, of which `seen` came before.
    fn feed_forward_layer(&self, tensor: &TensorInfo, seen: usize) -> Result<usize, RecipeError> {
        // The experts of one layer may be tensors of their own, so counting does not do there.
        if self.model.experts > 1 {
            checked_layer(&tensor.name, self.model.layers)
        } else {
            Ok(seen)
        }
    }
}

fn exception(
    recipe: &Recipe,
    model: &ModelFacts,
    exceptions: &[Exception],
    place: Place,
) -> GgmlType {
    exceptions
        .iter()
        .find(|exception| exception.holds(model, place))
        .map_or(recipe.default, |exception| exception.format)
}

/// Whether a tensor holds the matrices of several experts.
fn is_expert(model: &ModelFacts, role: Role, tensor: &TensorInfo) -> bool {
    let is_feed_forward = matches!(role, Role::FeedForwardUp | Role::FeedForwardDown);
    tensor.dimensions.get(2).is_some_and(|&experts| experts > 1)
        && (model.only_experts_are_stacked || is_feed_forward)
}

/// Matrices that the architecture does not bear with fewer than eight bits.
fn is_kept_precise_in_glm5_next(name: &str) -> bool {
    ["attn_q_a", "attn_q_b", "nextn.eh_proj"].iter().any(|part| name.contains(part))
}

/// `wanted`, or what stands in for it where rows of `columns` weights are not a whole number of blocks.
pub fn fallback(wanted: GgmlType, columns: usize) -> GgmlType {
    let fits = |format: GgmlType| columns.is_multiple_of(format.block_size());
    if fits(wanted) {
        return wanted;
    }
    let smaller = match wanted {
        GgmlType::Q2_K | GgmlType::Q3_K => GgmlType::Q4_0,
        GgmlType::Q4_K => GgmlType::Q5_0,
        GgmlType::Q5_K => GgmlType::Q5_1,
        GgmlType::Q6_K => GgmlType::Q8_0,
        GgmlType::IQ4_XS => GgmlType::IQ4_NL,
        _ => GgmlType::F16,
    };
    if fits(smaller) { smaller } else { GgmlType::F16 }
}

#[cfg(test)]
mod tests;
