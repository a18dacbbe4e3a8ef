//! The notation for families of commands.

/// Declares a trait with a method a command, and the function that calls them.
///
/// ```text
/// family! {
///     /// What the trait is about.
///     trait Machine via machine {
///         QUERY_NAME => value query_name() -> NameInfo<'_>;
///         QUERY_CPUS => list query_cpus() -> CpuInfo<'_>;
///         HUMAN_MONITOR_COMMAND => text human_monitor_command(HumanMonitorCommandArgs);
///     }
/// }
/// ```
macro_rules! family {
    (
        $(#[$doc:meta])*
        trait $family:ident via $call:ident {
            $( $command:ident => $kind:ident $method:ident ( $($args:tt)* ) $(-> $result:ty)?; )*
        }
    ) => {
        $(#[$doc])*
        #[allow(unused_variables)]
        pub trait $family {
            $( method! { $command $kind $method ($($args)*) ($($result)?) } )*
        }

        /// Calls the method of a command of this family, whose arguments have been checked. `None`: it is not of this family.
        #[allow(unused_variables)]
        pub(crate) fn $call<H: $family + $crate::handlers::Base + ?Sized>(
            handlers: &mut H,
            call: &mut $crate::dispatch::Call,
            arguments: $crate::json::Object<'_>,
            cx: &mut $crate::dispatch::Context<'_>,
            w: &mut $crate::json::Writer<'_>,
        ) -> Option<$crate::dispatch::Outcome> {
            Some(match call.command() {
                $( $crate::schema::Command::$command => {
                    // Known at compile time: nothing of a command that is not offered is linked.
                    if const { !H::OFFERED.has($crate::schema::Command::$command) } {
                        return None;
                    }
                    run! { $command $kind $method ($($args)*) handlers call arguments cx w }
                } )*
                _ => return None,
            })
        }
    };
}

/// The declaration of one method.
macro_rules! method {
    ($command:ident value $method:ident () ($($result:ty)?)) => {
        #[doc = concat!("See [`Command::", stringify!($command), "`](crate::schema::Command::", stringify!($command), ").")]
        fn $method(&mut self, cx: &mut $crate::dispatch::Context<'_>) -> $crate::handlers::Poll<result!($($result)?)> {
            $crate::dispatch::hide(Err($crate::dispatch::absent($crate::schema::Command::$command)))
        }
    };
    ($command:ident value $method:ident ($args:ty) ($($result:ty)?)) => {
        #[doc = concat!("See [`Command::", stringify!($command), "`](crate::schema::Command::", stringify!($command), ").")]
        fn $method(
            &mut self,
            arguments: $args,
            cx: &mut $crate::dispatch::Context<'_>,
        ) -> $crate::handlers::Poll<result!($($result)?)> {
            $crate::dispatch::hide(arguments);
            $crate::dispatch::hide(Err($crate::dispatch::absent($crate::schema::Command::$command)))
        }
    };
    ($command:ident list $method:ident () ($result:ty)) => {
        #[doc = concat!("See [`Command::", stringify!($command), "`](crate::schema::Command::", stringify!($command), ").")]
        fn $method(
            &mut self,
            index: usize,
            cx: &mut $crate::dispatch::Context<'_>,
        ) -> $crate::handlers::Element<$result> {
            $crate::dispatch::hide(Err($crate::Error::command_not_found($crate::schema::Command::$command.name())))
        }
    };
    ($command:ident list $method:ident ($args:ty) ($result:ty)) => {
        #[doc = concat!("See [`Command::", stringify!($command), "`](crate::schema::Command::", stringify!($command), ").")]
        fn $method(
            &mut self,
            arguments: $args,
            index: usize,
            cx: &mut $crate::dispatch::Context<'_>,
        ) -> $crate::handlers::Element<$result> {
            $crate::dispatch::hide(arguments);
            $crate::dispatch::hide(Err($crate::Error::command_not_found($crate::schema::Command::$command.name())))
        }
    };
    ($command:ident text $method:ident ($args:ty) ()) => {
        #[doc = concat!("See [`Command::", stringify!($command), "`](crate::schema::Command::", stringify!($command), ").")]
        fn $method(
            &mut self,
            arguments: $args,
            text: &mut $crate::Text<'_, '_>,
            cx: &mut $crate::dispatch::Context<'_>,
        ) -> $crate::handlers::Poll<()> {
            $crate::dispatch::hide(arguments);
            $crate::dispatch::hide(Err($crate::dispatch::absent($crate::schema::Command::$command)))
        }
    };
}

/// The result's type; nothing stands for `()`.
macro_rules! result {
    () => {
        ()
    };
    ($result:ty) => {
        $result
    };
}

/// The call of one method. The arguments have been checked.
macro_rules! run {
    ($command:ident value $method:ident () $h:ident $call:ident $arguments:ident $cx:ident $w:ident) => {
        $crate::dispatch::value($h.$method($cx), $cx, $w)
    };
    ($command:ident value $method:ident (Object<'_>) $h:ident $call:ident $arguments:ident $cx:ident $w:ident) => {
        $crate::dispatch::value($h.$method($arguments, $cx), $cx, $w)
    };
    ($command:ident value $method:ident ($args:ty) $h:ident $call:ident $arguments:ident $cx:ident $w:ident) => {
        match $crate::dispatch::decode::<$args>($arguments) {
            Some(arguments) => $crate::dispatch::value($h.$method(arguments, $cx), $cx, $w),
            None => $call.unreadable($cx),
        }
    };
    ($command:ident list $method:ident () $h:ident $call:ident $arguments:ident $cx:ident $w:ident) => {
        $call.list($w, |index, w| $crate::dispatch::element($h.$method(index, $cx), $cx, w))
    };
    ($command:ident list $method:ident ($args:ty) $h:ident $call:ident $arguments:ident $cx:ident $w:ident) => {
        match $crate::dispatch::decode::<$args>($arguments) {
            Some(arguments) => $call
                .list($w, |index, w| $crate::dispatch::element($h.$method(arguments, index, $cx), $cx, w)),
            None => $call.unreadable($cx),
        }
    };
    ($command:ident text $method:ident ($args:ty) $h:ident $call:ident $arguments:ident $cx:ident $w:ident) => {
        match $crate::dispatch::decode::<$args>($arguments) {
            Some(arguments) => {
                $call.text($w, |text| $crate::dispatch::written($h.$method(arguments, text, $cx), $cx))
            }
            None => $call.unreadable($cx),
        }
    };
}
