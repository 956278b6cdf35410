//! Settings of NICs in the kernel: a veth pair has queues and features that can be set, and lacks everything else.

#[allow(dead_code, reason = "what other tests need")]
mod support;

use std::collections::BTreeMap;

use headgate_host::knob::{self, Turn};
use headgate_host::{Host, Root, ethtool};
use headgate_plan::ethtool::{Flow, Setting};
use headgate_plan::facts::NicLimits;
use headgate_plan::knob::CPU_WAKE_UP;
use headgate_plan::state::{Fit, KnobValue, State};
use headgate_plan::step::{Outcome, Plan, Step};
use support::{Namespace, ip};

fn in_namespace(work: impl FnOnce(&Root) + Send + 'static) {
    let namespace = Namespace::new();
    namespace.run(move || {
        let files = tempfile::tempdir().expect("a directory for state");
        ip("link add veth0 numrxqueues 4 numtxqueues 4 type veth peer name veth1 numrxqueues 4 numtxqueues 4");
        work(&Root::new(files.path()));
    });
}

fn fields(fields: &[(&str, i64)]) -> KnobValue {
    KnobValue::Fields(fields.iter().map(|(name, number)| ((*name).to_owned(), *number)).collect())
}

fn write(root: &Root, setting: &Setting, want: &KnobValue) -> Outcome {
    knob::write(root, Turn { path: &setting.path("veth0"), want, fit: Fit::Exact })
}

#[test]
fn queues_are_set_read_back_and_given_back() {
    in_namespace(|root| {
        let limits = ethtool::limits("veth0");
        assert_eq!(limits, NicLimits { rx_queues: 4, tx_queues: 4, ..NicLimits::default() });
        let path = Setting::Channels.path("veth0");
        let (one, four) = (fields(&[("rx", 1), ("tx", 1)]), fields(&[("rx", 4), ("tx", 4)]));
        assert_eq!(write(root, &Setting::Channels, &four), Outcome::Kept);
        assert_eq!(write(root, &Setting::Channels, &one), Outcome::Set);
        assert_eq!(knob::read(root, &path, &four), Some(one.clone()));
        assert_eq!(root.list_machine("sys/class/net/veth0/queues").expect("sysfs").len(), 2, "the kernel has them");
        assert_eq!(write(root, &Setting::Channels, &one), Outcome::Kept);
        assert_eq!(knob::restore(root, &BTreeMap::new()).expect("originals"), [(path.clone(), Outcome::Set)]);
        assert_eq!(knob::read(root, &path, &four), Some(four));
    });
}

#[test]
fn features_are_set_by_name_and_what_is_fixed_is_not_there() {
    in_namespace(|root| {
        let gro = Setting::Feature("rx-gro".into());
        let (on, off) = (KnobValue::Int(1), KnobValue::Int(0));
        let before = knob::read(root, &gro.path("veth0"), &on).expect("every interface has GRO");
        let (first, second) = if before == on { (&off, &on) } else { (&on, &off) };
        assert_eq!(write(root, &gro, first), Outcome::Set);
        assert_eq!(write(root, &gro, first), Outcome::Kept);
        assert_eq!(write(root, &gro, second), Outcome::Set);
        // veth can do none of these, and says so by having them fixed at off.
        for fixed in ["rx-lro", "rx-ntuple-filter", "no-such-feature"] {
            let setting = Setting::Feature(fixed.into());
            assert_eq!(write(root, &setting, &on), Outcome::Unsupported, "{fixed}");
            assert_eq!(write(root, &setting, &off), Outcome::Kept, "{fixed}");
        }
    });
}

#[test]
fn what_a_driver_does_not_have_is_unsupported_and_what_it_does_not_take_is_refused() {
    in_namespace(|root| {
        let lacking = [
            (Setting::Rings, fields(&[("rx", 512), ("tx", 512)])),
            (Setting::Pause, fields(&[("autoneg", 0), ("rx", 0), ("tx", 0)])),
            (Setting::Eee, fields(&[("enabled", 0)])),
            (Setting::Coalesce, fields(&[("rx-usecs", 10)])),
            (Setting::Hash(Flow::Udp4), KnobValue::Text("sdfn".into())),
            (Setting::Channels, fields(&[("combined", 2), ("other", 1)])),
        ];
        for (setting, want) in lacking {
            assert_eq!(write(root, &setting, &want), Outcome::Unsupported, "{setting}");
            assert_eq!(knob::read(root, &setting.path("veth0"), &want), None, "{setting}");
            assert_eq!(
                knob::write(root, Turn { path: &setting.path("gone"), want: &want, fit: Fit::Exact }),
                Outcome::Unsupported
            );
        }
        let many = write(root, &Setting::Channels, &fields(&[("rx", 64), ("tx", 64)]));
        assert!(matches!(many, Outcome::Refused(_)), "{many:?}");
        let none = write(root, &Setting::Channels, &fields(&[("rx", -1), ("tx", 1)]));
        assert!(matches!(none, Outcome::Refused(_)), "{none:?}");
        assert_eq!(knob::originals(root).expect("originals").knobs, BTreeMap::new(), "nothing was changed");
    });
}

#[test]
fn the_kernel_rounds_and_a_tolerance_takes_it() {
    in_namespace(|root| {
        // `store_rps_dev_flow_table_cnt` makes powers of two.
        let path = "sys/class/net/veth0/queues/rx-0/rps_flow_cnt";
        let want = KnobValue::Int(1000);
        let turn = |fit| knob::write(root, Turn { path, want: &want, fit });
        assert_eq!(turn(Fit::Exact), Outcome::Refused("the kernel kept 1024".into()));
        assert_eq!(turn(Fit::Near), Outcome::Kept, "it is near enough now");
        root.write_machine(path, "0").expect("a file of sysfs");
        assert_eq!(turn(Fit::Near), Outcome::Set);
    });
}

#[test]
fn drivers_and_their_statistics_are_read() {
    in_namespace(|_| {
        assert_eq!(ethtool::driver("veth0").expect("every interface has one"), "veth");
        let statistics = ethtool::statistics("veth0").expect("veth counts");
        assert!(statistics.iter().any(|(name, _)| name == "peer_ifindex"), "{statistics:?}");
        assert!(ethtool::statistics("lo").is_err() && ethtool::driver("gone").is_err());
        assert!(ethtool::driver("a-name-that-is-longer-than-any").is_err());
    });
}

#[test]
fn the_sleep_of_cpus_is_limited_while_the_descriptor_is_held() {
    let namespace = Namespace::new();
    namespace.run(|| {
        let files = tempfile::tempdir().expect("a directory for state");
        let mut host = Host::open(Root::new(files.path())).expect("netlink");
        let like = KnobValue::Int(0);
        let read = || knob::read(&Root::default(), CPU_WAKE_UP, &like).expect("/dev/cpu_dma_latency");
        let before = read();
        let want = KnobValue::Int(7);
        let step =
            Step::Knob { path: CPU_WAKE_UP.into(), was: Some(before.clone()), want: want.clone(), fit: Fit::AtMost };
        assert_eq!(host.apply(Plan { steps: vec![step] }).steps[0].1, Outcome::Set);
        let found = read();
        assert!(Fit::AtMost.takes(&want, &found), "{found}");
        host.restore_knobs(&State::default()).expect("nothing else to restore");
        assert_eq!(read(), before, "given back");
    });
}
