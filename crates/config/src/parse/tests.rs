use proptest::prelude::*;

use super::*;

/// Our tree in the terms of the `toml` crate.
fn as_toml(value: &Value) -> toml::Value {
    match value {
        Value::Text(text) => toml::Value::String(text.as_ref().to_owned()),
        Value::Integer(number) => toml::Value::Integer(*number),
        Value::Float(number) => toml::Value::Float(*number),
        Value::Boolean(value) => toml::Value::Boolean(*value),
        Value::Datetime(text) => text.parse().map_or(toml::Value::Boolean(false), toml::Value::Datetime),
        Value::Array(items) => toml::Value::Array(items.iter().map(|item| as_toml(&item.value)).collect()),
        Value::Table(table) => toml::Value::Table(as_table(table)),
    }
}

fn as_table(table: &Table) -> toml::Table {
    table.iter().map(|entry| (entry.key.as_ref().to_owned(), as_toml(&entry.node.value))).collect()
}

/// Holds our reading of `text` against that of the `toml` crate, and that of its smallest pieces against that of the whole.
fn compare(text: &str) -> Result<(), String> {
    let (ours, errors) = parse(text, 0);
    let (pieces, wrong) = parse_pieces(text, 0, 1);
    if wrong.is_empty() != errors.is_empty() || wrong.is_empty() && pieces != ours && !text.contains("nan") {
        return Err(format!("{text:?} in pieces: {wrong:?}, {pieces:?}"));
    }
    let theirs: Result<toml::Table, _> = toml::from_str(text);
    match (errors.first(), theirs) {
        (None, Ok(theirs)) if format!("{:?}", as_table(&ours)) == format!("{theirs:?}") => Ok(()),
        (None, Ok(theirs)) => Err(format!("{text:?}: {:?} is not {theirs:?}", as_table(&ours))),
        // Dates are kept as text: no key takes one. Deeper than 16 levels nothing is read.
        (None, Err(theirs)) if theirs.message().contains("date") || theirs.message().contains("time") => Ok(()),
        (None, Err(theirs)) => Err(format!("{text:?}: not refused, but {theirs}")),
        (Some(_), Err(_)) => Ok(()),
        (Some(ours), Ok(_)) if ours.message.contains("nested deeper") => Ok(()),
        (Some(ours), Ok(_)) => Err(format!("{text:?}: refused, {ours:?}")),
    }
}

#[test]
fn documents_read_as_the_toml_crate_reads_them() {
    for text in [
        "",
        "\u{feff}a = 1",
        "a = 1\nb.c = 2\nb.d.e = 3\n\"x y\" = 'z'\n",
        "[a]\nb = 1\n[a.c]\nd = 2\n[e.f.g]\n[e]\nh = 1\n[e.f]\ni = 1\n",
        "[[a]]\nb = 1\n[a.c]\nd = 1\n[[a]]\nb = 2\n[[a.e]]\n[[a.e]]\nf = 1\n",
        "a = { b = 1, c.d = 2, e = { f = [1, { g = 2 }] } }\n",
        "a = {\n  b = 1, # comment\n  c = 2,\n}\n",
        "a = [\n 1, 2,\n # comment\n 3\n]\n",
        "a = 0x1F\nb = 0o17\nc = 0b11\nd = 1_000\ne = -5\nf = +5\ng = 1e3\nh = inf\ni = nan\nj = -0.0\n",
        "a = \"\"\"\nline\\\n   on\"\"\"\nb = '''raw\\'''\nc = \"\\u00e9\\t\\\\\"\n",
        "a = true\nb = 1979-05-27T07:32:00Z\n",
        // Refused.
        "a = 1\na = 2\n",
        "[a]\n[a]\n",
        "a.b = 1\n[a]\n",
        "[a]\nb.c = 1\n[a.b]\n",
        "[a]\nb.c = 1\n[a.b.d]\ne = 1\n",
        "[a.b.c]\n[a]\nb.x = 1\n",
        "[a.b.c]\n[a]\nb.x = 1\n[a.b]\n",
        "[a.b]\n[a]\nb.c = 1\n",
        "a = { b = 1 }\na.c = 2\n",
        "a = { b = 1 }\n[a]\n",
        "a = { b = 1 }\n[a.c]\n",
        "a = { b.c = 1, b = 2 }\n",
        "a = { b = {}, b.c = 2 }\n",
        "a = [1]\n[[a]]\n",
        "a = [{}]\n[[a]]\n",
        "[[a]]\n[a]\n",
        "[a]\n[[a]]\n",
        "a = 1\n[a.b]\n",
        "a = 1\na.b = 2\n",
        "[a\nb = 1\n",
        "a = \nb = 1\n",
        "= 1\n",
        "a = \"x\n",
        "a = 99999999999999999999\n",
        "a = 01\n",
        "a = [1, , 2]\n",
        "a = { b = 1\n",
        "a b = 1\n",
        "a = 1 2\n",
        "\0",
        "a = \"\u{7f}\"\n",
        "# \u{1}\n",
        "a\r= 1",
    ] {
        compare(text).unwrap();
    }
}

