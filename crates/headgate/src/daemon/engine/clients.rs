//! `headgate persistence`: the clients that a farm remembers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use headgate_config::model::{Farm, HashField, Persistence, Word};
use headgate_config::types::FarmName;
use headgate_host::memory;
use headgate_plan::names::{self, IpVersion};

use super::{Engine, EngineError};
use crate::api::{Clients, Forgotten, RememberedClient};

/// Most clients in one answer.
const CLIENTS_MAX: usize = 100_000;

impl Engine {
    /// The clients that a farm remembers and those that are assigned.
    ///
    /// # Errors
    /// No such farm, it has no persistence, or the kernel's.
    pub fn clients(&mut self, name: &FarmName) -> Result<Clients, EngineError> {
        let (farm, persistence) = self.persistent_farm(name)?;
        let marks = self.running.iter().flat_map(|running| running.desired.ids.marks());
        let backends: BTreeMap<u32, String> =
            marks.filter(|(farm, ..)| *farm == name).map(|(_, backend, mark)| (mark, backend.to_string())).collect();
        let mut clients: Vec<RememberedClient> = persistence
            .fixed
            .iter()
            .map(|(client, backend)| RememberedClient {
                client: vec![client.to_string()],
                backend: backend.to_string(),
                expires: None,
            })
            .collect();
        for version in IpVersion::ALL {
            for (key, element) in self.host.remembered(&names::sticky_set(version, &farm.name))? {
                let backend = memory::mark(&element).and_then(|mark| backends.get(&mark).cloned());
                clients.push(RememberedClient {
                    client: fields(&persistence.key, version, &key.start),
                    backend: backend.unwrap_or_else(|| "?".to_owned()),
                    expires: element.expires_ms.map(|left| left.div_ceil(1000)),
                });
            }
        }
        clients.sort();
        let more = clients.len() > CLIENTS_MAX;
        clients.truncate(CLIENTS_MAX);
        let key = persistence.key.iter().map(|field| field.word().to_owned()).collect();
        Ok(Clients { key, clients, more })
    }

    /// Forgets all that a farm remembers; assignments stay.
    ///
    /// # Errors
    /// As [`Engine::clients`].
    pub fn forget_clients(&mut self, name: &FarmName) -> Result<Forgotten, EngineError> {
        let (farm, _) = self.persistent_farm(name)?;
        let maps: BTreeSet<Arc<str>> =
            IpVersion::ALL.into_iter().map(|version| names::sticky_set(version, &farm.name)).collect();
        let clients = self.host.forget(&maps, None)? as u64;
        tracing::info!(farm = %name, clients, "clients were forgotten");
        Ok(Forgotten { clients })
    }

    fn persistent_farm(&self, name: &FarmName) -> Result<(Arc<Farm>, Persistence), EngineError> {
        let running = self.running.as_ref().ok_or(EngineError::NothingRuns)?;
        let farm = running.config.farms.get(name).ok_or_else(|| EngineError::NotFound(format!("farm {name}")))?;
        let persistence = farm.persistence.clone();
        let persistence = persistence.ok_or_else(|| EngineError::NotFound(format!("persistence of farm {name}")))?;
        Ok((Arc::clone(farm), persistence))
    }
}

/// The fields of a key, each padded to 4 bytes where there are several.
fn fields(key: &[HashField], version: IpVersion, bytes: &[u8]) -> Vec<String> {
    let mut rest = bytes;
    let read = |&field: &HashField| {
        let width = match (field, version) {
            (HashField::SourceAddress | HashField::DestinationAddress, IpVersion::V4) => 4,
            (HashField::SourceAddress | HashField::DestinationAddress, IpVersion::V6) => 16,
            (HashField::SourcePort | HashField::DestinationPort, _) => 2,
            (HashField::SourceMac | HashField::DestinationMac, _) => 6,
        };
        let (own, _) = rest.split_at_checked(width)?;
        rest = rest.get(width.next_multiple_of(4)..).unwrap_or_default();
        Some(text(own))
    };
    key.iter().map_while(read).collect()
}

fn text(field: &[u8]) -> String {
    if let Ok(octets) = <[u8; 4]>::try_from(field) {
        return IpAddr::from(octets).to_string();
    }
    if let Ok(octets) = <[u8; 16]>::try_from(field) {
        return IpAddr::from(octets).to_string();
    }
    match *field {
        [high, low] => u16::from_be_bytes([high, low]).to_string(),
        _ => field.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_field_by_field() {
        use HashField::*;
        let told = |key: &[HashField], version, bytes: &[u8]| fields(key, version, bytes);
        assert_eq!(told(&[SourceAddress], IpVersion::V4, &[10, 0, 0, 9]), ["10.0.0.9"]);
        let both = [10, 0, 0, 9, 0x12, 0x67, 0, 0, 2, 0, 0, 0, 0, 1, 0, 0];
        assert_eq!(
            told(&[SourceAddress, SourcePort, SourceMac], IpVersion::V4, &both),
            ["10.0.0.9", "4711", "02:00:00:00:00:01"]
        );
        assert_eq!(told(&[DestinationPort], IpVersion::V6, &[0, 80]), ["80"]);
        assert_eq!(told(&[SourceAddress], IpVersion::V6, &[0; 16]), ["::"]);
        assert_eq!(told(&[SourceAddress, SourcePort], IpVersion::V4, &[10, 0]), [""; 0], "cut short");
    }
}
