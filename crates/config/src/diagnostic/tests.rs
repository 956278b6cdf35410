use super::*;

fn finish(text: &str, reports: impl IntoIterator<Item = Report>) -> Diagnostics {
    let mut files = Files::default();
    files.add("/etc/headgate/conf.d/20-web.toml".into(), text.to_owned());
    let mut collector = Collector::default();
    reports.into_iter().for_each(|report| collector.push(report));
    collector.finish(&files)
}

fn span(start: u32, end: u32) -> Span {
    Span { file: 0, start, end }
}

#[test]
fn a_block_has_the_format_of_the_contract() {
    let text = format!("{}weight = 70000\n", "#\n".repeat(13));
    let report = Report::error(span(35, 40), "weight must be 0 to 65535").help("use 0 to drain the backend");
    assert_eq!(
        finish(&text, [report]).to_string(),
        "error: weight must be 0 to 65535\n  --> /etc/headgate/conf.d/20-web.toml:14:10\n14 | weight = 70000\n   |          ^^^^^\n   = help: use 0 to drain the backend\n"
    );
}

#[test]
fn tabs_and_wide_characters_put_the_caret_right() {
    let excerpt = |line: &str, part: &str| {
        let at = line.find(part).unwrap();
        let excerpt = Excerpt::new(line, at, at + part.len());
        (excerpt.text, excerpt.start, excerpt.width)
    };
    assert_eq!(excerpt("\ta\t= 1", "1"), ("    a   = 1".to_owned(), 10, 1));
    assert_eq!(excerpt("日本 = é", "é"), ("日本 = é".to_owned(), 7, 1));
    assert_eq!(excerpt("x = \"日本\"", "\"日本\""), ("x = \"日本\"".to_owned(), 4, 6));
    // The end of the line, and beyond it.
    let end = Excerpt::new("abc", 3, 3);
    assert_eq!((end.start, end.width), (3, 1));
    let beyond = Excerpt::new("abc", 10, 90);
    assert_eq!((beyond.start, beyond.width), (3, 1));
    // Within a character.
    let within = Excerpt::new("é", 1, 1);
    assert_eq!((within.start, within.width), (0, 1));
}

#[test]
fn a_long_line_is_cut_around_the_caret() {
    let line = format!("{}HERE{}", "a".repeat(5000), "b".repeat(5_000_000));
    let excerpt = Excerpt::new(&line, 5000, 5004);
    assert!(excerpt.text.starts_with("…aaa") && excerpt.text.ends_with("bbb…"), "{}", excerpt.text);
    assert!(excerpt.text.chars().count() <= 102);
    assert_eq!(excerpt.text.chars().skip(excerpt.start).take(excerpt.width).collect::<String>(), "HERE");
    let all = Excerpt::new(&line, 0, line.len());
    assert_eq!((all.start, all.width), (0, 100));
}

#[test]
fn nothing_that_a_terminal_obeys_is_printed() {
    let text = "# \u{1b}[2J\u{7f}\u{9b}31m\u{202e}\r x\u{7}\n";
    let diagnostics = finish(text, [Report::error(span(0, 1), "bad \u{1b}]0;title\u{7}\nfake").help("\u{9b}1m")]);
    let shown = diagnostics.to_string();
    assert!(shown.chars().all(|c| c == '\n' || !c.is_control()), "{shown:?}");
    assert!(!shown.contains('\u{202e}'));
    let mut files = Files::default();
    files.add("/etc/\u{1b}[31m.toml".into(), String::new());
    let mut collector = Collector::default();
    collector.push(Report::file(files.path(0), "bad"));
    assert!(!collector.finish(&files).to_string().contains('\u{1b}'));
}

#[test]
fn they_come_by_position_once_each_and_not_too_many() {
    let reports =
        (0..500u32).rev().flat_map(|at| [Report::error(span(at, at + 1), "x"), Report::error(span(at, at + 1), "x")]);
    let diagnostics = finish(&"a".repeat(500), reports);
    assert_eq!(diagnostics.iter().count(), 100);
    assert!(diagnostics.iter().map(|diagnostic| diagnostic.place.as_ref().unwrap().column).eq(1..=100));
    assert_eq!(diagnostics.more(), 400);
    assert!(diagnostics.to_string().ends_with(&format!("\nand {} more\n", diagnostics.more())));
}

#[test]
fn json_reads_back_and_can_leave_the_lines_out() {
    let report = Report::error(span(0, 3), "x").note(span(4, 5), "y").help("z");
    let diagnostics = finish("abc d\n", [report]);
    let json = serde_json::to_string(&diagnostics).unwrap();
    assert!(json.contains("abc d"));
    assert_eq!(serde_json::from_str::<Diagnostics>(&json).unwrap(), diagnostics);
    let bare = diagnostics.without_excerpts();
    assert!(!serde_json::to_string(&bare).unwrap().contains("abc"));
    assert_eq!(
        bare.to_string(),
        "error: x\n  --> /etc/headgate/conf.d/20-web.toml:1:1\n  = note: y\n  --> /etc/headgate/conf.d/20-web.toml:1:5\n  = help: z\n"
    );
}
