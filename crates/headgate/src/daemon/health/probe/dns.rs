//! `dns`: a question over UDP. The server is well when it answers without an error, and with a record of the type that was asked for.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, Ordering};

use simple_dns::{CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, SimpleDnsError, TYPE};

use super::{Attempt, Fault, Passed, socket};

/// Nobody else sends to the port of a probe, so a number that was not used just now is enough.
static NEXT: AtomicU16 = AtomicU16::new(1);

pub(super) async fn ask(attempt: &Attempt, to: SocketAddr, query: &str) -> Passed {
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    let question = question(id, query).map_err(|error| Fault::Ours(format!("dns question {query:?}: {error}")))?;
    let socket = socket::datagrams(attempt, to)?;
    let what = format!("dns question {query:?} to {to}");
    attempt.step(&what, socket.send(&question)).await?;
    let mut answer = vec![0; usize::from(u16::MAX)];
    loop {
        let length = attempt.step(&what, socket.recv(&mut answer)).await?;
        match judge(id, kind(query), &answer[..length]) {
            Some(Ok(())) => return Ok(()),
            Some(Err(why)) => return Err(Fault::Theirs(format!("{what}: {why}"))),
            None => {}
        }
    }
}

/// The type that is asked for; the check of the configuration lets no other through.
fn kind(query: &str) -> TYPE {
    match query.split_once(' ').map_or("", |(_, kind)| kind) {
        "AAAA" => TYPE::AAAA,
        "CNAME" => TYPE::CNAME,
        "MX" => TYPE::MX,
        "NS" => TYPE::NS,
        "PTR" => TYPE::PTR,
        "SOA" => TYPE::SOA,
        "SRV" => TYPE::SRV,
        "TXT" => TYPE::TXT,
        _ => TYPE::A,
    }
}

fn question(id: u16, query: &str) -> Result<Vec<u8>, SimpleDnsError> {
    let name = query.split_once(' ').map_or(query, |(name, _)| name);
    let name = match name.strip_suffix('.').unwrap_or(name) {
        "" => Name::new_with_labels(&[]),
        name => Name::new(name)?,
    };
    let mut packet = Packet::new_query(id);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    packet.questions.push(Question::new(name, QTYPE::TYPE(kind(query)), QCLASS::CLASS(CLASS::IN), false));
    packet.build_bytes_vec()
}

/// `None`: this is not the answer, which may still come.
fn judge(id: u16, kind: TYPE, answer: &[u8]) -> Option<Result<(), String>> {
    let Ok(packet) = Packet::parse(answer) else { return Some(Err("the answer is not DNS".to_owned())) };
    if packet.id() != id || !packet.has_flags(PacketFlag::RESPONSE) {
        return None;
    }
    // What did not fit has been cut off: there is more than could be sent.
    let whole = !packet.has_flags(PacketFlag::TRUNCATION);
    Some(match packet.rcode() {
        RCODE::NoError if whole && !packet.answers.iter().any(|record| record.rdata.type_code() == kind) => {
            Err(format!("the answer has no record of type {kind:?}"))
        }
        RCODE::NoError => Ok(()),
        code => Err(format!("the server answers {code:?}")),
    })
}

#[cfg(test)]
mod tests {
    use simple_dns::ResourceRecord;
    use simple_dns::rdata::{A, RData};

    use super::*;

    fn answer(id: u16, change: impl FnOnce(&mut Packet<'_>)) -> Vec<u8> {
        let asked = question(id, "www.example.org A").unwrap();
        let mut packet = Packet::parse(&asked).unwrap().into_reply();
        let record = RData::A(A { address: 0x0a00_0001 });
        packet.answers.push(ResourceRecord::new(Name::new_unchecked("www.example.org"), CLASS::IN, 60, record));
        change(&mut packet);
        packet.build_bytes_vec().unwrap()
    }

    #[test]
    fn an_answer_must_be_one_and_have_what_was_asked_for() {
        let judged = |answer: &[u8]| judge(7, TYPE::A, answer);
        assert_eq!(judged(&answer(7, |_| ())), Some(Ok(())));
        assert_eq!(judged(&answer(8, |_| ())), None, "of another question");
        assert_eq!(judged(&question(7, "www.example.org A").unwrap()), None, "an echo");
        assert_eq!(judged(b"nonsense"), Some(Err("the answer is not DNS".to_owned())));
        assert_eq!(judged(&[]), Some(Err("the answer is not DNS".to_owned())));
        let refused = judged(&answer(7, |packet| *packet.rcode_mut() = RCODE::Refused));
        assert_eq!(refused, Some(Err("the server answers Refused".to_owned())));
        let none = "the answer has no record of type A".to_owned();
        assert_eq!(judged(&answer(7, |packet| packet.answers.clear())), Some(Err(none)));
        let cut = |packet: &mut Packet<'_>| {
            packet.answers.clear();
            packet.set_flags(PacketFlag::TRUNCATION);
        };
        assert_eq!(judged(&answer(7, cut)), Some(Ok(())));
    }

    #[test]
    fn every_question_that_the_configuration_takes_can_be_asked() {
        for query in
            ["example.org A", "example.org. AAAA", ". NS", "_sip._udp.example.org SRV", "1.0.0.127.in-addr.arpa PTR"]
        {
            let asked = question(1, query).unwrap();
            let packet = Packet::parse(&asked).unwrap();
            assert_eq!(packet.questions[0].qtype, QTYPE::TYPE(kind(query)), "{query}");
            let name = query.split_once(' ').unwrap().0.trim_end_matches('.');
            assert_eq!(packet.questions[0].qname.to_string(), name, "{query}");
        }
    }
}
