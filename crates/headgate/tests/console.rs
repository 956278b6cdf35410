//! The console in a browser: what it shows, what it asks before it changes anything, and that it can be used without a mouse and
//! without eyes. Needs root and Chromium; fails without.

mod support;

use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};
use support::browser::Browser;
use support::namespace::{Daemon, Namespace};

const FARMS: &str = "\
[api]
listen = \"127.0.0.1:8443\"
[farms.web]
listen = \"172.16.1.1:80\"
[farms.web.backends.b1]
address = \"172.16.2.11:8080\"
[farms.web.backends.b2]
address = \"172.16.2.12:8080\"
weight = 3
[farms.api]
listen = \"172.16.1.2:443\"
[farms.api.health]
type = \"exec\"
command = [\"/bin/sh\", \"-c\", \"echo '<img src=x onerror=alert(1)>\u{202e}evil' >&2; exit 1\"]
interval = \"200ms\"
timeout = \"150ms\"
fall = 1
[farms.api.backends.a1]
address = \"172.16.2.13:8443\"
[services.\"keeps-up\"]
command = [\"/bin/sleep\", \"1000\"]
";
const ADDRESS: &str = "https://127.0.0.1:8443/";

/// What a server could say.
const EVIL: &str = "<img src=x onerror=alert(1)>\u{202e}evil";

struct Stage {
    ns: Namespace,
    profile: tempfile::TempDir,
}

impl Stage {
    fn new(farms: &str) -> Self {
        let ns = Namespace::new(farms);
        ns.run("ip", &["link", "set", "lo", "up"]).exits(0);
        Self { ns, profile: tempfile::tempdir().expect("a temporary directory") }
    }

    fn start(&self) -> (Daemon<'_>, Browser) {
        let daemon = self.ns.start();
        let address = "127.0.0.1:8443".parse().expect("an address");
        let reach = || self.ns.within(|| TcpStream::connect_timeout(&address, Duration::from_secs(5)).is_ok());
        self.ns.wait_for("listener", reach);
        let mut browser = Browser::start(&self.ns, &self.profile.path().join("profile"));
        browser.open(ADDRESS);
        browser.wait_for_text("Sign in");
        (daemon, browser)
    }

    fn token(&self, scope: &str) -> String {
        self.ns.headgate(&["token", "add", scope, "--scope", scope]).exits(0).out.trim().to_owned()
    }

    fn backend(&self, name: &str) -> Value {
        let farm = self.ns.headgate(&["farm", "show", "web", "--json"]).exits(0).out;
        let farm: Value = serde_json::from_str(&farm).expect("JSON");
        let backends = farm["backends"].as_array().expect("a list");
        backends.iter().find(|backend| backend["name"] == name).expect("it is there").clone()
    }
}

/// By keys alone: the field has the focus, Enter sends it.
fn sign_in(browser: &mut Browser, token: &str) {
    browser.wait_for("document.activeElement.id === 'token'");
    browser.type_text(token);
    browser.press("Enter");
}

/// Waits until the page has a button of this name (tables come with their first answer), then goes there by Tab alone.
fn focus_by_tab(browser: &mut Browser, label: &str) {
    let name = |node: &str| format!("({node}.getAttribute('aria-label') ?? {node}.innerText ?? '').trim()");
    browser.wait_for(&format!(
        "[...document.querySelectorAll('button')].some((one) => one.checkVisibility() && {} === {})",
        name("one"),
        json!(label)
    ));
    for _ in 0..60 {
        browser.press("Tab");
        if browser.value(&name("document.activeElement")) == json!(label) {
            return;
        }
    }
    panic!("{label} cannot be reached by Tab");
}

#[test]
fn it_shows_what_the_box_says_as_text_and_only_that() {
    let stage = Stage::new(FARMS);
    let (_daemon, mut browser) = stage.start();
    sign_in(&mut browser, "headgate_wrong");
    browser.wait_for_text("This token is not valid.");
    let read = stage.token("read");
    sign_in(&mut browser, &read);
    browser.wait_for_text("token read, scope read");
    // The worst farm is first, with its reason, its age and what helps; what an error message carries is spelled out.
    browser.wait_for("document.querySelectorAll('#faults tbody tr').length >= 2");
    browser.wait_for_text("farm api");
    browser.wait_for_text("backend a1 of api");
    browser.wait_for_text("<img src=x onerror=alert(1)>\\u{202e}evil");
    browser.wait_for_text("mend the server");
    assert_eq!(browser.value("document.querySelectorAll('img').length"), json!(0));
    assert_eq!(browser.value("document.querySelector('#farms tbody tr').innerText.startsWith('api')"), json!(true));
    browser.wait_for("/^\\(\\d+\\) Headgate /.test(document.title)");
    browser.wait_for("document.querySelectorAll('#cpus tbody tr').length > 0");
    browser.wait_for_text("keeps-up");
    // A farm opens by its name, and a reader's token has nothing to press there.
    focus_by_tab(&mut browser, "web");
    browser.press("Enter");
    browser.wait_for_text("172.16.2.12:8080");
    assert_eq!(browser.value("document.getElementById('operate-label').hidden"), json!(true));
    assert_eq!(
        browser.value("[...document.querySelectorAll('.actions button')].some((one) => one.checkVisibility())"),
        json!(false)
    );
    // What happens is told, and shown without waiting; the focus stays where it is.
    stage.ns.headgate(&["backend", "drain", "web", "b1"]).exits(0);
    browser.wait_for_text("backend: farm web, backend b1, state drain");
    browser.wait_for("[...document.querySelectorAll('#farms td')].some((cell) => cell.innerText === 'draining')");
    browser.wait_for("[...document.querySelectorAll('#faults tr')].some((row) => row.innerText.includes('headgate backend up web b1'))");
    assert_eq!(browser.value("document.activeElement.innerText"), json!("web"));
    // Only what fits.
    browser.value("document.getElementById('filter').value = 'a1'; document.getElementById('filter').dispatchEvent(new Event('input'))");
    browser.wait_for("document.querySelectorAll('#farms tbody tr').length === 1");
    // A token that is taken back ends it.
    stage.ns.headgate(&["token", "remove", "read"]).exits(0);
    browser.wait_for_text("The token is not valid any more.");
    assert_eq!(
        browser.value("document.getElementById('box').hidden && document.body.innerText.includes('172.16')"),
        json!(false)
    );
    assert_eq!(browser.complaints, Vec::<String>::new());
}

#[test]
fn a_change_needs_the_scope_a_tick_and_a_yes() {
    let stage = Stage::new(FARMS);
    let (daemon, mut browser) = stage.start();
    let operate = stage.token("operate");
    sign_in(&mut browser, &operate);
    browser.wait_for_text("token operate, scope operate");
    focus_by_tab(&mut browser, "web");
    browser.press("Enter");
    let visible = "[...document.querySelectorAll('.actions button')].some((one) => one.checkVisibility())";
    browser.wait_for_text("172.16.2.12:8080");
    assert_eq!(browser.value(visible), json!(false), "read-only until it is ticked");
    browser.value("document.getElementById('operate').focus()");
    browser.press(" ");
    browser.wait_for(visible);
    // Escape, and the button that has the focus, are a no.
    for no in ["Escape", "Enter"] {
        focus_by_tab(&mut browser, "Drain b1 of web");
        browser.press("Enter");
        browser.wait_for("document.getElementById('ask').open && document.activeElement.id === 'ask-no'");
        browser.wait_for_text("It takes no new flows; those that it has stay. Until the next boot.");
        browser.press(no);
        browser.wait_for("!document.getElementById('ask').open");
        assert_eq!(stage.backend("b1")["standing"], json!("serving"));
    }
    focus_by_tab(&mut browser, "Drain b1 of web");
    browser.press("Enter");
    browser.wait_for("document.getElementById('ask').open");
    focus_by_tab(&mut browser, "Drain");
    browser.press("Enter");
    browser.wait_for_text("b1 of web: done, until the next boot");
    assert_eq!(stage.backend("b1")["standing"], json!("draining"));
    // A weight out of range is not sent; one within is.
    focus_by_tab(&mut browser, "Weight b2 of web");
    browser.press("Enter");
    browser.wait_for("document.activeElement.id === 'weight' && document.activeElement.value === '3'");
    for (typed, open) in [("70000", true), ("7", false)] {
        browser.value("document.getElementById('weight').select()");
        browser.type_text(typed);
        browser.press("Enter");
        browser.wait_for(&format!("document.getElementById('ask').open === {open}"));
    }
    // The only one that serves: its share is stored, and no other in the kernel.
    browser.wait_for_text("b2 of web: done, until the next boot");
    assert_eq!(stage.backend("b2")["weight"], json!(7));
    let history = stage.ns.headgate(&["history", "--json"]).exits(0).out;
    assert!(!history.contains("70000"), "{history}");
    // A box that does not answer is not shown as if it did.
    daemon.kill();
    browser.wait_for_text("no answer: what is shown is old");
    assert_eq!(browser.complaints, Vec::<String>::new());
}

/// Relative luminance and contrast as WCAG 2.2 has them; of every text that is to be seen, against what is behind it.
const CONTRAST: &str = r"(() => {
  const part = (value) => { const one = value / 255; return one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4; };
  const colour = (text) => text.match(/[\d.]+/g).map(Number);
  const light = ([r, g, b]) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  const behind = (node) => {
    for (let one = node; one; one = one.parentElement) {
      const back = colour(getComputedStyle(one).backgroundColor);
      if (back.length === 3 || back[3] === 1) return back;
    }
    return matchMedia('(prefers-color-scheme: dark)').matches ? [18, 18, 18] : [255, 255, 255];
  };
  const poor = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let text = walker.nextNode(); text; text = walker.nextNode()) {
    const node = text.parentElement;
    if (!text.data.trim() || !node.checkVisibility() || node.matches('script, noscript')) continue;
    const [one, two] = [light(colour(getComputedStyle(node).color)), light(behind(node))].sort((a, b) => b - a);
    if ((one + 0.05) / (two + 0.05) < 4.5) poor.push(`${text.data.trim()}: ${((one + 0.05) / (two + 0.05)).toFixed(2)}`);
  }
  return poor;
})()";

