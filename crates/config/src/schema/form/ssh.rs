//! Public keys of ssh, as OpenSSH writes them (RFC 4253, 6.6; PROTOCOL.u2f of OpenSSH).

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::line;
use crate::types::Invalid;

/// The types that dropbear knows and that are still worth something, with the number of fields behind the type.
const TYPES: [(&str, usize); 7] = [
    ("ssh-ed25519", 1),
    ("ssh-rsa", 2),
    ("ecdsa-sha2-nistp256", 2),
    ("ecdsa-sha2-nistp384", 2),
    ("ecdsa-sha2-nistp521", 2),
    ("sk-ssh-ed25519@openssh.com", 2),
    ("sk-ecdsa-sha2-nistp256@openssh.com", 3),
];
const HELP: &str = "the one line of a .pub file, as in \"ssh-ed25519 AAAA… name\"";
/// The shortest modulus, bytes: 2048 bits, which is what everybody makes.
const RSA_LEAST: usize = 256;

/// `TYPE BASE64 COMMENT`. The text is repeated in no message: somebody may have put a private key here.
pub(super) fn ssh_key(text: &str) -> Result<(), Invalid> {
    if text.trim_start().starts_with("-----BEGIN") {
        return Err(Invalid::new("this is a private key, which belongs nowhere but to its owner", HELP));
    }
    line(text)?;
    let mut words = text.split(' ');
    let (first, encoded) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let Some((kind, fields)) = TYPES.iter().find(|(kind, _)| *kind == first) else {
        let has_options = text.split(' ').any(|word| TYPES.iter().any(|(kind, _)| *kind == word));
        return Err(match (has_options, first) {
            (true, _) => Invalid::new("options before a key are not taken: what ssh may do here is fixed", HELP),
            (false, "ssh-dss") => Invalid::new("keys of type ssh-dss are too weak", HELP),
            (false, _) => Invalid::new("this is no public key of ssh", HELP),
        });
    };
    let blob = BASE64_STANDARD.decode(encoded).map_err(|_| damaged())?;
    let read = fields_of(&blob).ok_or_else(damaged)?;
    match read.split_first() {
        Some((&own, rest)) if own == kind.as_bytes() && rest.len() == *fields => {}
        _ => return Err(damaged()),
    }
    let is_long_enough = match *kind {
        "ssh-ed25519" | "sk-ssh-ed25519@openssh.com" => read[1].len() == 32,
        // With a zero before it, so that it is no negative number.
        "ssh-rsa" => read[2].len() >= RSA_LEAST,
        _ => read[2].len() > 32,
    };
    match is_long_enough {
        true => Ok(()),
        false if *kind == "ssh-rsa" => Err(Invalid::new("this key of RSA has less than 2048 bits", HELP)),
        false => Err(damaged()),
    }
}

fn damaged() -> Invalid {
    Invalid::new("this public key of ssh is damaged", HELP)
}

/// Strings behind their lengths (RFC 4251, 5), to the last byte.
fn fields_of(blob: &[u8]) -> Option<Vec<&[u8]>> {
    let (mut fields, mut rest) = (Vec::new(), blob);
    while !rest.is_empty() {
        let (length, behind) = rest.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
        fields.push(behind.get(..length)?);
        rest = &behind[length..];
    }
    Some(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(fields: &[&[u8]]) -> String {
        let mut blob = Vec::new();
        for field in fields {
            blob.extend_from_slice(&u32::try_from(field.len()).unwrap().to_be_bytes());
            blob.extend_from_slice(field);
        }
        BASE64_STANDARD.encode(blob)
    }

    #[test]
    fn keys_are_taken_and_everything_else_is_told() {
        let ed = encoded(&[b"ssh-ed25519", &[7; 32]]);
        let rsa = |bytes| encoded(&[b"ssh-rsa", &[1, 0, 1], &vec![9; bytes]]);
        for good in [
            format!("ssh-ed25519 {ed}"),
            format!("ssh-ed25519 {ed} somebody at a desk"),
            format!("ssh-rsa {} x", rsa(257)),
            format!("ecdsa-sha2-nistp256 {}", encoded(&[b"ecdsa-sha2-nistp256", b"nistp256", &[4; 65]])),
            format!("sk-ssh-ed25519@openssh.com {}", encoded(&[b"sk-ssh-ed25519@openssh.com", &[7; 32], b"ssh:"])),
        ] {
            assert_eq!(ssh_key(&good), Ok(()), "{good}");
        }
        let short = encoded(&[b"ssh-ed25519", &[7; 31]]);
        let other = encoded(&[b"ssh-rsa", &[7; 32]]);
        let more = encoded(&[b"ssh-ed25519", &[7; 32], b""]);
        for (bad, told) in [
            (String::new(), "is empty"),
            ("-----BEGIN OPENSSH PRIVATE KEY-----\nx".to_owned(), "private"),
            (format!("ssh-ed25519 {ed}\nssh-ed25519 {ed}"), "control characters"),
            (format!("command=\"sh\" ssh-ed25519 {ed}"), "options"),
            (format!("no-pty ssh-ed25519 {ed}"), "options"),
            (format!("ssh-dss {ed}"), "too weak"),
            (format!("# ssh-ed255 {ed}"), "no public key"),
            ("ssh-ed25519".to_owned(), "damaged"),
            (format!("ssh-ed25519  {ed}"), "damaged"),
            ("ssh-ed25519 AAAA".to_owned(), "damaged"),
            ("ssh-ed25519 Ä".to_owned(), "damaged"),
            (format!("ssh-ed25519 {short}"), "damaged"),
            (format!("ssh-ed25519 {other}"), "damaged"),
            (format!("ssh-ed25519 {more}"), "damaged"),
            (format!("ssh-ed25519 {}", &ed[..ed.len() - 4]), "damaged"),
            (format!("ssh-rsa {}", rsa(129)), "2048 bits"),
        ] {
            let invalid = ssh_key(&bad).expect_err(&bad);
            assert!(invalid.message.contains(told), "{bad:?}: {invalid:?}");
            assert!(!invalid.message.contains("BEGIN"));
        }
    }
}
