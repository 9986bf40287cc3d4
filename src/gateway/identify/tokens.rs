//! Tokens that verified a moment ago, by the hash of their whole text: a signature is checked once a minute, not per call.
//!
//! Known tokens are forgotten when anything changes that could have decided otherwise: a declaration, an issuer's keys. The
//! hash is of all of the text: a gateway that knew tokens by their first characters let forged ones in (CVE-2026-35030).

use std::collections::HashMap;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::domain::Micros;

use super::jwt::Verified;

/// Most tokens known at once.
const MOST: usize = 20_000;
/// How long a token is known, in microseconds.
const KNOWN_FOR: i64 = 60_000_000;

/// What the answer depended on: the catalogue's revision and the reading of keys.
pub type Basis = (u64, u64);

#[derive(Default)]
pub struct Tokens {
    basis: Basis,
    known: HashMap<[u8; 32], (Arc<Verified>, Micros)>,
}

/// The name of a token here.
pub fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

impl Tokens {
    /// The answer for a token, if it was given on the same basis within the last minute and the token has not ended.
    pub fn get(&self, basis: Basis, hash: &[u8; 32], now: Micros) -> Option<Arc<Verified>> {
        let (verified, until) = self.known.get(hash).filter(|_| self.basis == basis)?;
        (now < *until).then(|| verified.clone())
    }

    pub fn put(&mut self, basis: Basis, hash: [u8; 32], verified: &Arc<Verified>, now: Micros) {
        if self.basis != basis {
            self.known.clear();
            self.basis = basis;
        }
        if self.known.len() >= MOST {
            self.known.retain(|_, (_, until)| now < *until);
        }
        if self.known.len() < MOST {
            let until = Micros(verified.expires_at.0.min(now.0.saturating_add(KNOWN_FOR)));
            self.known.insert(hash, (verified.clone(), until));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Environment;
    use crate::domain::trust::TrustRule;

    fn verified(expires_at: i64) -> Arc<Verified> {
        let rule = TrustRule {
            id: "r".into(),
            claims: Default::default(),
            service: "s".into(),
            agent: None,
            environment: Environment::Test,
        };
        Arc::new(Verified {
            credential: "jwt:i/r".into(),
            rule: Arc::new(rule),
            shown: vec![],
            workflow: None,
            run: None,
            bound_to: None,
            expires_at: Micros(expires_at),
        })
    }

    #[test]
    fn a_token_is_known_until_it_ends_or_a_minute_passes_or_anything_changes() {
        let mut tokens = Tokens::default();
        let (short, long) = (hash("short"), hash("long"));
        tokens.put((1, 1), short, &verified(10), Micros(0));
        tokens.put((1, 1), long, &verified(i64::MAX), Micros(0));
        assert!(tokens.get((1, 1), &short, Micros(9)).is_some() && tokens.get((1, 1), &short, Micros(10)).is_none());
        assert!(tokens.get((1, 1), &long, Micros(KNOWN_FOR - 1)).is_some());
        assert!(tokens.get((1, 1), &long, Micros(KNOWN_FOR)).is_none());
        assert!(tokens.get((2, 1), &long, Micros(1)).is_none() && tokens.get((1, 2), &long, Micros(1)).is_none());
        tokens.put((2, 1), hash("other"), &verified(i64::MAX), Micros(0));
        assert!(tokens.get((2, 1), &long, Micros(1)).is_none(), "what was known on another basis is forgotten");
    }

    #[test]
    fn tokens_that_begin_alike_are_not_alike_and_their_number_is_bounded() {
        let mut tokens = Tokens::default();
        let start = "eyJhbGciOiJSUzI1NiJ9.".repeat(40);
        tokens.put((0, 0), hash(&format!("{start}a")), &verified(i64::MAX), Micros(0));
        assert!(tokens.get((0, 0), &hash(&format!("{start}b")), Micros(1)).is_none());
        for i in 0..MOST + 10 {
            tokens.put((0, 0), hash(&i.to_string()), &verified(i64::MAX), Micros(0));
        }
        assert_eq!(tokens.known.len(), MOST);
    }
}
