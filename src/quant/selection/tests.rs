//! Choices by name and shape; they are llama-quantize's.

use super::*;
use crate::gguf::Value;
use crate::quant::plan::{PlannedModel, tensors_sha256};

fn tensor(name: &str, dimensions: &[u64]) -> TensorInfo {
    TensorInfo {
        name: name.to_string(),
        dimensions: dimensions.to_vec(),
        ggml_type: GgmlType::F16,
        offset: 0,
    }
}

fn metadata(architecture: &str, numbers: &[(&str, u32)]) -> Metadata {
    let mut metadata = Metadata::new();
    metadata.set("general.architecture", Value::String(architecture.to_string()));
    for (name, number) in numbers {
        metadata.set(format!("{architecture}.{name}"), Value::U32(*number));
    }
    metadata
}

/// Formats by tensor name.
fn formats_of(
    selection: &Selection,
    metadata: &Metadata,
    tensors: &[TensorInfo],
    has_importance: bool,
) -> Vec<(String, String)> {
    let choices = selection.choose(metadata, tensors, has_importance).unwrap();
    choices
        .iter()
        .map(|choice| (choice.tensor.name.clone(), choice.format.name().to_string()))
        .collect()
}

fn by_recipe(name: &str) -> Selection {
    Selection::recipe(Recipe::from_name(name).unwrap())
}

fn formats(recipe: &str, metadata: &Metadata, tensors: &[TensorInfo]) -> Vec<(String, String)> {
    formats_of(&by_recipe(recipe), metadata, tensors, false)
}

fn format_of(recipe: &str, metadata: &Metadata, name: &str, dimensions: &[u64]) -> String {
    formats(recipe, metadata, &[tensor(name, dimensions)])[0].1.clone()
}

#[test]
fn tensors_come_by_layer_and_name_and_layers_past_nine_in_order() {
    let names =
        ["blk.10.attn_q.weight", "blk.2.ffn_up.weight", "blk.2.attn_q.weight", "output.weight"];
    let tensors = names.map(|name| tensor(name, &[256, 256]));
    let metadata = metadata("llama", &[("block_count", 11)]);
    let order: Vec<String> =
        formats("Q4_0", &metadata, &tensors).into_iter().map(|(name, _)| name).collect();
    assert_eq!(order, [names[3], names[2], names[1], names[0]]);
}

#[test]
fn a_tied_embedding_is_treated_as_the_output() {
    let metadata = metadata("llama", &[("block_count", 1)]);
    let embedding = tensor("token_embd.weight", &[256, 512]);
    let output = tensor("output.weight", &[256, 512]);
    let tied = formats("Q4_K_M", &metadata, std::slice::from_ref(&embedding));
    assert_eq!(tied, [("token_embd.weight".to_string(), "Q6_K".to_string())]);
    let untied = formats("Q4_K_M", &metadata, &[embedding, output]);
    assert_eq!(untied[0].1, "Q6_K");
    assert_eq!(untied[1].1, "Q4_K");
    assert_eq!(format_of("Q8_0", &metadata, "output.weight", &[256, 512]), "Q8_0");
}

#[test]
fn rows_that_are_no_whole_number_of_blocks_fall_back() {
    let metadata = metadata("llama", &[("block_count", 8)]);
    let of = |recipe, name, columns| format_of(recipe, &metadata, name, &[columns, 64]);
    assert_eq!(of("Q4_K_M", "blk.0.attn_q.weight", 576), "Q5_0");
    assert_eq!(of("Q4_K_M", "blk.0.attn_v.weight", 576), "Q8_0");
    assert_eq!(of("Q5_K_S", "blk.0.attn_q.weight", 576), "Q5_1");
    assert_eq!(of("Q4_0", "output.weight", 576), "Q8_0");
    assert_eq!(of("Q4_K_M", "blk.0.attn_q.weight", 100), "F16");
    assert_eq!(of("Q8_0", "blk.0.attn_q.weight", 100), "F16");
    let tensors = [tensor("blk.0.attn_q.weight", &[576, 64])];
    let choices = by_recipe("Q4_K_M").choose(&metadata, &tensors, false).unwrap();
    assert_eq!(choices[0].wanted(), Some(GgmlType::Q4_K));
}

