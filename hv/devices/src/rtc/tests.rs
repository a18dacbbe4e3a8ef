use super::*;

/// 2024-02-29 23:59:58 UTC, a Thursday.
const LEAP: i64 = 1_709_251_198;

fn rtc() -> Rtc {
    let mut rtc = Rtc::new();
    rtc.set_wall_clock(LEAP * 1_000_000_000, 0);
    rtc
}

fn read(rtc: &mut Rtc, index: u8, now: u64) -> u8 {
    rtc.select(index);
    rtc.read(now)
}

fn write(rtc: &mut Rtc, index: u8, value: u8, now: u64) {
    rtc.select(index);
    rtc.write(value, now);
}

fn time(rtc: &mut Rtc, now: u64) -> [u8; 8] {
    [RTC_CENTURY, YEAR, MONTH, DAY, WEEKDAY, HOURS, MINUTES, SECONDS].map(|index| read(rtc, index, now))
}

#[test]
fn wall_time_in_bcd_and_binary() {
    let mut rtc = rtc();
    assert_eq!(time(&mut rtc, 0), [0x20, 0x24, 2, 0x29, 5, 0x23, 0x59, 0x58]);
    assert_eq!(time(&mut rtc, 2 * SECOND), [0x20, 0x24, 3, 1, 6, 0, 0, 0]);
    write(&mut rtc, B, B_24H | B_BINARY, 0);
    assert_eq!(time(&mut rtc, 0), [20, 24, 2, 29, 5, 23, 59, 58]);
}

#[test]
fn twelve_hours() {
    let mut rtc = rtc();
    write(&mut rtc, B, 0, 0);
    assert_eq!(read(&mut rtc, HOURS, 0), 0x91);
    assert_eq!(read(&mut rtc, HOURS, 2 * SECOND), 0x12, "midnight is 12 AM");
    assert_eq!(read(&mut rtc, HOURS, (2 + 12 * 3600) * SECOND), 0x92, "noon is 12 PM");
    write(&mut rtc, HOURS, 0x85, 0);
    write(&mut rtc, B, B_24H, 0);
    assert_eq!(read(&mut rtc, HOURS, 0), 0x17);
}

#[test]
fn update_in_progress_just_before_the_second() {
    let mut rtc = rtc();
    assert_eq!(read(&mut rtc, A, 0), 0x26);
    assert_eq!(read(&mut rtc, A, SECOND - BEFORE_UPDATE - 1), 0x26);
    assert_eq!(read(&mut rtc, A, SECOND - BEFORE_UPDATE), 0xa6);
    assert_eq!(read(&mut rtc, A, SECOND), 0x26);
    write(&mut rtc, B, B_SET | B_24H, SECOND);
    assert_eq!(read(&mut rtc, A, 2 * SECOND - 1), 0x26);
}

#[test]
fn setting_the_time_as_linux_does() {
    let mut rtc = rtc();
    write(&mut rtc, B, B_SET | B_24H, 0);
    write(&mut rtc, A, 0x76, 0);
    for (index, value) in [
        (YEAR, 0x30),
        (MONTH, 0x12),
        (DAY, 0x31),
        (HOURS, 0x22),
        (MINUTES, 0x58),
        (SECONDS, 0x57),
        (RTC_CENTURY, 0x20),
    ] {
        write(&mut rtc, index, value, 5 * SECOND);
    }
    assert_eq!(read(&mut rtc, SECONDS, 9 * SECOND), 0x57, "stands still");
    write(&mut rtc, B, B_24H, 10 * SECOND);
    assert_eq!(read(&mut rtc, SECONDS, 11 * SECOND), 0x57, "the divider is still held");
    write(&mut rtc, A, 0x26, 20 * SECOND);
    assert_eq!(time(&mut rtc, 20 * SECOND), [0x20, 0x30, 0x12, 0x31, 3, 0x22, 0x58, 0x57]);
    assert_eq!(read(&mut rtc, SECONDS, 23 * SECOND), 0);
    assert!(rtc.take_change().is_some_and(|ahead| ahead > 200_000_000));
    assert_eq!(rtc.take_change(), None);
    // Wall time moves on while the machine is stopped, and the guest's clock with it.
    rtc.set_wall_clock((LEAP + 120) * 1_000_000_000, 20 * SECOND);
    assert_eq!(read(&mut rtc, MINUTES, 20 * SECOND), 0x00);
}

#[test]
fn one_field_alone() {
    let mut rtc = rtc();
    write(&mut rtc, MINUTES, 0x10, 0);
    assert_eq!(time(&mut rtc, 0)[5..], [0x23, 0x10, 0x58]);
    assert_eq!(rtc.take_change(), Some(-49 * 60));
}

