//! The scanner against splits, hostile bytes and bounds.

use proptest::prelude::*;

use super::*;

const NAMES: &[&str] = &["a", "usage", "é"];

#[derive(Default)]
struct Log(Vec<String>);
impl Sink for Log {
    fn begin(&mut self, path: &[Seg], kind: Kind) -> Want {
        match path.last() {
            Some(Seg::Key("usage")) => Want::Raw(1000),
            Some(Seg::Key("")) => Want::Skip,
            _ if kind == Kind::String => Want::Text(8),
            _ => Want::Enter,
        }
    }
    fn string(&mut self, path: &[Seg], t: Text<'_>) {
        self.0.push(format!("{path:?} {:?} {}", t.text, t.bytes));
    }
    fn scalar(&mut self, path: &[Seg], text: &str) {
        self.0.push(format!("{path:?} {text}"));
    }
    fn raw(&mut self, _: &[Seg], json: Option<&[u8]>) {
        self.0.push(format!("raw {}", json.map_or("lost".into(), |j| String::from_utf8_lossy(j).into_owned())));
    }
}

fn scan(pieces: &[&[u8]]) -> (Vec<String>, Whole) {
    let (mut scan, mut log) = (JsonScan::new(NAMES), Log::default());
    for piece in pieces {
        scan.feed(piece, &mut log);
    }
    scan.abandon(&mut log);
    (log.0, scan.whole())
}

#[test]
fn values_are_the_same_however_the_bytes_are_split() {
    let doc = r#" {"x":{"usage":[1,{"q":"]}\""}]},"a":[1,-2e3,"\u00e9\ud83d\ude00\n",true,{"a":null}],"\u00e9":"é", "usage" : {"n":{"m":"\\"}} } "#.as_bytes();
    let whole = scan(&[doc]);
    assert_eq!(whole.1, Whole::Complete);
    assert_eq!(whole.0[0], r#"[Key("a"), At(0)] 1"#);
    assert!(whole.0.contains(&r#"raw {"n":{"m":"\\"}}"#.to_string()), "{:?}", whole.0);
    for cut in 0..doc.len() {
        assert_eq!(scan(&[&doc[..cut], &doc[cut..]]), whole, "cut at {cut}");
    }
    let bytes: Vec<&[u8]> = doc.chunks(1).collect();
    assert_eq!(scan(&bytes), whole);
}

#[test]
fn what_is_not_json_or_not_whole_is_said() {
    for (doc, whole) in [
        ("", Whole::Empty),
        ("  \n", Whole::Empty),
        ("<html>", Whole::Malformed),
        ("[DONE]", Whole::Malformed),
        ("{\"a\":1", Whole::Partial),
        ("{\"a\":1}}", Whole::Malformed),
        ("{\"q\":[[[", Whole::Partial),
        ("17", Whole::Complete),
        ("\"a\"", Whole::Complete),
    ] {
        assert_eq!(scan(&[doc.as_bytes()]).1, whole, "{doc}");
    }
}

#[test]
fn depth_beyond_the_bound_is_skipped_and_costs_nothing() {
    let (mut scan, mut log) = (JsonScan::new(NAMES), Log::default());
    for _ in 0..100_000 {
        scan.feed(b"[", &mut log);
    }
    assert_eq!(scan.open.len(), MAX_DEPTH);
    for _ in 0..100_000 {
        scan.feed(b"]", &mut log);
    }
    assert_eq!(scan.whole(), Whole::Complete);
}

#[test]
fn an_endless_string_keeps_only_what_was_asked_for() {
    let (mut scan, mut log) = (JsonScan::new(NAMES), Log::default());
    scan.feed(b"{\"a\":\"", &mut log);
    let piece = vec![b'a'; 1 << 20];
    for _ in 0..64 {
        scan.feed(&piece, &mut log);
    }
    assert!(scan.text.capacity() <= 64, "{}", scan.text.capacity());
    scan.feed(b"\"}", &mut log);
    assert_eq!(log.0, [format!("[Key(\"a\")] \"aaaaaaaa\" {}", 64 << 20)]);
}

#[test]
fn nul_bytes_and_broken_utf_8_are_read_lossily() {
    let (log, whole) = scan(&[b"{\"a\":\"x\0\xff\xfe\"}"]);
    assert_eq!(whole, Whole::Complete);
    assert_eq!(log, ["[Key(\"a\")] \"x\\0\u{fffd}\u{fffd}\" 4"]);
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 0usize..200) {
        let cut = cut.min(bytes.len());
        let whole = scan(&[&bytes]);
        prop_assert_eq!(scan(&[&bytes[..cut], &bytes[cut..]]), whole);
    }
}