#[test]
fn norms_vectors_and_small_matrices_stay() {
    let metadata = metadata("llama", &[("block_count", 1)]);
    for (name, dimensions) in [
        ("blk.0.attn_norm.weight", &[256u64] as &[u64]),
        ("blk.0.attn_q.bias", &[256, 256]),
        ("blk.0.ffn_gate_inp.weight", &[256, 8]),
        ("blk.0.ssm_conv1d.weight", &[256, 256]),
        ("blk.0.attn_q.weight", &[256, 1]),
        ("rope_freqs.weight", &[64]),
    ] {
        assert_eq!(format_of("Q4_0", &metadata, name, dimensions), "F16", "{name}");
    }
}

#[test]
fn eight_experts_and_70b_get_more_bits_for_attention() {
    let experts = metadata("llama", &[("block_count", 8), ("expert_count", 8)]);
    let of = |name| format_of("Q4_K_M", &experts, name, &[256, 256]);
    assert_eq!(of("blk.1.attn_v.weight"), "Q8_0");
    assert_eq!(of("blk.1.attn_k.weight"), "Q8_0");
    assert_eq!(of("blk.1.attn_output.weight"), "Q5_K");
    assert_eq!(of("blk.1.attn_q.weight"), "Q4_K");
    assert_eq!(of("blk.7.ffn_down_exps.weight"), "Q6_K");
    let large = metadata(
        "llama",
        &[("block_count", 80), ("attention.head_count", 64), ("attention.head_count_kv", 8)],
    );
    let tensors: Vec<TensorInfo> =
        (0..80).map(|layer| tensor(&format!("blk.{layer}.attn_v.weight"), &[256, 256])).collect();
    let values = formats("Q4_K_M", &large, &tensors);
    assert_eq!((values[9].1.as_str(), values[10].1.as_str()), ("Q6_K", "Q5_K"));
}

#[test]
fn what_is_not_known_is_said() {
    let of = |metadata: &Metadata, tensors: &[TensorInfo]| {
        by_recipe("Q4_K_M").choose(metadata, tensors, false).unwrap_err().to_string()
    };
    let error = of(&metadata("llama", &[]), &[]);
    assert!(error.contains("llama.block_count"), "{error}");
    let experts = metadata("llama", &[("block_count", 2), ("expert_count", 4)]);
    let error = of(&experts, &[tensor("blk.2.ffn_down.0.weight", &[256, 256])]);
    assert!(error.contains("blk.2.ffn_down.0.weight"), "{error}");
}

#[test]
fn importance_changes_the_first_down_projections_of_some_recipes() {
    let metadata = metadata("llama", &[("block_count", 16)]);
    let tensors: Vec<TensorInfo> =
        (0..16).map(|layer| tensor(&format!("blk.{layer}.ffn_down.weight"), &[256, 256])).collect();
    let first_and_third = |recipe: &str, has_importance| {
        let formats = formats_of(&by_recipe(recipe), &metadata, &tensors, has_importance);
        format!("{} {}", formats[0].1, formats[2].1)
    };
    for (recipe, without, with) in [
        ("Q4_0", "Q4_0 Q4_0", "Q4_1 Q4_0"),
        ("Q5_0", "Q5_0 Q5_0", "Q5_1 Q5_0"),
        ("IQ4_NL", "Q5_K IQ4_NL", "IQ4_NL IQ4_NL"),
        ("IQ4_XS", "Q5_K IQ4_XS", "IQ4_XS IQ4_XS"),
        ("Q3_K_M", "Q5_K Q4_K", "Q5_K Q4_K"),
        ("Q2_K", "Q3_K Q3_K", "Q3_K Q3_K"),
        ("Q2_K_S", "Q4_K Q2_K", "Q4_K Q2_K"),
    ] {
        assert_eq!(first_and_third(recipe, false), without, "{recipe}");
        assert_eq!(first_and_third(recipe, true), with, "{recipe}");
    }
}