#[test]
fn it_can_be_used_without_eyes_and_in_any_light() {
    let stage = Stage::new(FARMS);
    let (_daemon, mut browser) = stage.start();
    let told = browser.told();
    assert!(told.contains(&("textbox".to_owned(), "Token".to_owned())), "{told:?}");
    sign_in(&mut browser, &stage.token("operate"));
    browser.wait_for_text("backend a1 of api");
    browser.value("document.getElementById('operate').click()");
    focus_by_tab(&mut browser, "web");
    browser.press("Enter");
    browser.wait_for_text("172.16.2.12:8080");
    let told = browser.told();
    let has = |role: &str, name: &str| told.iter().any(|(is, named)| is == role && named == name);
    for (role, name) in [
        ("main", ""),
        ("banner", ""),
        ("heading", "Faults"),
        ("region", "Faults"),
        ("region", "Farms"),
        ("region", "Processors and queues"),
        ("columnheader", "What to do"),
        ("rowheader", "CPU 0"),
        ("table", "Backends of web"),
        ("button", "Drain b1 of web"),
        ("checkbox", "Allow changes"),
        ("log", "What happens"),
        ("meter", "Load of CPU 0"),
        ("searchbox", "Only with this in their name or address"),
    ] {
        assert!(has(role, name), "no {role} {name:?} in {told:#?}");
    }
    let needs_name =
        ["button", "checkbox", "textbox", "searchbox", "spinbutton", "image", "table", "region", "link", "meter"];
    let nameless: Vec<_> =
        told.iter().filter(|(role, name)| needs_name.contains(&role.as_str()) && name.trim().is_empty()).collect();
    assert!(nameless.is_empty(), "{nameless:?}");
    for query in [
        "document.querySelectorAll('[id]').length === new Set([...document.querySelectorAll('[id]')].map((one) => one.id)).size",
        "document.querySelectorAll('h1').length === 1",
        "document.documentElement.lang === 'en'",
    ] {
        assert_eq!(browser.value(query), json!(true), "{query}");
    }
    // Whoever sees where the focus is sees it everywhere.
    browser.press("Tab");
    assert_eq!(browser.value("parseFloat(getComputedStyle(document.activeElement).outlineWidth) >= 2"), json!(true));
    for scheme in SCHEMES {
        shine(&mut browser, scheme);
        assert_eq!(browser.value(CONTRAST), json!([]), "{scheme}");
        // A telephone, and text at twice its size: nothing but tables is wider than the screen.
        browser.call(
            "Emulation.setDeviceMetricsOverride",
            json!({"width": 360, "height": 800, "deviceScaleFactor": 1, "mobile": true}),
        );
        assert_eq!(browser.value("document.documentElement.scrollWidth <= 360"), json!(true), "{scheme}");
        browser.call("Emulation.clearDeviceMetricsOverride", json!({}));
    }
    assert_eq!(browser.complaints, Vec::<String>::new());
}

