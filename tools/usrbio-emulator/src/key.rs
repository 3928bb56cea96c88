//! Names of entries in `3fs-virt/iovs`: what a client says about a buffer or ring.

/// A name that was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// 16 bytes in the order of their text.
    pub id: [u8; 16],
    /// Of a buffer: no transfer may cross a multiple of it.
    pub block_bytes: Option<u64>,
    /// Set for a ring.
    pub ring: Option<RingKey>,
}

/// What a name says about a ring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RingKey {
    /// Reads only, or writes only.
    pub for_read: bool,
    /// 0: all at once; n: exactly n; -n: at most n a job.
    pub io_depth: i32,
    /// 0 high, 1 normal, 2 low.
    pub lane: usize,
    /// How long a job that is not full may wait, in milliseconds.
    pub timeout_ms: u64,
    /// 1: uncommitted data may be seen; 2: holes are `ENODATA`.
    pub flags: u64,
}

/// Reads a name as the daemon does.
///
/// # Errors
/// `EIO` for a bad id, `EINVAL` for everything else. A ring without `.t` is refused here; the
/// daemon would read a value that is not there.
pub fn parse(name: &str) -> Result<Key, i32> {
    let mut parts = name.split('.');
    let id = uuid(parts.next().unwrap_or_default()).ok_or(libc::EIO)?;
    let (mut block_bytes, mut direction) = (None, None);
    let (mut lane, mut timeout_ms, mut flags) = (None, None, None);
    for part in parts {
        let mut letters = part.chars();
        let Some(letter) = letters.next() else { continue };
        let rest = letters.as_str();
        match letter {
            'b' => {
                let bytes: u64 = rest.parse().map_err(|_| libc::EINVAL)?;
                block_bytes = Some(bytes).filter(|&b| b > 0);
                block_bytes.ok_or(libc::EINVAL)?;
            }
            'r' | 'w' => {
                let depth: i32 = rest.parse().map_err(|_| libc::EINVAL)?;
                direction = Some((letter == 'r', depth));
            }
            't' => timeout_ms = Some(rest.parse::<u64>().map_err(|_| libc::EINVAL)?),
            'f' => flags = Some(u64::from_str_radix(rest, 2).map_err(|_| libc::EINVAL)?),
            'p' => {
                lane = Some(match rest {
                    "h" => 0,
                    "n" | "" => 1,
                    "l" => 2,
                    _ => return Err(libc::EINVAL),
                });
            }
            _ => {}
        }
    }
    let ring = match direction {
        None if lane.is_some() || timeout_ms.is_some() || flags.is_some() => {
            return Err(libc::EINVAL);
        }
        None => None,
        Some((for_read, io_depth)) => Some(RingKey {
            for_read,
            io_depth,
            lane: lane.unwrap_or(1),
            timeout_ms: timeout_ms.ok_or(libc::EINVAL)?,
            flags: flags.unwrap_or(0),
        }),
    };
    Ok(Key { id, block_bytes, ring })
}

fn uuid(text: &str) -> Option<[u8; 16]> {
    let mut digits = Vec::with_capacity(32);
    for (n, byte) in text.bytes().enumerate() {
        match n {
            8 | 13 | 18 | 23 if byte != b'-' => return None,
            8 | 13 | 18 | 23 => {}
            _ => digits.push(char::from(byte).to_digit(16)? as u8),
        }
    }
    if text.len() != 36 {
        return None;
    }
    let mut id = [0; 16];
    for (byte, pair) in id.iter_mut().zip(digits.chunks(2)) {
        *byte = pair[0] << 4 | pair[1];
    }
    Some(id)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "00112233-4455-6677-8899-aabbccddeeff";

    #[test]
    fn names_seen_from_real_clients_are_understood() {
        let key = |tail: &str| parse(&format!("{ID}{tail}"));
        let ring = |tail: &str| key(tail).unwrap().ring.unwrap();
        let base = RingKey { for_read: true, io_depth: 0, lane: 1, timeout_ms: 0, flags: 0 };
        assert_eq!(key("").unwrap().ring, None);
        assert_eq!(key("").unwrap().id[..3], [0, 0x11, 0x22]);
        assert_eq!(key(".b4096").unwrap().block_bytes, Some(4096));
        assert_eq!(ring(".r0.t0"), base);
        let low = RingKey { for_read: false, lane: 2, timeout_ms: 5, ..base.clone() };
        assert_eq!(ring(".w0.pl.t5"), low);
        assert_eq!(
            ring(".r-4.t100.f10"),
            RingKey { io_depth: -4, timeout_ms: 100, flags: 2, ..base }
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (name, error) in [
            ("no-uuid.r0.t0", libc::EIO),
            (&format!("{ID}0.r0.t0"), libc::EIO),
            (&format!("{ID}.t0"), libc::EINVAL),
            (&format!("{ID}.f1"), libc::EINVAL),
            (&format!("{ID}.r0"), libc::EINVAL),
            (&format!("{ID}.r0.t-1"), libc::EINVAL),
            (&format!("{ID}.r0.t0.f2"), libc::EINVAL),
            (&format!("{ID}.r0.t0.px"), libc::EINVAL),
            (&format!("{ID}.b0"), libc::EINVAL),
        ] {
            assert_eq!(parse(name), Err(error), "{name}");
        }
        assert!(parse(&format!("{ID}.r0.t0.z9")).is_ok(), "unknown letters are ignored");
    }

    proptest! {
        #[test]
        fn no_name_makes_it_fall_over(name in "\\PC{0,80}") {
            let _ = parse(&name);
        }

        #[test]
        fn nor_one_that_starts_well(parts in proptest::collection::vec("[brwtfpz]\\PC{0,6}", 0..6)) {
            let _ = parse(&format!("{ID}.{}", parts.join(".")));
        }

        #[test]
        fn a_ring_is_what_its_name_says(
            for_read: bool, io_depth: i32, lane in 0_usize..3, timeout_ms: u32, flags: u64,
        ) {
            let letter = if for_read { 'r' } else { 'w' };
            let name = format!("{ID}.{letter}{io_depth}{}.t{timeout_ms}.f{flags:b}",
                [".ph", "", ".pl"][lane]);
            let expected = RingKey { for_read, io_depth, lane, timeout_ms: timeout_ms.into(), flags };
            prop_assert_eq!(parse(&name).unwrap().ring, Some(expected));
        }
    }
}
