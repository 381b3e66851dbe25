//! Counting a stream: who may send how much, and who has how much in hand.

use crate::{Nonsense, PIECE, WINDOW};

/// The sending end of a stream.
#[derive(Debug)]
pub struct Source {
    on_the_way: usize,
}

impl Default for Source {
    fn default() -> Self {
        Self::new()
    }
}

impl Source {
    /// Nothing is on its way.
    #[must_use]
    pub const fn new() -> Self {
        Self { on_the_way: 0 }
    }

    /// How many bytes may go into a frame now.
    #[must_use]
    pub fn room(&self) -> usize {
        WINDOW.saturating_sub(self.on_the_way).min(PIECE)
    }

    /// So many have been sent.
    pub fn sent(&mut self, count: usize) {
        self.on_the_way = self.on_the_way.saturating_add(count);
    }

    /// The other side says that it has passed so many on.
    ///
    /// # Errors
    /// More than were sent.
    pub fn taken(&mut self, count: u32) -> Result<(), Nonsense> {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        self.on_the_way = self
            .on_the_way
            .checked_sub(count)
            .ok_or_else(|| Nonsense("more bytes are said to be taken than were sent".to_owned()))?;
        Ok(())
    }
}

/// The receiving end: what has come and has not been passed on.
#[derive(Debug, Default)]
pub struct Sink {
    bytes: Vec<u8>,
    /// How many at the front have been passed on.
    at: usize,
    /// How many were passed on and not yet said to be.
    owed: usize,
    /// What comes is dropped: nobody wants it any more.
    closed: bool,
}

impl Sink {
    /// Takes what came.
    ///
    /// # Errors
    /// More than the other side may have on its way.
    pub fn accept(&mut self, bytes: &[u8]) -> Result<(), Nonsense> {
        if self.closed {
            self.owed = self.owed.saturating_add(bytes.len());
            return Ok(());
        }
        if self.waiting().len().saturating_add(self.owed).saturating_add(bytes.len()) > WINDOW {
            return Err(Nonsense("more bytes of a stream than its window".to_owned()));
        }
        if self.at > PIECE {
            self.bytes.drain(..self.at);
            self.at = 0;
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// What waits to be passed on.
    #[must_use]
    pub fn waiting(&self) -> &[u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    /// So many have been passed on.
    pub fn passed(&mut self, count: usize) {
        self.at = self.at.saturating_add(count).min(self.bytes.len());
        self.owed = self.owed.saturating_add(count);
        if self.at == self.bytes.len() {
            self.bytes.clear();
            self.at = 0;
        }
    }

    /// Nobody wants what comes any more; it is still counted, or the other side would stop.
    pub fn close(&mut self) {
        let waiting = self.waiting().len();
        self.passed(waiting);
        self.closed = true;
    }

    /// Whether nobody wants what comes.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        self.closed
    }

    /// How many to say are taken, if it is time to say so.
    pub fn owes(&mut self) -> Option<u32> {
        let due = self.owed >= PIECE || (self.owed > 0 && self.waiting().is_empty());
        due.then(|| u32::try_from(std::mem::take(&mut self.owed)).unwrap_or(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_holds_more_than_a_window() {
        let (mut source, mut sink) = (Source::new(), Sink::default());
        let mut sent = 0;
        while source.room() > 0 {
            let piece = vec![1; source.room()];
            sink.accept(&piece).expect("within the window");
            source.sent(piece.len());
            sent += piece.len();
        }
        assert_eq!(sent, WINDOW);
        assert!(sink.accept(&[1]).is_err(), "one byte more is too many");
        assert_eq!(sink.owes(), None, "nothing was passed on");
        sink.passed(WINDOW);
        let taken = sink.owes().expect("owed");
        source.taken(taken).expect("what was sent");
        assert_eq!(source.room(), PIECE);
        assert!(source.taken(1).is_err(), "more than was sent");
    }

    #[test]
    fn a_closed_sink_keeps_the_stream_going() {
        let mut sink = Sink::default();
        sink.accept(&[1; 10]).expect("taken");
        sink.close();
        assert!(sink.waiting().is_empty());
        for _ in 0..100 {
            sink.accept(&[1; PIECE]).expect("dropped");
            assert!(sink.owes().is_some());
        }
    }
}
