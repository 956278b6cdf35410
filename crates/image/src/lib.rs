//! Builds, boots and tries the appliance image.

pub mod netns;
pub mod nginx;
