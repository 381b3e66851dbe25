//! The words: what a frame means.

use crate::frame::put;
use crate::spec::{Spec, Window};
use crate::{Nonsense, PIECE};

/// The streams of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard input.
    Input,
    /// Standard output; with a terminal all that is written to it.
    Output,
    /// Standard error.
    Errors,
}

impl Stream {
    const fn number(self) -> u8 {
        match self {
            Self::Input => 0,
            Self::Output => 1,
            Self::Errors => 2,
        }
    }

    fn of(number: u8) -> Result<Self, Nonsense> {
        match number {
            0 => Ok(Self::Input),
            1 => Ok(Self::Output),
            2 => Ok(Self::Errors),
            other => Err(Nonsense(format!("there is no stream {other}"))),
        }
    }
}

/// What the host says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToGuest {
    /// Run this. Said once, first.
    Start(Box<Spec>),
    /// Bytes for standard input.
    Data(Vec<u8>),
    /// Standard input has ended.
    End,
    /// So many bytes of an output have gone on their way.
    Taken(Stream, u32),
    /// Nobody reads this output any more.
    Closed(Stream),
    /// The terminal has another size.
    Resize(Window),
    /// A signal for the command.
    Signal(u8),
}

/// What the guest says. [`ToHost::read`] is what a hostile guest meets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToHost {
    /// The guest is up and speaks this version.
    Hello(u32),
    /// The command's process has been made.
    Started,
    /// Bytes of an output.
    Data(Stream, Vec<u8>),
    /// So many bytes of standard input have reached the command.
    Taken(u32),
    /// The command does not read its input any more.
    Closed,
    /// The command has ended with this status.
    Exit(u8),
    /// The machine could not do as it was told: the reason, for a person.
    Failed(String),
}

fn number(payload: &[u8]) -> Result<u32, Nonsense> {
    <[u8; 4]>::try_from(payload)
        .map(u32::from_le_bytes)
        .map_err(|_| Nonsense("a number is not four bytes long".to_owned()))
}

fn nothing(payload: &[u8]) -> Result<(), Nonsense> {
    if payload.is_empty() { Ok(()) } else { Err(Nonsense("a word without payload has one".to_owned())) }
}

impl ToGuest {
    /// Appends the frame of this.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Start(spec) => put(out, 1, &[&spec.to_bytes()]),
            Self::Data(bytes) => put(out, 2, &[bytes]),
            Self::End => put(out, 3, &[]),
            Self::Taken(stream, count) => put(out, 4, &[&[stream.number()], &count.to_le_bytes()]),
            Self::Closed(stream) => put(out, 5, &[&[stream.number()]]),
            Self::Resize(window) => {
                put(out, 6, &[&window.rows.to_le_bytes(), &window.columns.to_le_bytes()]);
            }
            Self::Signal(signal) => put(out, 7, &[&[*signal]]),
        }
    }

    /// Reads a frame.
    ///
    /// # Errors
    /// A frame that is none of these words.
    pub fn read(kind: u8, payload: &[u8]) -> Result<Self, Nonsense> {
        match (kind, payload) {
            (1, spec) => Spec::from_bytes(spec).map(|spec| Self::Start(Box::new(spec))),
            (2, bytes) => Ok(Self::Data(bytes.to_vec())),
            (3, rest) => nothing(rest).map(|()| Self::End),
            (4, [stream, rest @ ..]) => Ok(Self::Taken(Stream::of(*stream)?, number(rest)?)),
            (5, [stream]) => Stream::of(*stream).map(Self::Closed),
            (6, [r0, r1, c0, c1]) => Ok(Self::Resize(Window {
                rows: u16::from_le_bytes([*r0, *r1]),
                columns: u16::from_le_bytes([*c0, *c1]),
            })),
            (7, [signal]) => Ok(Self::Signal(*signal)),
            (kind, payload) => Err(Nonsense(format!("no word {kind} with {} bytes", payload.len()))),
        }
    }
}

