//! Handing the answer on as it arrives, and reading it while it passes.
//!
//! Nothing is held back but the last event (or the last piece of a plain body), which waits for the settlement to be
//! durable. Memory per call is a few pieces: a caller who reads slowly slows the upstream down. When the upstream breaks
//! off inside a stream, the caller gets the dialect's error event, because a stream that just stops looks like success.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::dialect::{End, Observation, Progress, ResponseHead, Tap};
use crate::domain::catalogue::OnClientAbort;
use crate::domain::{Code, Money, Refusal};
use crate::store::Ledger;

use super::authorize::{Granted, LONGEST_CALL_S};
use super::body::{Body, Piece};
use super::classify::Asked;
use super::cover::Cover;
use super::flight::{Flight, Flying};
use super::forward::{NoAnswer, upstream_unavailable};
use super::headers;
use super::names;
use super::refuse::{Refused, put, set};
use super::settle::Ending;
use super::snapshot::Snapshot;
use super::ticket::Ticket;
use super::{Gateway, Ready};

/// How long an upstream is read on for its usage after its caller left.
const DRAIN: Duration = Duration::from_secs(30);
/// What may still follow the last event of a stream, and for how long.
const REST_BYTES: usize = 64 * 1024;
const REST_TIME: Duration = Duration::from_secs(5);

type Reply = oneshot::Sender<Result<Response<Body>, Refused>>;
type Out = mpsc::Sender<Piece>;

/// A call on the bridge: everything its settlement needs.
pub(super) struct Crossing {
    pub gateway: Gateway,
    pub snapshot: Arc<Snapshot>,
    pub ticket: Arc<Ticket>,
    pub asked: Box<Asked>,
    pub granted: Granted,
    pub flight: Flying,
    /// When it was sent on.
    pub forwarded_at: Instant,
}

impl Gateway {
    /// Authorizes, forwards, observes and settles one call. Runs to its end whatever the caller does.
    pub(super) async fn run(self, snapshot: Arc<Snapshot>, ticket: Arc<Ticket>, call: Ready, reply: Reply) {
        let Ready { mut asked, listing, place: _place } = call;
        let granted = match self.authorize(&snapshot, &ticket, &mut asked).await {
            Ok(granted) => granted,
            Err(refused) => return drop(reply.send(Err(refused))),
        };
        let headers = std::mem::take(&mut asked.headers);
        let flight = self.inner.in_flight.enter(&snapshot, &ticket, &asked, &granted.admitted);
        // A pause that came after the admission may have looked for calls to cut before this one was in: whichever of the
        // two comes second sees the other.
        let catalogue = self.inner.ledger.catalogue();
        if catalogue.revision != snapshot.catalogue.revision {
            flight.cut_by(&catalogue, self.now());
        }
        let forwarded_at = Instant::now();
        let crossing = Crossing { gateway: self, snapshot, ticket, asked, granted, flight, forwarded_at };
        match listing {
            Some(listing) => Box::pin(crossing.answer_listing(listing, reply)).await,
            None => crossing.cross(headers, reply).await,
        }
    }
}

impl Crossing {
    /// A list of models is answered from here and recorded like any other call.
    async fn answer_listing(&self, listing: Bytes, reply: Reply) {
        let ending = Ending { status: Some(200), ..Ending::default() };
        let answer = match self.settle(&mut Observation::default(), &ending).await {
            Ok(cost) => {
                let mut response = Response::new(Body::Whole(listing));
                put(response.headers_mut(), "content-type", "application/json");
                self.explain(response.headers_mut(), cost);
                Ok(response)
            }
            Err(_) => Err(super::authorize::journal_unavailable()),
        };
        let _ = reply.send(answer);
    }

