use std::fs;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Int32Array, Int64Array, ListBuilder, RecordBatch, StringArray, StringBuilder,
    StructArray,
};
use arrow::datatypes::{DataType, Field};

use super::*;
use crate::eval::questions::{Form, read_questions, write_questions};
use crate::support::parquet_file::write_parquet;

fn question(row: usize) -> Question {
    Question {
        row,
        question: format!("What is {row} + 1?\nThink."),
        subject: "elementary_mathematics".to_string(),
        choices: (0..4).map(|choice| (row + choice).to_string()).collect(),
        answer: 1,
        id: None,
        form: Form::Exam,
    }
}

fn write_batch(path: &Path, columns: Vec<(&str, ArrayRef)>) {
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    write_parquet(path, &batch).unwrap();
}

fn texts(values: &[&str]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

fn lists(values: &[&[&str]]) -> ArrayRef {
    let mut lists = ListBuilder::new(StringBuilder::new());
    for value in values {
        lists.append_value(value.iter().map(Some));
    }
    Arc::new(lists.finish())
}

fn error_of(columns: Vec<(&str, ArrayRef)>) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("set.parquet");
    write_batch(&path, columns);
    let error = read_questions(&path).unwrap_err().to_string();
    assert!(error.contains("set.parquet"), "{error}");
    error
}

#[test]
fn questions_come_back_as_written_and_bytes_repeat() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("test.parquet");
    let questions: Vec<Question> = (0..3000).map(question).collect();
    write_questions(&path, &questions).unwrap();
    assert_eq!(read_questions(&path).unwrap(), questions);
    let first = fs::read(&path).unwrap();
    write_questions(&path, &questions).unwrap();
    assert_eq!(fs::read(&path).unwrap(), first);
}

#[test]
fn other_integer_widths_and_extra_columns_are_welcome() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("set.parquet");
    let answer: ArrayRef = Arc::new(Int32Array::from(vec![1]));
    write_batch(
        &path,
        vec![
            ("source", texts(&["exam"])),
            ("answer", answer),
            ("choices", lists(&[&["a", "b", "c"]])),
            ("subject", texts(&["s"])),
            ("question", texts(&["q"])),
        ],
    );
    let read = read_questions(&path).unwrap();
    assert_eq!((read[0].choices.len(), read[0].answer), (3, 1));
}

