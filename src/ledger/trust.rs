//! Which signatures make a checkpoint believed: C2SP `tlog-policy` files (read 2026-11), whole.
//!
//! ```text
//! log acme/weighbridge/0192…/0+b1946ac9+AWhfY5…
//! witness w1 witness.example/w1+8cf259ca+BDeXszs6…
//! quorum w1
//! ```
//!
//! A checkpoint is believed if one of the logs signed it under its own name and the quorum of witnesses cosigned it;
//! `quorum none` asks for no witness. A policy without a log is refused: here nothing else says which log is meant.

use super::note::{Checkpoint, Note, NoteError, Verifier};

/// Lines of each kind that are read; the format asks for 32 at least.
const MOST: usize = 256;
/// Longest policy read, in bytes.
const MAX_BYTES: usize = 1 << 20;

/// Why a policy is not one, or a checkpoint not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    #[error("policy, line {line}: {what}")]
    Line { line: usize, what: String },
    #[error("policy: {0}")]
    Policy(&'static str),
    #[error(transparent)]
    Note(#[from] NoteError),
    #[error("the checkpoint of `{origin}` is signed by none of the policy's logs{why}")]
    NoLog { origin: String, why: String },
    #[error("the checkpoint lacks the cosignatures that the policy asks for")]
    NoQuorum,
}

#[derive(Clone, Debug)]
enum Rule {
    Witness(Box<Verifier>),
    Group { needed: usize, members: Vec<usize> },
}

/// A parsed policy.
#[derive(Clone, Debug)]
pub struct Policy {
    logs: Vec<Verifier>,
    /// In the order of their lines; groups refer to earlier ones.
    rules: Vec<(String, Rule)>,
    quorum: Option<usize>,
}

impl Policy {
    /// A policy that believes these logs and asks for no witness.
    pub fn of_logs(logs: Vec<Verifier>) -> Policy {
        Policy { logs, rules: Vec::new(), quorum: None }
    }

    /// Reads a policy file.
    pub fn parse(text: &str) -> Result<Policy, TrustError> {
        if text.len() > MAX_BYTES {
            return Err(TrustError::Policy("it is longer than 1 MiB"));
        }
        let mut reading = Reading::default();
        for (number, line) in (1..).zip(text.split('\n')) {
            reading.line(line).map_err(|what| TrustError::Line { line: number, what })?;
        }
        let quorum = reading.quorum.ok_or(TrustError::Policy("it has no quorum line"))?;
        if reading.logs.is_empty() {
            return Err(TrustError::Policy("it names no log"));
        }
        Ok(Policy { logs: reading.logs, rules: reading.rules, quorum })
    }

    /// Believes the note or says why not; the checkpoint in it.
    pub fn check(&self, note: &Note) -> Result<Checkpoint, TrustError> {
        let checkpoint = Checkpoint::parse(&note.text)?;
        let mut why = String::new();
        let signed = self.logs.iter().filter(|log| log.name() == checkpoint.origin).any(|log| match note.verify(log) {
            Ok(_) => true,
            Err(error) => {
                why = format!(": {error}");
                false
            }
        });
        if !signed {
            return Err(TrustError::NoLog { origin: checkpoint.origin, why });
        }
        match self.quorum {
            Some(rule) if !self.holds(note, rule) => Err(TrustError::NoQuorum),
            _ => Ok(checkpoint),
        }
    }

    // Groups refer to earlier lines only, so this ends.
    fn holds(&self, note: &Note, rule: usize) -> bool {
        match self.rules.get(rule).map(|(_, rule)| rule) {
            Some(Rule::Witness(key)) => matches!(note.verify(key), Ok(Some(_))),
            Some(Rule::Group { needed, members }) => {
                members.iter().filter(|member| self.holds(note, **member)).take(*needed).count() == *needed
            }
            None => false,
        }
    }
}

#[derive(Default)]
struct Reading {
    logs: Vec<Verifier>,
    rules: Vec<(String, Rule)>,
    /// Members of a group already: each name counts once.
    used: Vec<usize>,
    quorum: Option<Option<usize>>,
}

impl Reading {
    fn line(&mut self, line: &str) -> Result<(), String> {
        if line.contains(|c: char| c.is_ascii_control() && c != '\t') {
            return Err("a control character".into());
        }
        let words: Vec<&str> = line.split([' ', '\t']).filter(|word| !word.is_empty()).collect();
        match words.as_slice() {
            [] => Ok(()),
            [first, ..] if first.starts_with('#') => Ok(()),
            ["log", vkey] | ["log", vkey, _] => self.log(vkey),
            ["witness", name, vkey] | ["witness", name, vkey, _] => self.witness(name, vkey),
            ["group", name, needed, members @ ..] => self.group(name, needed, members),
            ["quorum", name] => self.quorum(name),
            [first, ..] => Err(format!("`{first}` is not log, witness, group or quorum with what belongs to it")),
        }
    }

    fn log(&mut self, vkey: &str) -> Result<(), String> {
        let key = Verifier::parse(vkey).map_err(|e| e.to_string())?;
        if key.is_witness() {
            return Err("a log's key is of type 1 (Ed25519)".into());
        }
        if self.logs.len() >= MOST || self.logs.iter().any(|log| log.public() == key.public()) {
            return Err("the log is there already, or one too many".into());
        }
        self.logs.push(key);
        Ok(())
    }

    fn witness(&mut self, name: &str, vkey: &str) -> Result<(), String> {
        let key = Verifier::parse(vkey).map_err(|e| e.to_string())?;
        if !key.is_witness() {
            return Err("a witness's key is of type 4 (cosignature)".into());
        }
        let same = |(_, rule): &(String, Rule)| matches!(rule, Rule::Witness(w) if w.public() == key.public());
        if self.rules.iter().any(same) {
            return Err("the witness is there already".into());
        }
        self.name(name, Rule::Witness(Box::new(key)))
    }

    fn group(&mut self, name: &str, needed: &str, members: &[&str]) -> Result<(), String> {
        let mut places = Vec::new();
        for member in members {
            let place = self.place(member)?;
            if self.used.contains(&place) {
                return Err(format!("`{member}` is a member of a group already"));
            }
            self.used.push(place);
            places.push(place);
        }
        let all = places.len();
        let needed = match needed {
            "any" => 1,
            "all" => all,
            k => k.parse().map_err(|_| format!("`{k}` is not any, all or a number"))?,
        };
        if needed < 1 || needed > all {
            return Err(format!("{needed} of {all} members cannot be asked for"));
        }
        self.name(name, Rule::Group { needed, members: places })
    }

    fn quorum(&mut self, name: &str) -> Result<(), String> {
        let rule = if name == "none" { None } else { Some(self.place(name)?) };
        match self.quorum.replace(rule) {
            None => Ok(()),
            Some(_) => Err("a second quorum line".into()),
        }
    }

    fn name(&mut self, name: &str, rule: Rule) -> Result<(), String> {
        if name == "none" || self.rules.len() >= MOST || self.rules.iter().any(|(known, _)| known == name) {
            return Err(format!("`{name}` is taken, or one too many"));
        }
        self.rules.push((name.to_owned(), rule));
        Ok(())
    }

    fn place(&self, name: &str) -> Result<usize, String> {
        self.rules.iter().position(|(known, _)| known == name).ok_or_else(|| format!("`{name}` is not defined above"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::note::Signer;
    use super::*;
    use proptest::prelude::*;

    const LOG: &str = "weighbridge.test/vector-1+eaa038c5+AbfG1IpAcmOurPE7IhGiugNqAMz6EFsJ3BMlEXdx13VD";
    const NOTE: &str = "weighbridge.test/vector-1\n8\nXcnaeacGWamtVZy3Ad7ZoqudgjqtL0lgz+Nw7/RgQyg=\n\n— weighbridge.test/vector-1 6qA4xWFN1sIIJf2LQdlfiJtTTz77BQJ4/Jb/vaTlOGepF8Bd8vk3rm+liWEDUUoRzgeSa2O3GTMXwyLmtuXBeTVplgE=\n";
    const WITNESS: &str = "witness.test/w1+8cf259ca+BDeXszs6qoKfhIKKsiL7jxrI0RxC9h4jdpOKcxzzOzeg";
    const COSIGNATURE: &str = "— witness.test/w1 jPJZygAAAABrBBgAejv92pmw87Uxnv/9GDhwqLRxIy6K0oB21EvXZhTQVpXGMfDZ5i1Q3cb3yzMTil8vLkNDuolNmIF3XM/RW3I3Cg==\n";

    fn note(text: &str) -> Note {
        Note::parse(text).unwrap()
    }

    #[test]
    fn a_checkpoint_is_believed_by_log_and_quorum() {
        let alone = Policy::parse(&format!("# ours\n\n log\t{LOG} https://log.example\nquorum none\n")).unwrap();
        assert_eq!(alone.check(&note(NOTE)).unwrap().size, 8);
        for quorum in ["quorum w1", "group g all w1\nquorum g", "group g any w1\ngroup h 1 g\nquorum h"] {
            let policy = Policy::parse(&format!("log {LOG}\nwitness w1 {WITNESS}\n{quorum}\n")).unwrap();
            assert_eq!(policy.check(&note(NOTE)), Err(TrustError::NoQuorum), "{quorum}");
            policy.check(&note(&format!("{NOTE}{COSIGNATURE}"))).unwrap();
        }
    }

    #[test]
    fn another_key_and_another_name_are_not_believed() {
        let other = Signer::from_seed("weighbridge.test/vector-1", &[7; 32]).unwrap().verifier();
        let renamed = Signer::from_seed("someone.else", &[7; 32]).unwrap();
        let policy = Policy::parse(&format!("log {other}\nquorum none\n")).unwrap();
        assert!(matches!(policy.check(&note(NOTE)), Err(TrustError::NoLog { .. })));
        // A log signs under its own origin only.
        let policy = Policy::of_logs(vec![renamed.verifier()]);
        let foreign = renamed.sign("weighbridge.test/vector-1\n8\nXcnaeacGWamtVZy3Ad7ZoqudgjqtL0lgz+Nw7/RgQyg=\n");
        assert!(matches!(policy.check(&note(&foreign.unwrap())), Err(TrustError::NoLog { .. })));
    }

    #[test]
    fn policies_that_say_nothing_or_too_much_are_refused() {
        for bad in [
            "",
            "quorum none\n",
            &format!("log {LOG}\n"),
            &format!("log {LOG}\nlog {LOG}\nquorum none\n"),
            &format!("log {WITNESS}\nquorum none\n"),
            &format!("log {LOG}\nwitness w {LOG}\nquorum none\n"),
            &format!("log {LOG}\nquorum w1\n"),
            &format!("log {LOG}\nquorum none\nquorum none\n"),
            &format!("log {LOG}\nwitness none {WITNESS}\nquorum none\n"),
            &format!("log {LOG}\nwitness w1 {WITNESS}\ngroup g 2 w1\nquorum g\n"),
            &format!("log {LOG}\nwitness w1 {WITNESS}\ngroup g any w1\ngroup h any w1\nquorum g\n"),
            &format!("log {LOG}\nfollow me\nquorum none\n"),
            &format!("log {LOG}\r\nquorum none\n"),
        ] {
            assert!(Policy::parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_read_never_panics(text in "(log|witness|group|quorum|any|none|w|[ \\t\\n]|.){0,80}") {
            let _ = Policy::parse(&text);
        }
    }
}
