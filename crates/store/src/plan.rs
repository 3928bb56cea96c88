//! Ranges wanted → reads to do: a pure function.
//!
//! ```text
//! wanted   [---)  [--)     [------)          [--------------------)
//!             └gap┘  └ too far ┘ └ overlap: read once
//! reads    [---------)    [--------)         [--------|---------|--)   cut at borders
//! ```

/// Bytes wanted of one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// Position of the object in a list of the caller's.
    pub object: u32,
    /// First byte.
    pub offset: u64,
    /// How many; none is allowed.
    pub length: u64,
}

/// What reading costs here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Costs {
    /// Bytes that are read and thrown away rather than starting another read.
    pub gap_bytes: u64,
    /// Longest read.
    pub max_bytes: u64,
    /// No read crosses a multiple of this: a stripe or a part. 0 if there is no such border.
    pub border_bytes: u64,
    /// Reads start and end at multiples of this, which direct I/O asks for. At least 1.
    pub align: u64,
}

impl Costs {
    /// The gap at which another read costs as much as the bytes between: latency × bandwidth.
    pub fn measured(latency: std::time::Duration, bytes_per_second: f64) -> Self {
        let gap = latency.as_secs_f64() * bytes_per_second;
        Self { gap_bytes: gap as u64, max_bytes: 8 << 20, border_bytes: 0, align: 1 }
    }
}

/// One request to the storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Read {
    /// Of the ranges it serves.
    pub object: u32,
    /// First byte; a multiple of the alignment.
    pub offset: u64,
    /// A multiple of the alignment, so it may pass the end of the object by less than that.
    pub length: u64,
    /// Its first segment in [`Plan::segments`]; the next read's first is the end.
    pub first_segment: usize,
}

/// A piece of a wanted range inside a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Position of the range in what was asked.
    pub range: u32,
    /// First byte in that range.
    pub in_range: u64,
    /// First byte in the read.
    pub in_read: u64,
    /// How many bytes.
    pub length: u64,
}

/// Reads in the order in which to start them, and what of them goes where.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Sorted by device, object and offset; they do not overlap but for their alignment.
    pub reads: Vec<Read>,
    /// Of all reads, one after another.
    pub segments: Vec<Segment>,
}

impl Plan {
    /// What of read `position` goes where.
    pub fn segments_of(&self, position: usize) -> &[Segment] {
        let first = self.reads[position].first_segment;
        let end = self.reads.get(position + 1).map_or(self.segments.len(), |r| r.first_segment);
        &self.segments[first..end]
    }

    /// Bytes that all reads move.
    pub fn bytes(&self) -> u64 {
        self.reads.iter().map(|r| r.length).sum()
    }
}

/// Coalesces, splits, aligns and sorts; overlapping ranges are read once.
///
/// `device` tells what an object lies on, so that reads of one device follow each other in its
/// order. Cost: a sort of the ranges, then one pass; 1,000 ranges take less than 100 µs.
pub fn plan(ranges: &[Range], costs: &Costs, device: impl Fn(u32) -> u64) -> Plan {
    let align = costs.align.max(1);
    let mut order: Vec<(u64, u32, u64, u32)> = Vec::with_capacity(ranges.len());
    for (position, range) in ranges.iter().enumerate() {
        if range.length > 0 {
            order.push((device(range.object), range.object, range.offset, position as u32));
        }
    }
    order.sort_unstable();

    let mut plan = Plan::default();
    let mut rest = &order[..];
    while let Some(&(_, object, offset, position)) = rest.first() {
        // An extent: ranges near each other.
        let start = offset;
        let mut end = offset + ranges[position as usize].length;
        let mut count = 1;
        for &(_, next_object, next, position) in &rest[1..] {
            if next_object != object || next > end.saturating_add(costs.gap_bytes) {
                break;
            }
            end = end.max(next + ranges[position as usize].length);
            count += 1;
        }
        cut(&mut plan, ranges, &rest[..count], (start, end), costs, align);
        rest = &rest[count..];
    }
    plan
}

