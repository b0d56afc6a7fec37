//! Loading a decoder's tensors.

use rayon::prelude::*;

use super::ModelError;
use super::ops::{AttentionSpec, Buffer, HeadNorms, Norm, Ops, Slot, Source, View, Weight};
use super::profile::Operation;
use super::rotary::{RopeChoice, RopeFrequencies};
use super::spec::{DecoderSpec, tensor_values};
use crate::family::layer::{
    self, Activation, Attention, FeedForward, FeedForwardKind, Mixer, Projection as Projected,
};
use crate::family::longrope::{LONG_DIVISORS, SHORT_DIVISORS};
use crate::family::rope::{Divisors, LongRope, Rope};
use crate::gguf::{GgufFile, TensorInfo};
use crate::kernels::attention::{AttentionShape, KvLayer, KvShape};
use crate::support::progress::{Progress, Unit};

/// Matrices that are multiplied with the same input.
#[derive(Debug)]
pub(super) struct Projection<O: Ops> {
    /// What their product is counted as.
    pub(super) operation: Operation,
    /// The matrices' names in the file.
    pub(super) tensors: Vec<String>,
    /// The matrices, with their biases where they have any.
    pub(super) weights: Vec<Weight<O>>,
    /// Where each product goes.
    pub(super) slots: Vec<Slot>,
    /// Their columns.
    pub(super) columns: usize,
    /// Weights of all of them together.
    pub(super) elements: u64,
}

/// One decoder layer.
#[derive(Debug)]
pub(super) struct Layer<O: Ops> {
    pub(super) attention_norm: Option<Norm<O::Vector>>,
    pub(super) queries_keys_values: Projection<O>,
    pub(super) attention: AttentionSpec<O::Vector>,
    pub(super) attention_output: Projection<O>,
    pub(super) attention_post_norm: Option<Norm<O::Vector>>,
    pub(super) feed_forward_norm: Option<Norm<O::Vector>>,
    pub(super) gate_up: Projection<O>,
    pub(super) hidden: Hidden,
    pub(super) down: Projection<O>,
    pub(super) feed_forward_post_norm: Option<Norm<O::Vector>>,
    /// Whether the feed-forward network reads what attention read.
    pub(super) parallel: bool,
    pub(super) residual_scale: f32,
    pub(super) layer_embedding: Option<LayerEmbedding<O>>,
    /// Factor on the residual stream at the end.
    pub(super) output_scale: Option<f32>,
}

/// What a layer does with its own embeddings of the tokens.
#[derive(Debug)]
pub(super) struct LayerEmbedding<O: Ops> {
    pub(super) gate: Projection<O>,
    pub(super) hidden: Hidden,
    pub(super) projection: Projection<O>,
    pub(super) post_norm: Norm<O::Vector>,
}

/// What makes the layers' own embeddings complete, beside what is looked up: norms of what a matrix
/// makes of the first layer's input.
#[derive(Debug)]
pub(super) struct LayerEmbeddings<O: Ops> {
    pub(super) projection: Projection<O>,
    pub(super) norm: Norm<O::Vector>,
    /// Elements of a layer's.
    pub(super) width: usize,
    /// Factor on the norms.
    pub(super) scale: f32,
}

/// What the last matrix of a feed-forward network is multiplied with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hidden {
    pub(super) activation: Activation,
    /// What goes through the activation, where something else is multiplied with it.
    pub(super) gate: Option<View>,
    pub(super) up: View,
}

impl Hidden {
    pub(super) fn source<V>(self) -> Source<'static, V> {
        match self.gate {
            Some(gate) => Source::Gated(self.activation, gate, self.up),
            None => Source::Activated(self.activation, self.up),
        }
    }
}

impl<O: Ops> Layer<O> {
    fn projections(&self) -> impl Iterator<Item = &Projection<O>> {
        let own = self.layer_embedding.iter().flat_map(|own| [&own.gate, &own.projection]);
        [&self.queries_keys_values, &self.attention_output, &self.gate_up, &self.down]
            .into_iter()
            .chain(own)
    }

    fn projections_mut(&mut self) -> impl Iterator<Item = &mut Projection<O>> {
        let own = self.layer_embedding.iter_mut();
        let own = own.flat_map(|own| [&mut own.gate, &mut own.projection]);
        [
            &mut self.queries_keys_values,
            &mut self.attention_output,
            &mut self.gate_up,
            &mut self.down,
        ]
        .into_iter()
        .chain(own)
    }
}

