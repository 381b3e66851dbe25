//! The confinement of a jail in Kubernetes' own terms: a Pod or a Deployment, and a NetworkPolicy.
//!
//! What has no such term is left to the administrator of the cluster and named in a note: limits on processes belong to the
//! kubelet (`podPidsLimit`), limits on open files to the runtime.

use std::fmt::Write as _;

use jail_confine::policy::values::{Limit, Network, Root, Seccomp};
use serde_json::{Map, Value, json};

use super::settings::Container;

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Pod,
    Deployment,
}

/// The documents as YAML, and what they could not say.
pub(crate) fn documents(container: &Container, name: &str, image: &str, kind: Kind) -> (String, Vec<String>) {
    let mut notes = Vec::new();
    let labels = json!({ "app.kubernetes.io/name": name, "app.kubernetes.io/managed-by": "jailwright" });
    let spec = pod_spec(container, name, image, &mut notes);
    let workload = match kind {
        Kind::Pod => json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": name, "labels": labels },
            "spec": spec,
        }),
        Kind::Deployment => json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": { "name": name, "labels": labels },
            "spec": {
                "replicas": 1,
                "selector": { "matchLabels": { "app.kubernetes.io/name": name } },
                "template": { "metadata": { "labels": labels }, "spec": spec },
            },
        }),
    };
    let mut out = String::from("# Written by jail-export.\n");
    yaml(&workload, 0, &mut out);
    if let Some(policy) = network_policy(&container.policy.network, name, &mut notes) {
        out.push_str("---\n");
        yaml(&policy, 0, &mut out);
    }
    (out, notes)
}

/// A name as Kubernetes wants it: lower case letters, digits and dashes, 63 at most.
pub(crate) fn object_name(jail: &str) -> String {
    let mut name: String =
        jail.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    name.truncate(63);
    let name = name.trim_matches('-');
    if name.is_empty() { "jail".to_owned() } else { name.to_owned() }
}

fn pod_spec(container: &Container, name: &str, image: &str, notes: &mut Vec<String>) -> Value {
    let policy = &container.policy;
    let mut volumes = Volumes::default();
    // One size for all scratch places together, as a session has it.
    volumes.add("tmp", json!({ "emptyDir": { "medium": "Memory", "sizeLimit": quantity(policy.tmp.0) } }));
    for (place, below) in [("/tmp", "tmp"), ("/var/tmp", "vartmp"), ("/run", "run"), ("/dev/shm", "shm")] {
        volumes.mounts.push(json!({ "name": "tmp", "mountPath": place, "subPath": below }));
    }
    if container.user.home != "/" {
        volumes.add("home", json!({ "emptyDir": {} }));
        volumes.mounts.push(json!({ "name": "home", "mountPath": container.user.home }));
        notes.push(format!(
            "{} is empty in each pod: put a PersistentVolumeClaim there to keep it",
            container.user.home
        ));
    }
    for (n, bind) in policy.bind.iter().enumerate() {
        let name = format!("bind-{n}");
        volumes.add(&name, json!({ "hostPath": { "path": bind.from.0 } }));
        volumes.mounts.push(json!({ "name": name, "mountPath": bind.to.0, "readOnly": bind.read_only }));
        notes.push(format!("{} comes from whatever node the pod runs on", bind.from));
    }
    let mut inside = json!({
        "name": name,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "securityContext": security_context(container),
        "resources": resources(container),
        "volumeMounts": volumes.mounts,
        "workingDir": container.image.working_dir,
    });
    // A shell without a terminal ends at once; kubectl attach gives it one.
    if container.image.entrypoint.is_none() {
        inside["stdin"] = true.into();
        inside["tty"] = true.into();
    }
    if policy.root == Root::Writable {
        notes.push("root = \"writable\": what a pod writes is lost when it ends".to_owned());
    }
    if let Limit::At(processes) = &policy.processes {
        notes.push(format!("processes = {processes} is the kubelet's to set: podPidsLimit: {processes}"));
    }
    if let Limit::At(files) = &policy.open_files {
        notes.push(format!("open_files = {files} is the container runtime's to set"));
    }
    let mut spec = json!({
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "hostname": object_name(&policy.hostname),
        "hostIPC": false,
        "hostPID": false,
        "hostNetwork": policy.network == Network::Host,
        "shareProcessNamespace": false,
        "securityContext": { "fsGroup": container.user.gid, "supplementalGroups": [] },
        "volumes": volumes.volumes,
    });
    spec["containers"] = json!([inside]);
    spec
}

#[derive(Default)]
struct Volumes {
    volumes: Vec<Value>,
    mounts: Vec<Value>,
}

impl Volumes {
    fn add(&mut self, name: &str, mut source: Value) {
        source["name"] = name.into();
        self.volumes.push(source);
    }
}

