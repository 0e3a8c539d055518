// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Fragmentation`]: the order in which free frames are handed out, and so what the runs of pinned
//! memory look like.
//!
//! ```text
//!  None        0 1 2 3 4 5 6 7      one run
//!  Reverse     7 6 5 4 3 2 1 0      descending neighbours: they never merge
//!  Alternate   0 2 4 6 1 3 5 7      no frame has a neighbour
//!  Seeded      5 0 3 6 1 7 2 4      as after a long uptime
//! ```
#![forbid(unsafe_code)]

/// The order in which the free frames of a zone are handed out.
///
/// It applies to folios of any size: the second folio of order 9 lies behind the first one, before
/// it, or anywhere. Frames that were given back come last, when all others were handed out once: a
/// device that still writes to one of them is found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Fragmentation {
    /// Ascending: what is allocated in a row is contiguous.
    #[default]
    None,
    /// In an order that looks random and depends on nothing but the seed.
    Seeded {
        /// Any number; another one makes another order.
        seed: u64,
        /// Runs of `2^run_order` frames stay together; with 0 every frame is on its own.
        run_order: u32,
    },
    /// Every other one, then those between them.
    Alternate,
    /// Descending.
    Reverse,
}

/// A larger shift would leave nothing of any number of frames.
const MAX_ORDER: u32 = 40;

impl Fragmentation {
    /// How many places there are to look at, for `blocks` blocks of `2^order` frames.
    pub(super) fn places(self, blocks: u64, order: u32) -> u64 {
        match self {
            Self::Seeded { run_order, .. } => {
                let together = together(run_order, order);
                groups(blocks, together).checked_shl(together).unwrap_or(blocks)
            }
            _ => blocks,
        }
    }

    /// The block at one of these places; a few places are empty. Each block has exactly one place.
    pub(super) fn block(self, place: u64, blocks: u64, order: u32) -> Option<u64> {
        let last = blocks.checked_sub(1)?;
        let block = match self {
            Self::None => place,
            Self::Reverse => last.checked_sub(place)?,
            Self::Alternate => {
                let even = (last >> 1).saturating_add(1);
                match place.checked_sub(even) {
                    None => place << 1,
                    Some(odd) => (odd << 1).saturating_add(1),
                }
            }
            Self::Seeded { seed, run_order } => {
                let together = together(run_order, order);
                let group = shuffled(place >> together, groups(blocks, together), seed);
                (group << together) | place & mask(together)
            }
        };
        (block <= last).then_some(block)
    }
}

/// The binary logarithm of the number of blocks that stay together.
fn together(run_order: u32, order: u32) -> u32 {
    run_order.min(MAX_ORDER).saturating_sub(order)
}

fn groups(blocks: u64, together: u32) -> u64 {
    blocks.saturating_add(mask(together)) >> together
}

const fn mask(bits: u32) -> u64 {
    (1 << bits) - 1
}

/// Where `number`, below `count`, goes in a shuffle of all the numbers below `count`.
fn shuffled(number: u64, count: u64, seed: u64) -> u64 {
    let bits = 64u32.saturating_sub(count.saturating_sub(1).leading_zeros()).max(1);
    let half = (bits >> 1).max(1);
    let mask = mask(bits.min(63));
    let keys = [0, 1, 2].map(|index| split_mix(seed.wrapping_add(index)));
    let mut number = number & mask;
    // Each step can be undone, so the numbers of so many bits are shuffled. A number that lands
    // beyond the count is shuffled again; it must come back, for it came from below the count.
    loop {
        for key in keys {
            number = number.wrapping_add(key >> 32) & mask;
            number ^= number >> half;
            number = number.wrapping_mul(key | 1) & mask;
            number ^= number >> half;
        }
        if number < count {
            return number;
        }
    }
}

/// One step of SplitMix64.
fn split_mix(seed: u64) -> u64 {
    let z = seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn order(pattern: Fragmentation, blocks: u64, order: u32) -> Vec<u64> {
        let places = pattern.places(blocks, order);
        (0..places).filter_map(|place| pattern.block(place, blocks, order)).collect()
    }

    #[test]
    fn patterns() {
        assert_eq!(order(Fragmentation::None, 4, 0), [0, 1, 2, 3]);
        assert_eq!(order(Fragmentation::Reverse, 4, 3), [3, 2, 1, 0]);
        assert_eq!(order(Fragmentation::Alternate, 5, 0), [0, 2, 4, 1, 3]);
    }

    #[test]
    fn every_block_is_handed_out_once() {
        for blocks in 0..70 {
            for seed in 0..5 {
                for run_order in [0, 1, 3] {
                    for pattern in [
                        Fragmentation::Seeded { seed, run_order },
                        Fragmentation::Alternate,
                        Fragmentation::Reverse,
                    ] {
                        let mut seen = order(pattern, blocks, 1);
                        seen.sort_unstable();
                        assert!(seen.iter().copied().eq(0..blocks), "{pattern:?} {blocks}");
                    }
                }
            }
        }
    }

    #[test]
    fn seeded_is_scattered_and_keeps_runs() {
        let neighbours = |seen: &[u64]| seen.windows(2).filter(|w| w[1] == w[0] + 1).count();
        let scattered = order(Fragmentation::Seeded { seed: 1, run_order: 0 }, 4096, 0);
        assert!(neighbours(&scattered) < 40, "{}", neighbours(&scattered));
        let runs = order(Fragmentation::Seeded { seed: 1, run_order: 3 }, 4096, 0);
        assert!((3584..3700).contains(&neighbours(&runs)), "{}", neighbours(&runs));
    }
}
