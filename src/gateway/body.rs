//! Bodies: a request's, read whole within bounds of size, time and expansion; an answer's, handed on piece by piece.

use std::io::{self, Read};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use crate::domain::{Code, Refusal};

/// Pieces of an answer on their way to a caller who reads slowly; beyond, the upstream is not read on.
const PIECES: usize = 4;
/// A body of one piece up to this size is copied out of the connection's buffer.
const COPIED: usize = 4 * 1024;
/// A compressed body may grow by this factor; small ones by more.
const MAX_RATIO: u64 = 100;
const SMALL: u64 = 1024 * 1024;
/// What is still read of a body that was refused, so that the caller gets to read why.
const DISCARD_BYTES: usize = 64 * 1024 * 1024;
const DISCARD_TIME: Duration = Duration::from_secs(10);

/// How long a request body may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upload {
    /// It must move on within this time …
    pub idle: Duration,
    /// … and be there within this one, however steadily it trickles.
    pub whole: Duration,
}

impl Default for Upload {
    fn default() -> Upload {
        Upload { idle: Duration::from_secs(30), whole: Duration::from_secs(120) }
    }
}

/// The body of an answer.
pub enum Body {
    Whole(Bytes),
    /// Pieces from the task that carries the call.
    Pieces(mpsc::Receiver<Piece>),
}

/// A piece of an answer on its way to the caller. Small: each stream has room for a block of them.
pub enum Piece {
    Data(Bytes),
    Trailers(Box<HeaderMap>),
    /// Cuts the connection: the caller sees that the answer is not whole.
    Broken(Box<io::Error>),
}