/// A decoder's weights, but for the token embedding, which stays in the file.
#[derive(Debug)]
pub(super) struct Weights<O: Ops> {
    pub(super) layer_embeddings: Option<LayerEmbeddings<O>>,
    pub(super) layers: Vec<Layer<O>>,
    pub(super) output_norm: Norm<O::Vector>,
    pub(super) output: Projection<O>,
    /// The rotary embeddings that layers name by their place.
    pub(super) ropes: Vec<RopeChoice>,
}

impl<O: Ops> Weights<O> {
    /// Loads the tensors of a file, which have been checked.
    pub(super) fn load(file: &GgufFile, spec: &DecoderSpec, ops: &O) -> Result<Self, ModelError> {
        let ropes = Ropes::of(spec);
        let slots = slots(spec);
        let loader = Loader { file, ops, spec, ropes: &ropes, slots: &slots };
        let total = file.tensors().iter().map(TensorInfo::bytes).sum();
        let progress = Progress::new("Loading", total, Unit::Bytes);
        let layers = (0..spec.layers.len()).into_par_iter().map(|index| {
            let layer = loader.layer(index);
            progress.advance(loader.layer_bytes(index));
            layer
        });
        let layers = layers.collect::<Result<_, _>>()?;
        let output = if file.tensor("output.weight").is_some() { "output" } else { "token_embd" };
        let logits = [Slot::Buffer(Buffer::Logits)];
        let weights = Self {
            layer_embeddings: loader.layer_embeddings()?,
            layers,
            output_norm: loader.norm("", &spec.frame.output_norm)?,
            output: loader.projection(Operation::Output, "", &[output], &logits)?,
            ropes: ropes
                .all
                .iter()
                .map(|rope| loader.frequencies(rope))
                .collect::<Result<_, _>>()?,
        };
        progress.finish();
        Ok(weights)
    }

    fn projections(&self) -> impl Iterator<Item = &Projection<O>> {
        let embeddings = self.layer_embeddings.iter().map(|own| &own.projection);
        embeddings.chain(self.layers.iter().flat_map(Layer::projections)).chain([&self.output])
    }

    /// All matrices, in the order in which a step comes to them.
    pub(super) fn matrices(&self) -> impl Iterator<Item = (&str, &O::Matrix)> {
        self.projections().flat_map(|projection| {
            let matrices = projection.weights.iter().map(|weight| &weight.matrix);
            projection.tensors.iter().map(String::as_str).zip(matrices)
        })
    }

    /// What the product with each matrix is counted as.
    pub(super) fn operations(&self) -> impl Iterator<Item = (&str, Operation)> {
        self.projections().flat_map(|projection| {
            projection.tensors.iter().map(|name| (name.as_str(), projection.operation))
        })
    }

    /// The matrix with this name.
    pub(super) fn matrix_mut(&mut self, name: &str) -> Option<&mut O::Matrix> {
        let layers = self.layers.iter_mut().flat_map(Layer::projections_mut);
        let embeddings = self.layer_embeddings.iter_mut().map(|own| &mut own.projection);
        layers.chain(embeddings).chain([&mut self.output]).find_map(|projection| {
            let position = projection.tensors.iter().position(|tensor| tensor == name)?;
            Some(&mut projection.weights[position].matrix)
        })
    }
}

/// What a position's keys and values consist of, layer by layer that keeps its own.
pub(super) fn kv_shape(spec: &DecoderSpec) -> KvShape {
    let own = spec.layers.iter().filter_map(|layer| {
        let Mixer::Attention(attention) = &layer.mixer;
        let Attention { kv_heads, head_size, shares_with, .. } = *attention;
        shares_with.is_none().then_some(KvLayer { kv_heads, head_size })
    });
    KvShape::new(own)
}

/// Which of a cache's layers each layer of the decoder reads.
fn slots(spec: &DecoderSpec) -> Vec<usize> {
    let mut slots: Vec<usize> = Vec::new();
    let mut next = 0;
    for layer in &spec.layers {
        let Mixer::Attention(attention) = &layer.mixer;
        slots.push(match attention.shares_with {
            Some(other) => slots[other],
            None => {
                next += 1;
                next - 1
            }
        });
    }
    slots
}

