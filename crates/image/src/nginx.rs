//! Backends for trying things out: one nginx in a namespace that answers on several addresses and says which one it was.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::netns::Namespace;

/// A running nginx; ended when dropped.
#[derive(Debug)]
pub struct Nginx {
    child: Child,
    _directory: TempDir,
}

impl Nginx {
    /// Starts nginx in `space` and waits until it answers. Each response is empty (status 200) with the header
    /// `X-Backend: ADDRESS:PORT` of the address that was asked.
    pub fn start(space: &Namespace, listen: &[SocketAddr]) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("headgate-nginx-").tempdir()?;
        let configuration = directory.path().join("nginx.conf");
        std::fs::write(&configuration, configure(directory.path(), listen))?;
        let child = space
            .command("nginx")
            .arg("-c")
            .arg(&configuration)
            .arg("-e")
            .arg(directory.path().join("error.log"))
            .spawn()
            .context("cannot start nginx (Debian package nginx-light)")?;
        let mut nginx = Self { child, _directory: directory };
        for address in listen {
            nginx.wait_for(space, *address)?;
        }
        Ok(nginx)
    }

    fn wait_for(&mut self, space: &Namespace, address: SocketAddr) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let tried = space.within(|| std::net::TcpStream::connect_timeout(&address, Duration::from_secs(1)))?;
            match tried {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > deadline => bail!("nginx does not answer on {address}: {error}"),
                Err(_) => {}
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("nginx ended at its start with {status}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // SIGQUIT would wait for keep-alive clients; the master takes its workers along on SIGTERM.
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

fn configure(directory: &Path, listen: &[SocketAddr]) -> String {
    let directory = directory.display();
    let listeners: String = listen.iter().map(|address| format!("        listen {address};\n")).collect();
    format!(
        "daemon off;
user root;
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/error.log warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    keepalive_requests 1000000000;
    server {{
{listeners}        location / {{
            add_header X-Backend $server_addr:$server_port always;
            return 200;
        }}
    }}
}}
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_names_the_address_that_was_asked() {
        let space = Namespace::create("nginx").unwrap();
        let listen = ["127.0.0.1:8080".parse().unwrap(), "[::1]:8080".parse().unwrap()];
        let nginx = Nginx::start(&space, &listen).unwrap();
        let answer = space.run("curl -s -m 5 -D - http://127.0.0.1:8080/").unwrap();
        assert!(answer.contains("X-Backend: 127.0.0.1:8080"), "{answer}");
        let answer = space.run("curl -s -m 5 -D - http://[::1]:8080/").unwrap();
        assert!(answer.contains("X-Backend: [::1]:8080") || answer.contains("X-Backend: ::1:8080"), "{answer}");
        drop(nginx);
        assert_eq!(space.pids().unwrap(), Vec::<i32>::new(), "nginx left processes behind");
    }
}
