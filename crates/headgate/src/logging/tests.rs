use std::io::Read;
use std::sync::Arc;

use super::*;

#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn logged(line: Line, emit: impl FnOnce()) -> String {
    let buffer = Buffer::default();
    let writer = buffer.clone();
    let subscriber = tracing_subscriber::fmt()
        .event_format(line)
        .with_max_level(Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, emit);
    String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap()
}

const HOSTILE: &str = "a\x1b[2J\r\nb\u{9b}31m\u{7f}\u{202e}c\"=";

#[test]
fn text_has_time_level_message_and_fields() {
    let line = logged(Line::Text { colour: false }, || {
        tracing::info!(farm = "web", backends = 3, cause = "no such file", "compiled");
    });
    let (time, rest) = line.split_once(' ').unwrap();
    assert!(time.ends_with('Z') && time.len() >= 20, "{time}");
    assert_eq!(rest, " INFO compiled backends=3 cause=\"no such file\" farm=web\n");
}

#[test]
fn the_journal_gets_priorities_and_neither_time_nor_colour() {
    let line = logged(Line::Journal, || {
        tracing::error!("a");
        tracing::warn!("b");
        tracing::info!("c");
        tracing::debug!(target: "t", "d");
    });
    assert_eq!(line, "<3>a\n<4>b\n<6>c\n<7>t: d\n");
}

#[test]
fn json_is_one_object_a_line() {
    let line =
        logged(Line::Json, || tracing::warn!(target: "t", farm = %HOSTILE, count = 2u64, good = true, "{HOSTILE}"));
    assert_eq!(line.matches('\n').count(), 1);
    assert!(!line.trim_end().contains(acts), "{line:?}");
    let value: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(value["level"], "warn");
    assert_eq!(value["message"], HOSTILE);
    assert_eq!(value["fields"], json!({ "farm": HOSTILE, "count": 2, "good": true }));
}

#[test]
fn hostile_text_stays_on_its_line() {
    for form in [Line::Text { colour: false }, Line::Journal] {
        let line = logged(form, || tracing::info!(name = HOSTILE, debug = ?HOSTILE, "{HOSTILE}"));
        assert_eq!(line.matches('\n').count(), 1, "{line:?}");
        assert!(!line.trim_end().contains(acts), "{line:?}");
        assert!(line.contains(r"a\u{1b}[2J\r\nb\u{9b}31m\u{7f}\u{202e}c"), "{line:?}");
    }
}

#[test]
fn colour_is_only_around_the_level() {
    let line = logged(Line::Text { colour: true }, || tracing::error!("bad"));
    assert!(line.contains("\x1b[31mERROR\x1b[0m bad"), "{line:?}");
}

#[test]
fn errors_show_their_causes() {
    let error = LogError::Level { level: "x".into(), source: EnvFilter::builder().parse("a=b=c").unwrap_err() };
    let line = logged(Line::Journal, || tracing::warn!(error = &error as &dyn std::error::Error, "refused"));
    assert!(line.contains("log level") && line.contains("error parsing level filter"), "{line}");
}

#[test]
fn long_lines_are_cut_between_characters() {
    for shift in 0..4 {
        let line = logged(Line::Journal, || tracing::info!("{}{}", "x".repeat(shift), "ä".repeat(5000)));
        assert!(line.len() <= LINE_MAX && line.ends_with("…\n"), "{}", line.len());
    }
}

#[test]
fn a_reader_that_stands_still_loses_lines_and_is_told() {
    let (mut reader, writer) = io::pipe().unwrap();
    let mut outlet = Outlet::new(writer);
    let line = [b"x".repeat(999), b"\n".to_vec()].concat();
    let start = std::time::Instant::now();
    for _ in 0..1000 {
        outlet.line(&line).unwrap();
    }
    assert!(start.elapsed() < std::time::Duration::from_secs(1), "it waited {:?}", start.elapsed());
    let lost = outlet.lost;
    assert!(lost > 900, "{lost}");
    let mut taken = vec![0; 64 * 1000];
    reader.read_exact(&mut taken[..60_000]).unwrap();
    outlet.line(b"again\n").unwrap();
    drop(outlet);
    let mut rest = String::new();
    reader.read_to_string(&mut rest).unwrap();
    assert!(rest.ends_with(&format!("\n{lost} lines were lost here: nobody read them\nagain\n")), "{rest:.200}");
}

#[test]
fn who_closed_its_end_is_an_error_and_no_panic() {
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    assert_eq!(Outlet::new(writer).line(b"x\n").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}

#[test]
fn a_bad_level_is_refused_with_a_hint() {
    let error = init(Format::Text, Some("loud=very=much")).unwrap_err();
    assert!(error.to_string().contains("error, warn, info"), "{error}");
}
