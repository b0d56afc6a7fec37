//! llama-server's protocol: the built binary on a tiny model, spoken to over HTTP.

use std::process::Command;

use serde_json::{Value, json};

use crate::serve::Serving;

/// The documents of a stream that has no mark at its end.
fn pieces(server: &Serving, body: &Value) -> Vec<Value> {
    let (status, text) = server.post("/completion", body);
    assert_eq!(status, 200, "{text}");
    let text = text.as_str().unwrap();
    let events = text.split_terminator("\n\n").map(|event| event.strip_prefix("data: ").unwrap());
    events.map(|event| serde_json::from_str(event).unwrap()).collect()
}

fn text(document: &Value) -> &str {
    document["content"].as_str().unwrap()
}

#[test]
fn a_completion_has_all_that_llama_servers_has() {
    let server = Serving::start(&["--seed", "7", "-np", "3", "-a", "tiny,small"]);
    let ask = json!({
        "prompt": "hello there", "n_predict": 6, "temperature": 0, "return_tokens": true,
        "ignore_eos": true, "n_probs": 3,
    });
    let (status, answer) = server.post("/completion", &ask);
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["model"], "tiny");
    assert_eq!((&answer["stop"], &answer["stop_type"]), (&json!(true), &json!("limit")));
    assert_eq!((&answer["truncated"], &answer["stopping_word"]), (&json!(false), &json!("")));
    let tokens = answer["tokens"].as_array().unwrap();
    assert_eq!(tokens.len(), 6);
    assert_eq!(answer["tokens_predicted"], 6);
    assert_eq!(answer["prompt"], "hello there");
    let evaluated = answer["tokens_evaluated"].as_u64().unwrap();
    assert_eq!(answer["tokens_cached"], evaluated + 5);
    assert_eq!(answer["timings"]["prompt_n"], evaluated);
    assert_eq!(answer["timings"]["predicted_n"], 6);
    let settings = &answer["generation_settings"];
    assert_eq!((&settings["seed"], &settings["n_predict"]), (&json!(7), &json!(6)));
    assert_eq!(settings["temperature"], 0.0);
    assert_eq!(settings["samplers"][0], "penalties");
    // Tokens that end a turn never come.
    let biases = settings["logit_bias"].as_array().unwrap();
    assert!(!biases.is_empty() && biases.iter().all(|bias| bias["bias"].is_null()), "{biases:?}");
    let told = answer["completion_probabilities"].as_array().unwrap();
    assert_eq!(told.len(), 6);
    for (told, token) in told.iter().zip(tokens) {
        assert_eq!(&told["id"], token);
        assert_eq!(told["top_logprobs"].as_array().unwrap().len(), 3);
        // The likeliest was taken.
        assert_eq!(told["top_logprobs"][0]["logprob"], told["logprob"]);
    }
    // The short path is the same, the text can be given as its tokens, and the answer can be cut down.
    let (_, tokenized) =
        server.post("/tokenize", &json!({ "content": "hello there", "add_special": true }));
    let asked_by_tokens = json!({
        "prompt": tokenized["tokens"], "n_predict": 6, "temperature": 0, "ignore_eos": true,
        "response_fields": ["content", "generation_settings/n_predict", "nothing"],
    });
    let (_, short) = server.post("/completions", &asked_by_tokens);
    let expected = json!({ "content": answer["content"], "generation_settings/n_predict": 6 });
    assert_eq!(short, expected);
}