impl ToHost {
    /// Appends the frame of this.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Hello(version) => put(out, 65, &[&version.to_le_bytes()]),
            Self::Started => put(out, 66, &[]),
            Self::Data(stream, bytes) => put(out, 67, &[&[stream.number()], bytes]),
            Self::Taken(count) => put(out, 68, &[&count.to_le_bytes()]),
            Self::Closed => put(out, 69, &[]),
            Self::Exit(status) => put(out, 70, &[&[*status]]),
            Self::Failed(why) => put(out, 71, &[why.as_bytes()]),
        }
    }

    /// Reads a frame of a guest that may be hostile.
    ///
    /// # Errors
    /// A frame that is none of these words.
    pub fn read(kind: u8, payload: &[u8]) -> Result<Self, Nonsense> {
        match (kind, payload) {
            (65, rest) => number(rest).map(Self::Hello),
            (66, rest) => nothing(rest).map(|()| Self::Started),
            (67, [stream, bytes @ ..]) => match Stream::of(*stream)? {
                Stream::Input => Err(Nonsense("the guest writes to standard input".to_owned())),
                stream if bytes.len() <= PIECE => Ok(Self::Data(stream, bytes.to_vec())),
                _ => Err(Nonsense(format!("a piece of {} bytes, more than {PIECE}", bytes.len()))),
            },
            (68, rest) => number(rest).map(Self::Taken),
            (69, rest) => nothing(rest).map(|()| Self::Closed),
            (70, [status]) => Ok(Self::Exit(*status)),
            (71, why) => Ok(Self::Failed(String::from_utf8_lossy(why).into_owned())),
            (kind, payload) => Err(Nonsense(format!("no word {kind} with {} bytes", payload.len()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Accounts, Decoder, Home, LONGEST_FROM_GUEST, LONGEST_FROM_HOST, Program};

    fn spec() -> Spec {
        Spec {
            policy: "root = \"discard\"\n".to_owned(),
            program: Program::Shell { login: true, command: Some(b"ls \xff".to_vec()) },
            directory: b"/home/d".to_vec(),
            environment: vec![(b"TERM".to_vec(), b"x".to_vec())],
            set: vec![(b"A".to_vec(), b"".to_vec())],
            user: b"dave".to_vec(),
            uid: 1000,
            gid: 1001,
            groups: vec![1, 2],
            home: b"/home/d".to_vec(),
            home_from: Home::Served,
            shell: b"/bin/bash".to_vec(),
            brought: vec![b"/tmp/x".to_vec()],
            accounts: Some(Accounts { passwd: b"p".to_vec(), group: b"g".to_vec() }),
            terminal: Some(Window { rows: 24, columns: 80 }),
            clock: 1_700_000_000_000_000_000,
            profile: Some(b"{}".to_vec()),
        }
    }

    #[test]
    fn what_the_host_says_is_what_the_guest_hears() {
        let mut command = spec();
        command.program = Program::Command(vec![b"echo".to_vec(), vec![0xff, 0xfe]]);
        command.accounts = None;
        command.terminal = None;
        let words = [
            ToGuest::Start(Box::new(spec())),
            ToGuest::Start(Box::new(command)),
            ToGuest::Data(vec![0, 255]),
            ToGuest::End,
            ToGuest::Taken(Stream::Errors, 70_000),
            ToGuest::Closed(Stream::Output),
            ToGuest::Resize(Window { rows: 300, columns: 2 }),
            ToGuest::Signal(15),
        ];
        let mut bytes = Vec::new();
        words.iter().for_each(|word| word.write(&mut bytes));
        let mut decoder = Decoder::new(LONGEST_FROM_HOST);
        decoder.feed(&bytes);
        for word in words {
            let (kind, payload) = decoder.next_frame().expect("sense").expect("a frame");
            assert_eq!(ToGuest::read(kind, payload), Ok(word));
        }
    }

    #[test]
    fn what_the_guest_says_is_what_the_host_hears() {
        let words = [
            ToHost::Hello(1),
            ToHost::Started,
            ToHost::Data(Stream::Output, vec![7; PIECE]),
            ToHost::Data(Stream::Errors, vec![]),
            ToHost::Taken(5),
            ToHost::Closed,
            ToHost::Exit(200),
            ToHost::Failed("no".to_owned()),
        ];
        let mut bytes = Vec::new();
        words.iter().for_each(|word| word.write(&mut bytes));
        let mut decoder = Decoder::new(LONGEST_FROM_GUEST);
        decoder.feed(&bytes);
        for word in words {
            let (kind, payload) = decoder.next_frame().expect("sense").expect("a frame");
            assert_eq!(ToHost::read(kind, payload), Ok(word));
        }
    }

    #[test]
    fn anything_else_from_a_guest_is_nonsense() {
        let bad: [(u8, &[u8]); 8] = [
            (0, b""),
            (1, b""),
            (65, b"abc"),
            (66, b"x"),
            (67, b""),
            (67, &[0, 1]),
            (67, &[9, 1]),
            (70, b"ab"),
        ];
        for (kind, payload) in bad {
            assert!(ToHost::read(kind, payload).is_err(), "{kind}");
        }
        let mut long = vec![1];
        long.extend([0; PIECE + 1]);
        assert!(ToHost::read(67, &long).is_err());
    }
}
