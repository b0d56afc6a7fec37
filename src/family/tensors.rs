//! The tensors of a family: how both sides call them, their shapes, and what happens on the way.

use super::dimensions::Dimensions;

/// A tensor of one model, on both sides.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorSpec {
    /// Its GGUF name.
    pub gguf: String,
    /// Its Hugging Face name, without the prefix that models with other parts than text add; several
    /// tensors lie one behind another in the GGUF tensor.
    pub checkpoint: Vec<String>,
    /// Its shape in GGUF, the slow dimension first: rows and columns, or just the length of a vector.
    pub shape: Vec<usize>,
    /// Where the rows of the GGUF tensor are in the checkpoint's.
    pub rows: RowOrder,
    /// Whether the checkpoint has columns for rows.
    pub transposed: bool,
    /// What is added to each weight on the way to GGUF.
    pub added: f32,
    /// Whether a model may do without it.
    pub optional: bool,
}

/// The order of a tensor's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowOrder {
    /// The same on both sides.
    Same,
    /// Hugging Face rotates the two halves of a head against each other, GGUF rotates neighbours.
    Paired {
        /// Heads that the rows are split into.
        heads: usize,
    },
    /// Hugging Face has groups of some query heads, their key head and their value head; GGUF has all
    /// queries, then all keys, then all values.
    Grouped {
        /// Groups: key heads.
        groups: usize,
        /// Query heads of a group.
        queries: usize,
    },
}

impl RowOrder {
    /// The row of the checkpoint's tensor that is row `row` of the GGUF tensor of `rows` rows.
    pub fn checkpoint_row(self, row: usize, rows: usize) -> usize {
        match self {
            Self::Same => row,
            Self::Paired { heads } => {
                let size = rows / heads;
                let (head, within) = (row / size, row % size);
                head * size + (within % 2) * (size / 2) + within / 2
            }
            Self::Grouped { groups, queries } => {
                let size = rows / (groups * (queries + 2));
                let (head, within) = (row / size, row % size);
                let (group, part) = match head.checked_sub(groups * queries) {
                    None => (head / queries, head % queries),
                    Some(rest) => (rest % groups, queries + rest / groups),
                };
                (group * (queries + 2) + part) * size + within
            }
        }
    }

    /// The inverse of [`RowOrder::checkpoint_row`].
    pub fn gguf_row(self, row: usize, rows: usize) -> usize {
        match self {
            Self::Same => row,
            Self::Paired { heads } => {
                let size = rows / heads;
                let (head, within) = (row / size, row % size);
                head * size + (within % (size / 2)) * 2 + within / (size / 2)
            }
            Self::Grouped { groups, queries } => {
                let size = rows / (groups * (queries + 2));
                let (head, within) = (row / size, row % size);
                let (group, part) = (head / (queries + 2), head % (queries + 2));
                let head = match part.checked_sub(queries) {
                    None => group * queries + part,
                    Some(kind) => groups * (queries + kind) + group,
                };
                head * size + within
            }
        }
    }

    /// Whether rows fall into the parts that the order needs.
    pub fn fits(self, rows: usize) -> bool {
        match self {
            Self::Same => true,
            Self::Paired { heads } => heads > 0 && rows.is_multiple_of(2 * heads),
            Self::Grouped { groups, queries } => {
                groups > 0 && rows.is_multiple_of(groups * (queries + 2))
            }
        }
    }
}

impl TensorSpec {
    /// A matrix that is the same on both sides.
    pub fn matrix(
        checkpoint: impl Into<String>,
        gguf: impl Into<String>,
        rows: usize,
        columns: usize,
    ) -> Self {
        Self::new(checkpoint, gguf, vec![rows, columns])
    }

    /// A vector that is the same on both sides.
    pub fn vector(checkpoint: impl Into<String>, gguf: impl Into<String>, length: usize) -> Self {
        Self::new(checkpoint, gguf, vec![length])
    }

    fn new(checkpoint: impl Into<String>, gguf: impl Into<String>, shape: Vec<usize>) -> Self {
        Self {
            gguf: gguf.into(),
            checkpoint: vec![checkpoint.into()],
            shape,
            rows: RowOrder::Same,
            transposed: false,
            added: 0.0,
            optional: false,
        }
    }

    /// The tensor with its rows in another order.
    #[must_use]
    pub fn ordered(self, rows: RowOrder) -> Self {
        Self { rows, ..self }
    }

    /// The tensor with the checkpoint's columns for rows.
    #[must_use]
    pub fn transposed(self) -> Self {
        Self { transposed: true, ..self }
    }

    /// The tensor with a number added to each weight on the way to GGUF.
    #[must_use]
    pub fn plus(self, added: f32) -> Self {
        Self { added, ..self }
    }

    /// A tensor that a model may do without.
    #[must_use]
    pub fn optional(self) -> Self {
        Self { optional: true, ..self }
    }

    /// The shape that each of the checkpoint's tensors has.
    pub fn checkpoint_shape(&self) -> Vec<usize> {
        let mut shape = self.shape.clone();
        if self.checkpoint.len() > 1 {
            shape[0] /= self.checkpoint.len();
            if shape[0] == 1 {
                shape.remove(0);
            }
        }
        if self.transposed {
            shape.reverse();
        }
        shape
    }

    /// Rows of the GGUF tensor: elements of a vector.
    pub fn row_count(&self) -> usize {
        self.shape.first().copied().unwrap_or(0)
    }

