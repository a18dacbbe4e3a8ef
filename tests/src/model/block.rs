//! Drives without media, and nodes that hold nothing.

use monovisor_core::handlers::{Block, BlockJobs, Element, Media, Poll};
use monovisor_core::schema::block::{DeviceTrayMoved, EjectArgs};
use monovisor_core::schema::block_core::*;
use monovisor_core::schema::block_job::*;
use monovisor_core::schema::blockdev::{BlockdevOptions, BlockdevOptionsBranch, BlockdevRef};
use monovisor_core::schema::misc::ChangeArgs;
use monovisor_core::schema::transaction::{TransactionAction, TransactionArgs};
use monovisor_core::{Context, Error, ErrorClass};

use super::Model;

/// A drive, always empty.
#[derive(Debug)]
struct Drive {
    name: &'static str,
    path: &'static str,
    /// Whether its tray is open; `None`: it has none.
    tray: Option<bool>,
}

/// Drives and nodes.
#[derive(Debug)]
pub(super) struct Blocks {
    drives: [Drive; 3],
    nodes: Vec<String>,
}

impl Default for Blocks {
    fn default() -> Self {
        Self {
            drives: [
                Drive { name: "ide1-cd0", path: "/machine/unattached/device[23]", tray: Some(false) },
                Drive { name: "floppy0", path: "/machine/unattached/device[16]", tray: None },
                Drive { name: "sd0", path: "", tray: None },
            ],
            nodes: Vec::new(),
        }
    }
}

/// How many nodes the model makes.
const MAX_NODES: usize = 64;
/// The longest name of a node, in bytes.
const NODE_NAME_BYTES: usize = 31;

fn refused<T>(error: Error) -> Poll<T> {
    Err(nb::Error::Other(error))
}

fn text<T>(description: &str) -> Poll<T> {
    refused(Error::text(description))
}

/// Neither a drive nor a node has this name.
fn cannot_find(device: &str, node: &str) -> Error {
    Error::generic(format_args!("Cannot find device={device} nor node_name={node}"))
}

fn no_job<T>(device: &str) -> Poll<T> {
    refused(Error::new(ErrorClass::DeviceNotActive, format_args!("Block job '{device}' not found")))
}

impl Blocks {
    fn drive(&mut self, device: Option<&str>, id: Option<&str>) -> Result<&mut Drive, Error> {
        match (device, id) {
            (Some(name), None) => {
                let drive = self.drives.iter_mut().find(|drive| drive.name == name);
                drive.ok_or_else(|| Error::device_not_found(name))
            }
            (None, Some(path)) => {
                let drive = self.drives.iter_mut().find(|drive| !drive.path.is_empty() && drive.path == path);
                drive.ok_or_else(|| Error::device_not_found(path))
            }
            _ => Err(Error::text("Need exactly one of 'device' and 'id'")),
        }
    }

    /// What can be said of a name without a medium behind it.
    fn no_medium(&self, device: Option<&str>, node: Option<&str>) -> Error {
        let known =
            |name: Option<&str>| name.is_some_and(|name| self.drives.iter().any(|drive| drive.name == name));
        match (device, node) {
            (Some(name), _) if known(device) => Error::generic(format_args!("Device '{name}' has no medium")),
            _ => cannot_find(device.unwrap_or(""), node.unwrap_or("")),
        }
    }
}

impl Drive {
    fn move_tray(&mut self, open: bool, cx: &mut Context<'_>) {
        if self.tray.is_some_and(|tray| tray != open) {
            self.tray = Some(open);
            cx.event(&DeviceTrayMoved { device: self.name, id: self.path, tray_open: open });
        }
    }
}