    async fn cross(&self, headers: HeaderMap, mut reply: Reply) {
        let secret = self.snapshot.secret(&self.asked.provider.id);
        let answer = {
            let sent = self.gateway.forward(&self.asked, headers, &self.granted.edit, secret.as_deref());
            let mut forward = std::pin::pin!(sent);
            tokio::select! {
                answer = &mut forward => Some(answer),
                () = self.flight.stopped() => None,
                // The caller left before the answer began: read on or let go, as the provider's setting says.
                () = reply.closed() => match self.drain_place() {
                    Some(_place) => timeout(DRAIN, forward).await.ok(),
                    None => None,
                },
            }
        };
        match answer {
            Some(Ok(response)) => self.pass(response, secret, reply).await,
            Some(Err(no_answer)) => Box::pin(self.no_answer(no_answer, reply)).await,
            None => {
                let ending = Ending { end: End::CallerLeft, caller_left: true, sent: true, ..Ending::default() };
                let settled = Box::pin(self.settle(&mut Observation::default(), &ending)).await;
                // A caller who left does not miss the answer.
                let _ = reply.send(Err(self.refusal_of_the_end(settled.is_ok())));
            }
        }
    }

    /// What the caller of a call that somebody ended is told.
    fn refusal_of_the_end(&self, settled: bool) -> Refused {
        match self.flight.stopped_by().filter(|_| settled) {
            Some(why) => Refused { reached: true, ..Refused::recorded(why.clone()) },
            None => super::authorize::journal_unavailable(),
        }
    }

    async fn no_answer(&self, no_answer: NoAnswer, reply: Reply) {
        let NoAnswer { sent, reason } = no_answer;
        tracing::warn!(call = %self.ticket.id, provider = %self.asked.provider.id, sent, reason, "no answer from the provider");
        let ending = Ending { end: End::UpstreamDied, sent, caller_left: reply.is_closed(), ..Ending::default() };
        let settled = self.settle(&mut Observation::default(), &ending).await;
        let refused = match settled {
            Ok(_) => Refused { reached: sent, ..upstream_unavailable(&self.asked.provider.id) },
            Err(_) => super::authorize::journal_unavailable(),
        };
        let _ = reply.send(Err(refused));
    }

    /// Passes an answer on, settles it, and lets its end go.
    async fn pass(&self, response: Response<Incoming>, secret: Option<Arc<SecretString>>, reply: Reply) {
        let (head, upstream) = response.into_parts();
        let status = head.status.as_u16();
        let drop_usage = self.granted.edit.include_usage;
        let response_head = ResponseHead { status, headers: &head.headers };
        let mut tap = self.asked.dialect.tap(&self.asked.facts, &response_head, drop_usage);
        let events =
            head.headers.get(header::CONTENT_TYPE).is_some_and(|v| v.as_bytes().starts_with(b"text/event-stream"));
        let mut answer = Response::new(Body::Whole(Bytes::new()));
        *answer.status_mut() = head.status;
        *answer.headers_mut() = self.answer_headers(&head.headers, events || (drop_usage && status < 300));

        let mut flow = Flow {
            upstream,
            head: Some((reply, answer)),
            out: None,
            redact: (status >= 400).then(|| secret.and_then(Redactor::new)).flatten(),
            cover: self.granted.cover.clone(),
            ledger: self.gateway.inner.ledger.clone(),
            idle: Duration::from_secs(self.asked.provider.idle_timeout_s.max(1).into()),
            longest: Duration::from_secs(LONGEST_CALL_S as u64),
            started: self.forwarded_at,
            first_byte: None,
            last_byte: None,
        };
        // The head of a stream is news by itself; that of a plain answer goes with its first bytes, in one packet.
        if events {
            flow.begin();
        }
        let mut stop = flow.pump(tap.as_mut(), &self.flight).await;
        let caller_left = stop == Stop::CallerLeft;
        if caller_left && let Some(_place) = self.drain_place() {
            stop = flow.drain(tap.as_mut()).await;
        }
        let end = match stop {
            Stop::Last | Stop::Complete => End::Complete,
            Stop::UpstreamDied => End::UpstreamDied,
            Stop::CallerLeft | Stop::Stopped => End::CallerLeft,
        };
        let mut observation = tap.finish(end);
        let ending = Ending {
            end,
            caller_left: caller_left || stop == Stop::Stopped,
            sent: true,
            status: Some(status),
            provider_request_id: request_id(&head.headers),
            first_byte: flow.first_byte,
        };
        let settled = self.settle(&mut observation, &ending).await;
        drop(observation);
        if !caller_left {
            self.let_go(flow, tap.as_mut(), stop, events, settled.ok()).await;
        }
    }

