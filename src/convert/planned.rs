//! Which tensor of a checkpoint becomes which of the GGUF file, and how its weights are found.

use std::collections::HashMap;
use std::path::Path;

use super::error::ConvertError;
use super::weights::WeightType;
use crate::checkpoint::config::Config;
use crate::checkpoint::{CheckpointTensors, TensorView};
use crate::family::{Dimensions, Family, RowOrder, TensorSpec};
use crate::gguf::{GgmlType, TensorInfo};

/// Buffers that old checkpoints carry and nothing needs.
const IGNORED_ENDINGS: [&str; 3] =
    [".rotary_emb.inv_freq", ".attention.masked_bias", ".attention.bias"];

/// What the names of the text part begin with, in models that have other parts; and what they begin
/// with in a model of text alone.
const TEXT_PREFIXES: [(&str, &str); 4] = [
    ("model.language_model.", "model."),
    ("language_model.model.", "model."),
    ("language_model.", ""),
    ("model.text_model.", "model."),
];

/// What the names of checkpoints lack that were saved without their output matrix.
const BODY_PREFIXES: [&str; 2] = ["transformer.", "model."];

/// A tensor of the output and where its data comes from.
pub(super) struct Planned {
    pub(super) info: TensorInfo,
    pub(super) origin: Origin,
}

/// Where a tensor's data comes from.
#[derive(Debug)]
pub(super) enum Origin {
    /// The checkpoint.
    Stored(Stored),
    /// Bytes that are computed from config.json.
    Computed(Vec<u8>),
}

/// How a tensor's weights lie in the checkpoint.
#[derive(Debug)]
pub(super) struct Stored {
    /// The tensors there; several lie one behind another.
    pub(super) names: Vec<String>,
    /// Their type.
    pub(super) from: GgmlType,
    /// What is added to each weight.
    pub(super) added: f32,
    order: RowOrder,
    transposed: bool,
    /// Rows of the output.
    rows: usize,
    /// Weights of a row of the output.
    row_length: usize,
}

/// Weights that follow each other in the output, and have the same distance from each other in one of
/// the checkpoint's tensors.
pub(super) struct Run {
    /// Which of the tensors.
    pub(super) tensor: usize,
    /// How many weights there are.
    pub(super) length: usize,
    /// Where the first is, in weights.
    start: usize,
    /// From one to the next, in weights.
    stride: usize,
}

impl Stored {
    /// Whether the output's weights are those of one tensor, in its order.
    pub(super) fn is_plain(&self) -> bool {
        self.names.len() == 1 && self.in_order() && self.added == 0.0
    }

    fn in_order(&self) -> bool {
        self.order == RowOrder::Same && !self.transposed
    }

    /// The run that begins with a weight of the output.
    pub(super) fn run(&self, weight: usize) -> Run {
        let total = self.rows * self.row_length;
        let rows_a_tensor = self.rows / self.names.len();
        if self.in_order() {
            // Where rows keep their order, it does not matter where they end.
            let weights = total / self.names.len();
            let (tensor, start) = (weight / weights, weight % weights);
            return Run { tensor, start, stride: 1, length: weights - start };
        }
        let (row, column) = (weight / self.row_length, weight % self.row_length);
        let row = self.order.checkpoint_row(row, self.rows);
        let (tensor, row) = (row / rows_a_tensor, row % rows_a_tensor);
        let length = self.row_length - column;
        if self.transposed {
            let start = column * rows_a_tensor + row;
            Run { tensor, start, stride: rows_a_tensor, length }
        } else {
            Run { tensor, start: row * self.row_length + column, stride: 1, length }
        }
    }

    /// The bytes of the first `count` weights of a run, brought together where they lie apart.
    pub(super) fn gather<'a>(
        &self,
        bytes: &'a [u8],
        run: &Run,
        count: usize,
        gathered: &'a mut Vec<u8>,
    ) -> &'a [u8] {
        let size = self.from.block_bytes();
        if run.stride == 1 {
            return &bytes[run.start * size..(run.start + count) * size];
        }
        gathered.clear();
        for weight in 0..count {
            let at = (run.start + weight * run.stride) * size;
            gathered.extend_from_slice(&bytes[at..at + size]);
        }
        gathered
    }
}

