//! A zstd stream of any number of frames. What engines call zstd:chunked has one for every file and, between them, frames
//! that are to be skipped; a decoder of one frame would take the first file for the whole layer.

use std::io::{self, BufRead, Read};

use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// The stream, unpacked.
pub(super) struct Frames<R> {
    packed: R,
    decoder: FrameDecoder,
    within: bool,
}

impl<R: BufRead> Frames<R> {
    pub(super) fn new(packed: R) -> Self {
        Self { packed, decoder: FrameDecoder::new(), within: false }
    }

    /// Comes to the next frame that holds something; `false` at the end of the stream.
    fn next_frame(&mut self) -> io::Result<bool> {
        while !self.packed.fill_buf()?.is_empty() {
            match self.decoder.init(&mut self.packed) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => self.skip(length.into())?,
                Err(error) => return Err(no_zstd(&error)),
            }
        }
        Ok(false)
    }

    fn skip(&mut self, length: u64) -> io::Result<()> {
        let skipped = io::copy(&mut (&mut self.packed).take(length), &mut io::sink())?;
        if skipped == length { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    fn unpack(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.decoder.can_collect() < buffer.len() && !self.decoder.is_finished() {
            let missing = buffer.len() - self.decoder.can_collect();
            self.decoder
                .decode_blocks(&mut self.packed, BlockDecodingStrategy::UptoBytes(missing))
                .map_err(|error| no_zstd(&error))?;
        }
        self.decoder.read(buffer)
    }
}

fn no_zstd(error: &FrameDecoderError) -> io::Error {
    io::Error::other(format!("it is no zstd stream: {error}"))
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.within {
                self.within = self.next_frame()?;
            }
            if !self.within || buffer.is_empty() {
                return Ok(0);
            }
            match self.unpack(buffer)? {
                0 => self.within = false,
                got => return Ok(got),
            }
        }
    }
}
