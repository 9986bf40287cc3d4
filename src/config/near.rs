//! The known word nearest to one that is not known.

/// The nearest of `known`, if it is near enough to be meant: at most a third of the letters differ, and never more than 3.
pub(super) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (word.chars().count() / 3).clamp(1, 3);
    let all = known.map(|k| (distance(word, k), k)).filter(|(d, _)| *d <= limit);
    all.min().map(|(_, k)| k)
}

/// Insertions, deletions, replacements and swaps of neighbours that make one word of the other.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().take(64).collect());
    let mut rows: Vec<Vec<usize>> = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    rows[0] = (0..=b.len()).collect();
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_pen_finds_its_word_and_another_word_does_not() {
        let known = ["listen", "web_listen", "limit_usd", "id"];
        let near = |w: &str| nearest(w, known.into_iter());
        assert_eq!(near("listn"), Some("listen"));
        assert_eq!(near("limit_uds"), Some("limit_usd"));
        assert_eq!(near("weblisten"), Some("web_listen"));
        assert_eq!(near("colour"), None);
        assert_eq!(near("di"), Some("id"));
    }
}
