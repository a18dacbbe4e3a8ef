//! A Debian Linux guest with disks: an image of the bundle, one in the store, and one under a snapshot.

use crate::linux::{self, shell};
use crate::report::Report;
use crate::rig::{Running, limit, member};
use anyhow::{Context, Result, ensure};
use serde_json::json;
use xtask::board::Board;
use xtask::{paths, pull};

/// Bytes of the image in the bundle: a multiple of a sector, not of a page.
const IMAGE: usize = (256 << 10) + 512;
/// Bytes of the disk in the store.
const SCRATCH: usize = 768 << 10;

/// What the rig has besides what every Linux guest has here.
const OPTIONS: [&str; 8] = [
    "-device",
    "virtio-blk-pci,drive=d1,id=scratch,num-queues=2,serial=store-1,addr=7",
    "-drive",
    "file=/tmp/scratch,x-size=768k,if=none,id=d1",
    "-drive",
    "file=disk.img,if=virtio,readonly=on,serial=fixed",
    "-drive",
    "file=disk.img,format=raw,snapshot=on",
];

/// Content that repeats nowhere.
fn content() -> Vec<u8> {
    let mut state = 1u64;
    (0..IMAGE)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 56) as u8
        })
        .collect()
}

/// Runs the group.
pub fn run(board: Board, report: &Report) -> Result<()> {
    let image = paths::cache("boot-tests")?.join("disk.img");
    std::fs::write(&image, content())?;
    let mut rig = linux::describe(board, "disks", 1)?;
    rig.options.extend(OPTIONS.map(String::from));
    rig.members.push(member("disk.img", &image));
    let mut rig = Running::start(&rig)?;
    let booted = report.check(board, "disks::boots to userspace", || {
        rig.console.expect("guest: ready", limit(board, 60)).with_context(|| rig.tail())?;
        rig.console.expect("# ", limit(board, 10))?;
        Ok(())
    });
    if !booted {
        return Ok(());
    }
    report.check(board, "disks::what the guest finds", || finds(&mut rig));
    report.check(board, "disks::what query-pci says", || query_pci(&rig));
    report.check(board, "disks::an image of the bundle", || fixed(&mut rig));
    report.check(board, "disks::an image in the store", || store(&mut rig));
    report.check(board, "disks::a snapshot", || snapshot(&mut rig));
    report.check(board, "disks::what the block queries say", || block_queries(&rig));
    report.check(board, "disks::a driver that comes and goes", || rebind(&mut rig));
    report.check(board, "disks::a full store", || full_store(&mut rig));
    report.check(board, "disks::quit", || rig.quit());
    Ok(())
}

/// The checksum that the guest's `md5sum` prints for what a command writes.
fn sum(rig: &mut Running, command: &str) -> Result<String> {
    let text = shell(rig, &format!("{command} 2>/dev/null | md5sum"))?;
    Ok(text.split_whitespace().next().unwrap_or_default().to_owned())
}

fn finds(rig: &mut Running) -> Result<()> {
    let command = "for disk in vda vdb vdc; do cd /sys/block/$disk; \
        echo $disk $(cat size) $(cat ro) $(cat queue/discard_max_bytes) [$(cat serial)]; done; cd /";
    let found = shell(rig, command)?;
    let lines: Vec<&str> = found.lines().map(str::trim).collect();
    let sectors = IMAGE / 512;
    let want = [
        format!("vda {sectors} 1 0 [fixed]"),
        format!("vdb {sectors} 0 8388608 []"),
        format!("vdc {} 0 8388608 [store-1]", SCRATCH / 512),
    ];
    ensure!(lines == want, "{found}");
    let interrupts =
        shell(rig, "grep -c virtio0-req /proc/interrupts; dmesg | grep virtio | grep -ci error")?;
    ensure!(interrupts.split_whitespace().eq(["1", "0"]), "{interrupts}");
    Ok(())
}