impl Block for Model {
    fn query_block(&mut self, index: usize, _: &mut Context<'_>) -> Element<BlockInfo<'_>> {
        Ok(self.block.drives.get(index).map(|drive| BlockInfo {
            device: drive.name,
            kind: "unknown",
            removable: true,
            locked: false,
            inserted: None,
            tray_open: drive.tray,
            io_status: drive.tray.map(|_| BlockDeviceIoStatus::Ok),
            dirty_bitmaps: None,
        }))
    }

    fn blockdev_add(&mut self, options: BlockdevOptions<'_>, _: &mut Context<'_>) -> Poll<()> {
        let Some(name) = options.node_name else {
            return text("'node-name' must be specified for the root node");
        };
        match options.branch {
            BlockdevOptionsBranch::NullCo(_) | BlockdevOptionsBranch::NullAio(_) => {}
            BlockdevOptionsBranch::File(file) => {
                return refused(Error::cannot_open(file.filename, "No such file or directory"));
            }
            BlockdevOptionsBranch::Qcow2(format) => match format.file {
                BlockdevRef::Reference(node) => return refused(cannot_find(node, node)),
                BlockdevRef::Definition(_) => return text("Image is not in qcow2 format"),
            },
            _ => {
                return refused(Error::generic(format_args!("Unknown driver '{}'", options.driver.as_str())));
            }
        }
        let legal = name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
        if !legal || name.len() > NODE_NAME_BYTES {
            return text("Invalid node name");
        }
        if self.block.drives.iter().any(|drive| drive.name == name) {
            return refused(Error::generic(format_args!("node-name={name} is conflicting with a device id")));
        }
        if self.block.nodes.iter().any(|node| node == name) {
            return text("Duplicate node name");
        }
        if self.block.nodes.len() >= MAX_NODES {
            return refused(Error::generic(format_args!("There are {MAX_NODES} nodes already")));
        }
        self.block.nodes.push(name.into());
        Ok(())
    }

    fn x_blockdev_del(&mut self, arguments: XBlockdevDelArgs<'_>, _: &mut Context<'_>) -> Poll<()> {
        let Some(at) = self.block.nodes.iter().position(|node| node == arguments.node_name) else {
            return refused(Error::generic(format_args!("Cannot find node {}", arguments.node_name)));
        };
        self.block.nodes.remove(at);
        Ok(())
    }

    fn x_blockdev_change(&mut self, arguments: XBlockdevChangeArgs<'_>, _: &mut Context<'_>) -> Poll<()> {
        refused(cannot_find(arguments.parent, arguments.parent))
    }

    fn block_resize(&mut self, arguments: BlockResizeArgs<'_>, _: &mut Context<'_>) -> Poll<()> {
        refused(self.block.no_medium(arguments.device, arguments.node_name))
    }

    fn block_set_io_throttle(&mut self, arguments: BlockIoThrottle<'_>, _: &mut Context<'_>) -> Poll<()> {
        let drive = self.block.drive(arguments.device, arguments.id)?;
        refused(Error::generic(format_args!("Device '{}' has no medium", drive.name)))
    }

    fn block_set_write_threshold(
        &mut self,
        arguments: BlockSetWriteThresholdArgs<'_>,
        _: &mut Context<'_>,
    ) -> Poll<()> {
        if self.block.nodes.iter().any(|node| node == arguments.node_name) {
            return Ok(());
        }
        refused(Error::generic(format_args!("Device '{}' not found", arguments.node_name)))
    }

    fn blockdev_snapshot_sync(
        &mut self,
        arguments: BlockdevSnapshotSync<'_>,
        _: &mut Context<'_>,
    ) -> Poll<()> {
        refused(self.block.no_medium(arguments.device, arguments.node_name))
    }

    fn transaction(&mut self, arguments: TransactionArgs<'_>, _: &mut Context<'_>) -> Poll<()> {
        let Some(first) = arguments.actions.iter().next() else { return Ok(()) };
        match first {
            TransactionAction::Abort(_) => text("Transaction aborted using Abort action"),
            TransactionAction::BlockdevSnapshotSync(action) => {
                refused(self.block.no_medium(action.device, action.node_name))
            }
            TransactionAction::BlockdevSnapshot(action) => {
                refused(cannot_find(action.overlay, action.overlay))
            }
            TransactionAction::DriveBackup(action) => refused(cannot_find(action.device, action.device)),
            TransactionAction::BlockdevBackup(action) => refused(cannot_find(action.device, action.device)),
            TransactionAction::BlockdevSnapshotInternalSync(action) => {
                refused(Error::device_not_found(action.device))
            }
            TransactionAction::BlockDirtyBitmapAdd(action) => {
                refused(Error::generic(format_args!("Node '{}' not found", action.node)))
            }
            TransactionAction::BlockDirtyBitmapClear(action) => {
                refused(Error::generic(format_args!("Node '{}' not found", action.node)))
            }
        }
    }
}

impl Media for Model {
    fn change(&mut self, arguments: ChangeArgs<'_>, _: &mut Context<'_>) -> Poll<()> {
        if arguments.device == "vnc" {
            return text("Could not set password");
        }
        self.block.drive(Some(arguments.device), None)?;
        refused(Error::cannot_open(arguments.target, "No such file or directory"))
    }