/// The different rotary embeddings of a decoder's layers.
struct Ropes {
    all: Vec<Rope>,
}

impl Ropes {
    fn of(spec: &DecoderSpec) -> Self {
        let mut all: Vec<Rope> = Vec::new();
        for layer in &spec.layers {
            let Mixer::Attention(attention) = &layer.mixer;
            match &attention.rope {
                Some(rope) if !all.contains(rope) => all.push(rope.clone()),
                _ => {}
            }
        }
        Self { all }
    }

    fn place(&self, rope: &Rope) -> Option<usize> {
        self.all.iter().position(|one| one == rope)
    }
}

struct Loader<'a, O> {
    file: &'a GgufFile,
    ops: &'a O,
    spec: &'a DecoderSpec,
    ropes: &'a Ropes,
    slots: &'a [usize],
}

impl<O: Ops> Loader<'_, O> {
    fn layer(&self, index: usize) -> Result<Layer<O>, ModelError> {
        let spec = &self.spec.layers[index];
        let Mixer::Attention(attention) = &spec.mixer;
        let FeedForward { norm, kind, activation, post_norm } = &spec.feed_forward;
        let prefix = format!("blk.{index}.");
        let optional = |norm: &Option<layer::Norm>| {
            norm.as_ref().map(|norm| self.norm(&prefix, norm)).transpose()
        };
        // What is normalized before it is added waits in a buffer.
        let back = |post_norm: &Option<layer::Norm>| match post_norm {
            Some(_) => Slot::Buffer(Buffer::Branch),
            None => Slot::Residual(spec.residual_scale),
        };
        let (names, slots) = query_key_value(attention.projection);
        let (gate_up, gate_up_slots) = match kind {
            FeedForwardKind::Gated => {
                (&["ffn_gate", "ffn_up"][..], &[Buffer::Gate, Buffer::Up].map(Slot::Buffer)[..])
            }
            FeedForwardKind::FusedGated | FeedForwardKind::Plain => {
                (&["ffn_up"][..], &[Buffer::Up].map(Slot::Buffer)[..])
            }
        };
        Ok(Layer {
            attention_norm: optional(&attention.norm)?,
            queries_keys_values: self.projection(
                Operation::QueryKeyValue,
                &prefix,
                names,
                slots,
            )?,
            attention: self.attention(index, &prefix, attention)?,
            attention_output: self.projection(
                Operation::AttentionOutput,
                &prefix,
                &[attention.output],
                &[back(&attention.post_norm)],
            )?,
            attention_post_norm: optional(&attention.post_norm)?,
            feed_forward_norm: optional(norm)?,
            gate_up: self.projection(Operation::GateUp, &prefix, gate_up, gate_up_slots)?,
            hidden: hidden(*kind, *activation, self.spec.dimensions.feed_forward.at(index)),
            down: self.projection(Operation::Down, &prefix, &["ffn_down"], &[back(post_norm)])?,
            feed_forward_post_norm: optional(post_norm)?,
            parallel: spec.parallel,
            residual_scale: spec.residual_scale,
            layer_embedding: match &spec.layer_embedding {
                Some(own) => Some(self.layer_embedding(index, &prefix, own)?),
                None => None,
            },
            output_scale: match spec.output_scale {
                Some(part) => self.number(&format!("{prefix}{part}.weight"))?,
                None => None,
            },
        })
    }

    fn layer_embeddings(&self) -> Result<Option<LayerEmbeddings<O>>, ModelError> {
        let Some(spec) = &self.spec.frame.layer_embeddings else { return Ok(None) };
        let branch = [Slot::Buffer(Buffer::Branch)];
        let matrix = ["per_layer_model_proj"];
        let mut norm = self.norm("", &spec.projection_norm)?;
        // The norm of s · x is that of x with ε / s².
        norm.epsilon /= spec.projection_scale * spec.projection_scale;
        Ok(Some(LayerEmbeddings {
            projection: self.projection(Operation::LayerEmbedding, "", &matrix, &branch)?,
            norm,
            width: spec.width,
            scale: spec.input_scale,
        }))
    }

    fn layer_embedding(
        &self,
        index: usize,
        prefix: &str,
        spec: &layer::LayerEmbedding,
    ) -> Result<LayerEmbedding<O>, ModelError> {
        let projection = |part: &str, buffer| {
            let slots = [Slot::Buffer(buffer)];
            self.projection(Operation::LayerEmbedding, prefix, &[part], &slots)
        };
        let width = self.spec.frame.layer_embeddings.as_ref().map_or(0, |all| all.width);
        let own = View { buffer: Buffer::LayerEmbeddings, start: index * width, width };
        Ok(LayerEmbedding {
            gate: projection("inp_gate", Buffer::Gate)?,
            hidden: Hidden {
                activation: spec.activation,
                gate: Some(View::whole(Buffer::Gate, width)),
                up: own,
            },
            projection: projection("proj", Buffer::Branch)?,
            post_norm: self.norm(prefix, &spec.post_norm)?,
        })
    }

    /// The number that a tensor consists of, if the file has it.
    fn number(&self, name: &str) -> Result<Option<f32>, ModelError> {
        Ok(tensor_values(self.file, name)?.and_then(|values| values.first().copied()))
    }

    fn attention(
        &self,
        index: usize,
        prefix: &str,
        attention: &Attention,
    ) -> Result<AttentionSpec<O::Vector>, ModelError> {
        let head_norm = |part: &'static str, norms: &layer::HeadNorms| {
            let norm = layer::Norm { kind: norms.kind, tensor: part, epsilon: norms.epsilon };
            self.norm(prefix, &norm)
        };
        let head_norms = match &attention.head_norms {
            None => None,
            Some(norms) => Some(HeadNorms {
                queries: head_norm("attn_q_norm", norms)?,
                keys: match attention.projection {
                    Projected::QueriesOnly => None,
                    _ => Some(head_norm("attn_k_norm", norms)?),
                },
                whole_rows: norms.whole_rows,
            }),
        };
        let (queries, keys_values) = views(attention);
        Ok(AttentionSpec {
            shape: AttentionShape {
                heads: attention.heads,
                kv_heads: attention.kv_heads,
                head_size: attention.head_size,
                scale: attention.scale,
                softcap: attention.softcap,
                window: attention.window,
                alibi: attention.alibi,
            },
            slot: self.slots[index],
            queries,
            keys_values,
            head_norms,
            value_norm: attention.value_norm,
            rotation: attention.rope.as_ref().and_then(|rope| self.ropes.place(rope)),
            halves: attention.rope.as_ref().is_some_and(Rope::turns_halves),
            has_query_factors: attention.temperature.is_some(),
        })
    }

    fn layer_bytes(&self, index: usize) -> u64 {
        let prefix = format!("blk.{index}.");
        let own = self.file.tensors().iter().filter(|tensor| tensor.name.starts_with(&prefix));
        own.map(TensorInfo::bytes).sum()
    }

    /// The matrices `<prefix><part>.weight` with their biases, where they have any.
    fn projection(
        &self,
        operation: Operation,
        prefix: &str,
        parts: &[&str],
        slots: &[Slot],
    ) -> Result<Projection<O>, ModelError> {
        let names: Vec<String> = parts.iter().map(|part| format!("{prefix}{part}")).collect();
        let tensors: Vec<String> = names.iter().map(|name| format!("{name}.weight")).collect();
        let infos = tensors.iter().map(|name| self.info(name)).collect::<Result<Vec<_>, _>>()?;
        Ok(Projection {
            operation,
            weights: names.iter().map(|name| self.weight(name)).collect::<Result<_, _>>()?,
            slots: slots.to_vec(),
            columns: infos[0].columns(),
            elements: infos.iter().map(|tensor| tensor.weights()).sum(),
            tensors,
        })
    }

    fn weight(&self, name: &str) -> Result<Weight<O>, ModelError> {
        let tensor = self.info(&format!("{name}.weight"))?;
        let bytes = self.file.tensor_bytes(tensor);
        let matrix = self
            .ops
            .matrix(tensor.ggml_type, tensor.rows(), tensor.columns(), bytes)
            .map_err(|error| self.unsupported(&format!("the tensor {}: {error}", tensor.name)))?;
        self.file.release_tensor(tensor);
        Ok(Weight { matrix, bias: self.vector(&format!("{name}.bias"))? })
    }

    fn norm(&self, prefix: &str, norm: &layer::Norm) -> Result<Norm<O::Vector>, ModelError> {
        let name = |ending: &str| format!("{prefix}{}.{ending}", norm.tensor);
        Ok(Norm {
            kind: norm.kind,
            weight: self.vector(&name("weight"))?,
            bias: self.vector(&name("bias"))?,
            epsilon: norm.epsilon,
        })
    }

    /// A vector, if the file has it.
    fn vector(&self, name: &str) -> Result<Option<O::Vector>, ModelError> {
        Ok(tensor_values(self.file, name)?.map(|values| self.ops.vector(values)).transpose()?)
    }

    fn frequencies(&self, rope: &Rope) -> Result<RopeChoice, ModelError> {
        let with = |divisors: Option<Vec<f32>>| RopeFrequencies::new(rope, divisors.as_deref());
        let (usual, long) = match rope.divisors {
            Divisors::None => (with(None), None),
            Divisors::Tensor(name) => (with(self.divisors(name, rope)?), None),
            Divisors::BySequenceLength(LongRope { original_context, .. }) => {
                let long = with(self.divisors(LONG_DIVISORS, rope)?);
                (with(self.divisors(SHORT_DIVISORS, rope)?), Some((original_context, long)))
            }
        };
        Ok(RopeChoice { usual, long })
    }

    /// The divisors of a rotary embedding's frequencies, if the file has this tensor.
    fn divisors(&self, name: &str, rope: &Rope) -> Result<Option<Vec<f32>>, ModelError> {
        match tensor_values(self.file, name)? {
            Some(values) if values.len() != rope.size / 2 => Err(self.unsupported(&format!(
                "the tensor {name} should have {} divisors, one for each pair of elements that turn, \
                 but has {}",
                rope.size / 2,
                values.len()
            ))),
            divisors => Ok(divisors),
        }
    }

    fn info(&self, name: &str) -> Result<&TensorInfo, ModelError> {
        self.file
            .tensor(name)
            .ok_or_else(|| self.unsupported(&format!("the tensor {name} is missing")))
    }

    fn unsupported(&self, problem: &str) -> ModelError {
        ModelError::unsupported(self.file.path(), problem)
    }
}