#[test]
fn a_stream_says_the_same_as_a_whole_answer() {
    let server = Serving::start(&["--prefill-chunk", "4"]);
    let mut ask = json!({
        "prompt": "one two three four five", "n_predict": 8, "seed": 5, "n_probs": 2,
        "cache_prompt": false, "return_progress": true, "timings_per_token": true,
    });
    let (_, whole) = server.post("/completion", &ask);
    ask["stream"] = json!(true);
    let pieces = pieces(&server, &ask);
    let (last, pieces) = pieces.split_last().unwrap();
    assert_eq!(last["stop"], true);
    assert_eq!(last["tokens_predicted"], whole["tokens_predicted"]);
    assert_eq!((text(last), &last["tokens"]), ("", &json!([])));
    assert_eq!(pieces.iter().map(text).collect::<String>(), text(&whole));
    let (progress, pieces): (Vec<_>, Vec<_>) =
        pieces.iter().partition(|piece| piece.get("prompt_progress").is_some());
    let done: Vec<u64> = progress
        .iter()
        .map(|piece| piece["prompt_progress"]["processed"].as_u64().unwrap())
        .collect();
    assert!(done.len() > 2 && done.is_sorted() && done[0] == 0, "{done:?}");
    assert_eq!(done.last(), progress[0]["prompt_progress"]["total"].as_u64().as_ref());
    let mut told = Vec::new();
    for piece in &pieces {
        assert_eq!(piece["stop"], false);
        assert!(!piece["tokens"].as_array().unwrap().is_empty());
        assert!(piece["timings"]["predicted_n"].is_u64());
        told.extend(piece["completion_probabilities"].as_array().unwrap().clone());
    }
    assert_eq!(json!(told), whole["completion_probabilities"]);
}

#[test]
fn prompts_come_in_every_shape() {
    let server = Serving::start(&["--seed", "1", "--temp", "0"]);
    let (_, tokenized) =
        server.post("/tokenize", &json!({ "content": "abc", "add_special": true }));
    let tokens = tokenized["tokens"].clone();
    let answers = |prompt: Value| {
        let (status, answer) =
            server.post("/completion", &json!({ "prompt": prompt, "n_predict": 4 }));
        assert_eq!(status, 200, "{answer}");
        answer
    };
    let one = text(&answers(json!("abc"))).to_string();
    assert_eq!(text(&answers(tokens.clone())), one);
    assert_eq!(text(&answers(json!({ "prompt_string": "abc" }))), one);
    assert_eq!(text(&answers(json!(["abc"]))), one);
    let several = answers(json!(["abc", tokens, { "prompt_string": "abc" }]));
    let several = several.as_array().unwrap();
    assert_eq!(several.len(), 3);
    for (index, answer) in several.iter().enumerate() {
        assert_eq!((&answer["index"], text(answer)), (&json!(index), one.as_str()));
    }
    let first = &tokenized["tokens"][0];
    let mixed = answers(json!([first, "abc", first]));
    assert!(mixed["tokens_evaluated"].as_u64().unwrap() >= 3);
    let (_, twice) =
        server.post("/completion", &json!({ "prompt": "abc", "n_predict": 4, "n": 2 }));
    assert_eq!(twice.as_array().unwrap().len(), 2);
}

#[test]
fn a_stop_text_and_a_full_context_are_told() {
    let server = Serving::start(&["-c", "32", "--temperature", "0"]);
    let ask = json!({ "prompt": "hello", "n_predict": -1, "ignore_eos": true });
    let (_, full) = server.post("/completion", &ask);
    assert_eq!((&full["truncated"], &full["stop_type"]), (&json!(true), &json!("limit")));
    assert_eq!(full["generation_settings"]["n_predict"], -1);
    let sum =
        full["tokens_evaluated"].as_u64().unwrap() + full["tokens_predicted"].as_u64().unwrap();
    assert!((32..=33).contains(&sum), "{sum}");
    let letter: String = text(&full).chars().skip(2).take(1).collect();
    let ask = json!({ "prompt": "hello", "ignore_eos": true, "stop": [letter, ""] });
    let (_, stopped) = server.post("/completion", &ask);
    assert_eq!(
        (&stopped["stop_type"], &stopped["stopping_word"]),
        (&json!("word"), &json!(letter))
    );
    assert!(!text(&stopped).contains(&letter));
    let long = "word ".repeat(200);
    let (status, error) = server.post("/completion", &json!({ "prompt": long }));
    assert_eq!((status, &error["error"]["type"]), (400, &json!("exceed_context_size_error")));
    assert_eq!(error["error"]["n_ctx"], 32);
    assert!(error["error"]["n_prompt_tokens"].as_u64().unwrap() > 32);
}

