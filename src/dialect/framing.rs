//! How a stream is cut into documents: server-sent events, one JSON value a line, the elements of one JSON array, or the
//! frames of AWS. All tell the same [`Step`]s, so that one tap carries them all.

use super::event_stream::Frames;
use super::sse::{Framer, Step};

/// What a dialect says of an answer whose head does not say it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Shape {
    /// Server-sent events if it looks like them, else one document.
    #[default]
    Sniff,
    /// One JSON value a line.
    Lines,
    /// The elements of one array if it begins with one, else as [`Shape::Sniff`].
    Array,
    /// `application/vnd.amazon.eventstream`.
    Frames,
}

/// A stream under way.
#[derive(Debug)]
pub(super) enum Framing {
    Events(Framer),
    Lines(Lines),
    Array(Elements),
    Frames(Box<Frames>),
}

impl Framing {
    /// Reads on until something is to be told; gives how many bytes were used. `data` gets the documents' bytes.
    pub fn step(&mut self, bytes: &[u8], data: &mut dyn FnMut(&[u8])) -> (usize, Step) {
        match self {
            Framing::Events(f) => f.step(bytes, data),
            Framing::Lines(f) => f.step(bytes, data),
            Framing::Array(f) => f.step(bytes, data),
            Framing::Frames(f) => f.step(bytes, data),
        }
    }

    /// The current document's name, where the framing has names.
    pub fn event(&self) -> &[u8] {
        match self {
            Framing::Events(f) => f.event(),
            Framing::Frames(f) => f.event(),
            Framing::Lines(_) | Framing::Array(_) => b"",
        }
    }

    /// The beginning of an event's data.
    pub fn head(&self) -> &[u8] {
        if let Framing::Events(f) = self { f.head() } else { b"" }
    }

    /// Whether the current document has begun.
    pub fn has_data(&self) -> bool {
        match self {
            Framing::Events(f) => f.has_data(),
            Framing::Lines(f) => f.begun,
            Framing::Array(f) => f.at == Place::Inside || f.at == Place::Closing,
            Framing::Frames(f) => f.has_data(),
        }
    }

    /// What was read of the current document is as it was sent: a frame is before its checksum was seen to be right.
    pub fn is_sure(&self) -> bool {
        !matches!(self, Framing::Frames(f) if !f.is_sure())
    }

    /// Forgets the document that ended.
    pub fn next_event(&mut self) {
        match self {
            Framing::Events(f) => f.next_event(),
            Framing::Lines(f) => f.begun = false,
            Framing::Array(_) => {}
            Framing::Frames(f) => f.next_event(),
        }
    }

    /// The framing itself said that the stream is at its end.
    pub fn closed(&self) -> bool {
        matches!(self, Framing::Array(f) if f.at == Place::After)
    }

    /// A frame's checksum was wrong: nothing that was read is sure.
    pub fn broken(&self) -> bool {
        matches!(self, Framing::Frames(f) if f.is_broken())
    }
}

/// One JSON value a line; empty lines say nothing.
#[derive(Debug, Default)]
pub(super) struct Lines {
    begun: bool,
    /// The end of the line has been told of.
    told: bool,
}