#[test]
fn wrong_columns_are_listed_with_the_expected_ones() {
    let error = error_of(vec![("question", texts(&["q"])), ("answer", texts(&["A"]))]);
    assert!(error.contains("found the columns question (Utf8), answer (Utf8)"), "{error}");
    for expected in [
        "question (string), subject (string), choices (list of strings), answer (integer) for MMLU",
        "options (list of strings), answer_index (integer) for MMLU-Pro",
        "choices.label (list of strings), answerKey (string) for ARC",
    ] {
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_bad_row_is_named() {
    let set = |question: &str, choices: &[&str], answer: i64| {
        error_of(vec![
            ("question", texts(&["q", question])),
            ("subject", texts(&["s", "s"])),
            ("choices", lists(&[&["a", "b"], choices])),
            ("answer", Arc::new(Int64Array::from(vec![0, answer])) as ArrayRef),
        ])
    };
    let cases = [
        (set(" ", &["a", "b"], 0), "row 1: the question is empty"),
        (set("q", &["a", ""], 0), "row 1: choice 1 is empty"),
        (set("q", &["a"], 0), "row 1: 1 choices; expected 2 to 26"),
        (set("q", &["a", "b"], 2), "row 1: the answer is 2; expected 0 to 1 for 2 choices"),
        (set("q", &["a", "b"], -1), "row 1: the answer is -1"),
    ];
    for (error, expected) in cases {
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn missing_values_are_named() {
    let error = error_of(vec![
        ("question", Arc::new(StringArray::from(vec![None::<&str>])) as ArrayRef),
        ("subject", texts(&["s"])),
        ("choices", lists(&[&["a", "b"]])),
        ("answer", Arc::new(Int64Array::from(vec![0])) as ArrayRef),
    ]);
    assert!(error.contains("row 0: the question is missing"), "{error}");
}

#[test]
fn splits_are_found_in_directories_and_beside_files() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, rows: std::ops::Range<usize>| {
        let questions: Vec<Question> = rows.map(question).collect();
        write_questions(&dir.path().join(name), &questions).unwrap();
    };
    write("all/test-00001-of-00002.parquet", 2..5);
    write("all/test-00000-of-00002.parquet", 0..2);
    write("all/dev.parquet", 0..1);
    write("all/validation.parquet", 0..1);
    let set = QuestionSet::find(dir.path()).unwrap();
    let expected: Vec<Question> = (0..5).map(question).collect();
    assert_eq!(set.test_questions().unwrap(), expected);
    assert_eq!(set.dev_questions().unwrap().len(), 1);

    let file = QuestionSet::find(&dir.path().join("all/validation.parquet")).unwrap();
    assert_eq!(file.test_questions().unwrap().len(), 1);
    assert_eq!(file.dev, set.dev);
    assert_ne!(file.sha256().unwrap(), set.sha256().unwrap());

    fs::remove_file(dir.path().join("all/test-00000-of-00002.parquet")).unwrap();
    let error = QuestionSet::find(dir.path()).unwrap_err().to_string();
    assert!(error.contains("says it has 2 files, and 1 are here"), "{error}");
}

#[test]
fn places_without_a_set_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = QuestionSet::find(dir.path()).unwrap_err().to_string();
    assert!(error.contains("expected test.parquet or test-*.parquet"), "{error}");
    let absent = dir.path().join("absent");
    let error = QuestionSet::find(&absent).unwrap_err().to_string();
    assert!(error.contains("absent"), "{error}");
}

/// Damaged files give an error, or questions that pass every check; never a panic.
#[test]
fn damaged_files_do_not_panic() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("set.parquet");
    let questions: Vec<Question> = (0..20).map(question).collect();
    write_questions(&path, &questions).unwrap();
    let whole = fs::read(&path).unwrap();
    for length in (0..whole.len()).step_by(7) {
        fs::write(&path, &whole[..length]).unwrap();
        let error = read_questions(&path).unwrap_err().to_string();
        assert!(error.contains("cannot be read as Parquet"), "{error}");
    }
    for index in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[index] ^= [0x01, 0x10, 0xff][index % 3];
        fs::write(&path, &damaged).unwrap();
        let _ = read_questions(&path);
    }
}

fn nested(fields: Vec<(&str, ArrayRef)>) -> ArrayRef {
    let fields = fields
        .into_iter()
        .map(|(name, array)| (Arc::new(Field::new(name, array.data_type().clone(), true)), array));
    Arc::new(StructArray::from(fields.collect::<Vec<_>>()))
}

fn labels(values: &[&[i64]]) -> ArrayRef {
    let mut lists = ListBuilder::new(arrow::array::Int64Builder::new());
    for value in values {
        lists.append_value(value.iter().copied().map(Some));
    }
    let lists: ArrayRef = Arc::new(lists.finish());
    // The hub's file has 32 bits.
    arrow::compute::cast(&lists, &DataType::new_list(DataType::Int32, true)).unwrap()
}

fn integers(values: &[i64]) -> ArrayRef {
    Arc::new(Int64Array::from(values.to_vec()))
}

fn read_columns(columns: Vec<(&str, ArrayRef)>) -> Vec<Question> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("set.parquet");
    write_batch(&path, columns);
    read_questions(&path).unwrap()
}

