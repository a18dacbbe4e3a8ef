//! What the monitor says about the machine: options, PCI, tracepoints, character devices, objects, memory.

use crate::report::Report;
use crate::rig::{self, Running, limit, member, words};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use xtask::board::Board;
use xtask::qmp::{Client, QmpError};

/// Runs the group.
pub fn run(board: Board, report: &Report) -> Result<()> {
    let demo = rig::guest("demo")?;
    let options = words("-m 64 -name machine -no-shutdown -append words -kernel demo");
    let mut rig = Running::start(&rig::describe(board, "machine", options, vec![member("demo", demo)])?)?;
    rig.console.expect("tick 1", limit(board, 20)).with_context(|| rig.tail())?;
    report.check(board, "machine::every offered query answers", || queries(&mut rig.qmp()?));
    report.check(board, "machine::query-pci", || pci(&mut rig.qmp()?));
    report.check(board, "machine::tracepoints", || tracepoints(&mut rig.qmp()?));
    report.check(board, "machine::character devices", || chardevs(&mut rig.qmp()?));
    report.check(board, "machine::objects", || objects(&mut rig.qmp()?));
    report.check(board, "machine::pmemsave by the human monitor", || human_save(&mut rig.qmp()?));
    report.check(board, "machine::quit", || rig.quit());
    Ok(())
}

/// The description of the error that a command must end with.
fn refused(client: &mut Client, command: &str, arguments: Value) -> Result<String> {
    match client.execute(command, arguments) {
        Ok(result) => bail!("{command} was not refused: {result}"),
        Err(error) => Ok(error.downcast::<QmpError>()?.desc),
    }
}

/// Names in a list of objects with a member `key`.
fn names<'v>(list: &'v Value, key: &str) -> Vec<&'v str> {
    list.as_array().into_iter().flatten().filter_map(|item| item[key].as_str()).collect()
}

/// No query that is offered and needs no arguments may fail.
fn queries(client: &mut Client) -> Result<()> {
    let commands = client.execute("query-commands", json!({}))?;
    for name in names(&commands, "name").into_iter().filter(|name| name.starts_with("query-")) {
        // This guest has no balloon, and only a device can be asked about.
        if name == "query-balloon" {
            let error = refused(client, name, json!({}))?;
            ensure!(error == "No balloon device has been activated", "{error}");
        } else {
            client.execute(name, json!({})).with_context(|| name.to_owned())?;
        }
    }
    let options = client.execute("query-command-line-options", json!({ "option": "memory" }))?;
    ensure!(options[0]["parameters"][0]["name"] == "size", "{options}");
    let error = refused(client, "query-command-line-options", json!({ "option": "nope" }))?;
    ensure!(error == "invalid option name: nope", "{error}");
    Ok(())
}

fn pci(client: &mut Client) -> Result<()> {
    let buses = client.execute("query-pci", json!({}))?;
    let Some(devices) = buses[0]["devices"].as_array() else { bail!("{buses}") };
    let ids: Vec<_> = devices.iter().map(|device| device["id"]["device"].as_u64()).collect();
    ensure!(ids.starts_with(&[Some(0x1237), Some(0x7000)]) && ids.contains(&Some(0x7113)), "{buses}");
    Ok(())
}

fn tracepoints(client: &mut Client) -> Result<()> {
    let set = |client: &mut Client, name: &str, enable: bool| {
        client.execute("trace-event-set-state", json!({ "name": name, "enable": enable }))
    };
    let before = client.execute("x-query-trace", json!({}))?;
    set(client, "vcpu_exit_*", true)?;
    set(client, "handle_qmp_command", true)?;
    let state = client.execute("trace-event-get-state", json!({ "name": "vcpu_exit_io", "vcpu": 0 }))?;
    ensure!(state[0]["state"] == "enabled" && state[0]["vcpu"] == true, "{state}");
    std::thread::sleep(std::time::Duration::from_millis(300));
    client.execute("query-status", json!({}))?;
    set(client, "*", false)?;
    let (mut text, mut next) = (String::new(), before["next"].clone());
    loop {
        let part = client.execute("x-query-trace", json!({ "offset": next }))?;
        if part["next"] == next {
            break;
        }
        text.push_str(part["text"].as_str().unwrap_or_default());
        next = part["next"].clone();
    }
    ensure!(text.contains(":vcpu_exit_") && text.contains(" cpu=0 rip=0x"), "{text}");
    ensure!(text.contains(":handle_qmp_command session=0 command=query-status"), "{text}");
    let error = refused(client, "trace-event-set-state", json!({ "name": "nope", "enable": true }))?;
    ensure!(error == "unknown event \"nope\"", "{error}");
    Ok(())
}

fn chardevs(client: &mut Client) -> Result<()> {
    let there = client.execute("query-chardev", json!({}))?;
    let labels = names(&there, "label");
    ensure!(labels.contains(&"compat_monitor0") && labels.contains(&"serial0"), "{there}");
    let ring = json!({ "id": "ring", "backend": { "type": "ringbuf", "data": { "size": 8 } } });
    client.execute("chardev-add", ring.clone())?;
    ensure!(refused(client, "chardev-add", ring)? == "Chardev 'ring' already exists", "a second ring");
    client.execute("ringbuf-write", json!({ "device": "ring", "data": "0123456789\n" }))?;
    let read = client.execute("ringbuf-read", json!({ "device": "ring", "size": 100 }))?;
    ensure!(read == "3456789\n", "{read}");
    let file = json!({ "id": "file", "backend": { "type": "file", "data": { "out": "/tmp/chardev" } } });
    client.execute("chardev-add", file)?;
    let store = client.execute("x-store-list", json!({}))?;
    ensure!(names(&store, "path").contains(&"tmp/chardev"), "{store}");
    for id in ["ring", "file"] {
        client.execute("chardev-remove", json!({ "id": id }))?;
    }
    let error = refused(client, "chardev-remove", json!({ "id": "compat_monitor0" }))?;
    ensure!(error == "Chardev 'compat_monitor0' is busy", "{error}");
    Ok(())
}

fn objects(client: &mut Client) -> Result<()> {
    let cpus = client.execute("query-cpus", json!({}))?;
    let path = cpus[0]["qom_path"].clone();
    let kind = client.execute("qom-get", json!({ "path": path, "property": "type" }))?;
    ensure!(kind == "host-x86_64-cpu", "{kind}");
    let append = client.execute("qom-get", json!({ "path": "/machine", "property": "append" }))?;
    ensure!(append == "words", "{append}");
    let devices = client.execute("qom-list", json!({ "path": "/machine/unattached" }))?;
    for child in names(&devices, "name").into_iter().filter(|name| name.starts_with("device[")) {
        let properties = client.execute("qom-list", json!({ "path": child }))?;
        for property in names(&properties, "name").into_iter().filter(|name| *name != "lapic") {
            client.execute("qom-get", json!({ "path": child, "property": property }))?;
        }
    }
    let error = refused(client, "qom-get", json!({ "path": "/nope", "property": "x" }))?;
    ensure!(error == "Device '/nope' not found", "{error}");
    Ok(())
}

fn human_save(client: &mut Client) -> Result<()> {
    let text = json!({ "command-line": "pmemsave 0x1000000 300000 \"/tmp/human\"" });
    let said = client.execute("human-monitor-command", text)?;
    ensure!(said == "", "{said}");
    let store = client.execute("x-store-list", json!({}))?;
    let file = store.as_array().into_iter().flatten().find(|file| file["path"] == "tmp/human");
    ensure!(file.is_some_and(|file| file["size"] == 300_000), "{store}");
    Ok(())
}
