//! Lists of rules, to say which of them is broken.

/// `first![(broken, words), …]`: the words of the first rule that is broken. Conditions and words become two arrays, so that
/// the words are a constant.
macro_rules! first {
    ($(($broken:expr, $words:expr $(,)?)),* $(,)?) => {
        $crate::rules::first_of(&[$($broken),*], &[$($words),*])
    };
}
pub(crate) use first;

/// The words that belong to the first that is true.
pub(crate) fn first_of(broken: &[bool], words: &[&'static str]) -> Option<&'static str> {
    words.get(broken.iter().position(|broken| *broken)?).copied()
}
