//! What is outside of the machine: network, migration, displays, and parts that it does not have.

use monovisor_core::handlers::{Display, Element, Extras, Migration, Network, Poll};
use monovisor_core::json::{Object as Json, Value};
use monovisor_core::schema::migration::*;
use monovisor_core::schema::misc::AddClientArgs;
use monovisor_core::schema::net::{NetdevDelArgs, QueryRxFilterArgs, RxFilterInfo, SetLinkArgs};
use monovisor_core::schema::rocker::*;
use monovisor_core::schema::tpm::{TPMInfo, TpmModel, TpmType};
use monovisor_core::schema::ui::*;
use monovisor_core::{Context, Error};

use super::Model;

/// What is kept of it.
#[derive(Debug)]
pub(super) struct Outside {
    netdevs: Vec<String>,
    capabilities: [bool; MigrationCapability::ALL.len()],
    parameters: MigrationParameters<'static>,
    cache: i64,
    migration: Option<MigrationStatus>,
}

impl Default for Outside {
    fn default() -> Self {
        Self {
            netdevs: Vec::new(),
            capabilities: [false; MigrationCapability::ALL.len()],
            parameters: MigrationParameters {
                compress_level: Some(1),
                compress_threads: Some(8),
                decompress_threads: Some(2),
                cpu_throttle_initial: Some(20),
                cpu_throttle_increment: Some(10),
                tls_creds: None,
                tls_hostname: None,
                max_bandwidth: Some(32 << 20),
                downtime_limit: Some(300),
                x_checkpoint_delay: Some(200),
            },
            cache: 64 << 20,
            migration: None,
        }
    }
}

/// How many network back ends the model makes.
const MAX_NETDEVS: usize = 64;
/// The smallest cache of XBZRLE, in bytes.
const PAGE_BYTES: i64 = 4096;

fn refused<T>(error: Error) -> Poll<T> {
    Err(nb::Error::Other(error))
}

/// Checks the form of an id: a letter, then letters, digits and `-._`.
fn identifier(id: &str) -> Result<(), Error> {
    let legal = id.starts_with(|c: char| c.is_ascii_alphabetic())
        && id.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
    if legal { Ok(()) } else { Err(Error::expects("id", "an identifier")) }
}

impl Network for Model {
    fn netdev_add(&mut self, arguments: Json<'_>, _: &mut Context<'_>) -> Poll<()> {
        let Some(kind) = arguments.get("type").and_then(Value::as_str) else {
            return refused(Error::missing_parameter("type"));
        };
        let Some(id) = arguments.get("id").and_then(Value::as_str) else {
            return refused(Error::missing_parameter("id"));
        };
        if !["user", "tap", "socket", "hubport"].contains(&kind) {
            return refused(Error::invalid_parameter(kind));
        }
        identifier(id)?;
        if self.outside.netdevs.iter().any(|known| known == id) {
            return refused(Error::generic(format_args!("Duplicate ID '{id}' for netdev")));
        }
        if self.outside.netdevs.len() >= MAX_NETDEVS {
            return refused(Error::generic(format_args!(
                "There are {MAX_NETDEVS} network back ends already"
            )));
        }
        self.outside.netdevs.push(id.into());
        Ok(())
    }

    fn netdev_del(&mut self, arguments: NetdevDelArgs<'_>, _: &mut Context<'_>) -> Poll<()> {
        let Some(at) = self.outside.netdevs.iter().position(|id| id == arguments.id) else {
            return refused(Error::device_not_found(arguments.id));
        };
        self.outside.netdevs.remove(at);
        Ok(())
    }

    fn set_link(&mut self, arguments: SetLinkArgs<'_>, _: &mut Context<'_>) -> Poll<()> {
        if self.outside.netdevs.iter().any(|id| id == arguments.name) {
            return Ok(());
        }
        refused(Error::device_not_found(arguments.name))
    }

    fn query_rx_filter(
        &mut self,
        arguments: QueryRxFilterArgs<'_>,
        _: usize,
        _: &mut Context<'_>,
    ) -> Element<RxFilterInfo<'_>> {
        match arguments.name {
            None => Ok(None),
            Some(name) if self.outside.netdevs.iter().any(|id| id == name) => {
                Err(Error::generic(format_args!("net client({name}) isn't a NIC")))
            }
            Some(name) => Err(Error::generic(format_args!("invalid net client name: {name}"))),
        }
    }
}

