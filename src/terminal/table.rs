//! Columns, sizes and ages, as people read them.

use std::time::SystemTime;

/// Bytes in decimal units, as disks are sold: `4.7 GB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    match (unit, value) {
        (0, _) => format!("{bytes} B"),
        (_, v) if v >= 10.0 => format!("{v:.0} {}", UNITS[unit]),
        (_, v) => format!("{v:.1} {}", UNITS[unit]),
    }
}

/// How long ago: `2 days ago`.
pub fn age(then: SystemTime, now: SystemTime) -> String {
    const STEPS: [(u64, &str); 6] = [
        (365 * 86_400, "year"),
        (30 * 86_400, "month"),
        (7 * 86_400, "week"),
        (86_400, "day"),
        (3_600, "hour"),
        (60, "minute"),
    ];
    let seconds = now.duration_since(then).map_or(0, |d| d.as_secs());
    match STEPS.iter().find(|(step, _)| seconds >= *step) {
        Some((step, name)) => {
            let n = seconds / step;
            format!("{n} {name}{} ago", if n == 1 { "" } else { "s" })
        }
        None => "less than a minute ago".to_owned(),
    }
}

/// Rows of text in columns, without borders.
pub fn columns(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(header.to_vec());
    for row in rows {
        table.add_row(row.clone());
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 4));
    }
    let lines: Vec<String> = table.lines().map(|l| l.trim_end().to_owned()).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn sizes_are_decimal() {
        assert_eq!(size(999), "999 B");
        assert_eq!(size(4_700_000_000), "4.7 GB");
        assert_eq!(size(270_000_000), "270 MB");
    }

    #[test]
    fn ages_use_the_largest_unit() {
        let then = SystemTime::UNIX_EPOCH;
        let after = |s| age(then, then + Duration::from_secs(s));
        assert_eq!(after(5), "less than a minute ago");
        assert_eq!(after(3_600), "1 hour ago");
        assert_eq!(after(200_000), "2 days ago");
        assert_eq!(age(then + Duration::from_secs(9), then), "less than a minute ago");
    }
}
