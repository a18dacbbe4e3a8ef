//! The driver against a model of the chip.

use super::line::*;
use super::model::{Model, chip, plug};
use super::*;

const COM1: u16 = UartConfig::COM1.base;

/// An open line on a chip of its own.
fn line(model: Model) -> Line {
    plug(COM1, model);
    let mut line = Line::closed();
    line.open(Sources::UART0, UartConfig::COM1, 9_600).expect("a chip");
    line
}

/// A 16550A whose peer is ready.
fn fast() -> Line {
    line(Model::ns16550a().connected())
}

fn arrive(bytes: &[u8]) {
    chip(COM1, |chip| bytes.iter().for_each(|byte| chip.arrive(*byte, 0)));
}

/// All that the line has received: `Err` where it was disturbed.
fn received(line: &mut Line) -> Vec<Result<u8, LineError>> {
    std::iter::from_fn(|| match line.read() {
        Ok(byte) => Some(Ok(byte)),
        Err(nb::Error::Other(error)) => Some(Err(error)),
        Err(nb::Error::WouldBlock) => None,
    })
    .collect()
}

fn bytes(bytes: &[u8]) -> Vec<Result<u8, LineError>> {
    bytes.iter().map(|byte| Ok(*byte)).collect()
}

#[test]
fn each_kind_of_chip_is_known() {
    for (model, kind) in [
        (Model::ns8250(), Chip::Ns8250),
        (Model::ns16450(), Chip::Ns16450),
        (Model::ns16550a(), Chip::Ns16550A),
    ] {
        let line = line(model);
        assert_eq!((line.counters().chip, line.counters().baud), (kind, 9_600));
        assert_eq!(chip(COM1, |chip| chip.divisor), 12);
    }
    assert!(
        Line::closed().open(Sources::UART0, UartConfig { base: 0x100, ..UartConfig::COM1 }, 9_600).is_none()
    );
}

#[test]
fn what_came_before_the_start_is_kept() {
    plug(COM1, Model::ns16550a());
    arrive(b"x");
    let mut line = Line::closed();
    line.open(Sources::UART0, UartConfig::COM1, 115_200).unwrap();
    assert_eq!(received(&mut line), bytes(b"x"));
}

#[test]
fn an_interrupt_empties_the_fifo() {
    let mut line = fast();
    arrive(b"0123456789abcdef");
    assert!(line.interrupt());
    assert!(!chip(COM1, |chip| chip.interrupts()) && !line.interrupt());
    let mut buffer = [0; 10];
    assert_eq!((line.read_slice(&mut buffer), &buffer), (10, b"0123456789"));
    assert_eq!(received(&mut line), bytes(b"abcdef"));
    assert_eq!(line.counters().received, 16);
}

#[test]
fn bursts_are_as_long_as_the_fifo() {
    for (model, burst) in [(Model::ns16550a(), 16), (Model::ns8250(), 1)] {
        let mut line = line(model);
        let text = [b'x'; 40];
        assert_eq!(line.write_slice(&text), burst);
        // The model objects to a character too many.
        assert_eq!(line.write_slice(&text), 0);
        assert!(!line.is_idle() && !line.interrupt());
        chip(COM1, |chip| chip.drain());
        assert!(line.interrupt() && line.is_idle());
        assert_eq!(line.write_slice(&text[..1]), 1);
    }
}

#[test]
fn an_overrun_spoils_all_that_the_fifo_holds() {
    let mut line = fast();
    arrive(b"0123456789abcdef!");
    line.interrupt();
    let all = received(&mut line);
    // The character that is lost came after the sixteenth; where it stood can only be told by the overrun behind them.
    assert_eq!(all.first(), Some(&Err(LineError::Overrun)));
    assert_eq!(all[1..17], bytes(b"0123456789abcdef"));
    assert_eq!(all[17..], [Err(LineError::Overrun)]);
    assert_eq!(line.counters().overruns, 1);
}

