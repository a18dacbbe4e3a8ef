//! The human monitor.

use monovisor_core::handlers::{Human, Poll};
use monovisor_core::schema::misc::HumanMonitorCommandArgs;
use monovisor_core::schema::run_state::RunState;
use monovisor_core::{Context, Error, Text};

use super::Model;

impl Human for Model {
    fn human_monitor_command(
        &mut self,
        arguments: HumanMonitorCommandArgs<'_>,
        text: &mut Text<'_, '_>,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        self.wait(cx)?;
        if let Some(cpu) = arguments.cpu_index
            && !usize::try_from(cpu).is_ok_and(|cpu| cpu < self.cpus.len())
        {
            return Err(nb::Error::Other(Error::expects("cpu-index", "a CPU number")));
        }
        let words: Vec<&str> = arguments.command_line.split_whitespace().collect();
        match words[..] {
            [] => Ok(()),
            ["info", "version"] => text.write(format_args!("2.8.0{}\n", self.options.package)),
            ["info", "status"] => match self.state {
                RunState::Running => text.str("VM status: running\n"),
                RunState::Paused => text.str("VM status: paused\n"),
                state => text.write(format_args!("VM status: paused ({})\n", state.as_str())),
            },
            ["info", "name"] => match &self.options.name {
                Some(name) => text.write(format_args!("{name}\n")),
                None => Ok(()),
            },
            ["info", "uuid"] => text.write(format_args!("{}\n", self.options.uuid)),
            ["info", "kvm"] => text.str("kvm support: not compiled\n"),
            ["info", "balloon"] => text.str("No balloon device has been activated\n"),
            ["info", "vnc"] => text.str("Server: disabled\n"),
            ["info", "mice"] => text.str("* Mouse #2: QEMU PS/2 Mouse\n"),
            ["info", "history" | "migrate"] => Ok(()),
            ["info", "mem" | "tlb"] => text.str("PG disabled\n"),
            ["info", "chardev"] => {
                for chardev in &self.chardevs {
                    text.write(format_args!("{}: filename={}\n", chardev.id, chardev.filename))?;
                }
                Ok(())
            }
            ["x" | "xp", format, address] => self.examine(format, address, text),
            ["stop"] => monovisor_core::handlers::RunControl::stop(self, cx),
            ["cont" | "c"] => monovisor_core::handlers::RunControl::cont(self, cx),
            ["info", name, ..] | [name, ..] => text.write(format_args!("unknown command: '{name}'\n")),
        }
    }
}

impl Model {
    /// `xp /COUNTxSIZE ADDRESS`
    fn examine(&self, format: &str, address: &str, text: &mut Text<'_, '_>) -> Poll<()> {
        let parsed = format.strip_prefix('/').and_then(|format| {
            let digits = format.find(|c: char| !c.is_ascii_digit()).unwrap_or(format.len());
            let count: usize = if digits == 0 { 1 } else { format[..digits].parse().ok()? };
            let size = match &format[digits..] {
                "xb" => 1,
                "xh" => 2,
                "x" | "xw" => 4,
                "xg" => 8,
                _ => return None,
            };
            Some((count, size))
        });
        let address = address
            .strip_prefix("0x")
            .map_or_else(|| address.parse().ok(), |hex| usize::from_str_radix(hex, 16).ok());
        let (Some((count, size)), Some(address)) = (parsed, address) else {
            return text.str("invalid format or address\n");
        };
        let line = 16 / size;
        let mut at = 0;
        while at < count {
            let mut values = String::new();
            for item in at..count.min(at + line) {
                let value = (0..size).rev().fold(0u64, |value, byte| {
                    let place = address.wrapping_add(item.wrapping_mul(size)).wrapping_add(byte);
                    value << 8 | u64::from(self.memory.get(place).copied().unwrap_or(0))
                });
                values.push_str(&format!(" 0x{value:0width$x}", width = size * 2));
            }
            text.write(format_args!("{:016x}:{values}\n", address.wrapping_add(at.wrapping_mul(size))))?;
            at += line;
        }
        Ok(())
    }
}