fn query_pci(rig: &Running) -> Result<()> {
    let buses = rig.qmp()?.execute("query-pci", json!({}))?;
    let devices = buses[0]["devices"].as_array().context("no devices")?;
    let disk = devices.iter().find(|device| device["slot"] == 7).context("no device in slot 7")?;
    ensure!(disk["id"] == json!({ "device": 0x1042, "vendor": 0x1af4 }), "{disk}");
    ensure!(disk["qdev_id"] == "scratch" && disk["irq"].is_number(), "{disk}");
    let regions = disk["regions"].as_array().context("no regions")?;
    let sizes: Vec<_> = regions.iter().map(|region| (&region["bar"], &region["size"])).collect();
    ensure!(
        sizes == [(&json!(0), &json!(4)), (&json!(1), &json!(4096)), (&json!(4), &json!(16384))],
        "{disk}"
    );
    Ok(())
}

/// What the guest reads is what is in the bundle.
fn fixed(rig: &mut Running) -> Result<()> {
    shell(rig, "dd if=/dev/vda bs=64k of=/tmp/image 2>/dev/null")?;
    ensure!(shell(rig, "wc -c < /tmp/image")? == IMAGE.to_string(), "its size");
    // Byte by byte, by another way into the guest: the first and the last of it.
    let image = content();
    for from in [0, IMAGE - 512] {
        let shown = shell(
            rig,
            &format!("dd if=/dev/vda bs=1 skip={from} count=8 2>/dev/null | hexdump -e '8/1 \"%02x\"'"),
        )?;
        let want: String = image[from..from + 8].iter().map(|byte| format!("{byte:02x}")).collect();
        ensure!(shown == want, "{shown} at {from}");
    }
    let refused =
        shell(rig, "dd if=/dev/zero of=/dev/vda count=1 2>&1 | grep -c 'not permitted\\|Read-only'")?;
    ensure!(refused == "1", "a read-only disk was written to: {refused}");
    Ok(())
}

/// Writes of all sizes come back, to the guest and to the operator.
fn store(rig: &mut Running) -> Result<()> {
    let want = sum(rig, "cat /tmp/image")?;
    for (name, write, read) in [
        ("pages", "bs=4k oflag=direct", "bs=4k iflag=direct"),
        ("large requests", "bs=1M", "bs=1M"),
        ("sectors, somewhere", "bs=512 seek=777 conv=fsync", "bs=512 skip=777"),
    ] {
        shell(
            rig,
            &format!(
                "dd if=/tmp/image of=/dev/vdc {write} 2>/dev/null; sync; echo 3 > /proc/sys/vm/drop_caches"
            ),
        )?;
        let got = sum(rig, &format!("dd if=/dev/vdc {read} | head -c {IMAGE}"))?;
        ensure!(got == want, "{name}");
    }
    let mut client = rig.qmp()?;
    let file = pull::fetch(&mut client, "/tmp/scratch")?;
    ensure!(file.len() == SCRATCH, "{} bytes in the store", file.len());
    ensure!(file[777 * 512..777 * 512 + IMAGE] == content()[..], "another content in the store");
    let zeros = sum(rig, &format!("dd if=/dev/zero bs={SCRATCH} count=1"))?;
    shell(rig, "blkdiscard /dev/vdc; echo 3 > /proc/sys/vm/drop_caches")?;
    ensure!(sum(rig, "cat /dev/vdc")? == zeros, "what was discarded is zero");
    Ok(())
}

/// What is written to a snapshot is read back, and the image below stays.
fn snapshot(rig: &mut Running) -> Result<()> {
    let before = sum(rig, "cat /dev/vda")?;
    ensure!(sum(rig, "cat /dev/vdb")? == before, "both show the same image");
    shell(rig, "dd if=/tmp/image of=/dev/vdb bs=512 skip=1 seek=9 count=333 oflag=direct 2>/dev/null")?;
    shell(rig, "echo 3 > /proc/sys/vm/drop_caches")?;
    let want = sum(
        rig,
        "{ head -c 4608 /tmp/image; tail -c +513 /tmp/image | head -c 170496; tail -c +175105 /tmp/image; }",
    )?;
    ensure!(sum(rig, "cat /dev/vdb")? == want, "what was written");
    ensure!(sum(rig, "cat /dev/vda")? == before, "what is below");
    Ok(())
}