    fn eject(&mut self, arguments: EjectArgs<'_>, cx: &mut Context<'_>) -> Poll<()> {
        self.block.drive(arguments.device, arguments.id)?.move_tray(true, cx);
        Ok(())
    }

    fn blockdev_open_tray(&mut self, arguments: BlockdevOpenTrayArgs<'_>, cx: &mut Context<'_>) -> Poll<()> {
        self.block.drive(arguments.device, arguments.id)?.move_tray(true, cx);
        Ok(())
    }

    fn blockdev_close_tray(
        &mut self,
        arguments: BlockdevCloseTrayArgs<'_>,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        self.block.drive(arguments.device, arguments.id)?.move_tray(false, cx);
        Ok(())
    }

    fn x_blockdev_insert_medium(
        &mut self,
        arguments: XBlockdevInsertMediumArgs<'_>,
        _: &mut Context<'_>,
    ) -> Poll<()> {
        let name = arguments.node_name;
        if !self.block.nodes.iter().any(|node| node == name) {
            return refused(Error::generic(format_args!("Node '{name}' not found")));
        }
        let drive = self.block.drive(arguments.device, arguments.id)?;
        if drive.tray == Some(false) {
            return refused(Error::generic(format_args!("Tray of device '{}' is not open", drive.name)));
        }
        text("The model has nowhere to put a medium")
    }

    fn x_blockdev_remove_medium(
        &mut self,
        arguments: XBlockdevRemoveMediumArgs<'_>,
        _: &mut Context<'_>,
    ) -> Poll<()> {
        let drive = self.block.drive(arguments.device, arguments.id)?;
        if drive.tray == Some(false) {
            return refused(Error::generic(format_args!("Tray of device '{}' is not open", drive.name)));
        }
        Ok(())
    }
}

impl BlockJobs for Model {
    fn query_block_jobs(&mut self, _: usize, _: &mut Context<'_>) -> Element<BlockJobInfo<'_>> {
        Ok(None)
    }

    fn drive_mirror(&mut self, arguments: DriveMirror<'_>, _: &mut Context<'_>) -> Poll<()> {
        let device = arguments.device;
        refused(self.block.no_medium(Some(device), Some(device)))
    }

    fn block_job_set_speed(&mut self, arguments: BlockJobSetSpeedArgs<'_>, _: &mut Context<'_>) -> Poll<()> {
        no_job(arguments.device)
    }

    fn block_job_cancel(&mut self, arguments: BlockJobCancelArgs<'_>, _: &mut Context<'_>) -> Poll<()> {
        no_job(arguments.device)
    }

    fn block_job_pause(&mut self, arguments: BlockJobPauseArgs<'_>, _: &mut Context<'_>) -> Poll<()> {
        no_job(arguments.device)
    }

    fn block_job_resume(&mut self, arguments: BlockJobResumeArgs<'_>, _: &mut Context<'_>) -> Poll<()> {
        no_job(arguments.device)
    }

    fn block_job_complete(&mut self, arguments: BlockJobCompleteArgs<'_>, _: &mut Context<'_>) -> Poll<()> {
        no_job(arguments.device)
    }
}
