//! Text in blocks of 64 bytes: a bit for each byte, so that bytes are found by counting bits and
//! left out without a branch.
//!
//! Work on blocks is written once and compiled twice: for every machine, and for those with
//! AVX-512 and its byte compression (VBMI2: Ice Lake, Zen 4 and later), chosen at run time.
//! Measured on Sapphire Rapids, one core: exact dedup of JSON lines, whole, 1.9–2.2 × as fast with it.

/// Bytes of a block.
pub const BLOCK: usize = 64;

/// Work to be compiled for each instruction set.
pub trait Work {
    /// What comes of it.
    type Output;

    /// Does it; must be `#[inline(always)]`, as must whatever it calls in its loops.
    fn run<I: Isa>(self, isa: I) -> Self::Output;
}

/// Does the work with the best instructions that this machine has.
pub fn run<W: Work>(work: W) -> W::Output {
    #[cfg(target_arch = "x86_64")]
    if avx512::is_here() {
        // SAFETY: the machine has the instructions.
        return unsafe { avx512::run(work) };
    }
    work.run(Portable)
}

/// An instruction set.
pub trait Isa: Copy {
    /// The highest bit of every byte, the lowest for the first.
    fn gather(self, flags: &[u8; BLOCK]) -> u64;

    /// The bytes whose bit is set, one after the other; what follows them is undefined.
    fn compress(self, block: &[u8; BLOCK], keep: u64) -> [u8; BLOCK];

    /// The bytes of `yes` whose bit is set, else those of `no`.
    fn select(self, bits: u64, yes: &[u8; BLOCK], no: &[u8; BLOCK]) -> [u8; BLOCK];

    /// The bits of `bits` whose bit in `keep` is set, one after the other.
    fn extract(self, bits: u64, keep: u64) -> u64;

    /// Appends `base` + the place of each bit.
    fn push_places(self, bits: u64, base: u32, places: &mut Vec<u32>);

    /// One bit a byte, the lowest for the first.
    #[inline(always)]
    fn mask(self, block: &[u8; BLOCK], is: impl Fn(u8) -> bool) -> u64 {
        self.gather(&flags(block, is))
    }

    /// Appends the bytes whose bit is set.
    #[inline(always)]
    fn append(self, block: &[u8; BLOCK], keep: u64, to: &mut Vec<u8>) {
        let length = to.len() + keep.count_ones() as usize;
        to.extend_from_slice(&self.compress(block, keep));
        to.truncate(length);
    }
}

/// The place of the first such byte.
pub fn find(bytes: &[u8], byte: u8) -> Option<usize> {
    run(Find { bytes, byte })
}

struct Find<'a> {
    bytes: &'a [u8],
    byte: u8,
}

impl Work for Find<'_> {
    type Output = Option<usize>;

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> Option<usize> {
        let (blocks, rest) = self.bytes.as_chunks::<BLOCK>();
        for (at, block) in blocks.iter().enumerate() {
            let found = isa.mask(block, |byte| byte == self.byte);
            if found != 0 {
                return Some(BLOCK * at + found.trailing_zeros() as usize);
            }
        }
        let place = rest.iter().position(|&byte| byte == self.byte)?;
        Some(BLOCK * blocks.len() + place)
    }
}

/// 255 for each byte that is, 0 for the others.
#[inline(always)]
pub fn flags(block: &[u8; BLOCK], is: impl Fn(u8) -> bool) -> [u8; BLOCK] {
    let mut flags = [0_u8; BLOCK];
    for (flag, &byte) in flags.iter_mut().zip(block) {
        *flag = u8::from(is(byte)).wrapping_neg();
    }
    flags
}

/// The first bytes as a block, filled up with `fill`.
#[inline(always)]
pub fn block(bytes: &[u8], fill: u8) -> [u8; BLOCK] {
    match bytes.first_chunk() {
        Some(block) => *block,
        None => {
            let mut block = [fill; BLOCK];
            block[..bytes.len()].copy_from_slice(bytes);
            block
        }
    }
}

/// The lowest `count` bits, up to 64.
#[inline(always)]
pub fn lowest(count: u32) -> u64 {
    1_u64.checked_shl(count).map_or(u64::MAX, |bit| bit - 1)
}

/// What every machine has.
#[derive(Clone, Copy)]
pub struct Portable;

impl Isa for Portable {
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn gather(self, flags: &[u8; BLOCK]) -> u64 {
        use std::arch::x86_64::{__m128i, _mm_movemask_epi8};
        let quarters: [__m128i; 4] = bytemuck::cast(*flags);
        // SAFETY: the instruction is part of every x86-64.
        let bits = quarters.map(|quarter| u64::from(unsafe { _mm_movemask_epi8(quarter) } as u32));
        let [a, b, c, d] = bits;
        a | b << 16 | c << 32 | d << 48
    }