fn mmlu_pro(ids: &[i64], categories: &[&str]) -> Vec<(&'static str, ArrayRef)> {
    let options: Vec<&[&str]> =
        vec![&["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]; ids.len()];
    vec![
        ("question_id", integers(ids)),
        ("question", texts(&vec!["How many?"; ids.len()])),
        ("options", lists(&options)),
        ("answer", texts(&vec!["J"; ids.len()])),
        ("answer_index", integers(&vec![9; ids.len()])),
        ("category", texts(categories)),
    ]
}

fn hellaswag(label: &'static str) -> Vec<(&'static str, ArrayRef)> {
    vec![
        ("activity_label", texts(&["Baking"])),
        ("ctx_a", texts(&["A man stirs."])),
        ("ctx_b", texts(&["he"])),
        ("ctx", texts(&["A man stirs. he"])),
        ("endings", lists(&[&["sits [title] down", "bakes", "flies", "sings"]])),
        ("label", texts(&[label])),
    ]
}

#[test]
fn mmlu_pro_has_ten_choices_ids_and_categories() {
    let read = read_columns(mmlu_pro(&[70, 71], &["math", "law"]));
    assert_eq!((read[1].choices.len(), read[1].answer), (10, 9));
    assert_eq!((read[1].subject.as_str(), read[1].id.as_deref()), ("law", Some("71")));
    let error = error_of(mmlu_pro(&[70, 4, 70], &["math", "law", "law"]));
    assert!(error.contains("rows 0 and 2 have the same id, \"70\""), "{error}");
}

#[test]
fn arc_names_its_answer_by_a_label() {
    let set = |key: &str| {
        vec![
            ("id", texts(&["Mercury_1"])),
            ("question", texts(&["What falls?"])),
            (
                "choices",
                nested(vec![
                    ("text", lists(&[&["rain", "smoke", "light"]])),
                    ("label", lists(&[&["1", "2", "3"]])),
                ]),
            ),
            ("answerKey", texts(&[key])),
        ]
    };
    let read = read_columns(set("3"));
    assert_eq!(read[0].choices, ["rain", "smoke", "light"]);
    assert_eq!((read[0].answer, read[0].form, read[0].subject.as_str()), (2, Form::Arc, "arc"));
    let error = error_of(set("C"));
    assert!(error.contains("row 0: the answer is \"C\"; expected one of 1, 2, 3"), "{error}");
}

#[test]
fn hellaswag_is_a_context_and_endings() {
    let read = read_columns(hellaswag("1"));
    assert_eq!(read[0].question, "Baking: A man stirs. He");
    assert_eq!(read[0].choices[0], "sits. down");
    assert_eq!((read[0].answer, read[0].form), (1, Form::Continuation));
    let error = error_of(hellaswag(""));
    assert!(error.contains("row 0: the answer is not given, as in the test split"), "{error}");
    assert!(error_of(hellaswag("4")).contains("row 0: the answer is 4; expected 0 to 3"));
}

#[test]
fn truthful_qa_has_one_right_answer() {
    let set = |right: &[i64]| {
        let choices = || lists(&[&["yes", "no", "never"]]);
        vec![
            ("question", texts(&["Is it?"])),
            ("mc1_targets", nested(vec![("choices", choices()), ("labels", labels(&[right]))])),
            (
                "mc2_targets",
                nested(vec![("choices", choices()), ("labels", labels(&[&[1, 1, 0]]))]),
            ),
        ]
    };
    let read = read_columns(set(&[0, 1, 0]));
    assert_eq!((read[0].answer, read[0].form), (1, Form::TruthfulQa));
    assert!(error_of(set(&[1, 1, 0])).contains("2 answers are labelled right; expected one"));
}

#[test]
fn winogrande_has_a_blank() {
    let set = |sentence: &str, answer: &str| {
        vec![
            ("sentence", texts(&[sentence])),
            ("option1", texts(&["Ann"])),
            ("option2", texts(&["Ben"])),
            ("answer", texts(&[answer])),
        ]
    };
    let read = read_columns(set("_ slept.", "2"));
    assert_eq!((read[0].answer, read[0].form), (1, Form::Blank));
    assert!(error_of(set("Ann slept.", "1")).contains("row 0: the sentence has no blank"));
    assert!(error_of(set("_ slept.", "0")).contains("row 0: the answer is -1; expected 0 to 1"));
    assert!(error_of(set("_ slept.", "x")).contains("\"x\"; expected a number from 1"));
}

/// What any kind of file can hold comes back from it as it was.
#[test]
fn ids_and_forms_survive_every_kind_that_has_them() {
    let dir = tempfile::tempdir().unwrap();
    let mut questions: Vec<Question> = (0..4).map(question).collect();
    questions[0].id = Some("a".to_string());
    questions[1].form = Form::Arc;
    questions[2].form = Form::TruthfulQa;
    questions[3].question = "_ and \"quotes\"\u{2028}".to_string();
    questions[3].form = Form::Blank;
    for name in ["set.parquet", "set.jsonl"] {
        let path = dir.path().join(name);
        write_questions(&path, &questions).unwrap();
        assert_eq!(read_questions(&path).unwrap(), questions, "{name}");
    }
    let path = dir.path().join("set.bin");
    write_questions(&path, &questions[..2]).unwrap();
    let read = read_questions(&path).unwrap();
    assert_eq!(read[1].question, format!("Question: {}\nAnswer:", questions[1].question));
    assert_eq!((&read[1].choices, read[1].answer), (&questions[1].choices, 1));
    assert_eq!((read[1].subject.as_str(), read[1].form), ("set", Form::Continuation));
}

#[test]
fn a_file_of_no_known_kind_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("set.xlsx");
    fs::write(&path, "").unwrap();
    for error in [
        read_questions(&path).unwrap_err(),
        QuestionSet::find(&path).unwrap_err(),
        write_questions(&path, &[]).unwrap_err(),
    ] {
        let error = error.to_string();
        assert!(error.contains("set.xlsx: no known kind of question set: expected"), "{error}");
    }
    let error = write_questions(&dir.path().join("set.csv"), &[]).unwrap_err().to_string();
    assert!(error.contains("are read and not written"), "{error}");
}

#[test]
fn validation_is_scored_where_the_answers_of_test_are_secret() {
    let dir = tempfile::tempdir().unwrap();
    write_batch(&dir.path().join("data/test-00000-of-00001.parquet"), hellaswag(""));
    write_batch(&dir.path().join("data/validation-00000-of-00001.parquet"), hellaswag("2"));
    let set = QuestionSet::find(dir.path()).unwrap();
    assert_eq!(set.test_questions().unwrap()[0].answer, 2);
    assert!(set.dev_questions().unwrap().is_empty());
}

#[test]
fn mmlu_pro_takes_its_shots_from_validation() {
    let dir = tempfile::tempdir().unwrap();
    let test = dir.path().join("test-00000-of-00001.parquet");
    write_batch(&test, mmlu_pro(&[70, 71], &["math", "law"]));
    write_batch(&dir.path().join("validation-00000-of-00001.parquet"), mmlu_pro(&[1], &["law"]));
    for path in [dir.path(), &test] {
        let set = QuestionSet::find(path).unwrap();
        assert_eq!(set.test_questions().unwrap().len(), 2);
        assert_eq!(set.dev_questions().unwrap()[0].id.as_deref(), Some("1"));
    }
}

#[test]
fn the_original_release_is_a_folder_a_split() {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("data/test/virology_test.csv", "Q1,a,b,c,d,A\nQ2,a,b,c,d,B\n"),
        ("data/test/anatomy_test.csv", "Q0,a,b,c,d,D\n"),
        ("data/dev/virology_dev.csv", "S1,a,b,c,d,C\n"),
        ("data/val/virology_val.csv", "V1,a,b,c,d,C\n"),
    ] {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let set = QuestionSet::find(dir.path()).unwrap();
    let read = set.test_questions().unwrap();
    let named: Vec<(usize, &str, &str)> =
        read.iter().map(|q| (q.row, q.subject.as_str(), q.question.as_str())).collect();
    assert_eq!(named, [(0, "anatomy", "Q0"), (1, "virology", "Q1"), (2, "virology", "Q2")]);
    assert_eq!(set.dev_questions().unwrap()[0].question, "S1");
    for name in ["data/test/virology_test.csv", "data/val/virology_val.csv"] {
        let file = QuestionSet::find(&dir.path().join(name)).unwrap();
        assert_eq!(file.dev_questions().unwrap()[0].question, "S1");
    }
}

#[test]
fn lines_of_json_may_hold_both_splits() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("both.jsonl");
    let line = |split: &str| {
        format!(r#"{{"split":"{split}","question":"{split}","choices":["a","b"],"answer":0}}"#)
    };
    fs::write(&path, format!("{}\n{}\n", line("dev"), line("test"))).unwrap();
    let set = QuestionSet::find(&path).unwrap();
    assert_eq!(set.test_questions().unwrap()[0].question, "test");
    assert_eq!(set.dev_questions().unwrap()[0].question, "dev");
    assert_eq!(set.files().count(), 1);
}
