//! Where the time of a machine's start goes, and what a machine that has been started before would save: a snapshot that is
//! loaded, or one that waits, booted. `vm-start KERNEL GUEST JAIL CACHE ROUNDS`, as an ordinary user; bench/vm-warm calls it.
//!
//! An example of jail-vm, so that what is measured is the command line, the image and the talk of the machines that people
//! get. Only QEMU's cell is left out: it costs the same milliseconds in every row.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use jail_confine::admission::EMPTY_HOME;
use jail_sys::clock::Mark;
use jail_vm::boot::{self, Extras};
use jail_vm::image;
use jail_vm::kernel::Kernel;
use jail_vm::machine::{Accelerator, BOOT, DEFAULT_MEMORY, Machine, PROGRAM, ROOT};
use jail_vm::relay::talk::{Stage, Talk};
use jail_wire::{Home, Program, Spec, ToHost, VERSION};

/// Longer than any machine takes on a busy host.
const PATIENCE: Duration = Duration::from_secs(180);

fn main() {
    let begun = Mark::now().expect("a clock");
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [kernel, guest, jail, cache, rounds] = words.as_slice() else {
        eprintln!("usage: vm-start KERNEL GUEST JAIL CACHE ROUNDS");
        std::process::exit(2);
    };
    let rounds: usize = rounds.parse().expect("a number of rounds");
    let bench =
        Bench::lay_out(Path::new(kernel), Path::new(guest), Path::new(jail), Path::new(cache), &begun);
    let snapshot = Path::new(cache).join("snapshot");
    println!("snapshot_ms {}", bench.save(&snapshot));
    let meta = std::fs::metadata(&snapshot).expect("a snapshot");
    println!("snapshot_kib {}", std::os::unix::fs::MetadataExt::blocks(&meta) / 2);
    // In turns, so that the machine's mood is in every row.
    let (mut hello, mut exit, mut waiting, mut loaded) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let cold = bench.cold();
        hello.push(cold.hello);
        exit.push(cold.exit);
        waiting.push(cold.exit - cold.hello);
        loaded.push(bench.loaded(&snapshot));
    }
    for (name, times) in
        [("boot_to_first_word_ms", hello), ("cold_ms", exit), ("waiting_ms", waiting), ("loaded_ms", loaded)]
    {
        println!("{name} {}", median(times));
    }
    std::fs::remove_file(&snapshot).expect("removed");
}

struct Cold {
    hello: u128,
    exit: u128,
}

/// A machine that runs: our end of its channel, and QEMU's monitor.
struct Running {
    qemu: Child,
    channel: UnixStream,
    monitor: PathBuf,
}

struct Bench {
    words: Vec<String>,
    cache: PathBuf,
}

impl Bench {
    fn lay_out(kernel: &Path, guest: &Path, jail: &Path, cache: &Path, begun: &Mark) -> Self {
        let kernel = Kernel::find(Some(kernel)).expect("a kernel");
        let extras = Extras { overlay: false, home: false, disk: false, network: false };
        let boot = boot::directory(cache, &kernel, guest, extras).expect("kernel and initramfs");
        let tree = OwnedFd::from(std::fs::File::open(jail).expect("the jail"));
        let started = Instant::now();
        let root = image::directory(cache, &tree, jail).expect("the image");
        println!("image_made_ms {}", started.elapsed().as_millis());
        let started = Instant::now();
        assert_eq!(image::directory(cache, &tree, jail).expect("the image"), root);
        println!("image_found_ms {}", started.elapsed().as_millis());
        println!("image_kib {}", std::fs::metadata(root.join(image::IMAGE)).expect("there").len() / 1024);
        let machine = Machine {
            memory: DEFAULT_MEMORY,
            processors: 1,
            accelerator: Accelerator::Emulation(begun.rate()),
            home: None,
            disk: None,
            network: false,
        };
        let shown = |path: &Path| path.to_str().expect("UTF-8").to_owned();
        let (boot, root) = (shown(&boot), shown(&root));
        let words = machine
            .words()
            .into_iter()
            .skip(1)
            .map(|word| word.into_string().expect("UTF-8").replace(BOOT, &boot).replace(ROOT, &root));
        Self { words: words.collect(), cache: cache.to_owned() }
    }

    fn start(&self, more: &[String]) -> Running {
        let (ours, theirs) = UnixStream::pair().expect("a socket");
        ours.set_read_timeout(Some(PATIENCE)).expect("a limit of time");
        let monitor = self.cache.join("monitor");
        let qemu = Command::new(PROGRAM)
            .args(&self.words)
            .args(["-qmp", &format!("unix:{},server=on,wait=off", monitor.display())])
            .args(more)
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("QEMU starts");
        Running { qemu, channel: ours, monitor }
    }

    fn cold(&self) -> Cold {
        let started = Instant::now();
        let mut running = self.start(&[]);
        let mut talk = Talk::new(spec());
        running.talk_until(&mut talk, |stage| *stage != Stage::Booting);
        let hello = started.elapsed().as_millis();
        running.talk_until(&mut talk, |stage| matches!(stage, Stage::Ended(0)));
        running.end();
        Cold { hello, exit: started.elapsed().as_millis() }
    }

