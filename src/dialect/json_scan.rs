//! Reads chosen values out of JSON that passes by in pieces of any size, without ever keeping the document.
//!
//! A [`Sink`] is told of every value that begins and answers what it wants of it: to look inside, to be given it (cut
//! at a bound), or to skip it. Whatever is not wanted costs a few bytes of state, so a body of a gigabyte, an endless
//! string and nesting without end are all read in bounded memory. Names are matched against a fixed list and appear in
//! paths as `&'static str`; every other name reads as the empty string.
//!
//! The scanner is lenient inside what it skips (it counts brackets and follows strings, no more): its job is to find
//! usage in what a provider sent, not to judge it. Strings that are not UTF-8 are read lossily.

use std::borrow::Cow;

use memchr::memchr2;

/// Nesting that is still looked into; anything deeper is skipped.
pub const MAX_DEPTH: usize = 64;
/// Names longer than this match nothing.
const MAX_NAME: usize = 64;
/// Digits of a number that are kept: more than any count or amount has.
const MAX_NUMBER: usize = 64;

/// One step of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seg {
    /// A member of an object: a name of the list, or the empty string for all others.
    Key(&'static str),
    /// An element of an array.
    At(u32),
}

/// What kind of value begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Object,
    Array,
    String,
    /// A number, `true`, `false` or `null`.
    Scalar,
}

/// What the sink wants of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    Skip,
    /// Look inside (objects, arrays). Scalars and strings are given up to 256 bytes.
    Enter,
    /// The decoded string, at most this many bytes of it; also when it breaks off.
    Text(usize),
    /// The value's own bytes, whole; dropped if there are more than this.
    Raw(usize),
}

/// A string as it was read.
#[derive(Clone, Copy, Debug)]
pub struct Text<'a> {
    /// Decoded, cut at the bound that was asked for.
    pub text: &'a str,
    /// Decoded bytes in all.
    pub bytes: u64,
}

/// Receives what the scanner finds. A path names the value itself: `[]` is the document.
pub trait Sink {
    fn begin(&mut self, path: &[Seg], kind: Kind) -> Want;
    /// A string that was wanted as [`Want::Enter`] or [`Want::Text`].
    fn string(&mut self, path: &[Seg], text: Text<'_>);
    /// A number or literal as written.
    fn scalar(&mut self, _path: &[Seg], _text: &str) {}
    /// The bytes of a value that was wanted [`Want::Raw`]; `None` if there were too many.
    fn raw(&mut self, _path: &[Seg], _json: Option<&[u8]>) {}
    /// An object or array that was entered ends.
    fn end(&mut self, _path: &[Seg], _kind: Kind) {}
}

/// How far a document got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whole {
    /// Nothing but white space.
    Empty,
    /// Begun, not ended.
    Partial,
    /// One value, ended, with nothing but white space behind it.
    Complete,
    /// Not JSON.
    Malformed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// Before a value. `first`: directly after `[`, where `]` may come.
    Value {
        first: bool,
    },
    /// Before a member's name. `first`: directly after `{`, where `}` may come.
    Name {
        first: bool,
    },
    InName,
    Colon,
    /// After a value inside an array or object.
    Comma,
    InString,
    InScalar,
    /// Inside something skipped: containers open, and whether in a string.
    Skip,
    Done,
    Bad,
}

/// A string's escape under way.
#[derive(Clone, Copy, Debug, Default)]
struct Escape {
    backslash: bool,
    /// Hex digits still to come of a Unicode escape.
    hex_left: u8,
    unit: u32,
    high: u32,
}

/// The scanner: feed it, then ask [`JsonScan::whole`].
#[derive(Debug)]
pub struct JsonScan {
    names: &'static [&'static str],
    at: At,
    path: Vec<Seg>,
    /// For every open container, whether it is an object; the path has one segment per open container.
    open: Vec<bool>,
    name: Vec<u8>,
    name_too_long: bool,
    text: Vec<u8>,
    limit: usize,
    /// A text, which is worth having in part too; an id or a name is not.
    partial: bool,
    bytes: u64,
    escape: Escape,
    skip_depth: u64,
    skip_string: bool,
    skip_escape: bool,
    /// Only as deep in skipped text as one plain scalar or string.
    skip_scalar: bool,
    raw: Option<Vec<u8>>,
    raw_limit: usize,
    raw_lost: bool,
}

