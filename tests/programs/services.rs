//! What tasks talk to: servers on the scratch host's loopback, with a certificate that the host trusts.

use std::net::UdpSocket;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use jailwright_tests::command::{Background, Run, have, wait_until};

/// The servers. They end with the scratch host.
pub(crate) struct Services {
    pub(crate) http: u16,
    pub(crate) https: u16,
    pub(crate) dns: u16,
    _servers: Vec<Background>,
}

static SERVICES: OnceLock<Option<Services>> = OnceLock::new();

/// The servers, started at the first call; before the first jail, which copies the host's certificates. None on a host
/// that lacks the programs for them.
pub(crate) fn start() -> Option<&'static Services> {
    let has_all = || ["openssl", "git", "python3"].into_iter().all(have);
    SERVICES.get_or_init(|| has_all().then(Services::start)).as_ref()
}

/// A directory over HTTP, or HTTPS with arguments CERT KEY; prints its port.
const SERVER: &str = "
import http.server, ssl, sys
class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args): pass
s = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Quiet)
if len(sys.argv) > 1:
    c = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); c.load_cert_chain(sys.argv[1], sys.argv[2])
    s.socket = c.wrap_socket(s.socket, server_side=True)
print(s.server_address[1], flush=True)
s.serve_forever()
";

impl Services {
    fn start() -> Services {
        let dir = Path::new("/srv/served");
        std::fs::create_dir_all(dir).expect("mkdir");
        std::fs::write(dir.join("page"), "served\n").expect("write");
        Run::sh(
            "set -e; cd /srv/served; git init -q -b main work; \
             git -C work -c user.name=d -c user.email=d@e commit -q --allow-empty -m served; \
             git clone -q --bare work repo.git; git -C repo.git update-server-info",
        )
        .env("HOME", "/srv/served")
        .run()
        .ok();
        trust_a_new_authority();
        prepare_host();
        let (cert, key) = ("/srv/tls/localhost.pem", "/srv/tls/localhost.key");
        let serve = |args: &[&str]| {
            let mut server = Run::new("python3").args(["-c", SERVER]).args(args).dir(dir).background();
            let port: u16 = server.first_line().parse().expect("the server's port");
            wait_until("it listens", Duration::from_secs(10), || {
                std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
            });
            (port, server)
        };
        let (http, first) = serve(&[]);
        let (https, second) = serve(&[cert, key]);
        Services { http, https, dns: name_server(), _servers: vec![first, second] }
    }
}

/// What an administrator has set up before he makes a jail for these programs.
fn prepare_host() {
    Run::sh(
        "mkdir -p /etc/jailkit; printf '[DEFAULT]\\npaths = /usr/bin\\nexecutables = /usr/bin/id\\n' >/etc/jailkit/jk_lsh.ini; \
         echo '127.0.1.1 jail' >>/etc/hosts; echo '0 2147483647' >/proc/sys/net/ipv4/ping_group_range",
    )
    .run()
    .ok();
}

/// An authority of our own joins those of the host, as a company's does; it signs a certificate for localhost.
fn trust_a_new_authority() {
    Run::sh(
        "set -e; mkdir -p /srv/tls; cd /srv/tls; \
         openssl req -x509 -newkey rsa:2048 -nodes -subj '/CN=Scratch Authority' -days 2 -addext keyUsage=critical,keyCertSign,cRLSign \
           -keyout ca.key -out ca.pem; \
         openssl req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout localhost.key -out localhost.csr; \
         printf 'subjectAltName=DNS:localhost\\n' >ext; \
         openssl x509 -req -in localhost.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out localhost.pem; \
         mkdir -p /etc/ssl/certs; cat ca.pem >>/etc/ssl/certs/ca-certificates.crt; \
         cp ca.pem /etc/ssl/certs/$(openssl x509 -hash -noout -in ca.pem).0",
    )
    .run()
    .ok();
}

/// A name server that knows one address for every name.
fn name_server() -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
    let port = socket.local_addr().expect("address").port();
    std::thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut query) {
            drop(socket.send_to(&answer(&query[..length]), from));
        }
    });
    port
}

/// The query, marked as an answer with one A record (none for other types) of its own name.
fn answer(query: &[u8]) -> Vec<u8> {
    let question_end = 12 + query.get(12..).and_then(|q| q.iter().position(|b| *b == 0)).unwrap_or(0) + 5;
    let asks_for_a = query.get(question_end - 4..question_end - 2) == Some(&[0, 1]);
    let mut answer = query.get(..question_end).unwrap_or(query).to_vec();
    answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(asks_for_a), 0, 0, 0, 0]);
    if asks_for_a {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 7]);
    }
    answer
}