    /// Saves a machine that has said its first word; returns how long that took.
    fn save(&self, to: &Path) -> u128 {
        let mut running = self.start(&[]);
        let mut byte = [0];
        running.channel.read_exact(&mut byte).expect("a first word");
        let started = Instant::now();
        let mut monitor = Monitor::open(&running.monitor);
        monitor.ask("\"stop\"");
        let pages = "\"capabilities\":[{\"capability\":\"mapped-ram\",\"state\":true}]";
        monitor.ask(&format!("\"migrate-set-capabilities\",\"arguments\":{{{pages}}}"));
        monitor.ask(&format!("\"migrate\",\"arguments\":{{\"uri\":\"file:{}\"}}", to.display()));
        while !monitor.ask("\"query-migrate\"").contains("\"completed\"") {
            assert!(started.elapsed() < PATIENCE, "a snapshot is made");
            std::thread::sleep(Duration::from_millis(5));
        }
        let took = started.elapsed().as_millis();
        running.end();
        took
    }

    fn loaded(&self, snapshot: &Path) -> u128 {
        let started = Instant::now();
        let mut running = self.start(&["-incoming".to_owned(), "defer".to_owned()]);
        let mut monitor = Monitor::open(&running.monitor);
        let pages = "\"capabilities\":[{\"capability\":\"mapped-ram\",\"state\":true}]";
        monitor.ask(&format!("\"migrate-set-capabilities\",\"arguments\":{{{pages}}}"));
        monitor
            .ask(&format!("\"migrate-incoming\",\"arguments\":{{\"uri\":\"file:{}\"}}", snapshot.display()));
        while !monitor.ask("\"query-migrate\"").contains("\"completed\"") {
            assert!(started.elapsed() < PATIENCE, "a snapshot is loaded");
            std::thread::sleep(Duration::from_millis(1));
        }
        monitor.ask("\"cont\"");
        // Its first word was said before it was saved.
        let mut talk = Talk::new(spec());
        let mut word = Vec::new();
        ToHost::Hello(VERSION).write(&mut word);
        talk.hear(&word).expect("our own words");
        running.talk_until(&mut talk, |stage| matches!(stage, Stage::Ended(0)));
        running.end();
        started.elapsed().as_millis()
    }
}

impl Running {
    fn talk_until(&mut self, talk: &mut Talk, enough: impl Fn(&Stage) -> bool) {
        let mut buffer = vec![0; 64 << 10];
        loop {
            while !talk.to_say().is_empty() {
                let count = self.channel.write(talk.to_say()).expect("the guest hears");
                talk.said(count);
            }
            if enough(talk.stage()) {
                return;
            }
            assert!(!matches!(talk.stage(), Stage::Failed(_)), "{:?}", talk.stage());
            let count = self.channel.read(&mut buffer).expect("the guest speaks");
            assert!(count > 0, "the machine ended by itself");
            talk.hear(&buffer[..count]).expect("sense");
        }
    }

    fn end(&mut self) {
        self.qemu.kill().expect("killed");
        self.qemu.wait().expect("ended");
        std::fs::remove_file(&self.monitor).expect("removed");
    }
}

/// QEMU's monitor protocol, as far as it is needed here.
struct Monitor {
    stream: UnixStream,
    lines: BufReader<UnixStream>,
}

impl Monitor {
    fn open(path: &Path) -> Self {
        let started = Instant::now();
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(error) => assert!(started.elapsed() < PATIENCE, "QEMU's monitor: {error}"),
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        let lines = BufReader::new(stream.try_clone().expect("a second descriptor"));
        let mut monitor = Self { stream, lines };
        monitor.ask("\"qmp_capabilities\"");
        monitor
    }

    /// Sends a command and returns its answer; greetings and events are passed over.
    fn ask(&mut self, command: &str) -> String {
        writeln!(self.stream, "{{\"execute\":{command}}}").expect("QEMU hears");
        loop {
            let mut line = String::new();
            assert!(self.lines.read_line(&mut line).expect("QEMU answers") > 0, "QEMU ended at {command}");
            assert!(!line.starts_with("{\"error\""), "{command}: {line}");
            if line.starts_with("{\"return\"") {
                return line;
            }
        }
    }
}

fn spec() -> Spec {
    Spec {
        policy: String::new(),
        program: Program::Command(vec![b"/bin/true".to_vec()]),
        directory: b"/".to_vec(),
        environment: Vec::new(),
        set: Vec::new(),
        user: b"bench".to_vec(),
        uid: 1000,
        gid: 1000,
        groups: Vec::new(),
        home: EMPTY_HOME.as_bytes().to_vec(),
        home_from: Home::Empty,
        shell: b"/bin/sh".to_vec(),
        brought: Vec::new(),
        accounts: None,
        terminal: None,
        profile: None,
        clock: 0,
    }
}

fn median(mut times: Vec<u128>) -> u128 {
    times.sort_unstable();
    times[times.len() / 2]
}
