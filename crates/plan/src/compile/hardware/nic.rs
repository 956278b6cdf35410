//! What ethtool(8) sets on a NIC: from intention ("a queue for each core") to the numbers of its driver.

use std::collections::BTreeMap;

use headgate_config::model::{Coalesce, NicTuning, QueueCount, RingSize, Switch, Tuning, UdpHash};

use super::choose::lay_nic_over;
use crate::affinity::spreads_itself;
use crate::ethtool::{Flow, Setting};
use crate::facts::{Core, Link, Nic};
use crate::state::{Fit, Knob, KnobValue};

/// Drivers whose `rx-usecs` of 3 means "by the load, 4,000 to 20,000 interrupts a second" (`igb_set_coalesce`: 1 and 3 are
/// modes, not times). They refuse `adaptive-rx`.
const ADAPTIVE_IS_THREE: [&str; 4] = ["e1000", "e1000e", "igb", "igc"];
/// Caps a queue at 100,000 interrupts a second.
const LOW_LATENCY_USECS: u32 = 10;
/// 20,000 interrupts a second.
const LOW_CPU_USECS: u32 = 50;

/// The knobs of one NIC, in the order in which they are turned: what resets the link first (tuning it costs a second of
/// traffic), what a reset undoes last.
pub(super) fn knobs(tuning: &Tuning, cores: &[Core], name: &str, link: &Link) -> Vec<Knob> {
    let Some(nic) = &link.nic else { return Vec::new() };
    let driver = link.driver.as_deref().unwrap_or_default();
    let mut wanted = tuning.nic.clone();
    if let Some(own) = tuning.drivers.get(driver) {
        lay_nic_over(&mut wanted, own);
    }
    let compiler = Compiler { tuning, wanted: &wanted, driver, name };
    let mut knobs = Vec::new();
    knobs.extend(compiler.queues(cores, nic));
    knobs.extend(compiler.rings(nic));
    knobs.extend(compiler.pause());
    knobs.extend(compiler.eee());
    knobs.extend(compiler.coalesce());
    knobs.extend(compiler.features());
    knobs.extend(compiler.hashes(nic));
    knobs
}

struct Compiler<'a> {
    tuning: &'a Tuning,
    /// With what is the driver's own.
    wanted: &'a NicTuning,
    driver: &'a str,
    name: &'a str,
}