impl Migration for Model {
    fn query_migrate(&mut self, _: &mut Context<'_>) -> Poll<MigrationInfo<'_>> {
        Ok(MigrationInfo {
            status: self.outside.migration,
            ram: None,
            disk: None,
            xbzrle_cache: None,
            total_time: None,
            expected_downtime: None,
            downtime: None,
            setup_time: None,
            cpu_throttle_percentage: None,
            error_desc: None,
        })
    }

    fn migrate(&mut self, arguments: MigrateArgs<'_>, _: &mut Context<'_>) -> Poll<()> {
        let MigrateArgs { .. } = arguments;
        // There is no other machine to go to.
        self.outside.migration = Some(MigrationStatus::Failed);
        refused(Error::expects("uri", "a valid migration protocol"))
    }

    fn migrate_incoming(&mut self, _: MigrateIncomingArgs<'_>, _: &mut Context<'_>) -> Poll<()> {
        refused(Error::text("For use with '-incoming defer'"))
    }

    fn migrate_cancel(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Ok(())
    }

    fn migrate_set_speed(&mut self, arguments: MigrateSetSpeedArgs, _: &mut Context<'_>) -> Poll<()> {
        if arguments.value < 0 {
            return refused(Error::expects(
                "max_bandwidth",
                "an integer in the range of 0 to 18446744073709551615 bytes/second",
            ));
        }
        self.outside.parameters.max_bandwidth = Some(arguments.value);
        Ok(())
    }

    fn migrate_set_downtime(&mut self, arguments: MigrateSetDowntimeArgs, _: &mut Context<'_>) -> Poll<()> {
        let limit = (arguments.value * 1000.0).max(0.0);
        if limit > 2_000_000.0 {
            return refused(Error::expects(
                "downtime_limit",
                "an integer in the range of 0 to 2000000 milliseconds",
            ));
        }
        self.outside.parameters.downtime_limit = Some(limit as i64);
        Ok(())
    }

    fn migrate_set_cache_size(
        &mut self,
        arguments: MigrateSetCacheSizeArgs,
        _: &mut Context<'_>,
    ) -> Poll<()> {
        if arguments.value < PAGE_BYTES {
            return refused(Error::expects("cache size", "is smaller than page size"));
        }
        if arguments.value > self.memory.len() as i64 {
            return refused(Error::expects("cache size", "exceeds guest ram size "));
        }
        self.outside.cache = arguments.value;
        Ok(())
    }

    fn query_migrate_cache_size(&mut self, _: &mut Context<'_>) -> Poll<i64> {
        Ok(self.outside.cache)
    }

    fn migrate_set_capabilities(
        &mut self,
        arguments: MigrateSetCapabilitiesArgs<'_>,
        _: &mut Context<'_>,
    ) -> Poll<()> {
        for status in arguments.capabilities.iter() {
            self.outside.capabilities[status.capability as usize] = status.state;
        }
        Ok(())
    }

    fn query_migrate_capabilities(
        &mut self,
        index: usize,
        _: &mut Context<'_>,
    ) -> Element<MigrationCapabilityStatus> {
        Ok(MigrationCapability::ALL.get(index).map(|&capability| MigrationCapabilityStatus {
            capability,
            state: self.outside.capabilities[index],
        }))
    }

    fn migrate_set_parameters(&mut self, new: MigrationParameters<'_>, _: &mut Context<'_>) -> Poll<()> {
        let check = |value: Option<i64>, name: &str, low: i64, high: i64, what: &str| match value {
            Some(value) if !(low..=high).contains(&value) => Err(Error::expects(name, what)),
            _ => Ok(()),
        };
        check(new.compress_level, "compress_level", 0, 9, "is invalid, it should be in the range of 0 to 9")?;
        let threads = "is invalid, it should be in the range of 1 to 255";
        check(new.compress_threads, "compress_threads", 1, 255, threads)?;
        check(new.decompress_threads, "decompress_threads", 1, 255, threads)?;
        let percent = "an integer in the range of 1 to 99";
        check(new.cpu_throttle_initial, "cpu_throttle_initial", 1, 99, percent)?;
        check(new.cpu_throttle_increment, "cpu_throttle_increment", 1, 99, percent)?;
        let now = &mut self.outside.parameters;
        for (now, new) in [
            (&mut now.compress_level, new.compress_level),
            (&mut now.compress_threads, new.compress_threads),
            (&mut now.decompress_threads, new.decompress_threads),
            (&mut now.cpu_throttle_initial, new.cpu_throttle_initial),
            (&mut now.cpu_throttle_increment, new.cpu_throttle_increment),
            (&mut now.max_bandwidth, new.max_bandwidth),
            (&mut now.downtime_limit, new.downtime_limit),
            (&mut now.x_checkpoint_delay, new.x_checkpoint_delay),
        ] {
            if new.is_some() {
                *now = new;
            }
        }
        Ok(())
    }

    fn query_migrate_parameters(&mut self, _: &mut Context<'_>) -> Poll<MigrationParameters<'_>> {
        Ok(self.outside.parameters)
    }

    fn x_colo_lost_heartbeat(&mut self, _: &mut Context<'_>) -> Poll<()> {
        refused(Error::text("The feature 'colo' is not enabled"))
    }
}

impl Display for Model {
    fn query_vnc(&mut self, _: &mut Context<'_>) -> Poll<VncInfo<'_>> {
        Ok(VncInfo { enabled: false, host: None, family: None, service: None, auth: None, clients: None })
    }

    fn query_vnc_servers(&mut self, _: usize, _: &mut Context<'_>) -> Element<VncInfo2<'_>> {
        Ok(None)
    }

    fn set_password(&mut self, _: SetPasswordArgs<'_>, _: &mut Context<'_>) -> Poll<()> {
        refused(Error::text("Could not set password"))
    }

    fn expire_password(&mut self, _: ExpirePasswordArgs<'_>, _: &mut Context<'_>) -> Poll<()> {
        refused(Error::text("Could not set password"))
    }

    fn add_client(&mut self, arguments: AddClientArgs<'_>, _: &mut Context<'_>) -> Poll<()> {
        refused(Error::generic(format_args!(
            "File descriptor named '{}' has not been found",
            arguments.fdname
        )))
    }

    fn query_mice(&mut self, index: usize, _: &mut Context<'_>) -> Element<MouseInfo<'_>> {
        const MOUSE: MouseInfo<'_> =
            MouseInfo { name: "QEMU PS/2 Mouse", index: 2, current: true, absolute: false };
        Ok((index == 0).then_some(MOUSE))
    }

    fn send_key(&mut self, _: SendKeyArgs<'_>, _: &mut Context<'_>) -> Poll<()> {
        Ok(())
    }

    fn input_send_event(&mut self, arguments: InputSendEventArgs<'_>, _: &mut Context<'_>) -> Poll<()> {
        if let Some(device) = arguments.device {
            return refused(Error::device_not_found(device));
        }
        for event in arguments.events.iter() {
            if event.kind() == InputEventKind::Abs {
                return refused(Error::text("Input handler not found for event type abs"));
            }
        }
        Ok(())
    }
}

fn no_rocker(name: &str) -> Error {
    Error::generic(format_args!("rocker {name} not found"))
}

impl Extras for Model {
    fn query_tpm(&mut self, _: usize, _: &mut Context<'_>) -> Element<TPMInfo<'_>> {
        Ok(None)
    }

    fn query_tpm_models(&mut self, index: usize, _: &mut Context<'_>) -> Element<TpmModel> {
        Ok(TpmModel::ALL.get(index).copied())
    }

    fn query_tpm_types(&mut self, index: usize, _: &mut Context<'_>) -> Element<TpmType> {
        Ok(TpmType::ALL.get(index).copied())
    }

    fn query_rocker(
        &mut self,
        arguments: QueryRockerArgs<'_>,
        _: &mut Context<'_>,
    ) -> Poll<RockerSwitch<'_>> {
        refused(no_rocker(arguments.name))
    }

    fn query_rocker_ports(
        &mut self,
        arguments: QueryRockerPortsArgs<'_>,
        _: usize,
        _: &mut Context<'_>,
    ) -> Element<RockerPort<'_>> {
        Err(no_rocker(arguments.name))
    }

    fn query_rocker_of_dpa_flows(
        &mut self,
        arguments: QueryRockerOfDpaFlowsArgs<'_>,
        _: usize,
        _: &mut Context<'_>,
    ) -> Element<RockerOfDpaFlow<'_>> {
        Err(no_rocker(arguments.name))
    }

    fn query_rocker_of_dpa_groups(
        &mut self,
        arguments: QueryRockerOfDpaGroupsArgs<'_>,
        _: usize,
        _: &mut Context<'_>,
    ) -> Element<RockerOfDpaGroup<'_>> {
        Err(no_rocker(arguments.name))
    }
}
