//! HellaSwag's texts as lm-evaluation-harness cleans them.

use std::sync::LazyLock;

use regex::Regex;

use crate::eval::questions::python_text::{capitalize, trim};

/// The context of a HellaSwag question.
pub(super) fn context(activity: &str, first: &str, second: &str) -> String {
    clean(&format!("{activity}: {first} {}", capitalize(second)))
}

/// A text of HellaSwag without what its sources left in it.
pub(super) fn clean(text: &str) -> String {
    static BRACKETS: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"\[.*?\]").expect("a correct expression"));
    let text = trim(text).replace(" [title]", ". ");
    BRACKETS.replace_all(&text, "").replace("  ", " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hellaswag_is_cleaned_as_the_harness_cleans_it() {
        assert_eq!(
            context("Removing ice from car", "A man [substeps] walks", "the MAN, then"),
            "Removing ice from car: A man walks The man, then"
        );
        assert_eq!(context("Roof shingle", "A man sits.", ""), "Roof shingle: A man sits.");
        assert_eq!(
            clean(" [header] How to bake [title] Take  eggs. [step] Mix\t"),
            " How to bake. Take eggs. Mix"
        );
    }
}
