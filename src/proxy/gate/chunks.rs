//! The chunks of an HTTP/1 request (RFC 9112, section 7.1), checked on their way to Pingora's parser, whose own (httparse) takes blanks around a size and
//! anything in an extension, and which skips trailers unread.

/// Longest line of a size with its extension, or of a trailer field, bytes.
const LINE: usize = 4096;
/// Most bytes that are not content, beyond what [`FREE`] grants: as Go's net/http.
const OVERHEAD: u64 = 16 * 1024;
/// Line bytes that each chunk may cost beyond twice its content.
const FREE: u64 = 16;
/// Most bytes of all trailer fields.
const TRAILERS: usize = 16 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In a size, after so many digits.
    Size(u8),
    /// In an extension.
    Extension,
    /// After the CR of a size's line.
    SizeEnd,
    /// In content, with so many bytes to come.
    Data,
    /// Before the CR and the LF after content.
    DataCr,
    DataLf,
    /// At the start of a trailer field, or of the last line.
    TrailerStart,
    /// In a trailer field's name, then in its value.
    TrailerName,
    TrailerValue,
    TrailerLf,
    /// Before the last LF.
    LastLf,
    Done,
}

/// A reader of chunks that keeps nothing but its place.
#[derive(Clone, Debug)]
pub struct Chunks {
    state: State,
    /// The size being read; then what is left of the content.
    size: u64,
    line: usize,
    overhead: u64,
    trailers: usize,
}

impl Default for Chunks {
    fn default() -> Self {
        Self { state: State::Size(0), size: 0, line: 0, overhead: 0, trailers: 0 }
    }
}

