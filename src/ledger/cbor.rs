//! Deterministic CBOR (RFC 8949, section 4.2): the bytes evidence is made of, one encoding per value.
//!
//! Only what entries need: integers, byte and text strings, arrays, maps, booleans, null. Integers beyond 64 bits are the
//! standard's bignums (tags 2 and 3), so that any CBOR reader sees a number. The decoder is strict: a longer head than
//! needed, an indefinite length, keys out of order or repeated, bytes left over, floats and other tags are errors, and
//! nothing it is given makes it panic or allocate more than it was given.

/// Deepest nesting the decoder follows.
pub const MAX_DEPTH: u8 = 16;

/// Why bytes are not the deterministic CBOR that was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CborError {
    #[error("the bytes end in the middle of a value at byte {0}")]
    Truncated(usize),
    #[error("not the shortest form at byte {0}")]
    NotShortest(usize),
    #[error("map keys out of order or repeated at byte {0}")]
    KeyOrder(usize),
    #[error("expected {expected} at byte {at}")]
    Expected { expected: &'static str, at: usize },
    #[error("{0} bytes left over after the value")]
    Trailing(usize),
    #[error("nested deeper than {MAX_DEPTH}")]
    TooDeep,
    #[error("text is not UTF-8 at byte {0}")]
    Utf8(usize),
}

const UINT: u8 = 0;
const NEGATIVE: u8 = 1;
const BYTES: u8 = 2;
const TEXT: u8 = 3;
const ARRAY: u8 = 4;
const MAP: u8 = 5;
const TAG: u8 = 6;
const FALSE: u8 = 0xf4;
const TRUE: u8 = 0xf5;
const NULL: u8 = 0xf6;

/// Writes values one after the other. The caller writes map keys in order; [`Writer::fields`] helps.
#[derive(Default)]
pub struct Writer {
    out: Vec<u8>,
}

impl Writer {
    pub fn new() -> Writer {
        Writer { out: Vec::with_capacity(512) }
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.out
    }

    fn head(&mut self, major: u8, n: u64) {
        let major = major << 5;
        let bytes = n.to_be_bytes();
        match n {
            0..=23 => self.out.push(major | n as u8),
            24..=0xff => self.out.extend([major | 24, n as u8]),
            0x100..=0xffff => {
                self.out.push(major | 25);
                self.out.extend(&bytes[6..]);
            }
            0x1_0000..=0xffff_ffff => {
                self.out.push(major | 26);
                self.out.extend(&bytes[4..]);
            }
            _ => {
                self.out.push(major | 27);
                self.out.extend(&bytes);
            }
        }
    }

    pub fn uint(&mut self, n: u64) {
        self.head(UINT, n);
    }

    /// Any integer: a plain one where it fits 64 bits and a sign, else a bignum.
    pub fn int(&mut self, n: i128) {
        let (major, tag) = if n < 0 { (NEGATIVE, 3) } else { (UINT, 2) };
        let magnitude = if n < 0 { (-1 - n) as u128 } else { n as u128 };
        match u64::try_from(magnitude) {
            Ok(small) => self.head(major, small),
            Err(_) => {
                self.head(TAG, tag);
                let bytes = magnitude.to_be_bytes();
                let zeros = bytes.iter().take_while(|b| **b == 0).count();
                self.bytes(&bytes[zeros..]);
            }
        }
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        self.head(BYTES, bytes.len() as u64);
        self.out.extend_from_slice(bytes);
    }

    pub fn text(&mut self, text: &str) {
        self.head(TEXT, text.len() as u64);
        self.out.extend_from_slice(text.as_bytes());
    }

    pub fn bool(&mut self, value: bool) {
        self.out.push(if value { TRUE } else { FALSE });
    }

    pub fn null(&mut self) {
        self.out.push(NULL);
    }

    pub fn array(&mut self, len: usize) {
        self.head(ARRAY, len as u64);
    }

    pub fn map(&mut self, len: usize) {
        self.head(MAP, len as u64);
    }

    /// A map whose number of entries is known only afterwards: `write` returns it. At most 255.
    pub fn fields(&mut self, write: impl FnOnce(&mut Writer) -> u8) {
        let at = self.out.len();
        self.out.push(0);
        let count = write(self);
        if count < 24 {
            self.out[at] = MAP << 5 | count;
        } else {
            self.out[at] = MAP << 5 | 24;
            self.out.insert(at + 1, count);
        }
    }
}