    #[cfg(not(target_arch = "x86_64"))]
    #[inline(always)]
    fn gather(self, flags: &[u8; BLOCK]) -> u64 {
        let mut mask = 0;
        for (at, eight) in flags.chunks_exact(8).enumerate() {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(eight);
            let lowest = (u64::from_le_bytes(bytes) >> 7) & 0x0101_0101_0101_0101;
            // Gathers the lowest bits of eight bytes in the highest byte of the product.
            mask |= (lowest.wrapping_mul(0x0102_0408_1020_4080) >> 56) << (8 * at);
        }
        mask
    }

    #[inline(always)]
    fn compress(self, block: &[u8; BLOCK], mut keep: u64) -> [u8; BLOCK] {
        /// Bytes copied at once: what is copied too much is written over by what comes next.
        const STRIDE: usize = 16;
        if keep == u64::MAX {
            return *block;
        }
        let mut padded = [0; BLOCK + STRIDE];
        padded[..BLOCK].copy_from_slice(block);
        let mut compressed = [0; BLOCK + STRIDE];
        let mut length = 0;
        while keep != 0 {
            let start = keep.trailing_zeros() as usize;
            let run = (keep >> start).trailing_ones() as usize;
            let mut at = 0;
            while at < run {
                let stride = &padded[start + at..start + at + STRIDE];
                compressed[length + at..length + at + STRIDE].copy_from_slice(stride);
                at += STRIDE;
            }
            length += run;
            keep &= !lowest((start + run) as u32);
        }
        let mut block = [0; BLOCK];
        block.copy_from_slice(&compressed[..BLOCK]);
        block
    }

    #[inline(always)]
    fn select(self, mut bits: u64, yes: &[u8; BLOCK], no: &[u8; BLOCK]) -> [u8; BLOCK] {
        let mut selected = *no;
        while bits != 0 {
            let at = bits.trailing_zeros() as usize;
            selected[at] = yes[at];
            bits &= bits - 1;
        }
        selected
    }

    #[inline(always)]
    fn extract(self, mut bits: u64, keep: u64) -> u64 {
        let mut extracted = 0;
        bits &= keep;
        while bits != 0 {
            extracted |= 1 << (keep & lowest(bits.trailing_zeros())).count_ones();
            bits &= bits - 1;
        }
        extracted
    }