impl Chunks {
    /// Whether the last chunk and its trailers have passed.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Reads on; how many of `bytes` belong to the body: all of them unless it ends among them.
    ///
    /// # Errors
    /// What is wrong.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<usize, &'static str> {
        let mut at = 0;
        while let Some(byte) = bytes.get(at).copied() {
            match self.state {
                State::Done => break,
                State::Data => {
                    let here = usize::try_from(self.size).map_or(bytes.len() - at, |size| size.min(bytes.len() - at));
                    self.size -= here as u64;
                    at += here;
                    if self.size == 0 {
                        self.state = State::DataCr;
                    }
                }
                _ => {
                    self.step(byte)?;
                    at += 1;
                }
            }
        }
        Ok(at)
    }

    /// Takes one byte that is no content.
    fn step(&mut self, byte: u8) -> Result<(), &'static str> {
        self.line += 1;
        if self.line > LINE {
            return Err("a line of its chunks is too long");
        }
        self.state = match (self.state, byte) {
            (State::Size(15), b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => return Err("a chunk size that is too large"),
            (State::Size(digits), b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                self.size = self.size << 4 | u64::from(digit);
                State::Size(digits + 1)
            }
            (State::Size(1..), b'\r') => State::SizeEnd,
            (State::Size(1..), b';') => State::Extension,
            (State::Size(_), _) => return Err("a chunk size that is not a plain hexadecimal number"),
            (State::Extension, b'\r') => State::SizeEnd,
            (State::Extension, b'\t' | b' '..=b'~' | 0x80..) => State::Extension,
            (State::Extension, _) => return Err("a control character in a chunk extension"),
            (State::SizeEnd, b'\n') => self.sized()?,
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => {
                (self.size, self.line) = (0, 0);
                State::Size(0)
            }
            (State::TrailerStart, b'\r') => State::LastLf,
            (State::TrailerStart | State::TrailerName, byte) if super::head::is_token_byte(byte) => State::TrailerName,
            (State::TrailerName, b':') => State::TrailerValue,
            (State::TrailerValue, b'\r') => State::TrailerLf,
            (State::TrailerValue, b'\t' | b' '..=b'~' | 0x80..) => State::TrailerValue,
            (State::TrailerLf, b'\n') => {
                self.trailers += self.line;
                self.line = 0;
                if self.trailers > TRAILERS {
                    return Err("too many trailers");
                }
                State::TrailerStart
            }
            (State::LastLf, b'\n') => State::Done,
            _ => return Err("its chunks are not separated as RFC 9112, section 7.1, says"),
        };
        Ok(())
    }

    /// A size is known.
    fn sized(&mut self) -> Result<State, &'static str> {
        let line = std::mem::take(&mut self.line) as u64;
        self.overhead = (self.overhead + line).saturating_sub(FREE + 2 * self.size);
        if self.overhead > OVERHEAD {
            return Err("too much beside the content of its chunks");
        }
        Ok(if self.size == 0 { State::TrailerStart } else { State::Data })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a body comes to, in one piece and byte by byte: both must agree.
    fn read(bytes: &[u8]) -> Result<usize, &'static str> {
        let mut whole = Chunks::default();
        let outcome = whole.advance(bytes).map(|used| if whole.is_done() { used } else { usize::MAX });
        let (mut single, mut used) = (Chunks::default(), 0);
        let mut failed = None;
        for byte in bytes.chunks(1) {
            match single.advance(byte) {
                Ok(taken) => used += taken,
                Err(why) => {
                    failed = Some(why);
                    break;
                }
            }
        }
        let pieces = failed.map_or(Ok(if single.is_done() { used } else { usize::MAX }), Err);
        assert_eq!(outcome, pieces, "{:?}", String::from_utf8_lossy(bytes));
        outcome
    }

    #[test]
    fn bodies_end_where_they_end() {
        for (body, end) in [
            ("0\r\n\r\n", 5),
            ("0\r\n\r\nGET /", 5),
            ("5\r\nhello\r\n0\r\n\r\n0", 15),
            ("00005;a=\"b\"\r\nhello\r\n000;x\r\n\r\n", 29),
            ("A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\nrest", 35),
            ("1\r\nx\r\n0\r\nX-T: 1\r\nContent-Length: 5\r\n\r\nrest", 38),
            ("fffffffffffff\r\nx", usize::MAX),
        ] {
            assert_eq!(read(body.as_bytes()), Ok(end), "{body:?}");
        }
    }

    #[test]
    fn what_servers_read_in_two_ways_is_an_error() {
        for body in [
            "\r\n",
            "x\r\n",
            "0x5\r\nhello\r\n",
            "+5\r\nhello\r\n",
            "-5\r\nhello\r\n",
            "5_0\r\n",
            "5 \r\nhello\r\n",
            " 5\r\nhello\r\n",
            "5\t;x\r\n",
            ";x\r\n",
            "10000000000000005\r\nhello\r\n",
            "0000000000000005\r\nhello\r\n",
            "5\nhello\r\n",
            "5\rhello\r\n",
            "5;a\nhello\r\n",
            "5;a\r\rhello",
            "5;a\0b\r\nhello",
            "5\r\nhelloX",
            "5\r\nhello\n0\r\n\r\n",
            "5\r\nhello0\r\n\r\n",
            "5\r\nhello\r0\r\n",
            "0\r\nXX",
            "0\r\n\n",
            "0\r\n X: 1\r\n\r\n",
            "0\r\nX : 1\r\n\r\n",
            "0\r\n: 1\r\n\r\n",
            "0\r\nX: 1\n\r\n",
            "0\r\nX: \0\r\n\r\n",
            "0\n\r\n",
            "0\r\n\rX",
        ] {
            let outcome = read(body.as_bytes());
            // `0\r\nXX` is the beginning of a trailer field: what matters is that it never ends the body.
            assert!(outcome.is_err() || (body == "0\r\nXX" && outcome == Ok(usize::MAX)), "{body:?}: {outcome:?}");
        }
    }

    #[test]
    fn what_is_no_content_is_bounded() {
        let extended = |extension: usize, data: usize, chunks: usize| {
            format!("{data:x};{}\r\n{}\r\n", "e".repeat(extension), "d".repeat(data)).repeat(chunks) + "0\r\n\r\n"
        };
        assert!(read(extended(4090, 1, 1).as_bytes()).is_ok());
        assert!(read(extended(5000, 1, 1).as_bytes()).is_err());
        assert!(read(extended(4000, 1, 5).as_bytes()).is_err());
        assert!(read(extended(80, 65_536, 50).as_bytes()).is_ok(), "signed chunks");
        assert!(read(extended(0, 1, 50_000).as_bytes()).is_ok(), "a slow writer");
        let trailers = |count: usize| format!("0\r\n{}\r\n", "X-Trailer: some value\r\n".repeat(count));
        assert!(read(trailers(100).as_bytes()).is_ok());
        assert!(read(trailers(10_000).as_bytes()).is_err());
    }
}
