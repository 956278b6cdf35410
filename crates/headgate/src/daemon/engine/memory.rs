//! What stays in memory behind a configuration that was applied.

use std::sync::Arc;

use headgate_plan::ids::Ids;
use nix::libc;

use super::Engine;

/// Farms up to here are few enough to lie anywhere.
const FEW: usize = 100;
/// Free memory at the end of an arena that is worth a system call, bytes.
const TRIM_BEYOND: libc::c_int = 1 << 20;

impl Engine {
    /// Gives back what applying a configuration took, once all of it has been dropped.
    pub(in crate::daemon) fn settle_memory(&mut self) {
        self.draw_together();
        release_memory();
    }

    /// Copies the farms that run to where nothing else is.
    ///
    /// They came into being between ten times as much that was needed on the way, in pages that they alone would keep: 30 MB
    /// more at 10,000 farms, and with the farms of the next configuration between them 30 MB more each time. A thread that
    /// begins has an arena of malloc(3)'s that is nobody's, and so has nothing in it but what such a thread left: the farms
    /// from before, which are gone.
    fn draw_together(&mut self) {
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
        libc::malloc_trim(0);
    }
}

/// Has malloc(3) give back what is free at the end of an arena, from [`TRIM_BEYOND`] on, for as long as this process runs.
///
/// What it keeps there otherwise is twice the largest piece that was ever freed, which is 36 MB once 10,000 farms were parsed, and
/// malloc_trim(3) passes over the end of an arena that is a thread's: 17 MB stayed behind each change.
pub(in crate::daemon) fn keep_little() {
    // SAFETY: mallopt(3) takes two numbers. That it refuses one changes nothing.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, TRIM_BEYOND);
    }
}
