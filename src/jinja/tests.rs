//! Templates against what transformers renders (scripts/compare_templates.py), and against their
//! bounds.

use std::path::Path;

use chrono::{DateTime, NaiveDateTime};
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};

use super::{ErrorKind, TemplateError, render};

/// tests/data/templates.json
#[derive(Deserialize)]
struct Reference {
    now: i64,
    variables: Map<String, Json>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    template: String,
    /// Nothing where transformers refuses.
    text: Option<String>,
}

fn moment(seconds: i64) -> NaiveDateTime {
    DateTime::from_timestamp(seconds, 0).unwrap().naive_utc()
}

#[test]
fn templates_render_as_in_transformers() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/templates.json");
    let reference: Reference = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    for case in reference.cases {
        let rendered = render(&case.template, &reference.variables, moment(reference.now));
        assert_eq!(rendered.as_ref().ok(), case.text.as_ref(), "{}: {rendered:?}", case.template);
    }
}

fn rendered(template: &str) -> Result<String, TemplateError> {
    let Json::Object(variables) = json!({ "messages": [{ "role": "user", "content": "Hi" }] })
    else {
        unreachable!("it is an object")
    };
    render(template, &variables, moment(0))
}

#[track_caller]
fn assert_stopped(template: &str) {
    let error = rendered(template).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Limit, "{error}");
}

#[test]
fn a_template_can_refuse() {
    let error = rendered("a\n{{ raise_exception('roles must alternate') }}").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Raised);
    assert_eq!(
        error.to_string(),
        "it refuses this conversation: roles must alternate (line 2 of the template)"
    );
}

#[test]
fn errors_name_the_line_and_what_is_not_known() {
    for (template, kind, named) in [
        ("{{ messages }}\n\n{{ x.y }}", ErrorKind::Failed, "x is undefined (line 3"),
        ("\n{% if true %}", ErrorKind::Syntax, "endif"),
        ("{{ 'a' | frobnicate }}", ErrorKind::Failed, "\"frobnicate\" is no filter"),
        ("{% break %}", ErrorKind::Syntax, "no loop around"),
        (
            "{% for x in [1] %}{% set y %}{% break %}{% endset %}{% endfor %}",
            ErrorKind::Syntax,
            "no loop around",
        ),
        ("{% include 'other' %}", ErrorKind::Syntax, "another template"),
        ("{{ [].append(1) }}", ErrorKind::Failed, "\"append\""),
        ("{% for a in 1 %}{% endfor %}", ErrorKind::Failed, "type int has no items"),
    ] {
        let error = rendered(template).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(named), "{error}");
    }
}

#[test]
fn what_is_no_number_sorts_without_a_panic() {
    let numbers = "range(200) | map('string') | map('replace', '7', 'nan') | map('float')";
    let sorted = rendered(&format!("{{{{ {numbers} | sort | length }}}}")).unwrap();
    assert_eq!(sorted, "200");
    assert!(rendered(&format!("{{{{ ({numbers} | list + ['a']) | sort }}}}")).is_err());
}

#[test]
fn no_template_runs_for_ever() {
    assert_stopped(
        "{% for i in range(99999) %}{% for j in range(99999) %}{{ j }}{% endfor %}{% endfor %}",
    );
    assert_stopped("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}");
    assert_stopped("{% for x in [[1]] recursive %}{{ loop([[1]]) }}{% endfor %}");
    assert_stopped(
        "{% set s = 'a' * 9000000 %}{% for i in range(99999) %}{{ s == 'a' ~ s }}{% endfor %}",
    );
}

