// SPDX-License-Identifier: MIT OR Apache-2.0
//! The bitmaps of the example that is a backend of vfio, whose pages may be larger than those of the CPU, on
//! machines that the tests in a kernel do not have.

#[path = "../examples/kernel/vfio_type1/dirty.rs"]
mod dirty;

use pinned_sgl::iommu::{DirtyBitmap, IovaRange};
use pinned_sgl::{Iova, PageSize};

const P: u64 = 4096;

#[test]
fn larger_pages_are_dirty_where_a_small_one_is() {
    let mut random = fastrand::Rng::with_seed(1);
    for _ in 0..2000 {
        let page = PageSize::new(P << random.u32(0..10)).unwrap();
        let (first, pages) = (random.u64(0..1000), random.u64(1..3000));
        let first =
            if random.bool() { first * P } else { (0u64.wrapping_sub(pages * P)) & !(P - 1) };
        let range = IovaRange::new(Iova::new(first), pages * P).unwrap();
        let mut words = vec![0; DirtyBitmap::words_for(range, PageSize::SIZE_4K) as usize];
        let mut fine = DirtyBitmap::new(&mut words, range, PageSize::SIZE_4K).unwrap();
        let dirty: Vec<u64> = (0..random.u64(0..40)).map(|_| random.u64(0..pages)).collect();
        for page in &dirty {
            fine.set(IovaRange::new(Iova::new(first + page * P), 1).unwrap());
        }
        let mut reported = vec![0; DirtyBitmap::words_for(range, page) as usize];
        let mut coarse = DirtyBitmap::new(&mut reported, range, page).unwrap();
        dirty::coarsen(&words, PageSize::SIZE_4K, &mut coarse);
        for at in (0..pages).map(|index| first + index * P) {
            let same_page = |dirty: &u64| (first + dirty * P) / page.bytes() == at / page.bytes();
            assert_eq!(coarse.is_set(Iova::new(at)), dirty.iter().any(same_page), "{range} {page}");
        }
    }
}

#[test]
fn words_move_up_and_lose_no_bit() {
    let mut random = fastrand::Rng::with_seed(2);
    for shift in (0..64).cycle().take(1000) {
        let words: Vec<u64> = (0..5).map(|_| random.u64(..)).collect();
        let mut carry = 0;
        let mut moved = Vec::new();
        for word in words.iter().chain(&[0]) {
            let (low, high) = dirty::split(*word, shift);
            moved.push(low | carry);
            carry = high;
        }
        assert_eq!(carry, 0);
        let bit = |words: &[u64], bit: usize| words[bit / 64] >> (bit % 64) & 1;
        for at in 0..5 * 64 {
            assert_eq!(bit(&moved, at + shift as usize), bit(&words, at), "{shift} {at}");
        }
        assert_eq!(
            words.iter().map(|word| word.count_ones()).sum::<u32>(),
            moved.iter().map(|word| word.count_ones()).sum::<u32>()
        );
    }
}
