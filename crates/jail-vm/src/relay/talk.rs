//! What is said to the guest and what it says back, in memory alone: the part that a hostile guest meets, and that is
//! fuzzed (`fuzz/fuzz_targets/guest.rs`).

use jail_wire::{
    Decoder, LONGEST_FROM_GUEST, Nonsense, Sink, Source, Spec, Stream, ToGuest, ToHost, VERSION,
};

/// How far it has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// The guest has not spoken.
    Booting,
    /// It has been told what to run.
    Told,
    /// The command runs.
    Running,
    /// It has ended with this status.
    Ended(u8),
    /// The guest could not do it; its reason.
    Failed(String),
}

/// The host's side of the talk.
#[derive(Debug)]
pub struct Talk {
    stage: Stage,
    spec: Option<Spec>,
    decoder: Decoder,
    out: Vec<u8>,
    said: usize,
    input: Source,
    input_closed: bool,
    outputs: [Sink; 2],
}

const STREAMS: [Stream; 2] = [Stream::Output, Stream::Errors];

impl Talk {
    /// The talk of one session.
    #[must_use]
    pub fn new(spec: Spec) -> Self {
        Self {
            stage: Stage::Booting,
            spec: Some(spec),
            decoder: Decoder::new(LONGEST_FROM_GUEST),
            out: Vec::new(),
            said: 0,
            input: Source::new(),
            input_closed: false,
            outputs: [Sink::default(), Sink::default()],
        }
    }

    /// How far it has come.
    #[must_use]
    pub const fn stage(&self) -> &Stage {
        &self.stage
    }

    /// Takes what came from the guest.
    ///
    /// # Errors
    /// Anything that a guest of ours would not say now. The talk is over then.
    pub fn hear(&mut self, bytes: &[u8]) -> Result<(), Nonsense> {
        self.decoder.feed(bytes);
        while let Some((kind, payload)) = self.decoder.next_frame()? {
            let word = ToHost::read(kind, payload)?;
            self.take(word)?;
        }
        Ok(())
    }

    fn take(&mut self, word: ToHost) -> Result<(), Nonsense> {
        match (word, &self.stage) {
            (ToHost::Hello(VERSION), Stage::Booting) => {
                if let Some(spec) = self.spec.take() {
                    self.say(&ToGuest::Start(Box::new(spec)));
                }
                self.stage = Stage::Told;
            }
            (ToHost::Hello(version), Stage::Booting) => {
                return Err(Nonsense(format!("it speaks version {version}, not {VERSION}")));
            }
            (ToHost::Started, Stage::Told) => self.stage = Stage::Running,
            (ToHost::Data(stream, bytes), Stage::Running) => {
                let index = usize::from(stream == Stream::Errors);
                self.outputs[index].accept(&bytes)?;
            }
            (ToHost::Taken(count), Stage::Running) => self.input.taken(count)?,
            (ToHost::Closed, Stage::Running) => self.input_closed = true,
            (ToHost::Exit(status), Stage::Running) => self.stage = Stage::Ended(status),
            (ToHost::Failed(why), Stage::Booting | Stage::Told | Stage::Running) => {
                self.stage = Stage::Failed(why)
            }
            (word, stage) => {
                let word = format!("{word:?}");
                let word = word.split(['(', ' ']).next().unwrap_or_default().to_owned();
                return Err(Nonsense(format!("{word} out of turn ({stage:?})")));
            }
        }
        Ok(())
    }

    /// Puts a word into the queue. Before the command runs there is nobody to hear but the first.
    pub fn say(&mut self, word: &ToGuest) {
        word.write(&mut self.out);
    }

    /// What waits to be written to the channel. Nothing before the guest has spoken: it is not there yet.
    #[must_use]
    pub fn to_say(&self) -> &[u8] {
        match self.stage {
            Stage::Booting => &[],
            _ => &self.out[self.said..],
        }
    }

    /// So much of it was written.
    pub fn said(&mut self, count: usize) {
        self.said += count;
        if self.said == self.out.len() {
            self.out.clear();
            self.said = 0;
        }
    }

    /// How many bytes of input may be read now.
    #[must_use]
    pub fn room(&self) -> usize {
        match self.stage {
            Stage::Running if !self.input_closed => self.input.room(),
            _ => 0,
        }
    }

    /// Sends input; at most [`Talk::room`].
    pub fn send_input(&mut self, bytes: &[u8]) {
        self.input.sent(bytes.len());
        self.say(&ToGuest::Data(bytes.to_vec()));
    }

