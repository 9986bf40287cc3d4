//! The tap every dialect shares: passes an answer on as it comes, shows it to a [`Meter`], and holds back exactly what
//! has to wait for the settlement.
//!
//! - A stream of events passes at once. Only the byte that ends its last event is held, with whatever follows. Where a
//!   vendor marks no event as the last (Gemini), the end of one that may be it waits until the next begins.
//! - A plain body, and one that is compressed, passes one piece behind, so that nobody sees its end too early.
//! - A compressed body is decoded in a copy; the caller gets the bytes as they came.
//! - In drop mode, an event stays here until it is known not to be the usage chunk that we asked for ourselves.
//!
//! What is kept per call: the pieces held, at most 64 KiB of an undecided event, and what the meter keeps.

use std::io::Write;

use bytes::Bytes;
use flate2::write::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use http::HeaderMap;

use super::counts::flag;
use super::framing::{Elements, Framing, Lines, Shape};
use super::json_scan::{JsonScan, Sink, Whole};
use super::sse::{Framer, Step};
use super::{End, Observation, Progress, ResponseHead, Tap};

/// Bytes of one event that may wait until it is known whether it is the usage chunk.
const MAX_UNDECIDED: usize = 64 << 10;
/// Bytes looked at to tell a plain body from a stream of events.
const SNIFF: usize = 64;

/// Understands the JSON of one family of endpoints: a plain body, or the data of events.
pub(super) trait Meter: Sink + Send {
    /// The names it wants to see in paths, sorted.
    fn names(&self) -> &'static [&'static str];
    /// A line of data ended: is this event the stream's last?
    fn is_last(&self, event: &[u8], head: &[u8]) -> bool;
    /// A document ended that may be the stream's last, though more may follow: its end waits for what comes next.
    fn may_be_last(&self) -> bool {
        false
    }
    /// The event as far as read cannot be a chunk that has nothing but usage.
    fn is_ordinary(&self) -> bool {
        true
    }
    /// An event's data, or the whole plain body, has been read. True: it is a chunk that has nothing but usage.
    fn done(&mut self, event: &[u8], head: &[u8], whole: Whole) -> bool;
    /// The body ended.
    fn observe(&mut self, seen: Seen) -> Observation;
    /// Output tokens that have passed so far, by the length of the text: see [`Tap::output_so_far`].
    fn output_so_far(&self) -> u64 {
        0
    }
}

/// How the body came and ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub status: u16,
    pub streamed: bool,
    /// The stream's own end mark was seen, where its framing has one.
    pub closed: bool,
    pub end: End,
    /// Of the plain body, or of the last, unfinished event.
    pub whole: Whole,
}

enum Form {
    /// Not known yet: the first bytes.
    Unknown(Vec<u8>),
    Plain,
    Stream(Framing),
}

/// The decoded side: form, scanner and meter.
struct Core {
    shape: Shape,
    form: Form,
    scan: JsonScan,
    meter: Box<dyn Meter>,
    last: bool,
}

impl Core {
    fn sniff(&mut self, bytes: &[u8]) {
        let Form::Unknown(seen) = &mut self.form else { return };
        seen.extend_from_slice(&bytes[..bytes.len().min(SNIFF)]);
        let text = seen.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(seen).trim_ascii_start();
        let fields: [&[u8]; 5] = [b":", b"data:", b"event:", b"id:", b"retry:"];
        if self.shape == Shape::Array && text.starts_with(b"[") {
            self.form = Form::Stream(Framing::Array(Elements::default()));
        } else if fields.iter().any(|f| text.starts_with(f)) {
            self.form = Form::Stream(Framing::Events(Framer::new()));
        } else if seen.len() >= SNIFF || !fields.iter().any(|f| f.starts_with(text)) {
            self.form = Form::Plain;
        }
    }

    /// Shows bytes to the meter without regard to where events end: for bodies that cannot be cut anyway.
    fn show(&mut self, bytes: &[u8]) {
        let Core { form, scan, meter, last, .. } = self;
        match form {
            Form::Unknown(_) => {}
            Form::Plain => scan.feed(bytes, meter.as_mut()),
            Form::Stream(framer) => {
                let mut rest = bytes;
                while !rest.is_empty() && !*last {
                    let (used, step) = framer.step(rest, &mut |d| scan.feed(d, meter.as_mut()));
                    rest = &rest[used..];
                    match step {
                        Step::DataLine if meter.is_last(framer.event(), framer.head()) => {
                            meter.done(framer.event(), framer.head(), scan.whole());
                            *last = true;
                        }
                        Step::Event => {
                            if framer.has_data() {
                                meter.done(framer.event(), framer.head(), scan.whole());
                            }
                            framer.next_event();
                            scan.reset();
                        }
                        Step::End => *last = true,
                        _ => {}
                    }
                }
            }
        }
    }
}

