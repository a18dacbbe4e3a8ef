use super::super::testing::*;
use super::super::{VirtioPci, feature as ring};
use super::*;
use monovisor_arch::GuestMemory;

const MAC_A: Mac = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
const MAC_B: Mac = [0x52, 0x54, 0, 0x12, 0x34, 0x57];
const MAC_C: Mac = [0x52, 0x54, 0, 0x12, 0x34, 0x58];

/// All that a driver of today negotiates.
const ALL: u64 = feature::DEFAULT | feature::MAC | ring::INDIRECT_DESC | ring::EVENT_IDX;

/// Where frames are put together, and where those that are received are.
const SEND: u64 = 0x60_000;
const RECEIVE: u64 = 0x80_000;
const RECEIVE_ALL: u64 = 0x40_000;

fn settings(mac: Mac) -> Settings {
    Settings { mac, hub: Some(0), pairs: 1, features: feature::DEFAULT, mtu: 0 }
}

/// Cards on a hub, with their drivers: 64 entries in each queue.
struct Cards(Vec<Driver>);

impl Cards {
    fn new(settings: &[Settings]) -> Self {
        let ram = Ram::leak();
        let card = |(index, settings)| {
            let mut driver = Driver::beside(Net::new(settings), ram, 0x8000 * index as u64);
            driver.size = 64;
            driver
        };
        Self(settings.iter().enumerate().map(card).collect())
    }

    /// Two, that accept these features.
    fn pair(sender: u64, receiver: u64) -> Self {
        let mut cards = Self::new(&[settings(MAC_A), settings(MAC_B)]);
        cards.0[0].start(sender);
        cards.0[1].start(receiver);
        cards.settle();
        cards
    }

    /// Does what the bus does after each call of a device.
    fn settle(&mut self) {
        for index in 0..self.0.len() {
            if let Some(now) = self.0[index].function.take_forward() {
                let mut functions: Vec<&mut VirtioPci> =
                    self.0.iter_mut().map(|card| &mut *card.function).collect();
                hub::forward(&mut functions, index, now);
            }
        }
    }

    fn ram(&self) -> &'static Ram {
        self.0[0].ram
    }

    fn net<R>(&mut self, card: usize, work: impl FnOnce(&mut Net) -> R) -> R {
        self.0[card].function.with(0, |net: &mut Net, _| work(net)).unwrap()
    }

    fn dropped(&mut self, card: usize) -> u64 {
        self.net(card, |net| net.dropped())
    }

    fn notify(&mut self, card: usize, queue: u16) {
        self.0[card].kick(queue);
        self.settle();
    }

    fn poll(&mut self, card: usize, now: u64) {
        self.0[card].function.poll(now);
        self.settle();
    }

    /// Sends a frame with its header in one piece and the rest in two.
    fn send_on(&mut self, card: usize, queue: u16, header: [u8; 12], frame: &[u8]) {
        let ram = self.ram();
        ram.write(SEND, &header).unwrap();
        ram.write(SEND + 0x100, frame).unwrap();
        let first = frame.len() as u32 / 3;
        let pieces = [
            (SEND, 12, false),
            (SEND + 0x100, first, false),
            (SEND + 0x100 + u64::from(first), frame.len() as u32 - first, false),
        ];
        self.0[card].chain(queue, 0, &pieces);
        self.0[card].offer(queue, 0);
        self.notify(card, queue);
    }

    fn send(&mut self, card: usize, header: [u8; 12], frame: &[u8]) {
        self.send_on(card, 1, header, frame);
    }

    /// Whether the frame that has been sent is back.
    fn sent(&mut self, card: usize) -> bool {
        self.0[card].take_used(1).is_some()
    }

    /// Gives a card `count` buffers of `size` bytes from descriptor `first` on.
    fn buffers(&mut self, card: usize, queue: u16, first: u16, count: u16, size: u32) {
        for index in first..first + count {
            let at = RECEIVE + u64::from(index) * u64::from(size);
            self.0[card].chain(queue, index, &[(at, size, true)]);
            self.0[card].offer(queue, index);
        }
    }

    /// What a card has received: each frame with its header. Frames in several buffers are put together.
    fn received(&mut self, card: usize, queue: u16, size: u32) -> Vec<([u8; 12], Vec<u8>)> {
        let mut frames = Vec::new();
        while let Some((head, written)) = self.0[card].take_used(queue) {
            let mut bytes = vec![0; written as usize];
            let ram = self.ram();
            ram.read(RECEIVE + u64::from(head) * u64::from(size), &mut bytes).unwrap();
            let header: [u8; 12] = bytes[..12].try_into().unwrap();
            for _ in 1..u16::from_le_bytes([header[10], header[11]]) {
                let (head, written) = self.0[card].take_used(queue).expect("another buffer");
                let start = bytes.len();
                bytes.resize(start + written as usize, 0);
                ram.read(RECEIVE + u64::from(head) * u64::from(size), &mut bytes[start..]).unwrap();
            }
            frames.push((header, bytes.split_off(12)));
        }
        frames
    }
}

