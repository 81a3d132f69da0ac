//! "Did you mean": the nearest of a few known words. Knows nothing of where they come from.

/// The candidate nearest to `word`, if one is near enough to be a likely slip.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // A slip leaves more than half of a word as it was.
    let limit = match word.chars().count() {
        0..=4 => 1,
        5..=6 => 2,
        _ => 3,
    };
    candidates
        .into_iter()
        .filter(|candidate| *candidate != word)
        .map(|candidate| (distance(word, candidate, limit), candidate))
        .filter(|(distance, candidate)| *distance <= limit && *distance < candidate.chars().count())
        .min()
        .map(|(_, candidate)| candidate)
}

/// `did you mean `x`?` for the nearest candidate.
pub fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    nearest(word, candidates).map(|near| format!("did you mean `{near}`?"))
}

/// Edits (insert, delete, replace, swap of neighbours) from `a` to `b`; anything above `limit` once that is certain.
fn distance(a: &str, b: &str, limit: usize) -> usize {
    let a: Vec<char> = a.to_lowercase().chars().collect();
    let b: Vec<char> = b.to_lowercase().chars().collect();
    if a.len().abs_diff(b.len()) > limit {
        return limit + 1;
    }
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replace = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replace.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before_last[j - 2] + 1);
            }
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn likely_slips_are_found_and_others_not() {
        let check = |word: &str, expected: Option<&str>| {
            assert_eq!(nearest(word, ["srcs", "outs", "out_dirs", "cmd", "timeout", "copts"]), expected, "{word}");
        };
        check("src", Some("srcs"));
        check("sources", Some("srcs"));
        check("dependencies", None);
        check("Outs", Some("outs"));
        check("out_dir", Some("out_dirs"));
        check("cdm", Some("cmd"));
        check("timeuot", Some("timeout"));
        check("zzz", None);
        check("inputs", None);
        check("", None);
    }

    #[test]
    fn distances() {
        for (a, b, expected) in
            [("", "", 0), ("abc", "abc", 0), ("abc", "acb", 1), ("abc", "ab", 1), ("kitten", "sitting", 3)]
        {
            assert_eq!(distance(a, b, 9), expected, "{a} {b}");
        }
        assert!(distance("a", "abcdefgh", 3) > 3);
    }
}
