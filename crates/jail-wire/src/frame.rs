//! Frames: finding where one ends.

use crate::Nonsense;

/// No frame from a guest is longer.
pub const LONGEST_FROM_GUEST: usize = 64 << 10;
/// No frame from the host is longer: an argument list at its longest, with some room.
pub const LONGEST_FROM_HOST: usize = 4 << 20;

const HEAD: usize = 5;

/// Cuts a stream of bytes into frames.
#[derive(Debug)]
pub struct Decoder {
    longest: usize,
    bytes: Vec<u8>,
    /// How many bytes at the front belong to frames that were handed out.
    used: usize,
}

impl Decoder {
    /// For a side that may send frames of this length.
    #[must_use]
    pub const fn new(longest: usize) -> Self {
        Self { longest, bytes: Vec::new(), used: 0 }
    }

    /// Takes what was read.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.used > 0 {
            self.bytes.drain(..self.used);
            self.used = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole frame: its kind and payload.
    ///
    /// # Errors
    /// A length beyond what the other side may send; as soon as it is read, before a byte more is kept.
    pub fn next_frame(&mut self) -> Result<Option<(u8, &[u8])>, Nonsense> {
        let rest = self.bytes.get(self.used..).unwrap_or_default();
        let Some((head, rest)) = rest.split_first_chunk::<HEAD>() else { return Ok(None) };
        let [kind, length @ ..] = *head;
        let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
        if length > self.longest {
            return Err(Nonsense(format!("a frame of {length} bytes, more than {}", self.longest)));
        }
        let Some(payload) = rest.get(..length) else { return Ok(None) };
        self.used = self.used.saturating_add(HEAD).saturating_add(length);
        Ok(Some((kind, payload)))
    }

    /// How many bytes are held.
    #[must_use]
    pub fn held(&self) -> usize {
        self.bytes.len()
    }
}

/// Appends a frame.
pub(crate) fn put(out: &mut Vec<u8>, kind: u8, parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    out.push(kind);
    out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
    for part in parts {
        out.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_as_they_went_in_however_they_are_cut() {
        let mut bytes = Vec::new();
        put(&mut bytes, 7, &[b"ab", b"c"]);
        put(&mut bytes, 8, &[]);
        put(&mut bytes, 9, &[&[0xff; 300]]);
        for piece in [1, 2, 3, 5, 64, 1000] {
            let mut decoder = Decoder::new(300);
            let mut got = Vec::new();
            for part in bytes.chunks(piece) {
                decoder.feed(part);
                while let Some((kind, payload)) = decoder.next_frame().expect("sense") {
                    got.push((kind, payload.to_vec()));
                }
            }
            assert_eq!(got, [(7, b"abc".to_vec()), (8, vec![]), (9, vec![0xff; 300])]);
        }
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_its_bytes_come() {
        let mut decoder = Decoder::new(16);
        decoder.feed(&[1, 17, 0, 0, 0]);
        assert!(decoder.next_frame().is_err());
        let mut decoder = Decoder::new(16);
        decoder.feed(&[1, 0xff, 0xff, 0xff, 0xff]);
        assert!(decoder.next_frame().is_err());
    }
}
