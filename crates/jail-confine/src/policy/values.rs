//! The values that policy keys take, each read from TOML with its own sentence when it is wrong.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};

/// A key with a fixed set of words; the derive below reads and prints them.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$vmeta])* $variant),+ }

        impl $name {
            /// Every word, for messages and completions.
            pub const WORDS: &'static [&'static str] = &[$($word),+];
        }

        impl FromStr for $name {
            type Err = String;
            fn from_str(word: &str) -> Result<Self, String> {
                match word {
                    $($word => Ok(Self::$variant),)+
                    other => Err(format!("'{other}' is not one of {}", Self::WORDS.join(", "))),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $word),+ })
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let word = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                word.parse().map_err(de::Error::custom)
            }
        }
    };
}

words! {
    /// The root of the cell.
    Root {
        /// Nothing in the jail can be changed from inside.
        ReadOnly = "read-only",
        /// File modes alone decide.
        Writable = "writable",
        /// Changes go to a layer that is thrown away when the cell ends.
        Discard = "discard",
    }
}
words! {
    /// Where changes to a root that is thrown away lie until then.
    Discard {
        /// In memory, together with /tmp.
        Memory = "memory",
        /// On disk, below /var/lib/jailwright.
        Disk = "disk",
    }
}
words! {
    /// Which homes are there.
    Home {
        /// The user's own; the rest of its parent directory is empty.
        Own = "own",
        /// All that the jail has.
        All = "all",
    }
}
words! {
    /// Whether logins of one user to one jail share a cell.
    Session {
        /// They join one cell.
        Shared = "shared",
        /// Each gets its own, which ends with it.
        Private = "private",
    }
}
words! {
    /// What stands between the session and the host.
    Isolation {
        /// Namespaces, and all the rest.
        Namespaces = "namespaces",
        /// chroot and the rest, for old kernels.
        Chroot = "chroot",
        /// A virtual machine.
        Vm = "vm",
    }
}
words! {
    /// Who may execute a virtual machine.
    Accel {
        /// The processor alone, by /dev/kvm.
        Kvm = "kvm",
        /// The processor where it can, else QEMU's emulation, with a line in the log.
        Any = "any",
    }
}
words! {
    /// What a login does with a cell whose policy or jail has changed since it was made.
    Stale {
        /// Joins it all the same.
        Join = "join",
        /// Is refused.
        Refuse = "refuse",
        /// Makes a new cell beside it.
        New = "new",
    }
}
words! {
    /// What becomes of an entry when a limit cannot be set.
    Limits {
        /// It is refused.
        Required = "required",
        /// It goes on, with a line in the log.
        BestEffort = "best-effort",
    }
}
words! {
    /// What a system call outside the seccomp profile gets.
    Violation {
        /// An error (EPERM).
        Errno = "errno",
        /// Its process is killed.
        Kill = "kill",
        /// A line in the kernel's log, and it is let through.
        Log = "log",
    }
}

/// The network a session gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Network {
    /// Loopback of its own, nothing else.
    None,
    /// The host's.
    Host,
    /// A network of its own with a way out (pasta).
    Private,
    /// The host's, but TCP only and only to and at these ports.
    Ports {
        /// Ports that may be connected to.
        connect: Vec<u16>,
        /// Ports that may be bound.
        bind: Vec<u16>,
    },
}

impl Network {
    /// The union that a jail with several sections gets: none < port list (joined) < host.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        let joined = |mut a: Vec<u16>, b: Vec<u16>| {
            a.extend(b);
            a.sort_unstable();
            a.dedup();
            a
        };
        match (self, other) {
            (Self::Host, _) | (_, Self::Host) => Self::Host,
            (Self::Private, _) | (_, Self::Private) => Self::Private,
            (Self::Ports { connect, bind }, Self::Ports { connect: c, bind: b }) => {
                Self::Ports { connect: joined(connect, c), bind: joined(bind, b) }
            }
            (Self::None, other) => other,
            (this, Self::None) => this,
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |ports: &[u16]| ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
        match self {
            Self::None => f.write_str("none"),
            Self::Host => f.write_str("host"),
            Self::Private => f.write_str("private"),
            Self::Ports { connect, bind } => {
                write!(f, "{{ connect = [{}], bind = [{}] }}", list(connect), list(bind))
            }
        }
    }
}