#[test]
fn probabilities_after_sampling_are_those_of_the_draw() {
    let server = Serving::start(&[]);
    let ask = |more: Value| {
        let mut ask = json!({
            "prompt": "hello", "n_predict": 3, "n_probs": 8, "post_sampling_probs": true, "top_p": 1,
            "min_p": 0, "top_k": 3, "ignore_eos": true,
        });
        ask.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (status, answer) = server.post("/completion", &ask);
        assert_eq!(status, 200, "{answer}");
        answer["completion_probabilities"].as_array().unwrap().clone()
    };
    for told in ask(json!({})) {
        let top = told["top_probs"].as_array().unwrap();
        assert_eq!(top.len(), 3, "top_k leaves three: {told}");
        let sum: f64 = top.iter().map(|top| top["prob"].as_f64().unwrap()).sum();
        assert!((sum - 1.0).abs() < 1e-6, "{sum}");
        assert!(top.iter().any(|top| top["id"] == told["id"] && top["prob"] == told["prob"]));
    }
    for told in ask(json!({ "temperature": 0 })) {
        assert_eq!((&told["prob"], told["top_probs"].as_array().unwrap().len()), (&json!(1.0), 1));
    }
    // Without top_k among the samplers, it does not act.
    let all = ask(json!({ "samplers": ["temperature"], "n_probs": 8 }));
    assert_eq!(all[0]["top_probs"].as_array().unwrap().len(), 8);
}

#[test]
fn biases_and_penalties_act() {
    let server = Serving::start(&["--temp", "0"]);
    let ask = |more: Value| {
        let mut ask =
            json!({ "prompt": "hello", "n_predict": 6, "return_tokens": true, "ignore_eos": true });
        ask.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (status, answer) = server.post("/completion", &ask);
        assert_eq!(status, 200, "{answer}");
        answer["tokens"].as_array().unwrap().clone()
    };
    let plain = ask(json!({}));
    let banned = ask(json!({ "logit_bias": [[plain[0], false]] }));
    assert!(!banned.contains(&plain[0]));
    let wanted = json!({ plain[0].to_string(): 1e6 });
    assert_eq!(ask(json!({ "logit_bias": wanted })), vec![plain[0].clone(); 6]);
    // A penalty so large forbids what came among the last tokens.
    let mut all = ask(json!({ "presence_penalty": 100, "repeat_last_n": -1 }));
    all.sort_by_key(Value::as_u64);
    all.dedup();
    assert_eq!(all.len(), 6);
    let mut one_back =
        ask(json!({ "frequency_penalty": 100, "repeat_last_n": 1, "n_predict": 12 }));
    let count = one_back.len();
    one_back.dedup();
    assert_eq!(one_back.len(), count, "no token twice in a row");
}

#[test]
fn text_becomes_tokens_and_text_again() {
    let server = Serving::start(&[]);
    let content = "hello wörld";
    let (_, plain) = server.post("/tokenize", &json!({ "content": content }));
    let (_, pieces) = server.post("/tokenize", &json!({ "content": content, "with_pieces": true }));
    let ids: Vec<&Value> =
        pieces["tokens"].as_array().unwrap().iter().map(|token| &token["id"]).collect();
    assert_eq!(json!(ids), plain["tokens"]);
    for token in pieces["tokens"].as_array().unwrap() {
        assert!(token["piece"].is_string() || token["piece"].is_array(), "{token}");
    }
    let (_, back) = server.post("/detokenize", &json!({ "tokens": plain["tokens"] }));
    assert_eq!(text(&back).trim(), content);
    let messages = json!([{ "role": "user", "content": "hi" }]);
    let (status, answer) = server.post("/apply-template", &json!({ "messages": messages }));
    assert!(status == 200 && answer["prompt"].as_str().unwrap().contains("hi"), "{answer}");
    let (_, count) =
        server.post("/v1/chat/completions/input_tokens", &json!({ "messages": messages }));
    let (_, tokens) =
        server.post("/tokenize", &json!({ "content": answer["prompt"], "add_special": true }));
    assert_eq!(count["input_tokens"], tokens["tokens"].as_array().unwrap().len());
}

