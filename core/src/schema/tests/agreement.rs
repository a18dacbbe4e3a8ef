//! The visitor and the typed reading must agree: what one accepts the other reads. Arguments are made up from the
//! declarations, right ones and spoilt ones.

use super::with_object;
use crate::schema::decl::{Shape, TypeDecl, TypeRef};
use crate::schema::*;

/// Pseudo-random numbers (xorshift64*), the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit
    }

    fn one_of<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.below(choices.len())]
    }
}

fn declaration(name: &str) -> Option<TypeDecl> {
    MODULES
        .iter()
        .flat_map(|module| {
            module.types.iter().copied().chain(module.commands.iter().filter_map(|command| command.inline))
        })
        .find(|ty| ty.name == name)
}

/// One value in this many is not what the schema asks for; 0: none.
type Spoil = usize;

fn value(ty: TypeRef, random: &mut Random, spoil: Spoil, depth: usize) -> String {
    if spoil > 0 && random.below(spoil) == 0 {
        return random
            .one_of(&[
                "null",
                "true",
                "-1",
                "70000",
                "1e3",
                "\"x\"",
                "[]",
                "{}",
                "[[1]]",
                "{\"x\":{}}",
                "\"file\"",
            ])
            .into();
    }
    if ty.list {
        let count = if depth > 6 { 0 } else { random.below(3) };
        let items: Vec<String> =
            (0..count).map(|_| value(TypeRef::one(ty.name), random, spoil, depth + 1)).collect();
        return format!("[{}]", items.join(","));
    }
    if let Some(declared) = declaration(ty.name) {
        return match declared.shape {
            Shape::Enum(words) => format!("\"{}\"", words[random.below(words.len())].word),
            // Deep down only names of nodes are left.
            Shape::Alternate(types) if depth > 6 => value(types[types.len() - 1], random, spoil, depth + 1),
            Shape::Alternate(types) => value(types[random.below(types.len())], random, spoil, depth + 1),
            _ => format!("{{{}}}", members(&declared, random, spoil, depth)),
        };
    }
    match ty.name {
        "bool" => random.one_of(&["true", "false"]).into(),
        "str" => random.one_of(&["\"\"", "\"name\"", "'\\u00e9\\n'"]).into(),
        "number" => random.one_of(&["0", "-0.5", "1e300"]).into(),
        "any" => random.one_of(&["null", "{\"a\":[1,{}]}", "1"]).into(),
        _ => random.one_of(&["0", "1", "127"]).into(),
    }
}

fn members(ty: &TypeDecl, random: &mut Random, spoil: Spoil, depth: usize) -> String {
    let mut found: Vec<String> = Vec::new();
    let (list, branch) = match ty.shape {
        Shape::Struct(list) => (list, None),
        Shape::Union { members, tag, branches } => {
            (members, Some((tag, branches[random.below(branches.len())])))
        }
        Shape::Simple { branches, .. } => {
            let branch = branches[random.below(branches.len())];
            found.push(format!("\"type\":\"{}\"", branch.word));
            found.push(format!("\"data\":{}", value(branch.ty, random, spoil, depth + 1)));
            (&[][..], None)
        }
        Shape::Enum(_) | Shape::Alternate(_) => unreachable!("these are no objects"),
    };
    for member in list {
        let is_tag = branch.is_some_and(|(tag, _)| tag == member.name);
        let left_out = member.optional || (spoil > 0 && random.below(4 * spoil) == 0);
        if is_tag {
            found.push(format!("\"{}\":\"{}\"", member.name, branch.unwrap().1.word));
        } else if !left_out || (random.below(2) == 0 && depth < 5) {
            found.push(format!("\"{}\":{}", member.name, value(member.ty, random, spoil, depth + 1)));
        }
    }
    if let Some((_, branch)) = branch {
        let inside = members(&declaration(branch.ty.name).unwrap(), random, spoil, depth);
        if !inside.is_empty() {
            found.push(inside);
        }
    }
    if spoil > 0 && random.below(4 * spoil) == 0 {
        found.push("\"left-over\":1".into());
    }
    found.join(",")
}