#[test]
fn an_overrun_spoils_no_more_than_a_fifo_holds() {
    let mut line = fast();
    arrive(b"0123456789abcdef!");
    // The FIFO does not become empty for a long time: what comes then is as good as ever.
    chip(COM1, |chip| chip.waits.extend(b"0123456789 and all the rest"));
    line.interrupt();
    let all = received(&mut line);
    let lost = Err(LineError::Overrun);
    assert_eq!((all.first(), all.get(17)), (Some(&lost), Some(&lost)));
    assert_eq!(all[18..], bytes(b"0123456789 and all the rest"));
}

#[test]
fn without_fifo_an_overrun_stands_before_the_character() {
    let mut line = line(Model::ns8250());
    arrive(b"01");
    line.interrupt();
    assert_eq!(received(&mut line), [Err(LineError::Overrun), Ok(b'1')]);
}

#[test]
fn every_error_of_the_line_is_told_in_its_place() {
    let mut line = fast();
    chip(COM1, |chip| {
        chip.arrive(b'a', 0);
        chip.arrive(b'?', LSR_FRAMING);
        chip.arrive(b'?', LSR_PARITY);
        chip.arrive(0, LSR_BREAK | LSR_FRAMING);
        chip.arrive(b'b', 0);
    });
    assert!(line.interrupt());
    let errors = [LineError::Framing, LineError::Parity, LineError::Break].map(Err);
    assert_eq!(received(&mut line), [&[Ok(b'a')], &errors[..], &[Ok(b'b')]].concat());
    let counters = line.counters();
    assert_eq!((counters.framing, counters.parity, counters.breaks), (1, 1, 1));
}

/// Sending looks at the line status too, which clears the errors in it.
#[test]
fn sending_loses_no_error() {
    let mut line = fast();
    chip(COM1, |chip| chip.arrive(0, LSR_BREAK));
    assert_eq!(line.write_slice(b"x"), 1);
    assert_eq!(received(&mut line), [Err(LineError::Break)]);
    arrive(b"0123456789abcdef!");
    assert!(!line.is_idle());
    assert_eq!(received(&mut line).iter().filter(|one| one.is_err()).count(), 2);
}

#[test]
fn rts_holds_the_peer_while_the_ring_is_nearly_full() {
    const RTS: u8 = 2;
    let rts = || chip(COM1, |chip| chip.modem_control & RTS != 0);
    let mut line = fast();
    let mut sent = 0;
    while rts() {
        arrive(&[b'x'; 8]);
        line.interrupt();
        sent += 8;
        assert!(sent < RECEIVE_RING);
    }
    // A peer that stops late, by two packets of a USB adapter, still finds room.
    for _ in 0..60 {
        arrive(&[b'x'; 16]);
        line.interrupt();
    }
    sent += 960;
    assert_eq!((line.counters().throttled, line.counters().overruns), (1, 0));
    let mut buffer = [0; 256];
    let mut read = 0;
    while !rts() {
        let count = line.read_slice(&mut buffer);
        assert!(count > 0);
        read += count;
    }
    assert!(read >= RECEIVE_RING / 4);
    assert_eq!(received(&mut line).len(), sent - read);
}

/// A peer that does not know of RTS, but can be held by a full FIFO, as one in an emulator, loses nothing.
#[test]
fn what_finds_no_room_in_the_ring_stays_in_the_chip() {
    let mut line = fast();
    for _ in 0..RECEIVE_RING / 16 {
        arrive(&[b'x'; 16]);
        line.interrupt();
    }
    let left = chip(COM1, |chip| chip.waiting());
    assert!(left > 0 && !chip(COM1, |chip| chip.interrupts()) && !line.interrupt());
    // The line status is read for sending, too.
    chip(COM1, |chip| chip.arrive(0, LSR_BREAK));
    assert_eq!(line.write_slice(&[b'y'; 17]), 16);
    assert!(!line.is_idle());
    let mut all = received(&mut line);
    assert!(line.interrupt());
    all.extend(received(&mut line));
    assert_eq!(all.pop(), Some(Err(LineError::Break)));
    assert_eq!(all, vec![Ok(b'x'); RECEIVE_RING]);
    arrive(b"z");
    assert!(line.interrupt());
    assert_eq!(received(&mut line), bytes(b"z"));
}

