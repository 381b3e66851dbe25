//! Error numbers by name: containers-common writes `"errno": "ENOSYS"` where Docker writes 38.

use super::table::ERRNOS;

/// Operation not permitted: what a refused call answers unless its profile says otherwise.
pub(super) const EPERM: u16 = 1;
/// Function not implemented: makes a libc fall back to an older call.
pub(super) const ENOSYS: u16 = 38;
/// The kernel caps a filter's errno here.
pub(super) const MAX: u16 = 4095;

/// The number of a name such as `EPERM`.
pub(super) fn number(name: &str) -> Option<u16> {
    let at = ERRNOS.binary_search_by(|row| row.0.cmp(name)).ok()?;
    ERRNOS.get(at).map(|row| row.1)
}

/// A name of a number; where two share it (EAGAIN, EWOULDBLOCK), the first in the alphabet.
pub(super) fn name(number: u16) -> Option<&'static str> {
    ERRNOS.iter().find(|row| row.1 == number).map(|row| row.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        assert!(ERRNOS.windows(2).all(|w| w[0].0 < w[1].0));
        assert_eq!(number("EPERM"), Some(EPERM));
        assert_eq!(number("ENOSYS"), Some(ENOSYS));
        assert_eq!(number("eperm"), None);
        assert_eq!(name(13), Some("EACCES"));
    }
}
