//! `quantkit quantize` against llama.cpp's llama-quantize: whole files.

use std::path::Path;

use quantkit::support::hash::sha256_file;

use crate::support::quantkit;

/// SHA-256 of what llama.cpp's llama-quantize makes of `quantize_input.gguf` in `tests/data` by each
/// recipe, without and with the importance in `quantize_importance.dat`. The input has eight layers
/// with rows of whole super-blocks, of whole small blocks only, and of neither.
const REFERENCE_FILES: [(&str, Option<&str>, &str); 21] = [
    (
        "F32",
        Some("3d3fa7540a0474cff7e3d39342bea3ce71771a12360ca0ce915993e947b4d630"),
        "9e8dccc1444c9cb8858ec11ac6e2c257ebc55a9b3648be764e0304d29aa9f10e",
    ),
    (
        "F16",
        Some("7e47fe852a2633ae8c7a8e10422855564a59b5e2845a8e44cea6db8d7fc1dac4"),
        "3c9e0b66f28d960809ec1ddf780164172f5f0a647c352b402667b962a28663a3",
    ),
    (
        "BF16",
        Some("cea32f65ed5b3cf3d47fce672836d6e0d556b1c52f3615dbc35fcd133f4307aa"),
        "6b68855de4b9b1ed8fab3205d9f6a8ccbfa50de58a1546a18c3253542a417ed9",
    ),
    (
        "Q8_0",
        Some("55cb76412d713f5f74a41926abb4c02bb28b943d681095caeb0eb20dc19b15ca"),
        "1d96b73e7de52022dc22e74b953162682b205d3b801d372c6d00ef9453bbbac7",
    ),
    (
        "Q6_K",
        Some("06ab86f0f9d8874a16d3898bd93cb34316d6c59ebb56cb04700b9ab3beb3ae17"),
        "4f7b6f2233035721c7907a49e10de78343fb208bc9b2c31be338252e38d79fa0",
    ),
    (
        "Q5_1",
        Some("bb8fbd47a76a6de091054769242160d49a33764204d9946464ee1ba1e100392d"),
        "ba34750ba0f406ea4dea7dee6dab81e7e65d49801aa81e98a2bf89a501be2f6b",
    ),
    (
        "Q5_0",
        Some("845f2a71ca25a5be426c364c3f2898a797098bb636ed28a6201ab3a4859c2254"),
        "91d1f37ab28acae178d649552918513c6b0d1bb375597d970d4bb275c89957fc",
    ),
    (
        "Q5_K_M",
        Some("eeb3f3b2b33b0aac6d12c4ea5c801c34ad5c798f18ecd1e1b67e0c769ec78c62"),
        "d394b8190871d484c68a4e6bb050da28c6e8f179304a759b4747f3f0e27d50cd",
    ),
    (
        "Q5_K_S",
        Some("609375ca58ed5d77315249ff21ad0e7c51869f98c38dd082fac02ff3bd6027dc"),
        "7b7355fc196fa30f064331e85b377309ce9042ba0639e9109e09a1e98554be22",
    ),
    (
        "Q4_1",
        Some("1fc28983ed51abbb813a45c81f72cb2d260efa1017837b45c299e15ab918ae39"),
        "d87f4cf06e0f458e28747a77775910b973e86b486d80383701d579ae239dc80e",
    ),
    (
        "Q4_K_M",
        Some("c3d114043c28a60c402b3d75b82387ab188b36da278e240b001b7d5cbd860cc4"),
        "c49c05570ce90193c78d433e59c6ce875fb6bb41d1220bb4379d7b13b85dbee0",
    ),
    (
        "Q4_K_S",
        Some("bc102c37de9cfe7c5fb09faf3466ccc3ea645f854ac982b0d4b2d4f7cc62de1f"),
        "a53ccb981cc44a89a6d63e09c4fb40c107d82786a9c92c5c1f9dc863d4aea15a",
    ),
    (
        "Q4_0",
        Some("938979b082f298f5d1064c644cb4d12b2b52b94d16785afa545ac850f3d15ef9"),
        "fc9c33aec5b8d7b8e3b72851292d2fd0413176345074b2fa03e17b4c6ab91bdb",
    ),
    (
        "IQ4_NL",
        Some("29a7d6edbbc87f5575fb50972fae27fa437edb13ba6a37a787e827fddc96c856"),
        "8bc25ca04e28e199e1ebe725304729de6fe7cba738be3451631d6ff6428823d4",
    ),
    (
        "IQ4_XS",
        Some("e565e86c90b259c97ea15383e05bc6e3054b8aaadbd268341fff00b63608431e"),
        "8e78db1ffee950f949c601fcaa50441dd3e1bd39ba499bed748dd7e93b8ee5bc",
    ),
    (
        "MXFP4_MOE",
        Some("ef7757f727edd8850fd9b66dde9fcb198bda53fe6bed9ac9e603cd838ca94984"),
        "3fcc9ec3015bf0d8f3e01ba7606ee219d90147489a78ab86d19de9b5bb14b8a4",
    ),
    (
        "Q3_K_L",
        Some("daee06973b0cd7f6913b28236b2e7e335e51d07626a57475ac4989418c806800"),
        "8501d54b221278a7254c8ddb275fe3920db5fed0f1d0239a8022ddb6acac80e6",
    ),
    (
        "Q3_K_M",
        Some("b5e7448c15cd0fe147baf70c7eb75b0d7c35ac7c30e5fe5a9a621e42a1f5a9b7"),
        "185d6b5583bc02f7dd439e6d6b62a6600d8012b4bfb12a2d99bc08a45477dcb6",
    ),
    (
        "Q3_K_S",
        Some("50a0c262ba3a3d0988a072396175b4b9075396cebdbb320654248248e80d3a89"),
        "735f76ed0c6334cae205035442ef17dffb82c561961a95701fda1bba58d99dc1",
    ),
    (
        "Q2_K",
        Some("a716299e9f7949e608a8dcf4e6811ceea0f9bdca57ff56261a27997156f36580"),
        "590d3f30a23eb5a589328a8f37541db7a92707016c4e522c0a9dc2505aa71195",
    ),
    ("Q2_K_S", None, "b68157604cbb1c615a2cc81cc7acfba2c6f17fdb1f1d491865cf78b2a0c3b2d2"),
];

