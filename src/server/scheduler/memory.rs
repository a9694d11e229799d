//! How much memory there is for a model.

/// Bytes that can be taken without making others wait: what the system says is available, and what is
/// left of the control group's limit. `None` where neither is told.
pub fn available() -> Option<u64> {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let number = |path: &str| read(path)?.trim().parse::<u64>().ok();
    let system = read("/proc/meminfo").and_then(|text| {
        let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    });
    // Pages of files can be given up.
    let files = |path: &str, names: [&str; 2]| {
        let text = read(path).unwrap_or_default();
        let value = |line: &str| {
            let (name, value) = line.split_once(' ')?;
            names.contains(&name).then(|| value.trim().parse::<u64>().ok()).flatten()
        };
        text.lines().filter_map(value).fold(0, u64::saturating_add)
    };
    let left = |limit: Option<u64>, used: Option<u64>, files: u64| {
        Some(limit?.saturating_sub(used?.saturating_sub(files)))
    };
    let v2 = left(
        number("/sys/fs/cgroup/memory.max"),
        number("/sys/fs/cgroup/memory.current"),
        files("/sys/fs/cgroup/memory.stat", ["inactive_file", "active_file"]),
    );
    let v1 = left(
        number("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        number("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
        files("/sys/fs/cgroup/memory/memory.stat", ["total_inactive_file", "total_active_file"]),
    );
    [system, v2, v1].into_iter().flatten().min()
}

/// Bytes for people: `1.2 GiB`.
pub fn human(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", units[unit]) }
}
