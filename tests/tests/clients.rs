//! A QMP client that nobody here wrote, crates.io `qapi`, with typed replies, on the model machine.

use std::io::{BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::Duration;

use monovisor_tests::model::{Options, Rig};
use qapi::qmp;

/// Serves one client on a thread of its own, until it goes.
fn serve(options: Options) -> (UnixStream, JoinHandle<()>) {
    let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
    for end in [&ours, &theirs] {
        end.set_read_timeout(Some(Duration::from_secs(20))).expect("a time limit");
    }
    let thread = std::thread::spawn(move || {
        let mut stream = theirs;
        let mut rig = Rig::new(options);
        let mut buffer = [0; 256];
        loop {
            stream.write_all(&rig.output(0)).expect("the client listens");
            match stream.read(&mut buffer) {
                Ok(0) | Err(_) => return,
                Ok(count) => rig.feed(0, &buffer[..count]),
            }
        }
    });
    (ours, thread)
}

#[test]
fn typed_replies_are_understood() {
    let (stream, thread) = serve(Options { name: Some("vm1".into()), ..Options::default() });
    let mut client = qapi::Qmp::new(qapi::Stream::new(BufReader::new(&stream), &stream));
    let greeting = client.handshake().expect("a greeting");
    assert_eq!((greeting.version.qemu.major, greeting.version.qemu.minor), (2, 8));

    let status = client.execute(&qmp::query_status {}).expect("a status");
    assert!(!status.running);
    assert_eq!(status.status, qmp::RunState::prelaunch);
    assert_eq!(client.execute(&qmp::query_name {}).expect("a name").name.as_deref(), Some("vm1"));
    let uuid = client.execute(&qmp::query_uuid {}).expect("a UUID");
    assert_eq!(uuid.UUID, "00000000-0000-0000-0000-000000000000");
    assert!(!client.execute(&qmp::query_kvm {}).expect("an answer").enabled);

    client.execute(&qmp::cont {}).expect("it runs");
    client.execute(&qmp::stop {}).expect("it stops");
    client.nop().expect("events are read");
    let events: Vec<_> = client.events().collect();
    assert!(matches!(events[..], [qmp::Event::RESUME { .. }, qmp::Event::STOP { .. }]), "{events:?}");

    let chardevs = client.execute(&qmp::query_chardev {}).expect("character devices");
    assert!(chardevs.iter().any(|chardev| chardev.label == "serial0" && chardev.frontend_open));
    // Not query-qmp-schema: this client knows the form that it has since QEMU 6.2.
    let commands = client.execute(&qmp::query_commands {}).expect("commands");
    assert!(commands.iter().any(|command| command.name == "x-store-read"));

    let missing = client.execute(&qmp::device_del { id: "nope".into() }).expect_err("there is none");
    assert!(missing.to_string().contains("Device 'nope' not found"), "{missing}");

    drop(client);
    drop(stream);
    thread.join().expect("the model ends");
}
