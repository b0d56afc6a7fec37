//! Any bytes as a file of a tokenizer, beside sound ones: they are refused, or become a vocabulary
//! that cuts texts and whose export is read again.
//!
//! The first byte says which file the rest is: `g` a GGUF file with `tokenizer.*` metadata, `j`
//! tokenizer.json, `c` tokenizer_config.json, `m` tokenizer.model.

#![no_main]

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use quantkit::gguf::{Directory, Metadata, Value};
use quantkit::tokenizer::{Vocabulary, from_checkpoint, to_checkpoint};

const JSON: &[u8] = include_bytes!("../seeds/tokenizers/json");
const CONFIG: &[u8] = include_bytes!("../seeds/tokenizers/config");

const TEXTS: [&str; 4] = ["", " ab  12\n<s></s>", "e\u{301} 世界 ▁<0x0A>", "a\u{0}b\u{7f}\u{200b}"];

/// A directory of this process alone, in memory where there is such a place.
static DIRECTORY: LazyLock<PathBuf> = LazyLock::new(|| {
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() };
    let directory = parent.join(format!("quantkit-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a place for files");
    directory
});

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, content)) = bytes.split_first() else { return };
    let Some(metadata) = metadata(*kind, content) else { return };
    let Ok(vocabulary) = Vocabulary::from_metadata(&metadata) else { return };
    for text in TEXTS {
        for special in [false, true] {
            if let Ok(tokens) = vocabulary.encode(text, special) {
                for token in tokens {
                    assert!((token as usize) < vocabulary.size);
                    vocabulary.token_bytes(token);
                }
            }
        }
    }
    let _ = to_checkpoint::tokenizer_json(&vocabulary);
    let _ = to_checkpoint::tokenizer_config(&vocabulary, &metadata, None);
});

/// The metadata of a file of this kind, if it is sound.
fn metadata(kind: u8, content: &[u8]) -> Option<Metadata> {
    match kind {
        b'g' => Some(Directory::parse(Path::new("fuzz.gguf"), content).ok()?.metadata),
        b'j' => converted("tokenizer.json", content),
        b'c' => converted("tokenizer_config.json", content),
        b'm' => converted("tokenizer.model", content),
        _ => None,
    }
}

/// The metadata of a checkpoint with this file.
fn converted(name: &str, content: &[u8]) -> Option<Metadata> {
    for file in ["tokenizer.json", "tokenizer.model"] {
        let _ = std::fs::remove_file(DIRECTORY.join(file));
    }
    let write = |name: &str, content: &[u8]| {
        std::fs::write(DIRECTORY.join(name), content).expect("room for files");
    };
    write("tokenizer_config.json", CONFIG);
    if name != "tokenizer.model" {
        write("tokenizer.json", JSON);
    }
    write(name, content);
    let mut metadata = Metadata::new();
    metadata.set("general.architecture", Value::String("llama".into()));
    from_checkpoint::append(&mut metadata, &DIRECTORY, 64).ok()?;
    Some(metadata)
}
