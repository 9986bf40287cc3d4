//! Reads AWS's binary event stream (`application/vnd.amazon.eventstream`) frame by frame, keeping nothing of what passes.
//!
//! A frame is `[u32 length][u32 length of headers][u32 CRC of the first 8 bytes][headers][payload][u32 CRC of all before]`,
//! big-endian; a header is `[u8 length][name][u8 type][value]`. Payloads are handed on as they come, those of `chunk`
//! frames (`{"bytes": base64, …}`) decoded. Both checksums are checked: behind a wrong one nothing is read any more.

use flate2::Crc;

use super::sse::Step;

/// AWS's own bound of a frame, 24 MiB with room to spare; nothing is kept of it.
const MAX_FRAME: u32 = 64 << 20;
/// Headers that are read; a frame with more is named by what came first.
const MAX_HEADERS: usize = 4 << 10;
/// Bytes kept of an event's name.
const MAX_NAME: usize = 64;
const PRELUDE: usize = 12;
const SUM: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum In {
    Prelude,
    Headers,
    Payload,
    Sum,
    /// The frame's end has been told of.
    End,
    Broken,
}

/// The state between two pieces of a stream.
#[derive(Debug)]
pub(super) struct Frames {
    at: In,
    /// The prelude, then the headers, then the checksum.
    kept: Vec<u8>,
    headers: usize,
    payload: usize,
    crc: Crc,
    event: Vec<u8>,
    chunk: Option<Chunk>,
    begun: bool,
}

impl Default for Frames {
    fn default() -> Frames {
        Frames {
            at: In::Prelude,
            kept: Vec::with_capacity(128),
            headers: 0,
            payload: 0,
            crc: Crc::new(),
            event: Vec::new(),
            chunk: None,
            begun: false,
        }
    }
}

impl Frames {
    /// `:event-type` of an event; `!` and the exception's type of an exception or error.
    pub fn event(&self) -> &[u8] {
        &self.event
    }

    pub fn has_data(&self) -> bool {
        self.begun
    }

    pub fn next_event(&mut self) {
        self.event.clear();
        self.begun = false;
    }

    pub fn is_sure(&self) -> bool {
        self.at == In::End
    }

    pub fn is_broken(&self) -> bool {
        self.at == In::Broken
    }

    /// See [`super::framing::Framing::step`]. A frame's end is told before its last byte is used.
    pub fn step(&mut self, bytes: &[u8], data: &mut dyn FnMut(&[u8])) -> (usize, Step) {
        let mut i = 0;
        while i < bytes.len() {
            match self.at {
                In::Prelude => {
                    i += self.keep(&bytes[i..], PRELUDE);
                    self.prelude();
                }
                In::Headers => {
                    let n = self.headers.min(bytes.len() - i);
                    let piece = &bytes[i..i + n];
                    self.crc.update(piece);
                    let room = MAX_HEADERS.saturating_sub(self.kept.len());
                    self.kept.extend_from_slice(&piece[..n.min(room)]);
                    self.headers -= n;
                    i += n;
                    self.headers_done();
                }
                In::Payload => {
                    let n = self.payload.min(bytes.len() - i);
                    let piece = &bytes[i..i + n];
                    self.crc.update(piece);
                    match &mut self.chunk {
                        Some(chunk) => chunk.decode(piece, data),
                        None => data(piece),
                    }
                    self.payload -= n;
                    i += n;
                    self.payload_done();
                }
                In::Sum => {
                    i += self.keep(&bytes[i..], SUM - 1);
                    if self.kept.len() == SUM - 1 && i < bytes.len() {
                        let sum = [&self.kept[..], &bytes[i..=i]].concat();
                        if sum != self.crc.sum().to_be_bytes() {
                            self.at = In::Broken;
                            continue;
                        }
                        self.at = In::End;
                        return (i, Step::DataLine);
                    }
                }
                In::End => {
                    self.at = In::Prelude;
                    self.kept.clear();
                    return (i + 1, Step::Event);
                }
                In::Broken => return (bytes.len(), Step::More),
            }
        }
        (bytes.len(), Step::More)
    }

    /// Keeps bytes until there are `want`; gives how many were taken.
    fn keep(&mut self, bytes: &[u8], want: usize) -> usize {
        let n = want.saturating_sub(self.kept.len()).min(bytes.len());
        self.kept.extend_from_slice(&bytes[..n]);
        n
    }

    fn prelude(&mut self) {
        let Ok(prelude) = <[u8; PRELUDE]>::try_from(self.kept.as_slice()) else { return };
        let word = |at: usize| u32::from_be_bytes([prelude[at], prelude[at + 1], prelude[at + 2], prelude[at + 3]]);
        let (total, headers) = (word(0), word(4));
        let least = (PRELUDE + SUM) as u32;
        self.crc.reset();
        self.crc.update(&prelude[..8]);
        if self.crc.sum() != word(8) || total > MAX_FRAME || total.checked_sub(least).is_none_or(|room| headers > room)
        {
            self.at = In::Broken;
            return;
        }
        self.crc.update(&prelude[8..]);
        (self.headers, self.payload) = (headers as usize, (total - least - headers) as usize);
        self.kept.clear();
        self.event.clear();
        self.begun = true;
        self.at = In::Headers;
        self.headers_done();
    }

