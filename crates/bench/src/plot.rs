//! A sweep as a picture: throughput and latency against queue depth, as SVG.

use std::fmt::Write;

use crate::run::Measured;

const WIDTH: f64 = 1000.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 64.0;
const TOP: f64 = 48.0;
const PANEL: f64 = 330.0;
const FLOOR: f64 = 300.0;
/// Told apart also by those who see few colours, and each line carries its name.
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00"];

/// One line of a panel: points `(x, median, min, max)`.
struct Line {
    name: String,
    points: Vec<(f64, f64, f64, f64)>,
}

/// Draws throughput (left) and latency (right) of the points of a sweep.
pub fn svg(title: &str, points: &[Measured]) -> String {
    let mut blocks: Vec<u64> = points.iter().map(|m| m.workload.block_bytes).collect();
    blocks.dedup();
    let of_block = |block: u64, of: &dyn Fn(&Measured) -> crate::Spread| Line {
        name: size(block),
        points: points
            .iter()
            .filter(|m| m.workload.block_bytes == block)
            .map(|m| (m.workload.queue_depth as f64, of(m)))
            .map(|(x, s)| (x, s.median, s.min, s.max))
            .collect(),
    };
    let mebibytes = |s: crate::Spread| crate::Spread {
        median: s.median / f64::from(1 << 20),
        min: s.min / f64::from(1 << 20),
        max: s.max / f64::from(1 << 20),
    };
    let throughput: Vec<Line> =
        blocks.iter().map(|&b| of_block(b, &|m| mebibytes(m.bytes_per_second))).collect();
    let mut latency: Vec<Line> = Vec::new();
    for &block in &blocks {
        let mut p50 = of_block(block, &|m| m.latency_us.p50);
        let mut p99 = of_block(block, &|m| m.latency_us.p99);
        p50.name += " p50";
        p99.name += " p99";
        latency.extend([p50, p99]);
    }
    let mut out = String::new();
    let _ = write!(
        out,
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12" role="img" aria-label="{0}"><rect width="100%" height="100%" fill="#fff"/><text x="{LEFT}" y="20" font-size="15">{0}</text>"##,
        escape(title)
    );
    panel(&mut out, LEFT, "MiB/s", &throughput, 1);
    panel(&mut out, LEFT + PANEL + 130.0, "µs", &latency, 2);
    out.push_str("</svg>\n");
    out
}

/// Both axes are logarithmic; `per_colour` lines share one, the second of them dashed.
fn panel(out: &mut String, left: f64, unit: &str, lines: &[Line], per_colour: usize) {
    let all = || lines.iter().flat_map(|line| &line.points);
    let positive = |v: f64| v > 0.0;
    let x_end = all().map(|p| p.0).fold(1.0, f64::max).max(2.0);
    let low = all().map(|p| p.2).filter(|&v| positive(v)).fold(f64::INFINITY, f64::min);
    let high = all().map(|p| p.3).fold(0.0, f64::max);
    if !low.is_finite() || high <= 0.0 {
        return;
    }
    let (low, high) = (10_f64.powf(low.log10().floor()), 10_f64.powf(high.log10().ceil()));
    let decades = (high / low).log10().max(1.0);
    let x = |depth: f64| left + PANEL * depth.log2() / x_end.log2();
    let y = |value: f64| FLOOR - (FLOOR - TOP) * (value.max(low) / low).log10() / decades;
    let _ = write!(
        out,
        r##"<text x="{left}" y="{0}" fill="#444">{unit}</text><text x="{1}" y="{2}" fill="#444" text-anchor="middle">queue depth</text>"##,
        TOP - 10.0,
        left + PANEL / 2.0,
        FLOOR + 36.0
    );
    for decade in 0..=decades as i32 {
        let value = low * 10_f64.powi(decade);
        let at = y(value);
        let _ = write!(
            out,
            r##"<path d="M{left} {at:.1}H{0:.1}" stroke="#ddd"/><text x="{1:.1}" y="{2:.1}" text-anchor="end" fill="#444">{value}</text>"##,
            left + PANEL,
            left - 6.0,
            at + 4.0
        );
    }
    let mut depths: Vec<u64> = all().map(|p| p.0 as u64).collect();
    depths.sort_unstable();
    depths.dedup();
    for depth in depths {
        let _ = write!(
            out,
            r##"<text x="{:.1}" y="{:.1}" text-anchor="middle" fill="#444">{depth}</text>"##,
            x(depth as f64),
            FLOOR + 18.0
        );
    }
    for (n, line) in lines.iter().enumerate() {
        let colour = COLOURS[n / per_colour % COLOURS.len()];
        let dash = if n % per_colour == 1 { r#" stroke-dasharray="5 3""# } else { "" };
        let mut path = String::new();
        for (place, &(depth, median, min, max)) in line.points.iter().enumerate() {
            let command = if place == 0 { 'M' } else { 'L' };
            let _ = write!(path, "{command}{:.1} {:.1}", x(depth), y(median));
            let _ = write!(
                out,
                r#"<path d="M{0:.1} {1:.1}V{2:.1}" stroke="{colour}" stroke-width="5" opacity=".25"/><circle cx="{0:.1}" cy="{3:.1}" r="3" fill="{colour}"/>"#,
                x(depth),
                y(min),
                y(max),
                y(median)
            );
        }
        let _ = write!(
            out,
            r#"<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.6"{dash}/>"#
        );
    }
    name(out, left + PANEL + 8.0, &y, lines, per_colour);
}

/// Names of the lines at their ends, pushed apart where they would cover each other.
fn name(out: &mut String, x: f64, y: &dyn Fn(f64) -> f64, lines: &[Line], per_colour: usize) {
    let ends = lines.iter().enumerate().filter_map(|(n, line)| {
        let &(_, median, _, _) = line.points.last()?;
        Some((y(median) + 4.0, n))
    });
    let mut ends: Vec<(f64, usize)> = ends.collect();
    ends.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut free = 0.0_f64;
    for (wanted, n) in ends {
        let at = wanted.max(free);
        free = at + 14.0;
        let (colour, text) = (COLOURS[n / per_colour % COLOURS.len()], escape(&lines[n].name));
        let _ = write!(out, r#"<text x="{x:.1}" y="{at:.1}" fill="{colour}">{text}</text>"#);
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        b if b.is_multiple_of(1 << 20) => format!("{} MiB", b >> 20),
        b if b.is_multiple_of(1 << 10) => format!("{} KiB", b >> 10),
        b => format!("{b} B"),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}
