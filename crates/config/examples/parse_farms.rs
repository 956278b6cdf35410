//! How long a configuration of many farms takes, and how much memory: `parse_farms [FARMS [BACKENDS]]`.

use std::fmt::Write;
use std::time::Instant;

fn main() {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse().expect("a number"));
    let (farms, backends): (u32, u32) = (arguments.next().unwrap_or(10_000), arguments.next().unwrap_or(4));
    let mut text = String::new();
    for farm in 0..farms {
        let (high, low) = (farm / 250 % 250, farm % 250 + 1);
        write!(text, "[farms.f{farm:05}]\nlisten = \"10.1.{high}.{low}:80/tcp\"\nscheduler = \"round-robin\"\n")
            .expect("memory");
        for backend in 0..backends {
            let port = 8000 + backend;
            write!(
                text,
                "[farms.f{farm:05}.backends.b{backend}]\naddress = \"10.2.{high}.{low}:{port}\"\nweight = 10\n"
            )
            .expect("memory");
        }
    }
    let directory = std::env::temp_dir().join(format!("headgate-parse-farms-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    let file = directory.join("farms.toml");
    std::fs::write(&file, &text).expect("a file");
    println!("{farms} farms of {backends} backends, {} bytes", text.len());
    drop(text);
    let start = Instant::now();
    let loaded = headgate_config::load_files(std::slice::from_ref(&file), &directory);
    println!("parsed, merged and checked in {:?}", start.elapsed());
    std::fs::remove_dir_all(&directory).expect("to remove the directory");
    match &loaded {
        Ok(loaded) => println!("{} farms, {} warnings", loaded.config.farms.len(), loaded.warnings.count()),
        Err(diagnostics) => print!("{diagnostics}"),
    }
    print_memory("with the document");
    let config = loaded.map(|loaded| loaded.config);
    print_memory("without it");
    drop(config);
}

fn print_memory(when: &str) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let lines: Vec<&str> =
        status.lines().filter(|line| line.starts_with("VmHWM") || line.starts_with("VmRSS")).collect();
    println!("{when}: {}", lines.join("  ").replace('\t', " "));
}
