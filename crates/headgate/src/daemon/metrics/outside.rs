//! What the box itself has to do with others, as figures.

use headgate_plan::outside::Syslog;

use super::page::{counter, gauge};
use super::text::Family;

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
