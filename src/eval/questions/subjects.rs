//! MMLU's 57 subjects and the four categories that they are reported in (Hendrycks et al. 2021,
//! with the grouping of lm-evaluation-harness).

use serde::{Deserialize, Serialize};

/// One of MMLU's four categories.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Category {
    /// Science, technology, engineering, mathematics.
    Stem,
    /// History, law, philosophy, religion.
    Humanities,
    /// Economics, politics, psychology, sociology.
    SocialSciences,
    /// Medicine, business and the rest.
    Other,
}

impl Category {
    /// All four, in the order in which they are reported.
    pub const ALL: [Self; 4] = [Self::Stem, Self::Humanities, Self::SocialSciences, Self::Other];

    /// The name that reports use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stem => "STEM",
            Self::Humanities => "humanities",
            Self::SocialSciences => "social sciences",
            Self::Other => "other",
        }
    }

    /// The category of a subject; `None` for a subject that MMLU does not have.
    pub fn of(subject: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|category| category.subjects().contains(&subject))
    }

    /// MMLU's subjects of this category.
    pub fn subjects(self) -> &'static [&'static str] {
        match self {
            Self::Stem => &[
                "abstract_algebra",
                "anatomy",
                "astronomy",
                "college_biology",
                "college_chemistry",
                "college_computer_science",
                "college_mathematics",
                "college_physics",
                "computer_security",
                "conceptual_physics",
                "electrical_engineering",
                "elementary_mathematics",
                "high_school_biology",
                "high_school_chemistry",
                "high_school_computer_science",
                "high_school_mathematics",
                "high_school_physics",
                "high_school_statistics",
                "machine_learning",
            ],
            Self::Humanities => &[
                "formal_logic",
                "high_school_european_history",
                "high_school_us_history",
                "high_school_world_history",
                "international_law",
                "jurisprudence",
                "logical_fallacies",
                "moral_disputes",
                "moral_scenarios",
                "philosophy",
                "prehistory",
                "professional_law",
                "world_religions",
            ],
            Self::SocialSciences => &[
                "econometrics",
                "high_school_geography",
                "high_school_government_and_politics",
                "high_school_macroeconomics",
                "high_school_microeconomics",
                "high_school_psychology",
                "human_sexuality",
                "professional_psychology",
                "public_relations",
                "security_studies",
                "sociology",
                "us_foreign_policy",
            ],
            Self::Other => &[
                "business_ethics",
                "clinical_knowledge",
                "college_medicine",
                "global_facts",
                "human_aging",
                "management",
                "marketing",
                "medical_genetics",
                "miscellaneous",
                "nutrition",
                "professional_accounting",
                "professional_medicine",
                "virology",
            ],
        }
    }
}

/// The up to three `candidates` that are spelled most like `name`, nearest first.
pub(in crate::eval) fn nearest<'a>(
    name: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Vec<&'a str> {
    let mut ranked: Vec<(usize, &str)> = candidates
        .map(|candidate| {
            // A part of the right name ("physics") is nearer than any misspelling.
            let distance =
                if candidate.contains(name) { 0 } else { edit_distance(name, candidate) };
            (distance, candidate)
        })
        .collect();
    ranked.sort_unstable();
    ranked.into_iter().take(3).map(|(_, candidate)| candidate).collect()
}

/// Levenshtein distance in characters.
fn edit_distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, l) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &r) in right.iter().enumerate() {
            let substitute = diagonal + usize::from(l != r);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_subject_has_one_category() {
        let mut subjects: Vec<&str> =
            Category::ALL.iter().flat_map(|category| category.subjects()).copied().collect();
        subjects.sort_unstable();
        subjects.dedup();
        assert_eq!(subjects.len(), 57);
        assert_eq!(Category::ALL.map(|category| category.subjects().len()), [19, 13, 12, 13]);
        assert_eq!(Category::of("virology"), Some(Category::Other));
        assert_eq!(Category::of("knitting"), None);
    }

    #[test]
    fn near_names_come_first() {
        let subjects = || Category::Stem.subjects().iter().copied();
        assert_eq!(nearest("astronmy", subjects())[0], "astronomy");
        assert!(nearest("physics", subjects()).contains(&"college_physics"));
        assert_eq!(edit_distance("kitten", "sitting"), 3);
    }
}