/// The matrices of queries, keys and values, and where their products go.
fn query_key_value(projection: Projected) -> (&'static [&'static str], &'static [Slot]) {
    const SLOTS: [Slot; 3] =
        [Slot::Buffer(Buffer::Queries), Slot::Buffer(Buffer::Keys), Slot::Buffer(Buffer::Values)];
    match projection {
        Projected::Split => (&["attn_q", "attn_k", "attn_v"], &SLOTS),
        Projected::SharedKeyValue => (&["attn_q", "attn_k"], SLOTS.split_at(2).0),
        Projected::Fused => (&["attn_qkv"], SLOTS.split_at(1).0),
        Projected::QueriesOnly => (&["attn_q"], SLOTS.split_at(1).0),
    }
}

/// Where queries, and keys and values, lie after their products.
fn views(attention: &Attention) -> (View, Option<[View; 2]>) {
    let (queries, keys) = (attention.query_width(), attention.key_width());
    let part = |start, width| View { buffer: Buffer::Queries, start, width };
    let whole = |buffer| View::whole(buffer, keys);
    let keys_values = match attention.projection {
        Projected::Split => Some([whole(Buffer::Keys), whole(Buffer::Values)]),
        Projected::SharedKeyValue => Some([whole(Buffer::Keys); 2]),
        Projected::Fused => Some([part(queries, keys), part(queries + keys, keys)]),
        Projected::QueriesOnly => None,
    };
    (part(0, queries), keys_values)
}

fn hidden(kind: FeedForwardKind, activation: Activation, width: usize) -> Hidden {
    let up = |start| View { buffer: Buffer::Up, start, width };
    match kind {
        FeedForwardKind::Gated => {
            Hidden { activation, gate: Some(View::whole(Buffer::Gate, width)), up: up(0) }
        }
        FeedForwardKind::FusedGated => Hidden { activation, gate: Some(up(0)), up: up(width) },
        FeedForwardKind::Plain => Hidden { activation, gate: None, up: up(0) },
    }
}
