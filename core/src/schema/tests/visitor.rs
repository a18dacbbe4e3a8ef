//! The visitor against the errors of a real QEMU 2.8.0, and of its source where nobody measured.

use super::with_object;
use crate::error::ErrorClass;
use crate::schema::*;

/// What the visitor says to these arguments.
fn visit(command: &str, arguments: &str) -> Result<(), String> {
    let command = Command::find(command).unwrap();
    with_object(arguments, |object| check_arguments(command, object)).map_err(|error| {
        assert_eq!(error.class(), ErrorClass::GenericError);
        error.description().into()
    })
}

fn accepts(command: &str, arguments: &str) {
    assert_eq!(visit(command, arguments), Ok(()), "{command} {arguments}");
}

fn refuses(command: &str, arguments: &str, error: &str) {
    assert_eq!(visit(command, arguments), Err(error.into()), "{command} {arguments}");
}

#[test]
fn missing_members() {
    refuses("device_del", "{}", "Parameter 'id' is missing");
    refuses("device_del", r#"{"foo":1}"#, "Parameter 'id' is missing");
    refuses("set_link", r#"{"name":"x"}"#, "Parameter 'up' is missing");
    refuses("send-key", "{}", "Parameter 'keys' is missing");
    refuses("object-add", "{}", "Parameter 'qom-type' is missing");
    refuses("x-blockdev-del", "{}", "Parameter 'node-name' is missing");
    refuses("blockdev-add", "{}", "Parameter 'driver' is missing");
    refuses("blockdev-add", r#"{"driver":"file","node-name":"n"}"#, "Parameter 'filename' is missing");
    refuses("chardev-add", r#"{"id":"c","backend":{"type":"file","data":{}}}"#, "Parameter 'out' is missing");
    refuses("chardev-add", r#"{"id":"c","backend":{"type":"file"}}"#, "Parameter 'data' is missing");
    refuses(
        "migrate-set-capabilities",
        r#"{"capabilities":[{"capability":"xbzrle"}]}"#,
        "Parameter 'state' is missing",
    );
}

#[test]
fn wrong_types() {
    let error = |name, expected| format!("Invalid parameter type for '{name}', expected: {expected}");
    refuses("set_link", r#"{"name":"x","up":"true"}"#, &error("up", "boolean"));
    refuses("set_link", r#"{"name":"x","up":1}"#, &error("up", "boolean"));
    refuses("set_link", r#"{"name":null,"up":1}"#, &error("name", "string"));
    refuses("balloon", r#"{"value":"1"}"#, &error("value", "integer"));
    refuses("balloon", r#"{"value":18446744073709551615}"#, &error("value", "integer"));
    refuses("memsave", r#"{"val":0,"size":1.5,"filename":"/tmp/x"}"#, &error("size", "integer"));
    refuses(
        "memsave",
        r#"{"val":0,"size":9223372036854775808,"filename":"/tmp/x"}"#,
        &error("size", "integer"),
    );
    refuses("migrate_set_downtime", r#"{"value":"1"}"#, &error("value", "number"));
    refuses("migrate-set-capabilities", r#"{"capabilities":{}}"#, &error("capabilities", "list"));
    refuses("migrate-set-capabilities", r#"{"capabilities":[1]}"#, &error("null", "QDict"));
    refuses("send-key", r#"{"keys":["a"]}"#, &error("null", "QDict"));
    refuses("send-key", r#"{"keys":[{"type":"number","data":"a"}]}"#, &error("data", "integer"));
    refuses(
        "blockdev-add",
        r#"{"driver":"null-co","node-name":"n","size":"1024"}"#,
        &error("size", "integer"),
    );
    refuses("blockdev-add", r#"{"driver":"null-co","cache":{"direct":1}}"#, &error("direct", "boolean"));
    refuses("blockdev-add", r#"{"driver":"null-co","cache":1}"#, &error("cache", "QDict"));
    refuses("blockdev-add", r#"{"driver":1}"#, &error("driver", "string"));
    // An optional member that is null is there.
    refuses(
        "memsave",
        r#"{"val":0,"size":1,"filename":"x","cpu-index":null}"#,
        &error("cpu-index", "integer"),
    );
}

#[test]
fn accepted() {
    accepts("balloon", r#"{"value":-1}"#);
    accepts("migrate_set_downtime", r#"{"value":-1}"#);
    accepts("migrate_set_downtime", r#"{"value":0.5}"#);
    accepts("send-key", r#"{"keys":[]}"#);
    accepts("transaction", r#"{"actions":[]}"#);
    accepts("transaction", r#"{"actions":[{"type":"abort","data":{}}]}"#);
    accepts("query-status", "{}");
    accepts("qom-set", r#"{"path":"/","property":"x","value":null}"#);
    accepts("qom-set", r#"{"path":"/","property":"x","value":{"deep":[1,{"any":"thing"}]}}"#);
    accepts("device_add", r#"{"driver":1,"foo":[{}]}"#);
    accepts("netdev_add", "{}");
    accepts("set_link", r#"{"up":1,"name":"x","up":true}"#);
}

#[test]
fn unexpected_members() {
    let error = |name| format!("QMP input object member '{name}' is unexpected");
    refuses("query-status", r#"{"a":1}"#, &error("a"));
    refuses("qmp_capabilities", r#"{"enable":[]}"#, &error("enable"));
    refuses("query-memory-devices", r#"{"x":1}"#, &error("x"));
    refuses(
        "migrate-set-capabilities",
        r#"{"capabilities":[{"capability":"xbzrle","state":true,"z":1}]}"#,
        &error("z"),
    );
    refuses("blockdev-add", r#"{"driver":"null-co","filename":"x"}"#, &error("filename"));
    refuses("chardev-add", r#"{"id":"c","backend":{"type":"null","data":{},"x":1}}"#, &error("x"));
    // What is inside is checked before what is left over outside.
    refuses("chardev-add", r#"{"z":1,"id":"c","backend":{"type":"null","data":{"y":1}}}"#, &error("y"));
    // Of several, the first in the order in which they would be printed.
    refuses("query-status", r#"{"one":1,"two":2,"four":4}"#, &error("four"));
}

#[test]
fn words() {
    refuses(
        "migrate-set-capabilities",
        r#"{"capabilities":[{"capability":"nope","state":true}]}"#,
        "Invalid parameter 'nope'",
    );
    refuses("send-key", r#"{"keys":[{"type":"bogus","data":"a"}]}"#, "Invalid parameter 'bogus'");
    refuses(
        "input-send-event",
        r#"{"events":[{"type":"key","data":{"down":true,"key":{"type":"qcode","data":"zz"}}}]}"#,
        "Invalid parameter 'zz'",
    );
    refuses("transaction", r#"{"actions":[{"type":"bogus","data":{}}]}"#, "Invalid parameter 'bogus'");
    refuses("blockdev-add", r#"{"driver":"nope"}"#, "Invalid parameter 'nope'");
    refuses("blockdev-add", r#"{"driver":"null-co","size":1024,"discard":"zap"}"#, "Invalid parameter 'zap'");
    refuses("chardev-add", r#"{"id":"c","backend":{"type":"bogus","data":{}}}"#, "Invalid parameter 'bogus'");
    refuses("drive-backup", r#"{"device":"d","target":"t","sync":""}"#, "Invalid parameter ''");
}

#[test]
fn ranges() {
    let u32_of =
        |value: &str| format!(r#"{{"device":"d","target":"t","sync":"full","granularity":{value}}}"#);
    accepts("drive-mirror", &u32_of("4294967295"));
    accepts("drive-mirror", &u32_of("0"));
    refuses("drive-mirror", &u32_of("4294967296"), "Parameter 'granularity' expects uint32_t");
    refuses("drive-mirror", &u32_of("-1"), "Parameter 'granularity' expects uint32_t");
    let u16_of = |value: &str| {
        let address = format!(r#"{{"type":"inet","data":{{"host":"h","port":"1","to":{value}}}}}"#);
        format!(r#"{{"addr":{address}}}"#)
    };
    accepts("nbd-server-start", &u16_of("65535"));
    refuses("nbd-server-start", &u16_of("65536"), "Parameter 'to' expects uint16_t");
    refuses("query-rocker-of-dpa-groups", r#"{"name":"r","type":256}"#, "Parameter 'type' expects uint8_t");
    accepts("query-rocker-of-dpa-groups", r#"{"name":"r","type":255}"#);
    // What has 64 bits takes every integer.
    accepts("blockdev-snapshot-internal-sync", r#"{"device":"d","name":"n"}"#);
    accepts("ringbuf-read", r#"{"device":"d","size":-9223372036854775808}"#);
}

#[test]
fn alternates() {
    let node = |file: &str| format!(r#"{{"driver":"qcow2","node-name":"n","file":{file}}}"#);
    accepts("blockdev-add", &node(r#""reference""#));
    accepts("blockdev-add", &node(r#"{"driver":"file","filename":"f"}"#));
    for wrong in ["1", "true", "null", "[]", "1.5"] {
        refuses("blockdev-add", &node(wrong), "Invalid parameter type for 'file', expected: BlockdevRef");
    }
    refuses("blockdev-add", &node(r#"{"driver":"file"}"#), "Parameter 'filename' is missing");
    let quorum = r#"{"driver":"quorum","vote-threshold":1,"children":[1]}"#;
    refuses("blockdev-add", quorum, "Invalid parameter type for 'null', expected: BlockdevRef");
    let overlap = |value: &str| format!(r#"{{"driver":"qcow2","file":"f","overlap-check":{value}}}"#);
    accepts("blockdev-add", &overlap(r#""cached""#));
    accepts("blockdev-add", &overlap(r#"{"template":"all","active-l1":false}"#));
    refuses("blockdev-add", &overlap(r#""nope""#), "Invalid parameter 'nope'");
    refuses(
        "blockdev-add",
        &overlap("7"),
        "Invalid parameter type for 'overlap-check', expected: Qcow2OverlapChecks",
    );
}

#[test]
fn nodes_in_nodes() {
    let nested = |depth: usize| {
        let mut text = r#"{"driver":"file","filename":"f"}"#.to_string();
        for _ in 1..depth {
            text = format!(r#"{{"driver":"raw","file":{text}}}"#);
        }
        text
    };
    accepts("blockdev-add", &nested(MAX_DEPTH));
    refuses("blockdev-add", &nested(MAX_DEPTH + 1), "Arguments are nested more than 64 levels deep");
    // What is wrong deep inside is found before what is missing behind it.
    let text = r#"{"driver":"blkverify","test":{"driver":"raw","file":{"driver":"file","filename":1}}}"#;
    refuses("blockdev-add", text, "Invalid parameter type for 'filename', expected: string");
    // No nesting of what is not visited matters.
    let any = format!(r#"{{"path":"/","property":"x","value":{}1{}}}"#, "[".repeat(900), "]".repeat(900));
    accepts("qom-set", &any);
}

#[test]
fn members_of_no_branch_are_unexpected() {
    refuses(
        "blockdev-add",
        r#"{"driver":"file","filename":"f","size":1}"#,
        "QMP input object member 'size' is unexpected",
    );
}
