//! The clock and the log of the box, as figures.

use headgate_plan::status::{Clock, Syslog};

use super::page::{counter, gauge};
use super::text::{Family, Kind};

pub(super) fn clock(clock: &Clock) -> Vec<Family> {
    let kept = u8::from(clock.synchronised_ms.is_some());
    let mut offset = Family::new(
        "headgate_clock_offset_seconds",
        Kind::Gauge,
        "seconds",
        "What had to be added to the clock when a time server was believed last.",
    );
    if let Some(best) = clock.best {
        offset.sample(&[], best.offset_ns as f64 / 1e9);
    }
    vec![gauge("headgate_clock_synchronised", "", "1: the clock is kept by time servers.", kept), offset]
}

pub(super) fn syslog(syslog: &Syslog) -> Vec<Family> {
    vec![
        gauge(
            "headgate_syslog_up",
            "",
            "1: the receiver of the log takes it, as far as anybody knows.",
            u8::from(syslog.error.is_none()),
        ),
        counter("headgate_syslog_sent_lines", "", "Lines that were sent to the receiver of the log.", syslog.sent),
        counter("headgate_syslog_lost_lines", "", "Lines that did not get there.", syslog.lost),
    ]
}
