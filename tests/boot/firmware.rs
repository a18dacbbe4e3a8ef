//! The disc image for real machines, started by both kinds of firmware.

use crate::report::Report;
use crate::rig::{self, Running, limit, member, words};
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::ffi::OsString;
use std::path::Path;
use xtask::board::Board;
use xtask::emulator::HOST_EXTRA_MIB;
use xtask::{image, paths};

/// Runs the group.
pub fn run(board: Board, report: &Report) -> Result<()> {
    let disc = paths::cache("boot-tests")?.join("pc.iso");
    let demo = rig::guest("demo")?;
    let options = words("-m 64 -name pc -no-shutdown -kernel demo");
    image::make(board, options, vec![member("demo", demo)], &disc)?;
    report.check(board, "firmware::SeaBIOS", || boot(board, "bios", &disc, Vec::new()));
    report.check(board, "firmware::OVMF", || {
        let variables = paths::cache("boot-tests")?.join("ovmf-vars.fd");
        std::fs::copy("/usr/share/OVMF/OVMF_VARS.fd", &variables)?;
        let flash = "if=pflash,format=raw";
        let extra = [
            "-drive".into(),
            format!("{flash},readonly=on,file=/usr/share/OVMF/OVMF_CODE.fd"),
            "-drive".into(),
            format!("{flash},file={}", variables.display()),
        ];
        boot(board, "uefi", &disc, extra.map(OsString::from).to_vec())
    });
    Ok(())
}

fn boot(board: Board, name: &str, disc: &Path, extra: Vec<OsString>) -> Result<()> {
    let mut rig = rig::describe(board, name, Vec::new(), Vec::new())?;
    rig.image = disc.to_owned();
    rig.extra = extra;
    // UEFI keeps some for itself.
    rig.memory_mib = 256 + HOST_EXTRA_MIB;
    let mut rig = Running::start(&rig)?;
    let mut client = rig.qmp()?;
    client.limit = limit(board, 60);
    let status = client.execute("query-status", json!({}))?;
    let log = client.execute("x-query-log", json!({})).unwrap_or_default();
    ensure!(status["status"] == "running", "{status}; log: {log}");
    drop(client);
    rig.console.expect("tick 2", limit(board, 30)).context("the demo guest does not run")?;
    rig.quit()
}
