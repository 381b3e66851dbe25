//! What a jail's sections need from the entry: the union of their `[entry]` tables, as entry.toml holds it.
//!
//! A section may ask for the network, for a size of /tmp and for variables, and for nothing else (how a user is confined is
//! the administrator's business). jail-sh reads only this small file, never the manifest.

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};

use serde::{Deserialize, Serialize};

use crate::toml_text;

/// How much network: `none` < a list of ports < `host`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "RawNetwork", into = "RawNetwork")]
pub enum Network {
    /// No network at all.
    None,
    /// TCP to and on these ports.
    Ports {
        /// Ports that may be connected to.
        connect: BTreeSet<u16>,
        /// Ports that may be listened on.
        bind: BTreeSet<u16>,
    },
    /// The host's network.
    Host,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged, expecting = "network is \"none\", \"host\" or { connect = [443], bind = [8080] }")]
enum RawNetwork {
    Word(String),
    Ports(RawPorts),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPorts {
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    connect: BTreeSet<u16>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    bind: BTreeSet<u16>,
}

impl TryFrom<RawNetwork> for Network {
    type Error = String;
    fn try_from(raw: RawNetwork) -> Result<Self, String> {
        match raw {
            RawNetwork::Word(word) if word == "none" => Ok(Self::None),
            RawNetwork::Word(word) if word == "host" => Ok(Self::Host),
            RawNetwork::Word(word) => {
                Err(format!("network = \"{word}\" is neither \"none\", \"host\" nor a table of ports"))
            }
            RawNetwork::Ports(RawPorts { connect, bind }) => Ok(Self::Ports { connect, bind }),
        }
    }
}

impl From<Network> for RawNetwork {
    fn from(network: Network) -> Self {
        match network {
            Network::None => Self::Word("none".to_owned()),
            Network::Host => Self::Word("host".to_owned()),
            Network::Ports { connect, bind } => Self::Ports(RawPorts { connect, bind }),
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |ports: &BTreeSet<u16>| ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
        match self {
            Self::None => f.write_str("none"),
            Self::Host => f.write_str("the host's"),
            Self::Ports { connect, bind } if bind.is_empty() => write!(f, "TCP to port {}", list(connect)),
            Self::Ports { connect, bind } if connect.is_empty() => write!(f, "TCP on port {}", list(bind)),
            Self::Ports { connect, bind } => {
                write!(f, "TCP to port {}, on port {}", list(connect), list(bind))
            }
        }
    }
}

impl Network {
    fn join(self, other: Self) -> Self {
        match (self, other) {
            (Self::Host, _) | (_, Self::Host) => Self::Host,
            (Self::None, other) | (other, Self::None) => other,
            (Self::Ports { connect: a, bind: b }, Self::Ports { connect: c, bind: d }) => {
                Self::Ports { connect: &a | &c, bind: &b | &d }
            }
        }
    }
}

/// The `[entry]` table of one section, or the union of several. `None` and empty: nobody asked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryNeeds {
    /// The most that any section asked for.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub network: Option<Network>,
    /// The largest /tmp that any section asked for, such as `256M`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tmp: Option<String>,
    /// Variables to let through, in the order of asking.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub env: Vec<String>,
}

impl EntryNeeds {
    /// Joins the needs of another section to these.
    pub fn join(&mut self, other: &Self) {
        self.network = match (self.network.take(), other.network.clone()) {
            (Some(a), Some(b)) => Some(a.join(b)),
            (a, b) => a.or(b),
        };
        let larger = |a: &String, b: &String| size_in_bytes(a) >= size_in_bytes(b);
        self.tmp = match (self.tmp.take(), other.tmp.clone()) {
            (Some(a), Some(b)) => Some(if larger(&a, &b) { a } else { b }),
            (a, b) => a.or(b),
        };
        for name in &other.env {
            if !self.env.contains(name) {
                self.env.push(name.clone());
            }
        }
    }

