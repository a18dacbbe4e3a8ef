//! QMP clients that nobody here wrote: PyPI `qemu.qmp` with its `qmp-shell`, and crates.io `qapi`.

use crate::report::Report;
use crate::rig::{self, Running, limit, member, words};
use anyhow::{Context, Result, ensure};
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use xtask::board::Board;
use xtask::{paths, process};

/// The version of qemu.qmp that is tested.
const QEMU_QMP: &str = "qemu.qmp==0.0.6";

/// Runs the group.
pub fn run(board: Board, report: &Report) -> Result<()> {
    let demo = rig::guest("demo")?;
    let options = words("-m 64 -name clients -no-shutdown -kernel demo");
    let mut rig = Running::start(&rig::describe(board, "clients", options, vec![member("demo", demo)])?)?;
    rig.console.expect("tick 1", limit(board, 20)).with_context(|| rig.tail())?;
    report.check(board, "clients::qapi", || qapi(rig.socket()));
    let python = python()?;
    report.check(board, "clients::qemu.qmp", || qemu_qmp(&python, rig.socket()));
    report.check(board, "clients::qmp-shell", || qmp_shell(&python, rig.socket()));
    report.check(board, "clients::qmp-shell --hmp", || qmp_shell_hmp(&python, rig.socket()));
    report.check(board, "clients::power button of the demo guest", || {
        let mut client = rig.qmp()?;
        client.execute("system_powerdown", serde_json::json!({}))?;
        rig.console.expect("power button: going off", limit(board, 10))?;
        client.wait_event("SHUTDOWN", limit(board, 10))?;
        Ok(())
    });
    report.check(board, "clients::quit", || rig.quit());
    Ok(())
}

/// A virtual environment under the build directory, made once; gives its bin directory.
fn python() -> Result<PathBuf> {
    let directory = paths::cache("python")?;
    let bin = directory.join("bin");
    if bin.join("qmp-shell").exists() {
        return Ok(bin);
    }
    let mut command = process::command("python3");
    command.args(["-m", "venv"]).arg(&directory);
    process::capture(&mut command, "python3 -m venv", Duration::from_secs(120))?;
    let mut command = process::command(bin.join("pip"));
    command.args(["install", "--quiet", "--disable-pip-version-check", QEMU_QMP]);
    process::capture(&mut command, "pip install", Duration::from_secs(180))?;
    Ok(bin)
}

fn qapi(socket: &Path) -> Result<()> {
    use qapi::qmp;
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut client = qapi::Qmp::from_stream(&stream);
    let greeting = client.handshake()?;
    ensure!(greeting.version.qemu.major == 2 && greeting.version.qemu.minor == 8, "{greeting:?}");
    let version = client.execute(&qmp::query_version {})?;
    ensure!(version.package.contains("Monovisor"), "{version:?}");
    let status = client.execute(&qmp::query_status {})?;
    ensure!(status.running && status.status == qmp::RunState::running, "{status:?}");
    client.execute(&qmp::stop {})?;
    ensure!(!client.execute(&qmp::query_status {})?.running, "still running after stop");
    client.execute(&qmp::cont {})?;
    client.nop()?;
    let events: Vec<qmp::Event> = client.events().collect();
    ensure!(matches!(events[..], [qmp::Event::STOP { .. }, qmp::Event::RESUME { .. }]), "{events:?}");
    let name = client.execute(&qmp::query_name {})?;
    ensure!(name.name.as_deref() == Some("clients"), "{name:?}");
    let commands = client.execute(&qmp::query_commands {})?;
    ensure!(commands.iter().any(|command| command.name == "system_powerdown"), "{} commands", commands.len());
    let text = qmp::human_monitor_command { command_line: "info status".into(), cpu_index: None };
    ensure!(client.execute(&text)?.trim() == "VM status: running", "info status");
    Ok(())
}

/// Drives the rig with the asynchronous client class.
const SCRIPT: &str = r#"
import asyncio, sys
from qemu.qmp import QMPClient, ExecuteError

async def main():
    client = QMPClient('rig')
    events = []
    with client.listener() as listener:
        await client.connect(sys.argv[1])
        status = await client.execute('query-status')
        assert status == {'status': 'running', 'singlestep': False, 'running': True}, status
        await client.execute('stop')
        assert (await client.execute('query-status'))['status'] == 'paused'
        await client.execute('cont')
        for name in ['STOP', 'RESUME']:
            event = await asyncio.wait_for(listener.get(), 20)
            assert event['event'] == name, event
            assert event['timestamp']['seconds'] != 0, event
    try:
        await client.execute('no-such-command')
        raise AssertionError('taken')
    except ExecuteError as error:
        assert str(error) == 'The command no-such-command has not been found', error
    version = await client.execute('query-version')
    assert version['qemu'] == {'major': 2, 'minor': 8, 'micro': 0}, version
    # Pipelined: each reply finds its own command.
    replies = await asyncio.gather(*[client.execute('query-name') for _ in range(20)])
    assert all(reply == {'name': 'clients'} for reply in replies), replies
    await client.disconnect()
    print('DONE')

asyncio.run(asyncio.wait_for(main(), 60))
"#;

fn qemu_qmp(bin: &Path, socket: &Path) -> Result<()> {
    let mut command = process::command(bin.join("python3"));
    command.arg("-c").arg(SCRIPT).arg(socket);
    let text = process::capture(&mut command, "qemu.qmp", Duration::from_secs(90))?;
    ensure!(text.contains("DONE"), "{text}");
    Ok(())
}

/// Feeds lines to qmp-shell and gives what it printed.
fn shell(bin: &Path, socket: &Path, options: &[&str], lines: &str) -> Result<String> {
    let input = paths::cache("boot-tests")?.join("qmp-shell.in");
    std::fs::File::create(&input)?.write_all(lines.as_bytes())?;
    // The shell reads its commands from standard input, which our helper keeps for itself: a small script connects it.
    let mut command = process::command("sh");
    command.args(["-c", "in=$1; shift; exec \"$@\" < \"$in\"", "sh"]).arg(&input).arg(bin.join("qmp-shell"));
    command.args(options).arg(socket).stderr(Stdio::null());
    let output = process::output(&mut command, "qmp-shell", Duration::from_secs(60))?;
    Ok(format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
}

fn qmp_shell(bin: &Path, socket: &Path) -> Result<()> {
    let lines = "query-status\nstop\nquery-status\ncont\nmemsave val=16777216 size=16 filename=/tmp/shell\n\
                 x-store-list\nno-such\n";
    let text = shell(bin, socket, &[], lines)?;
    for part in [r#""status": "running""#, r#""status": "paused""#, "tmp/shell", "CommandNotFound"] {
        ensure!(text.contains(part), "no {part} in:\n{text}");
    }
    Ok(())
}

fn qmp_shell_hmp(bin: &Path, socket: &Path) -> Result<()> {
    let text = shell(bin, socket, &["--hmp"], "info status\ninfo version\n")?;
    for part in ["VM status: running", "2.8.0"] {
        ensure!(text.contains(part), "no {part} in:\n{text}");
    }
    Ok(())
}