#[test]
fn update_interrupt() {
    let mut rtc = rtc();
    assert_eq!(rtc.deadline(), None);
    write(&mut rtc, B, B_UPDATE | B_24H, SECOND / 2);
    assert_eq!(rtc.deadline(), Some(SECOND));
    rtc.advance(SECOND);
    assert!(rtc.interrupt());
    assert_eq!(rtc.deadline(), None, "nothing more until C is read");
    assert_eq!(read(&mut rtc, C, SECOND), C_REQUEST | B_UPDATE | B_PERIODIC);
    assert!(!rtc.interrupt());
    assert_eq!(read(&mut rtc, C, SECOND), 0);
    assert_eq!(rtc.deadline(), Some(2 * SECOND));
    write(&mut rtc, B, B_SET | B_UPDATE, SECOND);
    assert_eq!(read(&mut rtc, B, SECOND), B_SET, "SET clears the update-ended enable");
}

#[test]
fn periodic_interrupt() {
    let mut rtc = rtc();
    write(&mut rtc, A, 0x2f, 0);
    write(&mut rtc, B, B_PERIODIC | B_24H, 0);
    assert_eq!(rtc.deadline(), Some(SECOND / 2));
    rtc.advance(SECOND / 2);
    assert!(rtc.interrupt());
    read(&mut rtc, C, SECOND / 2);
    assert_eq!(rtc.deadline(), Some(SECOND));
    for (rate, period) in [(1, 128), (2, 256), (3, 4), (6, 32), (15, 16_384)] {
        write(&mut rtc, A, 0x20 | rate, SECOND);
        assert_eq!(rtc.period(), Some(period));
    }
    write(&mut rtc, A, 0x20, SECOND);
    read(&mut rtc, C, SECOND);
    assert_eq!(rtc.deadline(), None);
}

#[test]
fn alarm_with_fields_that_do_not_matter() {
    let mut rtc = rtc();
    for (index, value) in [(SECONDS_ALARM, 0x05), (MINUTES_ALARM, 0xff), (HOURS_ALARM, 0xc0)] {
        write(&mut rtc, index, value, 0);
    }
    write(&mut rtc, B, B_ALARM | B_24H, 0);
    assert_eq!(rtc.deadline(), Some(7 * SECOND));
    rtc.advance(7 * SECOND - 1);
    assert!(!rtc.interrupt());
    rtc.advance(7 * SECOND);
    assert!(rtc.interrupt());
    assert_eq!(read(&mut rtc, C, 7 * SECOND) & B_ALARM, B_ALARM);
    assert_eq!(rtc.deadline(), Some(67 * SECOND));
}

#[test]
fn alarm_tomorrow_and_never() {
    let mut rtc = rtc();
    for (index, value) in [(SECONDS_ALARM, 0x57), (MINUTES_ALARM, 0x59), (HOURS_ALARM, 0x23)] {
        write(&mut rtc, index, value, 0);
    }
    write(&mut rtc, B, B_ALARM | B_24H, 0);
    assert_eq!(rtc.deadline(), Some(86_399 * SECOND));
    rtc.advance(200_000 * SECOND);
    assert!(rtc.interrupt(), "not missed by coming late");
    read(&mut rtc, C, 200_000 * SECOND);
    for (index, value) in [(SECONDS_ALARM, 0x61), (MINUTES_ALARM, 0x75), (HOURS_ALARM, 0x24)] {
        let before = read(&mut rtc, index, 0);
        write(&mut rtc, index, value, 200_000 * SECOND);
        assert_eq!(rtc.deadline(), None);
        write(&mut rtc, index, before, 200_000 * SECOND);
    }
}

#[test]
fn alarm_in_twelve_hours_mode() {
    let mut rtc = rtc();
    write(&mut rtc, B, B_ALARM, 0);
    for (index, value) in [(SECONDS_ALARM, 0), (MINUTES_ALARM, 0), (HOURS_ALARM, 0x12)] {
        write(&mut rtc, index, value, 0);
    }
    assert_eq!(rtc.deadline(), Some(2 * SECOND), "12 AM is midnight");
}

#[test]
fn an_enable_finds_a_flag_that_was_there() {
    let mut rtc = rtc();
    rtc.advance(3 * SECOND);
    assert!(!rtc.interrupt());
    write(&mut rtc, B, B_UPDATE | B_24H, 3 * SECOND);
    assert!(rtc.interrupt());
    rtc.reset();
    assert!(!rtc.interrupt());
    assert_eq!(read(&mut rtc, B, 3 * SECOND), B_24H);
}

#[test]
fn memory_behind_the_clock() {
    let mut rtc = rtc();
    write(&mut rtc, 0x80 | 0x40, 0x5a, 0);
    assert_eq!(read(&mut rtc, 0x40, 0), 0x5a);
    write(&mut rtc, D, 0, 0);
    assert_eq!(read(&mut rtc, D, 0), D_VALID);
    rtc.set_memory(0x15, 0x80);
    rtc.set_memory(B, 0xff);
    rtc.set_memory(200, 1);
    assert_eq!(read(&mut rtc, 0x15, 0), 0x80);
    assert_eq!(read(&mut rtc, B, 0), B_24H);
}

#[test]
fn any_bytes_in_any_register() {
    let mut rtc = rtc();
    let mut seed = 1u32;
    for step in 0..200_000u64 {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let now = step * 777_777;
        write(&mut rtc, (seed >> 24) as u8, (seed >> 16) as u8, now);
        let _ = read(&mut rtc, (seed >> 8) as u8, now);
        let _ = rtc.deadline();
    }
}
