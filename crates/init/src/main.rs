//! The compiled steps between the kernel and `headgated` on the appliance.
fn main() {}
