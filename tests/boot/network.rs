//! A Debian Linux guest with two network cards on a hub: what the operator does to them is seen from inside, and the other way round.

use crate::linux::{self, shell};
use crate::report::Report;
use crate::rig::{Running, limit, words};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::time::Duration;
use xtask::board::Board;
use xtask::qmp::Client;

/// What the rig has besides what every Linux guest has here.
const OPTIONS: &str = "-netdev hubport,id=n0,hubid=7 -netdev hubport,id=n1,hubid=7 \
    -device virtio-net-pci,netdev=n0,id=net0,mac=52:54:00:00:00:01 -device virtio-net-pci,netdev=n1";

/// Runs the group.
pub fn run(board: Board, report: &Report) -> Result<()> {
    let mut rig = linux::describe(board, "network", 1)?;
    rig.options.extend(words(OPTIONS));
    let mut rig = Running::start(&rig)?;
    let booted = report.check(board, "network::boots to userspace", || {
        rig.console.expect("guest: ready", limit(board, 60)).with_context(|| rig.tail())?;
        rig.console.expect("# ", limit(board, 10))?;
        Ok(())
    });
    if !booted {
        return Ok(());
    }
    let mut client = rig.qmp()?;
    report.check(board, "network::info network", || info(&mut client));
    report.check(board, "network::a link that goes and comes back", || link(&mut rig, &mut client));
    report.check(board, "network::a filter that changes", || filter(&mut rig, &mut client));
    drop(client);
    report.check(board, "network::quit", || rig.quit());
    Ok(())
}

/// The newest port first, as in QEMU.
fn info(client: &mut Client) -> Result<()> {
    let text = client.execute("human-monitor-command", json!({ "command-line": "info network" }))?;
    let card = "index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00";
    let want =
        format!("hub 7\r\n \\ n1: virtio-net-pci.1: {card}:12:34:56\r\n \\ n0: net0: {card}:00:00:01\r\n");
    ensure!(text == want, "{text}");
    Ok(())
}

/// `set_link`, by the card's name and by its back end's, is what the guest's driver sees.
fn link(rig: &mut Running, client: &mut Client) -> Result<()> {
    ensure!(shell(rig, "cat /sys/class/net/eth0/address")?.contains("52:54:00:00:00:01"), "eth0 is another");
    shell(rig, "ip link set eth0 up")?;
    carrier(rig, "1")?;
    for name in ["net0", "n0"] {
        client.execute("set_link", json!({ "name": name, "up": false }))?;
        carrier(rig, "0").with_context(|| name.to_owned())?;
        client.execute("set_link", json!({ "name": name, "up": true }))?;
        carrier(rig, "1").with_context(|| name.to_owned())?;
    }
    Ok(())
}

/// Waits until the guest sees the link so.
fn carrier(rig: &mut Running, want: &str) -> Result<()> {
    let file = "/sys/class/net/eth0/carrier";
    let command = format!(
        "i=0; until [ $(cat {file}) = {want} ] || [ $i = 50 ]; do sleep 0.1; i=$((i+1)); done; echo carrier=$(cat {file})"
    );
    let seen = shell(rig, &command)?;
    ensure!(seen.contains(&format!("carrier={want}")), "not {want}: {seen}");
    Ok(())
}

/// Whether a card takes all frames; a change after that is told. The guest's own changes, as a link comes up, are waited for.
fn query(client: &mut Client, name: &str) -> Result<Value> {
    for _ in 0..20 {
        client.events.clear();
        let filter = client.execute("query-rx-filter", json!({ "name": name }))?;
        client.collect_events(Duration::from_millis(200))?;
        if client.events.is_empty() {
            return Ok(filter[0]["promiscuous"].clone());
        }
    }
    bail!("the filter never rests")
}

/// There is one event between two questions, and its path leads to an object.
fn filter(rig: &mut Running, client: &mut Client) -> Result<()> {
    const CHANGED: &str = "NIC_RX_FILTER_CHANGED";
    shell(rig, "ip link set eth0 up; ip link set eth1 up")?;
    for _ in 0..2 {
        ensure!(query(client, "net0")? == false, "promiscuous at first");
        shell(rig, "ip link set eth0 promisc on")?;
        let event = client.wait_event(CHANGED, limit(rig.board, 10))?;
        ensure!(
            event["data"] == json!({ "name": "net0", "path": "/machine/peripheral/net0/virtio-backend" }),
            "{event}"
        );
        shell(rig, "ip link set eth0 promisc off")?;
        client.collect_events(Duration::from_millis(500))?;
        ensure!(client.events.is_empty(), "a second event: {:?}", client.events);
    }
    query(client, "virtio-net-pci.1")?;
    shell(rig, "ip link set eth1 promisc on")?;
    let event = client.wait_event(CHANGED, limit(rig.board, 10))?;
    let path = "/machine/peripheral-anon/device[0]/virtio-backend";
    ensure!(event["data"] == json!({ "path": path }), "{event}");
    ensure!(query(client, "virtio-net-pci.1")? == true, "not promiscuous");
    let kind = client.execute("qom-get", json!({ "path": path, "property": "type" }))?;
    ensure!(kind == "virtio-net-device", "{kind}");
    let children = client.execute("qom-list", json!({ "path": "/machine/peripheral/net0" }))?;
    let child = json!({ "name": "virtio-backend", "type": "child<virtio-net-device>" });
    ensure!(children.as_array().is_some_and(|all| all.contains(&child)), "{children}");
    Ok(())
}