    /// The end of the answer, now that it is settled. `settled` is absent where it could not be: then the caller must not
    /// see an end.
    async fn let_go(
        &self,
        mut flow: Flow,
        tap: &mut dyn Tap,
        stop: Stop,
        events: bool,
        settled: Option<Option<Money>>,
    ) {
        let Some(cost) = settled else {
            if let Some((reply, _)) = flow.head.take() {
                return drop(reply.send(Err(super::authorize::journal_unavailable())));
            }
            let broken = io::Error::other("the journal cannot be written");
            return flow.put(Piece::Broken(Box::new(broken))).await;
        };
        if stop == Stop::Stopped {
            return self.break_off(flow, events).await;
        }
        let mut pass = Vec::new();
        tap.release(&mut pass);
        if stop == Stop::UpstreamDied && !events && flow.head.is_some() {
            let id = &self.asked.provider.id;
            let message =
                format!("Weighbridge: provider '{id}' broke off inside its answer. What it did is on the record.");
            return flow.refuse(Refused {
                reached: true,
                ..Refused::recorded(Refusal::new(Code::UpstreamUnavailable, message))
            });
        }
        if stop == Stop::Complete && !self.ticket.trailers && flow.head.is_some() {
            return flow.whole(pass, cost);
        }
        if flow.send(&mut pass).await.is_err() {
            return;
        }
        flow.begin();
        match stop {
            Stop::UpstreamDied if events => {
                let message =
                    format!("Weighbridge: provider '{}' broke off inside the stream.", self.asked.provider.id);
                self.cut(&mut flow, &Refusal::new(Code::UpstreamUnavailable, message)).await;
            }
            Stop::UpstreamDied => {
                flow.put(Piece::Broken(Box::new(io::Error::other("the provider broke off")))).await;
                return;
            }
            Stop::Last => flow.rest().await,
            Stop::Complete | Stop::CallerLeft | Stop::Stopped => {}
        }
        flow.finish_redaction().await;
        if self.ticket.trailers
            && let Some(cost) = cost
        {
            let mut trailers = HeaderMap::new();
            set(&mut trailers, &names::COST, cost.to_string());
            flow.put(Piece::Trailers(Box::new(trailers))).await;
        }
    }

    /// Tells the caller that somebody ended the call: in an answer, if none has begun, in the stream's own event, or, where
    /// a plain answer has begun, by an end that cannot be taken for one.
    async fn break_off(&self, mut flow: Flow, events: bool) {
        let refused = self.refusal_of_the_end(true);
        if flow.head.is_some() {
            flow.refuse(refused);
        } else if events {
            self.cut(&mut flow, &refused.refusal).await;
            flow.finish_redaction().await;
        } else {
            flow.put(Piece::Broken(Box::new(io::Error::other("an operator stopped the call")))).await;
        }
    }

