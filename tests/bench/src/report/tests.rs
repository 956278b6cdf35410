use super::*;

fn report() -> Report {
    let mut table = Table::new("How long", &["what", "ms"]).note("A median.");
    table.rows = vec![vec!["load".into(), Cell::Number(1234.56, 1)], vec!["ümlaut".into(), Cell::Missing]];
    Report {
        name: "control",
        setting: vec![("kernel".to_owned(), "6.18".to_owned()), ("nft".to_owned(), "1.0.6".to_owned())],
        tables: vec![table],
        targets: vec![Target::at_most("load", 2.0, 1.99, "s"), Target::at_least("ratio", 0.97, 0.9699, "")],
    }
}

#[test]
fn the_page_reads_as_a_table() {
    let wanted = "\
Measured with: kernel 6.18; nft 1.0.6.

**How long**

| what   |      ms |
| ------ | ------: |
| load   | 1,234.6 |
| ümlaut |       - |

A median.

**Targets**

| target | asked for | measured | -   |
"
    .replace("| -   |", "|             |");
    let markdown = report().markdown();
    assert!(markdown.starts_with(&wanted), "{markdown}");
    assert!(markdown.contains("| load   | ≤ 2 s     | 2.0 s    | met         |"), "{markdown}");
    assert!(markdown.contains("| ratio  | ≥ 0.97    | 0.970    | **not met** |"), "{markdown}");
}

#[test]
fn json_keeps_numbers_and_what_is_missing() {
    let value = serde_json::to_value(report()).unwrap();
    assert_eq!(value["tables"][0]["rows"][0][1], 1234.56);
    assert_eq!(value["tables"][0]["rows"][1][1], serde_json::Value::Null);
    assert_eq!(value["targets"][1]["met"], false);
}

#[test]
fn a_section_is_replaced_between_its_markers_and_nowhere_else() {
    let page = "before\n<!-- begin: a -->\nold\n<!-- end: a -->\nafter\n<!-- begin: b -->\n<!-- end: b -->\n";
    let wanted = "before\n<!-- begin: a -->\nnew\n<!-- end: a -->\nafter\n<!-- begin: b -->\n<!-- end: b -->\n";
    assert_eq!(replace_section(page, "a", "new\n").as_deref(), Some(wanted));
    assert_eq!(replace_section(wanted, "a", "new\n").as_deref(), Some(wanted));
    assert_eq!(replace_section(page, "c", "new\n"), None);
}

#[test]
fn thousands_are_grouped() {
    for (number, shown) in [("1", "1"), ("999", "999"), ("1000", "1,000"), ("-1234567.25", "-1,234,567.25")] {
        assert_eq!(grouped(number), shown);
    }
}