    /// The text of entry.toml.
    #[must_use]
    pub fn to_toml(&self, jail: &JailIdentity<'_>) -> String {
        let mut out = String::from("# Written by jail-init; what the jail's sections need from the entry.\n");
        let JailIdentity { name, device, inode, sections, base } = jail;
        let base = base.map(|base| format!("base = {}\n", toml_text::string(base))).unwrap_or_default();
        // Writing to a String cannot fail.
        write!(
            out,
            "version = 1\nname = {}\ndevice = {device}\ninode = {inode}\nsections = {}\n{base}\n[entry]\n",
            toml_text::string(name),
            toml_text::list(sections)
        )
        .unwrap_or_default();
        match &self.network {
            None => {}
            Some(Network::None) => out.push_str("network = \"none\"\n"),
            Some(Network::Host) => out.push_str("network = \"host\"\n"),
            Some(Network::Ports { connect, bind }) => {
                let numbers =
                    |ports: &BTreeSet<u16>| ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
                let (connect, bind) = (numbers(connect), numbers(bind));
                writeln!(out, "network = {{ connect = [{connect}], bind = [{bind}] }}").unwrap_or_default();
            }
        }
        if let Some(tmp) = &self.tmp {
            writeln!(out, "tmp = {}", toml_text::string(tmp)).unwrap_or_default();
        }
        if !self.env.is_empty() {
            writeln!(out, "env = {}", toml_text::list(&self.env)).unwrap_or_default();
        }
        out
    }
}

/// What tells one jail from another that took its path (device and inode of its directory).
#[derive(Debug, Clone, Copy)]
pub struct JailIdentity<'a> {
    /// The jail's name.
    pub name: &'a str,
    /// st_dev of its directory.
    pub device: u64,
    /// st_ino of its directory.
    pub inode: u64,
    /// Its sections, as they were asked for.
    pub sections: &'a [String],
    /// The base that its own files lie over.
    pub base: Option<&'a str>,
}

/// `256M` in bytes; `None` if it is no size.
#[must_use]
pub fn size_in_bytes(text: &str) -> Option<u64> {
    let (digits, unit) = match text.as_bytes().last()? {
        b'K' | b'k' => (&text[..text.len() - 1], 1 << 10),
        b'M' | b'm' => (&text[..text.len() - 1], 1 << 20),
        b'G' | b'g' => (&text[..text.len() - 1], 1 << 30),
        _ => (text, 1),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(connect: &[u16], bind: &[u16]) -> Network {
        Network::Ports { connect: connect.iter().copied().collect(), bind: bind.iter().copied().collect() }
    }

    #[test]
    fn the_union_of_networks() {
        assert_eq!(Network::None.join(ports(&[443], &[])), ports(&[443], &[]));
        assert_eq!(ports(&[443], &[]).join(ports(&[53], &[80])), ports(&[53, 443], &[80]));
        assert_eq!(ports(&[443], &[]).join(Network::Host), Network::Host);
        let mut needs = EntryNeeds::default();
        needs.join(&EntryNeeds {
            network: Some(Network::None),
            tmp: Some("1G".into()),
            env: vec!["A".into()],
        });
        needs.join(&EntryNeeds {
            network: None,
            tmp: Some("900M".into()),
            env: vec!["A".into(), "B".into()],
        });
        assert_eq!(needs.network, Some(Network::None));
        assert_eq!(needs.tmp.as_deref(), Some("1G"));
        assert_eq!(needs.env, ["A", "B"]);
    }

    #[test]
    fn entry_toml_reads_back() {
        let needs = EntryNeeds {
            network: Some(ports(&[443], &[8080])),
            tmp: Some("256M".into()),
            env: vec!["A\"B".into()],
        };
        let sections = ["basicshell".to_owned(), "scp".to_owned()];
        let jail = JailIdentity {
            name: "home-jail\\x2d",
            device: 7,
            inode: 9,
            sections: &sections,
            base: Some("/home/base"),
        };
        let text = needs.to_toml(&jail);
        let value: toml::Value = toml::from_str(&text).expect("valid TOML");
        assert_eq!(value["name"].as_str(), Some("home-jail\\x2d"));
        assert_eq!(value["inode"].as_integer(), Some(9));
        assert_eq!(value["base"].as_str(), Some("/home/base"));
        assert_eq!(value["entry"].clone().try_into::<EntryNeeds>().expect("reads back"), needs);
        let nobody = EntryNeeds::default().to_toml(&jail);
        assert!(nobody.trim_end().ends_with("[entry]"), "keys that nobody set are absent:\n{nobody}");
    }

    #[test]
    fn sizes() {
        assert_eq!(size_in_bytes("256M"), Some(256 << 20));
        assert_eq!(size_in_bytes("1"), Some(1));
        for wrong in ["", "M", "-1", "1.5G", "99999999999G", "1T"] {
            assert_eq!(size_in_bytes(wrong), None, "{wrong}");
        }
    }
}