/// Lights in which it is looked at.
const SCHEMES: [&str; 2] = ["light", "dark"];

fn shine(browser: &mut Browser, scheme: &str) {
    let features = json!([
        {"name": "prefers-color-scheme", "value": scheme},
        {"name": "prefers-reduced-motion", "value": "reduce"},
    ]);
    browser.call("Emulation.setEmulatedMedia", json!({"features": features}));
}

/// What axe-core, a checker of web pages, has to say of what is to be seen.
fn axe(browser: &mut Browser) -> Value {
    let run = "axe.run(document, {resultTypes: ['violations']}).then((found) => found.violations.map((one) => \
               `${one.id}: ${one.help}: ${one.nodes.map((node) => node.html).join(' ')}`))";
    browser.value(run)
}

/// `make test-console`; with `PICTURES=DIR` it leaves there what it looks like.
#[test]
#[ignore = "needs axe-core, which `make test-console` brings"]
fn axe_finds_nothing() {
    let script = std::env::var("HEADGATE_AXE").expect("HEADGATE_AXE names axe.min.js");
    let script = std::fs::read_to_string(script).expect("axe.min.js");
    let stage = Stage::new(&FARMS.replace(EVIL, "connection refused"));
    stage.ns.far_address("cl", "172.16.1.50/24");
    let (_daemon, mut browser) = stage.start();
    browser.value(&script);
    assert_eq!(axe(&mut browser), json!([]), "signing in");
    sign_in(&mut browser, &stage.token("operate"));
    browser.wait_for_text("backend a1 of api");
    browser.value("document.getElementById('operate').click()");
    focus_by_tab(&mut browser, "web");
    browser.press("Enter");
    browser.wait_for_text("172.16.2.12:8080");
    for scheme in SCHEMES {
        shine(&mut browser, scheme);
        assert_eq!(axe(&mut browser), json!([]), "{scheme}");
    }
    browser.value("document.querySelector('.actions button').click()");
    assert_eq!(axe(&mut browser), json!([]), "a question");
    browser.press("Escape");
    let Some(directory) = std::env::var_os("PICTURES") else { return };
    stage.ns.headgate(&["backend", "weight", "web", "b2", "4"]).exits(0);
    knock(&stage);
    let size = json!({"width": 1280, "height": 1040, "deviceScaleFactor": 1, "mobile": false});
    browser.call("Emulation.setDeviceMetricsOverride", size);
    browser.value("scrollTo(0, 0)");
    for scheme in SCHEMES {
        shine(&mut browser, scheme);
        let path = std::path::Path::new(&directory).join(format!("console-{scheme}.png"));
        std::fs::write(path, browser.screenshot()).expect("a picture");
    }
}

/// New flows for a while, of which nobody needs an answer: there is something to draw.
fn knock(stage: &Stage) {
    let address = "172.16.1.1:80".parse().expect("an address");
    for round in 0..200 {
        let wait = Duration::from_millis(5 + round % 40 * 3);
        let _ = stage.ns.at_far(|| TcpStream::connect_timeout(&address, wait));
    }
}