fn security_context(container: &Container) -> Value {
    let policy = &container.policy;
    let mut capabilities = json!({ "drop": ["ALL"] });
    if !policy.capabilities.is_empty() {
        let names: Vec<String> =
            policy.capabilities.iter().map(|c| c.to_string().to_ascii_uppercase()).collect();
        capabilities["add"] = json!(names);
    }
    let profile = match (&policy.seccomp, &container.seccomp) {
        // Our floor alone has no form of its own; the runtime's default is the nearest there is.
        (Seccomp::Off, _) | (_, None) => json!({ "type": "RuntimeDefault" }),
        _ => json!({ "type": "Localhost", "localhostProfile": localhost_profile(container) }),
    };
    json!({
        "allowPrivilegeEscalation": false,
        "privileged": false,
        "readOnlyRootFilesystem": policy.root == Root::ReadOnly,
        "runAsNonRoot": container.user.uid != 0,
        "runAsUser": container.user.uid,
        "runAsGroup": container.user.gid,
        "procMount": "Default",
        "capabilities": capabilities,
        "seccompProfile": profile,
    })
}

/// Where a node's kubelet looks for the profile, below its `seccomp` directory.
pub(crate) fn localhost_profile(container: &Container) -> String {
    let name = match &container.policy.seccomp {
        Seccomp::File(path) => std::path::Path::new(&path.0)
            .file_stem()
            .map_or_else(|| "profile".to_owned(), |stem| stem.to_string_lossy().into_owned()),
        word => word.to_string(),
    };
    format!("jailwright/{name}.json")
}

fn resources(container: &Container) -> Value {
    let mut limits = Map::new();
    if let Limit::At(memory) = &container.policy.memory {
        limits.insert("memory".to_owned(), quantity(memory.0).into());
    }
    if let Limit::At(cpus) = &container.policy.cpus {
        limits.insert("cpu".to_owned(), format!("{}m", cpus.0).into());
    }
    if limits.is_empty() { json!({}) } else { json!({ "limits": limits }) }
}

/// A size in Kubernetes' binary units.
fn quantity(bytes: u64) -> String {
    for (shift, unit) in [(30, "Gi"), (20, "Mi"), (10, "Ki")] {
        if bytes >= 1 << shift && bytes % (1 << shift) == 0 {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}

fn network_policy(network: &Network, name: &str, notes: &mut Vec<String>) -> Option<Value> {
    let ports =
        |ports: &[u16]| ports.iter().map(|p| json!({ "protocol": "TCP", "port": p })).collect::<Vec<_>>();
    let rule = |list: &[u16]| if list.is_empty() { json!([]) } else { json!([{ "ports": ports(list) }]) };
    let (ingress, egress) = match network {
        Network::Host => {
            notes.push(
                "network = \"host\": no NetworkPolicy holds for a pod on the node's own network".to_owned(),
            );
            return None;
        }
        Network::None => (json!([]), json!([])),
        Network::Private => (json!([]), json!([{}])),
        Network::Ports { connect, bind } => (rule(bind), rule(connect)),
    };
    notes.push("a NetworkPolicy holds only where the cluster's network plugin enforces it".to_owned());
    Some(json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": { "name": name },
        "spec": {
            "podSelector": { "matchLabels": { "app.kubernetes.io/name": name } },
            "policyTypes": ["Ingress", "Egress"],
            "ingress": ingress,
            "egress": egress,
        },
    }))
}

/// YAML in block form. Strings are written as JSON writes them, which YAML reads as they are: no word of a policy can become
/// a number, a `no` or a tag.
fn yaml(value: &Value, depth: usize, out: &mut String) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                write!(out, "{indent}{key}:").unwrap_or_default();
                nested(value, depth + 1, out);
            }
        }
        Value::Array(list) if !list.is_empty() => {
            for item in list {
                let mut text = String::new();
                yaml(item, depth + 1, &mut text);
                // The dash stands where the first line's indent ends.
                let text = text.trim_start();
                writeln!(out, "{indent}- {}", text.trim_end()).unwrap_or_default();
            }
        }
        scalar => writeln!(out, "{indent}{scalar}").unwrap_or_default(),
    }
}

fn nested(value: &Value, depth: usize, out: &mut String) {
    let block = match value {
        Value::Object(map) => !map.is_empty(),
        Value::Array(list) => !list.is_empty(),
        _ => false,
    };
    if block {
        out.push('\n');
        yaml(value, depth, out);
    } else {
        writeln!(out, " {value}").unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_the_api_takes() {
        assert_eq!(object_name("home-jail\\x2dtwo"), "home-jail-x2dtwo");
        assert_eq!(object_name("-_-"), "jail");
        assert!(object_name(&"x".repeat(200)).len() <= 63);
    }

    #[test]
    fn yaml_quotes_every_string() {
        let mut out = String::new();
        yaml(&json!({ "a": "no", "b": [{ "c": 1, "d": ["x: y"] }], "e": {}, "f": [] }), 0, &mut out);
        assert_eq!(out, "a: \"no\"\nb:\n  - c: 1\n    d:\n      - \"x: y\"\ne: {}\nf: []\n");
    }

    #[test]
    fn sizes_in_the_units_of_the_api() {
        assert_eq!(quantity(256 << 20), "256Mi");
        assert_eq!(quantity(1000), "1000");
    }
}
