//! A processor without SVM: said in plain words, and the monitor is there.

use crate::report::Report;
use crate::rig::{self, Running, limit, member, words};
use anyhow::{Result, ensure};
use serde_json::json;
use xtask::board::Board;

/// Runs the group.
pub fn run(board: Board, report: &Report) -> Result<()> {
    let demo = rig::guest("demo")?;
    let mut rig = rig::describe(board, "no-svm", words("-m 64 -kernel demo"), vec![member("demo", demo)])?;
    rig.cpu = "qemu64,-svm".into();
    let mut rig = Running::start(&rig)?;
    report.check(board, "preflight::no svm is said on the log", || rig.expect_log("SVM", limit(board, 20)));
    report.check(board, "preflight::no svm is internal-error", || {
        let mut client = rig.qmp()?;
        let status = client.execute("query-status", json!({}))?;
        ensure!(status["status"] == "internal-error" && status["running"] == false, "{status}");
        ensure!(client.execute("cont", json!({})).is_err(), "cont without a virtual machine");
        Ok(())
    });
    report.check(board, "preflight::quit", || rig.quit());
    Ok(())
}