/// llama.cpp's converter goes through the shards by name, and through each shard's tensors by name.
pub(super) fn in_converter_order<'a>(
    checkpoint: &'a CheckpointTensors,
    family: &Family,
) -> Vec<TensorView<'a>> {
    let ignored = |name: &str| {
        IGNORED_ENDINGS.iter().chain(family.ignored).any(|ending| name.ends_with(ending))
    };
    let mut views: Vec<TensorView<'_>> =
        checkpoint.iter().filter(|view| !ignored(view.name)).collect();
    views.sort_by(|a, b| (a.path, a.name).cmp(&(b.path, b.name)));
    views
}

/// Pairs each tensor of the checkpoint with the family's tensor that it becomes.
pub(super) fn plan(
    directory: &Path,
    family: &Family,
    config: &Config,
    model: &Dimensions,
    views: &[TensorView<'_>],
    weight_type: WeightType,
) -> Result<Vec<Planned>, ConvertError> {
    let unusable =
        |problem: String| ConvertError::unusable(&directory.join("config.json"), problem);
    let tied = config.truth(&["tie_word_embeddings"]).map_err(unusable)?.unwrap_or(family.tied);
    let mut specs = (family.tensors)(model);
    for spec in &mut specs {
        spec.optional &= spec.gguf != OUTPUT || tied;
    }
    let computed = (family.computed)(config, model).map_err(unusable)?;
    let mut planned: Vec<Planned> = computed
        .into_iter()
        .map(|tensor| Planned {
            info: info(tensor.name.to_string(), &[tensor.values.len()], GgmlType::F32),
            origin: Origin::Computed(
                tensor.values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            ),
        })
        .collect();
    let mut finder = Finder::new(&specs);
    for view in views {
        match finder.find(view, config)? {
            Found::Whole(spec, views) => planned.push(planned_tensor(spec, &views, weight_type)?),
            Found::Part => {}
            Found::Other => {}
        }
    }
    finder.finish(directory, family, model)?;
    Ok(planned)
}

/// The output matrix, which a model whose config ties it to the embedding may do without.
const OUTPUT: &str = "output.weight";

/// What a tensor of the checkpoint is.
enum Found<'a, 'v> {
    /// The last that a tensor of the family was waiting for; all of its parts.
    Whole(&'a TensorSpec, Vec<TensorView<'v>>),
    /// One of several that a tensor of the family is made of.
    Part,
    /// Of another part of the model than text.
    Other,
}

/// The family's tensors that have not been found yet.
struct Finder<'a, 'v> {
    specs: &'a [TensorSpec],
    /// By the checkpoint's name: which tensor, and which of its parts.
    places: HashMap<&'a str, (usize, usize)>,
    /// The parts that have been found of each tensor.
    parts: Vec<Vec<Option<TensorView<'v>>>>,
    /// Tensors of other parts than text.
    others: usize,
}

impl<'a, 'v> Finder<'a, 'v> {
    fn new(specs: &'a [TensorSpec]) -> Self {
        let mut places = HashMap::new();
        for (index, spec) in specs.iter().enumerate() {
            for (part, name) in spec.checkpoint.iter().enumerate() {
                places.insert(name.as_str(), (index, part));
            }
        }
        let parts = specs.iter().map(|spec| vec![None; spec.checkpoint.len()]).collect();
        Self { specs, places, parts, others: 0 }
    }

    fn find(
        &mut self,
        view: &TensorView<'v>,
        config: &Config,
    ) -> Result<Found<'a, 'v>, ConvertError> {
        let whole = |name: &&str| self.places.contains_key(*name);
        let mut of_body = BODY_PREFIXES.iter().map(|prefix| format!("{prefix}{}", view.name));
        let of_body = of_body.find(|name| whole(&name.as_str()));
        let of_text = TEXT_PREFIXES.iter().find_map(|(prefix, plain)| {
            Some(format!("{plain}{}", view.name.strip_prefix(prefix)?))
        });
        let is_text = of_text.is_some();
        let other = of_text.filter(|name| whole(&name.as_str())).or(of_body);
        let name = other.as_deref().unwrap_or(view.name);
        let Some((index, part)) = self.places.remove(name) else {
            if config.has_text_part() && !is_text {
                self.others += 1;
                return Ok(Found::Other);
            }
            return Err(ConvertError::unusable(
                view.path,
                format!(
                    "tensor \"{}\" has no place in a model of this architecture and config.json: \
                     it computes something that quantkit does not know",
                    view.name
                ),
            ));
        };
        let spec = &self.specs[index];
        check_shape(view, spec)?;
        self.parts[index][part] = Some(*view);
        let parts: Option<Vec<TensorView<'v>>> = self.parts[index].iter().copied().collect();
        Ok(parts.map_or(Found::Part, |parts| Found::Whole(spec, parts)))
    }

    /// Refuses a checkpoint in which something is missing, and says what was left.
    fn finish(
        self,
        directory: &Path,
        family: &Family,
        model: &Dimensions,
    ) -> Result<(), ConvertError> {
        for (spec, parts) in self.specs.iter().zip(&self.parts) {
            let found = parts.iter().flatten().count();
            if found < parts.len() && (found > 0 || !spec.optional) {
                let position = parts.iter().position(Option::is_none).unwrap_or(0);
                return Err(ConvertError::unusable(
                    directory,
                    format!(
                        "tensor \"{}\" is missing; a model of the architecture {} with {} layers \
                         needs it",
                        spec.checkpoint[position], family.gguf, model.layers
                    ),
                ));
            }
        }
        if self.others > 0 {
            tracing::warn!(
                "{}: {} tensors of other parts than the text model (for images or sound) are left \
                 out",
                directory.display(),
                self.others
            );
        }
        Ok(())
    }
}

fn check_shape(view: &TensorView<'_>, spec: &TensorSpec) -> Result<(), ConvertError> {
    let expected = spec.checkpoint_shape();
    if view.shape == expected && spec.rows.fits(spec.row_count()) {
        return Ok(());
    }
    Err(ConvertError::unusable(
        view.path,
        format!(
            "tensor \"{}\" has shape {:?}, but config.json asks for {expected:?}",
            view.name, view.shape
        ),
    ))
}

fn planned_tensor(
    spec: &TensorSpec,
    views: &[TensorView<'_>],
    weight_type: WeightType,
) -> Result<Planned, ConvertError> {
    let from = views[0].float_type()?;
    if let Some(other) = views.iter().find(|view| view.float_type().ok() != Some(from)) {
        return Err(ConvertError::unusable(
            other.path,
            format!("tensor \"{}\" is not {from} as \"{}\" is", other.name, views[0].name),
        ));
    }
    let ggml_type = if is_kept_exact(spec) { GgmlType::F32 } else { weight_type.ggml_type() };
    Ok(Planned {
        info: info(spec.gguf.clone(), &spec.shape, ggml_type),
        origin: Origin::Stored(Stored {
            names: views.iter().map(|view| view.name.to_string()).collect(),
            from,
            added: spec.added,
            order: spec.rows,
            transposed: spec.transposed,
            rows: spec.row_count(),
            row_length: spec.row_length(),
        }),
    })
}

/// Whether llama.cpp's converter writes a tensor in 32 bits whatever is asked for: vectors, norms, and
/// tables that activations are not multiplied with.
fn is_kept_exact(spec: &TensorSpec) -> bool {
    const EXACT: [&str; 1] = ["position_embd.weight"];
    spec.shape.len() < 2
        || spec.gguf.ends_with("_norm.weight")
        || !spec.gguf.ends_with(".weight")
        || EXACT.contains(&spec.gguf.as_str())
}

fn info(name: String, shape: &[usize], ggml_type: GgmlType) -> TensorInfo {
    let dimensions = shape.iter().rev().map(|&length| length as u64).collect();
    TensorInfo { name, dimensions, ggml_type, offset: 0 }
}