#[test]
fn the_server_says_what_it_is() {
    let server =
        Serving::start(&["-np", "2", "-c", "64", "-n", "9", "--seed", "3", "--top-k", "5"]);
    let (_, properties) = server.get("/props");
    assert_eq!(properties["total_slots"], 2);
    assert!(properties["model_path"].as_str().unwrap().ends_with("tiny.gguf"));
    let defaults = &properties["default_generation_settings"];
    assert_eq!(defaults["n_ctx"], 64);
    assert_eq!((&defaults["params"]["seed"], &defaults["params"]["top_k"]), (&json!(3), &json!(5)));
    assert_eq!(defaults["params"]["n_predict"], 9);
    let (_, slots) = server.get("/slots");
    assert_eq!(slots.as_array().unwrap().len(), 2);
    assert_eq!((&slots[0]["n_ctx"], &slots[0]["is_processing"]), (&json!(64), &json!(false)));
    assert_eq!(server.get("/slots?fail_on_no_slot=1").0, 200);
    let (_, models) = server.get("/models");
    assert_eq!(models["data"].as_array().unwrap().len(), 1);
    // The server's defaults are those of OpenAI's protocol, too.
    let (_, one) = server.post("/v1/completions", &json!({ "prompt": "a", "max_tokens": 5 }));
    let (_, other) = server.post("/v1/completions", &json!({ "prompt": "a", "max_tokens": 5 }));
    assert_eq!(one["choices"], other["choices"]);
    let hidden = Serving::start(&["--no-slots"]);
    assert_eq!(hidden.get("/slots").0, 501);
}

/// Fields with values that they cannot have. Each is refused by its name.
#[test]
fn what_a_field_cannot_be_is_refused_by_its_name() {
    let server = Serving::start(&["-np", "2"]);
    let huge = json!(1e300);
    let whole = |least: i64| {
        vec![
            json!(least - 1),
            json!("1"),
            json!(1.5),
            json!([1]),
            json!({}),
            json!(true),
            huge.clone(),
        ]
    };
    let number = || {
        vec![
            json!("1"),
            json!([1]),
            json!({}),
            json!(true),
            huge.clone(),
            json!(-1e300),
            json!("NaN"),
        ]
    };
    let flag = || vec![json!(1), json!("true"), json!([]), json!({})];
    let mut bad: Vec<(&str, Vec<Value>)> = vec![
        ("n_predict", whole(-1)),
        ("max_tokens", whole(-1)),
        ("n_keep", whole(-1)),
        ("n_discard", whole(0)),
        ("n_cmpl", [whole(1), vec![json!(257)]].concat()),
        ("n_probs", [whole(0), vec![json!(1001)]].concat()),
        ("repeat_last_n", whole(-1)),
        ("seed", whole(-1)),
        ("top_k", whole(-1)),
        ("id_slot", [whole(-1), vec![json!(2)]].concat()),
        ("top_p", [number(), vec![json!(-0.1), json!(1.1)]].concat()),
        ("repeat_penalty", [number(), vec![json!(0), json!(-1)]].concat()),
        ("samplers", vec![json!(1), json!(["nothing"]), json!("?"), json!([1]), json!({})]),
        (
            "logit_bias",
            vec![
                json!(1),
                json!([1]),
                json!([[1]]),
                json!([[1, "x"]]),
                json!([[-1, 1]]),
                json!([[1e9, 1]]),
                json!([[1, true]]),
                json!({ "1": "x" }),
                json!({ "999999": 1 }),
                json!([[1, 1e300]]),
            ],
        ),
        ("stop", vec![json!(1), json!([1]), json!({}), json!(vec!["x"; 65])]),
        (
            "prompt",
            vec![
                json!(1),
                json!(true),
                json!([[-1]]),
                json!([1e300]),
                json!([[1.5]]),
                json!([true]),
                json!([999_999]),
                json!({}),
                json!([[]]),
                json!([]),
                json!(""),
                json!(vec!["x"; 257]),
                json!([[["a"]]]),
                json!(["a", 1, [1]]),
            ],
        ),
        ("response_fields", vec![json!(1), json!("content"), json!([1]), json!({})]),
        ("mirostat", vec![json!(1), json!(2), json!(-1), json!("1"), huge.clone()]),
        ("dynatemp_range", vec![json!(0.5), json!("0"), json!(-1)]),
        ("dry_multiplier", vec![json!(0.8), json!("0")]),
        ("xtc_probability", vec![json!(0.5), json!("0")]),
        ("min_keep", vec![json!(2), json!(-1), json!("0")]),
        ("n_indent", vec![json!(4), json!(-1)]),
        ("t_max_predict_ms", vec![json!(100), json!("0")]),
        ("n_cache_reuse", vec![json!(64), json!(-1)]),
    ];
    for name in ["temperature", "min_p", "typical_p"] {
        bad.push((name, [number(), vec![json!(-0.1)]].concat()));
    }
    for name in
        ["presence_penalty", "frequency_penalty", "dry_base", "mirostat_tau", "adaptive_decay"]
    {
        bad.push((name, number()));
    }
    for name in
        ["stream", "cache_prompt", "ignore_eos", "return_tokens", "post_sampling_probs", "verbose"]
    {
        bad.push((name, flag()));
    }
    for (name, values) in bad {
        for value in values {
            let mut ask = json!({ "prompt": "a", "n_predict": 1 });
            ask[name] = value.clone();
            let (status, error) = server.post("/completion", &ask);
            assert_eq!((status, &error["error"]["param"]), (400, &json!(name)), "{value}: {error}");
        }
    }
    for (name, value) in
        [("grammar", json!("root ::= 1")), ("json_schema", json!({})), ("lora", json!([1]))]
    {
        let (status, error) = server.post("/completion", &json!({ "prompt": "a", name: value }));
        assert_eq!((status, &error["error"]["param"]), (501, &json!(name)), "{error}");
    }
    for body in ["", "[]", "{\"prompt\":\"a\",\"temperature\":NaN}", "{\"prompt\":\"a\"", "\u{0}"] {
        assert_eq!(server.post_raw("/completion", body.as_bytes(), &[]).0, 400, "{body}");
    }
    for bad in [
        json!({}),
        json!({ "content": 1 }),
        json!({ "content": [-1] }),
        json!({ "content": [[1]] }),
    ] {
        assert_eq!(server.post("/tokenize", &bad).1["error"]["param"], "content", "{bad}");
    }
    for bad in [
        json!({}),
        json!({ "tokens": "1" }),
        json!({ "tokens": [-1] }),
        json!({ "tokens": [1e300] }),
    ] {
        assert_eq!(server.post("/detokenize", &bad).1["error"]["param"], "tokens", "{bad}");
    }
    for bad in [json!({}), json!({ "messages": [] }), json!({ "messages": [1] })] {
        assert_eq!(server.post("/apply-template", &bad).0, 400, "{bad}");
    }
    // It has survived all that.
    let (status, answer) = server.post("/completion", &json!({ "prompt": "a", "n_predict": 1 }));
    assert_eq!((status, &answer["tokens_predicted"]), (200, &json!(1)));
}