/// A decoder writes here what it decoded: pieces of at most its own buffer, so a bomb costs time, not memory.
impl Write for Core {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if let Form::Unknown(seen) = &self.form {
            let held = seen.clone();
            self.sniff(bytes);
            if !matches!(self.form, Form::Unknown(_)) {
                self.show(&held);
            }
        }
        self.show(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// How the bytes are coded on the wire. Boxed variants keep the tap small.
enum Coding {
    Identity(Core),
    /// A `content-encoding` that may be stale: decided by the first two bytes.
    Undecided {
        core: Core,
        named: Named,
        seen: Vec<u8>,
    },
    Gzip(Box<MultiGzDecoder<Core>>),
    Zlib(Box<ZlibDecoder<Core>>),
    Deflate(Box<DeflateDecoder<Core>>),
    /// Passed on unread.
    Unreadable(Core),
}

/// What `content-encoding` says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Named {
    Gzip,
    Deflate,
    /// Brotli, zstd: not asked for, and not read here.
    Other,
}

impl Coding {
    fn core(&mut self) -> &mut Core {
        match self {
            Coding::Identity(core) | Coding::Undecided { core, .. } | Coding::Unreadable(core) => core,
            Coding::Gzip(d) => d.get_mut(),
            Coding::Zlib(d) => d.get_mut(),
            Coding::Deflate(d) => d.get_mut(),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// The last event is held back.
    Last,
    Released,
}

/// Whether the end of a document that may be the last is held back.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    No,
    /// It has been read, its end has not.
    Ending,
    /// Its end too: what comes next tells.
    Ended,
}

/// The tap of every dialect.
pub(super) struct AnswerTap {
    status: u16,
    request_id: Option<String>,
    coding: Option<Coding>,
    state: State,
    held: Vec<Bytes>,
    drop_usage: bool,
    undecided: Vec<Bytes>,
    undecided_bytes: usize,
    /// Part of the current event has already passed, so that it cannot be dropped any more.
    begun: bool,
    /// The event before was dropped: so is the LF of its last CRLF.
    dropped: bool,
    wait: Wait,
    flags: Vec<&'static str>,
}

impl AnswerTap {
    pub fn new(head: &ResponseHead, drop_usage: bool, meter: Box<dyn Meter>) -> AnswerTap {
        AnswerTap::shaped(head, drop_usage, meter, Shape::Sniff)
    }

    /// For a dialect that knows better than the answer's head how the answer is framed.
    pub fn shaped(head: &ResponseHead, drop_usage: bool, meter: Box<dyn Meter>, shape: Shape) -> AnswerTap {
        let is = |kind: &str| {
            header(head.headers, "content-type").is_some_and(|t| t.trim_start().to_ascii_lowercase().starts_with(kind))
        };
        let form = match shape {
            // Google says so of its plain errors too.
            _ if is("text/event-stream") && head.status >= 400 => Form::Unknown(Vec::new()),
            _ if is("text/event-stream") => Form::Stream(Framing::Events(Framer::new())),
            _ if is("application/vnd.amazon.eventstream") => Form::Stream(Framing::Frames(Box::default())),
            _ if head.status >= 400 => Form::Plain,
            Shape::Frames => Form::Stream(Framing::Frames(Box::default())),
            Shape::Lines => Form::Stream(Framing::Lines(Lines::default())),
            _ => Form::Unknown(Vec::new()),
        };
        let core = Core { shape, form, scan: JsonScan::new(meter.names()), meter, last: false };
        let coding = match header(head.headers, "content-encoding").map(|c| c.trim().to_ascii_lowercase()).as_deref() {
            None | Some("" | "identity") => Coding::Identity(core),
            Some("gzip" | "x-gzip") => Coding::Undecided { core, named: Named::Gzip, seen: Vec::new() },
            Some("deflate") => Coding::Undecided { core, named: Named::Deflate, seen: Vec::new() },
            Some(_) => Coding::Undecided { core, named: Named::Other, seen: Vec::new() },
        };
        AnswerTap {
            status: head.status,
            request_id: request_id(head.headers),
            coding: Some(coding),
            state: State::Open,
            held: Vec::new(),
            drop_usage,
            undecided: Vec::new(),
            undecided_bytes: 0,
            begun: false,
            dropped: false,
            wait: Wait::No,
            flags: Vec::new(),
        }
    }

