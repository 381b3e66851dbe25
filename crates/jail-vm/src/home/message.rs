//! Requests and answers as linux/fuse.h lays them out, version 7.31.

use rustix::fs::Stat;
use rustix::io::Errno;

/// Bytes before the body of a request.
pub(super) const HEAD: usize = 40;
/// The version that is spoken; a newer kernel speaks it too.
pub(super) const MAJOR: u32 = 7;
pub(super) const MINOR: u32 = 31;

/// A request, cut into its parts.
pub(super) struct Request<'a> {
    pub(super) operation: u32,
    pub(super) unique: u64,
    pub(super) node: u64,
    pub(super) body: Body<'a>,
}

impl<'a> Request<'a> {
    /// Reads the head. `None`: no request at all.
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut head = Body(bytes);
        let length = head.u32().ok()?;
        if usize::try_from(length) != Ok(bytes.len()) {
            return None;
        }
        let (operation, unique, node) = (head.u32().ok()?, head.u64().ok()?, head.u64().ok()?);
        // uid, gid and pid are the guest's word, and nothing depends on them: this process is the user, whoever asks.
        head.skip(16).ok()?;
        Some(Self { operation, unique, node, body: head })
    }
}

/// What is left of a request.
#[derive(Clone, Copy)]
pub(super) struct Body<'a>(&'a [u8]);

type Result<T> = std::result::Result<T, Errno>;

impl<'a> Body<'a> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk::<N>().ok_or(Errno::INVAL)?;
        self.0 = rest;
        Ok(*array)
    }

    pub(super) fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn skip(&mut self, count: usize) -> Result<()> {
        self.0 = self.0.get(count..).ok_or(Errno::INVAL)?;
        Ok(())
    }

    /// Bytes up to a zero.
    pub(super) fn text(&mut self) -> Result<&'a [u8]> {
        let end = self.0.iter().position(|b| *b == 0).ok_or(Errno::INVAL)?;
        let (text, rest) = self.0.split_at(end);
        self.0 = rest.get(1..).unwrap_or_default();
        Ok(text)
    }

    /// One name in a directory: never a path, never the directory itself or the one above.
    pub(super) fn name(&mut self) -> Result<&'a [u8]> {
        match self.text()? {
            b"" | b"." | b".." => Err(Errno::INVAL),
            name if name.contains(&b'/') => Err(Errno::INVAL),
            name if name.len() > 255 => Err(Errno::NAMETOOLONG),
            name => Ok(name),
        }
    }

    /// Exactly so many bytes of data.
    pub(super) fn data(&mut self, length: u32) -> Result<&'a [u8]> {
        let length = usize::try_from(length).map_err(|_| Errno::INVAL)?;
        let (data, rest) = self.0.split_at_checked(length).ok_or(Errno::INVAL)?;
        self.0 = rest;
        Ok(data)
    }
}

/// An answer under construction.
#[derive(Default)]
pub(super) struct Answer(pub(super) Vec<u8>);

impl Answer {
    pub(super) fn u16(&mut self, number: u16) -> &mut Self {
        self.0.extend_from_slice(&number.to_le_bytes());
        self
    }

    pub(super) fn u32(&mut self, number: u32) -> &mut Self {
        self.0.extend_from_slice(&number.to_le_bytes());
        self
    }

    pub(super) fn u64(&mut self, number: u64) -> &mut Self {
        self.0.extend_from_slice(&number.to_le_bytes());
        self
    }

    pub(super) fn zeros(&mut self, count: usize) -> &mut Self {
        self.0.resize(self.0.len().saturating_add(count), 0);
        self
    }

    /// How long the guest may believe something: another login, or the host, may change the home too.
    const BELIEVED_SECONDS: u64 = 1;

    /// `struct fuse_entry_out`.
    pub(super) fn entry(&mut self, node: u64, stat: &Stat) -> &mut Self {
        self.u64(node).u64(0).u64(Self::BELIEVED_SECONDS).u64(Self::BELIEVED_SECONDS).u32(0).u32(0).stat(stat)
    }

    /// `struct fuse_attr_out`.
    pub(super) fn attributes(&mut self, stat: &Stat) -> &mut Self {
        self.u64(Self::BELIEVED_SECONDS).u32(0).u32(0).stat(stat)
    }

    /// `struct fuse_attr`.
    fn stat(&mut self, stat: &Stat) -> &mut Self {
        let short = |number: u64| u32::try_from(number).unwrap_or(0);
        self.u64(stat.st_ino).u64(stat.st_size as u64).u64(stat.st_blocks as u64);
        self.u64(stat.st_atime as u64).u64(stat.st_mtime as u64).u64(stat.st_ctime as u64);
        self.u32(short(stat.st_atime_nsec)).u32(short(stat.st_mtime_nsec)).u32(short(stat.st_ctime_nsec));
        self.u32(stat.st_mode).u32(short(stat.st_nlink)).u32(stat.st_uid).u32(stat.st_gid);
        self.u32(short(stat.st_rdev)).u32(4096).u32(0)
    }

    /// With its head: `struct fuse_out_header`.
    pub(super) fn finish(unique: u64, result: Result<Self>) -> Vec<u8> {
        let (error, body) = match result {
            Ok(answer) => (0, answer.0),
            Err(errno) => (errno.raw_os_error().saturating_neg(), Vec::new()),
        };
        let length = u32::try_from(body.len().saturating_add(16)).unwrap_or(u32::MAX);
        let mut out = Vec::with_capacity(body.len().saturating_add(16));
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&error.to_le_bytes());
        out.extend_from_slice(&unique.to_le_bytes());
        out.extend_from_slice(&body);
        out
    }
}