#[test]
fn what_changes_nothing_is_let_through() {
    let server = Serving::start(&[]);
    let ask = json!({
        "prompt": "a", "n_predict": 1, "mirostat": 0, "mirostat_tau": 5, "mirostat_eta": 0.1, "tfs_z": 1.0,
        "xtc_probability": 0, "dry_multiplier": 0.0, "dry_base": 1.75, "dry_sequence_breakers": ["\n"],
        "n_keep": -1, "n_discard": 0, "id_slot": -1, "top_n_sigma": -1.0, "dynatemp_range": 0, "grammar": "",
        "logit_bias": [], "stop": [], "samplers": null, "seed": 4_294_967_295_u32, "min_keep": 0,
        "lora": [], "image_data": [], "t_max_predict_ms": 0, "sse_ping_interval": -1,
        "top_k": 0, "repeat_last_n": 0, "penalize_nl": false,
    });
    let (status, answer) = server.post("/completion", &ask);
    assert_eq!((status, &answer["tokens_predicted"]), (200, &json!(1)), "{answer}");
}

#[test]
fn what_is_not_there_says_so() {
    let server = Serving::start(&["--api-key", "secret"]);
    let key = [("authorization", "Bearer secret")];
    for path in
        ["/infill", "/embedding", "/v1/rerank", "/lora-adapters", "/slots/0?action=save", "/props"]
    {
        let (status, error) = server.post_raw(path, b"{}", &key);
        assert_eq!(
            (status, &error["error"]["type"]),
            (501, &json!("not_supported_error")),
            "{path}"
        );
        assert_eq!(server.post_raw(path, b"{}", &[]).0, 401, "{path}");
    }
    for path in ["/completion", "/tokenize", "/detokenize", "/apply-template"] {
        assert_eq!(server.post_raw(path, b"{}", &[]).0, 401, "{path}");
        assert_eq!(server.post_raw(path, b"{}", &key).0, 400, "{path}");
    }
    assert_eq!(
        (server.get("/props").0, server.get("/slots").0, server.get("/health").0),
        (401, 401, 200)
    );
}