    /// Ends a running stream with the dialect's error event.
    async fn cut(&self, flow: &mut Flow, refusal: &Refusal) {
        // An event that was cut in half is ended first, so that ours is read as one of its own.
        let gap: &'static [u8] = match flow.last_byte {
            None => b"",
            Some(b'\n') => b"\n",
            Some(_) => b"\n\n",
        };
        let event = self.asked.dialect.cut(&self.asked.facts, refusal, self.ticket.client);
        let _ = flow.send(&mut vec![Bytes::from_static(gap), event]).await;
    }

    /// The answer's head. Its length is passed on unless bytes may change: of events one may be dropped, or an error added.
    fn answer_headers(&self, upstream: &HeaderMap, may_change: bool) -> HeaderMap {
        let mut headers = headers::to_caller(upstream);
        if !self.ticket.trailers {
            if let Some(length) = upstream.get(header::CONTENT_LENGTH).filter(|_| !may_change) {
                headers.insert(header::CONTENT_LENGTH, length.clone());
            }
        } else {
            headers.insert(header::TRAILER, HeaderValue::from_static("wb-cost-usd"));
        }
        self.explain(&mut headers, None);
        headers
    }

    /// Our own headers on an answer.
    fn explain(&self, headers: &mut HeaderMap, cost: Option<Money>) {
        set(headers, &names::REQUEST_ID, self.ticket.id.to_string());
        headers.insert(&names::CACHE, HeaderValue::from_static("miss"));
        if let Some(cost) = cost {
            set(headers, &names::COST, cost.to_string());
        }
        let admitted = &self.granted.admitted;
        if let Some(remaining) = admitted.remaining {
            set(headers, &names::REMAINING, remaining.to_string());
        }
        if let Some((budget, percent)) = &admitted.warning {
            set(headers, &names::WARNING, format!("{budget}; used={percent}%"));
        }
        if let Some(limit) = admitted.output_limit {
            set(headers, &names::OUTPUT_LIMIT, limit.to_string());
        }
        if !self.ticket.warnings.is_empty() {
            set(headers, &names::POLICY_WARNING, self.ticket.warnings.join(", "));
        }
        if let Some(down) = &self.ticket.downgraded {
            let asked = self.ticket.model.as_deref().unwrap_or_default();
            let policy = down.by.strip_prefix("policy:").unwrap_or(&down.by);
            set(
                headers,
                &names::DOWNGRADED,
                format!("{asked} -> {}; policy={policy}; budget={}", down.to, down.budget),
            );
        }
    }

    /// A place among those read on without a caller, where the provider's setting asks for it.
    fn drain_place(&self) -> Option<tokio::sync::OwnedSemaphorePermit> {
        let drain = self.asked.provider.on_client_abort == OnClientAbort::Drain;
        drain.then(|| self.gateway.inner.drains.clone().try_acquire_owned().ok()).flatten()
    }
}

/// Why passing on stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// The last event has been read and is held back.
    Last,
    /// The body ended.
    Complete,
    UpstreamDied,
    CallerLeft,
    /// Somebody ended the call: [`Flight::stopped_by`] says why.
    Stopped,
}

/// The bytes on their way.
struct Flow {
    upstream: Incoming,
    /// The head of the answer and who waits for it, until the first bytes go.
    head: Option<(Reply, Response<Body>)>,
    /// Where its bytes go, once the head has gone: most plain answers go whole and need no channel.
    out: Option<Out>,
    redact: Option<Redactor>,
    /// Of a stream that holds less than its upper bound.
    cover: Option<Box<Cover>>,
    ledger: Ledger,
    idle: Duration,
    longest: Duration,
    started: Instant,
    first_byte: Option<Instant>,
    /// The last byte the caller was sent.
    last_byte: Option<u8>,
}

