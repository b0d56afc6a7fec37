//! KServe's protocol of version 2, spoken to the built binary over HTTP.

use serde_json::{Value, json};

use crate::serve::Serving;

const INFER: &str = "/v2/models/tiny/infer";

/// What the model says after a prompt by OpenAI's protocol.
fn continued(server: &Serving, prompt: &str, count: usize) -> String {
    let body = json!({"prompt": prompt, "max_tokens": count, "temperature": 0});
    let (_, answer) = server.post("/v1/completions", &body);
    answer["choices"][0]["text"].as_str().unwrap().to_string()
}

#[test]
fn an_old_payload_is_answered_text_by_text() {
    let server = Serving::start(&[]);
    let [one, two] = ["the inner on", "what is"].map(|prompt| continued(&server, prompt, 7));
    let body = json!({
        "id": "42",
        "inputs": [
            {"name": "INPUT_TEXT", "shape": [2, 1], "datatype": "BYTES",
             "data": [["the inner on"], ["what is"]]},
            {"name": "max_tokens", "shape": [1], "datatype": "INT32", "data": [7]},
        ],
        "parameters": {"temperature": 0.0, "exclude_input_in_output": true},
        "outputs": [{"name": "generated_text"}],
    });
    let (status, answer) = server.post(INFER, &body);
    assert_eq!(status, 200, "{answer}");
    let expected = json!({
        "id": "42", "model_name": "tiny", "model_version": "1",
        "outputs": [{"name": "generated_text", "datatype": "BYTES", "shape": [2, 1],
                     "data": [one, two]}],
    });
    assert_eq!(answer, expected);
    let (_, stats) = server.get("/v2/models/tiny/stats");
    assert_eq!(stats["model_stats"][0]["inference_stats"]["success"]["count"], 2);
    assert!(stats["model_stats"][0]["inference_stats"]["compute_infer"]["ns"].as_u64() > Some(0));
}

#[test]
fn generation_answers_as_a_whole_and_in_pieces() {
    let server = Serving::start(&[]);
    let text = continued(&server, "the inner on", 9);
    let parameters = json!({"max_tokens": 9, "temperature": 0});
    let mut body = json!({"text_input": "the inner on", "parameters": parameters});
    let (status, answer) = server.post("/v2/models/tiny/versions/1/generate", &body);
    assert_eq!((status, &answer["text_output"]), (200, &json!(format!("the inner on{text}"))));
    body["exclude_input_in_output"] = json!(true);
    let path = "/v2/models/tiny/generate_stream";
    let (_, stream) = server.post(path, &body);
    let events = stream.as_str().unwrap().split_terminator("\n\n");
    let pieces = events.map(|event| {
        let event: Value = serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap();
        event["text_output"].as_str().unwrap().to_string()
    });
    assert_eq!(pieces.collect::<String>(), text);
}

#[test]
fn texts_come_and_go_as_bytes() {
    let server = Serving::start(&[]);
    let expected = continued(&server, "the", 3);
    let header = json!({
        "inputs": [{"name": "text_input", "shape": [1], "datatype": "BYTES",
                    "parameters": {"binary_data_size": 7}},
                   {"name": "max_tokens", "shape": [1], "datatype": "INT32",
                    "parameters": {"binary_data_size": 4}}],
        "parameters": {"temperature": 0, "exclude_input_in_output": true,
                       "binary_data_output": true},
    });
    let header = header.to_string();
    let length = header.len().to_string();
    let body = [header.as_bytes(), &3u32.to_le_bytes(), b"the", &3i32.to_le_bytes()].concat();
    let (status, answer) =
        server.post_raw(INFER, &body, &[("inference-header-content-length", &length)]);
    assert_eq!(status, 200, "{answer}");
    // JSON, and behind it the text and its length.
    let answer = answer.as_str().unwrap();
    let size = 4 + expected.len();
    assert!(answer.contains(&format!("\"binary_data_size\":{size}")), "{answer}");
    assert!(answer.ends_with(&expected), "{answer:?} {expected:?}");
}

#[test]
fn servers_and_models_say_what_they_are() {
    let server = Serving::start(&[]);
    for path in ["/v2/health/live", "/v2/health/ready", "/v2/models/tiny/ready"] {
        assert_eq!(server.get(path).0, 200, "{path}");
    }
    assert_eq!(server.get("/v2").1["name"], "quantkit");
    let (_, model) = server.get("/v2/models/tiny/versions/1");
    assert_eq!((&model["name"], &model["versions"]), (&json!("tiny"), &json!(["1"])));
    assert_eq!(
        model["inputs"][0],
        json!({"name": "text_input", "datatype": "BYTES", "shape": [-1]})
    );
    assert_eq!(server.get("/v2/models/tiny/config").1["input"][0]["data_type"], "TYPE_STRING");
    let index = json!([{"name": "tiny", "version": "1", "state": "READY"}]);
    assert_eq!(server.post("/v2/repository/index", &json!({})).1, index);
    assert_eq!(server.get("/v2/models/stats").1["model_stats"][0]["name"], "tiny");
}

#[test]
fn what_cannot_be_answered_is_refused_by_name() {
    let server = Serving::start(&["--max-body", "64KiB"]);
    let text = |shape: Value, data: Value| json!({"name": "text_input", "shape": shape, "datatype": "BYTES", "data": data});
    let good = text(json!([1]), json!(["a"]));
    for (path, body, status, words) in [
        ("/v2/models/other/infer", json!({"inputs": [good]}), 404, "there is no model \"other\""),
        ("/v2/models/tiny/versions/9/infer", json!({"inputs": [good]}), 404, "no version \"9\""),
        (INFER, json!({"inputs": []}), 400, "text_input"),
        (INFER, json!({"inputs": [text(json!([3]), json!(["a"]))]}), 400, "3 elements"),
        (INFER, json!({"inputs": [text(json!([-1]), json!(["a"]))]}), 400, "negative"),
        (
            INFER,
            json!({"inputs": [text(json!([u64::MAX]), json!(["a"]))]}),
            400,
            "not an inference",
        ),
        (INFER, json!({"inputs": [good], "parameters": {"max_tokens": -1}}), 400, "max_tokens"),
        (INFER, json!({"inputs": [good], "parameters": {"max_tokens": 1e300}}), 400, "max_tokens"),
        (INFER, json!({"inputs": [good], "parameters": {"beams": 3}}), 400, "beams"),
        (INFER, json!({"inputs": [good], "parameters": {"stream": true}}), 400, "generate_stream"),
        (INFER, json!({"inputs": [good], "outputs": [{"name": "a"}, {"name": "b"}]}), 400, "\"b\""),
        (INFER, json!([1]), 400, "not an inference request"),
        (INFER, json!({"inputs": [text(json!([1]), json!(["a".repeat(70_000)]))]}), 413, "65536"),
        ("/v2/models/tiny/generate", json!({"text_input": 3}), 400, "text_input"),
        ("/v2/models/tiny/generate_stream", json!({"text_input": ""}), 400, "empty"),
        ("/v2/repository/models/tiny/load", json!({}), 501, "when it starts"),
        ("/v2/systemsharedmemory/status", json!({}), 501, "no shared memory"),
    ] {
        let (found, answer) = server.post(path, &body);
        let message = answer["error"].as_str().unwrap_or_default();
        assert!(found == status && message.contains(words), "{path}: {found} {answer}");
    }
    let gzip = [("content-encoding", "gzip")];
    let (status, answer) = server.post_raw(INFER, b"\x1f\x8b", &gzip);
    assert!(
        status == 400 && answer["error"].as_str().unwrap().contains("uncompressed"),
        "{answer}"
    );
}