#[test]
fn small_value_projections_get_more_bits() {
    for (key_value_heads, expected) in
        [(4, ["Q3_K", "Q2_K", "IQ4_XS"]), (2, ["Q4_K", "Q4_K", "Q5_K"])]
    {
        let heads = [
            ("block_count", 1),
            ("attention.head_count", 8),
            ("attention.head_count_kv", key_value_heads),
        ];
        let metadata = metadata("llama", &heads);
        let of = |recipe| format_of(recipe, &metadata, "blk.0.attn_v.weight", &[256, 64]);
        assert_eq!(["Q2_K", "Q2_K_S", "IQ4_XS"].map(of), expected);
    }
}

#[test]
fn falcon_and_glm5_next_have_choices_of_their_own() {
    let falcon = metadata("falcon", &[("block_count", 32)]);
    let of = |recipe, name| format_of(recipe, &falcon, name, &[256, 256]);
    assert_eq!(of("Q4_K_M", "output.weight"), "Q8_0");
    assert_eq!(of("Q3_K_M", "blk.0.attn_output.weight"), "Q3_K");
    assert_eq!(of("Q3_K_L", "blk.0.attn_output.weight"), "Q4_K");
    assert_eq!(of("Q4_K_S", "blk.0.ffn_down.weight"), "Q4_K");
    let tensors: Vec<TensorInfo> =
        (0..32).map(|layer| tensor(&format!("blk.{layer}.ffn_down.weight"), &[256, 256])).collect();
    let down: Vec<String> =
        formats("Q4_K_M", &falcon, &tensors).into_iter().map(|(_, format)| format).collect();
    assert_eq!(down[1..6], ["Q6_K", "Q5_K", "Q5_K", "Q4_K", "Q4_K"].map(String::from));
    let glm = metadata("glm5-next", &[("block_count", 2)]);
    let of = |name| format_of("Q4_K_M", &glm, name, &[256, 256]);
    assert_eq!(of("blk.0.attn_q_a.weight"), "Q8_0");
    assert_eq!(of("blk.0.ssm_beta.weight"), "F16");
}

#[test]
fn experts_may_have_a_format_of_their_own() {
    let metadata = metadata("llama", &[("block_count", 2), ("expert_count", 4)]);
    let of = |name, dimensions: &[u64]| format_of("MXFP4_MOE", &metadata, name, dimensions);
    assert_eq!(of("blk.0.ffn_up_exps.weight", &[256, 256, 4]), "MXFP4");
    assert_eq!(of("blk.0.attn_q.weight", &[256, 256]), "Q8_0");
    assert_eq!(of("token_embd.weight", &[256, 256]), "Q8_0");
    let error = by_recipe("MXFP4").choose(&metadata, &[], false).unwrap_err();
    assert!(error.to_string().contains("--pure"), "{error}");
}

/// Four matrices of one layer, the token embedding and the output matrix.
fn small_model() -> (Metadata, Vec<TensorInfo>) {
    let tensors = [
        ("output.weight", [256, 512]),
        ("token_embd.weight", [256, 512]),
        ("blk.0.attn_k.weight", [256, 256]),
        ("blk.0.attn_v.weight", [256, 256]),
        ("blk.0.ffn_down.weight", [576, 256]),
        ("blk.0.ffn_up.weight", [256, 576]),
    ];
    let tensors = tensors.iter().map(|(name, dimensions)| tensor(name, dimensions)).collect();
    (metadata("llama", &[("block_count", 1)]), tensors)
}

fn changed(changes: Changes) -> Vec<String> {
    let (metadata, tensors) = small_model();
    let selection = Selection::Recipe(Recipe::from_name("Q4_K_M").unwrap(), changes);
    formats_of(&selection, &metadata, &tensors, false).into_iter().map(|(_, it)| it).collect()
}