/// Cuts an extent into reads, and its ranges into segments.
fn cut(
    plan: &mut Plan,
    ranges: &[Range],
    members: &[(u64, u32, u64, u32)],
    (start, end): (u64, u64),
    costs: &Costs,
    align: u64,
) {
    let down = |byte: u64| byte - byte % align;
    let up = |byte: u64| byte.next_multiple_of(align);
    let longest = down(costs.max_bytes).max(align);
    let object = members[0].1;
    let mut at = start;
    // Members that end at or before `at` need no further look; they are sorted by start.
    let mut first = 0;
    while at < end {
        let from = down(at);
        let mut to = from + longest;
        if let Some(stripe) = at.checked_div(costs.border_bytes) {
            let border = (stripe + 1) * costs.border_bytes;
            // A border between two aligned places is crossed: an unaligned read cannot be done.
            to = to.min(up(border));
        }
        let to = to.min(end);
        let first_segment = plan.segments.len();
        let (mut lowest, mut highest) = (u64::MAX, 0);
        for (place, &(_, _, offset, position)) in members.iter().enumerate().skip(first) {
            let last = offset + ranges[position as usize].length;
            if offset >= to {
                break;
            }
            if last <= at {
                if place == first {
                    first += 1;
                }
                continue;
            }
            let (a, b) = (offset.max(at), last.min(to));
            (lowest, highest) = (lowest.min(a), highest.max(b));
            plan.segments.push(Segment {
                range: position,
                in_range: a - offset,
                in_read: a,
                length: b - a,
            });
        }
        // A cut may fall into a gap: what nobody wants at either end is not read.
        if highest > lowest {
            let from = down(lowest);
            for segment in &mut plan.segments[first_segment..] {
                segment.in_read -= from;
            }
            let length = up(highest) - from;
            plan.reads.push(Read { object, offset: from, length, first_segment });
        }
        at = to;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PLAIN: Costs = Costs { gap_bytes: 0, max_bytes: 1 << 20, border_bytes: 0, align: 1 };

    fn range(object: u32, offset: u64, length: u64) -> Range {
        Range { object, offset, length }
    }

    fn reads(plan: &Plan) -> Vec<(u32, u64, u64)> {
        plan.reads.iter().map(|r| (r.object, r.offset, r.length)).collect()
    }

    #[test]
    fn near_ranges_become_one_read_and_far_ones_do_not() {
        let costs = Costs { gap_bytes: 10, ..PLAIN };
        let ranges = [range(0, 0, 100), range(0, 110, 5), range(0, 126, 4), range(1, 130, 4)];
        assert_eq!(reads(&plan(&ranges, &costs, |_| 0)), [(0, 0, 115), (0, 126, 4), (1, 130, 4)]);
    }

    #[test]
    fn large_ranges_are_cut_at_borders_and_at_the_longest_read() {
        let costs = Costs { border_bytes: 100, max_bytes: 60, ..PLAIN };
        let plan = plan(&[range(0, 50, 200)], &costs, |_| 0);
        assert_eq!(reads(&plan), [(0, 50, 50), (0, 100, 60), (0, 160, 40), (0, 200, 50)]);
    }

    #[test]
    fn reads_follow_each_other_by_device_and_offset() {
        let ranges = [range(0, 500, 1), range(1, 5, 1), range(0, 0, 1), range(2, 1, 1)];
        let plan = plan(&ranges, &PLAIN, |object| u64::from(object == 0));
        assert_eq!(reads(&plan), [(1, 5, 1), (2, 1, 1), (0, 0, 1), (0, 500, 1)]);
    }

    /// A thousand ranges, as a batch of samples asks for them.
    #[test]
    fn a_thousand_ranges_are_planned_at_once() {
        let ranges: Vec<Range> =
            (0..1000).map(|n| range(n % 7, u64::from(n * 7919 % 1009) << 14, 8192)).collect();
        let plan = plan(&ranges, &Costs { gap_bytes: 4096, ..PLAIN }, |_| 0);
        assert_eq!(plan.segments.iter().map(|s| s.length).sum::<u64>(), 1000 * 8192);
    }

    prop_compose! {
        fn some_range()(object in 0..3_u32, offset in 0..2000_u64, length in 0..300_u64) -> Range {
            range(object, offset, length)
        }
    }

    proptest! {
        /// The oracle: every byte of every range, looked up where the plan says it is.
        #[test]
        fn every_wanted_byte_is_where_the_plan_says(
            ranges in prop::collection::vec(some_range(), 0..40),
            gap_bytes in 0..200_u64,
            max_bytes in 1..500_u64,
            border_bytes in prop_oneof![Just(0), 1..400_u64],
            align in prop_oneof![Just(1_u64), Just(16), Just(64)],
        ) {
            let costs = Costs { gap_bytes, max_bytes, border_bytes, align };
            let plan = plan(&ranges, &costs, |object| u64::from(object % 2));
            let mut found: Vec<Vec<u64>> = ranges.iter().map(|r| vec![0; r.length as usize]).collect();
            for (position, read) in plan.reads.iter().enumerate() {
                prop_assert!(read.offset % align == 0 && read.length % align == 0);
                prop_assert!(read.length <= max_bytes.max(align) + align);
                let segments = plan.segments_of(position);
                prop_assert!(!segments.is_empty(), "a read for nothing");
                let wanted_first = segments.iter().map(|s| s.in_read).min().unwrap();
                let wanted_last = segments.iter().map(|s| s.in_read + s.length).max().unwrap();
                prop_assert!(wanted_first < align && read.length - wanted_last < align);
                if border_bytes > 0 && align == 1 {
                    let last = read.offset + read.length - 1;
                    prop_assert_eq!(read.offset / border_bytes, last / border_bytes);
                }
                for segment in segments {
                    let range = ranges[segment.range as usize];
                    prop_assert_eq!(range.object, read.object);
                    prop_assert!(segment.in_read + segment.length <= read.length);
                    for byte in 0..segment.length {
                        let in_range = segment.in_range + byte;
                        prop_assert_eq!(range.offset + in_range, read.offset + segment.in_read + byte);
                        found[segment.range as usize][in_range as usize] += 1;
                    }
                }
            }
            prop_assert!(found.iter().flatten().all(|&times| times == 1), "a byte is missing or twice");
            let keys = |r: &Read| (r.object % 2, r.object, r.offset);
            prop_assert!(plan.reads.windows(2).all(|w| keys(&w[0]) <= keys(&w[1])), "not sorted");
        }
    }
}