    fn read(&mut self, bytes: Bytes, pass: &mut Vec<Bytes>) -> Progress {
        match self.coding.take() {
            Some(Coding::Identity(mut core)) => {
                let progress = self.identity(&mut core, bytes, pass);
                self.coding = Some(Coding::Identity(core));
                progress
            }
            Some(Coding::Undecided { core, named, mut seen }) => {
                seen.extend_from_slice(&bytes[..bytes.len().min(2)]);
                self.held.push(bytes);
                if seen.len() < 2 {
                    self.coding = Some(Coding::Undecided { core, named, seen });
                    return Progress::More;
                }
                self.coding = Some(coding(core, named, seen[0], seen[1]));
                let mut progress = Progress::More;
                for piece in std::mem::take(&mut self.held) {
                    progress = self.read(piece, pass);
                }
                progress
            }
            Some(other) => {
                self.coding = Some(other);
                pass.append(&mut self.held);
                self.decode(&bytes);
                self.held.push(bytes);
                if self.coding.as_mut().is_some_and(|c| c.core().last) {
                    self.state = State::Last;
                    return Progress::Last;
                }
                Progress::More
            }
            None => {
                pass.push(bytes);
                Progress::More
            }
        }
    }

    fn decode(&mut self, bytes: &[u8]) {
        let result = match &mut self.coding {
            Some(Coding::Gzip(d)) => d.write_all(bytes),
            Some(Coding::Zlib(d)) => d.write_all(bytes),
            Some(Coding::Deflate(d)) => d.write_all(bytes),
            _ => Ok(()),
        };
        if result.is_err() {
            flag(&mut self.flags, "broken_encoding");
        }
    }

    fn identity(&mut self, core: &mut Core, bytes: Bytes, pass: &mut Vec<Bytes>) -> Progress {
        if matches!(core.form, Form::Unknown(_)) {
            core.sniff(&bytes);
            self.held.push(bytes);
            if matches!(core.form, Form::Unknown(_)) {
                return Progress::More;
            }
            let mut progress = Progress::More;
            for piece in std::mem::take(&mut self.held) {
                progress = self.identity(core, piece, pass);
            }
            return progress;
        }
        if self.state == State::Last {
            self.held.push(bytes);
            return Progress::Last;
        }
        if matches!(core.form, Form::Stream(_)) {
            return self.events(core, bytes, pass);
        }
        pass.append(&mut self.held);
        core.show(&bytes);
        self.held.push(bytes);
        Progress::More
    }

    fn events(&mut self, core: &mut Core, bytes: Bytes, pass: &mut Vec<Bytes>) -> Progress {
        let Core { form: Form::Stream(framer), scan, meter, last, .. } = core else { return Progress::More };
        let (mut from, mut at) = (0, 0);
        while at < bytes.len() {
            let (used, step) = framer.step(&bytes[at..], &mut |d| scan.feed(d, meter.as_mut()));
            at += used;
            if self.wait == Wait::Ended && framer.has_data() {
                // It was not the last.
                self.wait = Wait::No;
                pass.append(&mut self.held);
            }
            match step {
                Step::DataLine if meter.is_last(framer.event(), framer.head()) => {
                    meter.done(framer.event(), framer.head(), scan.whole());
                    *last = true;
                    pass.append(&mut self.undecided);
                    push(pass, bytes.slice(from..at));
                    push(&mut self.held, bytes.slice(at..));
                    self.state = State::Last;
                    return Progress::Last;
                }
                Step::End => {
                    *last = true;
                    if self.wait == Wait::No {
                        push(pass, bytes.slice(from..at));
                        from = at;
                    }
                    push(&mut self.held, bytes.slice(from..));
                    self.state = State::Last;
                    return Progress::Last;
                }
                Step::DataLine if self.wait == Wait::No && meter.may_be_last() => {
                    push(pass, bytes.slice(from..at));
                    from = at;
                    self.wait = Wait::Ending;
                }
                Step::Event => {
                    let ours = framer.has_data() && meter.done(framer.event(), framer.head(), scan.whole());
                    framer.next_event();
                    scan.reset();
                    if self.wait == Wait::Ending {
                        self.wait = Wait::Ended;
                    }
                    if self.drop_usage {
                        self.dropped = ours && !self.begun;
                        if self.dropped {
                            self.undecided.clear();
                        } else {
                            pass.append(&mut self.undecided);
                            push(pass, bytes.slice(from..at));
                        }
                        from = at;
                        self.undecided_bytes = 0;
                        self.begun = false;
                    }
                }
                // It belongs to the event before, and shares its fate.
                Step::Tail if self.drop_usage => {
                    if !std::mem::take(&mut self.dropped) {
                        push(pass, bytes.slice(from..at));
                    }
                    from = at;
                }
                _ => {}
            }
        }
        if from < bytes.len() {
            let rest = bytes.slice(from..);
            if self.wait != Wait::No {
                self.held.push(rest);
                return Progress::More;
            }
            self.undecided_bytes += rest.len();
            self.begun |= !self.drop_usage || meter.is_ordinary() || self.undecided_bytes > MAX_UNDECIDED;
            if self.begun {
                pass.append(&mut self.undecided);
                pass.push(rest);
            } else {
                self.undecided.push(rest);
            }
        }
        Progress::More
    }
}

impl Tap for AnswerTap {
    fn feed(&mut self, bytes: Bytes, pass: &mut Vec<Bytes>) -> Progress {
        if bytes.is_empty() {
            return if self.state == State::Last { Progress::Last } else { Progress::More };
        }
        match self.state {
            State::Open => self.read(bytes, pass),
            State::Last => {
                self.held.push(bytes);
                Progress::Last
            }
            State::Released => {
                pass.push(bytes);
                Progress::More
            }
        }
    }

