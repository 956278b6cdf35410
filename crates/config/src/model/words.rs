//! The words that a configuration uses for each choice, in one place for the checks, the reference, the schema and the output.

use super::*;

/// A choice that is written as a word.
pub trait Word: Copy + PartialEq + 'static {
    /// Every choice with its word, in the order of the reference.
    const WORDS: &'static [(&'static str, Self)];

    /// The choice of a word.
    fn from_word(word: &str) -> Option<Self> {
        Self::WORDS.iter().find(|(other, _)| *other == word).map(|&(_, choice)| choice)
    }

    /// The word of the choice.
    fn word(self) -> &'static str {
        Self::WORDS.iter().find(|&&(_, choice)| choice == self).map_or("?", |&(word, _)| word)
    }
}

impl Word for Mode {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("snat", Mode::Snat),
        ("dnat", Mode::Dnat),
        ("dsr", Mode::Dsr),
        ("stateless", Mode::Stateless),
        ("local", Mode::Local),
    ];
}

impl Word for HashField {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("source-address", HashField::SourceAddress),
        ("source-port", HashField::SourcePort),
        ("destination-address", HashField::DestinationAddress),
        ("destination-port", HashField::DestinationPort),
        ("source-mac", HashField::SourceMac),
        ("destination-mac", HashField::DestinationMac),
    ];
}

/// `scheduler`, without what belongs to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SchedulerName {
    RoundRobin,
    Random,
    Hash,
    Maglev,
    LeastConnections,
}

impl Word for SchedulerName {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("round-robin", SchedulerName::RoundRobin),
        ("random", SchedulerName::Random),
        ("hash", SchedulerName::Hash),
        ("maglev", SchedulerName::Maglev),
        ("least-connections", SchedulerName::LeastConnections),
    ];
}

impl Scheduler {
    /// The word of `scheduler`.
    pub fn word(&self) -> &'static str {
        match self {
            Scheduler::RoundRobin => SchedulerName::RoundRobin.word(),
            Scheduler::Random => SchedulerName::Random.word(),
            Scheduler::Hash { .. } => SchedulerName::Hash.word(),
            Scheduler::Maglev { .. } => SchedulerName::Maglev.word(),
            Scheduler::LeastConnections => SchedulerName::LeastConnections.word(),
        }
    }
}

impl Word for FarmState {
    const WORDS: &'static [(&'static str, Self)] =
        &[("up", FarmState::Up), ("down", FarmState::Down), ("off", FarmState::Off)];
}

impl Word for BackendState {
    const WORDS: &'static [(&'static str, Self)] =
        &[("up", BackendState::Up), ("drain", BackendState::Drain), ("down", BackendState::Down)];
}

impl Word for OnEmpty {
    const WORDS: &'static [(&'static str, Self)] = &[("reject", OnEmpty::Reject), ("drop", OnEmpty::Drop)];
}

impl Word for ManageAddress {
    const WORDS: &'static [(&'static str, Self)] = &[("auto", ManageAddress::Auto), ("never", ManageAddress::Never)];
}

impl Word for LogEvent {
    const WORDS: &'static [(&'static str, Self)] = &[("new", LogEvent::New), ("denied", LogEvent::Denied)];
}

impl Word for Helper {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("ftp", Helper::Ftp),
        ("pptp", Helper::Pptp),
        ("sip", Helper::Sip),
        ("snmp", Helper::Snmp),
        ("tftp", Helper::Tftp),
    ];
}

impl Word for DsrVia {
    const WORDS: &'static [(&'static str, Self)] = &[("l2", DsrVia::L2), ("ipip", DsrVia::Ipip), ("gre", DsrVia::Gre)];
}

impl Word for LimitAction {
    const WORDS: &'static [(&'static str, Self)] =
        &[("drop", LimitAction::Drop), ("reject", LimitAction::Reject), ("log", LimitAction::Log)];
}

impl Word for OnFail {
    const WORDS: &'static [(&'static str, Self)] = &[("drain", OnFail::Drain), ("reset", OnFail::Reset)];
}

/// `health.type`, without what belongs to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum HealthType {
    None,
    Tcp,
    Http,
    Https,
    Icmp,
    Udp,
    Dns,
    Exec,
}

impl Word for HealthType {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("none", HealthType::None),
        ("tcp", HealthType::Tcp),
        ("http", HealthType::Http),
        ("https", HealthType::Https),
        ("icmp", HealthType::Icmp),
        ("udp", HealthType::Udp),
        ("dns", HealthType::Dns),
        ("exec", HealthType::Exec),
    ];
}