    /// Elements of a row of the GGUF tensor: 1 of a vector's.
    pub fn row_length(&self) -> usize {
        self.shape.iter().skip(1).product()
    }
}

/// The tensors of a model under construction. Names are completed by the prefixes of the scope.
#[derive(Debug, Default)]
pub struct TensorList {
    specs: Vec<TensorSpec>,
    checkpoint: String,
    gguf: String,
}

impl TensorList {
    /// No tensors, and no prefixes.
    pub fn new() -> Self {
        Self::default()
    }

    /// From here on, names in the checkpoint and in GGUF begin with these.
    pub fn scope(&mut self, checkpoint: impl Into<String>, gguf: impl Into<String>) {
        (self.checkpoint, self.gguf) = (checkpoint.into(), gguf.into());
    }

    /// A tensor.
    pub fn add(&mut self, mut spec: TensorSpec) {
        for name in &mut spec.checkpoint {
            name.insert_str(0, &self.checkpoint);
        }
        spec.gguf.insert_str(0, &self.gguf);
        self.specs.push(spec);
    }

    /// The matrix `name.weight`.
    pub fn matrix(&mut self, checkpoint: &str, gguf: &str, rows: usize, columns: usize) {
        let [checkpoint, gguf] = [checkpoint, gguf].map(|name| format!("{name}.weight"));
        self.add(TensorSpec::matrix(checkpoint, gguf, rows, columns));
    }

    /// The matrix `name.weight`, and the vector `name.bias` where a model has it.
    pub fn linear(
        &mut self,
        checkpoint: &str,
        gguf: &str,
        rows: usize,
        columns: usize,
        order: RowOrder,
    ) {
        let name = |ending: &str| [checkpoint, gguf].map(|name| format!("{name}.{ending}"));
        let [from, to] = name("weight");
        self.add(TensorSpec::matrix(from, to, rows, columns).ordered(order));
        let [from, to] = name("bias");
        self.add(TensorSpec::vector(from, to, rows).ordered(order).optional());
    }

    /// The weights of a norm, `name.weight`.
    pub fn norm(&mut self, checkpoint: &str, gguf: &str, length: usize) {
        let [checkpoint, gguf] = [checkpoint, gguf].map(|name| format!("{name}.weight"));
        self.add(TensorSpec::vector(checkpoint, gguf, length));
    }

    /// Weights and biases of a norm, `name.weight` and `name.bias`.
    pub fn layer_norm(&mut self, checkpoint: &str, gguf: &str, length: usize) {
        self.norm(checkpoint, gguf, length);
        let [checkpoint, gguf] = [checkpoint, gguf].map(|name| format!("{name}.bias"));
        self.add(TensorSpec::vector(checkpoint, gguf, length));
    }

    /// The matrix `name.weight`, with columns for rows in the checkpoint, and the vector `name.bias`.
    pub fn conv(&mut self, checkpoint: &str, gguf: &str, rows: usize, columns: usize) {
        let name = |ending: &str| [checkpoint, gguf].map(|name| format!("{name}.{ending}"));
        let [from, to] = name("weight");
        self.add(TensorSpec::matrix(from, to, rows, columns).transposed());
        let [from, to] = name("bias");
        self.add(TensorSpec::vector(from, to, rows));
    }

    /// The output matrix, which a model may do without.
    pub fn output(&mut self, checkpoint: &str, model: &Dimensions) {
        let name = format!("{checkpoint}.weight");
        let (rows, columns) = (model.vocabulary, model.hidden);
        self.add(TensorSpec::matrix(name, "output.weight", rows, columns).optional());
    }

    /// The tensors.
    pub fn finish(self) -> Vec<TensorSpec> {
        self.specs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_row_orders_are_permutations_and_their_inverses() {
        let orders = [
            RowOrder::Same,
            RowOrder::Paired { heads: 2 },
            RowOrder::Paired { heads: 6 },
            RowOrder::Grouped { groups: 4, queries: 1 },
            RowOrder::Grouped { groups: 2, queries: 4 },
            RowOrder::Grouped { groups: 1, queries: 10 },
        ];
        for order in orders {
            let rows = 120;
            let rows = if order.fits(rows) { rows } else { panic!("{order:?}") };
            let mut seen = vec![false; rows];
            for row in 0..rows {
                let there = order.checkpoint_row(row, rows);
                assert_eq!(order.gguf_row(there, rows), row, "{order:?}");
                assert!(!std::mem::replace(&mut seen[there], true));
            }
        }
    }

    #[test]
    fn rows_come_from_where_the_checkpoint_has_them() {
        let halves: Vec<_> =
            (0..6).map(|row| RowOrder::Paired { heads: 1 }.checkpoint_row(row, 6)).collect();
        assert_eq!(halves, [0, 3, 1, 4, 2, 5]);
        // Two groups of two queries, a key and a value, each of one row.
        let grouped: Vec<_> = (0..8)
            .map(|row| RowOrder::Grouped { groups: 2, queries: 2 }.checkpoint_row(row, 8))
            .collect();
        assert_eq!(grouped, [0, 1, 4, 5, 2, 6, 3, 7]);
    }

    #[test]
    fn stacked_tensors_share_the_rows() {
        let mut spec = TensorSpec::matrix("norms.0", "attn_q_norm", 4, 8);
        spec.checkpoint = (0..4).map(|head| format!("norms.{head}")).collect();
        assert_eq!(spec.checkpoint_shape(), [8]);
        assert_eq!(TensorSpec::matrix("a", "b", 4, 8).transposed().checkpoint_shape(), [8, 4]);
    }
}
