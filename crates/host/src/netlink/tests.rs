use super::*;

fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = (16 + body.len() as u32).to_ne_bytes().to_vec();
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&flags.to_ne_bytes());
    bytes.extend_from_slice(&[7, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend_from_slice(body);
    bytes
}

/// EINVAL, the header of the request, an offset and a text.
fn refused() -> Vec<u8> {
    let mut body = (-22i32).to_ne_bytes().to_vec();
    body.extend_from_slice(&[0; 16]);
    body.extend_from_slice(&[8, 0, 2, 0, 24, 0, 0, 0]);
    body.extend_from_slice(&[12, 0, 1, 0]);
    body.extend_from_slice(b"too bad\0");
    message(NLMSG_ERROR, NLM_F_ACK_TLVS, &body)
}

#[test]
fn a_refusal_says_what_the_kernel_says() {
    let bytes = refused();
    let received: Vec<_> = Messages(&bytes).collect::<io::Result<_>>().expect("well formed");
    let refusal = received[0].error().expect_err("it is an error");
    assert_eq!(refusal.to_string(), "too bad (EINVAL)");
    let silent = message(NLMSG_ERROR, 0, &(-1i32).to_ne_bytes());
    let refusal = Received { bytes: &silent }.error().expect_err("it is an error");
    assert_eq!(refusal.to_string(), "Operation not permitted (EPERM)");
}

#[test]
fn no_cut_and_no_flipped_byte_panics() {
    let bytes = [message(NLMSG_DONE, 2, &[0; 4]), refused()].concat();
    let walk = |bytes: &[u8]| {
        let mut count = 0;
        for received in Messages(bytes).flatten() {
            let _ = (received.kind(), received.sequence(), received.body(), received.error());
            count += 1;
        }
        count
    };
    assert_eq!(walk(&bytes), 2);
    for length in 0..bytes.len() {
        assert!(walk(&bytes[..length]) < 2);
    }
    for position in 0..bytes.len() {
        for value in [0, 1, 3, 4, 15, 17, 0x7f, 0xff] {
            let mut hostile = bytes.clone();
            hostile[position] = value;
            walk(&hostile);
        }
    }
}

#[test]
fn a_truncated_message_is_an_error_and_the_end() {
    let bytes = message(20, 0, &[1, 2, 3, 4]);
    let mut messages = Messages(&bytes[..18]);
    assert!(messages.next().is_some_and(|message| message.is_err()));
    assert!(messages.next().is_none());
}