impl Lines {
    fn step(&mut self, bytes: &[u8], data: &mut dyn FnMut(&[u8])) -> (usize, Step) {
        let mut at = 0;
        while at < bytes.len() {
            if bytes[at] == b'\n' {
                if !self.begun {
                    at += 1;
                } else if std::mem::replace(&mut self.told, true) {
                    self.told = false;
                    return (at + 1, Step::Event);
                } else {
                    return (at, Step::DataLine);
                }
                continue;
            }
            let end = memchr::memchr(b'\n', &bytes[at..]).map_or(bytes.len(), |n| at + n);
            self.begun |= !bytes[at..end].trim_ascii().is_empty();
            data(&bytes[at..end]);
            at = end;
        }
        (bytes.len(), Step::More)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Before,
    /// Inside the array, outside its elements.
    Between,
    Inside,
    /// At an element's last byte, which has been read but not passed.
    Closing,
    /// At or behind the array's end.
    After,
}

/// The elements of one JSON array that arrives in pieces. Elements are objects or arrays; anything else between them is
/// passed over.
#[derive(Debug, Default)]
pub(super) struct Elements {
    at: Place,
    depth: u64,
    in_string: bool,
    escaped: bool,
}

impl Elements {
    fn step(&mut self, bytes: &[u8], data: &mut dyn FnMut(&[u8])) -> (usize, Step) {
        let mut i = 0;
        while i < bytes.len() {
            let b = bytes[i];
            match self.at {
                Place::Before => {
                    self.at = if b == b'[' { Place::Between } else { self.at };
                    i += 1;
                }
                Place::Between if b == b']' => {
                    self.at = Place::After;
                    return (i, Step::End);
                }
                Place::Between if matches!(b, b'{' | b'[') => {
                    (self.at, self.depth) = (Place::Inside, 0);
                }
                Place::Between => i += 1,
                Place::Inside => {
                    let (used, closes) = self.inside(&bytes[i..]);
                    data(&bytes[i..i + used]);
                    i += used;
                    if closes {
                        // The last byte belongs to the element, but is not passed on before it has been judged.
                        self.at = Place::Closing;
                        return (i - 1, Step::DataLine);
                    }
                }
                Place::Closing => {
                    self.at = Place::Between;
                    return (i + 1, Step::Event);
                }
                Place::After => return (bytes.len(), Step::More),
            }
        }
        (bytes.len(), Step::More)
    }

    /// How many bytes belong to the element, and whether it ends with them.
    fn inside(&mut self, bytes: &[u8]) -> (usize, bool) {
        let mut i = 0;
        while i < bytes.len() {
            if std::mem::take(&mut self.escaped) {
                i += 1;
            } else if self.in_string {
                i += memchr::memchr2(b'"', b'\\', &bytes[i..]).unwrap_or(bytes.len() - i);
                let Some(b) = bytes.get(i) else { break };
                self.escaped = *b == b'\\';
                self.in_string = self.escaped;
                i += 1;
            } else {
                let b = bytes[i];
                i += 1;
                match b {
                    b'"' => self.in_string = true,
                    b'{' | b'[' => self.depth = self.depth.saturating_add(1),
                    b'}' | b']' => {
                        self.depth = self.depth.saturating_sub(1);
                        if self.depth == 0 {
                            return (i, true);
                        }
                    }
                    _ => {}
                }
            }
        }
        (bytes.len(), false)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The documents of a stream, and how many bytes lay before the place where the stream's end was told.
    fn documents(mut framing: Framing, pieces: &[&[u8]]) -> (Vec<String>, Option<usize>) {
        let (mut out, mut document, mut seen) = (Vec::new(), Vec::new(), 0);
        for piece in pieces {
            let mut rest = *piece;
            while !rest.is_empty() {
                let (used, step) = framing.step(rest, &mut |d| document.extend_from_slice(d));
                rest = &rest[used..];
                seen += used;
                match step {
                    Step::End => return (out, Some(seen)),
                    Step::Event => {
                        out.push(String::from_utf8_lossy(&document).trim().to_owned());
                        document.clear();
                        framing.next_event();
                    }
                    _ => {}
                }
            }
        }
        (out, None)
    }

    #[test]
    fn an_array_and_lines_are_cut_into_their_values_wherever_they_are_split() {
        let values = [r#"{"a":"]}\\\"[","b":{"c":[1,{}]}}"#, "{}", r#"[{"x":"é"}]"#];
        let array = format!(" [{}]\r\n", values.join("\r\n,\r\n"));
        let lines = format!("\n{}\n", values.join("\r\n\n"));
        for at in 0..array.len() {
            let (a, b) = array.as_bytes().split_at(at);
            let (got, end) = documents(Framing::Array(Elements::default()), &[a, b]);
            assert_eq!((got, end), (values.map(String::from).to_vec(), array.rfind(']')), "{at}");
        }
        for at in 0..lines.len() {
            let (a, b) = lines.as_bytes().split_at(at);
            assert_eq!(documents(Framing::Lines(Lines::default()), &[a, b]).0, values, "{at}");
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_is_used_up(bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 0usize..200) {
            let (a, b) = bytes.split_at(cut.min(bytes.len()));
            for framing in [
                || Framing::Lines(Lines::default()),
                || Framing::Array(Elements::default()),
                || Framing::Frames(Box::default()),
            ] {
                prop_assert_eq!(documents(framing(), &[a, b]).0, documents(framing(), &[&bytes]).0);
            }
        }
    }
}
