//! Frames a server-sent event stream byte by byte, as the WHATWG standard says, keeping nothing of what passes.
//!
//! Lines end with CR, LF or CRLF (also one cut in half); `data:` may be followed by one space or none; comments,
//! unknown fields, several data lines and a byte order mark are understood. The framer hands data on as it comes and
//! tells at which byte a data line and an event end, so that its user can stop the stream exactly there.

/// Bytes kept of an event's name, and of the beginning of its data.
const HEAD: usize = 64;

/// What a call of [`Framer::step`] came upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// All bytes were used.
    More,
    /// The next byte ends a line of data. It is not used yet.
    DataLine,
    /// The last used byte is the one that dispatches the event.
    Event,
    /// The last used byte is the LF of a CRLF whose CR dispatched the event.
    Tail,
    /// The next byte ends the stream. It is not used yet. (Arrays only.)
    End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum In {
    Start,
    Name,
    /// Directly after the colon, where one space is dropped.
    Space,
    Value,
    /// At the end of a data line that has been told of.
    DataEnd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Data,
    Event,
    Other,
}

/// The state between two pieces of a stream.
#[derive(Debug)]
pub struct Framer {
    at: In,
    field: Field,
    name: Vec<u8>,
    after_cr: bool,
    /// That CR dispatched an event.
    tail: bool,
    bom: u8,
    event: Vec<u8>,
    head: Vec<u8>,
    data_lines: u64,
}

impl Framer {
    pub fn new() -> Framer {
        Framer {
            at: In::Start,
            field: Field::Other,
            name: Vec::new(),
            after_cr: false,
            tail: false,
            bom: 0,
            event: Vec::new(),
            head: Vec::new(),
            data_lines: 0,
        }
    }

    /// The current event's `event:` field, cut at 64 bytes.
    pub fn event(&self) -> &[u8] {
        &self.event
    }

    /// The beginning of the current event's data, cut at 64 bytes.
    pub fn head(&self) -> &[u8] {
        &self.head
    }

    /// Whether the current event has data.
    pub fn has_data(&self) -> bool {
        self.data_lines > 0
    }

    /// Forgets the event that was dispatched.
    pub fn next_event(&mut self) {
        self.event.clear();
        self.head.clear();
        self.data_lines = 0;
    }

    /// Reads on until something is to be told; gives how many bytes were used. `data` gets the event's data.
    pub fn step(&mut self, bytes: &[u8], data: &mut dyn FnMut(&[u8])) -> (usize, Step) {
        let mut i = 0;
        while i < bytes.len() {
            let b = bytes[i];
            if std::mem::take(&mut self.after_cr) && b == b'\n' {
                i += 1;
                if std::mem::take(&mut self.tail) {
                    return (i, Step::Tail);
                }
                continue;
            }
            self.tail = false;
            if self.bom < 3 {
                if b == [0xEF, 0xBB, 0xBF][self.bom as usize] {
                    self.bom += 1;
                    i += 1;
                    continue;
                }
                self.bom = 3;
            }
            match self.at {
                In::Start | In::Name => {
                    if is_end(b) {
                        if self.at == In::Start {
                            self.after_cr = b == b'\r';
                            self.tail = self.after_cr;
                            return (i + 1, Step::Event);
                        }
                        // A field without a colon has an empty value.
                        self.begin_value(data);
                        self.end_line(b);
                    } else if b == b':' {
                        self.begin_value(data);
                        self.at = In::Space;
                    } else {
                        self.at = In::Name;
                        if self.name.len() < 8 {
                            self.name.push(b);
                        }
                    }
                    i += 1;
                }
                In::Space if b == b' ' => {
                    self.at = In::Value;
                    i += 1;
                }
                In::Space | In::Value => {
                    self.at = In::Value;
                    let end = memchr::memchr2(b'\r', b'\n', &bytes[i..]).map_or(bytes.len(), |n| i + n);
                    self.value(&bytes[i..end], data);
                    i = end;
                    if i < bytes.len() {
                        if self.field == Field::Data {
                            self.at = In::DataEnd;
                            return (i, Step::DataLine);
                        }
                        self.end_line(bytes[i]);
                        i += 1;
                    }
                }
                In::DataEnd => {
                    self.end_line(b);
                    i += 1;
                }
            }
        }
        (bytes.len(), Step::More)
    }