    fn headers_done(&mut self) {
        if self.headers > 0 {
            return;
        }
        self.event = event_of(&self.kept);
        self.chunk = (self.event == b"chunk").then(Chunk::default);
        self.at = In::Payload;
        self.payload_done();
    }

    fn payload_done(&mut self) {
        if self.payload == 0 {
            self.kept.clear();
            self.at = In::Sum;
        }
    }
}

/// What a frame is called, from its headers.
fn event_of(headers: &[u8]) -> Vec<u8> {
    let mut event: &[u8] = b"";
    let mut wrong: Option<&[u8]> = None;
    let mut exception = false;
    let mut rest = headers;
    while let Some((name, value, after)) = header(rest) {
        rest = after;
        match name {
            b":event-type" => event = value,
            b":exception-type" | b":error-code" => wrong = Some(value),
            b":message-type" => exception = matches!(value, b"exception" | b"error"),
            _ => {}
        }
    }
    let name = if exception { [b"!", wrong.unwrap_or(b"error")].concat() } else { event.to_vec() };
    name[..name.len().min(MAX_NAME)].to_vec()
}

/// Name and value of the first header, and what follows it. Values that are no text read as empty.
fn header(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (length, rest) = bytes.split_first()?;
    let (name, rest) = rest.split_at_checked(usize::from(*length))?;
    let (kind, rest) = rest.split_first()?;
    let fixed = |n: usize| rest.split_at_checked(n).map(|(_, after)| (name, &b""[..], after));
    match kind {
        0 | 1 => fixed(0),
        2 => fixed(1),
        3 => fixed(2),
        4 => fixed(4),
        5 | 8 => fixed(8),
        9 => fixed(16),
        6 | 7 => {
            let (length, rest) = rest.split_at_checked(2)?;
            let (value, after) = rest.split_at_checked(usize::from(u16::from_be_bytes([length[0], length[1]])))?;
            Some((name, value, after))
        }
        _ => None,
    }
}

/// Decodes the `bytes` member of `{"bytes": "…", "p": "…"}` as it passes.
#[derive(Debug, Default)]
struct Chunk {
    depth: u32,
    in_string: bool,
    escaped: bool,
    /// The string read last, as far as it can be the name that is looked for.
    name: Vec<u8>,
    /// A colon came after that name: the next string is the one.
    wanted: bool,
    taking: bool,
    quad: Quad,
}

impl Chunk {
    fn decode(&mut self, piece: &[u8], data: &mut dyn FnMut(&[u8])) {
        let mut i = 0;
        while i < piece.len() {
            let b = piece[i];
            if !self.in_string {
                self.outside(b);
                i += 1;
            } else if std::mem::take(&mut self.escaped) {
                // Base64 has one character that may stand escaped: the slash.
                self.inside(&piece[i..=i], data);
                i += 1;
            } else {
                let n = memchr::memchr2(b'"', b'\\', &piece[i..]).unwrap_or(piece.len() - i);
                self.inside(&piece[i..i + n], data);
                i += n;
                if let Some(b) = piece.get(i) {
                    self.escaped = *b == b'\\';
                    self.in_string = self.escaped;
                    if !self.in_string && std::mem::take(&mut self.taking) {
                        self.quad.finish(data);
                    }
                    i += 1;
                }
            }
        }
    }

    fn outside(&mut self, b: u8) {
        match b {
            b'"' => {
                self.in_string = true;
                self.taking = std::mem::take(&mut self.wanted);
                self.name.clear();
            }
            b':' => self.wanted = self.depth == 1 && self.name == b"bytes",
            b'{' | b'[' => {
                self.depth = self.depth.saturating_add(1);
                self.wanted = false;
            }
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
    }

    fn inside(&mut self, piece: &[u8], data: &mut dyn FnMut(&[u8])) {
        if self.taking {
            self.quad.decode(piece, data);
        } else if self.name.len() < 8 {
            self.name.extend_from_slice(&piece[..piece.len().min(8)]);
        }
    }
}

/// Base64 in pieces of any size.
#[derive(Debug, Default)]
struct Quad {
    bits: u32,
    have: u8,
}

impl Quad {
    fn decode(&mut self, text: &[u8], data: &mut dyn FnMut(&[u8])) {
        let mut out = [0u8; 384];
        let mut n = 0;
        for b in text {
            let value = match b {
                b'A'..=b'Z' => b - b'A',
                b'a'..=b'z' => b - b'a' + 26,
                b'0'..=b'9' => b - b'0' + 52,
                b'+' | b'-' => 62,
                b'/' | b'_' => 63,
                _ => continue,
            };
            self.bits = self.bits << 6 | u32::from(value);
            self.have += 1;
            if self.have == 4 {
                let bytes = self.bits.to_be_bytes();
                out[n..n + 3].copy_from_slice(&bytes[1..]);
                n += 3;
                (self.bits, self.have) = (0, 0);
                if n == out.len() {
                    data(&out);
                    n = 0;
                }
            }
        }
        data(&out[..n]);
    }