    fn finish(&mut self, end: End) -> Observation {
        let Some(mut coding) = self.coding.take() else { return Observation::default() };
        match &mut coding {
            Coding::Gzip(d) => drop(d.try_finish()),
            Coding::Zlib(d) => drop(d.try_finish()),
            Coding::Deflate(d) => drop(d.try_finish()),
            Coding::Unreadable(_) => flag(&mut self.flags, "unreadable_encoding"),
            Coding::Undecided { core, seen, .. } => {
                core.form = Form::Plain;
                core.show(seen);
            }
            Coding::Identity(_) => {}
        }
        let core = coding.core();
        if let Form::Unknown(seen) = &core.form {
            let seen = seen.clone();
            core.form = Form::Plain;
            core.show(&seen);
        }
        let whole = core.scan.whole();
        core.scan.abandon(core.meter.as_mut());
        match &core.form {
            // An event without its empty line still counts, if it is whole.
            Form::Stream(framer) if framer.has_data() && framer.is_sure() && !core.last => {
                if core.meter.is_last(framer.event(), framer.head()) {
                    core.last = true;
                }
                if (core.last || whole == Whole::Complete) && core.meter.done(framer.event(), framer.head(), whole) {
                    self.undecided.clear();
                }
            }
            Form::Plain => {
                core.meter.done(b"", b"", whole);
            }
            _ => {}
        }
        self.held.append(&mut self.undecided);
        let (streamed, closed, broken) = match &core.form {
            Form::Stream(framing) => (true, framing.closed(), framing.broken()),
            _ => (false, false, false),
        };
        let mut seen = core.meter.observe(Seen { status: self.status, streamed, closed, end, whole });
        if broken {
            flag(&mut seen.flags, "broken_frame");
            (seen.usage, seen.usage_missing) = (None, self.status < 400);
        }
        seen.provider_request_id = self.request_id.take();
        for name in self.flags.drain(..) {
            flag(&mut seen.flags, name);
        }
        seen
    }

    fn output_so_far(&mut self) -> u64 {
        self.coding.as_mut().map_or(0, |coding| coding.core().meter.output_so_far())
    }

    fn release(&mut self, pass: &mut Vec<Bytes>) {
        pass.append(&mut self.held);
        self.state = State::Released;
    }
}

fn push(to: &mut Vec<Bytes>, piece: Bytes) {
    if !piece.is_empty() {
        to.push(piece);
    }
}

fn coding(core: Core, named: Named, a: u8, b: u8) -> Coding {
    let zlib = a & 0x0F == 8 && (u32::from(a) << 8 | u32::from(b)) % 31 == 0;
    // Proxies and recorders that decode a body sometimes forget to take the header away.
    let text =
        matches!(a, b'{' | b'[' | b'd' | b'e' | b':' | b'<' | b'\n' | b' ') && (b == b'\r' || b == b'\n' || b >= 0x20);
    match (a, b, named) {
        (0x1F, 0x8B, _) => Coding::Gzip(Box::new(MultiGzDecoder::new(core))),
        (_, _, Named::Deflate) if zlib => Coding::Zlib(Box::new(ZlibDecoder::new(core))),
        (_, _, Named::Deflate) if !text => Coding::Deflate(Box::new(DeflateDecoder::new(core))),
        (_, _, Named::Other) if !text => Coding::Unreadable(core),
        _ => Coding::Identity(core),
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// The provider's id of the request, by which its support finds it (provider-usage 11, 2026-11-23); cut at 128 bytes.
fn request_id(headers: &HeaderMap) -> Option<String> {
    let names = [
        "x-request-id",
        "request-id",
        "apim-request-id",
        "mistral-correlation-id",
        "x-generation-id",
        "x-amzn-requestid",
        "x-debug-trace-id",
    ];
    let id = names.iter().find_map(|n| header(headers, n).filter(|v| !v.is_empty()))?;
    Some(id.chars().take(128).collect())
}