impl Flow {
    async fn pump(&mut self, tap: &mut dyn Tap, flight: &Flight) -> Stop {
        let mut pass = Vec::new();
        let mut stopped = std::pin::pin!(flight.stopped());
        loop {
            if flight.stopped_by().is_some() {
                return Stop::Stopped;
            }
            let wait = self.idle.min(self.longest.saturating_sub(self.started.elapsed()));
            let frame = tokio::select! {
                biased;
                () = gone(&mut self.head, &self.out) => return Stop::CallerLeft,
                frame = timeout(wait, self.upstream.frame()) => frame,
                () = stopped.as_mut() => return Stop::Stopped,
            };
            let data = match frame {
                Ok(None) => return Stop::Complete,
                Ok(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => data,
                    Err(_trailers) => continue,
                },
                Ok(Some(Err(_))) | Err(_) => return Stop::UpstreamDied,
            };
            self.first_byte.get_or_insert_with(Instant::now);
            let progress = tap.feed(data, &mut pass);
            let so_far = tap.output_so_far();
            flight.passed(so_far);
            // What a budget does not afford is still passed on as far as it has come: it is paid for.
            if progress != Progress::Last
                && let Err(refusal) = self.hold_on(so_far).await
            {
                flight.stop(refusal);
            }
            let sent = tokio::select! {
                biased;
                sent = self.send(&mut pass) => sent,
                () = stopped.as_mut() => {
                    // Where the caller's bytes end is not known now: an empty line more does no harm.
                    self.last_byte = Some(0);
                    return Stop::Stopped;
                }
            };
            if sent.is_err() {
                return Stop::CallerLeft;
            }
            if progress == Progress::Last {
                return Stop::Last;
            }
        }
    }

    /// Holds more where what has passed so far comes near what is held.
    async fn hold_on(&mut self, so_far: u64) -> Result<(), Refusal> {
        match &mut self.cover {
            // Rare, so it does not make every call's task larger.
            Some(cover) => Box::pin(cover.extend(&self.ledger, so_far)).await,
            None => Ok(()),
        }
    }

    /// Lets the head of the answer go.
    fn begin(&mut self) {
        if let Some((reply, mut answer)) = self.head.take() {
            let (out, body) = Body::pieces();
            *answer.body_mut() = body;
            self.out = Some(out);
            // Who waited may have left: the pump notices.
            let _ = reply.send(Ok(answer));
        }
    }

    /// Answers with an error instead: nothing has gone to the caller yet.
    fn refuse(&mut self, refused: Refused) {
        if let Some((reply, _)) = self.head.take() {
            let _ = reply.send(Err(refused));
        }
    }

    /// The whole answer at once, where its end came before anything had to go: then its cost is known to its head.
    fn whole(&mut self, pieces: Vec<Bytes>, cost: Option<Money>) {
        let Some((reply, mut answer)) = self.head.take() else { return };
        let mut body = match <[Bytes; 1]>::try_from(pieces) {
            Ok([one]) => one,
            Err(pieces) => pieces.concat().into(),
        };
        if let Some(mut redact) = self.redact.take() {
            body = [redact.feed(&body), redact.finish()].concat().into();
        }
        *answer.body_mut() = Body::Whole(body);
        if let Some(cost) = cost {
            set(answer.headers_mut(), &names::COST, cost.to_string());
        }
        let _ = reply.send(Ok(answer));
    }

    /// Reads on without a caller, for the usage at the end.
    async fn drain(&mut self, tap: &mut dyn Tap) -> Stop {
        let by = tokio::time::Instant::now() + DRAIN;
        let mut pass = Vec::new();
        loop {
            match tokio::time::timeout_at(by, self.upstream.frame()).await {
                Err(_) => return Stop::CallerLeft,
                Ok(None) => return Stop::Complete,
                Ok(Some(Err(_))) => return Stop::UpstreamDied,
                Ok(Some(Ok(frame))) => {
                    let Ok(data) = frame.into_data() else { continue };
                    let progress = tap.feed(data, &mut pass);
                    pass.clear();
                    if progress == Progress::Last {
                        return Stop::Last;
                    }
                    if self.hold_on(tap.output_so_far()).await.is_err() {
                        return Stop::CallerLeft;
                    }
                }
            }
        }
    }

    /// Whatever follows the last event: nothing, or a blank line. It is settled and no longer weighed, so there is little
    /// patience for it: a provider that goes on is not listened to.
    async fn rest(&mut self) {
        let by = tokio::time::Instant::now() + REST_TIME;
        let mut left = REST_BYTES;
        while let Ok(Some(Ok(frame))) = tokio::time::timeout_at(by, self.upstream.frame()).await {
            let Ok(data) = frame.into_data() else { continue };
            let Some(rest) = left.checked_sub(data.len()) else { return };
            left = rest;
            if self.send(&mut vec![data]).await.is_err() {
                return;
            }
        }
    }

