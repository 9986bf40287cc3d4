//! The text of our secrets: `wbk_` service keys, `wba_` delegation tokens, `wbo_` operator tokens.
//!
//! `<prefix><key id: 12><secret: 32><checksum: 6>`, 54 characters in all, base62. The checksum lets a typing error be
//! told from a wrong key before anything is looked up, and lets scanners find leaked keys. Only an HMAC of the text is
//! ever stored.

use std::fmt;

use aws_lc_rs::hmac;
use secrecy::{ExposeSecret, SecretString};

use super::identity::Environment;

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// Length of a whole secret.
pub const LENGTH: usize = 54;

/// What a secret is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretKind {
    /// `wbk_`: a service's virtual key.
    Service,
    /// `wba_`: a minted delegation token.
    Delegation,
    /// `wbo_`: an operator's API token.
    Operator,
}

impl SecretKind {
    const fn prefix(self) -> &'static str {
        match self {
            SecretKind::Service => "wbk_",
            SecretKind::Delegation => "wba_",
            SecretKind::Operator => "wbo_",
        }
    }
}

/// Why a text is not one of our secrets. Never carries the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    #[error("not 54 characters of the form wbk_…, wba_… or wbo_…")]
    Form,
    #[error("the checksum does not fit: a character is wrong or missing")]
    Checksum,
}

/// A well-formed secret. Prints its id only.
#[derive(Clone)]
pub struct Secret {
    pub kind: SecretKind,
    text: SecretString,
}

impl Secret {
    /// Reads a secret; checks form and checksum, nothing else.
    pub fn parse(text: &str) -> Result<Secret, SecretError> {
        let kind = [SecretKind::Service, SecretKind::Delegation, SecretKind::Operator]
            .into_iter()
            .find(|k| text.starts_with(k.prefix()))
            .ok_or(SecretError::Form)?;
        if text.len() != LENGTH || !text.as_bytes()[4..].iter().all(u8::is_ascii_alphanumeric) {
            return Err(SecretError::Form);
        }
        if checksum(&text[..LENGTH - 6]) != text[LENGTH - 6..] {
            return Err(SecretError::Checksum);
        }
        Ok(Secret { kind, text: SecretString::from(text) })
    }

    /// Makes a secret from random bytes (rejection sampling: every character equally likely). `random` fills its
    /// argument from a CSPRNG. A service key begins with its environment's letter, an operator token with `o`.
    pub fn generate(kind: SecretKind, environment: Option<Environment>, mut random: impl FnMut(&mut [u8])) -> Secret {
        let mut text = String::with_capacity(LENGTH);
        text.push_str(kind.prefix());
        text.push(environment.map_or('o', Environment::letter));
        while text.len() < 4 + 12 + 32 {
            let mut bytes = [0u8; 64];
            random(&mut bytes);
            for b in bytes {
                if b < 248 && text.len() < 4 + 12 + 32 {
                    text.push(ALPHABET[(b % 62) as usize] as char);
                }
            }
        }
        let sum = checksum(&text);
        text.push_str(&sum);
        Secret { kind, text: SecretString::from(text) }
    }

    /// Prefix and key id, 16 characters: the name under which the secret is stored, shown and joined.
    pub fn id(&self) -> &str {
        &self.text.expose_secret()[..16]
    }

    /// The environment whose letter the id begins with.
    pub fn environment(&self) -> Option<Environment> {
        let letter = self.id().as_bytes()[4] as char;
        Environment::ALL.into_iter().find(|e| e.letter() == letter)
    }

    /// The whole secret, to be shown once.
    pub fn expose(&self) -> &str {
        self.text.expose_secret()
    }

    /// What is stored instead of the secret: HMAC-SHA-256 under the pepper.
    pub fn hash(&self, pepper: &hmac::Key) -> [u8; 32] {
        hmac::sign(pepper, self.text.expose_secret().as_bytes()).as_ref().try_into().expect("SHA-256 gives 32 bytes")
    }

    /// Compares with a stored hash in constant time.
    pub fn matches(&self, pepper: &hmac::Key, stored: &[u8; 32]) -> bool {
        hmac::verify(pepper, self.text.expose_secret().as_bytes(), stored).is_ok()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({}…)", self.id())
    }
}

/// CRC-32 (IEEE) of the text, in base62, padded to six characters.
fn checksum(text: &str) -> String {
    let mut crc = flate2::Crc::new();
    crc.update(text.as_bytes());
    let mut value = crc.sum();
    let mut digits = [b'0'; 6];
    for digit in digits.iter_mut().rev() {
        *digit = ALPHABET[(value % 62) as usize];
        value /= 62;
    }
    String::from_utf8_lossy(&digits).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "wba_t0000000000A000000000000000000000000000000001DLCdi";
    const B: &str = "wbk_p7Qm2Xc9LtRaVb3nT0zKq8YhWc5rJd1LxGf6PsEaUo292pCnYt";

    #[test]
    fn published_vectors_hold() {
        assert_eq!(checksum(&A[..48]), "1DLCdi");
        assert_eq!(checksum(&B[..48]), "2pCnYt");
        let pepper: Vec<u8> = (0u8..32).collect();
        let key = hmac::Key::new(hmac::HMAC_SHA256, &pepper);
        let hash = Secret::parse(B).unwrap().hash(&key);
        assert_eq!(
            data_encoding::HEXLOWER.encode(&hash),
            "1bf29fedddedafa30ed1be2fc110393f9c456e4c2c91b7b2efea5071e159495b"
        );
    }

    #[test]
    fn one_wrong_character_is_noticed_anywhere() {
        for i in 4..LENGTH {
            let mut text = B.as_bytes().to_vec();
            text[i] = if text[i] == b'x' { b'y' } else { b'x' };
            assert_eq!(Secret::parse(std::str::from_utf8(&text).unwrap()).err(), Some(SecretError::Checksum), "{i}");
        }
    }

    #[test]
    fn a_generated_key_parses_and_never_prints_its_secret() {
        let mut n = 0u8;
        let secret = Secret::generate(SecretKind::Service, Some(Environment::Test), |bytes| {
            for b in bytes {
                n = n.wrapping_add(37);
                *b = n;
            }
        });
        let again = Secret::parse(secret.expose()).unwrap();
        assert_eq!(again.environment(), Some(Environment::Test));
        assert_eq!(format!("{again:?}"), format!("Secret({}…)", again.id()));
        assert_eq!(again.id().len(), 16);
    }
}
