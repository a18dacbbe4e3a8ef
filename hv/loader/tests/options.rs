//! The command line: quoting, every option, every error.

use monovisor_loader::options::{CpuBase, DebugExit, MAX_LINE, OPTIONS, OptionProblem, Options, groups};

fn parse(line: &str, check: impl FnOnce(&Options<'_>)) {
    let mut line = line.as_bytes().to_vec();
    check(&Options::parse(&mut line));
}

fn error(line: &str) -> String {
    let mut text = String::new();
    parse(line, |options| {
        text = options.errors.first.map_or_else(String::new, |error| error.to_string());
        assert_eq!(options.errors.count, u32::from(!text.is_empty()), "{line}");
    });
    text
}

#[test]
fn a_whole_line() {
    parse(
        "-m 256 -smp 2 -kernel vmlinuz -initrd /initrd.img -append \"console=ttyS0 quiet\" -name vm1 \
         -uuid 6ba7b810-9dad-11d1-80b4-00C04FD430C8 -S -no-reboot --no-shutdown -serial com1:921600 \
         -cpu base,+x2apic,-pcid,avx=off -device isa-debug-exit,iobase=0xf4,iosize=4",
        |options| {
            assert_eq!(options.errors.first, None);
            assert_eq!((options.memory, options.cpus), (256 << 20, 2));
            assert_eq!((options.kernel, options.initrd), (Some("vmlinuz"), Some("/initrd.img")));
            assert_eq!(options.append, "console=ttyS0 quiet");
            assert_eq!(options.name, Some("vm1"));
            assert_eq!(options.uuid.unwrap()[..6], [0x6b, 0xa7, 0xb8, 0x10, 0x9d, 0xad]);
            assert_eq!(options.uuid.unwrap()[15], 0xc8);
            assert!(options.paused && options.no_reboot && options.no_shutdown);
            assert_eq!(options.serial, [Some(921_600), None, None, None]);
            assert_eq!(options.cpu.base, CpuBase::Base);
            assert_eq!(options.cpu.features[..], [("x2apic", true), ("pcid", false), ("avx", false)]);
            assert_eq!(options.debug_exit, Some(DebugExit { port: 0xf4, size: 4 }));
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
            assert_eq!(options.errors.first, None, "{line}");
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
fn each_error_is_one_line_that_names_its_option() {
    for (line, text) in [
        ("-bogus", "-bogus: no such option"),
        ("-S word", "word: not an option (they start with -)"),
        ("-S -drive file=x", "-drive file=x: not supported yet"),
        ("-snapshot", "-snapshot: not supported yet"),
        ("-m", "-m: its argument is missing"),
        ("-m 1G,slots=2", "-m: no such property: 'slots=2'"),
        ("-m mem=1G", "-m: no such property: 'mem'"),
        ("-smp 0", "-smp: '0' is not a number of processors from 1 to 255"),
        ("-smp cpus=x", "-smp: 'x' is not a number of processors from 1 to 255"),
        ("-uuid 1-2", "-uuid: '1-2' is not a UUID (as 6ba7b810-9dad-11d1-80b4-00c04fd430c8)"),
        ("-serial com9:1", "-serial: 'com9:1' is not a serial port (as com1:115200)"),
        ("-serial com1:0", "-serial: '0' is not a speed in bits per second"),
        ("-cpu z80", "-cpu: 'z80' is not a CPU model (host or base)"),
        ("-cpu host,foo", "-cpu: 'foo' is not a feature (as +x2apic or x2apic=on)"),
        ("-device foo", "-device: no such device: 'foo'"),
        ("-device virtio-blk-pci,drive=d", "-device virtio-blk-pci: not supported yet"),
        ("-device isa-debug-exit,port=1", "-device: no such property: 'port'"),
        ("-device isa-debug-exit,iobase=65536", "-device: 'iobase=65536' is not a number from 0 to 65535"),
        ("-append \"abc", "the command line has a quote that is not closed"),
    ] {
        assert_eq!(error(line), text, "{line}");
    }
}

#[test]
fn parsing_goes_on_behind_errors_and_counts_them() {
    parse("-foo -m x -kernel k -bar -initrd i", |options| {
        assert_eq!((options.kernel, options.initrd), (Some("k"), Some("i")));
        assert_eq!(options.errors.count, 3);
        assert_eq!(options.errors.first.unwrap().problem, OptionProblem::Unknown);
    });
    let mut line = b"-name \xff\xfe -kernel k".to_vec();
    let options = Options::parse(&mut line);
    assert_eq!((options.errors.first.unwrap().problem, options.kernel), (OptionProblem::NotUtf8, Some("k")));
    let mut line = vec![b'x'; MAX_LINE + 1];
    assert_eq!(Options::parse(&mut line).errors.first.unwrap().problem, OptionProblem::TooLong);
}

#[test]
fn the_table_is_in_order() {
    for (index, option) in OPTIONS.iter().enumerate() {
        assert!(OPTIONS[..index].iter().all(|other| other.name != option.name), "{}", option.name);
        assert!(!option.help.is_empty());
    }
    let names: Vec<_> = groups().map(|option| option.group).collect();
    assert_eq!(names, ["memory", "smp-opts", "machine", "name", "device"]);
}

proptest::proptest! {
    #[test]
    fn no_line_panics(mut line in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        let _ = Options::parse(&mut line);
    }

    #[test]
    fn no_likely_line_panics(words in proptest::collection::vec(
        proptest::sample::select(vec!["-m", "-cpu", "-device", "-smp", "isa-debug-exit,", "iobase=", "size=", ",", "=",
            "host,+", "\"", "'", "\\", "-serial", "com1:", "é", "-uuid", "0x", "1"]), 0..30),
        glue in proptest::sample::select(vec!["", " "]))
    {
        let mut line = words.join(glue).into_bytes();
        let options = Options::parse(&mut line);
        if let Some(error) = options.errors.first {
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