    /// Hands pieces to the caller, who has as long to take each as the provider has to send one.
    async fn send(&mut self, pass: &mut Vec<Bytes>) -> Result<(), CallerGone> {
        for piece in pass.drain(..) {
            let piece = match &mut self.redact {
                Some(redact) => redact.feed(&piece),
                None => piece,
            };
            let Some(last) = piece.last() else { continue };
            self.last_byte = Some(*last);
            self.begin();
            let Some(out) = &self.out else { return Err(CallerGone) };
            // There is room but for a caller who reads slowly: only he is waited for.
            match out.try_send(Piece::Data(piece)) {
                Ok(()) => {}
                Err(TrySendError::Closed(_)) => return Err(CallerGone),
                Err(TrySendError::Full(piece)) => match timeout(self.idle, out.send(piece)).await {
                    Ok(Ok(())) => {}
                    _ => return Err(CallerGone),
                },
            }
        }
        Ok(())
    }

    /// Hands on what ends the answer; a caller who left does not miss it.
    async fn put(&mut self, piece: Piece) {
        if let Some(out) = &self.out {
            let _ = out.send(piece).await;
        }
    }

    async fn finish_redaction(&mut self) {
        if let Some(rest) = self.redact.take().map(Redactor::finish).filter(|rest| !rest.is_empty()) {
            self.put(Piece::Data(rest)).await;
        }
    }
}

/// Waits until the caller is gone: whoever waits for the head, or reads the body.
async fn gone(head: &mut Option<(Reply, Response<Body>)>, out: &Option<Out>) {
    match (head, out) {
        (Some((reply, _)), _) => reply.closed().await,
        (None, Some(out)) => out.closed().await,
        (None, None) => {}
    }
}

/// The caller hung up, or stopped reading.
struct CallerGone;

/// Blots the provider's credential out of error bodies, where some providers quote it. Length and all other bytes stay.
struct Redactor {
    secret: Arc<SecretString>,
    held: Vec<u8>,
}

impl Redactor {
    fn new(secret: Arc<SecretString>) -> Option<Redactor> {
        (secret.expose_secret().len() >= 8).then(|| Redactor { secret, held: Vec::new() })
    }

    fn feed(&mut self, piece: &[u8]) -> Bytes {
        self.held.extend_from_slice(piece);
        let needle = self.secret.expose_secret().as_bytes();
        while let Some(at) = memchr::memmem::find(&self.held, needle) {
            self.held[at..at + needle.len()].fill(b'*');
        }
        let pass = self.held.len().saturating_sub(needle.len() - 1);
        Bytes::from(self.held.drain(..pass).collect::<Vec<u8>>())
    }

    fn finish(self) -> Bytes {
        Bytes::from(self.held)
    }
}

fn request_id(headers: &HeaderMap) -> Option<String> {
    let names = [&names::X_REQUEST_ID, &names::PLAIN_REQUEST_ID, &names::APIM_REQUEST_ID, &names::GENERATION_ID];
    let value = names.into_iter().find_map(|n| headers.get(n)).and_then(|v| v.to_str().ok())?;
    Some(value.chars().take(128).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quoted_credential_is_blotted_out_however_it_is_split() {
        let secret = Arc::new(SecretString::from("sk-live-1234567890"));
        let text = b"{\"error\":\"bad key sk-live-1234567890 given\"}";
        for at in 0..text.len() {
            let mut redactor = Redactor::new(secret.clone()).unwrap();
            let mut out = redactor.feed(&text[..at]).to_vec();
            out.extend_from_slice(&redactor.feed(&text[at..]));
            out.extend_from_slice(&redactor.finish());
            assert_eq!(out, b"{\"error\":\"bad key ****************** given\"}", "{at}");
        }
    }
}