#[test]
fn an_option_of_llama_server_says_what_to_use() {
    let run = |options: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_quantkit"));
        let output = command.args(["serve", "missing.gguf"]).args(options).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    for (options, cure) in [
        (&["-ngl", "99"][..], "--device"),
        (&["-hf", "a/b"], "quantkit fetch"),
        (&["-ctk", "q8_0"], "--kv-type"),
        (&["--lora", "x"], "LoRA"),
    ] {
        let (code, error) = run(options);
        assert!(code == Some(2) && error.contains(options[0]) && error.contains(cure), "{error}");
    }
    // Those that have another name here are taken: what fails is the missing file.
    let (code, error) =
        run(&["-np", "2", "-t", "1", "-b", "64", "--jinja", "-kvu", "--temp", "0.5"]);
    assert!(code == Some(1) && error.contains("missing.gguf"), "{error}");
    let (code, error) = run(&["--top-p", "7"]);
    assert!(code == Some(1) && error.contains("top-p"), "{error}");
}

#[test]
fn the_last_message_is_gone_on_with_where_that_is_asked_for() {
    let server = Serving::start(&["--temp", "0"]);
    let messages = json!([
        { "role": "user", "content": "hi" },
        { "role": "assistant", "content": "hello th" },
    ]);
    let ask = json!({
        "messages": messages, "continue_final_message": true, "max_tokens": 2, "verbose": true,
    });
    let (status, answer) = server.post("/chat/completions", &ask);
    assert_eq!(status, 200, "{answer}");
    assert!(answer["__verbose"]["prompt"].as_str().unwrap().ends_with("hello th"), "{answer}");
    let (_, applied) = server.post("/apply-template", &ask);
    assert_eq!(applied["prompt"], answer["__verbose"]["prompt"]);
    let both = json!({
        "messages": messages, "continue_final_message": true, "add_generation_prompt": true,
    });
    let (status, error) = server.post("/v1/chat/completions", &both);
    assert_eq!((status, &error["error"]["param"]), (400, &json!("continue_final_message")));
    let (_, plain) =
        server.post("/v1/chat/completions", &json!({ "messages": messages, "n_predict": 1 }));
    assert!(plain.get("__verbose").is_none());
    assert_eq!(plain["usage"]["completion_tokens"], 1);
    assert!(plain["system_fingerprint"].as_str().unwrap().starts_with('b'));
    assert_eq!(plain["timings"]["predicted_n"], 1);
}

#[test]
fn a_template_in_a_file_takes_the_place_of_the_models_own() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("template.jinja");
    std::fs::write(&path, "<{{ messages[0].content }}>").unwrap();
    let server = Serving::start(&["--chat-template-file", path.to_str().unwrap()]);
    let messages = json!([{ "role": "user", "content": "hi" }]);
    let (_, answer) = server.post("/apply-template", &json!({ "messages": messages }));
    assert_eq!(answer, json!({ "prompt": "<hi>" }));
    assert_eq!(server.get("/props").1["chat_template"], "<{{ messages[0].content }}>");
}

#[test]
#[cfg(target_os = "linux")]
fn it_listens_at_several_addresses() {
    let server = Serving::start(&["--host", "127.0.0.1,127.0.0.2"]);
    let port = server.address.rsplit(':').next().unwrap();
    // Linux has all of 127.0.0.0/8 without being told.
    std::net::TcpStream::connect(format!("127.0.0.2:{port}")).unwrap();
    assert_eq!(server.get("/health").0, 200);
}
