//! Webhooks and chats: JSON posted to a URL, resolved once and connected to where it was looked at, without redirects.
//!
//! A generic webhook is signed as Standard Webhooks has it: `webhook-id`, `webhook-timestamp` (seconds) and
//! `webhook-signature: v1,` with the base64 of HMAC-SHA-256 over `id.timestamp.body`. A secret that begins with `whsec_` is
//! base64 behind it, any other is taken as it is. All posts carry `webhook-id`, so that a repetition is known as one.

use aws_lc_rs::hmac;
use bytes::Bytes;
use data_encoding::BASE64;
use http::{Method, Request, StatusCode, header};
use http_body_util::Full;
use serde_json::{Value, json};

use crate::control::Address;
use crate::domain::Money;
use crate::domain::notify::{ChannelKind, Notify};
use crate::gateway::connect::Clients;

use super::{Message, NotSent, Part};

/// What a post looks like to its receiver.
const USER_AGENT: &str = concat!("weighbridge/", env!("CARGO_PKG_VERSION"));

pub async fn send(clients: &Clients, channel: &Notify, address: &Address, message: &Message) -> Result<(), NotSent> {
    let request = request(channel, address, message)?;
    let client = clients.of(channel.internal, request.uri()).map_err(NotSent::because)?;
    // The words of the error name hosts at most; the path of a URL, which may be a secret, is in none of them.
    let answer = client.request(request).await.map_err(|e| NotSent::because(cause(&e)))?;
    let status = answer.status();
    if status.is_success() {
        return Ok(());
    }
    let retry_after = answer.headers().get(header::RETRY_AFTER).and_then(|v| v.to_str().ok()?.parse().ok());
    Err(NotSent { for_good: status == StatusCode::GONE, retry_after, ..NotSent::because(format!("answered {status}")) })
}

fn cause(error: &dyn std::error::Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    format!("not reached: {inner}")
}

fn request(channel: &Notify, address: &Address, message: &Message) -> Result<Request<Full<Bytes>>, NotSent> {
    let bad = || NotSent { for_good: true, ..NotSent::because("its URL is none") };
    let uri: http::Uri = address.url.as_deref().unwrap_or_default().parse().map_err(|_| bad())?;
    if !matches!(uri.scheme_str(), Some("https" | "http")) || uri.host().is_none() {
        return Err(bad());
    }
    let body = match channel.kind {
        ChannelKind::Slack => slack(message),
        ChannelKind::Teams => teams(message),
        ChannelKind::Mattermost => mattermost(message),
        _ => plain(message),
    };
    let body = body.to_string();
    let seconds = message.at.0.div_euclid(1_000_000);
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(uri)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::USER_AGENT, USER_AGENT)
        .header("webhook-id", &message.id)
        .header("webhook-timestamp", seconds);
    if let (ChannelKind::Webhook, Some(secret)) = (channel.kind, &address.secret) {
        request = request.header("webhook-signature", signature(secret, &message.id, seconds, &body));
    }
    request.body(Full::from(body)).map_err(|_| bad())
}

/// `v1,` and the base64 of the HMAC.
pub fn signature(secret: &str, id: &str, seconds: i64, body: &str) -> String {
    let decoded = secret.strip_prefix("whsec_").and_then(|rest| BASE64.decode(rest.as_bytes()).ok());
    let key = hmac::Key::new(hmac::HMAC_SHA256, decoded.as_deref().unwrap_or(secret.as_bytes()));
    let tag = hmac::sign(&key, format!("{id}.{seconds}.{body}").as_bytes());
    format!("v1,{}", BASE64.encode(tag.as_ref()))
}

/// The generic webhook.
fn plain(message: &Message) -> Value {
    json!({
        "type": if message.test { "alert.test" } else { "alert.raised" },
        "id": message.id,
        "timestamp": message.at,
        "organisation": message.organisation,
        "alerts": message.parts.iter().map(alert).collect::<Vec<_>>(),
    })
}

fn alert(part: &Part) -> Value {
    let a = &part.alert;
    let text = |t: &str| (!t.is_empty()).then(|| t.to_owned());
    let mut all = json!({
        "id": part.id,
        "kind": a.kind,
        "budget": text(&a.budget),
        "period": text(&a.period),
        "raised_at": part.raised_at,
        "title": part.words.title,
        "text": part.words.text,
        "url": part.words.url,
    });
    let unit = if a.kind == "key_expiry" { "days" } else { "percent" };
    if let Some(threshold) = a.threshold {
        all[format!("threshold_{unit}")] = threshold.into();
    }
    if let Some(key) = &a.subject {
        all["key"] = key.as_str().into();
    }
    if let Some(due) = a.due {
        all["ends_at"] = due.to_string().into();
    }
    for (name, amount) in [("used", a.used), ("limit", a.limit), ("forecast", a.foreseen)] {
        match amount {
            Some(n) if part.words.in_money => all[format!("{name}_usd")] = Money(n).to_string().into(),
            // Tokens and calls of a budget are far below what a number of JSON can say exactly.
            Some(n) => all[name] = n.to_string().parse::<serde_json::Number>().map_or(Value::Null, Value::Number),
            None => {}
        }
    }
    all
}

fn summary(message: &Message) -> String {
    match message.parts.as_slice() {
        [one] => one.words.title.clone(),
        all => format!("{} alerts from Weighbridge", all.len()),
    }
}

fn slack(message: &Message) -> Value {
    let escape = |t: &str| t.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let block = |part: &Part| {
        let w = &part.words;
        let text = format!("*{}*\n{}\n<{}|Look at it>", escape(&w.title), escape(&w.text), w.url);
        json!({ "type": "section", "text": { "type": "mrkdwn", "text": text } })
    };
    json!({ "text": escape(&summary(message)), "blocks": message.parts.iter().map(block).collect::<Vec<_>>() })
}

fn teams(message: &Message) -> Value {
    let mut body = vec![json!({
        "type": "TextBlock", "text": summary(message), "weight": "Bolder", "size": "Medium", "wrap": true
    })];
    for part in &message.parts {
        let w = &part.words;
        if message.parts.len() > 1 {
            body.push(json!({ "type": "TextBlock", "text": w.title, "weight": "Bolder", "wrap": true }));
        }
        let text = format!("{} [Look at it]({})", w.text, w.url);
        body.push(json!({ "type": "TextBlock", "text": text, "wrap": true }));
    }
    let card = json!({
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json", "type": "AdaptiveCard", "version": "1.4", "body": body
    });
    json!({
        "type": "message",
        "attachments": [{ "contentType": "application/vnd.microsoft.card.adaptive", "content": card }],
    })
}

fn mattermost(message: &Message) -> Value {
    let line = |part: &Part| {
        let w = &part.words;
        format!("**{}**\n{} [Look at it]({})", w.title, w.text, w.url)
    };
    json!({ "username": "Weighbridge", "text": message.parts.iter().map(line).collect::<Vec<_>>().join("\n\n") })
}