impl FromStr for Network {
    type Err = String;
    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "none" => Ok(Self::None),
            "host" => Ok(Self::Host),
            "private" => Ok(Self::Private),
            other => Err(format!(
                "network '{other}' is not one of none, host, private, {{ connect = [443], bind = [8080] }}"
            )),
        }
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Network;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"none\", \"host\", \"private\" or { connect = [443], bind = [8080] }")
            }
            fn visit_str<E: de::Error>(self, word: &str) -> Result<Network, E> {
                word.parse().map_err(E::custom)
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Network, A::Error> {
                let (mut connect, mut bind) = (Vec::new(), Vec::new());
                while let Some(key) = map.next_key::<String>()? {
                    match key.as_str() {
                        "connect" => connect = map.next_value()?,
                        "bind" => bind = map.next_value()?,
                        _ => return Err(de::Error::unknown_field(&key, &["connect", "bind"])),
                    }
                }
                Ok(Network::Ports { connect, bind })
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// An amount that may be without limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit<T> {
    /// No limit of ours.
    None,
    /// At most this.
    At(T),
}

impl<T: fmt::Display> fmt::Display for Limit<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::At(value) => value.fmt(f),
        }
    }
}

/// Reads "none" or what `T` reads.
impl<T: FromStr<Err = String>> FromStr for Limit<T> {
    type Err = String;
    fn from_str(word: &str) -> Result<Self, String> {
        if word == "none" { Ok(Self::None) } else { word.parse().map(Self::At) }
    }
}

/// Values that TOML may give as a number or as a string are read through their string form.
struct Scalar;

impl Visitor<'_> for Scalar {
    type Value = String;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number or a string")
    }
    fn visit_str<E>(self, word: &str) -> Result<String, E> {
        Ok(word.to_owned())
    }
    fn visit_i64<E>(self, number: i64) -> Result<String, E> {
        Ok(number.to_string())
    }
    fn visit_u64<E>(self, number: u64) -> Result<String, E> {
        Ok(number.to_string())
    }
    fn visit_f64<E>(self, number: f64) -> Result<String, E> {
        Ok(number.to_string())
    }
}

impl<'de, T: FromStr<Err = String>> Deserialize<'de> for Limit<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Scalar)?.parse().map_err(de::Error::custom)
    }
}

/// A size in bytes: `65536`, `"512M"`, `"2G"` (powers of 1,024).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = String;
    fn from_str(word: &str) -> Result<Self, String> {
        let wrong =
            || format!("'{word}' is no size; write bytes, or a number with K, M, G or T, such as \"512M\"");
        let (digits, shift) = match word.strip_suffix(['K', 'M', 'G', 'T', 'k', 'm', 'g', 't']) {
            None => (word, 0),
            Some(digits) => {
                let shift = match word.as_bytes().last() {
                    Some(b'K' | b'k') => 10,
                    Some(b'M' | b'm') => 20,
                    Some(b'G' | b'g') => 30,
                    _ => 40,
                };
                (digits, shift)
            }
        };
        let number: u64 = digits.parse().map_err(|_| wrong())?;
        number.checked_mul(1 << shift).map(Self).ok_or_else(wrong)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, unit) in [(40, "T"), (30, "G"), (20, "M"), (10, "K")] {
            if self.0 >= 1 << shift && self.0 % (1 << shift) == 0 {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Scalar)?.parse().map_err(de::Error::custom)
    }
}

/// A whole number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count(pub u64);

impl FromStr for Count {
    type Err = String;
    fn from_str(word: &str) -> Result<Self, String> {
        match word.parse() {
            Ok(number) if number > 0 => Ok(Self(number)),
            _ => Err(format!("'{word}' is no number above 0")),
        }
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A share of processors, in thousandths of one: `0.5` is half of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cpus(pub u32);

impl FromStr for Cpus {
    type Err = String;
    fn from_str(word: &str) -> Result<Self, String> {
        match word.parse::<f64>() {
            // The bounds make the conversion exact enough: thousandths, at most 4096 processors.
            Ok(share) if (0.01..=4096.0).contains(&share) => Ok(Self((share * 1000.0) as u32)),
            _ => Err(format!("'{word}' is no share of processors between 0.01 and 4096")),
        }
    }
}

impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", f64::from(self.0) / 1000.0)
    }
}

/// A file mode creation mask, in octal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Umask(pub u32);

impl FromStr for Umask {
    type Err = String;
    fn from_str(word: &str) -> Result<Self, String> {
        match u32::from_str_radix(word, 8) {
            Ok(mask) if mask <= 0o777 => Ok(Self(mask)),
            _ => Err(format!("'{word}' is no umask; write three octal digits as a string, such as \"022\"")),
        }
    }
}

impl fmt::Display for Umask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:03o}", self.0)
    }
}

impl<'de> Deserialize<'de> for Umask {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        word.parse().map_err(de::Error::custom)
    }
}

/// An absolute path without `..`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AbsolutePath(pub String);

impl FromStr for AbsolutePath {
    type Err = String;
    fn from_str(word: &str) -> Result<Self, String> {
        let plain = word.starts_with('/') && !word.contains('\0') && word.split('/').all(|part| part != "..");
        if plain {
            Ok(Self(word.to_owned()))
        } else {
            Err(format!("'{word}' is no absolute path without '..'"))
        }
    }
}

