// What the fuzz target of the host's side of a virtual machine does with its bytes, for the fuzzer and for the test that
// replays its corpus: whoever breaks a guest's kernel says what he likes.

use jail_vm::relay::talk::{Stage, Talk};
use jail_wire::{LONGEST_FROM_GUEST, Program, Spec, Stream, ToGuest, WINDOW};

/// The first byte says how long the pieces are in which the rest arrives; what is kept stays within bounds, and after the
/// first nonsense nothing more is heard.
pub(crate) fn guest(data: &[u8]) {
    let Some((size, bytes)) = data.split_first() else { return };
    let size = usize::from(*size).max(1);
    let mut talk = Talk::new(nothing());
    for (turn, piece) in bytes.chunks(size).enumerate() {
        let stage = talk.stage().clone();
        if talk.hear(piece).is_err() {
            return;
        }
        assert!(talk.held() <= 2 * WINDOW + LONGEST_FROM_GUEST + 5 + size, "{} bytes are held", talk.held());
        match (&stage, talk.stage()) {
            (Stage::Ended(before), now) => assert_eq!(now, &Stage::Ended(*before), "an end is an end"),
            (Stage::Booting, Stage::Booting) => assert!(talk.to_say().is_empty(), "nobody is there to hear"),
            _ => {}
        }
        // What a relay does between two reads.
        for output in 0..2 {
            let some = talk.waiting(output).len().min(turn * 7);
            talk.passed(output, some);
        }
        if turn == 50 {
            talk.close(Stream::Output);
        }
        if talk.room() > 0 {
            talk.send_input(&vec![1; talk.room().min(turn)]);
        }
        talk.say(&ToGuest::Signal(15));
        talk.acknowledge();
        let said = talk.to_say().len().min(turn * 11);
        talk.said(said);
    }
}

fn nothing() -> Spec {
    Spec {
        policy: String::new(),
        program: Program::Command(Vec::new()),
        directory: Vec::new(),
        environment: Vec::new(),
        set: Vec::new(),
        user: Vec::new(),
        uid: 1,
        gid: 1,
        groups: Vec::new(),
        home: Vec::new(),
        home_from: jail_wire::Home::Empty,
        shell: Vec::new(),
        brought: Vec::new(),
        accounts: None,
        terminal: None,
        profile: None,
        clock: 0,
    }
}
