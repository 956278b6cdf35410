//! Readings as a page of OpenMetrics. The names are a contract: `docs/metrics.md`, the dashboard and the alert rules use them.

use headgate_plan::compile::Standing;
use headgate_plan::status::{BackendStatus, FarmHealth, FarmStatus};

use super::capacity;
use super::system;
use super::text::{Family, Kind, join};
use super::{BOUNDS, Readings};
use crate::service::{ServiceState, ServiceStatus};

/// All of it.
pub(super) fn page(readings: &Readings, services: &[ServiceStatus]) -> String {
    let mut families = whole(readings);
    families.extend(configuration(readings));
    families.extend(farms(&readings.farms));
    families.extend(machine(readings));
    families.extend(readings.clock.iter().flat_map(system::clock));
    families.extend(readings.syslog.iter().flat_map(system::syslog));
    families.extend(processes(services));
    families.extend(process(readings));
    join(&families)
}

pub(super) fn gauge(name: &'static str, unit: &str, help: &str, value: impl std::fmt::Display) -> Family {
    let mut family = Family::new(name, Kind::Gauge, unit, help);
    family.sample(&[], value);
    family
}

pub(super) fn counter(name: &'static str, unit: &str, help: &str, value: impl std::fmt::Display) -> Family {
    let mut family = Family::new(name, Kind::Counter, unit, help);
    family.sample(&[], value);
    family
}

fn whole(readings: &Readings) -> Vec<Family> {
    let mut build = Family::new("headgate_build", Kind::Info, "", "The program.");
    build.sample(&[("version", env!("CARGO_PKG_VERSION"))], 1);
    let mut farms = Family::new("headgate_farms", Kind::Gauge, "", "Farms by how they are.");
    let healths = [
        (FarmHealth::Down, "down"),
        (FarmHealth::Degraded, "degraded"),
        (FarmHealth::Serving, "serving"),
        (FarmHealth::Off, "off"),
    ];
    for (health, word) in healths {
        let count = readings.farms.iter().filter(|farm| farm.health == health).count();
        farms.sample(&[("health", word)], count);
    }
    vec![build, farms]
}

fn configuration(readings: &Readings) -> Vec<Family> {
    let tally = &readings.tally;
    let mut applies =
        Family::new("headgate_config_applies", Kind::Counter, "", "Configurations that were applied, or refused.");
    applies.sample(&[("outcome", "applied")], tally.applied);
    applies.sample(&[("outcome", "refused")], tally.refused);
    let mut duration = Family::new(
        "headgate_config_apply_duration_seconds",
        Kind::Histogram,
        "seconds",
        "How long applying a configuration took, reading back included.",
    );
    for (bound, count) in BOUNDS.iter().zip(tally.durations.within) {
        duration.line("_bucket", &[("le", &format!("{bound:?}"))], count);
    }
    duration.line("_bucket", &[("le", "+Inf")], tally.durations.count);
    duration.line("_count", &[], tally.durations.count);
    duration.line("_sum", &[], tally.durations.sum.as_secs_f64());
    let mut families = vec![
        gauge(
            "headgate_config_fault",
            "",
            "1: the files could not be applied, and something else runs; `headgate status` says why.",
            u8::from(readings.fault),
        ),
        gauge(
            "headgate_config_on_trial",
            "",
            "1: what runs returns unless `headgate confirm` comes in time.",
            u8::from(readings.on_trial),
        ),
        gauge(
            "headgate_config_returned",
            "",
            "1: the files were returned from, and are not what runs.",
            u8::from(readings.returned),
        ),
        applies,
        duration,
    ];
    if let Some(generation) = readings.generation {
        families.push(gauge("headgate_config_generation", "", "The generation that runs.", generation));
    }
    families
}

/// What is said of each farm and each backend, one family a figure.
struct Farms {
    up: Family,
    backends: Family,
    usable: Family,
    refused: Family,
    backend_up: Family,
    weight: Family,
    flows: Family,
    new_flows: Family,
    packets: Family,
    bytes: Family,
}

