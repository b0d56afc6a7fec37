//! `/metrics`, read as Prometheus reads it; the dashboard and the rules in `deploy/`; the access log.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::time::{Duration, Instant};

use regex::Regex;
use serde_json::{Value, json};

use crate::serve::Serving;
use crate::support::TinyModel;

/// A sample's labels and its value.
type Samples = Vec<(BTreeMap<String, String>, f64)>;

#[derive(Debug, Default)]
struct Family {
    help: String,
    kind: String,
    /// By the samples' names.
    samples: BTreeMap<String, Samples>,
}

/// The families of a page, by their names; fails at whatever the format does not allow.
fn parse(page: &str) -> BTreeMap<String, Family> {
    let name = "[a-zA-Z_:][a-zA-Z0-9_:]*";
    let sample = Regex::new(&format!(r"^({name})(?:\{{(.*)\}})? ([^ ]+)$")).unwrap();
    let label =
        Regex::new(r#"^([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\"n])*)"(?:,|$)"#).unwrap();
    assert!(page.ends_with('\n'));
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut current = String::new();
    let mut seen = BTreeSet::new();
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect(line);
            let family = Family { help: help.to_string(), ..Family::default() };
            assert!(families.insert(name.to_string(), family).is_none(), "twice: {name}");
            current = name.to_string();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect(line);
            assert_eq!(name, current, "a type without help");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            families.get_mut(name).unwrap().kind = kind.to_string();
        } else {
            let captures = sample.captures(line).unwrap_or_else(|| panic!("no sample: {line}"));
            let mut labels = BTreeMap::new();
            let mut rest = captures.get(2).map_or("", |labels| labels.as_str());
            while let Some(found) = label.captures(rest) {
                let (name, value) = (found[1].to_string(), found[2].to_string());
                assert!(labels.insert(name, value).is_none(), "{line}");
                rest = &rest[found[0].len()..];
            }
            assert_eq!(rest, "", "{line}");
            assert!(seen.insert((captures[1].to_string(), labels.clone())), "twice: {line}");
            let value = captures[3].parse().unwrap();
            let samples = &mut families.get_mut(&current).expect(line).samples;
            samples.entry(captures[1].to_string()).or_default().push((labels, value));
        }
    }
    for (name, family) in &families {
        check(name, family);
    }
    families
}

fn check(name: &str, family: &Family) {
    assert!(family.help.len() > 10 && !family.samples.is_empty(), "{name}: {family:?}");
    let names: Vec<&str> = family.samples.keys().map(String::as_str).collect();
    match family.kind.as_str() {
        "counter" => {
            assert!(name.ends_with("_total") && names == [name], "{name}: {names:?}");
            let values = family.samples[name].iter();
            assert!(values.clone().all(|(_, value)| *value >= 0.0), "{name}");
        }
        "gauge" => assert!(!name.ends_with("_total") && names == [name], "{name}: {names:?}"),
        "histogram" => check_histogram(name, family),
        other => panic!("{name}: {other}"),
    }
}

/// Buckets are cumulative, their limits rise, and the last is the count of all.
fn check_histogram(name: &str, family: &Family) {
    let part = |suffix: &str| &family.samples[&format!("{name}_{suffix}")];
    assert_eq!(family.samples.len(), 3, "{name}");
    let mut buckets: BTreeMap<BTreeMap<String, String>, Vec<(f64, f64)>> = BTreeMap::new();
    for (labels, count) in part("bucket") {
        let mut labels = labels.clone();
        let limit = labels.remove("le").expect("a limit");
        let limit = if limit == "+Inf" { f64::INFINITY } else { limit.parse().unwrap() };
        buckets.entry(labels).or_default().push((limit, *count));
    }
    assert_eq!((part("sum").len(), part("count").len()), (buckets.len(), buckets.len()), "{name}");
    for (labels, count) in part("count") {
        let buckets = &buckets[labels];
        let rises = |pair: &[(f64, f64)]| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1;
        assert!(buckets.windows(2).all(rises), "{name}: {buckets:?}");
        assert_eq!(buckets.last(), Some(&(f64::INFINITY, *count)), "{name}");
    }
}

fn page(server: &Serving) -> String {
    match server.get("/metrics") {
        (200, Value::String(page)) => page,
        other => panic!("{other:?}"),
    }
}

