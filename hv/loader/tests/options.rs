//! The command line: quoting, every option, every error.

use monovisor_loader::options::{
    CpuBase, Group, GroupKind, MAX_ERRORS, MAX_GROUPS, MAX_LINE, OPTIONS, OptionProblem, Options,
    SerialOption, groups,
};

fn parse(line: &str, check: impl FnOnce(&Options<'_>)) {
    let mut line = line.as_bytes().to_vec();
    check(&Options::parse(&mut line));
}

fn error(line: &str) -> String {
    let mut text = String::new();
    parse(line, |options| {
        text = options.errors.first().map_or_else(String::new, |error| error.to_string());
        assert_eq!(options.errors.count, u32::from(!text.is_empty()), "{line}");
    });
    text
}

#[test]
fn a_whole_line() {
    parse(
        "-m 256 -smp 2 -kernel vmlinuz -initrd /initrd.img -append \"console=ttyS0 quiet\" -name vm1 \
         -uuid 6ba7b810-9dad-11d1-80b4-00C04FD430C8 -S -no-reboot --no-shutdown \
         -serial com1:921600,baudbase=921600 -qmp com3 \
         -cpu base,+x2apic,-pcid,x-posted=off,x-avic=off,avx=off -device isa-debug-exit,iobase=0xf4,iosize=4",
        |options| {
            assert_eq!(options.errors.first(), None);
            assert_eq!((options.memory, options.cpus), (256 << 20, 2));
            assert_eq!((options.kernel, options.initrd), (Some("vmlinuz"), Some("/initrd.img")));
            assert_eq!(options.append, "console=ttyS0 quiet");
            assert_eq!(options.name, Some("vm1"));
            assert_eq!(options.uuid.unwrap()[..6], [0x6b, 0xa7, 0xb8, 0x10, 0x9d, 0xad]);
            assert_eq!(options.uuid.unwrap()[15], 0xc8);
            assert!(options.paused && options.no_reboot && options.no_shutdown);
            let fast = SerialOption { baud: Some(921_600), base: Some(921_600) };
            assert_eq!(
                options.serial,
                [fast, SerialOption::default(), SerialOption::default(), SerialOption::default()]
            );
            assert_eq!(options.qmp, [false, false, true, false]);
            assert_eq!(
                (options.cpu.base, options.cpu.no_posted, options.cpu.no_avic),
                (CpuBase::Base, true, true)
            );
            assert_eq!(options.cpu.features[..], [("x2apic", true), ("pcid", false), ("avx", false)]);
            let exit = options.devices().next().unwrap();
            assert_eq!((exit.driver(), exit.unsigned("iobase", 16)), ("isa-debug-exit", Ok(Some(0xf4))));
        },
    );
}

#[test]
fn nothing_gives_the_defaults() {
    for line in ["", "   ", "\0-m 5"] {
        parse(line, |options| assert_eq!(*options, Options::default()));
    }
    parse("monovisor.elf", |options| assert_eq!(*options, Options::default()));
}

#[test]
fn words_split_as_in_a_shell() {
    for (line, append) in [
        ("-append 'a \"b c\" d'", "a \"b c\" d"),
        (r#"-append "a \"b c\" d""#, "a \"b c\" d"),
        (r#"-append "a\b""#, r"a\b"),
        (r"-append a\ b\\", r"a b\"),
        (r#"-append foo="a b"'c d'"#, "foo=a bc d"),
        ("-append \"\" -S", ""),
        ("-append -S", "-S"),
        ("-append x -append y", "y"),
        ("\t-append\n x \r", "x"),
    ] {
        parse(line, |options| {
            assert_eq!(options.errors.first(), None, "{line}");
            assert_eq!(options.append, append, "{line}");
        });
    }
}

#[test]
fn sizes() {
    for (text, bytes) in [
        ("1", 1 << 20),
        ("256", 256 << 20),
        ("64M", 64 << 20),
        ("1g", 1 << 30),
        ("2T", 2 << 40),
        ("4096k", 4 << 20),
        ("1048576b", 1 << 20),
        ("size=1G", 1 << 30),
        ("0x10", 16 << 20),
    ] {
        parse(&format!("-m {text}"), |options| {
            assert_eq!((options.memory, options.errors.count), (bytes, 0))
        });
    }
    for text in ["0", "", "-1", "+1", "1.5G", "G", "M", "1GG", "99999999999T", "18446744073709551616", "0x"] {
        assert!(error(&format!("-m '{text}'")).starts_with(&format!("-m: '{text}' is not a size")), "{text}");
    }
}

#[test]
fn processors() {
    for (text, cpus) in [
        ("4", 4),
        ("cpus=2", 2),
        ("2,maxcpus=2", 2),
        ("cpus=2,sockets=1,cores=2,threads=1", 2),
        ("cores=3", 3),
        ("maxcpus=2", 2),
        ("2,cpus=3", 3),
    ] {
        parse(&format!("-smp {text}"), |options| {
            assert_eq!((options.errors.first(), options.cpus), (None, cpus), "{text}")
        });
    }
    for (text, says) in [
        ("2,maxcpus=4", "'2,maxcpus=4' is not as many processors as there will be: none is added later"),
        ("4,sockets=2", "'4,sockets=2' is not one socket whose cores have one thread each"),
        ("4,threads=2", "'4,threads=2' is not one socket whose cores have one thread each"),
        ("4,cores=2", "'4,cores=2' is not one socket whose cores have one thread each"),
        ("4,dies=1", "no such property: 'dies'"),
        ("4,5", "no such property: '5'"),
        ("4,", "no such property: ''"),
        ("2,cores=0", "'0' is not a number of processors from 1 to 255"),
    ] {
        assert_eq!(error(&format!("-smp {text}")), format!("-smp: {says}"));
    }
}

#[test]
fn each_error_is_one_line_that_names_its_option() {
    for (line, text) in [
        ("-bogus", "-bogus: no such option"),
        ("-S word", "word: not an option (they start with -)"),
        ("-S -vnc :1", "-vnc :1: not supported yet"),
        ("-device a\u{1f}b", "-device: a control character in its argument"),
        ("-snapshot", "-snapshot: not supported yet"),
        ("-rtc base=localtime", "-rtc base=localtime: not supported yet"),
        ("-display gtk", "-display gtk: not supported yet"),
        ("-vga", "-vga: its argument is missing"),
        ("-m", "-m: its argument is missing"),
        ("-m 1G,slots=2", "-m: no such property: 'slots=2'"),
        ("-m mem=1G", "-m: no such property: 'mem'"),
        ("-smp 0", "-smp: '0' is not a number of processors from 1 to 255"),
        ("-smp cpus=x", "-smp: 'x' is not a number of processors from 1 to 255"),
        ("-uuid 1-2", "-uuid: '1-2' is not a UUID (as 6ba7b810-9dad-11d1-80b4-00c04fd430c8)"),
        ("-serial com9:1", "-serial: 'com9:1' is not a serial port (as com1:115200)"),
        ("-serial com1:9600,base=1", "-serial: no such property: 'base'"),
        ("-serial com1:9600,baudbase=x", "-serial: 'x' is not a speed in bits per second"),
        ("-qmp com5", "-qmp: 'com5' is not a serial port (as com3)"),
        ("-qmp stdio", "-qmp: 'stdio' is not a serial port (as com3)"),
        ("-serial com1:0", "-serial: '0' is not a speed in bits per second"),
        ("-cpu z80", "-cpu: 'z80' is not a CPU model (host or base)"),
        ("-cpu host,foo", "-cpu: 'foo' is not a feature (as +x2apic or x2apic=on)"),
        ("-append \"abc", "the command line has a quote that is not closed"),
    ] {
        assert_eq!(error(line), text, "{line}");
    }
}

#[test]
fn what_asks_for_nothing_else_than_there_is_is_taken() {
    for line in [
        "-M pc -machine pc -accel kvm -enable-kvm",
        "-nodefaults -no-user-config -nographic -display none -vga none -net none -nic none",
        "-monitor none -parallel none -rtc base=utc -machine accel=kvm -vnc none",
    ] {
        assert_eq!(error(line), "", "{line}");
    }
}

#[test]
fn the_first_errors_are_kept() {
    let many: String = (0..MAX_ERRORS + 2).map(|index| format!("-wrong{index} ")).collect();
    parse(&many, |options| {
        let kept: Vec<_> = options.errors.iter().map(|error| error.to_string()).collect();
        assert_eq!((kept.len(), options.errors.count as usize), (MAX_ERRORS, MAX_ERRORS + 2));
        assert_eq!(kept[1], "-wrong1: no such option");
    });
}

#[test]
fn parsing_goes_on_behind_errors_and_counts_them() {
    parse("-foo -m x -kernel k -bar -initrd i", |options| {
        assert_eq!((options.kernel, options.initrd), (Some("k"), Some("i")));
        assert_eq!(options.errors.count, 3);
        assert_eq!(options.errors.first().unwrap().problem, OptionProblem::Unknown);
    });
    let mut line = b"-name \xff\xfe -kernel k".to_vec();
    let options = Options::parse(&mut line);
    assert_eq!(
        (options.errors.first().unwrap().problem, options.kernel),
        (OptionProblem::NotUtf8, Some("k"))
    );
    let mut line = vec![b'x'; MAX_LINE + 1];
    assert_eq!(Options::parse(&mut line).errors.first().unwrap().problem, OptionProblem::TooLong);
}

#[test]
fn the_table_is_in_order() {
    for (index, option) in OPTIONS.iter().enumerate() {
        assert!(OPTIONS[..index].iter().all(|other| other.name != option.name), "{}", option.name);
    }
    let names: Vec<_> = groups().map(|option| option.group).collect();
    assert_eq!(
        names,
        ["memory", "smp-opts", "machine", "name", "device", "drive", "netdev", "chardev", "object"]
    );
}

fn list(line: &str, check: impl FnOnce(Group<'_>)) {
    parse(line, |options| {
        assert_eq!((options.errors.first(), options.group_error), (None, None), "{line}");
        let kinds = [GroupKind::Device, GroupKind::Drive, GroupKind::Netdev, GroupKind::Object];
        check(kinds.into_iter().find_map(|kind| options.groups(kind).next()).unwrap());
    });
}

#[test]
fn lists_are_split_as_qemu_does_it() {
    for (line, pairs) in [
        ("-device foo", &[("driver", "foo")][..]),
        ("-device foo,a=1,b", &[("driver", "foo"), ("a", "1"), ("b", "on")]),
        ("-device a=1,driver=foo", &[("a", "1"), ("driver", "foo")]),
        ("-device foo,nomq,no", &[("driver", "foo"), ("mq", "off"), ("", "off")]),
        ("-device foo,a=x,,y,b=,c==,", &[("driver", "foo"), ("a", "x,y"), ("b", ""), ("c", "=")]),
        ("-device a,,b=c,d=,,", &[("driver", "a,b=c"), ("d", ",")]),
        ("-device a=,,,", &[("a", ",")]),
        ("-device ,a=1", &[("driver", ""), ("a", "1")]),
        ("-device \"\"", &[]),
        ("-drive \"file=a b.img\",snapshot", &[("file", "a b.img"), ("snapshot", "on")]),
        ("-drive foo", &[("foo", "on")]),
        ("-netdev hubport,id=n0,hubid=0", &[("type", "hubport"), ("id", "n0"), ("hubid", "0")]),
        ("-object rng-random,id=r0", &[("qom-type", "rng-random"), ("id", "r0")]),
    ] {
        list(line, |group| assert_eq!(group.pairs().collect::<Vec<_>>(), pairs, "{line}"));
    }
    list("-device foo,a=1,a=2,id=x", |group| {
        assert_eq!((group.driver(), group.str("a"), group.id()), ("foo", Some("2"), Some("x")));
        assert_eq!((group.only(&["a", "b"]), group.str("b")), (Ok(()), None));
    });
}

#[test]
fn values_of_lists_are_typed_and_errors_are_qemus() {
    let line = "-device foo,on=on,off=off,bad=maybe,hex=0x1F,octal=017,dec=65536,neg=-1,empty=,nan=1x,k=4k,\
                m=3M,g=2G,t=1T,b=512b,plain=7,big=99999999999T,half=1.5G,eight=08";
    list(line, |group| {
        assert_eq!((group.bool("on"), group.bool("off")), (Ok(Some(true)), Ok(Some(false))));
        assert_eq!(
            (group.bool("none"), group.number("none"), group.size("none")),
            (Ok(None), Ok(None), Ok(None))
        );
        for (key, value) in [("hex", 31), ("octal", 15), ("dec", 65536), ("plain", 7)] {
            assert_eq!(group.number(key), Ok(Some(value)));
        }
        for (key, value) in
            [("k", 4 << 10), ("m", 3 << 20), ("g", 2 << 30), ("t", 1 << 40), ("b", 512), ("plain", 7)]
        {
            assert_eq!(group.size(key), Ok(Some(value)), "{key}");
        }
        assert_eq!((group.unsigned("dec", 32), group.unsigned("hex", 8)), (Ok(Some(65536)), Ok(Some(31))));
        let text = |error: monovisor_loader::options::GroupError<'_>| error.to_string();
        assert_eq!(
            group.bool("bad").map_err(text).unwrap_err(),
            "-device foo: Parameter 'bad' expects 'on' or 'off'"
        );
        for key in ["neg", "empty", "nan", "eight"] {
            let want = format!("-device foo: Parameter '{key}' expects a number");
            assert_eq!(group.number(key).map_err(text).unwrap_err(), want);
        }
        for key in ["neg", "empty", "nan", "big", "half"] {
            let want = format!("-device foo: Parameter '{key}' expects a size");
            assert_eq!(group.size(key).map_err(text).unwrap_err(), want);
        }
        let wide = "-device foo: Parameter 'dec' expects uint16_t";
        assert_eq!(group.unsigned("dec", 16).map_err(text).unwrap_err(), wide);
        let missing = "-device foo: Parameter 'drive' is missing";
        assert_eq!(group.required("drive").map_err(text).unwrap_err(), missing);
        assert_eq!(group.only(&["on"]).map_err(text).unwrap_err(), "-device foo: Property '.off' not found");
    });
    list("-drive file=x,foo=1,id=d", |group| {
        assert_eq!(group.only(&["file"]).unwrap_err().to_string(), "-drive d: Invalid parameter 'foo'");
    });
}

#[test]
fn ids_are_identifiers_of_their_own() {
    for (line, text) in [
        ("-device a,id=x -device b,id=x", "-device b: Duplicate ID 'x' for device"),
        ("-device a,id=1x", "-device a: Parameter 'id' expects an identifier"),
        ("-drive id=", "-drive: Parameter 'id' expects an identifier"),
        ("-device a,id=x -drive id=x -device b,id=x-1.y_Z", ""),
    ] {
        parse(line, |options| {
            assert_eq!(
                options.group_error.map_or_else(String::new, |error| error.to_string()),
                text,
                "{line}"
            );
        });
    }
    parse("-drive id=a,file=1 -drive id=b,file=2", |options| {
        assert_eq!(options.find(GroupKind::Drive, "b").and_then(|drive| drive.str("file")), Some("2"));
        assert_eq!(options.find(GroupKind::Drive, "c"), None);
        assert_eq!(options.find(GroupKind::Device, "a"), None);
    });
}

#[test]
fn there_is_room_for_so_many_lists() {
    parse(&"-device x ".repeat(MAX_GROUPS), |options| {
        assert_eq!((options.devices().count(), options.group_error), (MAX_GROUPS, None));
    });
    parse(&"-device x ".repeat(MAX_GROUPS + 1), |options| {
        let error = options.group_error.unwrap().to_string();
        assert_eq!(error, format!("-device x: there can be {MAX_GROUPS} at most"));
    });
}

proptest::proptest! {
    #[test]
    fn no_list_panics(text in "[-a-c,=no0xkKMé ]{0,40}") {
        let mut line = format!("-device '{text}'").into_bytes();
        let options = Options::parse(&mut line);
        for group in options.devices() {
            for (key, value) in group.pairs() {
                proptest::prop_assert!(key.len() + value.len() <= text.len() + "driver".len());
                let _ = (group.bool(key), group.number(key), group.size(key), group.unsigned(key, 8));
            }
            proptest::prop_assert!(group.only(&[]).map_or_else(|e| e.to_string(), |()| String::new()).lines().count() < 2);
        }
    }

    /// Whatever stands in a value comes out of it, commas doubled.
    #[test]
    fn any_value_comes_through(values in proptest::collection::vec("[^'\0\u{1f}]{0,12}", 0..6)) {
        let parts: Vec<_> = values.iter().map(|value| format!(",k={}", value.replace(',', ",,"))).collect();
        let mut line = format!("-device 'foo{}'", parts.concat()).into_bytes();
        let options = Options::parse(&mut line);
        let group = options.devices().next().unwrap();
        let got: Vec<_> = group.pairs().skip(1).map(|(_, value)| value.to_owned()).collect();
        proptest::prop_assert_eq!(got, values);
    }

    #[test]
    fn no_line_panics(mut line in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        let _ = Options::parse(&mut line);
    }

    #[test]
    fn no_likely_line_panics(words in proptest::collection::vec(
        proptest::sample::select(vec!["-m", "-cpu", "-device", "-drive", ",,", "id=", "no", "-smp", "isa-debug-exit,", "iobase=", "size=", ",", "=",
            "host,+", "\"", "'", "\\", "-serial", "com1:", "é", "-uuid", "0x", "1"]), 0..30),
        glue in proptest::sample::select(vec!["", " "]))
    {
        let mut line = words.join(glue).into_bytes();
        let options = Options::parse(&mut line);
        if let Some(error) = options.errors.first() {
            proptest::prop_assert!(!error.to_string().contains('\n'));
        }
    }

    #[test]
    fn any_quoted_text_comes_through(text in "[^'\0]{0,40}") {
        let mut line = format!("-append '{text}'").into_bytes();
        let options = Options::parse(&mut line);
        proptest::prop_assert_eq!(options.append, &text);
        proptest::prop_assert_eq!(options.errors.count, 0);
    }
}
