//! A merged policy as text that reads back as the same policy: how it travels to where its layers are not.

use std::fmt::Write;

use super::Policy;
use super::file::{BadFile, Layer, PolicyFile};

/// The policy as a `[default]` table of jail-sh.toml(5).
#[must_use]
pub fn write(policy: &Policy) -> String {
    let mut text = String::from("[default]\n");
    let words = [
        ("root", policy.root.to_string()),
        ("home", policy.home.to_string()),
        ("session", policy.session.to_string()),
        ("stale", policy.stale.to_string()),
        ("discard", policy.discard.to_string()),
        ("isolation", policy.isolation.to_string()),
        ("vm.accel", policy.vm_accel.to_string()),
        ("limits", policy.limits.to_string()),
        ("memory", policy.memory.to_string()),
        ("cpus", policy.cpus.to_string()),
        ("processes", policy.processes.to_string()),
        ("open_files", policy.open_files.to_string()),
        ("tmp", policy.tmp.to_string()),
        ("seccomp", policy.seccomp.to_string()),
        ("violation", policy.violation.to_string()),
        ("hostname", policy.hostname.clone()),
        ("umask", policy.umask.to_string()),
    ];
    for (key, word) in words {
        line(&mut text, key, &quoted(&word));
    }
    let network = policy.network.to_string();
    // A list of ports is a table in TOML as it is when shown.
    line(&mut text, "network", &if network.starts_with('{') { network } else { quoted(&network) });
    line(&mut text, "agent", &policy.agent.to_string());
    for (key, path) in [("shell", &policy.shell), ("vm.kernel", &policy.vm_kernel)] {
        if let Some(path) = path {
            line(&mut text, key, &quoted(&path.0));
        }
    }
    let capabilities: Vec<String> = policy.capabilities.iter().map(ToString::to_string).collect();
    let lists = [
        ("commands", &policy.commands),
        ("env", &policy.env),
        ("unsafe", &policy.r#unsafe),
        ("capabilities", &capabilities),
    ];
    for (key, items) in lists {
        let items: Vec<String> = items.iter().map(|item| quoted(item)).collect();
        line(&mut text, key, &format!("[{}]", items.join(", ")));
    }
    let binds: Vec<String> = policy
        .bind
        .iter()
        .map(|bind| {
            format!(
                "{{ from = {}, to = {}, read_only = {} }}",
                quoted(&bind.from.0),
                quoted(&bind.to.0),
                bind.read_only
            )
        })
        .collect();
    line(&mut text, "bind", &format!("[{}]", binds.join(", ")));
    text
}

/// Reads what [`write`] made, as a layer that replaces every key.
///
/// # Errors
/// Text that is no policy.
pub fn read(text: &str) -> Result<Layer, BadFile> {
    PolicyFile::parse(text.as_bytes(), "the policy of this session").map(|file| file.default)
}

fn line(text: &mut String, key: &str, value: &str) {
    // Writing into a string cannot fail.
    writeln!(text, "{key} = {value}").unwrap_or_default();
}

/// A basic string of TOML.
fn quoted(word: &str) -> String {
    let mut out = String::from("\"");
    for c in word.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Origin;

    #[test]
    fn a_policy_reads_back_as_it_was() {
        let written = "[default]\nroot='discard'\ndiscard='disk'\nhome='all'\nsession='private'\nstale='refuse'\nisolation='vm'\nvm.accel='kvm'\nvm.kernel='/k'\n\
             limits='best-effort'\nmemory='300M'\ncpus=0.5\nprocesses=7\nopen_files=64\ntmp='1M'\nseccomp='transfer'\n\
             violation='kill'\nhostname=\"a\\\"\\\\\\u0001b\"\numask='077'\nnetwork={connect=[443],bind=[8080]}\nagent=true\n\
             shell='/bin/zsh'\ncommands=['scp','rsync']\nenv=['X']\nunsafe=['ptrace']\ncapabilities=['net_raw']\n\
             bind=[{from='/a',to='/b',read_only=true}]\n";
        let mut policy = Policy::default();
        policy.apply(&read(written).expect("valid"), &Origin::BuiltIn);
        let mut again = Policy::default();
        again.apply(&read(&write(&policy)).expect("valid"), &Origin::BuiltIn);
        let values =
            |p: &Policy| p.rows().into_iter().map(|(key, value, _)| (key, value)).collect::<Vec<_>>();
        let plain = values(&Policy::default());
        for (row, plain) in values(&policy).iter().zip(&plain) {
            assert!(row != plain || ["jail", "home_path"].contains(&row.0), "{} is not tried", row.0);
        }
        assert_eq!(values(&again), values(&policy));
    }
}
