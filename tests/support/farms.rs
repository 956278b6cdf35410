//! Many farms, for measuring.

use std::fmt::Write;

/// The configuration of `farms` snat farms with `backends` each, every farm with an address of its own: farm N listens on
/// 10.X.Y.Z:80 (counted up from 10.0.0.1), its backends are in 172.16.0.0/12.
pub fn generate(farms: u32, backends: u32) -> String {
    let mut text = String::with_capacity(farms as usize * (60 + backends as usize * 70));
    for farm in 0..farms {
        let address = virtual_address(farm);
        // Writing to a String does not fail.
        let _ = write!(text, "[farms.f{farm}]\nlisten = \"{address}:80\"\n");
        for backend in 0..backends {
            let address = backend_address(farm * backends + backend);
            let _ = write!(text, "[farms.f{farm}.backends.b{backend}]\naddress = \"{address}:8080\"\n");
        }
    }
    text
}

/// Farm N's address.
pub fn virtual_address(farm: u32) -> std::net::Ipv4Addr {
    address([10, 0, 0, 1], farm)
}

/// The address of a backend, counted over all farms. They share 60,000 addresses: what is measured is the number of backends,
/// not of hosts.
pub fn backend_address(number: u32) -> std::net::Ipv4Addr {
    address([172, 16, 2, 10], number % 60_000)
}

fn address(first: [u8; 4], offset: u32) -> std::net::Ipv4Addr {
    (u32::from_be_bytes(first) + offset).into()
}
