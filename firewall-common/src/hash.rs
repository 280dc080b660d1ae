//! The keyed hash of all tables that strangers fill.

/// Random words that a hash of `WORDS` words takes: one for each, two to finish.
pub const fn seed_words(words: usize) -> usize {
    words + 2
}

/// The NH hash of UMAC (RFC 4418, 5.2.2): the sum of products of 32-bit halves, each added to a secret one. For any two keys the
/// chance that the secret makes them equal is 2^-32, whoever chose them. A multiplication by a secret odd number and shifts then
/// bring every bit of the sum into both halves of the result. `seed` has [`seed_words`] of `words`.
#[inline(always)]
pub fn keyed<const WORDS: usize, const SEED: usize>(
    words: [u64; WORDS],
    seed: &[u64; SEED],
) -> u64 {
    const { assert!(SEED == seed_words(WORDS)) }
    let mut sum = seed[SEED - 2];
    for (word, secret) in words.into_iter().zip(seed) {
        let low = (word as u32).wrapping_add(*secret as u32);
        let high = ((word >> 32) as u32).wrapping_add((*secret >> 32) as u32);
        sum = sum.wrapping_add(u64::from(low).wrapping_mul(u64::from(high)));
    }
    sum ^= sum >> 32;
    sum = sum.wrapping_mul(seed[SEED - 1] | 1);
    sum ^= sum >> 29;
    // The second constant of MurmurHash3's finaliser.
    sum = sum.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    sum ^ sum >> 32
}