/// Reads values one after the other, strictly.
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: u8,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes, at: 0, depth: 0 }
    }

    /// Where the next value starts.
    pub fn position(&self) -> usize {
        self.at
    }

    /// Nothing may follow.
    pub fn finish(self) -> Result<(), CborError> {
        match self.bytes.len() - self.at {
            0 => Ok(()),
            left => Err(CborError::Trailing(left)),
        }
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], CborError> {
        let end = self.at.checked_add(n).filter(|end| *end <= self.bytes.len()).ok_or(CborError::Truncated(self.at))?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn peek(&self) -> Result<u8, CborError> {
        self.bytes.get(self.at).copied().ok_or(CborError::Truncated(self.at))
    }

    fn head(&mut self, major: u8, expected: &'static str) -> Result<u64, CborError> {
        let at = self.at;
        let first = self.peek()?;
        if first >> 5 != major {
            return Err(CborError::Expected { expected, at });
        }
        self.at += 1;
        let (n, least) = match first & 31 {
            small @ 0..=23 => return Ok(u64::from(small)),
            24 => (u64::from(self.take(1)?[0]), 24),
            25 => (self.big_endian(2)?, 0x100),
            26 => (self.big_endian(4)?, 0x1_0000),
            27 => (self.big_endian(8)?, 0x1_0000_0000),
            _ => return Err(CborError::Expected { expected, at }),
        };
        if n < least { Err(CborError::NotShortest(at)) } else { Ok(n) }
    }

    fn big_endian(&mut self, n: usize) -> Result<u64, CborError> {
        Ok(self.take(n)?.iter().fold(0, |sum, b| sum << 8 | u64::from(*b)))
    }

    fn length(&mut self, major: u8, expected: &'static str) -> Result<usize, CborError> {
        let at = self.at;
        let n = self.head(major, expected)?;
        // Every element takes at least a byte, so a length beyond what is left is a lie.
        usize::try_from(n).ok().filter(|n| *n <= self.bytes.len() - self.at).ok_or(CborError::Truncated(at))
    }

    pub fn uint(&mut self) -> Result<u64, CborError> {
        self.head(UINT, "an unsigned integer")
    }

    /// Any integer up to 127 bits and a sign.
    pub fn int(&mut self) -> Result<i128, CborError> {
        let expected = "an integer";
        let at = self.at;
        match self.peek()? >> 5 {
            UINT => self.head(UINT, expected).map(i128::from),
            NEGATIVE => self.head(NEGATIVE, expected).map(|n| -1 - i128::from(n)),
            TAG => {
                let tag = self.head(TAG, expected)?;
                let bytes = self.bytes()?;
                if !matches!(tag, 2 | 3) || bytes.len() > 16 {
                    return Err(CborError::Expected { expected, at });
                }
                if bytes.len() <= 8 || bytes[0] == 0 {
                    return Err(CborError::NotShortest(at));
                }
                let magnitude = bytes.iter().fold(0u128, |sum, b| sum << 8 | u128::from(*b));
                let n = i128::try_from(magnitude).map_err(|_| CborError::Expected { expected, at })?;
                Ok(if tag == 2 { n } else { -1 - n })
            }
            _ => Err(CborError::Expected { expected, at }),
        }
    }

    pub fn bytes(&mut self) -> Result<&'a [u8], CborError> {
        let n = self.length(BYTES, "a byte string")?;
        self.take(n)
    }

    pub fn text(&mut self) -> Result<&'a str, CborError> {
        let n = self.length(TEXT, "a text")?;
        let at = self.at;
        std::str::from_utf8(self.take(n)?).map_err(|_| CborError::Utf8(at))
    }

    pub fn bool(&mut self) -> Result<bool, CborError> {
        let value = match self.peek()? {
            FALSE => false,
            TRUE => true,
            _ => return Err(CborError::Expected { expected: "a boolean", at: self.at }),
        };
        self.at += 1;
        Ok(value)
    }

    /// True, and past it, if the next value is null.
    pub fn null(&mut self) -> Result<bool, CborError> {
        let is = self.peek()? == NULL;
        self.at += usize::from(is);
        Ok(is)
    }

    fn nested<T, E: From<CborError>>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, E>) -> Result<T, E> {
        if self.depth == MAX_DEPTH {
            return Err(CborError::TooDeep.into());
        }
        self.depth += 1;
        let result = read(self);
        self.depth -= 1;
        result
    }

    /// Reads an array, `item` once per element.
    pub fn array<E: From<CborError>>(&mut self, mut item: impl FnMut(&mut Self) -> Result<(), E>) -> Result<(), E> {
        let n = self.length(ARRAY, "an array")?;
        self.nested(|r| (0..n).try_for_each(|_| item(r)))
    }

    /// Reads a map, `entry` once per key: it reads the key and its value. Key order is checked here.
    pub fn map<E: From<CborError>>(
        &mut self,
        key: impl Fn(&mut Self) -> Result<(), E>,
        mut entry: impl FnMut(&mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        let n = self.length(MAP, "a map")?;
        self.nested(|r| {
            let mut previous: Option<&'a [u8]> = None;
            for _ in 0..n {
                let start = r.at;
                key(r)?;
                let this = &r.bytes[start..r.at];
                if previous.is_some_and(|p| p >= this) {
                    return Err(CborError::KeyOrder(start).into());
                }
                previous = Some(this);
                r.at = start;
                entry(r)?;
            }
            Ok(())
        })
    }

    /// Reads a map with integer keys: `field` is given each key and reads its value.
    pub fn fields<E: From<CborError>>(
        &mut self,
        mut field: impl FnMut(u64, &mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        let skip_key = |r: &mut Self| r.uint().map(drop).map_err(E::from);
        self.map(skip_key, |r| {
            let key = r.uint()?;
            field(key, r)
        })
    }

    /// Passes one value of any kind, checking that it is deterministic.
    pub fn skip(&mut self) -> Result<(), CborError> {
        match self.peek()? >> 5 {
            UINT | NEGATIVE | TAG => self.int().map(drop),
            BYTES => self.bytes().map(drop),
            TEXT => self.text().map(drop),
            ARRAY => self.array(|r| r.skip()),
            MAP => self.map(|r| r.skip(), |r| r.skip().and_then(|()| r.skip())),
            _ if self.null()? => Ok(()),
            _ => self.bool().map(drop),
        }
    }
}

#[cfg(test)]
mod tests;
