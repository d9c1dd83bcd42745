//! The name that somebody may have meant.

/// The nearest of these names, if it is near enough to be a slip: another case, or a letter in three.
pub(super) fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let upper = |text: &str| text.to_ascii_uppercase().replace(['-', '.'], "_");
    let wanted = upper(name);
    let far = |known: &str| strsim::damerau_levenshtein(&wanted, &upper(known));
    let near = names.map(|known| (far(known), known));
    let nearest = near.min_by_key(|(distance, _)| *distance);
    // Of a name of one letter, a letter in three is the whole name.
    let is_slip = |distance| distance <= name.len().div_ceil(3) && distance < name.len();
    nearest.and_then(|(distance, known)| is_slip(distance).then_some(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_the_name_and_another_word_does_not() {
        let names = ["AWS_KEY", "HF_TOKEN", "WANDB_API_KEY", "X"];
        let nearest = |name| nearest(name, names.into_iter());
        assert_eq!(nearest("HF_TOKE"), Some("HF_TOKEN"));
        assert_eq!(nearest("hf-token"), Some("HF_TOKEN"));
        assert_eq!(nearest("FH_TOKEN"), Some("HF_TOKEN"));
        assert_eq!(nearest("WANDB_KEY"), None);
        assert_eq!(nearest("WANDB_APIKEY"), Some("WANDB_API_KEY"));
        assert_eq!(nearest("GITHUB_PASSWORD"), None);
        assert_eq!(nearest("x"), Some("X"));
        assert_eq!(nearest("Y"), None);
    }
}