fn numbers(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index * 7 + index / 251) as u8).collect()
}

/// A frame to `target` of `length` bytes that means nothing.
fn frame(target: Mac, length: usize) -> Vec<u8> {
    let mut frame = [&target[..], &MAC_A, &[0x88, 0xb5]].concat();
    frame.extend(numbers(length - 14));
    frame
}

const PLAIN: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const ONE: [u8; 12] = header::PLAIN;

// The reference: plain sums, written another way.

fn sum(parts: &[&[u8]]) -> u16 {
    let mut bytes = parts.concat();
    bytes.resize(bytes.len().next_multiple_of(2), 0);
    let mut sum = 0u32;
    for word in bytes.chunks(2) {
        sum += u32::from(word[0]) * 256 + u32::from(word[1]);
        sum = sum % 0x10000 + sum / 0x10000;
    }
    sum as u16
}

/// The pseudo header of a packet: addresses, length and protocol.
fn pseudo(packet: &[u8], v6: bool, length: usize) -> Vec<u8> {
    let (addresses, protocol) = if v6 { (&packet[8..40], 6) } else { (&packet[12..20], packet[9]) };
    [addresses, &(length as u32).to_be_bytes(), &[0, 0, 0, protocol]].concat()
}

/// A frame with TCP or UDP and its headers as a driver leaves them; where the checksum starts.
fn packet(v6: bool, tcp: bool, vlan: bool, payload: &[u8]) -> (Vec<u8>, usize) {
    let mut frame = [&MAC_B[..], &MAC_A].concat();
    if vlan {
        frame.extend([0x81, 0, 0, 5]);
    }
    let mut transport = if tcp {
        // Options of 12 bytes; sequence near its end; CWR, ACK, PSH, FIN.
        let mut tcp = vec![0x12, 0x34, 0, 80, 0xff, 0xff, 0xf0, 0, 1, 2, 3, 4, 0x80, 0x99, 2, 0, 0, 0, 0, 0];
        tcp.extend([1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8]);
        tcp
    } else {
        let mut udp = vec![0x12, 0x34, 0, 53];
        udp.extend(((payload.len() + 8) as u16).to_be_bytes());
        udp.extend([0, 0]);
        udp
    };
    transport.extend(payload);
    let length = transport.len();
    let protocol = if tcp { 6 } else { 17 };
    let mut ip = if v6 {
        let mut ip = vec![0x60, 0, 0, 0];
        ip.extend((length as u16).to_be_bytes());
        ip.extend([protocol, 64]);
        ip.extend([0xfd; 15]);
        ip.push(1);
        ip.extend([0xfd; 15]);
        ip.push(2);
        ip
    } else {
        // Identification near its end, one option.
        let mut ip = vec![0x46, 0, 0, 0, 0xff, 0xfe, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        ip.extend([1, 1, 1, 0]);
        ip[2..4].copy_from_slice(&((length + 24) as u16).to_be_bytes());
        let check = !sum(&[&ip]);
        ip[10..12].copy_from_slice(&check.to_be_bytes());
        ip
    };
    let mut head = pseudo(&ip, v6, length);
    if v6 {
        head[39] = protocol;
    }
    let partial = sum(&[&head]);
    let at = if tcp { 16 } else { 6 };
    transport[at..at + 2].copy_from_slice(&partial.to_be_bytes());
    frame.extend(if v6 { [0x86, 0xdd] } else { [8, 0] });
    let start = frame.len() + ip.len();
    frame.append(&mut ip);
    frame.append(&mut transport);
    (frame, start)
}

/// The header of a frame whose checksum, and perhaps segments, are to be made.
fn lacking(start: usize, tcp: bool, kind: u8, size: u16) -> [u8; 12] {
    let [s0, s1] = size.to_le_bytes();
    [1, kind, 54, 0, s0, s1, start as u8, 0, if tcp { 16 } else { 6 }, 0, 0, 0]
}

/// Checks the checksums of a frame.
fn verify(frame: &[u8], start: usize, v6: bool) {
    let ip = start - if v6 { 40 } else { 24 };
    let (packet, transport) = (&frame[ip..], &frame[start..]);
    if !v6 {
        assert_eq!(sum(&[&packet[..24]]), 0xffff, "IPv4 header");
        assert_eq!(usize::from(packet[2]) * 256 + usize::from(packet[3]), packet.len());
    } else {
        assert_eq!(usize::from(packet[4]) * 256 + usize::from(packet[5]), packet.len() - 40);
    }
    let mut head = pseudo(packet, v6, transport.len());
    let end = head.len() - 1;
    if v6 {
        head[end] = packet[6];
    }
    assert_eq!(sum(&[&head, transport]), 0xffff, "transport");
}

#[test]
fn the_configuration_says_what_there_is() {
    let several =
        Settings { pairs: 3, mtu: 9000, features: feature::DEFAULT | feature::MQ, ..settings(MAC_A) };
    let mut driver = Driver::new(Net::new(&several));
    let offered = driver.offered();
    assert_eq!(offered & (ALL | feature::MQ | feature::MTU), ALL | feature::MQ | feature::MTU);
    assert_eq!((driver.read(18, 2), driver.read(0x2000, 4)), (7, 0x1200_5452));
    assert_eq!([0x2004, 0x2006, 0x2008, 0x200a].map(|at| driver.read(at, 2)), [0x5634, 1, 3, 9000]);
    // Without the queue for commands there is nothing that needs it.
    let features = (feature::DEFAULT | feature::MQ) & !feature::CTRL_VQ;
    let mut driver = Driver::new(Net::new(&Settings { features, ..several }));
    assert_eq!(driver.offered() & (feature::NEED_CTRL_VQ | feature::CTRL_VQ), 0);
    assert_eq!(driver.read(18, 2), 2);
    assert_eq!(Driver::new(Net::new(&Settings { pairs: 99, ..several })).read(18, 2), 15);
}

#[test]
fn a_frame_goes_from_one_card_to_the_other() {
    let mut cards = Cards::pair(ALL, ALL);
    cards.buffers(1, 0, 0, 4, 2048);
    let sent = frame(MAC_B, 100);
    cards.send(0, PLAIN, &sent);
    assert!(cards.sent(0));
    assert_eq!(cards.received(1, 0, 2048), [(ONE, sent)]);
    assert_eq!(cards.0[1].isr() & 1, 1);
    // What a driver leaves out is left out.
    let (sent, start) = packet(false, true, false, &numbers(5000));
    let header = lacking(start, true, 0x81, 1448);
    cards.send(0, header, &sent);
    let mut expected = header;
    expected[10] = 3;
    assert_eq!(cards.received(1, 0, 2048), [(expected, sent)]);
    assert_eq!((cards.dropped(0), cards.dropped(1)), (0, 0));
}

#[test]
fn the_largest_frame_fits_into_many_buffers() {
    let mut cards = Cards::pair(ALL, ALL);
    cards.buffers(1, 0, 0, 64, 1536);
    let (sent, start) = packet(true, true, true, &numbers(65_000));
    cards.send(0, lacking(start, true, 4, 1440), &sent);
    let received = cards.received(1, 0, 1536);
    assert_eq!(received.len(), 1);
    assert_eq!(usize::from(received[0].0[10]), (sent.len() + 12).div_ceil(1536));
    assert!(received[0].1 == sent);
    // Larger than any frame.
    cards.send(0, PLAIN, &frame(MAC_B, 65_560));
    assert_eq!((cards.dropped(0), cards.received(1, 0, 1536).len()), (1, 0));
}

#[test]
fn a_driver_without_mergeable_buffers_has_one_for_each_frame() {
    let mut cards = Cards::pair(ALL, ALL & !feature::MRG_RXBUF);
    cards.buffers(1, 0, 0, 4, 1024);
    cards.send(0, PLAIN, &frame(MAC_B, 1012));
    assert_eq!(cards.received(1, 0, 1024), [(ONE, frame(MAC_B, 1012))]);
    cards.send(0, PLAIN, &frame(MAC_B, 1013));
    assert!(cards.received(1, 0, 1024).is_empty());
    assert_eq!(cards.dropped(0), 1);
    // The buffer that was too small is used for the next one.
    cards.send(0, PLAIN, &frame(MAC_B, 60));
    assert_eq!(cards.received(1, 0, 1024), [(ONE, frame(MAC_B, 60))]);
}

#[test]
fn frames_wait_for_buffers_but_not_for_long() {
    let mut cards = Cards::pair(ALL, ALL);
    let sent = frame(MAC_B, 3000);
    cards.buffers(1, 0, 0, 2, 1024);
    cards.send(0, PLAIN, &sent);
    assert!(!cards.sent(0) && cards.received(1, 0, 1024).is_empty());
    // One more buffer, and it is all there.
    cards.buffers(1, 0, 2, 1, 1024);
    cards.notify(1, 0);
    assert!(cards.sent(0));
    assert_eq!(cards.received(1, 0, 1024)[0].1, sent);
    // The next one waits in vain.
    cards.send(0, PLAIN, &sent);
    assert!(!cards.sent(0));
    let deadline = cards.0[0].function.deadline().expect("an end");
    assert!((1..1_000_000_000).contains(&deadline));
    cards.poll(0, deadline - 1);
    assert!(!cards.sent(0));
    cards.poll(0, deadline);
    assert!(cards.sent(0) && cards.0[0].function.deadline().is_none());
    // And those behind it do not wait at all, until there are buffers.
    cards.send(0, PLAIN, &sent);
    assert!(cards.sent(0) && cards.dropped(0) == 2);
    cards.buffers(1, 0, 0, 3, 1024);
    cards.notify(1, 0);
    cards.send(0, PLAIN, &sent);
    assert!(cards.sent(0) && cards.received(1, 0, 1024).len() == 1);
    cards.send(0, PLAIN, &sent);
    assert!(!cards.sent(0));
    // A reset ends the waiting.
    cards.0[0].write(20, 1, 0);
    assert!(cards.0[0].function.deadline().is_none());
}

#[test]
fn a_full_queue_is_sent_in_turns() {
    let mut cards = Cards::pair(ALL, ALL);
    let ram = cards.ram();
    let sent = frame(MAC_B, 60_000);
    ram.write(SEND, &PLAIN).unwrap();
    ram.write(SEND + 12, &sent).unwrap();
    for index in 0..8 {
        cards.0[0].chain(1, index, &[(SEND, 60_012, false)]);
        cards.0[0].offer(1, index);
    }
    // All of them write to the same place.
    for index in 0..8 {
        cards.0[1].chain(0, index, &[(RECEIVE, 60_012, true)]);
        cards.0[1].offer(0, index);
    }
    cards.notify(0, 1);
    let mut count = || std::iter::from_fn(|| cards.0[1].take_used(0)).count();
    let first = count();
    assert!((1..8).contains(&first), "{first}");
    let mut rest = 0;
    while cards.0[0].function.deadline() == Some(0) {
        cards.poll(0, 0);
        rest += std::iter::from_fn(|| cards.0[1].take_used(0)).count();
    }
    assert_eq!(first + rest, 8);
    assert_eq!(std::iter::from_fn(|| cards.0[0].take_used(1)).count(), 8);
}

#[test]
fn checksums_are_completed_for_who_needs_them() {
    for (v6, tcp, vlan) in
        [(false, true, false), (false, false, true), (true, true, true), (true, false, false)]
    {
        for length in [0, 1, 2, 700, 1401] {
            let mut cards = Cards::pair(ALL, feature::MRG_RXBUF | feature::MAC);
            cards.buffers(1, 0, 0, 8, 512);
            let (sent, start) = packet(v6, tcp, vlan, &numbers(length));
            cards.send(0, lacking(start, tcp, 0, 0), &sent);
            let received = cards.received(1, 0, 512);
            let [(header, frame)] = &received[..] else { panic!("one frame: {received:?}") };
            assert_eq!(header[..10], ONE[..10]);
            verify(frame, start, v6);
            // Nothing else has changed.
            let at = start + if tcp { 16 } else { 6 };
            let mut expected = sent.clone();
            expected[at..at + 2].copy_from_slice(&frame[at..at + 2]);
            assert_eq!(*frame, expected);
        }
    }
}

#[test]
fn a_checksum_of_zero_is_written_as_the_other_zero() {
    let mut cards = Cards::pair(ALL, feature::MAC);
    let (mut sent, start) = packet(false, false, false, &[0; 4]);
    let ip = start - 24;
    // What is missing to zero goes into the payload.
    let head = pseudo(&sent[ip..], false, 12);
    let check = start + 6;
    let partial = sum(&[&head]);
    let without = sum(&[&partial.to_be_bytes(), &sent[start..check]]);
    sent[start + 8..start + 10].copy_from_slice(&(!without).to_be_bytes());
    cards.buffers(1, 0, 0, 1, 512);
    cards.send(0, lacking(start, false, 0, 0), &sent);
    assert_eq!(cards.received(1, 0, 512)[0].1[check..check + 2], [0xff, 0xff]);
}

#[test]
fn tcp_is_cut_into_segments_for_who_needs_it() {
    for v6 in [false, true] {
        for (vlan, size, length) in
            [(false, 1448, 10_000), (true, 1000, 5000), (false, 9, 200), (true, 500, 3)]
        {
            // The receiver takes frames without a checksum, but no long ones.
            let features = feature::MRG_RXBUF | feature::GUEST_CSUM;
            let mut cards = Cards::pair(ALL, features);
            cards.buffers(1, 0, 0, 63, 1024);
            let data = numbers(length);
            let (sent, start) = packet(v6, true, vlan, &data);
            cards.send(0, lacking(start, true, if v6 { 4 } else { 0x81 }, size), &sent);
            assert!(cards.sent(0));
            let received = cards.received(1, 0, 1024);
            assert_eq!(received.len(), length.div_ceil(size.into()));
            let count = received.len();
            let mut joined: Vec<u8> = Vec::new();
            for (number, (header, frame)) in received.into_iter().enumerate() {
                assert_eq!(header[..10], ONE[..10]);
                verify(&frame, start, v6);
                let tcp = &frame[start..];
                let sequence = u32::from_be_bytes(tcp[4..8].try_into().unwrap());
                assert_eq!(sequence, 0xffff_f000u32.wrapping_add(joined.len() as u32));
                let (first, last) = (number == 0, number + 1 == count);
                let flags = 0x10 | if first { 0x80 } else { 0 } | if last { 9 } else { 0 };
                assert_eq!(tcp[13], flags);
                assert_eq!(tcp[20..32], sent[start + 20..start + 32]);
                if !v6 {
                    let id = u16::from_be_bytes(frame[start - 20..start - 18].try_into().unwrap());
                    assert_eq!(id, 0xfffeu16.wrapping_add(number as u16));
                }
                joined.extend(&tcp[32..]);
            }
            assert_eq!(joined, data);
        }
    }
}

#[test]
fn segments_come_all_or_none() {
    let mut cards = Cards::pair(ALL, feature::MRG_RXBUF);
    cards.buffers(1, 0, 0, 6, 1024);
    let (sent, start) = packet(false, true, false, &numbers(7000));
    cards.send(0, lacking(start, true, 1, 1000), &sent);
    assert!(!cards.sent(0) && cards.received(1, 0, 1024).is_empty());
    // Each has headers of 82 bytes besides, and so needs two buffers.
    cards.buffers(1, 0, 6, 8, 1024);
    cards.notify(1, 0);
    assert!(cards.sent(0));
    assert_eq!(cards.received(1, 0, 1024).len(), 7);
    // More than a queue has entries cannot be given at once.
    cards.send(0, lacking(start, true, 1, 27), &sent);
    assert!(cards.sent(0) && cards.dropped(0) == 1);
}

#[test]
fn headers_that_cannot_be_are_dropped() {
    let (sent, start) = packet(false, true, false, &numbers(3000));
    let good = lacking(start, true, 1, 1000);
    let with = |at: usize, bytes: &[u8]| {
        let mut header = good;
        header[at..at + bytes.len()].copy_from_slice(bytes);
        header
    };
    let end = (sent.len() as u16 - 17).to_le_bytes();
    let bad = [
        with(4, &[0, 0]),
        with(0, &[0]),
        with(1, &[3]),
        with(1, &[5]),
        with(1, &[0x80]),
        with(6, &end),
        with(6, &[0xff, 0xff, 0xff, 0xff]),
        with(6, &[13, 0]),
        // For a driver that takes everything these may pass; they cannot be cut.
        with(8, &[6, 0]),
        with(6, &[200, 1]),
        with(6, &[40, 0]),
        with(1, &[4]),
    ];
    for (number, header) in bad.into_iter().enumerate() {
        let mut cards = Cards::pair(ALL, feature::MRG_RXBUF);
        cards.buffers(1, 0, 0, 20, 1024);
        cards.send(0, header, &sent);
        assert!(cards.sent(0) && cards.received(1, 0, 1024).is_empty(), "{number}");
        assert_eq!(cards.dropped(0), 1, "{number}");
        if number < 8 {
            let mut cards = Cards::pair(ALL, ALL);
            cards.buffers(1, 0, 0, 20, 1024);
            cards.send(0, header, &sent);
            assert!(cards.received(1, 0, 1024).is_empty(), "{number}");
        }
    }
    // What has not been negotiated is not believed either.
    for features in [0, feature::CSUM] {
        let mut cards = Cards::pair(features, ALL);
        cards.buffers(1, 0, 0, 20, 1024);
        cards.send(0, good, &sent);
        assert_eq!((cards.sent(0), cards.dropped(0)), (true, 1));
    }
    // Frames that are none.
    let mut cards = Cards::pair(ALL, ALL);
    cards.buffers(1, 0, 0, 20, 1024);
    cards.send(0, PLAIN, &frame(MAC_B, 14)[..13]);
    cards.0[0].chain(1, 0, &[(SEND, 11, false)]);
    cards.0[0].offer(1, 0);
    cards.notify(0, 1);
    assert_eq!((cards.dropped(0), cards.received(1, 0, 1024).len()), (2, 0));
}

#[test]
fn buffers_that_are_not_ram_are_their_owners_fault() {
    let mut cards = Cards::pair(ALL, ALL);
    cards.buffers(1, 0, 0, 2, 1024);
    cards.0[0].chain(1, 0, &[(SEND, 100, false), (RAM as u64 - 8, 100, false)]);
    cards.0[0].offer(1, 0);
    cards.notify(0, 1);
    assert_eq!((cards.0[0].status(), cards.0[1].status()), (79, 15));
    assert!(cards.received(1, 0, 1024).is_empty());
    let mut cards = Cards::pair(ALL, ALL);
    cards.0[1].chain(0, 0, &[(RAM as u64 - 8, 100, true)]);
    cards.0[1].offer(0, 0);
    cards.send(0, PLAIN, &frame(MAC_B, 80));
    assert_eq!((cards.0[0].status(), cards.0[1].status()), (15, 79));
    assert!(cards.sent(0));
}

fn command(cards: &mut Cards, card: usize, class: u8, command: u8, data: &[u8]) -> u8 {
    let ram = cards.ram();
    ram.write(SEND, &[class, command]).unwrap();
    ram.write(SEND + 2, data).unwrap();
    ram.write(SEND + 0x1000, &[0xee]).unwrap();
    let driver = &mut cards.0[card];
    // The command, and no more than it, may be in one buffer with its data.
    let written = driver.request(
        driver.function.device::<Net>().map_or(2, |net| 2 * net.settings.pairs),
        &[(SEND, 2 + data.len() as u32, false), (SEND + 0x1000, 1, true)],
    );
    assert_eq!(written, 1);
    cards.settle();
    cards.ram().read_u16(SEND + 0x1000).unwrap() as u8
}

#[test]
fn commands_set_the_filter_and_the_services_hear_of_it_once() {
    let mut cards = Cards::pair(ALL, ALL);
    assert!(!cards.net(1, Net::take_filter_change));
    assert_eq!(command(&mut cards, 1, 0, 0, &[0]), 0);
    // Asking does not take it.
    assert!(cards.net(1, |net| net.has_filter_change()));
    assert!(cards.net(1, Net::take_filter_change) && cards.0[1].function.take_told());
    assert!(!cards.net(1, |net| net.has_filter_change()));
    assert_eq!(command(&mut cards, 1, 0, 5, &[1]), 0);
    assert!(!cards.net(1, Net::take_filter_change));
    let filter = cards.net(1, |net| net.query_filter().clone());
    assert!(!filter.promiscuous && filter.no_broadcast && filter.vlans().count() == 0);
    // Tables: two addresses, one group.
    let table = [&[2, 0, 0, 0][..], &MAC_A, &MAC_C, &[1, 0, 0, 0], &[0x33, 0x33, 0, 0, 0, 1]].concat();
    assert_eq!(command(&mut cards, 1, 1, 0, &table), 0);
    assert!(cards.net(1, Net::take_filter_change));
    assert_eq!(cards.net(1, |net| net.filter.table(false).to_vec()), [MAC_A, MAC_C]);
    assert_eq!(cards.net(1, |net| net.filter.table(true).to_vec()), [[0x33, 0x33, 0, 0, 0, 1]]);
    // Too many for the table.
    let many = [&[65, 0, 0, 0][..], &[2; 65 * 6], &[0, 0, 0, 0]].concat();
    assert_eq!(command(&mut cards, 1, 1, 0, &many), 0);
    assert!(cards.net(1, |net| net.filter.unicast_overflow && net.filter.table(false).is_empty()));
    assert_eq!(command(&mut cards, 1, 1, 1, &MAC_C), 0);
    assert_eq!(cards.0[1].read(0x2004, 2), 0x5834);
    assert_eq!(command(&mut cards, 1, 2, 0, &[7, 0]), 0);
    assert!(cards.net(1, |net| net.filter.has_vlan(7)));
    assert_eq!(command(&mut cards, 1, 2, 1, &[7, 0]), 0);
    assert!(!cards.net(1, |net| net.filter.has_vlan(7)));
    for (class, number, data) in [
        (0, 6, &[1][..]),
        (0, 0, &[]),
        (1, 0, &[1, 0, 0, 0]),
        (1, 0, &[0xff; 16]),
        (1, 1, &[1; 5]),
        (1, 2, &[]),
        (2, 0, &[0, 0x10]),
        (2, 0, &[0]),
        (2, 2, &[0, 0]),
        (3, 0, &[]),
        (4, 0, &[1, 0]),
        (5, 0, &[0xff; 8]),
        (5, 0, &[0; 7]),
        (9, 9, &[]),
    ] {
        assert_eq!(command(&mut cards, 1, class, number, data), 1, "{class} {number}");
    }
    // A reset brings back what the operator has set.
    cards.0[1].start(ALL & !feature::CTRL_VLAN);
    let filter = cards.net(1, |net| net.query_filter().clone());
    assert!(filter.promiscuous && filter.mac == MAC_B && filter.vlans().count() == 4096);
}

#[test]
fn commands_need_their_features_and_room_for_the_answer() {
    let mut cards = Cards::pair(ALL, feature::CTRL_VQ);
    for (class, number, data) in
        [(0, 0, &[1][..]), (0, 2, &[1]), (1, 1, &MAC_C), (2, 0, &[1, 0]), (5, 0, &[0; 8])]
    {
        assert_eq!(command(&mut cards, 1, class, number, data), 1);
    }
    cards.0[1].chain(2, 0, &[(SEND, 3, false)]);
    cards.0[1].offer(2, 0);
    cards.notify(1, 2);
    assert_eq!(cards.0[1].status(), 79);
}

#[test]
fn a_driver_can_switch_what_it_takes() {
    let mut cards = Cards::pair(ALL, ALL);
    cards.buffers(1, 0, 0, 8, 2048);
    assert_eq!(command(&mut cards, 1, 5, 0, &0u64.to_le_bytes()), 0);
    let (sent, start) = packet(false, true, false, &numbers(3000));
    cards.send(0, lacking(start, true, 1, 1000), &sent);
    assert_eq!(cards.received(1, 0, 2048).len(), 3);
    assert_eq!(command(&mut cards, 1, 5, 0, &feature::OFFLOADS.to_le_bytes()), 0);
    cards.send(0, lacking(start, true, 1, 1000), &sent);
    assert_eq!(cards.received(1, 0, 2048).len(), 1);
}

#[test]
fn a_frame_is_for_the_cards_on_its_hub_that_want_it() {
    let other = Settings { hub: Some(1), ..settings(MAC_C) };
    let alone = Settings { hub: None, ..settings(MAC_C) };
    let mut cards = Cards::new(&[settings(MAC_A), settings(MAC_B), settings(MAC_C), other, alone]);
    for card in 0..5 {
        cards.0[card].start(ALL);
    }
    cards.settle();
    for card in 1..5 {
        command(&mut cards, card, 0, 0, &[0]);
        // Each at a place of its own.
        for index in 0..8 {
            let at = RECEIVE + 0x4000 * card as u64 + 0x400 * u64::from(index);
            cards.0[card].chain(0, index, &[(at, 1024, true)]);
            cards.0[card].offer(0, index);
        }
    }
    let got = |cards: &mut Cards, target: Mac| {
        cards.send(0, PLAIN, &frame(target, 60));
        [1, 2, 3, 4].map(|card| cards.0[card].take_used(0).is_some())
    };
    assert_eq!(got(&mut cards, MAC_B), [true, false, false, false]);
    assert_eq!(got(&mut cards, MAC_C), [false, true, false, false]);
    assert_eq!(got(&mut cards, [0xff; 6]), [true, true, false, false]);
    // Without a link nothing comes, and nothing goes.
    let unplug = |cards: &mut Cards, card: usize, up: bool| {
        cards.0[card].function.with(0, |net: &mut Net, cx| net.set_link(up, cx)).unwrap();
    };
    cards.0[1].isr();
    unplug(&mut cards, 1, false);
    assert_eq!((cards.0[1].read(0x2006, 2), cards.0[1].isr()), (0, 2));
    assert_eq!(got(&mut cards, [0xff; 6]), [false, true, false, false]);
    unplug(&mut cards, 1, true);
    unplug(&mut cards, 0, false);
    assert_eq!(got(&mut cards, [0xff; 6]), [false; 4]);
    unplug(&mut cards, 0, true);
    assert_eq!(got(&mut cards, [0xff; 6]), [true, true, false, false]);
    // A card that is on no hub sends to nobody.
    cards.send(4, PLAIN, &frame([0xff; 6], 60));
    assert!(cards.sent(4));
    // One without buffers does not hold the others up.
    while cards.0[0].take_used(1).is_some() {}
    for _ in 0..4 {
        cards.send(0, PLAIN, &frame(MAC_C, 60));
    }
    while cards.sent(0) {}
    cards.send(0, PLAIN, &frame([0xff; 6], 60));
    assert!(cards.sent(0));
    assert_eq!(cards.dropped(0), 1);
}

#[test]
fn flows_come_on_the_pair_that_their_driver_uses() {
    let several = Settings { pairs: 4, features: feature::DEFAULT | feature::MQ, ..settings(MAC_B) };
    let mut cards = Cards::new(&[settings(MAC_A), several]);
    cards.0[0].start(ALL);
    cards.0[1].start(ALL | feature::MQ);
    cards.settle();
    for pairs in [0, 5] {
        assert_eq!(command(&mut cards, 1, 4, 0, &[pairs, 0]), 1);
    }
    cards.buffers(0, 0, 0, 16, 512);
    for queue in 0..4 {
        cards.buffers(1, 2 * queue, 0, 16, 512);
    }
    let (sent, start) = packet(false, true, false, &numbers(10));
    let header = lacking(start, true, 0, 0);
    let pairs = |cards: &mut Cards| {
        cards.send(0, header, &sent);
        [0, 2, 4, 6].map(|queue| cards.0[1].take_used(queue).is_some())
    };
    // One pair until there are to be more.
    assert_eq!(pairs(&mut cards), [true, false, false, false]);
    assert_eq!(command(&mut cards, 1, 4, 0, &[4, 0]), 0);
    // The other direction of the flow.
    let mut answer = sent.clone();
    let ip = start - 24;
    answer[ip + 12..ip + 16].copy_from_slice(&sent[ip + 16..ip + 20]);
    answer[ip + 16..ip + 20].copy_from_slice(&sent[ip + 12..ip + 16]);
    answer[start..start + 2].copy_from_slice(&sent[start + 2..start + 4]);
    answer[start + 2..start + 4].copy_from_slice(&sent[start..start + 2]);
    for pair in [2, 0, 3, 1] {
        cards.send_on(1, 2 * pair + 1, header, &answer);
        assert_eq!(cards.0[0].take_used(0).map(|_| ()), Some(()));
        let mut expected = [false; 4];
        expected[usize::from(pair)] = true;
        assert_eq!(pairs(&mut cards), expected);
    }
    // A driver that does not know of pairs has its commands where it expects them.
    cards.0[1].start(ALL);
    let ram = cards.ram();
    ram.write(SEND, &[0, 0, 0]).unwrap();
    assert_eq!(cards.0[1].request(2, &[(SEND, 3, false), (SEND + 0x1000, 1, true)]), 1);
}

#[test]
fn a_hostile_driver_gets_nowhere() {
    let several = Settings { pairs: 2, features: feature::DEFAULT | feature::MQ, ..settings(MAC_A) };
    for seed in 0..20 {
        let mut cards = Cards::new(&[settings(MAC_B), settings(MAC_C), several]);
        for card in 0..2 {
            cards.0[card].start(if card == 0 { ALL } else { 0 });
        }
        cards.settle();
        let mut random = Random(seed + 1);
        let Cards(drivers) = cards;
        let [mut second, mut third, mut hostile] = <[Driver; 3]>::try_from(drivers).ok().unwrap();
        abuse_and(&mut hostile, seed, 3000, &mut |hostile, number| {
            // The others go on as usual, in the same RAM, which the hostile one writes to.
            let other = if number & 1 == 0 { &mut second } else { &mut third };
            if other.status() != 15 {
                other.start(ALL & !(number & feature::OFFLOADS));
            }
            let queue = (number >> 1) as u16 % 2;
            let at = RECEIVE_ALL + random.below(0x8000);
            let length = random.below(3000) as u32;
            let head = random.below(8) as u16;
            other.chain(queue, head, &[(at, length, queue == 0)]);
            other.offer(queue, head);
            other.kick(queue);
            if number & 64 != 0 {
                // Headers that ask for something, before frames that may be something.
                let (frame, start) = packet(number & 128 != 0, true, false, &[1; 600]);
                let kind = if number & 128 != 0 { 4 } else { 1 };
                let bytes =
                    [&lacking(start, true, kind, 1 + (number >> 40) as u16 % 600)[..], &frame].concat();
                hostile.fill(at.min(0x5_0000), &bytes);
                hostile.fill(0x80_000, &bytes);
            }
            let mut functions = [&mut *second.function, &mut *third.function, &mut *hostile.function];
            for index in 0..3 {
                if let Some(now) = functions[index].take_forward() {
                    hub::forward(&mut functions, index, now);
                }
                if functions[index].deadline().is_some() {
                    functions[index].poll(number >> 32);
                }
            }
        });
    }
}