impl JsonScan {
    /// A scanner that knows `names`, which must be sorted.
    pub fn new(names: &'static [&'static str]) -> JsonScan {
        debug_assert!(names.is_sorted());
        JsonScan {
            names,
            at: At::Value { first: false },
            path: Vec::new(),
            open: Vec::new(),
            name: Vec::new(),
            name_too_long: false,
            text: Vec::new(),
            limit: 0,
            partial: false,
            bytes: 0,
            escape: Escape::default(),
            skip_depth: 0,
            skip_string: false,
            skip_escape: false,
            skip_scalar: false,
            raw: None,
            raw_limit: 0,
            raw_lost: false,
        }
    }

    /// Makes it ready for the next document.
    pub fn reset(&mut self) {
        self.at = At::Value { first: false };
        self.path.clear();
        self.open.clear();
        self.raw = None;
        self.skip_depth = 0;
    }

    /// How far the document got. A bare number at the very end counts as complete.
    pub fn whole(&self) -> Whole {
        match self.at {
            At::Done => Whole::Complete,
            At::Bad => Whole::Malformed,
            At::Value { first: false } if self.open.is_empty() => Whole::Empty,
            At::InScalar if self.open.is_empty() => Whole::Complete,
            _ => Whole::Partial,
        }
    }

    /// Reads on.
    pub fn feed(&mut self, bytes: &[u8], sink: &mut dyn Sink) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let used = match self.at {
                At::Skip => self.skip(rest, sink),
                At::InString => self.in_string(rest, sink),
                At::InName => self.in_name(rest),
                At::InScalar => self.in_scalar(rest, sink),
                At::Bad => return,
                _ => {
                    self.structure(rest[0], sink);
                    1
                }
            };
            rest = &rest[used..];
        }
    }

    /// The document broke off: hands over the [`Want::Text`] that was being read.
    pub fn abandon(&mut self, sink: &mut dyn Sink) {
        if self.at == At::InString && self.partial {
            let text = lossy(&self.text);
            sink.string(&self.path, Text { text: &text, bytes: self.bytes });
            self.at = At::Bad;
        }
    }

    fn structure(&mut self, b: u8, sink: &mut dyn Sink) {
        if matches!(b, b' ' | b'\n' | b'\r' | b'\t') {
            return;
        }
        match (self.at, b) {
            (At::Value { first: true }, b']') => self.close(sink),
            (At::Value { .. }, _) => self.value(b, sink),
            (At::Name { first: true }, b'}') | (At::Comma, b'}' | b']') => self.close(sink),
            (At::Name { .. }, b'"') => {
                self.name.clear();
                self.name_too_long = false;
                self.escape = Escape::default();
                self.at = At::InName;
            }
            (At::Colon, b':') => self.at = At::Value { first: false },
            (At::Comma, b',') => match (self.open.last(), self.path.last_mut()) {
                (Some(false), Some(Seg::At(i))) => {
                    *i = i.saturating_add(1);
                    self.at = At::Value { first: false };
                }
                _ => self.at = At::Name { first: false },
            },
            _ => self.at = At::Bad,
        }
    }

    fn value(&mut self, b: u8, sink: &mut dyn Sink) {
        let kind = match b {
            b'{' => Kind::Object,
            b'[' => Kind::Array,
            b'"' => Kind::String,
            b'-' | b'0'..=b'9' | b't' | b'f' | b'n' | b'N' | b'I' => Kind::Scalar,
            _ => {
                self.at = At::Bad;
                return;
            }
        };
        let want = match sink.begin(&self.path, kind) {
            Want::Enter if self.open.len() >= MAX_DEPTH && matches!(kind, Kind::Object | Kind::Array) => Want::Skip,
            Want::Text(_) if matches!(kind, Kind::Object | Kind::Array) => Want::Skip,
            want => want,
        };
        match (want, kind) {
            (Want::Skip | Want::Raw(_), _) => {
                if let Want::Raw(limit) = want {
                    self.raw = Some(vec![b]);
                    self.raw_limit = limit;
                    self.raw_lost = false;
                }
                self.skip_depth = u64::from(matches!(kind, Kind::Object | Kind::Array));
                self.skip_string = kind == Kind::String;
                self.skip_scalar = kind == Kind::Scalar;
                self.skip_escape = false;
                self.at = At::Skip;
            }
            (_, Kind::Object) => {
                self.open.push(true);
                self.path.push(Seg::Key(""));
                self.at = At::Name { first: true };
            }
            (_, Kind::Array) => {
                self.open.push(false);
                self.path.push(Seg::At(0));
                self.at = At::Value { first: true };
            }
            (want, kind) => {
                self.text.clear();
                self.bytes = 0;
                self.partial = matches!(want, Want::Text(_));
                self.limit = if let Want::Text(limit) = want { limit } else { 256 };
                self.escape = Escape::default();
                if kind == Kind::String {
                    self.at = At::InString;
                } else {
                    self.text.push(b);
                    self.at = At::InScalar;
                }
            }
        }
    }

    fn close(&mut self, sink: &mut dyn Sink) {
        self.path.pop();
        let kind = if self.open.pop() == Some(true) { Kind::Object } else { Kind::Array };
        sink.end(&self.path, kind);
        self.after_value();
    }

    fn after_value(&mut self) {
        self.at = if self.open.is_empty() { At::Done } else { At::Comma };
    }

    fn in_name(&mut self, bytes: &[u8]) -> usize {
        // Names are short; an endless one keeps only its first bytes.
        let mut i = 0;
        while i < bytes.len() {
            if self.escape.idle() {
                let plain = memchr2(b'"', b'\\', &bytes[i..]).unwrap_or(bytes.len() - i);
                self.keep_name(&bytes[i..i + plain]);
                i += plain;
                if i == bytes.len() {
                    break;
                }
                if bytes[i] == b'"' {
                    let name = if self.name_too_long { "" } else { self.known() };
                    if let Some(last) = self.path.last_mut() {
                        *last = Seg::Key(name);
                    }
                    self.at = At::Colon;
                    return i + 1;
                }
            }
            match self.escape.decode(bytes[i]) {
                Some(Decoded::Byte(b)) => self.keep_name(&[b]),
                Some(Decoded::Char(c)) => self.keep_name(c.encode_utf8(&mut [0; 4]).as_bytes()),
                None => {}
            }
            i += 1;
        }
        bytes.len()
    }

    fn keep_name(&mut self, piece: &[u8]) {
        if self.name.len() + piece.len() > MAX_NAME {
            self.name_too_long = true;
        } else {
            self.name.extend_from_slice(piece);
        }
    }

    fn known(&self) -> &'static str {
        // A few dozen: comparing lengths first is faster than halving.
        self.names.iter().find(|n| n.as_bytes() == self.name).copied().unwrap_or("")
    }

    fn in_string(&mut self, bytes: &[u8], sink: &mut dyn Sink) -> usize {
        let mut i = 0;
        while i < bytes.len() {
            if self.escape.idle() {
                let plain = memchr2(b'"', b'\\', &bytes[i..]).unwrap_or(bytes.len() - i);
                self.keep(&bytes[i..i + plain]);
                i += plain;
                if i == bytes.len() {
                    break;
                }
                if bytes[i] == b'"' {
                    let text = lossy(&self.text);
                    sink.string(&self.path, Text { text: &text, bytes: self.bytes });
                    self.after_value();
                    return i + 1;
                }
            }
            match self.escape.decode(bytes[i]) {
                Some(Decoded::Byte(b)) => self.keep(&[b]),
                Some(Decoded::Char(c)) => self.keep(c.encode_utf8(&mut [0; 4]).as_bytes()),
                None => {}
            }
            i += 1;
        }
        bytes.len()
    }

    fn keep(&mut self, piece: &[u8]) {
        self.bytes = self.bytes.saturating_add(piece.len() as u64);
        let room = self.limit.saturating_sub(self.text.len());
        self.text.extend_from_slice(&piece[..piece.len().min(room)]);
    }

    fn in_scalar(&mut self, bytes: &[u8], sink: &mut dyn Sink) -> usize {
        let end = bytes.iter().position(|b| !is_scalar(*b)).unwrap_or(bytes.len());
        let room = MAX_NUMBER.saturating_sub(self.text.len());
        self.text.extend_from_slice(&bytes[..end.min(room)]);
        if end < bytes.len() {
            let text = lossy(&self.text);
            sink.scalar(&self.path, &text);
            self.after_value();
        }
        end
    }

    fn skip(&mut self, bytes: &[u8], sink: &mut dyn Sink) -> usize {
        let used = self.skip_over(bytes);
        let ended = self.at != At::Skip;
        if let Some(raw) = &mut self.raw {
            if raw.len() + used > self.raw_limit {
                self.raw_lost = true;
                raw.clear();
            } else if !self.raw_lost {
                raw.extend_from_slice(&bytes[..used]);
            }
            if ended {
                let raw = self.raw.take();
                sink.raw(&self.path, raw.as_deref().filter(|_| !self.raw_lost));
            }
        }
        used
    }

    fn skip_over(&mut self, bytes: &[u8]) -> usize {
        let mut i = 0;
        while i < bytes.len() {
            if self.skip_scalar {
                i += bytes[i..].iter().position(|b| !is_scalar(*b)).unwrap_or(bytes.len() - i);
                if i < bytes.len() {
                    self.skip_scalar = false;
                    self.after_value();
                    return i;
                }
                break;
            }
            if self.skip_escape {
                self.skip_escape = false;
                i += 1;
            } else if self.skip_string {
                i += memchr2(b'"', b'\\', &bytes[i..]).unwrap_or(bytes.len() - i);
                if i == bytes.len() {
                    break;
                }
                self.skip_escape = bytes[i] == b'\\';
                self.skip_string = self.skip_escape;
                i += 1;
            } else {
                match bytes[i] {
                    b'"' => self.skip_string = true,
                    b'{' | b'[' => self.skip_depth = self.skip_depth.saturating_add(1),
                    b'}' | b']' => self.skip_depth = self.skip_depth.saturating_sub(1),
                    _ => {}
                }
                i += 1;
            }
            if self.skip_depth == 0 && !self.skip_string && !self.skip_escape {
                self.after_value();
                return i;
            }
        }
        bytes.len()
    }
}

