//! Splitting a command line into words, as a shell does it.

/// A line that has been split.
pub(super) struct Split {
    /// Bytes of words and separators at the start of the line.
    pub length: usize,
    /// The last quote has no end.
    pub open_quote: bool,
}

/// Splits `line` in place into words, each followed by one zero byte. The result is never longer than the line but
/// for the last separator; where that has no room the last word's end is the line's.
pub(super) fn split_words(line: &mut [u8]) -> Split {
    let (mut read, mut write) = (0usize, 0usize);
    let mut quote = None;
    let mut in_word = false;
    let mut put = |line: &mut [u8], byte: u8| {
        if let Some(place) = line.get_mut(write) {
            *place = byte;
        }
        write += 1;
    };
    while let Some(&byte) = line.get(read) {
        read += 1;
        match (quote, byte) {
            (None, b' ' | b'\t' | b'\n' | b'\r') => {
                if in_word {
                    put(line, 0);
                }
                in_word = false;
            }
            (None, b'"' | b'\'') => {
                quote = Some(byte);
                in_word = true;
            }
            (Some(open), _) if open == byte => quote = None,
            (None | Some(b'"'), b'\\') => {
                let next = line.get(read).copied();
                let escaped = match (quote, next) {
                    (None, Some(next)) => Some(next),
                    (Some(_), Some(next @ (b'"' | b'\\' | b'\''))) => Some(next),
                    _ => None,
                };
                if escaped.is_some() {
                    read += 1;
                }
                put(line, escaped.unwrap_or(byte));
                in_word = true;
            }
            _ => {
                put(line, byte);
                in_word = true;
            }
        }
    }
    if in_word {
        put(line, 0);
    }
    Split { length: write, open_quote: quote.is_some() }
}