/// The one value of a name that has these labels.
fn value(families: &BTreeMap<String, Family>, name: &str, labels: &[(&str, &str)]) -> f64 {
    let all = families.values().find_map(|family| family.samples.get(name));
    let all = all.unwrap_or_else(|| panic!("no {name}"));
    let fits = |found: &BTreeMap<String, String>| {
        labels.iter().all(|&(label, value)| found.get(label).is_some_and(|found| found == value))
    };
    let fitting: Vec<f64> =
        all.iter().filter(|(found, _)| fits(found)).map(|&(_, value)| value).collect();
    assert_eq!(fitting.len(), 1, "{name} {labels:?}");
    fitting[0]
}

/// Scrapes until something is so.
fn scrape_until(
    server: &Serving,
    is_so: impl Fn(&BTreeMap<String, Family>) -> bool,
) -> BTreeMap<String, Family> {
    let start = Instant::now();
    loop {
        let families = parse(&page(server));
        if is_so(&families) {
            return families;
        }
        assert!(start.elapsed() < Duration::from_secs(30), "it never is");
        std::thread::sleep(Duration::from_millis(10));
    }
}

const COMPLETIONS: &str = "/v1/completions";

fn completion(tokens: usize) -> Value {
    json!({"prompt": "the inner on of what is", "max_tokens": tokens, "ignore_eos": true, "temperature": 0})
}

#[test]
fn a_scrape_tells_what_requests_took() {
    let server = Serving::start(&["--alias", "a \"name\\", "--metrics"]);
    let before = parse(&page(&server));
    assert_eq!(value(&before, "vllm:time_to_first_token_seconds_count", &[]), 0.0);
    let (status, answer) = server.post(COMPLETIONS, &completion(5));
    assert_eq!(status, 200);
    let prompt = answer["usage"]["prompt_tokens"].as_f64().unwrap();
    let name = [("model_name", "a \\\"name\\\\")];
    let finished = "quantkit_requests_finished_total";
    let length = [name[0], ("reason", "length")];
    let told = scrape_until(&server, |told| {
        value(told, finished, &length) == 1.0
            && value(told, "vllm:num_requests_running", &name) == 0.0
    });
    for (metric, expected) in [
        ("vllm:prompt_tokens_total", prompt),
        ("vllm:generation_tokens_total", 5.0),
        ("llamacpp:prompt_tokens_total", prompt),
        ("llamacpp:tokens_predicted_total", 5.0),
        ("llamacpp:prompt_tokens_cached_total", 0.0),
        ("llamacpp:n_tokens_max", prompt + 5.0),
        ("llamacpp:n_decode_total", 5.0),
        ("llamacpp:n_busy_slots_per_decode", 1.0),
        ("vllm:prefix_cache_queries_total", prompt),
        ("vllm:prefix_cache_hits_total", 0.0),
        ("vllm:time_to_first_token_seconds_count", 1.0),
        ("vllm:inter_token_latency_seconds_count", 4.0),
        ("vllm:request_time_per_output_token_seconds_count", 1.0),
        ("vllm:e2e_request_latency_seconds_count", 1.0),
        ("vllm:request_queue_time_seconds_count", 1.0),
        ("vllm:request_prompt_tokens_sum", prompt),
        ("vllm:request_generation_tokens_sum", 5.0),
        ("quantkit_requests_started_total", 1.0),
        ("vllm:kv_cache_usage_perc", 0.0),
    ] {
        assert_eq!(value(&told, metric, &name), expected, "{metric}");
    }
    let reason = [name[0], ("finished_reason", "length")];
    assert_eq!(value(&told, "vllm:request_success_total", &reason), 1.0);
    let answered = [("path", COMPLETIONS), ("status", "200")];
    assert_eq!(value(&told, "quantkit_http_requests_total", &answered), 1.0);
    // The same prompt again: it begins with what the first one has computed.
    server.post(COMPLETIONS, &completion(5));
    let told = scrape_until(&server, |told| value(told, finished, &length) == 2.0);
    assert!(value(&told, "vllm:prefix_cache_hits_total", &name) > 0.0);
    assert_eq!(value(&told, "quantkit_prefix_cache_hits_total", &name), 1.0);
    let kept = value(&told, "quantkit_kv_bytes", &[("of", "kept")]);
    let limit = value(&told, "quantkit_kv_limit_bytes", &[("of", "kept")]);
    assert!(kept > 0.0 && kept <= limit, "{kept} of {limit}");
    assert_eq!(value(&told, "quantkit_kv_bytes", &[("of", "all")]), kept);
}

