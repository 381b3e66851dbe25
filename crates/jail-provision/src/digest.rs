//! Digests, as text of 64 hexadecimal digits: SHA-256 for names and images, BLAKE3 for the content of files.
//!
//! A jail's files are digested while they are copied, and a third of a provisioning was SHA-256; BLAKE3 is as hard to
//! deceive and takes a quarter to two fifths of the time (docs/decisions/0004). Manifests of before keep their SHA-256 until a file is
//! written anew.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use crate::manifest::Text;

/// The SHA-256 of some bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Digests these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Reads 64 hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return None;
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
        }
        Some(Self(bytes))
    }
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0u8; 64];
        for (pair, byte) in text.chunks_exact_mut(2).zip(self.0) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        f.write_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Text { read: Self::parse, what: "64 hexadecimal digits" })
    }
}

/// What tells one content of a file from every other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fingerprint {
    /// BLAKE3: what is made now.
    Blake3([u8; 32]),
    /// SHA-256: in manifests of before.
    Sha256(Digest),
}

const BLAKE3: &str = "blake3:";

impl Fingerprint {
    /// The fingerprint of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self::Blake3(blake3::hash(bytes).into())
    }

    /// Whether it is that of these bytes.
    #[must_use]
    pub fn is_of(self, bytes: &[u8]) -> bool {
        let mut taking = Taking::like(self);
        taking.update(bytes);
        taking.finish() == self
    }

    /// Reads what [`fmt::Display`] writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text.strip_prefix(BLAKE3) {
            Some(digits) => Digest::parse(digits).map(|digest| Self::Blake3(digest.0)),
            None => Digest::parse(text).map(Self::Sha256),
        }
    }

    /// The name that bills of materials give the algorithm, and the digits.
    #[must_use]
    pub fn named(self) -> (&'static str, Digest) {
        match self {
            Self::Blake3(bytes) => ("BLAKE3", Digest(bytes)),
            Self::Sha256(digest) => ("SHA-256", digest),
        }
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blake3(bytes) => write!(f, "{BLAKE3}{}", Digest(*bytes)),
            Self::Sha256(digest) => digest.fmt(f),
        }
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Fingerprint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Fingerprint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let what = "64 hexadecimal digits, after 'blake3:' or alone";
        deserializer.deserialize_str(Text { read: Self::parse, what })
    }
}

/// A fingerprint being taken, piece by piece.
pub enum Taking {
    /// BLAKE3.
    Blake3(Box<blake3::Hasher>),
    /// SHA-256, to compare with one of before.
    Sha256(Sha256),
}

impl Taking {
    /// Of a new content.
    #[must_use]
    pub fn new() -> Self {
        Self::Blake3(Box::default())
    }

    /// To compare with this one.
    #[must_use]
    pub fn like(known: Fingerprint) -> Self {
        match known {
            Fingerprint::Blake3(_) => Self::new(),
            Fingerprint::Sha256(_) => Self::Sha256(Sha256::new()),
        }
    }

    /// The next piece.
    pub fn update(&mut self, piece: &[u8]) {
        match self {
            Self::Blake3(hash) => drop(hash.update(piece)),
            Self::Sha256(hash) => hash.update(piece),
        }
    }

    /// The fingerprint of all pieces.
    #[must_use]
    pub fn finish(self) -> Fingerprint {
        match self {
            Self::Blake3(hash) => Fingerprint::Blake3(hash.finalize().into()),
            Self::Sha256(hash) => Fingerprint::Sha256(Digest(hash.finalize().into())),
        }
    }
}

impl Default for Taking {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_answer_and_back() {
        let digest = Digest::of(b"abc");
        let text = digest.to_string();
        assert_eq!(text, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(Digest::parse(&text), Some(digest));
        assert_eq!(Digest::parse(&text.to_uppercase()), None);
        assert_eq!(Digest::parse("ab"), None);
    }

    #[test]
    fn a_fingerprint_of_now_and_one_of_before() {
        let now = Fingerprint::of(b"abc");
        let text = now.to_string();
        assert_eq!(text, "blake3:6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85");
        assert_eq!(Fingerprint::parse(&text), Some(now));
        let before = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let before = Fingerprint::parse(before).expect("read");
        assert_eq!(before, Fingerprint::Sha256(Digest::of(b"abc")));
        for known in [now, before] {
            assert!(known.is_of(b"abc") && !known.is_of(b"abd"));
            let mut taking = Taking::like(known);
            taking.update(b"a");
            taking.update(b"bc");
            assert_eq!(taking.finish(), known);
        }
        assert_eq!(Fingerprint::parse("blake3:ab"), None);
    }
}
