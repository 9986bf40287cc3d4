//! Signed notes and checkpoints as C2SP has them (`signed-note`, `tlog-checkpoint`, `tlog-cosignature`, read 2026-11).
//!
//! A note is a text that ends in a newline, an empty line, and signature lines `— <name> <base64>`. A checkpoint is the
//! note text of origin, size and root. Signatures are Ed25519 (type 1) or a witness's timestamped cosignature (type 4).

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use data_encoding::BASE64;
use sha2::{Digest, Sha256};

use super::leaf::Hash;

/// Signature type of a log's own key.
const ED25519_TYPE: u8 = 1;
/// Signature type of a witness.
const COSIGNATURE_TYPE: u8 = 4;
/// No note of ours comes near; more is not read.
const MAX_NOTE_BYTES: usize = 1 << 20;
const MAX_SIGNATURES: usize = 100;

/// Why a note or key is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    #[error("not a signed note: {0}")]
    Malformed(&'static str),
    #[error("not a verifier key: {0}")]
    Key(&'static str),
    #[error("not a checkpoint: {0}")]
    Checkpoint(&'static str),
    #[error("no signature by {0}")]
    Unsigned(String),
    #[error("the signature by {0} is wrong")]
    Wrong(String),
}

/// A key that signs notes, and its name.
pub struct Signer {
    name: String,
    pair: Ed25519KeyPair,
}

impl Signer {
    /// From the 32 bytes of an Ed25519 seed.
    pub fn from_seed(name: &str, seed: &[u8; 32]) -> Result<Signer, NoteError> {
        check_name(name)?;
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| NoteError::Key("not an Ed25519 seed"))?;
        Ok(Signer { name: name.to_owned(), pair })
    }

    /// The key others verify with.
    pub fn verifier(&self) -> Verifier {
        let mut public = [0; 32];
        public.copy_from_slice(self.pair.public_key().as_ref());
        Verifier { name: self.name.clone(), kind: ED25519_TYPE, public }
    }

    /// The note: text, empty line, signature line. The text must end in a newline.
    pub fn sign(&self, text: &str) -> Result<String, NoteError> {
        Ok(format!("{text}\n{}", self.line(text)?))
    }

    /// The signature line alone, for a note that others sign too.
    pub fn line(&self, text: &str) -> Result<String, NoteError> {
        check_text(text)?;
        let mut signature = self.verifier().id().to_vec();
        signature.extend_from_slice(self.pair.sign(text.as_bytes()).as_ref());
        Ok(format!("— {} {}\n", self.name, BASE64.encode(&signature)))
    }
}

/// A public key with its name and type: `name+id+base64`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verifier {
    name: String,
    kind: u8,
    public: [u8; 32],
}

impl Verifier {
    /// Reads a vkey of type 1 or 4.
    pub fn parse(vkey: &str) -> Result<Verifier, NoteError> {
        let mut parts = vkey.splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(NoteError::Key("it is name+id+key"));
        };
        check_name(name)?;
        let bytes = BASE64.decode(key.as_bytes()).map_err(|_| NoteError::Key("its key is not base64"))?;
        let Some((kind @ (&ED25519_TYPE | &COSIGNATURE_TYPE), public)) = bytes.split_first() else {
            return Err(NoteError::Key("its type is neither Ed25519 nor cosignature"));
        };
        let public = public.try_into().map_err(|_| NoteError::Key("its key has not 32 bytes"))?;
        let verifier = Verifier { name: name.to_owned(), kind: *kind, public };
        if data_encoding::HEXLOWER.encode(&verifier.id()) != id {
            return Err(NoteError::Key("its id is not that of the key"));
        }
        Ok(verifier)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The 32 bytes of the Ed25519 key.
    pub fn public(&self) -> &[u8; 32] {
        &self.public
    }

    /// A witness's key (type 4), not a log's (type 1).
    pub fn is_witness(&self) -> bool {
        self.kind == COSIGNATURE_TYPE
    }

