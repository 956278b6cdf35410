use std::net::IpAddr;
use std::time::Duration;

use proptest::prelude::*;

use crate::model::*;
use crate::source::{Files, Lists, Sources};
use crate::types::{FarmName, Ports, ServiceName};
use crate::{Diagnostics, Loaded, finish};

/// The example of the documentation, all of it.
const EXAMPLE: &str = include_str!("tests/example.toml");

fn judge(text: &str) -> Result<Loaded, Diagnostics> {
    let mut files = Files::default();
    files.add("example.toml".into(), text.to_owned());
    let list = ("/etc/headgate/lists/office.txt".into(), "10.1.0.0/16 # in 10.0.0.0/8\n\n192.0.2.1\r\n".to_owned());
    finish(Sources { files, uses: Vec::new(), lists: Lists::Texts(vec![list]) }, Default::default())
}

fn good(text: &str) -> Config {
    judge(text).unwrap_or_else(|diagnostics| panic!("{diagnostics}")).config
}

fn farm(config: &Config, name: &str) -> Farm {
    config.farms.get(name).unwrap().as_ref().clone()
}

#[test]
fn the_example_of_the_documentation_is_understood() {
    let loaded = judge(EXAMPLE).unwrap_or_else(|diagnostics| panic!("{diagnostics}"));
    let config = &loaded.config;
    let web = farm(config, "web");
    assert_eq!(
        web.listen.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["172.16.1.1:80/tcp", "[2001:db8::1]:80/tcp"]
    );
    assert_eq!((web.mode, web.scheduler), (Mode::Snat, Scheduler::RoundRobin));
    assert_eq!((web.mark, web.queue, web.helper), (Some(0x10), Some(3), Some(Helper::Ftp)));
    assert_eq!(web.log, [LogEvent::New, LogEvent::Denied]);
    assert_eq!(web.address_interface.as_deref(), Some("service"));
    let persistence = web.persistence.unwrap();
    assert_eq!((persistence.timeout, persistence.size), (Duration::from_secs(300), 65536));
    assert_eq!(persistence.fixed[&IpAddr::from([203, 0, 113, 9])].as_str(), "b2");
    let limits = web.limits.unwrap();
    let rate = limits.new_connections.unwrap();
    assert_eq!((rate.count, rate.per, rate.burst), (200, Duration::from_secs(1), Some(400)));
    assert_eq!((limits.strict_tcp, limits.syn_proxy, limits.ban), (true, false, Some(Duration::from_secs(120))));
    let health = web.health.unwrap();
    assert_eq!((health.port, health.rise, health.fall), (Some(8080), 2, 3));
    assert!(
        matches!(&health.check, HealthCheck::Http { path, expect: (200, 399), tls: None, .. } if path == "/healthz")
    );
    let backend = &web.backends["b1"];
    assert_eq!((backend.weight, backend.priority, backend.max_connections), (10, 1, Some(5000)));
    assert_eq!((backend.address.port, backend.mark), (Some(8080), Some(0x11)));
    assert_eq!(loaded.document.origin("farms.web.backends.b1.weight").unwrap().file, backend.origin.file);
    assert_eq!(backend.origin.column, 1);
    assert_eq!(farm(config, "dns").dsr.unwrap().interface.as_deref(), Some("backend"));
    assert_eq!(
        config.policies["office"].ranges.v4().map(|(first, _)| first.to_string()).collect::<Vec<_>>(),
        ["10.0.0.0", "192.0.2.1"]
    );
    assert_eq!(config.network.interfaces["service"].addresses.len(), 2);
    assert_eq!(config.network.bonds["b0"].mode, BondMode::Lacp);
    assert_eq!(config.network.routes["uplink"].to.to_string(), "0.0.0.0/0");
    assert_eq!(config.sysctl["net.ipv4.conf.eth0/10.rp_filter"], SysctlValue::Set("0".to_owned()));
    assert_eq!(config.metrics.as_ref().unwrap().traffic, TrafficCount::Bytes);
    let service = &config.services["dropbear"];
    assert_eq!((service.backoff.initial, service.stop_timeout), (Duration::from_millis(100), Duration::from_secs(5)));
    assert_eq!(service.ready, Some(Ready::Tcp("127.0.0.1:22".parse().unwrap())));
}