    /// Whether the command does not read its input any more.
    #[must_use]
    pub const fn input_is_closed(&self) -> bool {
        self.input_closed
    }

    /// What waits to be written to an output: 0 standard output, 1 standard error.
    #[must_use]
    pub fn waiting(&self, output: usize) -> &[u8] {
        self.outputs[output].waiting()
    }

    /// So much of it was written.
    pub fn passed(&mut self, output: usize, count: usize) {
        self.outputs[output].passed(count);
    }

    /// Nobody reads an output any more.
    pub fn close(&mut self, stream: Stream) {
        self.outputs[usize::from(stream == Stream::Errors)].close();
        self.say(&ToGuest::Closed(stream));
    }

    /// Whether nothing waits to be written.
    #[must_use]
    pub fn all_passed(&self) -> bool {
        self.outputs.iter().all(|sink| sink.waiting().is_empty())
    }

    /// Tells the guest what has been passed on, so that it sends more.
    pub fn acknowledge(&mut self) {
        for (index, stream) in STREAMS.into_iter().enumerate() {
            if let Some(count) = self.outputs[index].owes() {
                self.say(&ToGuest::Taken(stream, count));
            }
        }
    }

    /// How many bytes of the guest's are held: bounded, whatever it says.
    #[must_use]
    pub fn held(&self) -> usize {
        self.decoder.held() + self.outputs.iter().map(|sink| sink.waiting().len()).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jail_wire::{PIECE, Program, WINDOW};

    /// A session of no account.
    pub(crate) fn spec() -> Spec {
        Spec {
            policy: String::new(),
            program: Program::Command(vec![b"true".to_vec()]),
            directory: b"/".to_vec(),
            environment: Vec::new(),
            set: Vec::new(),
            user: b"u".to_vec(),
            uid: 1,
            gid: 1,
            groups: Vec::new(),
            home: b"/".to_vec(),
            home_from: jail_wire::Home::Empty,
            shell: b"/bin/sh".to_vec(),
            brought: Vec::new(),
            accounts: None,
            terminal: None,
            clock: 0,
            profile: None,
        }
    }

    fn bytes(words: &[ToHost]) -> Vec<u8> {
        let mut out = Vec::new();
        words.iter().for_each(|word| word.write(&mut out));
        out
    }

    #[test]
    fn a_session_from_hello_to_exit() {
        let mut talk = Talk::new(spec());
        assert!(talk.to_say().is_empty());
        talk.hear(&bytes(&[ToHost::Hello(VERSION)])).expect("sense");
        assert_eq!(talk.to_say()[0], 1, "it is told what to run");
        talk.hear(&bytes(&[ToHost::Started, ToHost::Data(Stream::Output, b"hi".to_vec()), ToHost::Exit(3)]))
            .expect("sense");
        assert_eq!((talk.stage(), talk.waiting(0), talk.all_passed()), (&Stage::Ended(3), &b"hi"[..], false));
        talk.passed(0, 2);
        assert!(talk.all_passed());
    }

    #[test]
    fn out_of_turn_is_nonsense() {
        let hello = ToHost::Hello(VERSION);
        let data = ToHost::Data(Stream::Output, vec![]);
        for words in [
            vec![ToHost::Exit(0)],
            vec![ToHost::Started],
            vec![ToHost::Hello(VERSION + 1)],
            vec![hello.clone(), hello.clone()],
            vec![hello.clone(), data.clone()],
            vec![hello.clone(), ToHost::Started, ToHost::Taken(1)],
            vec![hello.clone(), ToHost::Started, ToHost::Exit(0), data],
        ] {
            assert!(Talk::new(spec()).hear(&bytes(&words)).is_err(), "{words:?}");
        }
    }

    #[test]
    fn a_guest_that_floods_is_cut_off() {
        let mut talk = Talk::new(spec());
        talk.hear(&bytes(&[ToHost::Hello(VERSION), ToHost::Started])).expect("sense");
        let piece = bytes(&[ToHost::Data(Stream::Errors, vec![0; PIECE])]);
        let taken = (0..100).take_while(|_| talk.hear(&piece).is_ok()).count();
        assert_eq!(taken, WINDOW / PIECE);
        assert!(talk.held() <= WINDOW + LONGEST_FROM_GUEST + piece.len());
    }
}
