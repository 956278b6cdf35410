//! A line of the log as a record of syslog (RFC 5424).

use std::fmt::Write as _;

use serde_json::Value;
use tracing::{Event, Level};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

use super::{Parts, escape, priority_of};

/// What every receiver should take (RFC 5424, 6.1), bytes; the end of a longer message is cut off.
pub const RECORD_MAX: usize = 2048;
/// The most of it that is structured data, and of one value.
const DATA_MAX: usize = 768;
const VALUE_MAX: usize = 192;
/// `daemon` (RFC 5424, 6.2.1).
const FACILITY: u8 = 3;
/// The most of a host's name (RFC 5424, 6).
const HOST_MAX: usize = 255;
/// The name of our structured data. 32473 is the number that RFC 5612 keeps for those who have none of their own.
const DATA_NAME: &str = "headgate@32473";
/// The fields that receivers sort by; they come first, should there not be room for all.
const FIRST: [&str; 3] = ["farm", "backend", "reason"];

/// An event, all but the host that it is of: the box gets its name later than its first lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// `<PRI>1 TIMESTAMP`.
    head: String,
    /// `STRUCTURED-DATA MSG`.
    body: String,
}

impl Record {
    /// Of an event, now.
    pub(super) fn new(event: &Event<'_>) -> Self {
        let mut parts = Parts::default();
        event.record(&mut parts);
        let (level, target) = (*event.metadata().level(), event.metadata().target());
        let mut head = format!("<{}>1 ", FACILITY * 8 + priority_of(level));
        // Its fraction has six digits, the most that are allowed. Writing to a string does not fail.
        let _ = SystemTime.format_time(&mut Writer::new(&mut head));
        Self { head, body: body(&parts, level, target) }
    }

    /// As it is sent.
    pub fn bytes(&self, host: &str, process: u32) -> Vec<u8> {
        let named = host.bytes().all(|byte| byte.is_ascii_graphic()) && (1..=HOST_MAX).contains(&host.len());
        // What the kernel calls a host that has no name yet (`UTS_NODENAME`).
        let host = if named && host != "(none)" { host } else { "-" };
        let mut record = format!("{} {host} headgated {process} - {}", self.head, self.body);
        record.truncate(record.floor_char_boundary(RECORD_MAX));
        record.into_bytes()
    }
}

/// The message has the fields too: many receivers write only that.
fn body(parts: &Parts, level: Level, target: &str) -> String {
    let mut body = structured(parts);
    body.push(' ');
    let _ = parts.write_text(&mut body, level, target);
    body
}

fn structured(parts: &Parts) -> String {
    let mut data = format!("[{DATA_NAME}");
    let first = FIRST.iter().filter_map(|name| parts.fields.get_key_value(*name));
    let others = parts.fields.iter().filter(|(name, _)| !FIRST.contains(&name.as_str()));
    for (name, value) in first.chain(others) {
        let parameter = parameter(name, value);
        if data.len() + parameter.len() < DATA_MAX {
            data += &parameter;
        }
    }
    if parts.fields.is_empty() || data.len() == DATA_NAME.len() + 1 {
        return "-".to_owned();
    }
    data.push(']');
    data
}

/// `␣NAME="VALUE"`, where a quote, a backslash and a closing bracket are escaped (RFC 5424, 6.3.3). What would act on a terminal is
/// escaped before, as in the log, with backslashes that are the value's own then.
fn parameter(name: &str, value: &Value) -> String {
    let mut shown = String::new();
    let _ = match value {
        Value::String(text) => escape(&mut shown, text),
        other => write!(shown, "{other}"),
    };
    shown.truncate(shown.floor_char_boundary(VALUE_MAX));
    let mut parameter = format!(" {name}=\"");
    for c in shown.chars() {
        if matches!(c, '"' | '\\' | ']') {
            parameter.push('\\');
        }
        parameter.push(c);
    }
    parameter.push('"');
    parameter
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::remote::{Records, queue};
    use super::*;
    use tracing_subscriber::layer::SubscriberExt;

    fn logged(emit: impl FnOnce()) -> Records {
        let (tap, records) = queue();
        tracing::subscriber::with_default(Arc::new(tracing_subscriber::registry().with(tap)), emit);
        records
    }

    fn record(emit: impl FnOnce()) -> String {
        let mut records = logged(emit);
        records.end();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let bytes = runtime.block_on(records.first()).unwrap().bytes("lb1", 7);
        String::from_utf8(bytes).unwrap()
    }

    /// Without the time, which is checked.
    fn timeless(record: &str) -> String {
        let mut words = record.splitn(3, ' ');
        let (head, time, rest) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
        let shape: String = time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        assert_eq!(shape, "0000-00-00T00:00:00.000000Z");
        format!("{head} {rest}")
    }

    #[test]
    fn a_record_has_the_fields_as_data_and_in_its_message() {
        let told = record(|| tracing::warn!(seconds = 3, backend = "b1", farm = "web", "gone"));
        assert_eq!(
            timeless(&told),
            "<28>1 lb1 headgated 7 - [headgate@32473 farm=\"web\" backend=\"b1\" seconds=\"3\"] gone backend=b1 farm=web seconds=3"
        );
        for (told, priority) in [
            (record(|| tracing::error!("x")), "<27>1 "),
            (record(|| tracing::info!("x")), "<30>1 "),
            (record(|| tracing::debug!("x")), "<31>1 "),
        ] {
            assert!(told.starts_with(priority), "{told}");
        }
        assert_eq!(timeless(&record(|| tracing::info!("x"))), "<30>1 lb1 headgated 7 - - x");
    }

    #[test]
    fn nothing_that_is_logged_ends_a_record_or_its_data() {
        let hostile = "a\"] b\\\n<0>1 - forged\r\0\u{9b}\u{2028}]";
        let told = record(|| tracing::info!(farm = hostile, "{hostile}"));
        assert!(!told.contains(super::super::acts), "{told:?}");
        let (data, _) = told.split_once("] a").unwrap();
        let escaped = "farm=\"a\\\"\\] b\\\\\\\\n<0>1 - forged\\\\r\\\\u{0}\\\\u{9b}\\\\u{2028}\\]\"";
        assert!(data.ends_with(escaped), "{told}");
    }

    #[test]
    fn a_record_is_never_too_long_and_its_data_stay_whole() {
        let long = "ü\"".repeat(3000);
        let told = record(|| tracing::info!(a = long, b = long, c = long, d = long, farm = "web", "{long}"));
        assert!(told.len() <= RECORD_MAX && told.len() > RECORD_MAX - 4, "{}", told.len());
        assert!(told.contains("[headgate@32473 farm=\"web\" a=\""), "{told}");
        assert!(told[..DATA_MAX + 100].contains("\"] ü\""), "{told}");
    }

    #[test]
    fn a_host_that_is_no_word_is_not_named() {
        let mut records = logged(|| tracing::info!("x"));
        records.end();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let record = runtime.block_on(records.first()).unwrap();
        for host in ["", "(none)", "a b", "a\n", &"x".repeat(256)] {
            let bytes = record.bytes(host, 1);
            assert!(String::from_utf8(bytes).unwrap().contains("Z - headgated 1 - - x"), "{host}");
        }
    }

    #[test]
    fn nobody_waits_for_room_and_what_finds_none_is_counted() {
        let mut records = logged(|| (0..1500).for_each(|number| tracing::info!(number, "x")));
        assert_eq!(records.take_lost(), 1500 - 1024);
        assert_eq!(records.take_lost(), 0);
        records.shut();
        records.end();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        assert_eq!(runtime.block_on(records.first()), None);
    }
}
