//! Who the kernel means by the numbers of what it logs.

use std::collections::BTreeMap;

use headgate_config::Config;
use headgate_plan::facts::Facts;
use headgate_plan::features::Feature;
use headgate_plan::logged::Logged;
use tokio::sync::watch;

use super::Engine;
use crate::daemon::journal::Whose;

impl Engine {
    /// Whether some farm logs, from now on.
    pub fn logs(&self) -> watch::Receiver<bool> {
        self.logs.subscribe()
    }

    /// Has the packet log listened to while some farm of the configuration logs.
    pub(super) fn listen_to_logs(&self, config: &Config, facts: &Facts) {
        let logs = Feature::wanted(config).contains(&Feature::Log) && !facts.lacking_features.contains(&Feature::Log);
        self.logs.send_if_modified(|before| std::mem::replace(before, logs) != logs);
    }

    /// Farm and backend of each. A flow can outlive both: then the number stands for the name.
    pub fn whose(&self, asked: &[Logged]) -> Vec<Whose> {
        let (mut backends, mut farms) = (BTreeMap::new(), BTreeMap::new());
        if let Some(running) = &self.running {
            let ids = &running.desired.ids;
            // One walk for all that came together, and only over what was asked for.
            if asked.iter().any(|logged| matches!(logged, Logged::New(_))) {
                backends.extend(ids.marks().map(|(farm, backend, mark)| (mark, (farm, backend))));
            }
            farms.extend(running.config.farms.keys().filter_map(|name| Some((ids.farm(name)?, name))));
        }
        let by_id = |id: u16| farms.get(&id).map_or_else(|| format!("#{id}"), ToString::to_string);
        let whose = |logged: &Logged| match *logged {
            Logged::New(mark) => match backends.get(&mark) {
                Some((farm, backend)) => Whose { farm: farm.to_string(), backend: Some(backend.to_string()) },
                None => Whose { farm: "?".to_owned(), backend: Some(format!("#{mark:#x}")) },
            },
            Logged::Local(id) | Logged::Denied(id, _) | Logged::Over(id, _) => Whose { farm: by_id(id), backend: None },
        };
        asked.iter().map(whose).collect()
    }
}
