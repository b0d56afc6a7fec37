//! How Q4_K and Q5_K pack eight scales and eight minimums of six bits into 12 bytes.
//!
//! Bytes 0–3 hold scales 0–3 and bytes 4–7 minimums 0–3 in their low six bits. Bytes 8–11 hold the
//! low four bits of scales 4–7 (low half) and of minimums 4–7 (high half), whose high two bits are
//! the top two of bytes 0–3 and of bytes 4–7.

pub(crate) const BYTES: usize = 12;

/// The scales and the minimums.
#[inline(always)]
pub(crate) fn unpack(packed: &[u8; BYTES]) -> ([u8; 8], [u8; 8]) {
    let mut scales = [0; 8];
    let mut minimums = [0; 8];
    for j in 0..4 {
        scales[j] = packed[j] & 63;
        minimums[j] = packed[j + 4] & 63;
        scales[j + 4] = (packed[j + 8] & 0x0f) | ((packed[j] >> 6) << 4);
        minimums[j + 4] = (packed[j + 8] >> 4) | ((packed[j + 4] >> 6) << 4);
    }
    (scales, minimums)
}

/// Packs numbers below 64.
#[inline(always)]
pub(super) fn pack(scales: &[u8; 8], minimums: &[u8; 8]) -> [u8; BYTES] {
    let mut packed = [0; BYTES];
    for j in 0..4 {
        packed[j] = scales[j] | ((scales[j + 4] >> 4) << 6);
        packed[j + 4] = minimums[j] | ((minimums[j + 4] >> 4) << 6);
        packed[j + 8] = (scales[j + 4] & 0x0f) | ((minimums[j + 4] & 0x0f) << 4);
    }
    packed
}

#[cfg(test)]
mod tests {
    #[test]
    fn packing_loses_nothing() {
        for seed in 0..64u8 {
            let scales = std::array::from_fn(|j| (seed + 7 * j as u8) & 63);
            let minimums = std::array::from_fn(|j| (seed ^ (11 * j as u8)) & 63);
            assert_eq!(super::unpack(&super::pack(&scales, &minimums)), (scales, minimums));
        }
    }
}