/// More of them, by the options that quantkit takes for them.
const REFERENCE_FILES_OF_OPTIONS: [(&str, &str); 5] = [
    ("--type MXFP4 --pure", "8df45069b2dfba79b78418560aa678b6ca3e76d595d87a69373dc674c84e65f0"),
    ("--type Q4_K_M --pure", "4c377f09db3f35ac2d923b0b579e1bb965b6d09efabe2a8eed98fbbfbe763eb8"),
    (
        "--type Q4_K_M --output-type Q5_K --token-embedding-type Q3_K",
        "5c2cb4714103534a1c66248b68a64b0d22d5202788152ac7155c976deb10e6db",
    ),
    (
        "--type Q3_K_M --leave-output --tensor-type blk\\.[0-3]\\.ffn=Q6_K \
         --tensor-type FFN|attn_v=iq4_nl --importance quantize_importance.dat",
        "c89e3f1a6ec225a258cd00891500a006e57b4e7b084b9c88679cf9479d3d7546",
    ),
    (
        "--type IQ4_XS --pure --tensor-type attn_q=Q4_1",
        "125c463005c4a846c160726271e97a15ddebc99487597f9580c6e362d36f9c9f",
    ),
];

/// What llama-quantize makes of its own Q8_0 file with `--allow-requantize`.
const REFERENCE_FILES_FROM_Q8_0: [(&str, &str); 2] = [
    ("Q4_K_M", "7f0b3996ced24651e773f733e608c8cc69839db1c6047f2e164e6a15553fd22a"),
    ("F16", "5128235a4ac0103d400a24251ec00b08aa14a860293a82c6e0b274ea29d5fdb3"),
];

/// SHA-256 of the file that these options make of `input`, which may lie in `tests/data`.
fn made(input: &Path, options: &[&str]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let output = directory.path().join("out.gguf");
    quantkit()
        // The importance file's name goes into the metadata as it was given.
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data"))
        .arg("quantize")
        .args([input, &output])
        .args(options)
        .assert()
        .success();
    sha256_file(&output).unwrap()
}

#[test]
fn whole_files_are_those_of_llama_quantize() {
    let input = Path::new("quantize_input.gguf");
    for (recipe, plain, weighted) in REFERENCE_FILES {
        if let Some(expected) = plain {
            assert_eq!(made(input, &["--type", recipe]), expected, "{recipe}");
        }
        let options = ["--type", recipe, "--importance", "quantize_importance.dat"];
        assert_eq!(made(input, &options), weighted, "{recipe} with importance");
    }
    for (options, expected) in REFERENCE_FILES_OF_OPTIONS {
        let words: Vec<&str> = options.split_whitespace().collect();
        assert_eq!(made(input, &words), expected, "{options}");
    }
}

#[test]
fn what_is_quantized_is_quantized_again_as_llama_quantize_does() {
    let directory = tempfile::tempdir().unwrap();
    let quantized = directory.path().join("q8_0.gguf");
    quantkit()
        .arg("quantize")
        .args([&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/quantize_input.gguf")])
        .arg(&quantized)
        .args(["--type", "Q8_0"])
        .assert()
        .success();
    for (recipe, expected) in REFERENCE_FILES_FROM_Q8_0 {
        let options = ["--type", recipe, "--allow-requantize"];
        assert_eq!(made(&quantized, &options), expected, "{recipe}");
    }
}