impl Body {
    /// A body and the end that feeds it.
    pub fn pieces() -> (mpsc::Sender<Piece>, Body) {
        let (sender, receiver) = mpsc::channel(PIECES);
        (sender, Body::Pieces(receiver))
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &mut *self {
            Body::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Body::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Body::Pieces(receiver) => receiver.poll_recv(cx).map(|piece| {
                Some(match piece? {
                    Piece::Data(bytes) => Ok(Frame::data(bytes)),
                    Piece::Trailers(trailers) => Ok(Frame::trailers(*trailers)),
                    Piece::Broken(error) => Err(*error),
                })
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Body::Whole(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Body::Pieces(_) => SizeHint::default(),
        }
    }
}

/// A request's body: as it arrived, and readable.
#[derive(Clone, Debug, Default)]
pub struct RequestBody {
    pub raw: Bytes,
    /// Equal to `raw` unless the caller compressed it.
    pub decoded: Bytes,
}

/// Reads a request body of at most `limit` bytes, twice that once decompressed.
pub async fn read(body: Incoming, headers: &HeaderMap, limit: u64, upload: Upload) -> Result<RequestBody, Refusal> {
    let encoding = encoding(headers)?;
    let raw = collect(body, headers, limit, upload).await?;
    let Some(encoding) = encoding.filter(|_| !raw.is_empty()) else {
        return Ok(RequestBody { decoded: raw.clone(), raw });
    };
    let (compressed, most) = (raw.clone(), limit.saturating_mul(2));
    let decoded = tokio::task::spawn_blocking(move || decode(encoding, &compressed, most)).await;
    let decoded =
        decoded.map_err(|_| Refusal::new(Code::Malformed, "Weighbridge: the body could not be decompressed."))??;
    Ok(RequestBody { raw, decoded })
}

async fn collect(mut body: Incoming, headers: &HeaderMap, limit: u64, upload: Upload) -> Result<Bytes, Refusal> {
    let declared = headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<u64>().ok());
    if declared.is_some_and(|n| n > limit) {
        tokio::spawn(discard(body));
        return Err(too_large(limit));
    }
    let slow = || {
        let message = format!(
            "Weighbridge: the request body came too slowly: it must move on within {} s and be whole within {} s.",
            upload.idle.as_secs_f32(),
            upload.whole.as_secs_f32()
        );
        Refusal::new(Code::RequestTimeout, message)
    };
    let whole_by = Instant::now() + upload.whole;
    let mut first: Option<Bytes> = None;
    let mut rest = BytesMut::new();
    let mut size = 0u64;
    loop {
        let by = whole_by.min(Instant::now() + upload.idle);
        let frame = match timeout_at(by, body.frame()).await {
            Err(_) => return Err(slow()),
            Ok(None) => break,
            Ok(Some(Err(_))) => return Err(Refusal::new(Code::Malformed, "Weighbridge: the request body broke off.")),
            Ok(Some(Ok(frame))) => frame,
        };
        let Ok(data) = frame.into_data() else { continue };
        size += data.len() as u64;
        if size > limit {
            tokio::spawn(discard(body));
            return Err(too_large(limit));
        }
        // Most bodies are one piece, and a large one is not copied.
        match first.take() {
            None if rest.is_empty() => first = Some(data),
            None => rest.extend_from_slice(&data),
            Some(one) => {
                rest.reserve((declared.unwrap_or(0).min(limit) as usize).max(one.len() + data.len()));
                rest.extend_from_slice(&one);
                rest.extend_from_slice(&data);
            }
        }
    }
    Ok(match first {
        // A small one is part of the connection's read buffer, which would be kept for as long as the call lasts.
        Some(one) if one.len() <= COPIED => Bytes::copy_from_slice(&one),
        Some(one) => one,
        None => rest.freeze(),
    })
}

fn too_large(limit: u64) -> Refusal {
    let message =
        format!("Weighbridge: the request body is larger than the {} MiB allowed here.", limit / (1024 * 1024));
    Refusal::new(Code::TooLarge, message)
}

/// Reads on for a while what nobody wants: a client that is still sending would not see the answer otherwise.
async fn discard(mut body: Incoming) {
    let by = Instant::now() + DISCARD_TIME;
    let mut left = DISCARD_BYTES;
    while let Ok(Some(Ok(frame))) = timeout_at(by, body.frame()).await {
        let size = frame.data_ref().map_or(0, Bytes::len);
        if size > left {
            return;
        }
        left -= size;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Gzip,
    Zstd,
}

fn encoding(headers: &HeaderMap) -> Result<Option<Encoding>, Refusal> {
    let mut values = headers.get_all(CONTENT_ENCODING).iter();
    let text = match (values.next(), values.next()) {
        (None, _) => return Ok(None),
        (Some(value), None) => value.to_str().unwrap_or("?").trim().to_ascii_lowercase(),
        _ => "more than one".to_owned(),
    };
    match text.as_str() {
        "identity" | "" => Ok(None),
        "gzip" | "x-gzip" => Ok(Some(Encoding::Gzip)),
        "zstd" => Ok(Some(Encoding::Zstd)),
        _ => Err(Refusal::new(
            Code::UnsupportedEncoding,
            format!(
                "Weighbridge: request bodies come plain, gzip or zstd, not '{}'.",
                text.chars().take(40).collect::<String>()
            ),
        )),
    }
}

fn decode(encoding: Encoding, raw: &[u8], most: u64) -> Result<Bytes, Refusal> {
    let bound = most.min((raw.len() as u64).saturating_mul(MAX_RATIO).max(SMALL));
    let mut out = Vec::new();
    let read = match encoding {
        Encoding::Gzip => flate2::read::MultiGzDecoder::new(raw).take(bound + 1).read_to_end(&mut out),
        Encoding::Zstd => zstd::stream::read::Decoder::new(raw).and_then(|mut d| {
            // A frame may ask for a window of gigabytes; nobody who compresses a prompt does.
            d.window_log_max(27)?;
            d.take(bound + 1).read_to_end(&mut out)
        }),
    };
    if read.is_err() {
        let name = if encoding == Encoding::Gzip { "gzip" } else { "zstd" };
        return Err(Refusal::new(Code::Malformed, format!("Weighbridge: the body is not valid {name}.")));
    }
    if out.len() as u64 > bound {
        return Err(Refusal::new(
            Code::TooLarge,
            "Weighbridge: the decompressed body is larger than allowed (64 MiB, and 100 times what was sent).",
        ));
    }
    Ok(Bytes::from(out))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut e = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        e.write_all(data).unwrap();
        e.finish().unwrap()
    }

    #[test]
    fn compressed_bodies_come_back_whole() {
        let text = br#"{"model":"m"}"#;
        assert_eq!(decode(Encoding::Gzip, &gzip(text), 1000).unwrap(), &text[..]);
        let z = zstd::stream::encode_all(&text[..], 3).unwrap();
        assert_eq!(decode(Encoding::Zstd, &z, 1000).unwrap(), &text[..]);
    }

    #[test]
    fn bombs_and_damage_are_refused() {
        let zeros = vec![0u8; 40 * 1024 * 1024];
        assert_eq!(decode(Encoding::Gzip, &gzip(&zeros), 64 << 20).err().unwrap().code, Code::TooLarge);
        let z = zstd::stream::encode_all(&zeros[..], 3).unwrap();
        assert_eq!(decode(Encoding::Zstd, &z, 64 << 20).err().unwrap().code, Code::TooLarge);
        assert_eq!(decode(Encoding::Gzip, b"nonsense", 1000).err().unwrap().code, Code::Malformed);
        assert_eq!(decode(Encoding::Zstd, b"nonsense", 1000).err().unwrap().code, Code::Malformed);
    }

    #[test]
    fn encodings_we_cannot_read_are_named() {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_ENCODING, "br".parse().unwrap());
        let refusal = encoding(&headers).err().unwrap();
        assert_eq!(refusal.code, Code::UnsupportedEncoding);
        assert!(refusal.message.contains("'br'"));
        headers.insert(CONTENT_ENCODING, "GZIP".parse().unwrap());
        assert_eq!(encoding(&headers).unwrap(), Some(Encoding::Gzip));
    }
}
