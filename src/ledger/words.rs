//! What a call is, word for word, as far as budgets ask: kept with every open call in one piece of memory.

use super::entry::Admit;
use super::index::dimension;
use crate::domain::Dimension;

/// The values of a call's dimensions when it was admitted.
#[derive(Clone, Debug)]
pub struct Words {
    text: Box<str>,
    /// Where the value of each dimension ends in the text; `NONE` where it has none.
    ends: [u16; Dimension::ALL.len()],
}

const NONE: u16 = u16::MAX;

impl Words {
    pub fn of(admit: &Admit) -> Words {
        let mut text = String::with_capacity(160);
        let mut ends = [NONE; Dimension::ALL.len()];
        for dimension_of in Dimension::ALL {
            if let Some(value) = dimension(admit, *dimension_of) {
                text.push_str(value);
                // An entry is shorter than that, so no value is lost.
                ends[*dimension_of as usize] = u16::try_from(text.len()).unwrap_or(NONE);
            }
        }
        Words { text: text.into(), ends }
    }

    pub fn get(&self, dimension: Dimension) -> Option<&str> {
        let at = dimension as usize;
        let end = self.ends[at];
        if end == NONE {
            return None;
        }
        let start = self.ends[..at].iter().rev().find(|end| **end != NONE).map_or(0, |end| usize::from(*end));
        self.text.get(start..usize::from(end))
    }
}

/// What an open call remembers of its ADMIT beyond the encoded state: nothing after a start from a snapshot, until it is
/// looked up again. Never a difference between two states.
#[derive(Clone, Debug, Default)]
pub struct Remembered(pub Option<std::sync::Arc<Words>>);

impl PartialEq for Remembered {
    fn eq(&self, _: &Remembered) -> bool {
        true
    }
}
impl Eq for Remembered {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Money;
    use crate::ledger::testing;

    #[test]
    fn words_are_those_of_the_admit() {
        let mut admit = testing::admit(1, Money::ZERO).admit;
        std::sync::Arc::make_mut(&mut admit.who).workflow = Some("dunning".into());
        admit.model = None;
        let words = Words::of(&admit);
        for d in Dimension::ALL {
            assert_eq!(words.get(*d), dimension(&admit, *d), "{d}");
        }
        assert_eq!((words.get(Dimension::Workflow), words.get(Dimension::Model)), (Some("dunning"), None));
    }
}