#[test]
fn no_template_takes_all_memory() {
    let doubled = |step: &str| {
        format!(
            "{{% set ns = namespace(s='aaaaaaaaaaaaaaaa', l=[1]) %}}{{% for i in range(60) %}}\
             {step}{{% endfor %}}"
        )
    };
    for step in [
        "{% set ns.s = ns.s ~ ns.s %}",
        "{% set ns.s = ns.s + ns.s %}",
        "{% set ns.s = ns.s * 2 %}",
        "{% set ns.s = '%s%s' % (ns.s, ns.s) %}",
        "{% set ns.s = ns.s | replace('a', 'aa') %}",
        "{% set ns.s = ns.s.replace('', 'a') %}",
        "{% set ns.s = [ns.s, ns.s] | join %}",
        "{% set ns.s = ns.s.join([ns.s, ns.s]) %}",
        "{% set ns.s = '{}{}'.format(ns.s, ns.s) %}",
        "{% set ns.s = (ns.s ~ '\\n' ~ ns.s) | indent(ns.s) %}",
        "{% set ns.s = ns.s | tojson ~ ns.s | urlencode %}",
        "{% set x %}{{ ns.s }}{{ ns.s }}{% endset %}{% set ns.s = x %}",
        "{% set ns.l = ns.l + ns.l %}",
        "{% set ns.l = ns.l * 2 %}",
        "{% set ns.l = [ns.l, ns.l] %}{% set s = ns.l | string %}",
        "{% set ns.l = {'a': ns.l, 'b': ns.l} %}{% set s = ns.l | tojson %}",
        "{% set ns.l = [ns.l, ns.l] %}{{ ns.l == [ns.l, ns.l][0:1][0] ~ 'x' }}{% set a = [ns.l] == [[ns.l, ns.l]] %}{% set ns.s = ns.s ~ ns.s %}",
    ] {
        assert_stopped(&doubled(step));
    }
    for template in [
        "{{ 'a' * 10 ** 12 }}",
        "{{ [1] * 10 ** 12 }}",
        "{{ 'a'.center(10 ** 12) }}",
        "{{ 'a' | center(10 ** 12) }}",
        "{{ 'a'.ljust(10 ** 9) }}{{ 'a'.zfill(10 ** 9) }}",
        "{{ '%1000000000s' % 'a' }}",
        "{{ '%.1000000000f' % 1.0 }}",
        "{{ '%*d' % (1000000000, 1) }}",
        "{{ '{:1000000000}'.format(1) }}",
        "{{ '{:.1000000000f}'.format(1.0) }}",
        "{{ 'a\\nb' | indent(10 ** 9) }}",
        "{{ [1] | batch(10 ** 9, 0) | list }}",
        "{{ [1] | slice(10 ** 9) | list }}",
        "{{ [[1]] | tojson(indent=10 ** 9) }}",
    ] {
        assert_stopped(template);
    }
}

#[test]
fn nothing_is_too_deep() {
    let deep = |open: &str, inner: &str, close: &str| {
        format!("{}{inner}{}", open.repeat(20_000), close.repeat(20_000))
    };
    for template in [
        deep("{% if true %}", "x", "{% endif %}"),
        deep("{% for x in [1] %}", "x", "{% endfor %}"),
        format!("{{{{ {} }}}}", deep("(", "1", ")")),
        format!("{{{{ {} }}}}", deep("[", "1", "]")),
        format!("{{{{ {} }}}}", deep("{'a': ", "1", "}")),
        format!("{{{{ {} }}}}", deep("not ", "1", "")),
        format!("{{{{ {} }}}}", deep("-", "1", "")),
        format!("{{{{ {} }}}}", deep("1 + ", "1", "")),
        format!("{{{{ {} }}}}", deep("1 if 1 else ", "1", "")),
        format!("{{{{ {} }}}}", deep("", "1", " | string")),
        format!("{{{{ {} }}}}", deep("", "messages", "[0]")),
        format!("{{{{ {} }}}}", deep("1 ~ ", "1", " == 1")),
        "{% set ns = namespace(l=1) %}{% for i in range(999) %}{% set ns.l = [ns.l] %}{% endfor %}"
            .to_string(),
        "{% set ns = namespace() %}{% set ns.ns = ns %}{{ ns }}".to_string(),
        "{% set ns = namespace() %}{% macro f() %}{% macro g() %}{{ ns.f() }}{% endmacro %}\
         {% set ns.f = g %}{% endmacro %}{% set ns.f = f %}{% for i in range(2000) %}{{ ns.f() }}\
         {{ f() }}{% endfor %}{{ ns.f() }}"
            .to_string(),
    ] {
        let error = rendered(&template).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Limit, "{error}: {:.80}", template);
    }
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(
        template in r#"(\{\{|\}\}|\{%|%\}|\{#|#\}|-|for x in|endfor|if|endif|set|x|messages|'|\(|\)|\[|\]|\.|\||~|[a-z]{1,3}|[0-9]|\s|\PC){0,40}"#,
    ) {
        let _ = rendered(&template);
    }
}
