//! What each serial port of the rig is for: monitor sessions, the guest's console, or free.

use core::fmt;

use monovisor_host::uart::{LINES, Nearest, Uart, UartConfig};
use monovisor_host::{Board, info, power, warn};
use monovisor_loader::Options;

use crate::hypervisor::SESSIONS;
use crate::port::SerialPort;

/// Bits per second of a line for which the command line says nothing, or what cannot be.
const DEFAULT_BAUD: u32 = 115_200;

/// Most that can be wrong with the lines: each can have a speed that it cannot do and be absent, and there may be too
/// many monitors.
const PROBLEMS: usize = 2 * LINES + 1;

/// What is wrong with a line: one sentence that names the option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// A monitor is wanted where no UART is.
    NoUart {
        /// The port's place among the lines.
        line: usize,
        /// Its first I/O port.
        base: u16,
    },
    /// More monitors than there are sessions.
    TooMany {
        /// The first port that gets none.
        line: usize,
    },
    /// A rate that the port's clock does not give.
    Baud {
        /// The port's place among the lines.
        line: usize,
        /// The rate.
        asked: u32,
        /// The rate at divisor 1.
        base: u32,
        /// What it can do.
        nearest: Nearest,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NoUart { line, base } => {
                write!(f, "-qmp com{}: there is no serial port at {base:#x}", line + 1)
            }
            Self::TooMany { line } => write!(f, "-qmp com{}: {SESSIONS} monitors at most", line + 1),
            Self::Baud { line, asked, base, nearest } => {
                write!(f, "-serial com{}:{asked}: a clock of baudbase={base} cannot do this; ", line + 1)?;
                match (nearest.slower, nearest.faster) {
                    (Some(slower), Some(faster)) => write!(f, "the nearest are {slower} and {faster}"),
                    (Some(slower), None) => write!(f, "the fastest is {slower}"),
                    (None, Some(faster)) => write!(f, "the slowest is {faster}"),
                    (None, None) => f.write_str("it is too slow for any"),
                }
            }
        }
    }
}

/// Everything that is wrong with the lines.
pub type Problems = heapless::Vec<Problem, PROBLEMS>;

/// The line of each session.
pub type Ports = [Option<SerialPort>; SESSIONS];

/// The ports that carry a monitor, by their place among the lines: the board's own first, and then those of `-qmp`.
pub fn monitors(board: &Board, options: &Options<'_>) -> impl Iterator<Item = usize> {
    let (own, wanted) = (board.qmp, options.qmp);
    let others = (0..LINES).filter(move |&line| line != own && wanted.get(line) == Some(&true));
    core::iter::once(own).chain(others)
}

/// The port of the guest's console, unless `-qmp` takes it.
pub fn console(board: &Board, options: &Options<'_>) -> Option<usize> {
    board.console.filter(|&line| monitors(board, options).all(|monitor| monitor != line))
}

/// How a line is wired, and the speed that it is to have.
fn wiring(board: &Board, options: &Options<'_>, line: usize) -> Option<(UartConfig, Option<u32>)> {
    let mut config = *board.com.get(line)?;
    let option = options.serial.get(line).copied().unwrap_or_default();
    config.base_baud = option.base.unwrap_or(config.base_baud);
    Some((config, option.baud))
}

/// Opens a line at the speed that the command line says.
pub fn open(board: &Board, options: &Options<'_>, line: usize) -> Option<Uart> {
    let (config, baud) = wiring(board, options, line)?;
    let baud = baud.filter(|&baud| config.divisor(baud).is_some()).unwrap_or(DEFAULT_BAUD);
    let uart = Uart::open(line, config, baud)?;
    if let Some(counters) = uart.counters() {
        info!("com{}: {} at {} baud", line + 1, counters.chip.name(), counters.baud);
    }
    Some(uart)
}

/// Opens the lines that are used from the start: the sessions' and the console's.
pub fn open_all(options: &Options<'_>) -> (Ports, Option<Uart>, Problems) {
    let (mut ports, mut problems) = ([const { None }; SESSIONS], Problems::new());
    let Some(board) = power::board() else { return (ports, None, problems) };
    // There is room for all that can be wrong.
    let mut complain = |problem| {
        let _ = problems.push(problem);
    };
    for line in 0..LINES {
        if let Some((config, Some(asked))) = wiring(board, options, line)
            && config.divisor(asked).is_none()
        {
            let base = config.base_baud;
            complain(Problem::Baud { line, asked, base, nearest: config.nearest(asked) });
        }
    }
    for (session, line) in monitors(board, options).enumerate() {
        let Some(port) = ports.get_mut(session) else {
            complain(Problem::TooMany { line });
            break;
        };
        match open(board, options, line) {
            Some(uart) => *port = Some(SerialPort::new(uart)),
            None if session == 0 => warn!("no UART for QMP on com{}: the guest runs unattended", line + 1),
            None => complain(Problem::NoUart { line, base: board.com.get(line).map_or(0, |port| port.base) }),
        }
    }
    let console = console(board, options).and_then(|line| open(board, options, line));
    (ports, console, problems)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOARD: Board = Board {
        name: "test",
        com: UartConfig::PC,
        qmp: 0,
        console: Some(1),
        log_port: None,
        log_uart: None,
        power_off: &[],
        exit_port: None,
        off_on_failure: true,
    };

    fn parsed(line: &str) -> Options<'static> {
        Options::parse(line.as_bytes().to_vec().leak())
    }

    #[test]
    fn monitors_are_added_to_the_boards_own() {
        let of = |line: &str| {
            (monitors(&BOARD, &parsed(line)).collect::<Vec<_>>(), console(&BOARD, &parsed(line)))
        };
        assert_eq!(of("-S"), (vec![0], Some(1)));
        assert_eq!(of("-qmp com3"), (vec![0, 2], Some(1)));
        assert_eq!(of("-qmp com1 -qmp com4 -qmp com3"), (vec![0, 2, 3], Some(1)));
        assert_eq!(of("-qmp com2"), (vec![0, 1], None));
    }

    #[test]
    fn problems_name_the_option_and_what_would_do() {
        let nearest = |base_baud, asked| UartConfig { base_baud, ..UartConfig::COM1 }.nearest(asked);
        let baud =
            |base, asked| Problem::Baud { line: 0, asked, base, nearest: nearest(base, asked) }.to_string();
        assert_eq!(
            baud(115_200, 921_600),
            "-serial com1:921600: a clock of baudbase=115200 cannot do this; the fastest is 115200"
        );
        assert_eq!(
            baud(115_200, 100_000),
            "-serial com1:100000: a clock of baudbase=115200 cannot do this; the nearest are 57600 and 115200"
        );
        assert_eq!(
            Problem::NoUart { line: 2, base: 0x3e8 }.to_string(),
            "-qmp com3: there is no serial port at 0x3e8"
        );
        assert_eq!(Problem::TooMany { line: 3 }.to_string(), "-qmp com4: 2 monitors at most");
    }

    #[test]
    fn a_clock_of_its_own_makes_a_line_faster() {
        let options = parsed("-serial com1:921600,baudbase=921600 -serial com2:9600");
        let wired = |line| wiring(&BOARD, &options, line).unwrap();
        assert_eq!(wired(0), (UartConfig { base_baud: 921_600, ..UartConfig::COM1 }, Some(921_600)));
        assert_eq!(wired(1), (UartConfig::COM2, Some(9_600)));
        assert_eq!(wired(2), (UartConfig::COM3, None));
        assert!(wiring(&BOARD, &options, 4).is_none());
    }
}