#[test]
fn what_is_printed_means_the_same() {
    let loaded = judge(EXAMPLE).unwrap();
    let again = good(&loaded.document.to_toml());
    let without_origins = |mut farm: Farm, origin: &Origin| {
        farm.origin = origin.clone();
        farm.backends.values_mut().for_each(|backend| backend.origin = origin.clone());
        farm
    };
    for (name, farm) in &loaded.config.farms {
        let other = again.farms[name].as_ref().clone();
        assert_eq!(without_origins(farm.as_ref().clone(), &farm.origin), without_origins(other, &farm.origin));
    }
    assert_eq!(loaded.config.sysctl, again.sysctl);
    assert_eq!(loaded.config.system, again.system);
}

#[test]
fn what_is_not_written_has_its_default() {
    let config = good(
        "[farms.web]\nlisten = \"172.16.1.1:80\"\n[farms.web.backends.b1]\naddress = \"172.16.2.11\"\n[farms.web.health]\n",
    );
    let web = farm(&config, "web");
    assert_eq!(
        (web.mode, web.scheduler, web.state, web.on_empty),
        (Mode::Snat, Scheduler::RoundRobin, FarmState::Up, OnEmpty::Reject)
    );
    assert!(web.persistence.is_none() && web.limits.is_none() && web.dsr.is_none() && !web.offload);
    let backend = &web.backends["b1"];
    assert_eq!((backend.weight, backend.priority, backend.state, backend.address.port), (1, 1, BackendState::Up, None));
    let health = web.health.unwrap();
    assert_eq!((health.interval, health.timeout), (Duration::from_secs(2), Duration::from_secs(1)));
    assert_eq!(health.check, HealthCheck::Tcp { send: None, expect_body: None });
    let maglev = good(
        "[farms.w]\nlisten = \"10.0.0.1:1-2\"\nscheduler = \"maglev\"\n[farms.w.backends.b]\naddress = \"10.0.1.1\"\n",
    );
    assert_eq!(farm(&maglev, "w").scheduler, Scheduler::Maglev { fields: vec![HashField::SourceAddress], slots: 1021 });
    assert_eq!(farm(&maglev, "w").listen[0].ports, Ports::Range(1, 2));
}

#[test]
fn enabled_false_removes_an_entry() {
    let config = good(
        "[farms.web]\nlisten = \"172.16.1.1:80\"\n[farms.web.backends.b1]\naddress = \"172.16.2.11\"\n\
         [farms.web.backends.b2]\naddress = \"172.16.2.12\"\nenabled = false\n\
         [farms.old]\nlisten = \"172.16.1.1:80\"\nenabled = false\n[policies.p]\nenabled = false\naction = \"deny\"\n\
         [services.s]\nenabled = false\n[network.routes.r]\nenabled = false\n[network.vlans.v]\nenabled = false\n",
    );
    assert_eq!(config.farms.len(), 1);
    assert_eq!(farm(&config, "web").backends.len(), 1);
    assert!(config.policies.is_empty() && config.services.is_empty() && config.network == Network::default());
}

#[test]
fn a_farm_that_is_off_claims_nothing() {
    good(
        "[farms.blue]\nlisten = \"172.16.1.1:80\"\n[farms.blue.backends.b1]\naddress = \"172.16.2.11\"\n\
         [farms.green]\nlisten = \"172.16.1.1:80\"\nstate = \"off\"\n[farms.green.backends.b1]\naddress = \"172.16.2.12\"\n",
    );
}