fn rule(pattern: &str, format: GgmlType) -> Rule {
    Rule { pattern: pattern.parse().unwrap(), format }
}

#[test]
fn options_change_what_the_recipe_says() {
    let options = Changes::default;
    let cases = [
        (options(), ["Q6_K", "Q4_K", "Q4_K", "Q6_K", "Q8_0", "Q4_K"]),
        (Changes { pure: true, ..options() }, ["Q4_K", "Q4_K", "Q4_K", "Q4_K", "Q5_0", "Q4_K"]),
        (
            Changes { output: Some(GgmlType::F16), ..options() },
            ["F16", "Q4_K", "Q4_K", "Q6_K", "Q8_0", "Q4_K"],
        ),
        (
            Changes { leave_output: true, token_embedding: Some(GgmlType::Q2_K), ..options() },
            ["F16", "Q2_K", "Q4_K", "Q6_K", "Q8_0", "Q4_K"],
        ),
        (
            // The first rule counts; one for the output matrix gives way to its own option.
            Changes {
                output: Some(GgmlType::Q5_K),
                rules: vec![
                    rule("ATTN_[kq]", GgmlType::Q5_K),
                    rule("attn|output", GgmlType::Q3_K),
                    rule("down", GgmlType::Q2_K),
                ],
                ..options()
            },
            ["Q5_K", "Q4_K", "Q5_K", "Q3_K", "Q4_0", "Q4_K"],
        ),
        (
            Changes { exclude: vec!["ffn".parse().unwrap()], ..options() },
            ["Q6_K", "Q4_K", "Q4_K", "Q6_K", "F16", "F16"],
        ),
    ];
    for (changes, expected) in cases {
        let words = format!("{changes:?}");
        assert_eq!(changed(changes), expected, "{words}");
    }
}

#[test]
fn a_tensor_with_a_rule_is_not_counted_as_a_layer() {
    let metadata = metadata("llama", &[("block_count", 16)]);
    let tensors: Vec<TensorInfo> =
        (0..16).map(|layer| tensor(&format!("blk.{layer}.attn_v.weight"), &[256, 256])).collect();
    let changes = Changes { rules: vec![rule(r"blk\.0\.", GgmlType::Q8_0)], ..Changes::default() };
    let selection = Selection::Recipe(Recipe::from_name("Q4_K_S").unwrap(), changes);
    let formats = formats_of(&selection, &metadata, &tensors, false);
    let found: Vec<&str> = formats[..6].iter().map(|(_, format)| format.as_str()).collect();
    assert_eq!(found, ["Q8_0", "Q5_K", "Q5_K", "Q5_K", "Q5_K", "Q4_K"]);
}

#[test]
fn options_that_cannot_be_obeyed_are_refused() {
    let (metadata, tensors) = small_model();
    let refusal = |changes: Changes, tensors: &[TensorInfo]| {
        let selection = Selection::Recipe(Recipe::from_name("Q4_0").unwrap(), changes);
        selection.choose(&metadata, tensors, false).unwrap_err().to_string()
    };
    let changes = Changes { rules: vec![rule("atn_v", GgmlType::Q8_0)], ..Changes::default() };
    let error = refusal(changes, &tensors);
    assert!(error.contains("\"atn_v\"") && error.contains("token_embd.weight"), "{error}");
    let changes = Changes { exclude: vec!["lm_head".parse().unwrap()], ..Changes::default() };
    assert!(refusal(changes, &tensors).contains("--exclude \"lm_head\""));
    let changes = Changes { output: Some(GgmlType::Q4_K), ..Changes::default() };
    let error = refusal(changes, &[tensor("output.weight", &[100, 4])]);
    assert!(error.contains("output.weight has rows of 100"), "{error}");
    let norm = tensor("blk.0.attn_norm.weight", &[256]);
    let changes = Changes { rules: vec![rule("attn_norm", GgmlType::Q8_0)], ..Changes::default() };
    let error = refusal(changes, &[norm]);
    assert!(error.contains("never quantized, such as blk.0.attn_norm.weight"), "{error}");
    // An embedding that doubles as the output matrix is no exception.
    let changes = Changes { output: Some(GgmlType::Q6_K), ..Changes::default() };
    let error = refusal(changes, &[tensor("token_embd.weight", &[64, 256])]);
    assert!(error.contains("token_embd.weight has rows of 64"), "{error}");
    assert!("(".parse::<Pattern>().unwrap_err().to_string().contains("\"(\""));
    assert!("".parse::<Pattern>().is_err());
}