    /// First four bytes of SHA-256(name, newline, type, public key).
    pub fn id(&self) -> [u8; 4] {
        let hash = Sha256::new().chain_update(&self.name).chain_update([b'\n', self.kind]).chain_update(self.public);
        let hash: Hash = hash.finalize().into();
        [hash[0], hash[1], hash[2], hash[3]]
    }

    fn holds(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.public).verify(message, signature).is_ok()
    }
}

/// The vkey text.
impl std::fmt::Display for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let key = [&[self.kind][..], &self.public].concat();
        write!(f, "{}+{}+{}", self.name, data_encoding::HEXLOWER.encode(&self.id()), BASE64.encode(&key))
    }
}

/// A note read but not believed: see [`Note::verify`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Ends in a newline.
    pub text: String,
    pub signatures: Vec<Signature>,
}

/// One signature line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    pub name: String,
    pub id: [u8; 4],
    pub bytes: Vec<u8>,
}

impl Signature {
    /// Reads a line `— name base64`, with or without its newline: what a witness answers.
    pub fn parse(line: &str) -> Result<Signature, NoteError> {
        let malformed = NoteError::Malformed("a signature line is `— name base64`");
        let rest = line.strip_suffix('\n').unwrap_or(line).strip_prefix("— ").ok_or(malformed.clone())?;
        let (name, encoded) = rest.split_once(' ').ok_or(malformed.clone())?;
        check_name(name)?;
        let bytes = BASE64.decode(encoded.as_bytes()).map_err(|_| malformed.clone())?;
        let (id, bytes) = bytes.split_first_chunk::<4>().filter(|(_, rest)| !rest.is_empty()).ok_or(malformed)?;
        Ok(Signature { name: name.to_owned(), id: *id, bytes: bytes.to_vec() })
    }
}

impl Note {
    pub fn parse(note: &str) -> Result<Note, NoteError> {
        if note.len() > MAX_NOTE_BYTES {
            return Err(NoteError::Malformed("it is longer than 1 MiB"));
        }
        let split = note.rfind("\n\n").ok_or(NoteError::Malformed("it has no empty line before the signatures"))?;
        let (text, lines) = (&note[..=split], &note[split + 2..]);
        check_text(text)?;
        let lines = lines.strip_suffix('\n').ok_or(NoteError::Malformed("it does not end in a newline"))?;
        let signatures =
            lines.split('\n').take(MAX_SIGNATURES + 1).map(Signature::parse).collect::<Result<Vec<_>, _>>()?;
        if signatures.len() > MAX_SIGNATURES {
            return Err(NoteError::Malformed("it has more than 100 signatures"));
        }
        Ok(Note { text: text.to_owned(), signatures })
    }

    /// Whether this key signed the text. For a witness: the Unix time of its cosignature.
    pub fn verify(&self, key: &Verifier) -> Result<Option<u64>, NoteError> {
        let by_key = |s: &&Signature| s.name == key.name && s.id == key.id();
        let signature = self.signatures.iter().find(by_key).ok_or_else(|| NoteError::Unsigned(key.name.clone()))?;
        let wrong = || NoteError::Wrong(key.name.clone());
        match key.kind {
            COSIGNATURE_TYPE => {
                let (time, bytes) = signature.bytes.split_first_chunk::<8>().ok_or_else(wrong)?;
                let time = u64::from_be_bytes(*time);
                let message = format!("cosignature/v1\ntime {time}\n{}", self.text);
                if key.holds(message.as_bytes(), bytes) { Ok(Some(time)) } else { Err(wrong()) }
            }
            _ if key.holds(self.text.as_bytes(), &signature.bytes) => Ok(None),
            _ => Err(wrong()),
        }
    }
}

/// What a log states of its tree: no extension lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// `<customer>/weighbridge/<instance uuid>/<epoch>`.
    pub origin: String,
    pub size: u64,
    pub root: Hash,
}