#[test]
fn pieces_end_before_headers_and_nowhere_else() {
    let pieces = |text, least| {
        let pieces = Pieces::new(Source::new(text), least);
        let words = |piece: Vec<_>| {
            let span = |token: &toml_parser::lexer::Token| token.span().start()..token.span().end();
            piece.iter().map(|token| &text[span(token)]).collect::<String>()
        };
        pieces.map(words).collect::<Vec<_>>()
    };
    let text = "a = [\n[1],\n]\n[b]\nc = \"\"\"\n[d]\n\"\"\"\n[[e]]\nf = {\n g = [\n[2]] }\n [h]\n";
    let expected = ["a = [\n[1],\n]\n", "[b]\nc = \"\"\"\n[d]\n\"\"\"\n", "[[e]]\nf = {\n g = [\n[2]] }\n [h]\n"];
    assert_eq!(pieces(text, 1), expected);
    assert_eq!(pieces(text, usize::MAX), [text]);
    assert_eq!(pieces("[a]\nb = ]\n[c]\n", 1), ["[a]\nb = ]\n[c]\n"], "behind such a bracket nothing is certain");
    assert_eq!(pieces("", 1), [""], "the end is a token too");
}

#[test]
fn what_nests_too_deep_is_refused_once_and_cheaply() {
    for text in [
        format!("a = {}1{}", "[".repeat(100_000), "]".repeat(100_000)),
        format!("a = {}", "{ a = ".repeat(100_000)),
        format!("{}b = 1", "a.".repeat(100_000)),
        format!("[{}b]", "a.".repeat(100_000)),
        format!("[{}b]\nc = 1\n[d]\ne = 1", "a.".repeat(16)),
    ] {
        let (_, errors) = parse(&text, 0);
        assert!(errors.iter().any(|error| error.message.contains("nested deeper")), "{:?}", errors.first());
        assert!(errors.len() < 4, "{} errors", errors.len());
    }
}

#[test]
fn all_errors_of_a_file_are_found_and_the_rest_is_read() {
    let (table, errors) = parse("a = \nb = 1\n[c\nd = 1\n[e]\nf = 'x\ng = 2\ng = 3\n", 0);
    let starts: Vec<u32> = errors.iter().map(|error| error.span.start).collect();
    assert_eq!(starts.len(), 4, "{errors:?}");
    assert!(starts.is_sorted());
    assert_eq!(table.get("b").unwrap().value, Value::Integer(1));
    assert_eq!(table.table("e").unwrap().get("g").unwrap().value, Value::Integer(2));
    // The keys behind a broken header belong to no table.
    assert!(table.get("d").is_none());
}

/// Pieces of which documents, and near misses of documents, are made.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => prop::sample::select(vec![
            "[a]", "[a.b]", "[[c]]", "[c.d]", "[[a.b]]", "a", "b", "c.d", "a.b.c", "\"q k\"", "=", " = ", ".", ",", "\n", "\n",
            "1", "-2", "0x1f", "1.5", "true", "\"x\"", "'y'", "\"\"\"z\n\"\"\"", "[", "]", "{", "}", "[1, 2]", "{ a = 1 }",
            "{ a.b = 1, c = [] }", "# comment", "\t", "\r\n", "\\", "1979-05-27", "nan", "\"", "'", "_", "é",
        ]).prop_map(str::to_owned),
        3 => ("[a-d]", "[a-d]", 0..9u8).prop_map(|(a, b, n)| format!("\n{a}.{b} = {n}\n")),
        3 => ("[a-d]", 0..9u8).prop_map(|(a, n)| format!("\n{a} = {n}\n")),
        2 => ("[a-d]", "[a-d]").prop_map(|(a, b)| format!("\n[{a}.{b}]\n")),
        2 => "[a-d]".prop_map(|a| format!("\n[{a}]\n")),
        1 => "[a-d]".prop_map(|a| format!("\n[[{a}]]\n")),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn made_up_documents_read_as_the_toml_crate_reads_them(pieces in prop::collection::vec(piece(), 0..24)) {
        if let Err(difference) = compare(&pieces.concat()) {
            prop_assert!(false, "{difference}");
        }
    }

    #[test]
    fn no_text_is_too_strange(text in any::<String>()) {
        let (_, errors) = parse(&text, 0);
        for error in errors {
            prop_assert!(error.span.start <= error.span.end && error.span.end as usize <= text.len());
        }
    }
}