fn farms(farms: &[FarmStatus]) -> Vec<Family> {
    use Kind::{Counter, Gauge};
    let mut families = Farms {
        up: Family::new("headgate_farm_up", Gauge, "", "1: the farm takes new flows."),
        backends: Family::new("headgate_farm_backends", Gauge, "", "Backends of the farm."),
        usable: Family::new("headgate_farm_usable_backends", Gauge, "", "Those that take new flows, or would."),
        refused: Family::new(
            "headgate_farm_refused_packets",
            Counter,
            "packets",
            "Packets refused, by limit or policy.",
        ),
        backend_up: Family::new("headgate_backend_up", Gauge, "", "1: it takes new flows, or would; and its state."),
        weight: Family::new("headgate_backend_weight", Gauge, "", "Its share among those of its priority."),
        flows: Family::new("headgate_backend_flows", Gauge, "", "Flows that may still carry data."),
        new_flows: Family::new("headgate_backend_new_flows", Counter, "", "Flows that it was given (snat, dnat)."),
        packets: Family::new("headgate_backend_packets", Counter, "packets", "Packets of both directions."),
        bytes: Family::new("headgate_backend_bytes", Counter, "bytes", "Bytes of both directions."),
    };
    for farm in farms {
        families.farm(farm);
    }
    let Farms { up, backends, usable, refused, backend_up, weight, flows, new_flows, packets, bytes } = families;
    vec![up, backends, usable, refused, backend_up, weight, flows, new_flows, packets, bytes]
}

impl Farms {
    fn farm(&mut self, farm: &FarmStatus) {
        let name = ("farm", farm.name.as_str());
        let up = matches!(farm.health, FarmHealth::Serving | FarmHealth::Degraded);
        self.up.sample(&[name, ("mode", &farm.mode)], u8::from(up));
        self.backends.sample(&[name], farm.total);
        self.usable.sample(&[name], farm.usable);
        for (reason, packets) in &farm.refused {
            self.refused.sample(&[name, ("reason", reason)], packets);
        }
        for backend in &farm.backends {
            self.backend(name, backend);
        }
    }

    fn backend(&mut self, farm: (&str, &str), backend: &BackendStatus) {
        let labels = [farm, ("backend", backend.name.as_str())];
        let up = u8::from(backend.standing.is_usable());
        self.backend_up.sample(&[labels[0], labels[1], ("state", state(backend.standing))], up);
        self.weight.sample(&labels, backend.weight);
        self.flows.sample(&labels, backend.flows);
        self.new_flows.sample(&labels, backend.new_flows);
        if let Some(traffic) = backend.traffic {
            self.packets.sample(&labels, traffic.packets);
            self.bytes.sample(&labels, traffic.bytes);
        }
    }
}

fn state(standing: Standing) -> &'static str {
    match standing {
        Standing::Serving => "serving",
        Standing::Spare => "spare",
        Standing::Draining => "draining",
        Standing::Unhealthy => "unhealthy",
        Standing::Down => "down",
        Standing::Unroutable => "unroutable",
        Standing::Idle => "idle",
    }
}

fn machine(readings: &Readings) -> Vec<Family> {
    let mut knobs =
        Family::new("headgate_knobs", Kind::Gauge, "", "Knobs of the hardware and the kernel, by what became of them.");
    let counts = readings.knobs;
    let counts =
        [("kept", counts.kept), ("set", counts.set), ("unsupported", counts.unsupported), ("refused", counts.refused)];
    for (word, count) in counts {
        knobs.sample(&[("state", word)], count);
    }
    let mut repairs = Family::new(
        "headgate_drift_repairs",
        Kind::Counter,
        "",
        "The kernel was not as it should be, and was repaired, or could not be.",
    );
    repairs.sample(&[("outcome", "repaired")], readings.tally.repairs);
    repairs.sample(&[("outcome", "failed")], readings.tally.repairs_failed);
    let mut families = vec![knobs, repairs];
    families.extend(capacity::families(readings));
    families
}

fn processes(services: &[ServiceStatus]) -> Vec<Family> {
    let mut up = Family::new("headgate_service_up", Kind::Gauge, "", "1: it runs, and answers when it has `ready`.");
    let mut restarts = Family::new("headgate_service_restarts", Kind::Counter, "", "How often it was started again.");
    for service in services {
        let name = ("service", service.name.as_str());
        let runs = matches!(service.state, ServiceState::Up | ServiceState::Done);
        up.sample(&[name, ("state", service.state.word())], u8::from(runs));
        restarts.sample(&[name], service.restarts);
    }
    vec![up, restarts]
}

/// By the names that every client library of Prometheus uses.
fn process(readings: &Readings) -> Vec<Family> {
    let process = readings.process;
    vec![
        counter("process_cpu_seconds", "seconds", "User and system time of headgated.", process.cpu.as_secs_f64()),
        gauge("process_resident_memory_bytes", "bytes", "Resident memory of headgated.", process.resident),
        gauge("process_open_fds", "", "Open descriptors of headgated.", process.descriptors),
        gauge("process_start_time_seconds", "seconds", "When headgated began, since 1970.", process.started),
        gauge(
            "headgate_scrape_duration_seconds",
            "seconds",
            "How long reading these figures from the kernel took.",
            readings.took.as_secs_f64(),
        ),
    ]
}