impl Word for PolicyAction {
    const WORDS: &'static [(&'static str, Self)] = &[("allow", PolicyAction::Allow), ("deny", PolicyAction::Deny)];
}

impl Word for TrustMedia {
    const WORDS: &'static [(&'static str, Self)] =
        &[("first-boot", TrustMedia::FirstBoot), ("always", TrustMedia::Always), ("never", TrustMedia::Never)];
}

impl Word for AcceptRa {
    const WORDS: &'static [(&'static str, Self)] = &[("no", AcceptRa::No), ("yes", AcceptRa::Yes)];
}

impl Word for TrafficCount {
    const WORDS: &'static [(&'static str, Self)] = &[("flows", TrafficCount::Flows), ("bytes", TrafficCount::Bytes)];
}

impl Word for Restart {
    const WORDS: &'static [(&'static str, Self)] =
        &[("always", Restart::Always), ("on-failure", Restart::OnFailure), ("never", Restart::Never)];
}

/// `queues`, when it is a word.
impl Word for QueueCount {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("per-core", QueueCount::PerCore),
        ("per-thread", QueueCount::PerThread),
        ("max", QueueCount::Max),
        ("leave", QueueCount::Leave),
    ];
}

/// `rx-ring`, `tx-ring`, when it is a word.
impl Word for RingSize {
    const WORDS: &'static [(&'static str, Self)] = &[("leave", RingSize::Leave)];
}

impl Word for Coalesce {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("adaptive", Coalesce::Adaptive),
        ("low-latency", Coalesce::LowLatency),
        ("low-cpu", Coalesce::LowCpu),
        ("leave", Coalesce::Leave),
    ];
}

impl Word for UdpHash {
    const WORDS: &'static [(&'static str, Self)] =
        &[("addresses-and-ports", UdpHash::Ports), ("addresses", UdpHash::Addresses), ("leave", UdpHash::Leave)];
}

impl Word for Switch {
    const WORDS: &'static [(&'static str, Self)] =
        &[("on", Switch::On), ("off", Switch::Off), ("leave", Switch::Leave)];
}

impl Word for Frequency {
    const WORDS: &'static [(&'static str, Self)] =
        &[("performance", Frequency::Performance), ("leave", Frequency::Leave)];
}

/// `cpu-wake-up`, when it is a word.
impl Word for WakeUp {
    const WORDS: &'static [(&'static str, Self)] = &[("leave", WakeUp::Leave)];
}

impl Word for IrqPolicy {
    const WORDS: &'static [(&'static str, Self)] =
        &[("one-per-core", IrqPolicy::OnePerCore), ("spread-smt", IrqPolicy::SpreadSmt), ("leave", IrqPolicy::Leave)];
}

impl Word for RpsPolicy {
    const WORDS: &'static [(&'static str, Self)] =
        &[("auto", RpsPolicy::Auto), ("off", RpsPolicy::Off), ("leave", RpsPolicy::Leave)];
}

impl Word for XpsPolicy {
    const WORDS: &'static [(&'static str, Self)] =
        &[("same-core", XpsPolicy::SameCore), ("off", XpsPolicy::Off), ("leave", XpsPolicy::Leave)];
}

impl Word for BondMode {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("active-backup", BondMode::ActiveBackup),
        ("balance-rr", BondMode::BalanceRr),
        ("balance-xor", BondMode::BalanceXor),
        ("broadcast", BondMode::Broadcast),
        ("802.3ad", BondMode::Lacp),
        ("balance-tlb", BondMode::BalanceTlb),
        ("balance-alb", BondMode::BalanceAlb),
    ];
}

impl Word for LacpRate {
    const WORDS: &'static [(&'static str, Self)] = &[("slow", LacpRate::Slow), ("fast", LacpRate::Fast)];
}

impl Word for XmitHashPolicy {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("layer2", XmitHashPolicy::Layer2),
        ("layer2+3", XmitHashPolicy::Layer23),
        ("layer3+4", XmitHashPolicy::Layer34),
        ("encap2+3", XmitHashPolicy::Encap23),
        ("encap3+4", XmitHashPolicy::Encap34),
        ("vlan+srcmac", XmitHashPolicy::VlanSrcMac),
    ];
}

/// The one word of `conntrack.max` that is no number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Auto;

impl Word for Auto {
    const WORDS: &'static [(&'static str, Self)] = &[("auto", Auto)];
}
