//! What nft(8) lists, made fit to be compared.

/// Without what the packet path and the steering of the running daemon put into dynamic sets, which comes and goes by itself.
pub fn settled(listed: &str) -> String {
    let (mut text, mut is_dynamic, mut within) = (String::new(), false, false);
    for line in listed.lines() {
        let words = line.trim();
        is_dynamic = if words.starts_with("flags ") { words.contains("dynamic") } else { is_dynamic && words != "}" };
        within |= is_dynamic && words.starts_with("elements = ");
        if !within {
            text.push_str(line);
            text.push('\n');
        }
        within &= !words.ends_with('}');
    }
    text
}

/// Without the rules that nft(8) 1.0.6 aborts on when it reads them, an `update` of a key over 16 bytes; it lists what we have
/// sent all the same.
pub fn without_long_keys(text: &str) -> String {
    let maps = ["bindings", "recent", "closing"];
    let is_long = |line: &&str| {
        maps.iter().any(|map| line.contains(&format!("update @{map}")) || line.contains(&format!("delete @{map}")))
    };
    text.lines().filter(|line| !is_long(line)).map(|line| format!("{line}\n")).collect()
}

/// Without the table of tunnel objects, which nft(8) 1.0.6 neither reads nor lists.
pub fn without_tunnels(text: &str) -> String {
    let (before, tunnels) = text.split_once("table netdev headgate-tunnels {").unwrap_or((text, ""));
    let behind = tunnels.split_once("\n}\n").map_or("", |(_, behind)| behind);
    [before, behind].concat()
}