/// What the disks are made of, and what they have done by now.
fn block_queries(rig: &Running) -> Result<()> {
    let mut client = rig.qmp()?;
    let disks = client.execute("query-block", json!({}))?;
    let names: Vec<_> = disks.as_array().context("no disks")?.iter().map(|disk| &disk["device"]).collect();
    ensure!(names == ["d1", "virtio0", "virtio1"], "{disks}");
    let (store, fixed, snapshot) = (&disks[0], &disks[1]["inserted"], &disks[2]["inserted"]);
    let all = |member: &str, value| (0..3).all(|index| disks[index][member] == value);
    ensure!(all("io-status", json!("ok")) && all("removable", json!(false)), "{disks}");
    ensure!(
        store["inserted"]["image"]
            == json!({
                "virtual-size": SCRATCH, "filename": "/tmp/scratch", "format": "raw", "dirty-flag": false,
                "actual-size": store["inserted"]["image"]["actual-size"],
            }),
        "{store}"
    );
    ensure!(fixed["ro"] == true && fixed["image"]["actual-size"] == IMAGE, "{fixed}");
    ensure!(fixed["cache"] == json!({ "no-flush": false, "direct": false, "writeback": true }), "{fixed}");
    ensure!(snapshot["backing_file"] == "disk.img" && snapshot["backing_file_depth"] == 1, "{snapshot}");
    ensure!(snapshot["image"]["backing-image"]["filename"] == "disk.img", "{snapshot}");
    // 333 sectors were written, from the middle of a page on.
    ensure!(snapshot["image"]["actual-size"].as_u64() >= Some(43 * 4096), "{snapshot}");

    let counts = client.execute("query-blockstats", json!({}))?;
    let (store, fixed) = (&counts[0]["stats"], &counts[1]["stats"]);
    ensure!(counts[0]["parent"]["node-name"] == "#block000", "{counts}");
    ensure!(counts[0]["parent"]["stats"]["wr_highest_offset"] == store["wr_highest_offset"], "{counts}");
    // The last of the three writings began at sector 777; the guest's cache writes whole pages.
    let end = 777 * 512 + IMAGE as u64;
    let highest = store["wr_highest_offset"].as_u64().context("no highest offset")?;
    ensure!((end..end + 4096).contains(&highest), "{store}");
    ensure!(store["wr_bytes"].as_u64() >= Some(3 * IMAGE as u64), "{store}");
    ensure!(fixed["rd_bytes"].as_u64() >= Some(IMAGE as u64) && fixed["wr_bytes"] == 0, "{fixed}");
    for count in ["rd_operations", "rd_total_time_ns", "idle_time_ns"] {
        ensure!(fixed[count].as_u64() > Some(0), "{count}: {fixed}");
    }
    ensure!(counts[2]["backing"]["parent"]["node-name"] == "#block006", "{counts}");

    let said = client.execute("human-monitor-command", json!({ "command-line": "info block" }))?;
    ensure!(
        said == "d1 (#block001): /tmp/scratch (raw)\r\n    Cache mode:       writeback\r\n\r\n\
                 virtio0 (#block004): disk.img (raw, read-only)\r\n    Cache mode:       writeback\r\n\r\n\
                 virtio1 (#block008): x-overlay (x-overlay)\r\n    Cache mode:       writeback\r\n    \
                 Backing file:     disk.img (chain depth: 1)\r\n",
        "{said}"
    );
    let said = client.execute("human-monitor-command", json!({ "command-line": "info blockstats" }))?;
    let counts = said.as_str().unwrap_or_default();
    ensure!(counts.lines().count() == 3 && counts.starts_with("d1: rd_bytes="), "{said}");
    ensure!(counts.contains(&format!(" wr_bytes={} rd_operations=", store["wr_bytes"])), "{said}");

    let nodes = client.execute("query-named-block-nodes", json!({}))?;
    let drivers: Vec<_> = nodes.as_array().context("no nodes")?.iter().map(|node| &node["drv"]).collect();
    ensure!(drivers == ["x-overlay", "raw", "file", "raw", "file", "raw", "file"], "{nodes}");
    let shallow = client.execute("query-blockstats", json!({ "query-nodes": true }))?;
    ensure!(shallow.as_array().map(Vec::len) == Some(7), "{shallow}");
    ensure!(shallow[6]["node-name"] == "#block008" && shallow[6].get("backing").is_none(), "{shallow}");
    Ok(())
}

