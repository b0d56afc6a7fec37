//! What a measurement ran on: speed figures mean nothing without it.

use std::fs;

use serde::{Deserialize, Serialize};

/// The machine, as far as the operating system tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's model name.
    pub cpu: String,
    /// Physical cores that this process sees.
    pub physical_cores: usize,
    /// Hardware threads that this process sees.
    pub logical_cores: usize,
    /// Main memory in bytes; 0 where unknown.
    pub memory_bytes: u64,
    /// Operating system and architecture.
    pub system: String,
}

impl Machine {
    /// Asks the operating system.
    pub fn detect() -> Self {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let system =
            format!("{} {} {}", std::env::consts::OS, kernel.trim(), std::env::consts::ARCH);
        Self {
            cpu: cpu_name().unwrap_or_else(|| "unknown".to_string()),
            physical_cores: num_cpus::get_physical(),
            logical_cores: num_cpus::get(),
            memory_bytes: kibibytes("/proc/meminfo", "MemTotal").unwrap_or(0),
            system: system.split_whitespace().collect::<Vec<_>>().join(" "),
        }
    }
}

/// The machine's name in its network; empty where unknown.
pub fn host_name() -> String {
    let from_environment = || std::env::var("HOSTNAME").or_else(|_| std::env::var("COMPUTERNAME"));
    fs::read_to_string("/proc/sys/kernel/hostname")
        .or_else(|_| from_environment())
        .map(|name| name.trim().to_string())
        .unwrap_or_default()
}

/// Processes that wanted a core over the last minute, on average (the one-minute load average).
pub fn load_average() -> Option<f64> {
    fs::read_to_string("/proc/loadavg").ok()?.split_whitespace().next()?.parse().ok()
}

/// Size in bytes of the largest cache of the first processor, the one next to memory.
pub fn last_level_cache() -> Option<u64> {
    let caches = fs::read_dir("/sys/devices/system/cpu/cpu0/cache").ok()?;
    let size = |cache: fs::DirEntry| {
        let text = fs::read_to_string(cache.path().join("size")).ok()?;
        let kibibytes: u64 = text.trim().strip_suffix('K')?.parse().ok()?;
        kibibytes.checked_mul(1024)
    };
    caches.flatten().filter_map(size).max()
}

/// Bytes that new allocations can take without swapping.
pub fn available_memory() -> Option<u64> {
    kibibytes("/proc/meminfo", "MemAvailable")
}

/// The most memory that this process has had resident since it started, or since the last
/// successful [`reset_peak_memory`], in bytes.
pub fn peak_memory() -> Option<u64> {
    kibibytes("/proc/self/status", "VmHWM")
}

/// Starts the count of [`peak_memory`] again from what is resident now. Returns whether the
/// operating system allowed it.
pub fn reset_peak_memory() -> bool {
    // Linux, proc(5): writing 5 to clear_refs resets the peak resident set size.
    fs::write("/proc/self/clear_refs", "5").is_ok()
}

fn cpu_name() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    let name = line.split_once(':')?.1;
    Some(name.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// The value of a `Name:   123 kB` line of a /proc file, in bytes.
fn kibibytes(path: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.split(':').next() == Some(name))?;
    let number: u64 = line.split_once(':')?.1.split_whitespace().next()?.parse().ok()?;
    number.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn the_peak_follows_what_was_resident() {
        let before = peak_memory().unwrap();
        let block = std::hint::black_box(vec![1u8; 64 << 20]);
        let with_block = peak_memory().unwrap();
        assert!(with_block >= before.max(block.len() as u64));
        drop(block);
        // Other tests of this process may hold memory of their own, so only a loose bound.
        if reset_peak_memory() {
            assert!(peak_memory().unwrap() <= with_block);
        }
    }

    #[test]
    fn detection_always_gives_something() {
        let machine = Machine::detect();
        assert!(machine.logical_cores >= machine.physical_cores.min(1));
        assert!(!machine.cpu.is_empty() && !machine.system.is_empty());
    }
}
