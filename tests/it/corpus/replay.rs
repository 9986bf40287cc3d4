//! A local provider that answers with recordings, and the calls that ask for them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::PathBuf;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use weighbridge::control::default_price_list;
use weighbridge::domain::catalogue::{OnClientAbort, Provider};
use weighbridge::domain::{Call, Change, Outcome};

use crate::support::upstream::{Step, chunk, json as json_answer, last_chunk};
use crate::support::{Answer, PROVIDER_KEY, TestApp, declare};

/// The surfaces that this version reads.
const SURFACES: [&str; 27] = [
    "openai.chat",
    "openai.responses",
    "openai.responses.retrieve",
    "openai.completions",
    "embeddings",
    "anthropic.messages",
    "anthropic.complete",
    "anthropic.count_tokens",
    "gemini.generateContent",
    "gemini.embed",
    "gemini.countTokens",
    "gemini.interactions",
    "vertex.predict",
    "bedrock.converse",
    "bedrock.invoke",
    "bedrock.countTokens",
    "bedrock.guardrail",
    "cohere.chat",
    "cohere.embed",
    "ollama.chat",
    "rerank",
    "images",
    "audio.transcriptions",
    "audio.speech",
    "ocr",
    "moderations",
    "openai.count_tokens",
];

/// The rows of a file of the corpus that came over HTTP and are read, or none where the shared data is not there (an
/// error under `CI`).
pub fn rows(file: &str) -> Vec<Value> {
    let root = std::env::var_os("WEIGHBRIDGE_SHARED")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared"), PathBuf::from);
    let path = root.join("corpus").join(file);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) => {
            assert!(std::env::var_os("CI").is_none(), "{}: {error}", path.display());
            eprintln!("skipped: {}: {error}", path.display());
            return Vec::new();
        }
    };
    let rows = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    rows.filter(|row| row["transport"] == "http" && SURFACES.iter().any(|s| row["surface"] == *s)).collect()
}

/// How the provider ends an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// As HTTP says: the body that there is, is whole.
    Whole,
    /// The connection breaks.
    Broken,
}

/// What a call gave.
pub struct Passed {
    pub call: Call,
    pub answer: Answer,
    /// The body as the provider sent it.
    pub sent: Vec<u8>,
    /// The request was changed on its way: `stream_options.include_usage` was added.
    pub edited: bool,
    /// The request was the recorded one, nothing left out.
    pub recorded_request: bool,
    /// Something was generated before the answer ended.
    pub generated: bool,
}

/// A gateway with a `[[provider]]` for each provider of the recordings.
pub struct Replay {
    pub app: TestApp,
    seed: u64,
}

impl Replay {
    pub async fn start(rows: &[Value]) -> Replay {
        let app = TestApp::start().await;
        let ids: BTreeSet<(String, &str)> = rows.iter().map(|row| (provider(row), dialect(row))).collect();
        let catalogue = app.ledger().catalogue();
        let changes = ids.iter().zip(10..).map(|((id, dialect), position)| {
            let price_as = match id.as_str() {
                "google-gemini" | "google-vertex" | "google-gemini-openai" => "google".to_owned(),
                "ollama-openai" => "ollama".to_owned(),
                "bedrock-mantle" => "aws".to_owned(),
                "anthropic-openai" => "anthropic".to_owned(),
                id => default_price_list(&catalogue, id, dialect),
            };
            let provider = Provider {
                id: id.clone(),
                dialect: (*dialect).to_owned(),
                base_url: app.upstream.url(),
                internal: true,
                models: Vec::new(),
                price_as,
                idle_timeout_s: 20,
                on_client_abort: OnClientAbort::Cancel,
                position,
                region: None,
            };
            Change::Provider(id.clone(), Some(provider))
        });
        declare(app.ledger(), changes.collect()).await;
        let now = app.ledger().clock().now();
        for (id, _) in &ids {
            app.ledger().core().put_secret(&format!("provider/{id}"), &PROVIDER_KEY.into(), now).unwrap();
        }
        Replay { app, seed: 20_261_123 }
    }

