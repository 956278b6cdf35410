//! Which modules the present hardware asks for.

use std::path::Path;

/// The modaliases of the devices that the kernel has found, from `/sys/bus/*/devices/*/modalias`; `sys` is `/sys`.
/// Sorted, each once.
#[must_use]
pub fn present(sys: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for bus in entries(&sys.join("bus")) {
        for device in entries(&bus.join("devices")) {
            // A device may go away between the listing and the reading: it is then not present.
            if let Ok(text) = std::fs::read_to_string(device.join("modalias")) {
                found.push(text.trim_end().to_owned());
            }
        }
    }
    // The processor's features have one file for all, beside the bus.
    if let Ok(text) = std::fs::read_to_string(sys.join("devices/system/cpu/modalias")) {
        found.push(text.trim_end().to_owned());
    }
    found.sort_unstable();
    found.dedup();
    found
}

fn entries(directory: &Path) -> Vec<std::path::PathBuf> {
    std::fs::read_dir(directory)
        .map(|entries| entries.filter_map(|entry| Some(entry.ok()?.path())).collect())
        .unwrap_or_default()
}

/// Whether `text` matches the shell pattern `pattern` as depmod writes it: `*`, `?` and `[a-z]` (fnmatch(3) without flags).
/// Everything else stands for itself. The work is bounded by the product of the lengths.
#[must_use]
pub fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // Where to go on after a mismatch: behind the last star, one byte further in the text.
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            p += 1;
            retry = Some((p, t));
        } else if let Some(width) = pattern.get(p..).and_then(|rest| one(rest, text[t])) {
            p += width;
            t += 1;
        } else if let Some((after_star, from)) = retry {
            p = after_star;
            t = from + 1;
            retry = Some((after_star, t));
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

/// How many bytes of `pattern` match `byte`, if its first element does.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match *pattern.first()? {
        b'?' => Some(1),
        b'[' => {
            let end = pattern.iter().skip(2).position(|&candidate| candidate == b']')? + 2;
            let (negated, class) = match pattern[1] {
                b'!' | b'^' => (true, &pattern[2..end]),
                _ => (false, &pattern[1..end]),
            };
            (in_class(class, byte) != negated).then_some(end + 1)
        }
        literal => (literal == byte).then_some(1),
    }
}

fn in_class(mut class: &[u8], byte: u8) -> bool {
    while let Some((&first, rest)) = class.split_first() {
        if let [b'-', last, after @ ..] = rest {
            if (first..=*last).contains(&byte) {
                return true;
            }
            class = after;
        } else {
            if first == byte {
                return true;
            }
            class = rest;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_fnmatch_does() {
        let i210 = "pci:v00008086d00001533sv000015D9sd00001533bc02sc00i00";
        for (pattern, text, expected) in [
            ("pci:v00008086d00001533sv*sd*bc*sc*i*", i210, true),
            ("pci:v00008086d00001521sv*sd*bc*sc*i*", i210, false),
            ("pci:v*d*sv*sd*bc01sc08i02*", "pci:v0000144Dd0000A808sv0000144Dsd0000A801bc01sc08i02", true),
            ("pci:v*d*sv*sd*bc01sc08i02*", i210, false),
            ("usb:v*p*d*dc*dsc*dp*ic08isc06ip50in*", "usb:v0781p5581d0100dc00dsc00dp00ic08isc06ip50in00", true),
            ("cpu:type:x86,ven*fam*mod*:feature:*0094*", "cpu:type:x86,ven0fam6mod5E:feature:,0,94,0094,", true),
            ("virtio:d00000002v*", "virtio:d00000002v00001AF4", true),
            ("virtio:d00000002v*", "virtio:d00000001v00001AF4", false),
            ("acpi*:QEMU0002:*", "acpi:QEMU0002:", true),
            ("a[0-9]c", "a5c", true),
            ("a[!0-9]c", "a5c", false),
            ("a[0-9]c", "axc", false),
            ("a[xyz-]c", "a-c", true),
            ("a[", "a[", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("", "", true),
            ("*", "", true),
            ("", "x", false),
            ("**x*", "aaax", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} on {text}");
        }
    }

    #[test]
    fn many_stars_take_no_exponential_time() {
        let pattern = "*a".repeat(200) + "b";
        assert!(!matches(&pattern, &"a".repeat(5000)));
    }

    #[test]
    fn devices_are_read_from_every_bus_once() {
        let sys = tempfile::tempdir().unwrap();
        for (bus, device, modalias) in [("pci", "0", "pci:b\n"), ("pci", "1", "pci:b\n"), ("usb", "0", "usb:a\n")] {
            let path = sys.path().join("bus").join(bus).join("devices").join(device);
            std::fs::create_dir_all(&path).unwrap();
            std::fs::write(path.join("modalias"), modalias).unwrap();
        }
        std::fs::create_dir_all(sys.path().join("bus/cpu/devices/without")).unwrap();
        assert_eq!(present(sys.path()), ["pci:b", "usb:a"]);
        assert_eq!(present(&sys.path().join("nothing")), Vec::<String>::new());
    }
}
