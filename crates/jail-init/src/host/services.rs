//! Servers that run programs as the account: PHP pools, uWSGI, supervisor, and web servers with suEXEC.

use std::path::{Path, PathBuf};

use super::Finding;
use super::accounts::Account;
use super::shown;
use super::view::{View, Whose, lines, words};

/// A server's configuration: where it lies, and the key that names who runs.
struct Kind {
    name: &'static str,
    directories: &'static [&'static str],
    ending: &'static str,
    keys: &'static [&'static str],
    /// `key = value` rather than `Key value`.
    equals: bool,
}

const KINDS: [Kind; 4] = [
    Kind {
        name: "a PHP pool",
        directories: &["/etc/php/*/fpm/pool.d", "/etc/php-fpm.d", "/etc/php8*/php-fpm.d"],
        ending: ".conf",
        keys: &["user"],
        equals: true,
    },
    Kind {
        name: "uWSGI",
        directories: &["/etc/uwsgi/apps-enabled", "/etc/uwsgi.d"],
        ending: ".ini",
        keys: &["uid"],
        equals: true,
    },
    Kind {
        name: "supervisor",
        directories: &["/etc/supervisor/conf.d", "/etc/supervisord.d"],
        ending: "",
        keys: &["user"],
        equals: true,
    },
    Kind {
        name: "Apache",
        directories: &[
            "/etc/apache2",
            "/etc/apache2/sites-enabled",
            "/etc/apache2/conf-enabled",
            "/etc/apache2/mods-enabled",
            "/etc/httpd/conf",
            "/etc/httpd/conf.d",
        ],
        ending: ".conf",
        keys: &["suexecusergroup", "assignuserid"],
        equals: false,
    },
];

const WHY: &str = "what a visitor of the site or the account itself puts there runs as the account on the host, without \
                   the login shell";

pub(super) fn look(view: &View, account: &Account) -> Vec<Finding> {
    let mut findings = Vec::new();
    for kind in &KINDS {
        let directories = kind.directories.iter().flat_map(|dir| expand(view, dir));
        for dir in directories {
            for name in view.names(&dir, Whose::Roots) {
                let file = dir.join(&name);
                if !name.to_string_lossy().ends_with(kind.ending) {
                    continue;
                }
                let Some(bytes) = view.read(&file, Whose::Roots) else { continue };
                findings.extend(of_file(kind, &file, &bytes, account));
            }
        }
    }
    findings.extend(user_directories(view, account));
    findings
}

fn of_file(kind: &Kind, file: &Path, bytes: &[u8], account: &Account) -> Option<Finding> {
    let number = lines(bytes).position(|line| names_account(kind, line, account))?;
    Some(Finding::of(
        account,
        "web",
        format!("{} runs as the account ('{}', line {})", kind.name, file.display(), number + 1),
        WHY,
        format!("sed -i '{}s/{}/nobody/' {}", number + 1, account.shown(), file.display()),
    ))
}

fn names_account(kind: &Kind, line: &[u8], account: &Account) -> bool {
    let uid = account.uid.to_string();
    let is_ours = |value: &[u8]| {
        let value = value.strip_prefix(b"#").unwrap_or(value);
        value == account.name || value == uid.as_bytes()
    };
    if line.starts_with(b"#") || line.starts_with(b";") {
        return false;
    }
    let is_key = |key: &[u8]| kind.keys.iter().any(|known| key.eq_ignore_ascii_case(known.as_bytes()));
    if kind.equals {
        let mut halves = line.splitn(2, |b| *b == b'=').map(<[u8]>::trim_ascii);
        let (Some(key), Some(value)) = (halves.next(), halves.next()) else { return false };
        let value = value.split(|b| *b == b';').next().unwrap_or_default().trim_ascii();
        return is_key(key)
            && is_ours(value.strip_prefix(b"\"").and_then(|v| v.strip_suffix(b"\"")).unwrap_or(value));
    }
    let mut fields = words(line);
    fields.next().is_some_and(is_key) && fields.next().is_some_and(is_ours)
}

/// `~/public_html` with CGI programs that suEXEC runs as the owner.
fn user_directories(view: &View, account: &Account) -> Option<Finding> {
    let on = |name: &str| view.has(format!("/etc/apache2/mods-enabled/{name}.load"));
    (on("userdir") && on("suexec") && !is_disabled(view, account)).then(|| {
        Finding::of(
            account,
            "web-userdir",
            "Apache serves ~/public_html, and suEXEC runs its programs as the account",
            WHY,
            format!("echo 'UserDir disabled {}' >/etc/apache2/conf-enabled/no-userdir-{0}.conf && apachectl graceful", shown(&account.name)),
        )
    })
}

/// `UserDir disabled` with this name, or without any.
fn is_disabled(view: &View, account: &Account) -> bool {
    let says_so = |line: &[u8]| {
        let mut fields = words(line);
        let off = fields.next().is_some_and(|key| key.eq_ignore_ascii_case(b"UserDir"))
            && fields.next().is_some_and(|word| word.eq_ignore_ascii_case(b"disabled"));
        let mut named = fields.peekable();
        off && (named.peek().is_none() || named.any(|name| name == account.name))
    };
    ["/etc/apache2/mods-enabled", "/etc/apache2/conf-enabled"].iter().any(|dir| {
        view.names(dir, Whose::Roots).into_iter().any(|name| {
            view.read(Path::new(dir).join(name), Whose::Roots).is_some_and(|bytes| lines(&bytes).any(says_so))
        })
    })
}

/// One `*` as a whole component, or at its end.
fn expand(view: &View, pattern: &str) -> Vec<PathBuf> {
    let Some((before, after)) = pattern.split_once('*') else { return vec![PathBuf::from(pattern)] };
    let (dir, prefix) = before.rsplit_once('/').unwrap_or(("", before));
    view.names(dir, Whose::Roots)
        .into_iter()
        .filter(|name| name.to_string_lossy().starts_with(prefix))
        .map(|name| PathBuf::from(format!("{dir}/{}{after}", name.to_string_lossy())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_runs() {
        let account = Account::dave();
        let [pool, uwsgi, _, apache] = &KINDS;
        assert!(names_account(pool, b"user = dave ; the owner", &account));
        assert!(names_account(pool, b"user=\"1001\"", &account));
        assert!(!names_account(pool, b"; user = dave", &account));
        assert!(!names_account(pool, b"user = davee", &account));
        assert!(!names_account(pool, b"listen.user = dave", &account));
        assert!(names_account(uwsgi, b"uid = dave", &account));
        assert!(names_account(apache, b"SuexecUserGroup dave dave", &account));
        assert!(names_account(apache, b"SuexecUserGroup #1001 #1001", &account));
        assert!(!names_account(apache, b"ServerName dave", &account));
    }
}
