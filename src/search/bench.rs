//! The model that is measured: what becomes of its predictions when matrices change.

use std::ops::Range;

use super::coding::Coder;
use super::error::SearchError;
use super::measurements::{Measurements, Pair};
use crate::eval::text::divergence::{Divergence, PositionDivergence, compare_rows};
use crate::eval::text::windows::first_scored;
use crate::gguf::{GgmlType, TensorInfo};
use crate::model::{Decoder, Residual, StandIn};
use crate::quant::recipe::{Role, layer_of};
use crate::support::interrupt;
use crate::support::progress::{Progress, Unit};

/// A window of a text and its place there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window<'a> {
    pub(super) index: usize,
    pub(super) tokens: &'a [u32],
}

impl Window<'_> {
    /// The positions whose predictions are compared.
    fn scored(&self) -> Range<usize> {
        first_scored(self.tokens.len())..self.tokens.len() - 1
    }

    /// The tokens that follow them.
    fn next(&self) -> &[u32] {
        &self.tokens[self.scored().start + 1..]
    }
}

/// A tensor that is to be measured in a format.
#[derive(Debug, Clone, Copy)]
pub(super) struct Task<'a> {
    pub(super) tensor: &'a TensorInfo,
    pub(super) format: GgmlType,
}

impl Task<'_> {
    pub(super) fn pair(&self) -> Pair {
        (self.tensor.name.clone(), self.format)
    }

    /// The first layer that has to run again: the tensor's own. Of the embedding it is the first of
    /// all; behind the layers there is only the output.
    fn first_layer(&self, layers: usize) -> usize {
        if self.is_embedding() { 0 } else { layer_of(&self.tensor.name).unwrap_or(layers) }
    }

    fn is_embedding(&self) -> bool {
        Role::of(&self.tensor.name) == Role::TokenEmbedding
    }
}

/// The model with its own weights, between measurements.
#[derive(Debug)]
pub(super) struct Bench<'a> {
    pub(super) decoder: Decoder,
    pub(super) coder: Coder<'a>,
}