    /// Sends a row's request; the provider answers with its recording.
    pub async fn call(&mut self, row: &Value, ending: Ending) -> Passed {
        let recorded = &row["request"];
        let (sent, steps) = self.answer(row, ending);
        self.app.upstream.next(steps);
        // The recorder put words in angle brackets in the place of what it left out.
        let recorded_path = recorded["path"].as_str().unwrap().replace(['<', '>'], "");
        let mut path = format!("/{}{recorded_path}", provider(row));
        if let Some(query) = recorded["query"].as_str().filter(|query| !query.is_empty()) {
            path = format!("{path}?{query}");
        }
        let (body, mut recorded_request) = request(row);
        let method = recorded["method"].as_str().unwrap();
        let headers: String = recorded["headers"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, value)| format!("{name}: {}\r\n", value.as_str().unwrap_or_default()))
            .collect();
        let client = self.app.client();
        let send = async |body: &[u8]| {
            let mut bytes = client.head(method, &path, &headers, body.len());
            bytes.extend_from_slice(body);
            client.raw(&bytes).await
        };
        let mut body = if method == "POST" { body } else { Vec::new() };
        let mut answer = send(&body).await;
        // What is no request, or was sent to be refused, is refused here already: then the answer is asked for in
        // another way.
        if answer.header("wb-deny") == Some("malformed") {
            println!("{} {}: {}", row["id"], row["surface"], answer.json()["error"]["message"]);
            recorded_request = false;
            body = least_request(row);
            answer = send(&body).await;
        }
        let call = self.ended(row, &answer).await;
        let seen = self.app.upstream.last_seen().map(|seen| seen.body).unwrap_or_default();
        let text = row["response"]["body"].as_str().unwrap_or_default();
        let generated = match row["surface"].as_str().unwrap() {
            "openai.responses" => text.contains("response.output_item."),
            // Thoughts pass sealed: only their signature is seen.
            "gemini.interactions" => text.contains("\"text\":"),
            _ => true,
        };
        Passed { call, answer, sent, edited: seen != body, recorded_request, generated }
    }

    /// The call as it stands: ended, or an open job.
    async fn ended(&self, row: &Value, answer: &Answer) -> Call {
        if let Some(code) = answer.header("wb-deny") {
            panic!("{} was refused: {code}: {}", row["id"], answer.text());
        }
        let id = answer.header("wb-request-id").expect("every answer names its call").parse().unwrap();
        let call = self.app.ledger().call(id).unwrap().expect("the call is on record");
        if row["expected"]["outcome"] == "pending" && call.outcome == Outcome::Running {
            return call;
        }
        self.app.call(id).await
    }

    /// Starts a background response of that id, which is then open.
    pub async fn open_job(&mut self, id: &str) {
        let answer = json!({"id": id, "object": "response", "status": "queued", "background": true, "output": [], "usage": null});
        self.app.upstream.next(json_answer(&answer.to_string()));
        let request = json!({"model": "gpt-4o", "input": "Hello", "background": true});
        let answer = self.app.client().post("/openai/v1/responses", &request.to_string()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    /// The body of a recording, and what the provider does to send it.
    fn answer(&mut self, row: &Value, ending: Ending) -> (Vec<u8>, Vec<Step>) {
        let response = &row["response"];
        let headers: BTreeMap<&str, &str> = response["headers"]
            .as_object()
            .into_iter()
            .flatten()
            .filter_map(|(n, v)| Some((n.as_str(), v.as_str()?)))
            .collect();
        let mut body = match response["body"]["b64"].as_str() {
            Some(coded) => data_encoding::BASE64.decode(coded.as_bytes()).unwrap(),
            None => response["body"].as_str().unwrap().as_bytes().to_vec(),
        };
        if let Some(wire) = response["wire_b64"].as_str() {
            body = data_encoding::BASE64.decode(wire.as_bytes()).unwrap();
        } else if headers.get("content-encoding") == Some(&"gzip") && response["content_encoding_header_stale"] != true
        {
            // The recorder kept only the decoded body.
            let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(&body).unwrap();
            body = encoder.finish().unwrap();
        }
        let mut head = format!("HTTP/1.1 {} Replayed\r\n", response["status"]);
        for (name, value) in headers.iter().filter(|(name, _)| !["transfer-encoding", "content-length"].contains(name))
        {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if let Some(kind) = response["content_type"].as_str().filter(|_| !headers.contains_key("content-type")) {
            head.push_str(&format!("content-type: {kind}\r\n"));
        }
        let mut steps = Vec::new();
        if row["expected"]["stream"] == true || headers.contains_key("transfer-encoding") {
            steps.push(Step::Send(format!("{head}transfer-encoding: chunked\r\n\r\n").into_bytes()));
            steps.extend(self.pieces(&body).into_iter().map(|piece| Step::Send(chunk(piece))));
            steps.push(if ending == Ending::Whole { last_chunk() } else { Step::Break });
        } else {
            steps.push(Step::Send(format!("{head}content-length: {}\r\n\r\n", body.len()).into_bytes()));
            steps.extend(self.pieces(&body).into_iter().map(|piece| Step::Send(piece.to_vec())));
        }
        (body, steps)
    }

    /// A body in up to 16 pieces, cut by chance: inside events, characters and line ends too.
    fn pieces<'a>(&mut self, body: &'a [u8]) -> Vec<&'a [u8]> {
        let mut cuts: BTreeSet<usize> = [0, body.len()].into();
        for _ in 0..15.min(body.len()) {
            self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            cuts.insert((self.seed >> 33) as usize % body.len());
        }
        let cuts: Vec<usize> = cuts.into_iter().collect();
        cuts.windows(2).map(|pair| &body[pair[0]..pair[1]]).filter(|piece| !piece.is_empty()).collect()
    }
}

