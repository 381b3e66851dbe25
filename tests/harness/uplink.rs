//! A network behind the scratch host's: one wire to a network namespace with a server in it, which stands for the world.

use std::sync::OnceLock;
use std::time::Duration;

use crate::command::{Background, Run, wait_until};

/// The scratch host's address on the wire.
pub const HOST: &str = "198.51.100.10";
/// The world's.
pub const WORLD: &str = "198.51.100.1";
/// Where the world serves.
pub const PORT: u16 = 8099;

/// The world's processes, which end with the suite.
struct World {
    _namespace: Background,
    _server: Background,
}

/// Makes the wire and the world at the first call.
pub fn up() {
    static WORLD_ONCE: OnceLock<World> = OnceLock::new();
    WORLD_ONCE.get_or_init(|| {
        let namespace = Run::new("unshare").args(["--net", "sleep", "3600"]).background();
        let pid = namespace.pid().to_string();
        let own = std::fs::read_link("/proc/self/ns/net").expect("a link");
        wait_until("the world has its namespace", Duration::from_secs(10), || {
            std::fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|its| its != own)
        });
        let inside = format!("nsenter -t {pid} -n");
        Run::sh(&format!(
            "set -e; ip link add uplink type veth peer name downlink netns {pid}; ip addr add {HOST}/24 dev uplink; \
             ip link set uplink up; ip route add default via {WORLD}; {inside} ip link set lo up; \
             {inside} ip addr add {WORLD}/24 dev downlink; {inside} ip link set downlink up"
        ))
        .run()
        .ok();
        let server = format!("{inside} python3 -m http.server {PORT} --bind {WORLD}");
        let server = Run::sh(&format!("cd /srv && exec {server} >/dev/null 2>&1")).background();
        wait_until("the world serves", Duration::from_secs(20), || {
            std::net::TcpStream::connect((WORLD, PORT)).is_ok()
        });
        World { _namespace: namespace, _server: server }
    });
}
