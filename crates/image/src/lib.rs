//! Builds, boots and tries the appliance image.