#[test]
fn what_defaults_bring_and_a_mode_cannot_use_is_passed_over() {
    let text = "[defaults.farm]\nscheduler = \"least-connections\"\npersistence.timeout = \"1m\"\nhealth = { type = \"http\", path = \"/x\" }\n\
                [farms.ssh]\nmode = \"local\"\nlisten = \"0.0.0.0:22\"\n\
                [farms.web]\nlisten = \"172.16.1.1:80\"\nhealth.type = \"tcp\"\n[farms.web.backends.b1]\naddress = \"172.16.2.11\"\n";
    let web = farm(&good(text), "web");
    assert!(matches!(web.health.unwrap().check, HealthCheck::Tcp { .. }));
    assert_eq!(web.scheduler, Scheduler::LeastConnections);
    // Limits protect: that they cannot hold is told.
    assert!(
        judge(
            &text.replace("persistence.timeout = \"1m\"", "limits.ban = \"1m\"").replace("\"local\"", "\"stateless\"")
        )
        .is_err()
    );
}

#[test]
fn services_start_after_what_they_wait_for() {
    let service =
        |name: &str, after: &str| format!("[services.{name}]\ncommand = [\"/bin/{name}\"]\nafter = [{after}]\n");
    let text = service("a", "\"c\", \"network\"") + &service("b", "") + &service("c", "\"b\"");
    let order: Vec<String> = good(&text).service_order.iter().map(ServiceName::to_string).collect();
    assert_eq!(order, ["b", "c", "a"]);
    // One that waits for a cycle without being in it is not blamed.
    let text = service("a", "\"b\"") + &service("b", "\"c\"") + &service("c", "\"b\"");
    let diagnostics = judge(&text).map(|loaded| loaded.config).unwrap_err();
    assert_eq!(
        diagnostics.iter().map(|one| one.message.as_str()).collect::<Vec<_>>(),
        ["services wait for each other: b after c after b"]
    );
}

#[test]
fn ten_thousand_farms_on_one_address_are_judged_in_no_time() {
    let mut text = String::new();
    for number in 0..10_000u32 {
        let port = 1 + number * 6;
        text.push_str(&format!(
            "[farms.f{number}]\nlisten = \"172.16.1.1:{port}-{}\"\n[farms.f{number}.backends.b]\naddress = \"172.16.2.1\"\n",
            port + 5
        ));
    }
    assert_eq!(good(&text).farms.len(), 10_000);
    // All of them overlap one that reaches over all.
    text.push_str("[farms.wide]\nlisten = \"172.16.1.1:1-65000\"\n[farms.wide.backends.b]\naddress = \"172.16.2.1\"\n");
    let diagnostics = judge(&text).map(|loaded| loaded.config).unwrap_err();
    assert_eq!(diagnostics.count(), 10_000);
    assert!(FarmName::new("wide").is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// No change of a good file makes anything but a configuration or diagnostics that print.
    #[test]
    fn a_mutilated_configuration_is_told_and_no_more(
        cuts in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0..4u8), 1..6),
        noise in "[\\PC\"\\[\\]{}=.,\\n0-9a-z]{0,8}",
    ) {
        let mut lines: Vec<String> = EXAMPLE.lines().map(str::to_owned).collect();
        for (line, place, how) in cuts {
            let at = line.index(lines.len());
            match how {
                0 => { lines.remove(at); }
                1 => { let other = place.index(lines.len()); lines.swap(at, other); }
                2 => { let copy = lines[at].clone(); lines.insert(place.index(lines.len()), copy); }
                _ => {
                    let text = &mut lines[at];
                    let mut byte = place.index(text.len() + 1);
                    while !text.is_char_boundary(byte) { byte -= 1; }
                    text.insert_str(byte, &noise);
                }
            }
        }
        match judge(&lines.join("\n")) {
            Ok(loaded) => { let _ = (loaded.document.to_toml_with_origins(), loaded.warnings.to_string()); }
            Err(diagnostics) => {
                prop_assert!(diagnostics.iter().any(|one| one.severity == crate::Severity::Error));
                prop_assert!(diagnostics.to_string().chars().all(|c| c == '\n' || !c.is_control()));
            }
        }
    }
}