impl Compiler<'_> {
    /// Whether it is meant for this NIC. Of a NIC of the hypervisor's only what is said of its own driver is.
    fn is_meant(&self, says: impl Fn(&NicTuning) -> bool) -> bool {
        !spreads_itself(self.driver) || self.tuning.drivers.get(self.driver).is_some_and(says)
    }

    fn knob(&self, setting: Setting, want: KnobValue, key: &str, why: impl Into<String>) -> Knob {
        let own = self.tuning.origins.get(&format!("drivers.{}.{key}", self.driver));
        let origin = own.or_else(|| self.tuning.origins.get(key)).cloned();
        Knob { path: setting.path(self.name), want, fit: Fit::Exact, why: why.into(), origin }
    }

    fn queues(&self, cores: &[Core], nic: &Nic) -> Option<Knob> {
        let limits = nic.limits;
        let most = if limits.combined > 0 { limits.combined } else { limits.rx_queues.max(limits.tx_queues) };
        // A virtio device spreads its queues itself, and begins with one for each CPU.
        if most < 2 || !self.is_meant(|own| own.queues.is_some()) {
            return None;
        }
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let (wanted, what) = match self.wanted.queues? {
            QueueCount::Leave => return None,
            QueueCount::PerCore => (count(cores.len()), "a queue for each core"),
            QueueCount::PerThread => (count(cores.iter().map(|core| core.threads.len()).sum()), "one for each thread"),
            QueueCount::Max => (u32::MAX, "all queues"),
            QueueCount::Count(number) => (number, "as many queues as asked for"),
        };
        let queues = wanted.clamp(1, most);
        let of = if wanted > most && wanted < u32::MAX {
            format!("; {} has no more than {most}", self.name)
        } else {
            String::new()
        };
        let parts = if limits.combined > 0 {
            vec![("combined", queues)]
        } else {
            vec![("rx", queues.min(limits.rx_queues)), ("tx", queues.min(limits.tx_queues))]
        };
        let parts = parts.into_iter().filter(|(_, number)| *number > 0);
        Some(self.knob(Setting::Channels, fields(parts), "queues", format!("{what}{of}")))
    }

    fn rings(&self, nic: &Nic) -> Option<Knob> {
        let limits = nic.limits;
        let entries = |wanted: Option<RingSize>, most: u32| match wanted {
            Some(RingSize::Entries(entries)) if most > 0 => Some(entries.min(most)),
            _ => None,
        };
        let rings = [
            ("rx", entries(self.wanted.rx_ring, limits.rx_ring)),
            ("tx", entries(self.wanted.tx_ring, limits.tx_ring)),
        ];
        let rings: Vec<(&str, u32)> = rings.into_iter().filter_map(|(name, entries)| Some((name, entries?))).collect();
        let key = if rings.first()?.0 == "rx" { "rx-ring" } else { "tx-ring" };
        let why = "a burst waits in the ring while its CPU sleeps or is busy; 256 descriptors are 172 µs at 1 Gbit/s";
        Some(self.knob(Setting::Rings, fields(rings), key, why))
    }

    fn pause(&self) -> Option<Knob> {
        let (wanted, why) = match self.wanted.pause? {
            Switch::Leave => return None,
            // What is negotiated is not ours: drivers ignore rx and tx while they negotiate (`igb_set_pauseparam`).
            Switch::On => (vec![("autoneg", 1)], "the neighbour may ask for a pause, and be asked"),
            Switch::Off => {
                (vec![("autoneg", 0), ("rx", 0), ("tx", 0)], "one port that asks for a pause stops a whole switch")
            }
        };
        Some(self.knob(Setting::Pause, fields(wanted), "pause", why))
    }

    fn eee(&self) -> Option<Knob> {
        let (enabled, why) = match self.wanted.eee? {
            Switch::Leave => return None,
            Switch::On => (1, "a link that is idle saves power"),
            Switch::Off => (0, "waking an idle link takes 16 µs"),
        };
        Some(self.knob(Setting::Eee, fields([("enabled", enabled)]), "eee", why))
    }

    fn coalesce(&self) -> Option<Knob> {
        // virtio says that it has it, and refuses it where the host does not offer it (VIRTIO_NET_F_VQ_NOTF_COAL), as QEMU does not.
        if !self.is_meant(|own| own.coalesce.is_some() || own.rx_usecs.is_some()) {
            return None;
        }
        if let Some(usecs) = self.wanted.rx_usecs {
            let knob = self.knob(Setting::Coalesce, fields([("rx-usecs", usecs)]), "rx-usecs", "as asked for");
            return Some(Knob { fit: Fit::Near, ..knob });
        }
        let by_mode = ADAPTIVE_IS_THREE.contains(&self.driver);
        let fixed = |usecs| {
            if by_mode { vec![("rx-usecs", usecs)] } else { vec![("adaptive-rx", 0), ("rx-usecs", usecs)] }
        };
        let (wanted, why) = match self.wanted.coalesce? {
            Coalesce::Leave => return None,
            Coalesce::Adaptive if by_mode => (vec![("rx-usecs", 3)], "3 is the driver's mode that goes by the load"),
            Coalesce::Adaptive => (vec![("adaptive-rx", 1)], "fewer interrupts under load, no delay without"),
            Coalesce::LowLatency => (fixed(LOW_LATENCY_USECS), "a packet waits 10 µs for others at most"),
            Coalesce::LowCpu => (fixed(LOW_CPU_USECS), "at most 20,000 interrupts a second of each queue"),
        };
        let knob = self.knob(Setting::Coalesce, fields(wanted), "coalesce", why);
        Some(Knob { fit: Fit::Near, ..knob })
    }

    fn features(&self) -> Vec<Knob> {
        let knob = |(name, on): (&String, &bool)| {
            let why = feature_reason(name).unwrap_or("as asked for");
            let (setting, key) = (Setting::Feature(name.clone()), format!("features.{name}"));
            self.knob(setting, KnobValue::Int(i64::from(*on)), &key, why)
        };
        self.wanted.features.iter().map(knob).collect()
    }

    fn hashes(&self, nic: &Nic) -> Vec<Knob> {
        let letters = match self.wanted.udp_hash {
            None | Some(UdpHash::Leave) => return Vec::new(),
            Some(UdpHash::Ports) => "sdfn",
            Some(UdpHash::Addresses) => "sd",
        };
        // With one queue there is nothing to choose, and the driver says EOPNOTSUPP.
        if nic.rx_queues < 2 && nic.limits.combined < 2 {
            return Vec::new();
        }
        let why = "the queries of one resolver to one address are spread over all queues";
        let knob = |flow| self.knob(Setting::Hash(flow), KnobValue::Text(letters.to_owned()), "udp-hash", why);
        [Flow::Udp4, Flow::Udp6].map(knob).into()
    }
}

