//! What the guest is to run, and as whom: all that an entry needs and that only the host knows.

use crate::Nonsense;

/// A size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Lines.
    pub rows: u16,
    /// Characters a line.
    pub columns: u16,
}

/// What is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Program {
    /// The account's shell, as sshd calls it.
    Shell {
        /// Whether it is a login shell.
        login: bool,
        /// The argument of `-c`.
        command: Option<Vec<u8>>,
    },
    /// A command and its arguments.
    Command(Vec<Vec<u8>>),
}

/// Account files that the cell shows instead of the jail's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accounts {
    /// For /etc/passwd.
    pub passwd: Vec<u8>,
    /// For /etc/group.
    pub group: Vec<u8>,
}

/// Where the guest finds the home.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Home {
    /// Nowhere: an empty one, gone with the machine.
    Empty,
    /// The host serves it over the port [`crate::HOME_PORT`].
    Served,
    /// On the machine's own disk, with the changes to the jail.
    Kept,
}

impl Home {
    const fn number(self) -> u32 {
        match self {
            Self::Empty => 0,
            Self::Served => 1,
            Self::Kept => 2,
        }
    }

    fn of(number: u32) -> Result<Self, Nonsense> {
        [Self::Empty, Self::Served, Self::Kept]
            .into_iter()
            .find(|home| home.number() == number)
            .ok_or_else(|| Nonsense(format!("there is no home of kind {number}")))
    }
}

/// A session to run in the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// The merged policy, as a table of jail-sh.toml(5).
    pub policy: String,
    /// What is run.
    pub program: Program,
    /// Where it starts, as seen inside.
    pub directory: Vec<u8>,
    /// The caller's variables that the policy lets through.
    pub environment: Vec<(Vec<u8>, Vec<u8>)>,
    /// Variables that are set.
    pub set: Vec<(Vec<u8>, Vec<u8>)>,
    /// The user's name.
    pub user: Vec<u8>,
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// The home as seen inside.
    pub home: Vec<u8>,
    /// Where it comes from.
    pub home_from: Home,
    /// The shell inside.
    pub shell: Vec<u8>,
    /// Paths of the jail to be seen below a directory that the cell brings itself.
    pub brought: Vec<Vec<u8>>,
    /// `None`: the jail's own account files are seen.
    pub accounts: Option<Accounts>,
    /// `None`: three pipes.
    pub terminal: Option<Window>,
    /// The seccomp profile, if the policy names a file.
    pub profile: Option<Vec<u8>>,
    /// The host's time, in nanoseconds since 1970: a guest has no clock of its own to read.
    pub clock: u64,
}

impl Spec {
    /// As the payload of a frame.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer(Vec::new());
        out.bytes(self.policy.as_bytes());
        match &self.program {
            Program::Shell { login, command } => {
                out.number(u32::from(*login));
                out.list(command.as_slice(), |out, command| out.bytes(command));
            }
            Program::Command(words) => {
                out.number(2);
                out.list(words, |out, word| out.bytes(word));
            }
        }
        out.bytes(&self.directory);
        for variables in [&self.environment, &self.set] {
            out.list(variables, |out, (name, value)| {
                out.bytes(name);
                out.bytes(value);
            });
        }
        out.bytes(&self.user);
        out.number(self.uid);
        out.number(self.gid);
        out.list(&self.groups, |out, group| out.number(*group));
        out.bytes(&self.home);
        out.number(self.home_from.number());
        out.bytes(&self.shell);
        out.list(&self.brought, |out, path| out.bytes(path));
        out.list(self.accounts.as_slice(), |out, accounts| {
            out.bytes(&accounts.passwd);
            out.bytes(&accounts.group);
        });
        out.list(self.terminal.as_slice(), |out, window| {
            out.number(window.rows.into());
            out.number(window.columns.into());
        });
        out.0.extend_from_slice(&self.clock.to_le_bytes());
        out.list(self.profile.as_slice(), |out, profile| out.bytes(profile));
        out.0
    }

    /// Reads a payload.
    ///
    /// # Errors
    /// If it is not what [`Spec::to_bytes`] makes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Nonsense> {
        let mut from = Reader(bytes);
        let policy =
            String::from_utf8(from.bytes()?).map_err(|_| Nonsense("a policy is not UTF-8".into()))?;
        let program = match from.number()? {
            kind @ (0 | 1) => Program::Shell { login: kind == 1, command: from.list(Reader::bytes)?.pop() },
            2 => Program::Command(from.list(Reader::bytes)?),
            other => return Err(Nonsense(format!("there is no program of kind {other}"))),
        };
        let directory = from.bytes()?;
        let pair = |from: &mut Reader<'_>| Ok((from.bytes()?, from.bytes()?));
        let (environment, set) = (from.list(pair)?, from.list(pair)?);
        let spec = Self {
            policy,
            program,
            directory,
            environment,
            set,
            user: from.bytes()?,
            uid: from.number()?,
            gid: from.number()?,
            groups: from.list(Reader::number)?,
            home: from.bytes()?,
            home_from: Home::of(from.number()?)?,
            shell: from.bytes()?,
            brought: from.list(Reader::bytes)?,
            accounts: from.list(|from| Ok(Accounts { passwd: from.bytes()?, group: from.bytes()? }))?.pop(),
            terminal: from
                .list(|from| {
                    let short = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
                    Ok(Window { rows: short(from.number()?), columns: short(from.number()?) })
                })?
                .pop(),
            clock: u64::from_le_bytes(from.array()?),
            profile: from.list(Reader::bytes)?.pop(),
        };
        if from.0.is_empty() { Ok(spec) } else { Err(Nonsense("bytes follow a session".to_owned())) }
    }
}

struct Writer(Vec<u8>);

impl Writer {
    fn number(&mut self, number: u32) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        self.0.extend_from_slice(bytes);
    }

    fn list<T>(&mut self, items: &[T], mut write: impl FnMut(&mut Self, &T)) {
        self.number(u32::try_from(items.len()).unwrap_or(u32::MAX));
        items.iter().for_each(|item| write(self, item));
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Nonsense> {
        let (array, rest) =
            self.0.split_first_chunk::<N>().ok_or_else(|| Nonsense("a session ends early".to_owned()))?;
        self.0 = rest;
        Ok(*array)
    }

    fn number(&mut self) -> Result<u32, Nonsense> {
        self.array().map(u32::from_le_bytes)
    }

    fn bytes(&mut self) -> Result<Vec<u8>, Nonsense> {
        let length = usize::try_from(self.number()?).unwrap_or(usize::MAX);
        let (bytes, rest) =
            self.0.split_at_checked(length).ok_or_else(|| Nonsense("a session ends early".to_owned()))?;
        self.0 = rest;
        Ok(bytes.to_vec())
    }

    fn list<T>(
        &mut self,
        mut read: impl FnMut(&mut Self) -> Result<T, Nonsense>,
    ) -> Result<Vec<T>, Nonsense> {
        let count = self.number()?;
        // Not reserved: each item takes bytes that have to be there.
        (0..count).map(|_| read(self)).collect()
    }
}