/// The id under which a row's provider is declared; one vendor may stand there once for each of its protocols.
fn provider(row: &Value) -> String {
    let name = row["provider"].as_str().unwrap();
    let own = ["anthropic", "google-gemini", "ollama", "cohere"].contains(&name);
    if own && dialect(row) == "openai" { format!("{name}-openai") } else { name.into() }
}

fn dialect(row: &Value) -> &str {
    match row["provider"].as_str().unwrap() {
        _ if row["surface"].as_str().unwrap().starts_with("anthropic.") => "anthropic",
        "google-vertex" => "vertex",
        "bedrock" => "bedrock",
        "google-gemini" if !row["surface"].as_str().unwrap().starts_with("openai.") => "gemini",
        "cohere" if !row["surface"].as_str().unwrap().starts_with("openai.") => "cohere",
        "ollama" if row["surface"] == "ollama.chat" => "ollama",
        "azure" => "azure-openai",
        "anthropic" | "google-gemini" | "bedrock-mantle" | "ollama" | "cohere" => "openai",
        name => name,
    }
}

/// The recorded request, or the least that its surface takes where the recorder kept none. True if it is all there.
fn request(row: &Value) -> (Vec<u8>, bool) {
    let recorded = &row["request"];
    if let Some(text) = recorded["text"].as_str().filter(|text| !text.is_empty()) {
        return (text.as_bytes().to_vec(), recorded["redacted"] != true);
    }
    let natural =
        !["openai.", "anthropic.", "embeddings"].iter().any(|p| row["surface"].as_str().unwrap().starts_with(p));
    if natural && recorded["json"].is_object()
        || ["messages", "prompt", "input"].iter().any(|name| !recorded["json"][*name].is_null())
    {
        return (recorded["json"].to_string().into_bytes(), recorded["redacted"] != true);
    }
    (least_request(row), false)
}

fn least_request(row: &Value) -> Vec<u8> {
    let mut least = json!({
        "model": row["expected"]["model_requested"].as_str().unwrap_or("some-model"),
        "stream": row["expected"]["stream"],
    });
    match row["surface"].as_str().unwrap() {
        "gemini.generateContent" | "vertex.predict" => {
            least = json!({"contents": [{"role": "user", "parts": [{"text": "Hello"}]}]});
        }
        "bedrock.converse" => least = json!({"messages": [{"role": "user", "content": [{"text": "Hello"}]}]}),
        "bedrock.invoke" if row["expected"]["model_requested"].as_str().is_some_and(|m| m.contains("anthropic.")) => {
            least = json!({"anthropic_version": "bedrock-2023-05-31", "max_tokens": 64, "messages": [{"role": "user", "content": "Hello"}]});
        }
        "bedrock.invoke" | "bedrock.guardrail" | "bedrock.countTokens" => least = json!({"prompt": "Hello"}),
        "images" => least["prompt"] = "a cat".into(),
        "openai.completions" => least["prompt"] = "Hello".into(),
        "embeddings" | "openai.responses" => least["input"] = "Hello".into(),
        "anthropic.complete" => {
            least["prompt"] = "\n\nHuman: Hello\n\nAssistant:".into();
            least["max_tokens_to_sample"] = 64.into();
        }
        _ => {
            least["messages"] = json!([{"role": "user", "content": "Hello"}]);
            least["max_tokens"] = 64.into();
        }
    }
    least.to_string().into_bytes()
}