impl Checkpoint {
    /// The text to sign.
    pub fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, BASE64.encode(&self.root))
    }

    /// Reads a note's text. Lines after the root are allowed and ignored, as the format says.
    pub fn parse(text: &str) -> Result<Checkpoint, NoteError> {
        let mut lines = text.split('\n');
        let (Some(origin), Some(size), Some(root)) = (lines.next(), lines.next(), lines.next()) else {
            return Err(NoteError::Checkpoint("it is origin, size and root"));
        };
        let canonical = |n: &u64| n.to_string() == size;
        let size: u64 = size.parse().ok().filter(canonical).ok_or(NoteError::Checkpoint("its size is no number"))?;
        let root = BASE64.decode(root.as_bytes()).ok().and_then(|b| b.try_into().ok());
        let root = root.ok_or(NoteError::Checkpoint("its root is not a hash in base64"))?;
        if origin.is_empty() {
            return Err(NoteError::Checkpoint("it has no origin"));
        }
        Ok(Checkpoint { origin: origin.to_owned(), size, root })
    }
}

fn check_name(name: &str) -> Result<(), NoteError> {
    let odd = |c: char| c.is_whitespace() || c == '+';
    if name.is_empty() || name.contains(odd) { Err(NoteError::Key("a name has no space and no +")) } else { Ok(()) }
}

