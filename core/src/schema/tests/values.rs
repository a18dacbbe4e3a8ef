//! Typed arguments and results.

use super::with_object;
use crate::json::{Emit, Writer};
use crate::schema::blockdev::*;
use crate::schema::char::*;
use crate::schema::*;

fn print(value: &dyn Emit) -> String {
    let mut buffer = [0; 4096];
    let mut writer = Writer::new(&mut buffer);
    value.emit(&mut writer);
    assert!(!writer.overflowed());
    String::from_utf8(writer.written().to_vec()).unwrap()
}

#[test]
fn results_are_printed_in_the_order_of_qemu() {
    let status =
        run_state::StatusInfo { running: false, singlestep: false, status: run_state::RunState::Prelaunch };
    assert_eq!(print(&status), r#"{"status": "prelaunch", "singlestep": false, "running": false}"#);
    assert_eq!(print(&misc::NameInfo { name: None }), "{}");
    assert_eq!(print(&common::Empty {}), "{}");
    let dump = dump::DumpQueryResult { status: dump::DumpStatus::None, completed: 0, total: 0 };
    assert_eq!(print(&dump), r#"{"total": 0, "status": "none", "completed": 0}"#);
    let mouse = ui::MouseInfo { name: "QEMU PS/2 Mouse", index: 2, current: true, absolute: false };
    assert_eq!(
        print(&mouse),
        r#"{"index": 2, "name": "QEMU PS/2 Mouse", "current": true, "absolute": false}"#
    );
    let chardev = ChardevInfo { label: "parallel0", filename: "vc", frontend_open: false };
    assert_eq!(print(&chardev), r#"{"frontend-open": false, "filename": "vc", "label": "parallel0"}"#);
}

#[test]
fn flat_unions_mix_the_members_of_base_and_branch() {
    let cpu = cpu::CpuInfo {
        cpu: 0,
        current: true,
        halted: false,
        qom_path: "/machine/unattached/device[0]",
        thread_id: 20219,
        arch: cpu::CpuInfoArch::X86,
        branch: cpu::CpuInfoBranch::X86(cpu::CpuInfoX86 { pc: 4294967280 }),
    };
    let expected = concat!(
        r#"{"arch": "x86", "current": true, "CPU": 0, "qom_path": "/machine/unattached/device[0]", "#,
        r#""pc": 4294967280, "halted": false, "thread_id": 20219}"#
    );
    assert_eq!(print(&cpu), expected);
}

#[test]
fn places_for_cpus_are_printed_like_those_of_qemu() {
    let place = cpu::HotpluggableCpu {
        kind: "qemu64-x86_64-cpu",
        vcpus_count: 1,
        props: cpu::CpuInstanceProperties {
            node_id: None,
            socket_id: Some(0),
            core_id: Some(0),
            thread_id: Some(0),
        },
        qom_path: Some("/machine/unattached/device[0]"),
    };
    let expected = concat!(
        r#"{"props": {"core-id": 0, "thread-id": 0, "socket-id": 0}, "vcpus-count": 1, "#,
        r#""qom-path": "/machine/unattached/device[0]", "type": "qemu64-x86_64-cpu"}"#
    );
    assert_eq!(print(&place), expected);
}

#[test]
fn arguments_are_read() {
    let text = r#"{"val":10,"size":-1,"filename":"/tmp/\u00e9","cpu-index":3}"#;
    with_object(text, |object| {
        let arguments: memory::MemsaveArgs<'_> = arguments(Command::MEMSAVE, object).unwrap();
        assert_eq!((arguments.val, arguments.size, arguments.filename), (10, -1, "/tmp/é"));
        assert_eq!(arguments.cpu_index, Some(3));
    });
    with_object(r#"{"keys":[{"type":"number","data":30},{"type":"qcode","data":"1"}]}"#, |object| {
        let arguments: ui::SendKeyArgs<'_> = arguments(Command::SEND_KEY, object).unwrap();
        let keys: Vec<ui::KeyValue> = arguments.keys.iter().collect();
        assert!(matches!(keys[..], [ui::KeyValue::Number(30), ui::KeyValue::Qcode(ui::QKeyCode::Digit1)]));
        assert_eq!(arguments.hold_time, None);
        assert_eq!(print(&keys[1]), r#"{"type": "qcode", "data": "1"}"#);
    });
}

#[test]
fn nested_nodes_are_read_one_by_one() {
    let text = r#"{"driver":"qcow2","node-name":"top","cache":{"direct":true},"backing":"base",
        "overlap-check":"cached","file":{"driver":"file","filename":"f.qcow2"}}"#;
    with_object(text, |object| {
        let node: BlockdevOptions<'_> = arguments(Command::BLOCKDEV_ADD, object).unwrap();
        assert_eq!((node.driver, node.node_name), (BlockdevDriver::Qcow2, Some("top")));
        assert_eq!(node.cache.and_then(|cache| cache.direct), Some(true));
        let BlockdevOptionsBranch::Qcow2(format) = node.branch else { panic!() };
        assert!(matches!(format.backing, Some(BlockdevRef::Reference("base"))));
        assert!(matches!(
            format.overlap_check,
            Some(Qcow2OverlapChecks::Mode(Qcow2OverlapCheckMode::Cached))
        ));
        let BlockdevRef::Definition(file) = format.file else { panic!() };
        let BlockdevOptionsBranch::File(file) = file.get().unwrap().branch else { panic!() };
        assert_eq!(file.filename, "f.qcow2");
        // Printed again, it is the same in QEMU's order.
        with_object(&print(&node), |again| {
            let again: BlockdevOptions<'_> = arguments(Command::BLOCKDEV_ADD, again).unwrap();
            assert_eq!(print(&again), print(&node));
        });
    });
}

#[test]
fn events_say_what_they_are() {
    fn describe<E: EventData>(event: &E) -> (Event, bool, String) {
        (E::EVENT, E::HAS_DATA, event.throttle_key().to_string())
    }
    assert_eq!(describe(&run_state::Stop {}), (Event::STOP, false, String::new()));
    let bad = block::QuorumReportBad {
        kind: block::QuorumOpType::Read,
        error: None,
        node_name: "n0",
        sector_num: 1,
        sectors_count: 2,
    };
    assert_eq!(describe(&bad), (Event::QUORUM_REPORT_BAD, true, "n0".to_string()));
}

#[test]
fn lists_come_from_memory_or_are_made() {
    let made = |index: usize| (index < 3).then_some(index as i64);
    let list: List<'_, i64> = List::With(&made);
    assert_eq!(list.iter().collect::<Vec<_>>(), [0, 1, 2]);
    let memory: List<'_, i64> = List::Slice(&[4, 5]);
    assert_eq!(memory.iter().collect::<Vec<_>>(), [4, 5]);
    let none: List<'_, i64> = List::EMPTY;
    assert_eq!(none.iter().count(), 0);
}
