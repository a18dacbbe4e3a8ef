//! `cargo xtask pull`: fetches a file of the rig's store over QMP.

use crate::progress::Progress;
use crate::qmp::{Client, Place};
use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::json;
use std::io::Write;
use std::path::PathBuf;

/// Bytes asked for at a time: a short answer each, so that the guest is not held up.
const CHUNK: u64 = 3072;

/// `cargo xtask pull`.
#[derive(Args, Debug)]
pub struct Options {
    #[command(flatten)]
    place: Place,
    /// The file in the store, e.g. /tmp/image
    store_path: String,
    /// Where to write it [default: its last name, here; - is standard output]
    file: Option<PathBuf>,
}

/// Runs the subcommand.
pub fn main(options: Options) -> Result<()> {
    let mut client = Client::open(&options.place)?;
    client.negotiate()?;
    let data = fetch(&mut client, &options.store_path)?;
    let last = options.store_path.rsplit('/').next().unwrap_or_default();
    let file = options.file.unwrap_or_else(|| PathBuf::from(last));
    if file.as_os_str() == "-" {
        std::io::stdout().write_all(&data)?;
        return Ok(());
    }
    std::fs::write(&file, &data).with_context(|| format!("cannot write {}", file.display()))?;
    eprintln!("{}: {} bytes", file.display(), data.len());
    Ok(())
}

/// Reads a whole file of the store.
pub fn fetch(client: &mut Client, path: &str) -> Result<Vec<u8>> {
    let _progress = Progress::start(format!("fetching {path}"));
    let mut data = Vec::new();
    loop {
        let arguments = json!({ "path": path, "offset": data.len(), "size": CHUNK });
        let reply = client.execute("x-store-read", arguments)?;
        let text = reply["data"].as_str().context("x-store-read answered no data")?;
        let piece = decode(text).with_context(|| format!("x-store-read answered no base64: {text}"))?;
        let end = reply["eof"].as_bool().context("x-store-read did not say whether this is the end")?;
        if piece.is_empty() && !end {
            bail!("x-store-read sent nothing before the end of {path}");
        }
        data.extend_from_slice(&piece);
        if end {
            if reply["size"].as_u64() != Some(data.len() as u64) {
                bail!("{path} has {} bytes and {} came", reply["size"], data.len());
            }
            return Ok(data);
        }
    }
}

/// Decodes base64 (RFC 4648 section 4, with padding).
fn decode(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let body = text.strip_suffix("==").or_else(|| text.strip_suffix('=')).unwrap_or(text);
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0u32, 0);
    for byte in body.bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    (bits == 0).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_of_the_rfc() {
        for (text, bytes) in
            [("", ""), ("Zg==", "f"), ("Zm8=", "fo"), ("Zm9v", "foo"), ("Zm9vYmFy", "foobar")]
        {
            assert_eq!(decode(text).unwrap(), bytes.as_bytes());
        }
        assert_eq!(decode("+/+/").unwrap(), [0xfb, 0xff, 0xbf]);
        for bad in ["Z", "Zg=", "Z===", "Zm9v!A==", "Zh=="] {
            assert!(decode(bad).is_none(), "{bad}");
        }
    }
}