fn fields<'a, N: Into<i64>>(fields: impl IntoIterator<Item = (&'a str, N)>) -> KnobValue {
    let fields = fields.into_iter().map(|(name, number)| (name.to_owned(), number.into()));
    KnobValue::Fields(fields.collect::<BTreeMap<String, i64>>())
}

fn feature_reason(name: &str) -> Option<&'static str> {
    Some(match name {
        "rx-gro" => "a train of segments crosses the ruleset once",
        "rx-lro" => "what LRO has merged cannot be forwarded as it came",
        "rx-gro-list" => "every packet of a list would be translated by itself",
        "rx-udp-gro-forwarding" => "helps only trains of one flow; every other datagram pays for the search",
        "tx-tcp-segmentation" | "tx-tcp6-segmentation" => "what GRO has merged is cut again by the NIC",
        "tx-generic-segmentation" => "what GRO has merged is cut again as late as possible",
        "tx-scatter-gather" => "without it nothing is segmented late",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::NicLimits;
    use crate::knob::name;

    fn link(driver: &str, limits: NicLimits) -> Link {
        let nic = Nic { rx_queues: 8, tx_queues: 8, limits, ..Nic::default() };
        Link { driver: Some(driver.to_owned()), nic: Some(nic), ..Link::default() }
    }

    fn lines(tuning: &Tuning, link: &Link) -> Vec<String> {
        let cores: Vec<Core> = (0..4).map(|core| Core { threads: vec![core, core + 4], numa_node: 0 }).collect();
        let knobs = knobs(tuning, &cores, "eth0", link);
        knobs.iter().map(|knob| format!("{} = {}", name(&knob.path), knob.want.file_text())).collect()
    }

    fn with(nic: NicTuning) -> Tuning {
        Tuning { nic, ..Tuning::default() }
    }

    #[test]
    fn nothing_is_wanted_of_its_own() {
        let everything = NicLimits { combined: 8, rx_ring: 4096, tx_ring: 4096, ..NicLimits::default() };
        assert!(lines(&Tuning::default(), &link("igb", everything)).is_empty());
        let leave = NicTuning {
            queues: Some(QueueCount::Leave),
            rx_ring: Some(RingSize::Leave),
            tx_ring: Some(RingSize::Leave),
            coalesce: Some(Coalesce::Leave),
            udp_hash: Some(UdpHash::Leave),
            pause: Some(Switch::Leave),
            eee: Some(Switch::Leave),
            ..NicTuning::default()
        };
        assert!(lines(&with(leave), &link("igb", everything)).is_empty());
        assert!(
            lines(&with(NicTuning { eee: Some(Switch::Off), ..NicTuning::default() }), &Link::default()).is_empty()
        );
    }

    #[test]
    fn queues_are_as_many_as_wanted_and_no_more_than_there_are() {
        let combined = |most| link("igb", NicLimits { combined: most, ..NicLimits::default() });
        let wanted =
            |queues, link: &Link| lines(&with(NicTuning { queues: Some(queues), ..NicTuning::default() }), link);
        for (queues, most, expected) in [
            (QueueCount::PerCore, 8, 4),
            (QueueCount::PerCore, 2, 2),
            (QueueCount::PerThread, 16, 8),
            (QueueCount::Max, 16, 16),
            (QueueCount::Count(3), 8, 3),
            (QueueCount::Count(9), 8, 8),
        ] {
            assert_eq!(wanted(queues, &combined(most)), [format!("ethtool eth0 channels = combined={expected}")]);
        }
        assert!(wanted(QueueCount::PerCore, &combined(1)).is_empty(), "one cannot be more");
        assert!(wanted(QueueCount::PerCore, &combined(0)).is_empty());
        let apart = link("veth", NicLimits { rx_queues: 16, tx_queues: 2, ..NicLimits::default() });
        assert_eq!(wanted(QueueCount::PerCore, &apart), ["ethtool eth0 channels = rx=4 tx=2"]);
    }

    #[test]
    fn queues_and_coalescing_of_virtio_are_its_own_until_its_driver_is_named() {
        let virtio = link("virtio_net", NicLimits { combined: 8, ..NicLimits::default() });
        let any =
            NicTuning { queues: Some(QueueCount::PerCore), coalesce: Some(Coalesce::Adaptive), ..NicTuning::default() };
        let mut tuning = with(any.clone());
        assert!(lines(&tuning, &virtio).is_empty());
        let own = NicTuning { queues: Some(QueueCount::Count(2)), ..any };
        tuning.drivers.insert("virtio_net".to_owned(), own);
        let all = ["ethtool eth0 channels = combined=2", "ethtool eth0 coalesce = adaptive-rx=1"];
        assert_eq!(lines(&tuning, &virtio), all);
    }

    #[test]
    fn an_intention_is_the_numbers_of_its_driver() {
        let coalesce = |coalesce, driver: &str| {
            let nic = NicTuning { coalesce: Some(coalesce), ..NicTuning::default() };
            lines(&with(nic), &link(driver, NicLimits::default())).concat()
        };
        assert_eq!(coalesce(Coalesce::Adaptive, "igb"), "ethtool eth0 coalesce = rx-usecs=3");
        assert_eq!(coalesce(Coalesce::Adaptive, "mlx5_core"), "ethtool eth0 coalesce = adaptive-rx=1");
        assert_eq!(coalesce(Coalesce::LowLatency, "e1000e"), "ethtool eth0 coalesce = rx-usecs=10");
        assert_eq!(coalesce(Coalesce::LowCpu, "ice"), "ethtool eth0 coalesce = adaptive-rx=0 rx-usecs=50");
    }

    #[test]
    fn a_driver_has_its_own_and_rings_fit_the_nic() {
        let mut tuning = with(NicTuning {
            rx_ring: Some(RingSize::Entries(2048)),
            tx_ring: Some(RingSize::Entries(1024)),
            coalesce: Some(Coalesce::Adaptive),
            features: [("rx-gro".to_owned(), true)].into(),
            ..NicTuning::default()
        });
        let own = NicTuning {
            rx_usecs: Some(50),
            features: [("tx-tcp-segmentation".to_owned(), false)].into(),
            ..NicTuning::default()
        };
        tuning.drivers.insert("e1000e".to_owned(), own);
        let small = NicLimits { rx_ring: 512, tx_ring: 4096, ..NicLimits::default() };
        assert_eq!(
            lines(&tuning, &link("e1000e", small)),
            [
                "ethtool eth0 rings = rx=512 tx=1024",
                "ethtool eth0 coalesce = rx-usecs=50",
                "ethtool eth0 feature rx-gro = 1",
                "ethtool eth0 feature tx-tcp-segmentation = 0",
            ]
        );
        let lines = lines(&tuning, &link("igb", NicLimits { tx_ring: 4096, ..NicLimits::default() }));
        assert_eq!(lines[..2], ["ethtool eth0 rings = tx=1024", "ethtool eth0 coalesce = rx-usecs=3"]);
    }
}
