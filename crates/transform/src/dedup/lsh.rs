//! Locality-sensitive hashing: how many bands of how many rows find what is similar.
//!
//! Two documents of Jaccard similarity `s` agree on one row with probability `s`, on a band of `r`
//! rows with `s^r`, on at least one of `b` bands with `1 - (1 - s^r)^b`: the S-curve.
//! Source: Leskovec, Rajaraman, Ullman, *Mining of Massive Datasets*, section 3.4.

/// Rows of a signature that [`banding`] may use up.
const MOST_ROWS: usize = 128;
/// What a threshold promises: so many of the pairs right at it …
const AT_THRESHOLD: f64 = 0.92;
/// … and so many of those half way from it to 1.
const HALF_WAY: f64 = 0.98;

/// The S-curve: how likely two documents of similarity `s` agree on a band.
pub fn probability(s: f64, bands: usize, rows: usize) -> f64 {
    1.0 - (1.0 - s.powf(rows as f64)).powf(bands as f64)
}

/// The bands and rows for a threshold: the steepest curve of at most 128 rows that finds 92 % of
/// the pairs at the threshold and 98 % of those half way from there to 1.
pub fn banding(threshold: f64) -> (usize, usize) {
    let fits = |&(bands, rows): &(usize, usize)| {
        probability(threshold, bands, rows) >= AT_THRESHOLD
            && probability(f64::midpoint(threshold, 1.0), bands, rows) >= HALF_WAY
    };
    let fewest = |rows: usize| (1..=MOST_ROWS / rows).map(|bands| (bands, rows)).find(fits);
    (1..=MOST_ROWS).rev().find_map(fewest).unwrap_or((MOST_ROWS, 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threshold_is_a_promise() {
        assert_eq!(banding(0.8), (14, 8));
        for percent in 10..=99 {
            let threshold = f64::from(percent) / 100.0;
            let (bands, rows) = banding(threshold);
            assert!(bands * rows <= MOST_ROWS);
            assert!(probability(threshold, bands, rows) >= 0.9, "{threshold}: {bands} x {rows}");
            assert!(probability(f64::midpoint(threshold, 1.0), bands, rows) >= 0.98, "{threshold}");
        }
    }

    #[test]
    fn the_curve_is_that_of_the_book() {
        // Figure 3.8: b = 20, r = 5.
        for (s, expected) in [(0.2, 0.006), (0.4, 0.186), (0.6, 0.802), (0.8, 0.9996)] {
            assert!((probability(s, 20, 5) - expected).abs() < 5e-4, "{s}");
        }
    }
}