impl fmt::Display for AbsolutePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for AbsolutePath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        word.parse().map_err(de::Error::custom)
    }
}

/// Which seccomp profile: a shipped one by name, or a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seccomp {
    /// For interactive accounts.
    Default,
    /// For scp, sftp, rsync and git only.
    Transfer,
    /// read, write, exit.
    Strict,
    /// The floor alone.
    Off,
    /// A Docker or OCI JSON profile.
    File(AbsolutePath),
}

impl FromStr for Seccomp {
    type Err = String;
    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "default" => Ok(Self::Default),
            "transfer" => Ok(Self::Transfer),
            "strict" => Ok(Self::Strict),
            "off" => Ok(Self::Off),
            path if path.starts_with('/') => path.parse().map(Self::File),
            other => Err(format!("seccomp '{other}' is not one of default, transfer, strict, off or a path")),
        }
    }
}

impl fmt::Display for Seccomp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Transfer => f.write_str("transfer"),
            Self::Strict => f.write_str("strict"),
            Self::Off => f.write_str("off"),
            Self::File(path) => path.fmt(f),
        }
    }
}

impl<'de> Deserialize<'de> for Seccomp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        word.parse().map_err(de::Error::custom)
    }
}

/// A directory or file of the host that the cell shows.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bind {
    /// Where it is on the host.
    pub from: AbsolutePath,
    /// Where it appears in the cell. It must exist in the jail.
    pub to: AbsolutePath,
    /// Whether it can only be read.
    #[serde(default)]
    pub read_only: bool,
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}{}", self.from, self.to, if self.read_only { " (read-only)" } else { "" })
    }
}

/// A capability by its name without the prefix, such as `net_bind_service` (capabilities(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capability(pub u32);

/// Names by number, as in linux/capability.h.
const CAPABILITIES: [&str; 41] = [
    "chown",
    "dac_override",
    "dac_read_search",
    "fowner",
    "fsetid",
    "kill",
    "setgid",
    "setuid",
    "setpcap",
    "linux_immutable",
    "net_bind_service",
    "net_broadcast",
    "net_admin",
    "net_raw",
    "ipc_lock",
    "ipc_owner",
    "sys_module",
    "sys_rawio",
    "sys_chroot",
    "sys_ptrace",
    "sys_pacct",
    "sys_admin",
    "sys_boot",
    "sys_nice",
    "sys_resource",
    "sys_time",
    "sys_tty_config",
    "mknod",
    "lease",
    "audit_write",
    "audit_control",
    "setfcap",
    "mac_override",
    "mac_admin",
    "syslog",
    "wake_alarm",
    "block_suspend",
    "audit_read",
    "perfmon",
    "bpf",
    "checkpoint_restore",
];

impl FromStr for Capability {
    type Err = String;
    fn from_str(word: &str) -> Result<Self, String> {
        let lower = word.to_ascii_lowercase();
        let name = lower.strip_prefix("cap_").unwrap_or(&lower);
        (0_u32..)
            .zip(CAPABILITIES)
            .find(|(_, known)| *known == name)
            .map(|(number, _)| Self(number))
            .ok_or_else(|| {
                format!("'{word}' is no capability (capabilities(7) lists them; write net_bind_service)")
            })
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let index = usize::try_from(self.0).unwrap_or(usize::MAX);
        f.write_str(CAPABILITIES.get(index).copied().unwrap_or("unknown"))
    }
}

impl<'de> Deserialize<'de> for Capability {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        word.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!("512M".parse(), Ok(Size(512 << 20)));
        assert_eq!("65536".parse::<Size>().map(|s| s.to_string()), Ok("64K".to_owned()));
        assert!("99999999999T".parse::<Size>().is_err(), "no wrap-around");
        assert!("-1".parse::<Size>().is_err());
    }

    #[test]
    fn the_union_of_networks() {
        let ports = |connect: &[u16]| Network::Ports { connect: connect.to_vec(), bind: vec![] };
        assert_eq!(ports(&[443]).union(ports(&[80, 443])), ports(&[80, 443]));
        assert_eq!(Network::None.union(ports(&[80])), ports(&[80]));
        assert_eq!(ports(&[80]).union(Network::Host), Network::Host);
    }

    #[test]
    fn capability_names() {
        assert_eq!("NET_BIND_SERVICE".parse(), Ok(Capability(10)));
        assert_eq!("cap_bpf".parse::<Capability>().map(|c| c.to_string()), Ok("bpf".to_owned()));
        assert!("net_bnd".parse::<Capability>().is_err());
    }
}