#[test]
fn every_end_of_a_request_is_counted_as_what_it_is() {
    let model = TinyModel { context: 1 << 20, ..TinyModel::default() };
    let server = Serving::start_with(&model, &["--parallel", "1", "--max-queue", "1"]);
    let text = server.post(COMPLETIONS, &completion(8)).1["choices"][0]["text"].clone();
    let stop: String = text.as_str().unwrap().chars().skip(3).take(2).collect();
    let mut body = completion(100_000);
    body["stop"] = json!(stop);
    let (_, answer) = server.post(COMPLETIONS, &body);
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    let (status, _) = server.post(COMPLETIONS, &json!({"prompt": []}));
    assert_eq!(status, 400);
    let (status, _) = server.post(COMPLETIONS, &json!({"prompt": vec![7; (1 << 20) + 1]}));
    assert_eq!(status, 400);
    // One that runs, one that waits, and one more.
    let ask = completion(1_000_000);
    let running = server.open(COMPLETIONS, &ask);
    let is = |name: &'static str, expected: f64| {
        move |told: &BTreeMap<String, Family>| value(told, name, &[]) == expected
    };
    let told = scrape_until(&server, is("vllm:num_requests_running", 1.0));
    let share = value(&told, "vllm:kv_cache_usage_perc", &[]);
    assert!(share > 0.0 && share <= 1.0, "{share}");
    let waiting = server.open(COMPLETIONS, &ask);
    scrape_until(&server, is("vllm:num_requests_waiting", 1.0));
    assert_eq!(server.post(COMPLETIONS, &ask).0, 429);
    drop((running, waiting));
    let told = scrape_until(&server, is("quantkit_requests_cancelled_total", 2.0));
    let finished = |reason| value(&told, "quantkit_requests_finished_total", &[("reason", reason)]);
    assert_eq!(["length", "stop_text", "end_of_turn"].map(finished), [1.0, 1.0, 0.0]);
    let refused = |reason| value(&told, "quantkit_requests_refused_total", &[("reason", reason)]);
    assert_eq!(["queue_full", "too_long", "invalid"].map(refused), [1.0, 1.0, 1.0]);
    let over = |reason| value(&told, "vllm:request_success_total", &[("finished_reason", reason)]);
    assert_eq!(["abort", "stop", "length", "error"].map(over), [2.0, 1.0, 1.0, 0.0]);
}

#[test]
fn each_of_several_models_has_its_own_figures() {
    let directory = tempfile::tempdir().unwrap();
    let models = ["one", "two"].map(|name| {
        let path = directory.path().join(format!("{name}.gguf"));
        TinyModel::default().write(&path);
        path
    });
    let server = Serving::start_models(directory, &models, &[]);
    let mut body = completion(3);
    body["model"] = json!("two");
    assert_eq!(server.post(COMPLETIONS, &body).0, 200);
    let generated = |told: &BTreeMap<String, Family>, model| {
        value(told, "vllm:generation_tokens_total", &[("model_name", model)])
    };
    let told = scrape_until(&server, |told| generated(told, "two") == 3.0);
    assert_eq!(generated(&told, "one"), 0.0);
}

#[test]
fn a_scrape_needs_the_key_and_comes_in_the_format_that_is_asked_for() {
    let server = Serving::start(&["--api-key", "secret"]);
    assert_eq!(server.get("/metrics").0, 401);
    let ask = |accept: &str| {
        let request = ureq::get(format!("{}/metrics", server.address));
        let request = request.header("authorization", "Bearer secret").header("accept", accept);
        let mut response = request.call().unwrap();
        let kind = response.headers()["content-type"].to_str().unwrap().to_string();
        (kind, response.body_mut().read_to_string().unwrap())
    };
    let (kind, plain) = ask("text/plain");
    assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8");
    parse(&plain);
    let (kind, newer) = ask("application/openmetrics-text;version=1.0.0,text/plain;q=0.5");
    assert_eq!(kind, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert!(newer.ends_with("# EOF\n"));
    assert!(newer.contains("# TYPE vllm:prompt_tokens counter\nvllm:prompt_tokens_total{"));
}

/// The queries of a dashboard.
fn queries(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| match value {
            Value::String(text) if name == "expr" || name == "query" => found.push(text.clone()),
            _ => queries(value, found),
        }),
        Value::Array(values) => values.iter().for_each(|value| queries(value, found)),
        _ => {}
    }
}