impl Bench<'_> {
    fn layers(&self) -> usize {
        self.decoder.layers()
    }

    /// Measures every task alone on every window, but for what has been measured already. The
    /// changed weights are multiplied as f32, so that the error is that of the weights alone.
    pub(super) fn measure(
        &mut self,
        tasks: &[Task<'_>],
        windows: &[Window<'_>],
        measurements: &mut Measurements,
        what: &str,
    ) -> Result<(), SearchError> {
        let layers = self.layers();
        let missing = |window: &Window<'_>, measurements: &Measurements| {
            let mut missing: Vec<Task<'_>> = tasks
                .iter()
                .filter(|task| !measurements.has(&task.pair(), window.index))
                .copied()
                .collect();
            missing.sort_by_key(|task| task.first_layer(layers));
            missing
        };
        let cost = |task: &Task<'_>| (layers - task.first_layer(layers) + 1) as u64;
        let missing_cost = |window| missing(window, measurements).iter().map(cost).sum::<u64>();
        let total = windows.iter().map(missing_cost).sum();
        let progress = Progress::new(what, total, Unit::Items("layers"));
        for window in windows {
            let missing = missing(window, measurements);
            if missing.is_empty() {
                continue;
            }
            let expected = self.expected(window)?;
            let mut reached = (0, self.decoder.begin(window.tokens)?);
            for task in missing {
                interrupt::check()?;
                progress.message(format!("{} {}", task.tensor.name, task.format));
                let first = task.first_layer(layers);
                if reached.0 < first {
                    let residual = self.run(reached.0..first, &reached.1)?;
                    reached = (first, residual);
                }
                match self.measure_one(&task, window, &reached.1, &expected)? {
                    Some(kl) => measurements.add_divergence(&task.pair(), window.index, kl)?,
                    None => measurements.exclude(&task.pair())?,
                }
                progress.advance(cost(&task));
            }
        }
        progress.finish();
        Ok(())
    }

    /// The mean divergence with one matrix changed, or `None` where the logits are not numbers then;
    /// `residual` is the stream before its layer.
    fn measure_one(
        &mut self,
        task: &Task<'_>,
        window: &Window<'_>,
        residual: &Residual,
        expected: &[f32],
    ) -> Result<Option<f64>, SearchError> {
        let rounded = self.coder.rounded(task.tensor, task.format)?;
        let mut stand_in = self.decoder.stand_in(&task.tensor.name, GgmlType::F32, rounded)?;
        self.decoder.exchange(&mut stand_in);
        let first = task.first_layer(self.layers());
        let logits = if task.is_embedding() {
            self.decoder
                .begin(window.tokens)
                .map_err(SearchError::from)
                .and_then(|residual| self.logits(window, 0, &residual))
        } else {
            self.logits(window, first, residual)
        };
        self.decoder.exchange(&mut stand_in);
        let positions = compare_rows(expected, &logits?, window.next());
        Ok(Divergence::of(&positions).ok().map(|divergence| divergence.kl.mean))
    }

    /// The divergence of the whole model in these formats, each run as it would be from a file;
    /// `None` where its logits are not numbers.
    pub(super) fn measure_model(
        &mut self,
        formats: &[(&TensorInfo, GgmlType)],
        windows: &[Window<'_>],
        what: &str,
    ) -> Result<Option<Divergence>, SearchError> {
        let progress = Progress::new(what, 2 * windows.len() as u64, Unit::Items("windows"));
        let mut stand_ins = Vec::new();
        for &(tensor, format) in
            formats.iter().filter(|(tensor, format)| tensor.ggml_type != *format)
        {
            interrupt::check()?;
            let coded = self.coder.encode(tensor, format)?;
            stand_ins.push(self.decoder.stand_in(&tensor.name, format, coded)?);
        }
        let mut positions = Vec::new();
        for window in windows {
            interrupt::check()?;
            let expected = self.expected(window)?;
            progress.advance(1);
            interrupt::check()?;
            positions.extend(self.compare_changed(&mut stand_ins, window, &expected)?);
            progress.advance(1);
        }
        progress.finish();
        Ok(Divergence::of(&positions).ok())
    }

    /// The logits of the model as it is.
    fn expected(&mut self, window: &Window<'_>) -> Result<Vec<f32>, SearchError> {
        let residual = self.decoder.begin(window.tokens)?;
        let logits = self.logits(window, 0, &residual)?;
        if logits.iter().all(|logit| logit.is_finite()) {
            return Ok(logits);
        }
        let problem = "the model's logits are not numbers; the file may be damaged";
        Err(SearchError::unusable(self.coder.file.path(), problem))
    }

    fn compare_changed(
        &mut self,
        stand_ins: &mut [StandIn],
        window: &Window<'_>,
        expected: &[f32],
    ) -> Result<Vec<PositionDivergence>, SearchError> {
        stand_ins.iter_mut().for_each(|stand_in| self.decoder.exchange(stand_in));
        let residual = self.decoder.begin(window.tokens);
        let logits = residual
            .map_err(SearchError::from)
            .and_then(|residual| self.logits(window, 0, &residual));
        stand_ins.iter_mut().for_each(|stand_in| self.decoder.exchange(stand_in));
        Ok(compare_rows(expected, &logits?, window.next()))
    }

    fn run(&mut self, layers: Range<usize>, residual: &Residual) -> Result<Residual, SearchError> {
        Ok(self.decoder.run_layers(layers, residual)?)
    }

    /// The logits of the window's scored positions, from the stream before a layer.
    fn logits(
        &mut self,
        window: &Window<'_>,
        first: usize,
        residual: &Residual,
    ) -> Result<Vec<f32>, SearchError> {
        let last = self.run(first..self.layers(), residual)?;
        Ok(self.decoder.finish(&last, window.scored())?)
    }
}
