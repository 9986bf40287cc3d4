//! What alerts are sent to in tests: an HTTP receiver that answers, fails, hangs or breaks off as told, and a mail server.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// What a receiver does with a request.
#[derive(Clone, Copy, Debug)]
pub enum Answer {
    Status(u16),
    /// Never answers.
    Hang,
    /// Takes it and closes the connection.
    BreakOff,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Post {
    headers: Vec<(String, String)>,
    pub body: String,
}

impl Post {
    /// Empty where it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(n, _)| n == name).map_or("", |(_, v)| v)
    }
}

/// Answers 200 unless told otherwise.
pub struct Http {
    pub url: String,
    seen: Arc<Mutex<Vec<Post>>>,
    answers: Arc<Mutex<VecDeque<Answer>>>,
}

impl Http {
    pub async fn start() -> Http {
        let door = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", door.local_addr().unwrap());
        let (seen, answers) = (Arc::<Mutex<Vec<Post>>>::default(), Arc::<Mutex<VecDeque<Answer>>>::default());
        let (posts, script) = (seen.clone(), answers.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = door.accept().await {
                let (posts, script) = (posts.clone(), script.clone());
                tokio::spawn(async move {
                    let mut stream = BufReader::new(stream);
                    while let Some(post) = read(&mut stream).await {
                        posts.lock().unwrap().push(post);
                        let answer = script.lock().unwrap().pop_front().unwrap_or(Answer::Status(200));
                        let status = match answer {
                            Answer::Status(status) => status,
                            Answer::Hang => return std::future::pending().await,
                            Answer::BreakOff => return,
                        };
                        let text = format!("HTTP/1.1 {status} Told\r\ncontent-length: 0\r\n\r\n");
                        stream.write_all(text.as_bytes()).await.unwrap();
                    }
                });
            }
        });
        Http { url, seen, answers }
    }

    pub fn seen(&self) -> Vec<Post> {
        self.seen.lock().unwrap().clone()
    }

    /// The next requests are answered like this.
    pub fn answers(&self, answers: &[Answer]) {
        self.answers.lock().unwrap().extend(answers);
    }
}

async fn read(stream: &mut BufReader<TcpStream>) -> Option<Post> {
    let mut headers = Vec::new();
    let mut first = true;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        match line.trim_end() {
            "" => break,
            line if !first => {
                let (name, value) = line.split_once(':')?;
                headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
            }
            _ => {}
        }
        first = false;
    }
    let length = headers.iter().find(|(n, _)| n == "content-length").and_then(|(_, v)| v.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(Post { headers, body: String::from_utf8(body).ok()? })
}

/// A letter as it was handed in.
#[derive(Clone, Debug)]
pub struct Letter {
    pub to: Vec<String>,
    pub text: String,
}

/// A mail server without TLS, which asks nobody who they are.
pub struct Smtp {
    pub address: std::net::SocketAddr,
    letters: Arc<Mutex<Vec<Letter>>>,
}

impl Smtp {
    pub async fn start() -> Smtp {
        Smtp::refusing("").await
    }

    /// Answers a recipient with this line; empty: takes everything.
    pub async fn refusing(line: &'static str) -> Smtp {
        let door = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = door.local_addr().unwrap();
        let letters = Arc::<Mutex<Vec<Letter>>>::default();
        let box_of = letters.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = door.accept().await {
                let letters = box_of.clone();
                tokio::spawn(async move { drop(talk(BufReader::new(stream), line, &letters).await) });
            }
        });
        Smtp { address, letters }
    }

    pub fn letters(&self) -> Vec<Letter> {
        self.letters.lock().unwrap().clone()
    }
}

async fn talk(mut stream: BufReader<TcpStream>, refusal: &str, letters: &Mutex<Vec<Letter>>) -> std::io::Result<()> {
    stream.write_all(b"220 test\r\n").await?;
    let mut to = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let answer = match line.to_ascii_uppercase() {
            l if l.starts_with("EHLO") => "250-test\r\n250 AUTH PLAIN\r\n".to_owned(),
            l if l.starts_with("AUTH") => "235 ok\r\n".to_owned(),
            l if l.starts_with("RCPT") && !refusal.is_empty() => format!("{refusal}\r\n"),
            l if l.starts_with("RCPT") => {
                let address = line.split(['<', '>']).nth(1).unwrap_or_default();
                to.push(address.to_owned());
                "250 ok\r\n".to_owned()
            }
            l if l.starts_with("DATA") => {
                stream.write_all(b"354 go on\r\n").await?;
                let mut text = String::new();
                while !text.ends_with("\r\n.\r\n") && stream.read_line(&mut text).await? > 0 {}
                letters.lock().unwrap().push(Letter { to: std::mem::take(&mut to), text });
                "250 taken\r\n".to_owned()
            }
            l if l.starts_with("QUIT") => "221 bye\r\n".to_owned(),
            _ => "250 ok\r\n".to_owned(),
        };
        stream.write_all(answer.as_bytes()).await?;
    }
}
