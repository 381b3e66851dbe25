//! A writer that digests what passes through it, on a second processor: reading and writing need not wait for SHA-256.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use jail_provision::digest::Digest;
use sha2::{Digest as _, Sha256};

/// Written and digested in pieces of this size.
const PIECE: usize = 256 << 10;
/// As many pieces may wait for the digest.
const WAITING: usize = 4;

/// What passed through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sum {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

/// The writer.
pub(crate) struct Digesting<W: Write> {
    inner: W,
    piece: Vec<u8>,
    size: u64,
    worker: Worker,
}

struct Worker {
    full: SyncSender<Vec<u8>>,
    empty: Receiver<Vec<u8>>,
    thread: JoinHandle<Digest>,
}

impl Worker {
    fn start() -> io::Result<Self> {
        let (full, pieces) = sync_channel::<Vec<u8>>(WAITING);
        let (done, empty) = sync_channel::<Vec<u8>>(WAITING + 2);
        let work = move || {
            let mut hash = Sha256::new();
            while let Ok(mut piece) = pieces.recv() {
                hash.update(&piece);
                piece.clear();
                // Nobody takes it back once the writer is done; then it is simply freed.
                done.try_send(piece).unwrap_or_default();
            }
            Digest(hash.finalize().into())
        };
        let thread = std::thread::Builder::new().name("digest".to_owned()).spawn(work)?;
        Ok(Self { full, empty, thread })
    }
}

impl<W: Write> Digesting<W> {
    /// # Errors
    /// No thread can be started.
    pub(crate) fn new(inner: W) -> io::Result<Self> {
        Ok(Self { inner, piece: Vec::with_capacity(PIECE), size: 0, worker: Worker::start()? })
    }

    /// The end: the writer below, and what passed through.
    ///
    /// # Errors
    /// The last piece cannot be written.
    pub(crate) fn finish(mut self) -> io::Result<(W, Sum)> {
        self.pass_on()?;
        let Worker { full, thread, .. } = self.worker;
        drop(full);
        let digest = thread.join().map_err(|_| io::Error::other("the digest's thread died"))?;
        Ok((self.inner, Sum { digest, size: self.size }))
    }

    fn pass_on(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        self.inner.write_all(&self.piece)?;
        self.size += self.piece.len() as u64;
        let fresh = self.worker.empty.try_recv().unwrap_or_else(|_| Vec::with_capacity(PIECE));
        let full = std::mem::replace(&mut self.piece, fresh);
        self.worker.full.send(full).map_err(|_| io::Error::other("the digest's thread died"))
    }
}

impl<W: Write> Write for Digesting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..taken]);
        if self.piece.len() == PIECE {
            self.pass_on()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.pass_on()?;
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_and_the_digest_is_right() {
        let bytes: Vec<u8> = (0..PIECE * 7 + 13).map(|n| (n % 251) as u8).collect();
        let mut writer = Digesting::new(Vec::new()).expect("starts");
        for part in bytes.chunks(9_001) {
            writer.write_all(part).expect("written");
        }
        let (written, sum) = writer.finish().expect("ends");
        assert!(written == bytes);
        assert_eq!(sum, Sum { digest: Digest::of(&bytes), size: bytes.len() as u64 });
    }
}