    fn begin_value(&mut self, data: &mut dyn FnMut(&[u8])) {
        self.field = match self.name.as_slice() {
            b"data" => Field::Data,
            b"event" => Field::Event,
            _ => Field::Other,
        };
        match self.field {
            Field::Data => {
                if self.data_lines > 0 {
                    data(b"\n");
                    self.head_push(b"\n");
                }
                self.data_lines += 1;
            }
            Field::Event => self.event.clear(),
            Field::Other => {}
        }
    }

    fn value(&mut self, piece: &[u8], data: &mut dyn FnMut(&[u8])) {
        match self.field {
            Field::Data => {
                self.head_push(piece);
                data(piece);
            }
            Field::Event => {
                let room = HEAD.saturating_sub(self.event.len());
                self.event.extend_from_slice(&piece[..piece.len().min(room)]);
            }
            Field::Other => {}
        }
    }

    fn head_push(&mut self, piece: &[u8]) {
        let room = HEAD.saturating_sub(self.head.len());
        self.head.extend_from_slice(&piece[..piece.len().min(room)]);
    }

    fn end_line(&mut self, b: u8) {
        self.after_cr = b == b'\r';
        self.name.clear();
        self.at = In::Start;
    }
}

fn is_end(b: u8) -> bool {
    b == b'\r' || b == b'\n'
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Events as (name, data), the way a reader of the whole text would see them.
    fn events(pieces: &[&[u8]]) -> Vec<(String, String)> {
        let (mut framer, mut out, mut data) = (Framer::new(), Vec::new(), Vec::new());
        for piece in pieces {
            let mut rest = *piece;
            while !rest.is_empty() {
                let (used, step) = framer.step(rest, &mut |d| data.extend_from_slice(d));
                rest = &rest[used..];
                if step == Step::Event {
                    if framer.has_data() {
                        let name = String::from_utf8_lossy(framer.event()).into_owned();
                        out.push((name, String::from_utf8_lossy(&data).into_owned()));
                    }
                    data.clear();
                    framer.next_event();
                }
            }
        }
        out
    }

    /// The naive model: normalise line ends, split at empty lines.
    fn model(text: &str) -> Vec<(String, String)> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text).replace("\r\n", "\n").replace('\r', "\n");
        let (mut out, mut name, mut data) = (Vec::new(), String::new(), Vec::new());
        let mut lines: Vec<&str> = text.split('\n').collect();
        lines.pop();
        for line in lines {
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match (line, field) {
                ("", _) => {
                    if !data.is_empty() {
                        out.push((std::mem::take(&mut name), data.join("\n")));
                    }
                    name.clear();
                    data.clear();
                }
                (_, "data") => data.push(value.to_string()),
                (_, "event") => name = value.to_string(),
                _ => {}
            }
        }
        out
    }

    #[test]
    fn every_way_to_end_a_line_is_understood() {
        for end in ["\n", "\r", "\r\n"] {
            let text =
                format!(": hi{end}event:a{end}data: x{end}data:y{end}{end}data{end}{end}id: 1{end}{end}data: tail");
            let want = model(&text);
            assert_eq!(want.len(), 2, "{text:?}");
            assert_eq!(events(&[text.as_bytes()]), want, "{text:?}");
            let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
            assert_eq!(events(&bytes), want, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_split_of_any_lines_reads_as_the_whole(
            lines in proptest::collection::vec("(\u{feff}|data: ?|event: ?|: |x|)[ab:é ]{0,5}(\n|\r|\r\n|\n\n|\r\n\r\n)", 0..12),
            cut in 0usize..120,
        ) {
            let text = lines.concat();
            let cut = cut.min(text.len());
            let (a, b) = text.as_bytes().split_at(cut);
            // The model cannot tell a BOM in mid-stream from text either; both only drop the first.
            prop_assert_eq!(events(&[a, b]), model(&text));
        }
    }
}
