//! The options that llama-server's users type. Those that mean something here get the name that they have
//! here; of the others, the error says what to use.

use std::ffi::{OsStr, OsString};

/// What becomes of an option of llama-server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Here {
    /// It has another name.
    Is(&'static str),
    /// It asks for what is so anyway.
    IsSo,
    /// It does not exist; what to do.
    No(&'static str),
}

use Here::{Is, IsSo, No};

const TEMPLATE: &str = "give a Jinja template in a file: --chat-template-file FILE";
const FETCH: &str = "fetch and convert the checkpoint first: quantkit fetch, quantkit convert";
const CACHE: &str = "give the memory of the prompt cache: --cache SIZE";
const KV_TYPE: &str = "give the type of keys and values: --kv-type i16 or i8";
const DEVICE: &str = "give the device: --device cpu or cuda:N";
const NO_DRAFTS: &str = "quantkit does not speculate: leave it out";
const NO_ADAPTERS: &str = "quantkit has no LoRA adapters: merge them into the checkpoint";
const NO_EMBEDDINGS: &str = "quantkit gives no embeddings and does not rerank";
const NO_MEDIA: &str = "quantkit takes neither sound nor pictures";
const NO_SHIFT: &str = "quantkit does not shift the context: an answer ends where it is full";
const ROPE: &str = "quantkit takes the rotation from the model's file: leave it out";
const LOG: &str = "quantkit logs to standard error: -v, twice for more";
const LEAVE_OUT: &str = "leave it out: quantkit has no such choice";
const NO_TOOLS: &str = "quantkit runs no tools";

const OPTIONS: &[(&[&str], Here)] = &[
    (&["-np", "--n-parallel"], Is("--parallel")),
    (&["-t", "-tb", "--threads-batch", "--n-threads"], Is("--threads")),
    (&["-b", "--batch-size", "--n-batch"], Is("--prefill-chunk")),
    (&["-s"], Is("--seed")),
    (&["-to"], Is("--timeout")),
    (&["--predict"], Is("--n-predict")),
    (&["-dev"], Is("--device")),
    (&["--jinja", "-cb", "--cont-batching", "-kvu", "--kv-unified", "--no-context-shift"], IsSo),
    (&["--no-webui", "--no-ui", "--offline", "--backend_sampling", "--cache-prompt"], IsSo),
    (&["--no-mmproj", "-nocb", "--no-kv-unified"], No(LEAVE_OUT)),
    (&["--no-jinja"], No("leave it out: quantkit renders the model's own template")),
    (&["--no-cont-batching"], No("limit the batch: --parallel 1")),
    (&["-ub", "--ubatch-size"], No("give the size of a step: -b N, or --prefill-chunk N")),
    (&["--chat-template"], No(TEMPLATE)),
    (&["-hf", "-hfr", "--hf-repo", "-hff", "--hf-file", "-mu", "--model-url"], No(FETCH)),
    (&["-cram", "--cache-ram", "--cache-reuse", "--no-cache-prompt"], No(CACHE)),
    (&["-ctk", "--cache-type-k", "-ctv", "--cache-type-v"], No(KV_TYPE)),
    (&["-ngl", "--gpu-layers", "--n-gpu-layers", "-sm", "--split-mode"], No(DEVICE)),
    (&["-ts", "--tensor-split", "-mg", "--main-gpu", "-ot", "--override-tensor"], No(DEVICE)),
    (&["-md", "--model-draft", "--spec-type", "--draft", "--draft-max"], No(NO_DRAFTS)),
    (&["--lora", "--lora-scaled", "--control-vector"], No(NO_ADAPTERS)),
    (&["--embedding", "--embeddings", "--rerank", "--reranking", "--pooling"], No(NO_EMBEDDINGS)),
    (&["-mm", "--mmproj", "-mmu", "--mmproj-url", "--media-path"], No(NO_MEDIA)),
    (&["--context-shift", "--keep"], No(NO_SHIFT)),
    (&["--rope-scaling", "--rope-scale", "--rope-freq-base", "--rope-freq-scale"], No(ROPE)),
    (&["-lv", "--verbosity", "--log-disable", "--log-file"], No(LOG)),
    (&["-fa", "--flash-attn", "--mlock", "--no-mmap", "--numa", "--swa-full"], No(LEAVE_OUT)),
    (&["-C", "--cpu-mask", "--prio", "--poll", "--tags", "--props"], No(LEAVE_OUT)),
    (&["--grammar", "--grammar-file", "-j", "--json-schema"], No("quantkit has no grammars")),
    (&["--tools", "--ui-mcp-proxy", "--mcp-servers-config"], No(NO_TOOLS)),
    (&["--cors-origins"], No("name the origin: --cors ORIGIN")),
    (&["--slot-save-path"], No("quantkit does not save slots")),
    (&["--reasoning-format", "--reasoning-budget", "--reasoning"], No(LEAVE_OUT)),
    (&["--mirostat", "--dry-multiplier", "--xtc-probability"], No("there is no such sampler")),
    (&["--dynatemp-range", "--top-n-sigma", "--samplers"], No("name samplers in the request")),
    (
        &["--path", "--api-prefix", "--ssl-key-file", "--ssl-cert-file"],
        No("put a server such as nginx before it"),
    ),
    (&["--models-dir", "--models-max", "--models-preset"], No("name the models: MODEL.gguf …")),
];

/// A command line with the names that options have here. Only what is behind `serve` is looked at.
///
/// # Errors
/// An option that does not exist here, and what to use.
pub fn spelled(words: impl IntoIterator<Item = OsString>) -> Result<Vec<OsString>, String> {
    let mut words = words.into_iter();
    let mut spelled: Vec<OsString> = words.by_ref().take(1).collect();
    let mut has_value = false;
    // Words before the subcommand: options of the whole program, of which one has a value.
    for word in words.by_ref() {
        let is_command = !has_value && !word.as_encoded_bytes().starts_with(b"-");
        has_value = word == "--threads";
        let is_ours = word == "serve";
        spelled.push(word);
        if is_command && !is_ours {
            spelled.extend(words);
            return Ok(spelled);
        }
        if is_command {
            break;
        }
    }
    for word in words.by_ref() {
        if word == "--" {
            spelled.push(word);
            break;
        }
        match here(&word)? {
            Some(word) => spelled.push(word),
            None => continue,
        }
    }
    spelled.extend(words);
    Ok(spelled)
}

/// A word's name here; `None` for one that asks for what is so anyway.
fn here(word: &OsStr) -> Result<Option<OsString>, String> {
    let text = word.to_str().unwrap_or_default();
    let (name, value) = match text.split_once('=') {
        Some((name, value)) if name.starts_with("--") => (name, Some(value)),
        _ => (text, None),
    };
    match OPTIONS.iter().find(|(names, _)| names.contains(&name)) {
        None => Ok(Some(word.to_os_string())),
        Some((_, IsSo)) => Ok(None),
        Some((_, Is(ours))) => Ok(Some(match value {
            Some(value) => format!("{ours}={value}").into(),
            None => (*ours).into(),
        })),
        Some((_, No(cure))) => Err(format!("{name} is an option of llama-server: {cure}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spelled_text(line: &str) -> Result<String, String> {
        let words = spelled(line.split(' ').map(OsString::from))?;
        Ok(words.join(OsStr::new(" ")).into_string().unwrap())
    }

    #[test]
    fn options_get_the_names_that_they_have_here() {
        let line = "quantkit --threads 2 serve -m a.gguf -np 4 --jinja -b 64 --batch-size=8 -c 9";
        let ours = "quantkit --threads 2 serve -m a.gguf --parallel 4 --prefill-chunk 64 \
                    --prefill-chunk=8 -c 9";
        assert_eq!(spelled_text(line).unwrap(), ours);
        for line in ["quantkit", "quantkit bench -np 4", "quantkit serve -- -np", "quantkit -q"] {
            assert_eq!(spelled_text(line).unwrap(), line);
        }
    }

    #[test]
    fn what_does_not_exist_here_says_what_to_use() {
        let error = spelled_text("quantkit serve a.gguf -ngl 99").unwrap_err();
        assert!(error.starts_with("-ngl") && error.contains("--device"), "{error}");
        assert!(spelled_text("quantkit serve --mmproj=x").unwrap_err().starts_with("--mmproj is"));
    }

    #[test]
    fn every_option_stands_in_one_place() {
        let mut names: Vec<&str> =
            OPTIONS.iter().flat_map(|(names, _)| names.iter().copied()).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