    #[inline(always)]
    fn push_places(self, mut bits: u64, base: u32, places: &mut Vec<u32>) {
        while bits != 0 {
            places.push(base.wrapping_add(bits.trailing_zeros()));
            bits &= bits - 1;
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::{BLOCK, Isa, Work};
    use std::arch::x86_64::{
        _mm_loadu_epi8, _mm512_add_epi32, _mm512_cvtepu8_epi32, _mm512_loadu_epi8,
        _mm512_mask_blend_epi8, _mm512_maskz_compress_epi8, _mm512_movepi8_mask, _mm512_set1_epi32,
        _mm512_storeu_epi8, _mm512_storeu_epi32, _pext_u64,
    };
    use std::sync::LazyLock;

    /// What machines with AVX-512 and VBMI2 have.
    #[derive(Clone, Copy)]
    pub(super) struct Avx512(());

    pub(super) fn is_here() -> bool {
        static IS_HERE: LazyLock<bool> = LazyLock::new(|| {
            is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vbmi2")
                && is_x86_feature_detected!("bmi1")
                && is_x86_feature_detected!("bmi2")
                && is_x86_feature_detected!("lzcnt")
                && is_x86_feature_detected!("popcnt")
        });
        *IS_HERE
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
    pub(super) fn run<W: Work>(work: W) -> W::Output {
        work.run(Avx512(()))
    }

    impl Isa for Avx512 {
        #[inline(always)]
        fn gather(self, flags: &[u8; BLOCK]) -> u64 {
            // SAFETY: `Avx512` exists only where the instructions do.
            unsafe { _mm512_movepi8_mask(_mm512_loadu_epi8(flags.as_ptr().cast())) }
        }

        #[inline(always)]
        fn compress(self, block: &[u8; BLOCK], keep: u64) -> [u8; BLOCK] {
            let mut compressed = [0; BLOCK];
            // SAFETY: as above; both are of 64 bytes.
            unsafe {
                let block = _mm512_loadu_epi8(block.as_ptr().cast());
                let kept = _mm512_maskz_compress_epi8(keep, block);
                _mm512_storeu_epi8(compressed.as_mut_ptr().cast(), kept);
            }
            compressed
        }

        #[inline(always)]
        fn select(self, bits: u64, yes: &[u8; BLOCK], no: &[u8; BLOCK]) -> [u8; BLOCK] {
            let mut selected = [0; BLOCK];
            // SAFETY: as above; all are of 64 bytes.
            unsafe {
                let yes = _mm512_loadu_epi8(yes.as_ptr().cast());
                let no = _mm512_loadu_epi8(no.as_ptr().cast());
                let either = _mm512_mask_blend_epi8(bits, no, yes);
                _mm512_storeu_epi8(selected.as_mut_ptr().cast(), either);
            }
            selected
        }

        #[inline(always)]
        fn extract(self, bits: u64, keep: u64) -> u64 {
            // SAFETY: as above.
            unsafe { _pext_u64(bits, keep) }
        }

        #[inline(always)]
        fn push_places(self, bits: u64, base: u32, places: &mut Vec<u32>) {
            const COUNT: [u8; BLOCK] = {
                let mut count = [0; BLOCK];
                let mut at = 0;
                while at < BLOCK {
                    count[at] = at as u8;
                    at += 1;
                }
                count
            };
            let length = places.len() + bits.count_ones() as usize;
            let found = self.compress(&COUNT, bits);
            for sixteen in found.chunks_exact(16).take(bits.count_ones().div_ceil(16) as usize) {
                let mut sum = [0_u32; 16];
                // SAFETY: as above; sixteen bytes become sixteen numbers.
                unsafe {
                    let wide = _mm512_cvtepu8_epi32(_mm_loadu_epi8(sixteen.as_ptr().cast()));
                    let base = _mm512_set1_epi32(base.cast_signed());
                    _mm512_storeu_epi32(sum.as_mut_ptr().cast(), _mm512_add_epi32(wide, base));
                }
                places.extend_from_slice(&sum);
            }
            places.truncate(length);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Everything([u8; BLOCK], u64, u64);

    impl Work for Everything {
        type Output = (u64, Vec<u8>, u64, Vec<u32>, [u8; BLOCK]);

        #[inline(always)]
        fn run<I: Isa>(self, isa: I) -> Self::Output {
            let Self(block, keep, bits) = self;
            let (mut kept, mut places) = (vec![b'<'], vec![7]);
            isa.append(&block, keep, &mut kept);
            isa.push_places(bits, 100, &mut places);
            (
                isa.mask(&block, |byte| byte > 99),
                kept,
                isa.extract(bits, keep),
                places,
                isa.select(bits, &block, &[b'-'; BLOCK]),
            )
        }
    }

    proptest! {
        #[test]
        fn every_instruction_set_does_the_same(
            bytes in prop::collection::vec(any::<u8>(), BLOCK),
            keep: u64,
            bits: u64,
            sparse: u64,
        ) {
            for (keep, bits) in [(keep, bits), (u64::MAX, bits), (0, 0), (keep & sparse, keep & bits & sparse)] {
                let block = block(&bytes, 0);
                let of = |mask: u64| (0..BLOCK).filter(move |bit| mask >> bit & 1 == 1);
                let larger: u64 = of(u64::MAX).filter(|&at| bytes[at] > 99).map(|at| 1 << at).sum();
                let mut kept = vec![b'<'];
                kept.extend(of(keep).map(|at| bytes[at]));
                let extracted: u64 =
                    of(keep).enumerate().filter(|(_, at)| bits >> at & 1 == 1).map(|(to, _)| 1 << to).sum();
                let mut places = vec![7];
                places.extend(of(bits).map(|at| 100 + at as u32));
                let mut selected = [b'-'; BLOCK];
                of(bits).for_each(|at| selected[at] = bytes[at]);
                let expected = (larger, kept, extracted, places, selected);
                prop_assert_eq!(&Everything(block, keep, bits).run(Portable), &expected);
                prop_assert_eq!(&run(Everything(block, keep, bits)), &expected);
            }
        }
    }

    #[test]
    fn the_first_of_many_is_found() {
        for length in 0..300 {
            let mut bytes = vec![b'a'; length];
            assert_eq!(find(&bytes, b'x'), None);
            for at in (0..length).rev() {
                bytes[at] = b'x';
                assert_eq!(find(&bytes, b'x'), Some(at));
            }
        }
    }

    #[test]
    fn a_short_block_is_filled_up() {
        assert_eq!(block(b"ab", b' ')[..4], *b"ab  ");
        assert_eq!((lowest(0), lowest(3), lowest(64)), (0, 7, u64::MAX));
    }
}