    fn finish(&mut self, data: &mut dyn FnMut(&[u8])) {
        match self.have {
            2 => data(&[(self.bits >> 4) as u8]),
            3 => data(&[(self.bits >> 10) as u8, (self.bits >> 2) as u8]),
            _ => {}
        }
        (self.bits, self.have) = (0, 0);
    }
}

/// A frame as a provider sends it: for tests and for the sandbox.
pub fn frame(headers: &[(&str, &str)], payload: &[u8]) -> Vec<u8> {
    let mut head = Vec::new();
    for (name, value) in headers {
        head.push(name.len() as u8);
        head.extend_from_slice(name.as_bytes());
        head.push(7);
        head.extend_from_slice(&(value.len() as u16).to_be_bytes());
        head.extend_from_slice(value.as_bytes());
    }
    let total = (PRELUDE + head.len() + payload.len() + SUM) as u32;
    let mut out = [total.to_be_bytes(), (head.len() as u32).to_be_bytes()].concat();
    let sum = |bytes: &[u8]| {
        let mut crc = Crc::new();
        crc.update(bytes);
        crc.sum().to_be_bytes()
    };
    out.extend_from_slice(&sum(&out));
    out.extend_from_slice(&head);
    out.extend_from_slice(payload);
    out.extend_from_slice(&sum(&out));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(stream: &[u8], cut: usize) -> (Vec<(String, String)>, bool) {
        let (mut frames, mut out, mut document) = (Frames::default(), Vec::new(), Vec::new());
        for piece in [&stream[..cut], &stream[cut..]] {
            let mut rest = piece;
            while !rest.is_empty() {
                let (used, step) = frames.step(rest, &mut |d| document.extend_from_slice(d));
                rest = &rest[used..];
                if step == Step::Event {
                    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
                    out.push((text(frames.event()), text(&document)));
                    document.clear();
                    frames.next_event();
                }
            }
        }
        (out, frames.is_broken())
    }

    fn stream() -> Vec<u8> {
        let inner = data_encoding::BASE64.encode(r#"{"type":"x","text":"hé?>"}"#.as_bytes()).replace('/', r"\/");
        [
            frame(&[(":message-type", "event"), (":event-type", "messageStart")], br#"{"role":"assistant"}"#),
            frame(
                &[(":event-type", "chunk"), (":content-type", "application/json"), (":message-type", "event")],
                format!(r#"{{"q":{{"bytes":"AAAA"}},"bytes" : "{inner}","p":"abcd"}}"#).as_bytes(),
            ),
            frame(&[(":message-type", "exception"), (":exception-type", "throttlingException")], br#"{"message":"m"}"#),
        ]
        .concat()
    }

    #[test]
    fn frames_are_read_wherever_they_are_split() {
        let stream = stream();
        for cut in 0..stream.len() {
            let (got, broken) = read(&stream, cut);
            assert!(!broken);
            assert_eq!(got[0], ("messageStart".into(), r#"{"role":"assistant"}"#.into()), "{cut}");
            assert_eq!(got[1], ("chunk".into(), r#"{"type":"x","text":"hé?>"}"#.into()), "{cut}");
            assert_eq!(got[2], ("!throttlingException".into(), r#"{"message":"m"}"#.into()), "{cut}");
        }
    }

    #[test]
    fn no_event_comes_of_a_frame_that_was_changed() {
        let stream = stream();
        let whole = read(&stream, 0).0;
        for at in 0..stream.len() {
            let mut changed = stream.clone();
            changed[at] ^= 1;
            let (got, broken) = read(&changed, 0);
            assert!(broken, "a change at {at} is found");
            assert_eq!(got, whole[..got.len()], "{at}");
        }
    }

    #[test]
    fn lengths_that_cannot_be_are_refused_before_anything_is_kept() {
        for (total, headers) in [(0u32, 0u32), (15, 0), (u32::MAX, 0), (100, 101), (16, 1)] {
            let mut prelude = [total.to_be_bytes(), headers.to_be_bytes()].concat();
            let mut crc = Crc::new();
            crc.update(&prelude);
            prelude.extend_from_slice(&crc.sum().to_be_bytes());
            assert!(read(&prelude, 5).1, "{total} {headers}");
        }
    }
}