fn check_text(text: &str) -> Result<(), NoteError> {
    let control = |c: char| c < ' ' && c != '\n';
    match text {
        _ if !text.ends_with('\n') => Err(NoteError::Malformed("its text does not end in a newline")),
        _ if text.contains(control) => Err(NoteError::Malformed("its text has control characters")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const VKEY: &str = "weighbridge.test/vector-1+eaa038c5+AbfG1IpAcmOurPE7IhGiugNqAMz6EFsJ3BMlEXdx13VD";
    const NOTE: &str = "weighbridge.test/vector-1\n8\nXcnaeacGWamtVZy3Ad7ZoqudgjqtL0lgz+Nw7/RgQyg=\n\n— weighbridge.test/vector-1 6qA4xWFN1sIIJf2LQdlfiJtTTz77BQJ4/Jb/vaTlOGepF8Bd8vk3rm+liWEDUUoRzgeSa2O3GTMXwyLmtuXBeTVplgE=\n";
    const WITNESS: &str = "witness.test/w1+8cf259ca+BDeXszs6qoKfhIKKsiL7jxrI0RxC9h4jdpOKcxzzOzeg";
    const COSIGNATURE: &str = "— witness.test/w1 jPJZygAAAABrBBgAejv92pmw87Uxnv/9GDhwqLRxIy6K0oB21EvXZhTQVpXGMfDZ5i1Q3cb3yzMTil8vLkNDuolNmIF3XM/RW3I3Cg==\n";

    fn signer() -> Signer {
        let seed: [u8; 32] = Sha256::digest(b"weighbridge test vector seed 1").into();
        Signer::from_seed("weighbridge.test/vector-1", &seed).unwrap()
    }

    #[test]
    fn l07_the_published_checkpoint_is_what_we_sign_and_accept() {
        let key = Verifier::parse(VKEY).unwrap();
        assert_eq!(key, signer().verifier());
        assert_eq!(key.to_string(), VKEY);
        let note = Note::parse(NOTE).unwrap();
        note.verify(&key).unwrap();
        let checkpoint = Checkpoint::parse(&note.text).unwrap();
        let root = data_encoding::HEXLOWER.encode(&checkpoint.root);
        assert_eq!(root, "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328");
        assert_eq!((checkpoint.origin.as_str(), checkpoint.size), ("weighbridge.test/vector-1", 8));
        assert_eq!(signer().sign(&checkpoint.text()).unwrap(), NOTE);
    }

    #[test]
    fn l07_the_published_cosignature_holds_at_its_time() {
        let note = Note::parse(&format!("{NOTE}{COSIGNATURE}")).unwrap();
        let witness = Verifier::parse(WITNESS).unwrap();
        assert_eq!(note.verify(&witness), Ok(Some(1_795_430_400)));
        assert!(Note::parse(NOTE).unwrap().verify(&witness).is_err());
        assert_eq!(Signature::parse(COSIGNATURE).unwrap(), note.signatures[1]);
    }

    #[test]
    fn l07_one_changed_bit_is_refused() {
        let (key, witness) = (Verifier::parse(VKEY).unwrap(), Verifier::parse(WITNESS).unwrap());
        let whole = format!("{NOTE}{COSIGNATURE}");
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut bytes = whole.clone().into_bytes();
                bytes[at] ^= 1 << bit;
                let Ok(text) = String::from_utf8(bytes) else { continue };
                let both = Note::parse(&text).and_then(|n| n.verify(&key).and_then(|_| n.verify(&witness)));
                assert!(both.is_err(), "byte {at} bit {bit}");
            }
        }
    }

    /// The example of the signed-note text: another's key, so it is read, written again, and believed by nobody here.
    #[test]
    fn l07_the_examples_of_the_texts_are_read() {
        let poem = "Ognuno sta solo sul cuor della terra\ntrafitto da un raggio di sole:\n\ned è subito sera.\n\n— quasimodo.example/salvatore NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaqP3ZekRwNtIc=\n";
        let note = Note::parse(poem).unwrap();
        assert!(note.text.ends_with("sole:\n\ned è subito sera.\n"), "the last empty line divides");
        assert_eq!(note.signatures[0].name, "quasimodo.example/salvatore");
        assert_eq!((note.signatures[0].id, note.signatures[0].bytes.len()), ([0x36, 0x7b, 0xa0, 0x4b], 64));
        let cosigned = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n";
        let note = Note::parse(cosigned).unwrap();
        let checkpoint = Checkpoint::parse(&note.text).unwrap();
        assert_eq!((checkpoint.origin.as_str(), checkpoint.size), ("example.com/behind-the-sofa", 20_852_163));
        assert_eq!(checkpoint.text(), note.text);
        let time = note.signatures[1].bytes.first_chunk::<8>().map(|time| u64::from_be_bytes(*time));
        assert_eq!((note.signatures[1].bytes.len(), time), (72, Some(1_679_315_147)));
        assert!(matches!(note.verify(&signer().verifier()), Err(NoteError::Unsigned(_))));
    }

    #[test]
    fn l07_another_implementation_accepts_what_we_sign() {
        use signed_note::{Note as Theirs, StandardVerifier, VerifierList};
        let note =
            signer().sign("weighbridge.test/vector-1\n8\nXcnaeacGWamtVZy3Ad7ZoqudgjqtL0lgz+Nw7/RgQyg=\n").unwrap();
        let known = || VerifierList::new(vec![Box::new(StandardVerifier::new(VKEY).unwrap())]);
        let theirs = Theirs::from_bytes(note.as_bytes()).unwrap();
        assert_eq!(theirs.verify(&known()).unwrap().0.len(), 1);
        let changed = note.replace("\n8\n", "\n9\n");
        assert!(Theirs::from_bytes(changed.as_bytes()).unwrap().verify(&known()).is_err());
    }

    #[test]
    fn keys_whose_id_or_type_is_another_are_refused() {
        for bad in [&VKEY[..40], "a+b", "a b+00000000+AA==", &VKEY.replace("eaa0", "eaa1"), &VKEY.replace("+Ab", "+Bb")]
        {
            assert!(Verifier::parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_read_never_panics(text in "(?s).{0,200}") {
            let _ = Note::parse(&text);
            let _ = Checkpoint::parse(&text);
            let _ = Verifier::parse(&text);
            let _ = Signature::parse(&text);
        }

        #[test]
        fn what_we_sign_verifies(size in any::<u64>(), root in any::<[u8; 32]>()) {
            let checkpoint = Checkpoint { origin: "a/weighbridge/b/0".into(), size, root };
            let note = Note::parse(&signer().sign(&checkpoint.text()).unwrap()).unwrap();
            note.verify(&signer().verifier()).unwrap();
            prop_assert_eq!(Checkpoint::parse(&note.text).unwrap(), checkpoint);
        }
    }
}
