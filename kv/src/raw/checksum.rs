//! A checksum over many pairs that does not depend on their order: CRC-64/XZ of each pair, combined
//! by exclusive or.

/// The reflected ECMA-182 polynomial.
const POLYNOMIAL: u64 = 0xc96c_5795_d787_0f42;

const TABLE: [u64; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u64;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ POLYNOMIAL } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

/// CRC-64/XZ of these parts, one behind the other.
pub fn crc64(parts: [&[u8]; 2]) -> u64 {
    let next = |crc: u64, byte: &u8| TABLE[usize::from(crc as u8 ^ byte)] ^ (crc >> 8);
    !parts.into_iter().flatten().fold(!0, next)
}

/// What a range of pairs sums up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checksum {
    /// All pairs' CRCs combined.
    pub checksum: u64,
    /// How many pairs there are.
    pub pairs: u64,
    /// Bytes of keys and values, as the user gave them.
    pub bytes: u64,
}

impl Checksum {
    /// Adds one pair.
    pub fn add(&mut self, key: &[u8], value: &[u8]) {
        self.checksum ^= crc64([key, value]);
        self.pairs += 1;
        self.bytes += (key.len() + value.len()) as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_check_value() {
        assert_eq!(crc64([b"1234", b"56789"]), 0x995d_c9bb_df19_39fa);
    }

    #[test]
    fn the_order_of_pairs_does_not_matter() {
        let (mut a, mut b) = (Checksum::default(), Checksum::default());
        a.add(b"k1", b"v1");
        a.add(b"k2", b"v2");
        b.add(b"k2", b"v2");
        b.add(b"k1", b"v1");
        assert_eq!(a, b);
        assert_eq!((a.pairs, a.bytes), (2, 8));
    }
}
