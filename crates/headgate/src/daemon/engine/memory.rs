//! What stays in memory behind a configuration that was applied.

use std::sync::Arc;

use headgate_plan::ids::Ids;

use super::Engine;

/// Farms up to here are few enough to lie anywhere.
const FEW: usize = 100;

impl Engine {
    /// Copies the farms that run to where nothing else is.
    ///
    /// They came into being between ten times as much that was needed on the way, in pages that they alone would keep, and
    /// those of the next configuration between them: 30 MB more with each one of 10,000 farms. Behind the
    /// first one nothing lies between them yet. A thread that begins has
    /// an arena of malloc(3)'s that is nobody's, and so has nothing in it but what such a thread left: the farms from before,
    /// which are gone.
    pub(super) fn draw_together(&mut self) {
        let Some(running) = self.running.as_mut().filter(|running| running.config.farms.len() > FEW) else { return };
        let (config, ids) = (&mut running.config, &mut running.desired.ids);
        let copy = || {
            let farms = config.farms.values().map(|farm| {
                let farm = Arc::new(farm.copied());
                (farm.name.clone(), farm)
            });
            config.farms = farms.collect();
            let copied: Ids = ids.copied(config);
            *ids = copied;
        };
        std::thread::scope(|scope| {
            // Without a thread they stay where they are.
            let _ = std::thread::Builder::new().spawn_scoped(scope, copy);
        });
    }
}

/// A compile of 10,000 farms leaves tens of megabytes in the allocator's free lists; they are the system's again.
pub(super) fn release_memory() {
    // SAFETY: malloc_trim(3) takes no pointer and may be called at any time; it only returns free pages.
    unsafe {
        nix::libc::malloc_trim(0);
    }
}