/// Visits and reads some arguments of a command; says whether they were accepted.
fn check<T>(
    command: Command,
    text: &str,
    read: impl FnOnce(crate::json::Object<'_>) -> Result<T, crate::Error>,
) -> bool {
    with_object(text, |object| match (check_arguments(command, object), read(object)) {
        (Ok(()), Ok(_)) => true,
        (Err(first), Err(second)) => {
            assert_eq!(first.description(), second.description());
            false
        }
        (visited, _) => panic!("{} {text}: visitor {visited:?}, reading disagrees", command.name()),
    })
}

macro_rules! every_command {
    ($( $command:ident: $module:ident::$ty:ident, )*) => {
        #[test]
        fn right_arguments_are_accepted_and_read() {
            $(
                let mut random = Random(0x5eed);
                let ty = declaration(stringify!($ty)).unwrap();
                for _ in 0..40 {
                    let text = format!("{{{}}}", members(&ty, &mut random, 0, 0));
                    let accepted = check(Command::$command, &text, |object| {
                        arguments::<$module::$ty>(Command::$command, object).map(drop)
                    });
                    assert!(accepted, "{}: {text}", stringify!($command));
                }
            )*
        }

        #[test]
        fn spoilt_arguments_are_refused_or_read() {
            let (mut refused, mut accepted) = (0, 0);
            $(
                let mut random = Random(0xbad);
                let ty = declaration(stringify!($ty)).unwrap();
                for round in 0..200 {
                    let text = format!("{{{}}}", members(&ty, &mut random, 2 + round / 10, 0));
                    if check(Command::$command, &text, |object| {
                        arguments::<$module::$ty>(Command::$command, object).map(drop)
                    }) {
                        accepted += 1;
                    } else {
                        refused += 1;
                    }
                }
            )*
            assert!(refused > 1000 && accepted > 1000, "{refused} refused, {accepted} accepted");
        }

        #[test]
        fn every_command_with_arguments_is_checked() {
            let checked = [$(Command::$command),*];
            for module in MODULES {
                for command in module.commands {
                    let known = Command::find(command.name).unwrap();
                    assert_eq!(
                        checked.contains(&known),
                        command.arguments.is_some() && !command.free,
                        "{}", command.name
                    );
                }
            }
        }
    };
}

every_command! {
    ADD_FD: misc::AddFdArgs,
    ADD_CLIENT: misc::AddClientArgs,
    BALLOON: memory::BalloonArgs,
    BLOCK_COMMIT: block_job::BlockCommitArgs,
    BLOCK_DIRTY_BITMAP_ADD: block_core::BlockDirtyBitmapAdd,
    BLOCK_DIRTY_BITMAP_CLEAR: block_core::BlockDirtyBitmap,
    BLOCK_DIRTY_BITMAP_REMOVE: block_core::BlockDirtyBitmap,
    BLOCK_JOB_CANCEL: block_job::BlockJobCancelArgs,
    BLOCK_JOB_COMPLETE: block_job::BlockJobCompleteArgs,
    BLOCK_JOB_PAUSE: block_job::BlockJobPauseArgs,
    BLOCK_JOB_RESUME: block_job::BlockJobResumeArgs,
    BLOCK_JOB_SET_SPEED: block_job::BlockJobSetSpeedArgs,
    BLOCK_SET_WRITE_THRESHOLD: block_core::BlockSetWriteThresholdArgs,
    BLOCK_STREAM: block_job::BlockStreamArgs,
    BLOCK_PASSWD: block_core::BlockPasswdArgs,
    BLOCK_RESIZE: block_core::BlockResizeArgs,
    BLOCK_SET_IO_THROTTLE: block_core::BlockIoThrottle,
    BLOCKDEV_ADD: blockdev::BlockdevOptions,
    BLOCKDEV_BACKUP: block_job::BlockdevBackup,
    BLOCKDEV_CHANGE_MEDIUM: block_core::BlockdevChangeMediumArgs,
    BLOCKDEV_CLOSE_TRAY: block_core::BlockdevCloseTrayArgs,
    BLOCKDEV_MIRROR: block_job::BlockdevMirrorArgs,
    BLOCKDEV_OPEN_TRAY: block_core::BlockdevOpenTrayArgs,
    BLOCKDEV_SNAPSHOT: block_core::BlockdevSnapshot,
    BLOCKDEV_SNAPSHOT_DELETE_INTERNAL_SYNC: block::BlockdevSnapshotDeleteInternalSyncArgs,
    BLOCKDEV_SNAPSHOT_INTERNAL_SYNC: block::BlockdevSnapshotInternal,
    BLOCKDEV_SNAPSHOT_SYNC: block_core::BlockdevSnapshotSync,
    CHANGE: misc::ChangeArgs,
    CHANGE_BACKING_FILE: block_core::ChangeBackingFileArgs,
    CHANGE_VNC_PASSWORD: ui::ChangeVncPasswordArgs,
    CHARDEV_ADD: char::ChardevAddArgs,
    CHARDEV_REMOVE: char::ChardevRemoveArgs,
    CLIENT_MIGRATE_INFO: migration::ClientMigrateInfoArgs,
    CLOSEFD: misc::ClosefdArgs,
    CPU: cpu::CpuArgs,
    CPU_ADD: cpu::CpuAddArgs,
    DEVICE_LIST_PROPERTIES: qom::DeviceListPropertiesArgs,
    DEVICE_DEL: qom::DeviceDelArgs,
    DRIVE_BACKUP: block_job::DriveBackup,
    DRIVE_MIRROR: block_job::DriveMirror,
    DUMP_GUEST_MEMORY: dump::DumpGuestMemoryArgs,
    DUMP_SKEYS: dump::DumpSkeysArgs,
    EJECT: block::EjectArgs,
    EXPIRE_PASSWORD: ui::ExpirePasswordArgs,
    GETFD: misc::GetfdArgs,
    HUMAN_MONITOR_COMMAND: misc::HumanMonitorCommandArgs,
    INPUT_SEND_EVENT: ui::InputSendEventArgs,
    MEMSAVE: memory::MemsaveArgs,
    MIGRATE: migration::MigrateArgs,
    MIGRATE_INCOMING: migration::MigrateIncomingArgs,
    MIGRATE_SET_CACHE_SIZE: migration::MigrateSetCacheSizeArgs,
    MIGRATE_SET_CAPABILITIES: migration::MigrateSetCapabilitiesArgs,
    MIGRATE_SET_PARAMETERS: migration::MigrationParameters,
    MIGRATE_SET_DOWNTIME: migration::MigrateSetDowntimeArgs,
    MIGRATE_SET_SPEED: migration::MigrateSetSpeedArgs,
    NBD_SERVER_ADD: block::NbdServerAddArgs,
    NBD_SERVER_START: block::NbdServerStartArgs,
    NETDEV_DEL: net::NetdevDelArgs,
    OBJECT_ADD: qom::ObjectAddArgs,
    OBJECT_DEL: qom::ObjectDelArgs,
    PMEMSAVE: memory::PmemsaveArgs,
    QOM_GET: qom::QomGetArgs,
    QOM_LIST: qom::QomListArgs,
    QOM_LIST_TYPES: qom::QomListTypesArgs,
    QOM_SET: qom::QomSetArgs,
    QUERY_BLOCKSTATS: block_core::QueryBlockstatsArgs,
    QUERY_COMMAND_LINE_OPTIONS: misc::QueryCommandLineOptionsArgs,
    QUERY_CPU_MODEL_BASELINE: cpu::QueryCpuModelBaselineArgs,
    QUERY_CPU_MODEL_COMPARISON: cpu::QueryCpuModelComparisonArgs,
    QUERY_CPU_MODEL_EXPANSION: cpu::QueryCpuModelExpansionArgs,
    QUERY_ROCKER: rocker::QueryRockerArgs,
    QUERY_ROCKER_OF_DPA_FLOWS: rocker::QueryRockerOfDpaFlowsArgs,
    QUERY_ROCKER_OF_DPA_GROUPS: rocker::QueryRockerOfDpaGroupsArgs,
    QUERY_ROCKER_PORTS: rocker::QueryRockerPortsArgs,
    QUERY_RX_FILTER: net::QueryRxFilterArgs,
    REMOVE_FD: misc::RemoveFdArgs,
    RINGBUF_READ: char::RingbufReadArgs,
    RINGBUF_WRITE: char::RingbufWriteArgs,
    SCREENDUMP: ui::ScreendumpArgs,
    SEND_KEY: ui::SendKeyArgs,
    SET_LINK: net::SetLinkArgs,
    SET_PASSWORD: ui::SetPasswordArgs,
    TRACE_EVENT_GET_STATE: trace::TraceEventGetStateArgs,
    TRACE_EVENT_SET_STATE: trace::TraceEventSetStateArgs,
    TRANSACTION: transaction::TransactionArgs,
    X_BLOCKDEV_CHANGE: block_core::XBlockdevChangeArgs,
    X_BLOCKDEV_DEL: block_core::XBlockdevDelArgs,
    X_BLOCKDEV_INSERT_MEDIUM: block_core::XBlockdevInsertMediumArgs,
    X_BLOCKDEV_REMOVE_MEDIUM: block_core::XBlockdevRemoveMediumArgs,
    XEN_LOAD_DEVICES_STATE: machine::XenLoadDevicesStateArgs,
    XEN_SAVE_DEVICES_STATE: machine::XenSaveDevicesStateArgs,
    XEN_SET_GLOBAL_DIRTY_LOG: machine::XenSetGlobalDirtyLogArgs,
    X_STORE_READ: extensions::XStoreReadArgs,
    X_QUERY_LOG: extensions::XQueryLogArgs,
    X_QUERY_TRACE: extensions::XQueryTraceArgs,
}
