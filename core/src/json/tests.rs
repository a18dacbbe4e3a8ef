//! Parsing, and printing what was parsed.

use std::{string::String, vec::Vec};

use super::*;

/// Everything that is said about `input`, fed in pieces of `piece` bytes.
fn outcomes(input: &[u8], piece: usize) -> Vec<String> {
    let mut receiver = std::boxed::Box::new(Receiver::new());
    let mut said = Vec::new();
    for chunk in input.chunks(piece) {
        let mut rest = chunk;
        while !rest.is_empty() {
            let (used, outcome) = receiver.feed(rest);
            rest = &rest[used..];
            match outcome {
                Some(Outcome::Message) => said.push(std::format!("{:?}", receiver.message().unwrap())),
                Some(Outcome::Error(error)) => {
                    said.push(String::from(crate::Error::syntax(error, receiver.keyword()).description()));
                }
                Some(Outcome::Resync) => said.push(String::from("resync")),
                None => {}
            }
        }
    }
    said
}

#[test]
fn every_split_says_the_same() {
    let input = br#"{"a":1 "b":2} nope [1,] {'x':[1.5e3,-0,true,null,{"y":"\u20ac\n"}]}{"k":"v"}"#;
    let whole = outcomes(input, input.len());
    assert_eq!(whole.len(), 5, "{whole:?}");
    for piece in 1..input.len() {
        assert_eq!(outcomes(input, piece), whole, "in pieces of {piece}");
    }
}

#[test]
fn views() {
    let mut receiver = std::boxed::Box::new(Receiver::new());
    let input = br#"{"a":1,"b":[true,"x\u00e9",{"c":null}],"a":9223372036854775808,"n":-12,"long":12345678901234567890123}"#;
    assert_eq!(receiver.feed(input), (input.len(), Some(Outcome::Message)));
    let object = receiver.message().unwrap();
    assert!(matches!(object.get("a"), Some(Value::Double(n)) if n.text() == "9223372036854775808"));
    assert_eq!(object.get("n").and_then(Value::as_int), Some(-12));
    assert!(matches!(object.get("long"), Some(Value::Double(n)) if n.to_f64() == 12345678901234567890123.0));
    assert!(object.get("c").is_none());
    let array: Vec<_> = object.get("b").and_then(Value::as_array).unwrap().iter().collect();
    assert_eq!(array.len(), 3);
    assert_eq!(array[1].as_str(), Some("xé"));
    assert!(matches!(array[2].as_object().unwrap().get("c"), Some(Value::Null)));
    let order: Vec<_> = object.ordered().map(|(key, _)| key).collect();
    let mut expected = ["a", "b", "n", "long"];
    let index = order_of(&expected);
    expected = index;
    assert_eq!(order, expected);
}

fn order_of<'a, const N: usize>(keys: &[&'a str; N]) -> [&'a str; N] {
    order(keys).map(|i| keys[usize::from(i)])
}

#[test]
fn limits() {
    let mut input = Vec::new();
    input.extend(std::iter::repeat_n(b'[', MAX_NESTING as usize));
    input.extend(std::iter::repeat_n(b']', MAX_NESTING as usize));
    assert_eq!(outcomes(&input, 7), ["Invalid JSON syntax"]);
    input.insert(0, b'[');
    // One complaint when the limit is passed; then the closing brackets, one by one.
    assert_eq!(outcomes(&input, 7).len(), 1 + MAX_NESTING as usize);

    let fits = std::format!("{{\"k\":\"{}\"}}", "x".repeat(MESSAGE_BYTES - 8));
    assert!(outcomes(fits.as_bytes(), 1000)[0].starts_with("Object"));
    let long = std::format!("{{\"k\":[\"{}\",{{}}]}}{{}}", "x".repeat(2 * MESSAGE_BYTES));
    let said = outcomes(long.as_bytes(), 1000);
    assert_eq!(said.len(), 2);
    assert_eq!(said[0], "Message is longer than 65536 bytes");
    assert!(said[1].starts_with("Object"));
}

#[test]
fn a_message_of_the_greatest_length_fits() {
    // The forms that take the most room on the tape for their length as text.
    for (element, count) in [("[],", 21_800), ("1,", 32_700), ("{\"\":1},", 8_000), ("\"\",", 21_800)] {
        let mut input = String::from("{\"k\":[");
        for _ in 0..count {
            input.push_str(element);
        }
        input.push_str("0]}");
        assert!(input.len() <= MESSAGE_BYTES);
        assert!(outcomes(input.as_bytes(), 4096)[0].starts_with("Object"), "{element}");
    }
}

#[test]
fn numbers() {
    let mut buffer = [0; 200];
    let mut w = Writer::new(&mut buffer);
    w.begin_array();
    for number in [0.0, 1.0, 0.1, 1.5, 12.25, -3.000001, 0.0000004, 99.9999999] {
        w.double(number);
    }
    for number in [0, -1, i64::MAX, i64::MIN] {
        w.int(number);
    }
    w.end_array();
    assert!(!w.overflowed());
    assert_eq!(
        std::str::from_utf8(w.written()).unwrap(),
        "[0, 1, 0.1, 1.5, 12.25, -3.000001, 0, 100, 0, -1, 9223372036854775807, -9223372036854775808]"
    );
}

#[test]
fn doubles() {
    for text in [
        "0.1",
        "1.5",
        "-2.25",
        "1e3",
        "1E-3",
        "100.0",
        "123456.789",
        "1e22",
        "9223372036854775808",
        "0.000001",
        "-0.0",
        "0.0e5",
    ] {
        let input = std::format!("{{\"n\":{text}}}");
        let mut receiver = std::boxed::Box::new(Receiver::new());
        receiver.feed(input.as_bytes());
        let Some(Value::Double(number)) = receiver.message().unwrap().get("n") else { panic!("{text}") };
        assert_eq!(number.to_f64(), text.parse::<f64>().unwrap(), "{text}");
    }
    for (text, expected) in
        [("1e400", f64::INFINITY), ("-1e999999999999", f64::NEG_INFINITY), ("1e-400", 0.0)]
    {
        let input = std::format!("{{\"n\":{text}}}");
        let mut receiver = std::boxed::Box::new(Receiver::new());
        receiver.feed(input.as_bytes());
        let Some(Value::Double(number)) = receiver.message().unwrap().get("n") else { panic!("{text}") };
        assert_eq!(number.to_f64(), expected, "{text}");
    }
}

#[test]
fn strings() {
    let mut buffer = [0; 200];
    let mut w = Writer::new(&mut buffer);
    w.string("a\"\\/\u{8}\u{c}\n\r\t\u{1}\u{7f}é€\u{1d11e}\u{ffff}");
    assert_eq!(
        std::str::from_utf8(w.written()).unwrap(),
        r#""a\"\\/\b\f\n\r\t\u0001\u007F\u00E9\u20AC\uD834\uDD1E\uFFFD""#
    );
}
