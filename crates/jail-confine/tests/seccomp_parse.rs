//! Profiles that are refused, each with what is wrong and on which line.

use jail_confine::seccomp::{Builtin, Source, parse};

fn refusal(json: &str) -> String {
    match parse(json.as_bytes(), "p.json") {
        Ok(_) => panic!("accepted: {}", &json[..json.len().min(300)]),
        Err(error) => error.to_string(),
    }
}

/// A profile with one rule, on line 3.
fn with_rule(rule: &str) -> String {
    format!("{{\"defaultAction\": \"SCMP_ACT_ERRNO\",\n\"syscalls\": [\n{rule}\n]}}")
}

#[test]
fn what_is_wrong_is_said_with_its_line() {
    for (rule, what) in [
        (r#"{"names": ["read"], "action": "SCMP_ACT_ALLOW", "exclude": {}}"#, "unknown field `exclude`"),
        (r#"{"names": ["read"], "action": "SCMP_ACT_ALLOWED"}"#, "unknown variant `SCMP_ACT_ALLOWED`"),
        (r#"{"names": ["read"]}"#, "missing field `action`"),
        (r#"{"names": ["read"], "name": "read", "action": "SCMP_ACT_ALLOW"}"#, "both name and names"),
        (r#"{"names": [], "action": "SCMP_ACT_ALLOW"}"#, "names no system call"),
        (r#"{"action": "SCMP_ACT_ALLOW"}"#, "names no system call"),
        (r#"{"names": "read", "action": "SCMP_ACT_ALLOW"}"#, "expected a list of system call names"),
        (r#"{"names": [3], "action": "SCMP_ACT_ALLOW"}"#, "expected the name of a system call"),
        (r#"{"names": ["read"], "action": "SCMP_ACT_NOTIFY"}"#, "needs a supervisor"),
        (r#"{"names": ["read"], "action": "SCMP_ACT_ALLOW", "errnoRet": 1}"#, "an action that returns none"),
        (r#"{"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5000}"#, "larger than 4095"),
        (r#"{"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": -1}"#, "invalid value"),
        (r#"{"names": ["read"], "action": "SCMP_ACT_ERRNO", "errno": "ENONSENSE"}"#, "unknown errno"),
        (
            r#"{"names": ["read"], "action": "SCMP_ACT_ALLOW", "includes": {"cap": []}}"#,
            "unknown field `cap`",
        ),
        (
            r#"{"names": ["read"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "5"}}"#,
            "not two numbers",
        ),
        (
            r#"{"names": ["read"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "0.0"}}"#,
            "not two numbers",
        ),
        (
            r#"{"names": ["read"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "5.1.2"}}"#,
            "not two numbers",
        ),
        (
            r#"{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}]}"#,
            "argument index 6",
        ),
        (
            r#"{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_IS"}]}"#,
            "unknown variant `SCMP_CMP_IS`",
        ),
        (
            r#"{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "op": "SCMP_CMP_EQ"}]}"#,
            "missing field `value`",
        ),
        (
            r#"{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 18446744073709551616, "op": "SCMP_CMP_EQ"}]}"#,
            "invalid type",
        ),
        (r#"{"names": ["read"], "action": "SCMP_ACT_ALLOW", "action": "SCMP_ACT_ALLOW"}"#, "duplicate field"),
        (r#"[["read"], null, "SCMP_ACT_ALLOW", null, null, null, null, null, null]"#, "expected an object"),
        (
            r#"{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [[0, 1, 0, "SCMP_CMP_EQ"]]}"#,
            "expected an object",
        ),
        (
            r#"{"names": ["read"], "action": "SCMP_ACT_ALLOW", "excludes": [null, null, null]}"#,
            "expected an object",
        ),
    ] {
        let seen = refusal(&with_rule(rule));
        assert!(seen.starts_with("seccomp profile \"p.json\", line 3: "), "{rule}: {seen}");
        assert!(seen.contains(what), "{rule}: {seen}");
    }
}

#[test]
fn whole_profiles_that_are_refused() {
    for (json, what) in [
        ("", "EOF"),
        ("[]", "invalid type"),
        ("{}", "defaultAction is missing"),
        (r#"{"syscalls": []}"#, "defaultAction is missing"),
        (r#"{"defaultAction": "SCMP_ACT_ERRNO"} x"#, "trailing characters"),
        (r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrno": "EWHAT"}"#, "unknown errno"),
        (r#"{"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1}"#, "an action that returns none"),
        (r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#, "needs a supervisor"),
        (
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "listenerPath": "/run/x"}"#,
            "listenerPath needs a supervisor",
        ),
        (r#"{"defaultAction": "SCMP_ACT_ERRNO", "flags": ["SECCOMP_FILTER_FLAG_MAGIC"]}"#, "unknown variant"),
        (
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_Z80"]}"#,
            "unknown architecture",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "architectures": [], "archMap": []}"#,
            "both archMap and architectures",
        ),
        ("{\"defaultAction\": \"SCMP_ACT_ERRNO\", \"comment\": \"\\ud800\"}", ""),
    ] {
        let seen = refusal(json);
        assert!(seen.contains(what), "{json}: {seen}");
    }
    let error =
        parse(b"{\"defaultAction\": \"SCMP_ACT_ERRNO\", \"x\": \"\xff\"}", "p.json").expect_err("no UTF-8");
    assert_eq!(error.line(), Some(1));
}

#[test]
fn json_bombs() {
    let deep = format!(r#"{{"defaultAction": {}"#, "[".repeat(500_000));
    assert!(refusal(&deep).contains("line 1"), "depth");
    let deep = with_rule(&format!(r#"{{"names": {}"#, "[".repeat(200_000)));
    assert!(refusal(&deep).contains("line 3"), "depth in a rule");
    let large = format!(r#"{{"defaultAction": "SCMP_ACT_ERRNO"}}{}"#, " ".repeat(1 << 20));
    assert!(refusal(&large).contains("are more than 1048576"), "size");
    let rule = r#"{"names":["read"],"action":"SCMP_ACT_ALLOW"}"#;
    let many = format!(
        r#"{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{}{rule}]}}"#,
        format!("{rule},").repeat(8192)
    );
    assert!(refusal(&many).contains("8193 rules are more than 8192"), "rules");
    let arg = r#"{"index":0,"value":1,"op":"SCMP_CMP_EQ"}"#;
    let args = format!("{}{arg}", format!("{arg},").repeat(256));
    let many = with_rule(&format!(r#"{{"names":["read"],"action":"SCMP_ACT_ALLOW","args":[{args}]}}"#));
    assert!(refusal(&many).contains("257 argument conditions"), "conditions");
    // Long names are kept only as text, and a million of short ones are one.
    let names = vec!["\"read\""; 100_000].join(",");
    let fine = with_rule(&format!(r#"{{"names":[{names}],"action":"SCMP_ACT_ALLOW"}}"#));
    assert!(parse(fine.as_bytes(), "p.json").is_ok());
}

#[test]
fn a_files_name_cannot_forge_a_line() {
    let error = parse(b"", "p.json\nseccomp: all is well").expect_err("empty");
    assert!(!error.to_string().contains('\n'), "{error}");
}

#[test]
fn every_built_in_profile_reads() {
    for (builtin, name) in Builtin::ALL {
        assert_eq!(Builtin::parse(name), Some(builtin));
        assert!(Source::Builtin(builtin).profile().is_ok());
        if let Some(json) = builtin.json() {
            parse(json, name).expect("well-formed");
        }
    }
    assert_eq!(Builtin::parse("lax"), None);
}
