//! The table of recipes: for each one a default format and, by what a tensor does, the exceptions
//! to it.

use super::model::{ModelFacts, Place};
use crate::gguf::GgmlType::{
    self, BF16, F16, F32, IQ4_NL, IQ4_XS, MXFP4, Q2_K, Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K,
    Q6_K, Q8_0,
};

/// A named choice of formats; one row of the table.
#[derive(Debug, PartialEq)]
pub struct Recipe {
    /// The name that users know, such as `Q4_K_M`.
    pub name: &'static str,
    /// Other names for it.
    pub aliases: &'static [&'static str],
    /// A line about it.
    pub about: &'static str,
    /// llama.cpp's number for it, which goes into the metadata as `general.file_type`.
    pub file_type: u32,
    /// The format of all tensors that nothing else is said about.
    pub default: GgmlType,
    /// Exceptions for attention value projections.
    pub(super) attention_value: &'static [Exception],
    /// Exceptions for attention output projections.
    pub(super) attention_output: &'static [Exception],
    /// Exceptions for feed-forward down projections.
    pub(super) feed_forward_down: &'static [Exception],
    /// Whether experts have a format of their own and what all others have then.
    pub(super) experts: Option<Experts>,
    /// Whether there is no mixture of this name, so that it has to be asked for without one.
    pub only_pure: bool,
}

/// A format for tensors of some role, where all conditions hold.
#[derive(Debug, PartialEq)]
pub(super) struct Exception {
    when: &'static [Condition],
    pub(super) format: GgmlType,
}

/// What an exception may depend on.
#[derive(Debug, PartialEq)]
enum Condition {
    /// The layer is one of the first so many.
    First(usize),
    /// The layer is in the first eighth.
    FirstEighth,
    /// The layer is in the first sixteenth.
    FirstSixteenth,
    /// The layer is in the first or last eighth or every third between them.
    Sensitive,
    /// Four or more query heads share a value head, so that value projections are small.
    SharedValues,
    /// The model has eight experts.
    EightExperts,
    /// The architecture is falcon.
    Falcon,
    /// The architecture is another than falcon.
    NotFalcon,
    /// The columns' importance is known.
    WithImportance,
    /// The columns' importance is not known.
    WithoutImportance,
}

use Condition::{
    EightExperts, Falcon, First, FirstEighth, FirstSixteenth, NotFalcon, Sensitive, SharedValues,
    WithImportance, WithoutImportance,
};

impl Condition {
    fn holds(&self, model: &ModelFacts, place: Place) -> bool {
        let Place { layer, layers } = place;
        let eighth = layers / 8;
        match *self {
            First(count) => layer < count,
            FirstEighth => layer < eighth,
            FirstSixteenth => layer < layers / 16,
            Sensitive => {
                layer < eighth || layer >= layers.saturating_mul(7) / 8 || (layer - eighth) % 3 == 2
            }
            SharedValues => model.queries_per_value >= 4,
            EightExperts => model.experts == 8,
            Falcon => model.is_falcon,
            NotFalcon => !model.is_falcon,
            WithImportance => model.has_importance,
            WithoutImportance => !model.has_importance,
        }
    }
}

impl Exception {
    pub(super) fn holds(&self, model: &ModelFacts, place: Place) -> bool {
        self.when.iter().all(|condition| condition.holds(model, place))
    }

    /// Whether it depends on how many layers there are.
    pub(super) fn goes_by_layer(&self) -> bool {
        let by_layer = [FirstEighth, FirstSixteenth, Sensitive];
        self.when.iter().any(|condition| by_layer.contains(condition))
    }
}

const fn always(format: GgmlType) -> Exception {
    Exception { when: &[], format }
}

const fn when(when: &'static [Condition], format: GgmlType) -> Exception {
    Exception { when, format }
}

const fn uniform(name: &'static str, file_type: u32, default: GgmlType) -> Recipe {
    Recipe {
        name,
        aliases: &[],
        about: "",
        file_type,
        default,
        attention_value: &[],
        attention_output: &[],
        feed_forward_down: &[],
        experts: None,
        only_pure: false,
    }
}