/// A write for which there is no room stops the guest; with room again it goes on as if nothing had been.
fn full_store(rig: &mut Running) -> Result<()> {
    let mut client = rig.qmp()?;
    client.execute("pmemsave", json!({ "val": 0, "size": 1 << 20, "filename": "/tmp/spare" }))?;
    // Files that leave no room for a page: the largest first, each half as long as the one before.
    let mut size = 128 << 20;
    while size >= 4096 {
        for copy in 0..2 {
            let file = format!("/tmp/fill-{size}-{copy}");
            let arguments = json!({ "val": 0, "size": size, "filename": file });
            // Refused where it does not fit.
            let _ = client.execute("pmemsave", arguments);
        }
        size /= 2;
    }
    rig.console.send("dd if=/tmp/image of=/dev/vdc bs=4k oflag=direct 2>/dev/null; echo written: $?\n")?;
    let event = client.wait_event("BLOCK_IO_ERROR", limit(rig.board, 20))?;
    ensure!(
        event["data"]
            == json!({
                "device": "d1", "node-name": "#block001", "operation": "write", "action": "stop",
                "nospace": true, "reason": "No space left on device",
            }),
        "{event}"
    );
    client.wait_event("STOP", limit(rig.board, 10))?;
    ensure!(client.execute("query-status", json!({}))?["status"] == "io-error", "the guest's state");
    ensure!(client.execute("query-block", json!({}))?[0]["io-status"] == "nospace", "the disk's state");
    // Once more without room.
    client.execute("cont", json!({}))?;
    client.wait_event("BLOCK_IO_ERROR", limit(rig.board, 20))?;
    client.wait_event("STOP", limit(rig.board, 10))?;
    // An empty file takes none.
    client.execute("pmemsave", json!({ "val": 0, "size": 0, "filename": "/tmp/spare" }))?;
    client.execute("cont", json!({}))?;
    rig.console.expect("written: 0", limit(rig.board, 20)).with_context(|| rig.tail())?;
    ensure!(client.execute("query-block", json!({}))?[0]["io-status"] == "ok", "the disk's state");
    let counts = client.execute("query-blockstats", json!({}))?;
    ensure!(counts[0]["stats"]["failed_wr_operations"] == 0, "{counts}");
    let want = sum(rig, "cat /tmp/image")?;
    shell(rig, "echo 3 > /proc/sys/vm/drop_caches")?;
    ensure!(sum(rig, &format!("head -c {IMAGE} /dev/vdc"))? == want, "what was written");
    Ok(())
}

/// Reset and renegotiation: the driver lets go of the device and takes it again.
fn rebind(rig: &mut Running) -> Result<()> {
    let before = sum(rig, "cat /dev/vda")?;
    for _ in 0..3 {
        shell(
            rig,
            "cd /sys/bus/virtio/drivers/virtio_blk; echo virtio0 > unbind; echo virtio0 > bind; cd /",
        )?;
        ensure!(sum(rig, "cat /dev/vda")? == before, "after a reset of the device");
    }
    Ok(())
}