#[test]
fn what_finds_no_room_at_all_is_an_overrun() {
    let mut line = fast();
    for _ in 0..RECEIVE_RING / 16 + 2 {
        arrive(&[b'x'; 16]);
        line.interrupt();
    }
    // Whoever reads the line status clears it in the chip, and has to keep it.
    assert!(line.is_idle() && line.counters().overruns == 0);
    let mut all = received(&mut line);
    line.interrupt();
    all.extend(received(&mut line));
    assert_eq!(line.counters().overruns, 1);
    let places: Vec<usize> = (0..all.len()).filter(|&at| all[at].is_err()).collect();
    // On both sides of what the FIFO held; all that came before is there.
    assert_eq!(places.len(), 2);
    assert_eq!((places[1], places[1] - places[0]), (all.len() - 1, 17));
    assert_eq!(all[places[0]], Err(LineError::Overrun));
}

#[test]
fn cts_holds_us() {
    let mut line = fast();
    chip(COM1, |chip| chip.modem &= !MSR_CTS);
    assert_eq!(line.write_slice(b"x"), 0);
    // No transmitter interrupt is asked for, which would never end; the modem's tells when it goes on.
    assert!(!chip(COM1, |chip| chip.interrupts()));
    chip(COM1, |chip| chip.modem |= MSR_CTS);
    assert!(line.interrupt());
    assert_eq!(line.write_slice(b"x"), 1);
}

#[test]
fn a_cable_of_three_wires_has_no_flow_control() {
    let mut line = line(Model::ns16550a());
    assert_eq!(line.write_slice(b"x"), 1);
}

#[test]
fn a_client_that_comes_is_noticed_once() {
    let mut line = line(Model::ns16550a());
    assert!(!line.connected());
    chip(COM1, |chip| chip.modem = MSR_DSR);
    assert!(line.interrupt() && line.connected() && !line.connected());
    chip(COM1, |chip| chip.modem = 0);
    assert!(line.interrupt() && !line.connected());
}

/// The tests share the driver's own lines, so this is the only one that uses them.
#[test]
fn lines_that_share_an_interrupt_are_all_served() {
    for config in [UartConfig::COM1, UartConfig::COM2, UartConfig::COM3] {
        plug(config.base, Model::ns16550a());
    }
    let [mut com1, mut com2, mut com3] =
        [0, 1, 2].map(|index| Uart::open(index, UartConfig::PC[index], 115_200).unwrap());
    assert!(Uart::open(0, UartConfig::COM1, 115_200).is_none(), "opened twice");
    for config in [UartConfig::COM1, UartConfig::COM2, UartConfig::COM3] {
        chip(config.base, |chip| chip.arrive(b'x', 0));
    }
    assert_eq!(interrupt(4), Sources::UART0 | Sources::UART2);
    assert_eq!((com1.read(), com3.read()), (Ok(b'x'), Ok(b'x')));
    assert_eq!(com2.read(), Err(nb::Error::WouldBlock));
    assert_eq!(interrupt(3), Sources::UART1);
    assert_eq!(interrupt(4), Sources::empty());
    // Nobody is left who holds the interrupt line up, else no edge would come any more.
    assert!([0x3f8, 0x2f8, 0x3e8].iter().all(|&base| !chip(base, |chip| chip.interrupts())));
    assert_eq!(counters(2).map(|counters| counters.received), Some(1));
    assert_eq!(counters(3), None);
}

#[test]
fn an_interrupt_can_be_provoked() {
    for model in [Model::ns8250(), Model::ns16550a().connected()] {
        let mut line = line(model);
        line.interrupt();
        assert!(!chip(COM1, |chip| chip.interrupts()));
        line.provoke(true);
        assert!(chip(COM1, |chip| chip.interrupts()));
        assert!(line.interrupt() && !chip(COM1, |chip| chip.interrupts()));
        // What is to be sent asks for it anew.
        line.provoke(true);
        line.provoke(false);
        assert!(!chip(COM1, |chip| chip.interrupts()));
    }
}