/// The text itself where it is one, as nearly all are; checking first is several times faster than reading lossily.
fn lossy(bytes: &[u8]) -> Cow<'_, str> {
    std::str::from_utf8(bytes).map_or_else(|_| String::from_utf8_lossy(bytes), Cow::Borrowed)
}

fn is_scalar(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'-' | b'+' | b'.')
}

enum Decoded {
    Byte(u8),
    Char(char),
}

impl Escape {
    fn idle(&self) -> bool {
        !self.backslash && self.hex_left == 0
    }

    /// Takes one byte of a string's inside; gives what it stands for, once that is known.
    fn decode(&mut self, b: u8) -> Option<Decoded> {
        if self.hex_left > 0 {
            self.unit = self.unit << 4 | (b as char).to_digit(16).unwrap_or(0);
            self.hex_left -= 1;
            return if self.hex_left == 0 { self.unit_done() } else { None };
        }
        if !self.backslash {
            if b == b'\\' {
                self.backslash = true;
                return None;
            }
            return Some(Decoded::Byte(b));
        }
        self.backslash = false;
        Some(Decoded::Byte(match b {
            b'u' => {
                (self.hex_left, self.unit) = (4, 0);
                return None;
            }
            b'n' => b'\n',
            b't' => b'\t',
            b'r' => b'\r',
            b'b' => 8,
            b'f' => 12,
            other => other,
        }))
    }

    /// A surrogate waits for its other half; a lone one is dropped.
    fn unit_done(&mut self) -> Option<Decoded> {
        let unit = self.unit;
        if (0xD800..0xDC00).contains(&unit) {
            self.high = unit;
            return None;
        }
        let high = std::mem::take(&mut self.high);
        if (0xDC00..0xE000).contains(&unit) {
            let c = if high == 0 { 0xFFFD } else { 0x10000 + ((high - 0xD800) << 10) + (unit - 0xDC00) };
            return char::from_u32(c).map(Decoded::Char);
        }
        char::from_u32(unit).map(Decoded::Char)
    }
}

#[cfg(test)]
mod tests;