/// Every recipe, from most to fewest bits. In each list of exceptions the first that holds counts.
pub(super) static RECIPES: [Recipe; 22] = [
    Recipe { about: "full precision", ..uniform("F32", 0, F32) },
    Recipe { about: "half precision", ..uniform("F16", 1, F16) },
    Recipe { about: "half precision with the range of F32", ..uniform("BF16", 32, BF16) },
    Recipe { about: "8.5 bits a weight: next to no loss", ..uniform("Q8_0", 7, Q8_0) },
    Recipe { about: "6.6 bits a weight: very little loss", ..uniform("Q6_K", 18, Q6_K) },
    Recipe { about: "6 bits a weight, blocks of 32", ..uniform("Q5_1", 9, Q5_1) },
    Recipe {
        about: "5.5 bits a weight, blocks of 32",
        feed_forward_down: &[when(&[FirstEighth, WithImportance], Q5_1)],
        ..uniform("Q5_0", 8, Q5_0)
    },
    Recipe {
        aliases: &["Q5_K"],
        about: "5.5 bits a weight, more for sensitive layers",
        attention_value: &[when(&[Sensitive], Q6_K)],
        feed_forward_down: &[when(&[Sensitive], Q6_K)],
        ..uniform("Q5_K_M", 17, Q5_K)
    },
    Recipe { about: "5.5 bits a weight", ..uniform("Q5_K_S", 16, Q5_K) },
    Recipe { about: "5 bits a weight, blocks of 32", ..uniform("Q4_1", 3, Q4_1) },
    Recipe {
        aliases: &["Q4_K"],
        about: "4.5 bits a weight, more for sensitive layers: a good first choice",
        attention_value: &[when(&[Sensitive], Q6_K)],
        attention_output: &[when(&[NotFalcon, EightExperts], Q5_K)],
        feed_forward_down: &[
            when(&[NotFalcon, Sensitive], Q6_K),
            when(&[Falcon, FirstSixteenth], Q6_K),
            when(&[Falcon, Sensitive], Q5_K),
        ],
        ..uniform("Q4_K_M", 15, Q4_K)
    },
    Recipe {
        about: "4.5 bits a weight, more for the first layers",
        attention_value: &[when(&[First(4)], Q5_K)],
        attention_output: &[when(&[NotFalcon, EightExperts], Q5_K)],
        feed_forward_down: &[when(&[NotFalcon, FirstEighth], Q5_K)],
        ..uniform("Q4_K_S", 14, Q4_K)
    },
    Recipe {
        about: "4.5 bits a weight, blocks of 32",
        feed_forward_down: &[when(&[FirstEighth, WithImportance], Q4_1)],
        ..uniform("Q4_0", 2, Q4_0)
    },
    Recipe {
        about: "4.5 bits a weight on a non-linear grid, blocks of 32",
        attention_value: &[when(&[SharedValues], Q5_K)],
        attention_output: &[when(&[NotFalcon, EightExperts], Q5_K)],
        feed_forward_down: &[when(&[FirstEighth, WithoutImportance], Q5_K)],
        ..uniform("IQ4_NL", 25, IQ4_NL)
    },
    Recipe {
        about: "4.25 bits a weight on a non-linear grid",
        attention_value: &[when(&[SharedValues], Q5_K)],
        attention_output: &[when(&[NotFalcon, EightExperts], Q5_K)],
        feed_forward_down: &[when(&[FirstEighth, WithoutImportance], Q5_K)],
        ..uniform("IQ4_XS", 30, IQ4_XS)
    },
    Recipe {
        about: "4.25 bits a weight for experts, Q8_0 for all else",
        experts: Some(Experts { format: MXFP4, others: Q8_0 }),
        ..uniform("MXFP4_MOE", 38, MXFP4)
    },
    Recipe {
        about: "4.25 bits a weight for every matrix; takes --pure",
        only_pure: true,
        ..uniform("MXFP4", 38, MXFP4)
    },
    Recipe {
        about: "3.4 bits a weight, 5.5 for the sensitive matrices",
        attention_value: &[always(Q5_K)],
        attention_output: &[when(&[Falcon], Q4_K), when(&[EightExperts], Q3_K), always(Q5_K)],
        feed_forward_down: &[when(&[Falcon], Q4_K), always(Q5_K)],
        ..uniform("Q3_K_L", 13, Q3_K)
    },
    Recipe {
        aliases: &["Q3_K"],
        about: "3.4 bits a weight, 4.5 and more for the sensitive matrices",
        attention_value: &[when(&[First(2)], Q5_K), always(Q4_K)],
        attention_output: &[when(&[NotFalcon, EightExperts], Q5_K), when(&[NotFalcon], Q4_K)],
        feed_forward_down: &[
            when(&[FirstSixteenth], Q5_K),
            when(&[NotFalcon], Q4_K),
            when(&[Sensitive], Q4_K),
        ],
        ..uniform("Q3_K_M", 12, Q3_K)
    },
    Recipe {
        about: "3.4 bits a weight",
        attention_output: &[when(&[NotFalcon, EightExperts], Q5_K)],
        ..uniform("Q3_K_S", 11, Q3_K)
    },
    Recipe {
        about: "2.6 bits a weight, 3.4 and more for the sensitive matrices",
        attention_value: &[when(&[SharedValues], Q4_K), always(Q3_K)],
        attention_output: &[when(&[NotFalcon, EightExperts], Q5_K), when(&[NotFalcon], Q3_K)],
        feed_forward_down: &[always(Q3_K)],
        ..uniform("Q2_K", 10, Q2_K)
    },
    Recipe {
        about: "2.6 bits a weight; takes --importance",
        attention_value: &[when(&[SharedValues], Q4_K)],
        feed_forward_down: &[when(&[FirstEighth], Q4_K)],
        ..uniform("Q2_K_S", 21, Q2_K)
    },
];

/// A recipe that treats experts and everything else differently.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Experts {
    /// The format of experts' matrices.
    pub(super) format: GgmlType,
    /// The format of all others.
    pub(super) others: GgmlType,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sensitive_layers_are_both_ends_and_every_third_between() {
        let model = ModelFacts::new(&crate::gguf::Metadata::new(), &[], false);
        let is_sensitive = |&layer: &usize| Sensitive.holds(&model, Place { layer, layers: 30 });
        let sensitive: Vec<usize> = (0..30).filter(is_sensitive).collect();
        assert_eq!(sensitive, [0, 1, 2, 5, 8, 11, 14, 17, 20, 23, 26, 27, 28, 29]);
    }
}
