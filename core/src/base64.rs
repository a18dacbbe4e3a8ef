//! Base64 (RFC 4648, section 4).

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// The digit for the low six bits of `bits`.
fn digit(bits: u32) -> u8 {
    DIGITS.get((bits & 63) as usize).copied().unwrap_or(b'=')
}

/// Encodes `bytes`; every call of `out` gets a group of four characters.
pub fn encode(bytes: &[u8], mut out: impl FnMut(&[u8; 4])) {
    for group in bytes.chunks(3) {
        let byte = |index: usize| u32::from(group.get(index).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        let mut text = [digit(bits >> 18), digit(bits >> 12), digit(bits >> 6), digit(bits)];
        let [.., third, fourth] = &mut text;
        if group.len() < 3 {
            *fourth = b'=';
        }
        if group.len() < 2 {
            *third = b'=';
        }
        out(&text);
    }
}

/// Decodes `text`, passing on byte by byte. White space between the digits is skipped, as glib's decoder does. Returns
/// whether all of it was base64.
pub fn decode(text: &[u8], mut out: impl FnMut(u8)) -> bool {
    let (mut bits, mut have, mut padding) = (0_u32, 0_u32, 0_u32);
    for &character in text {
        let value = match character {
            b'A'..=b'Z' => character.wrapping_sub(b'A'),
            b'a'..=b'z' => character.wrapping_sub(b'a').wrapping_add(26),
            b'0'..=b'9' => character.wrapping_sub(b'0').wrapping_add(52),
            b'+' => 62,
            b'/' => 63,
            b' ' | b'\t' | b'\r' | b'\n' => continue,
            b'=' => {
                padding = padding.saturating_add(1);
                continue;
            }
            _ => return false,
        };
        if padding > 0 {
            return false;
        }
        bits = bits << 6 | u32::from(value);
        have = have.wrapping_add(1) % 4;
        match have {
            2 => out((bits >> 4) as u8),
            3 => out((bits >> 2) as u8),
            0 => out(bits as u8),
            _ => {}
        }
    }
    (have.wrapping_add(padding)) % 4 == 0 && padding < 3
}

#[cfg(test)]
mod tests {
    use std::{string::String, vec::Vec};

    #[test]
    fn vectors_of_rfc_4648() {
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            let mut text = String::new();
            super::encode(plain.as_bytes(), |group| text.push_str(std::str::from_utf8(group).unwrap()));
            assert_eq!(text, coded);
            let mut bytes = Vec::new();
            assert!(super::decode(coded.as_bytes(), |byte| bytes.push(byte)));
            assert_eq!(bytes, plain.as_bytes());
        }
        for bad in ["Z", "Zg=", "Zm8", "Z===", "Zm9*", "Zg==Zg=="] {
            assert!(!super::decode(bad.as_bytes(), |_| {}), "{bad}");
        }
    }
}
