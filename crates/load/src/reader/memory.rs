//! How much memory is left for the page cache to keep a dataset in.

use std::fs::read_to_string;

/// Memory that this process could fill: of the machine, or of the control group it is in.
pub(super) fn free_bytes() -> u64 {
    let machine = read_to_string("/proc/meminfo").ok().and_then(|text| available(&text));
    // Version 2 as a container sees it: its own group at the root.
    let group = |name: &str| {
        let text = read_to_string(format!("/sys/fs/cgroup/memory.{name}")).ok()?;
        text.trim().parse::<u64>().ok()
    };
    let group = group("max").map(|max| max.saturating_sub(group("current").unwrap_or(0)));
    machine.unwrap_or(u64::MAX).min(group.unwrap_or(u64::MAX))
}

fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_as_the_kernel_writes_it() {
        let text = "MemTotal:       24637992 kB\nMemAvailable:   23068672 kB\nBuffers: 1 kB\n";
        assert_eq!(available(text), Some(22 << 30));
        assert_eq!(available("MemTotal: 1 kB\n"), None);
        assert!(free_bytes() > 1 << 20);
    }
}
