//! The README and the book in docs/: links lead somewhere, and pages show what is there.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};

/// The marks around a command's help in its page.
const HELP: (&str, &str) = ("<!-- help:begin -->", "<!-- help:end -->");

#[test]
fn every_link_and_anchor_leads_somewhere() {
    let mut broken = Vec::new();
    for page in all_pages() {
        for target in links(&read(&page)) {
            if let Some(what) = what_is_wrong(&page, &target) {
                broken.push(format!("{}: {target}: {what}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn a_page_of_the_book_links_to_the_book_alone() {
    let outside: Vec<String> = book_pages()
        .iter()
        .flat_map(|page| {
            let directory = page.parent().unwrap().to_path_buf();
            let docs = root().join("docs").canonicalize().unwrap();
            links(&read(page))
                .into_iter()
                .filter(|target| is_relative(target) && !target.starts_with('#'))
                .filter(move |target| {
                    let place = directory.join(target.split('#').next().unwrap());
                    place.canonicalize().is_ok_and(|place| !place.starts_with(&docs))
                })
                .map(|target| format!("{}: {target}", page.display()))
                .collect::<Vec<_>>()
        })
        .collect();
    assert!(outside.is_empty(), "mdBook does not copy these:\n{}", outside.join("\n"));
}

#[test]
fn the_summary_lists_every_page() {
    let docs = root().join("docs");
    let summary = docs.join("SUMMARY.md");
    let listed: HashSet<PathBuf> =
        links(&read(&summary)).iter().map(|target| docs.join(target)).collect();
    let there: HashSet<PathBuf> =
        book_pages().into_iter().filter(|page| *page != summary).collect();
    let differences: Vec<_> = listed.symmetric_difference(&there).collect();
    assert!(differences.is_empty(), "only in docs/SUMMARY.md or only in docs/: {differences:?}");
}

#[test]
fn the_readme_fits_on_two_hundred_lines() {
    let lines = read(&root().join("README.md")).lines().count();
    assert!(lines <= 200, "README.md has {lines} lines; move something to docs/");
}

#[test]
fn the_page_of_each_command_has_its_help() {
    let commands = commands_in(&help(&[]));
    assert!(commands.len() > 10, "{commands:?}");
    for name in commands {
        let path = root().join(format!("docs/commands/{name}.md"));
        let page = fs::read_to_string(&path).unwrap_or_default();
        let written = page.split_once(HELP.0).and_then(|(_, rest)| rest.split_once(HELP.1));
        let is_current =
            written.is_some_and(|(section, _)| section.trim() == help_section(&[&name]));
        assert!(
            is_current,
            "{} is missing or lacks the present help: \
             python3 scripts/command_pages.py target/release/quantkit",
            path.display()
        );
    }
}

#[test]
fn the_page_of_the_library_shows_the_examples() {
    let page = read(&root().join("docs/library.md"));
    for name in ["quantize", "score"] {
        let program = read(&root().join(format!("examples/{name}.rs")));
        assert!(
            page.contains(&format!("```rust\n{program}```")),
            "docs/library.md does not have examples/{name}.rs as it is"
        );
    }
}

#[test]
fn anchors_are_those_of_github() {
    let page = "# A *b* `c-d`: e, f?\n## Same\n```\n# no heading\n```\n## Same\n";
    assert_eq!(anchors(page), ["a-b-c-d-e-f", "same", "same-1"]);
    let found = links("see [a](b.md#c) and ![d](e.png)\n```\n[no](link.md)\n```\n`[no](code.md)`");
    assert_eq!(found, ["b.md#c", "e.png"]);
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The Markdown files in docs/ and below it.
fn book_pages() -> Vec<PathBuf> {
    let docs = root().join("docs");
    let mut pages: Vec<PathBuf> = [docs.clone(), docs.join("commands")]
        .iter()
        .flat_map(|directory| fs::read_dir(directory).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect();
    pages.sort();
    pages
}

fn all_pages() -> Vec<PathBuf> {
    let others = [
        "README.md",
        "ARCHITECTURE.md",
        "deploy/README.md",
        "eval-sets/README.md",
        "fuzz/README.md",
    ];
    let mut pages = book_pages();
    pages.extend(others.iter().map(|name| root().join(name)));
    pages
}

/// The lines of a page that are not in a fenced block.
fn prose(page: &str) -> impl Iterator<Item = &str> {
    let mut fenced = false;
    page.lines().filter(move |line| {
        let fence = line.starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    })
}

/// The targets of links and pictures outside of code.
fn links(page: &str) -> Vec<String> {
    prose(page)
        .flat_map(|line| {
            let text: String = line.split('`').step_by(2).collect();
            let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
            targets.map(|(target, _)| target.to_string()).collect::<Vec<_>>()
        })
        .collect()
}

/// The anchors of a page's headings, as GitHub and mdBook make them.
fn anchors(page: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for heading in prose(page).filter(|line| line.starts_with('#')) {
        let text = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = text.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        let anchor: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
        let same = |other: &&String| **other == anchor || other.starts_with(&format!("{anchor}-"));
        found.push(match found.iter().filter(same).count() {
            0 => anchor,
            before => format!("{anchor}-{before}"),
        });
    }
    found
}

fn is_relative(target: &str) -> bool {
    !["http://", "https://", "mailto:"].iter().any(|scheme| target.starts_with(scheme))
}

fn what_is_wrong(page: &Path, target: &str) -> Option<&'static str> {
    if !is_relative(target) {
        return None;
    }
    let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
    let file = match path {
        "" => page.to_path_buf(),
        path => page.parent().unwrap().join(path),
    };
    match () {
        () if !file.exists() => Some("there is no such file"),
        () if anchor.is_empty() => None,
        () if !anchors(&read(&file)).iter().any(|known| known == anchor) => {
            Some("the page has no such heading")
        }
        () => None,
    }
}

/// A command's help, without a terminal's width.
fn help(words: &[&str]) -> String {
    let output = Process::new(env!("CARGO_BIN_EXE_quantkit"))
        .args(words)
        .arg("--help")
        .env_remove("COLUMNS")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "quantkit {} --help", words.join(" "));
    String::from_utf8(output.stdout).unwrap()
}

/// The names under `Commands:`, without `help` itself.
fn commands_in(help: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    lines
        .take_while(|line| line.starts_with("  "))
        .filter(|line| !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_string)
        .collect()
}

/// What `scripts/command_pages.py` writes for a command and its own commands.
fn help_section(words: &[&str]) -> String {
    let text = help(words);
    let lines: Vec<&str> = text.trim_end().lines().map(str::trim_end).collect();
    let mut parts =
        vec![format!("```text\n$ quantkit {} --help\n{}\n```", words.join(" "), lines.join("\n"))];
    for name in commands_in(&text) {
        parts.push(help_section(&[words, &[&name]].concat()));
    }
    parts.join("\n\n")
}
