use super::*;

#[test]
fn names_and_numbers_are_unique() {
    for (index, recipe) in RECIPES.iter().enumerate() {
        let others = &RECIPES[..index];
        for name in std::iter::once(&recipe.name).chain(recipe.aliases) {
            assert_eq!(Recipe::from_name(&name.to_lowercase()), Some(recipe));
        }
        let same = others.iter().find(|other| other.file_type == recipe.file_type);
        assert!(recipe.only_pure || same.is_none(), "{}", recipe.name);
    }
}

#[test]
fn every_default_names_a_recipe() {
    for recipe in &RECIPES {
        let named = Recipe::of_format(recipe.default).unwrap();
        assert_eq!(named.default, recipe.default);
    }
}