#[test]
fn the_dashboard_and_the_rules_ask_for_metrics_that_there_are() {
    let server = Serving::start(&[]);
    assert_eq!(server.post(COMPLETIONS, &completion(3)).0, 200);
    let told = parse(&page(&server));
    let names: BTreeSet<&str> =
        told.values().flat_map(|family| family.samples.keys().map(String::as_str)).collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/monitoring");
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap();
    let mut asked = Vec::new();
    queries(&serde_json::from_str(&read("grafana/dashboards/quantkit.json")).unwrap(), &mut asked);
    assert!(asked.len() > 20, "{asked:?}");
    let rules = read("rules.yml");
    let expressions = rules.lines().filter_map(|line| line.trim().strip_prefix("expr: "));
    let before = asked.len();
    asked.extend(expressions.map(str::to_string));
    assert_eq!(asked.len() - before, rules.matches("- alert: ").count());
    let name = Regex::new(r"\b(?:vllm:|llamacpp:|quantkit_)[a-z0-9_]+").unwrap();
    let used: BTreeSet<&str> =
        asked.iter().flat_map(|query| name.find_iter(query)).map(|found| found.as_str()).collect();
    let missing: Vec<&&str> = used.iter().filter(|name| !names.contains(**name)).collect();
    assert!(used.len() > 15 && missing.is_empty(), "{missing:?} of {used:?}");
    // Labels, too.
    let label = Regex::new(r#"\b(of|reason|phase)=~?"([^"$]+)""#).unwrap();
    let labels: BTreeSet<(&str, &str)> = told
        .values()
        .flat_map(|family| family.samples.values().flatten())
        .flat_map(|(labels, _)| labels.iter().map(|(name, value)| (name.as_str(), value.as_str())))
        .collect();
    for query in &asked {
        for found in label.captures_iter(query) {
            let (_, [name, values]) = found.extract();
            for value in values.split('|') {
                assert!(labels.contains(&(name, value)), "{query}");
            }
        }
    }
}

#[test]
fn the_log_has_a_line_for_each_request_with_the_time_to_its_end() {
    let model = TinyModel { context: 1 << 16, ..TinyModel::default() };
    let mut server = Serving::start_with(&model, &["-v"]);
    let mut log = BufReader::new(server.child.stderr.take().unwrap());
    let mut next = || {
        let mut line = String::new();
        while !line.contains("quantkit::access") {
            line.clear();
            assert_ne!(log.read_line(&mut line).unwrap(), 0, "the log has ended");
        }
        line
    };
    let field = |line: &str, name: &str| {
        let field = Regex::new(&format!(r"\b{name}=([^ \n]+)")).unwrap();
        field.captures(line).unwrap_or_else(|| panic!("{name} in {line}"))[1].to_string()
    };
    let mut body = completion(40);
    let id = [("x-request-id", "mine-17")];
    server.post_raw(COMPLETIONS, body.to_string().as_bytes(), &id);
    let line = next();
    assert_eq!(field(&line, "request_id"), "mine-17");
    assert_eq!((field(&line, "method"), field(&line, "path")), ("POST".into(), COMPLETIONS.into()));
    assert_eq!(
        (field(&line, "status"), field(&line, "generated_tokens")),
        ("200".into(), "40".into())
    );
    assert_ne!(field(&line, "prompt_tokens"), "0");
    // A stream: its headers come long before its end.
    body["stream"] = json!(true);
    body["max_tokens"] = json!(300);
    server.stream(COMPLETIONS, &body);
    let line = next();
    assert_eq!(
        (field(&line, "generated_tokens"), field(&line, "complete")),
        ("300".into(), "true".into())
    );
    let milliseconds = |name| field(&line, name).parse::<f64>().unwrap();
    assert!(milliseconds("milliseconds") > milliseconds("headers_milliseconds"), "{line}");
    assert_eq!(field(&line, "request_id").len(), 32);
    // A client that leaves long before the end.
    body["max_tokens"] = json!(60_000);
    let mut stream = server.open(COMPLETIONS, &body);
    stream.read_exact(&mut [0; 400]).unwrap();
    drop(stream);
    let line = next();
    assert_eq!((field(&line, "status"), field(&line, "complete")), ("200".into(), "false".into()));
    // Names that could pass for other fields are not taken over.
    let id = [("x-request-id", "x status=500")];
    server.post_raw(COMPLETIONS, completion(1).to_string().as_bytes(), &id);
    let line = next();
    assert_eq!((field(&line, "status"), field(&line, "request_id").len()), ("200".into(), 32));
    assert_eq!(server.get("/nowhere").0, 404);
    let line = next();
    assert_eq!((field(&line, "status"), field(&line, "prompt_tokens")), ("404".into(), "0".into()));
}