fn plan_of(architecture: &str, tensors: &[(&str, GgmlType)]) -> Plan {
    let model = PlannedModel { architecture: architecture.to_string(), ..PlannedModel::default() };
    Plan::new(model, tensors.iter().map(|(name, format)| (name.to_string(), *format)))
}

#[test]
fn a_plan_fits_exactly_or_is_refused() {
    let metadata = metadata("llama", &[]);
    let tensors = [
        tensor("blk.0.attn_k.weight", &[576, 64]),
        tensor("blk.0.attn_v.weight", &[256, 64]),
        tensor("blk.0.attn_norm.weight", &[576]),
    ];
    let (key, value) = ("blk.0.attn_k.weight", "blk.0.attn_v.weight");
    let both = [(key, GgmlType::Q4_0), (value, GgmlType::Q5_K)];
    let plan = plan_of("llama", &both);
    let formats = formats_of(&Selection::Plan(Box::new(plan.clone())), &metadata, &tensors, false);
    let found: Vec<&str> = formats.iter().map(|(_, format)| format.as_str()).collect();
    assert_eq!(found, ["Q4_0", "F16", "Q5_K"]);
    let with_hash = |hash: String| {
        let mut plan = plan.clone();
        plan.model.tensors_sha256 = Some(hash);
        Selection::Plan(Box::new(plan))
            .choose(&metadata, &tensors, false)
            .map(|choices| choices.len())
    };
    assert_eq!(with_hash(tensors_sha256(&tensors)).unwrap(), 3);
    assert!(with_hash("0".repeat(64)).unwrap_err().to_string().contains("shapes"));
    for (plan, words) in [
        (plan_of("qwen2", &both), "qwen2"),
        (plan_of("llama", &both[..1]), "what becomes of blk.0.attn_v.weight"),
        (
            plan_of("llama", &[both[0], both[1], ("blk.1.ffn_up.weight", GgmlType::Q4_0)]),
            "blk.1.ffn_up",
        ),
        (
            plan_of("llama", &[both[0], both[1], ("blk.0.attn_norm.weight", GgmlType::Q4_0)]),
            "the plan wants blk.0.attn_norm.weight as Q4_0",
        ),
        (
            plan_of("llama", &[(key, GgmlType::Q4_K), both[1]]),
            "blk.0.attn_k.weight has rows of 576",
        ),
    ] {
        let error = Selection::Plan(Box::new(plan)).choose(&metadata, &tensors, false).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn reasons_are_told() {
    let (metadata, tensors) = small_model();
    let changes = Changes {
        rules: vec![rule("down", GgmlType::Q2_K)],
        exclude: vec!["attn_k".parse().unwrap()],
        token_embedding: Some(GgmlType::Q8_0),
        ..Changes::default()
    };
    let selection = Selection::Recipe(Recipe::from_name("Q4_K_M").unwrap(), changes);
    let choices = selection.choose(&metadata, &tensors, false).unwrap();
    let told: Vec<String> = choices.iter().map(|choice| choice.reason.to_string()).collect();
    let expected = [
        "output matrix",
        "--token-embedding-type",
        "kept by --exclude attn_k",
        "attention value",
        "Q2_K by --tensor-type down does not divide 576",
        "",
    ];
    assert_eq!(told, expected);
    assert_eq!(choices[4].wanted(), Some(GgmlType::Q2_K));
}
