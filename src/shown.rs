//! What may be shown of the texts that Concur sends: a reply can repeat secrets, and characters that command a terminal.
//!
//! Always: only UUIDs, numbers and known words are shown.

use std::error::Error;

use crate::log;

/// The parts of the labels in Concur's base URIs. A number may follow: `us2`, `apj1`.
const WORDS: [&str; 13] = [
    "api",
    "apj",
    "cn",
    "emea",
    "eu",
    "glz",
    "impl",
    "implementation",
    "integration",
    "test",
    "us",
    "usg",
    "www",
];
const LONGEST_NUMBER: usize = 2;

/// Whether the text has the form of a UUID (RFC 9562 section 4).
pub(crate) fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// The text, if it is a UUID.
pub(crate) fn uuid(text: Option<&str>) -> Option<&str> {
    text.filter(|text| is_uuid(text))
}

/// Whether labels of a host's name, such as `www-us2.api`, consist of known words.
pub(crate) fn are_known_words(labels: &str) -> bool {
    labels.split(['.', '-']).all(|word| {
        let letters = word.trim_end_matches(|c: char| c.is_ascii_digit());
        WORDS.contains(&letters) && word.len() - letters.len() <= LONGEST_NUMBER
    })
}

/// A foreign error's text and those of its causes, as far as they may be shown.
pub(crate) fn with_causes(e: &(dyn Error + 'static)) -> String {
    let text = log::causes(e).into_iter().fold(e.to_string(), |text, causes| format!("{text}: {causes}"));
    unquoted(&text)
}

/// A foreign error's text up to the first thing that it quotes: what is quoted came from the server, as the names in its
/// certificate.
pub(crate) fn unquoted(text: &str) -> String {
    let is_quote = |c: char| "\"`".contains(c) || c.is_control();
    match text.split_once(is_quote) {
        Some((before, _)) => format!("{}…", before.trim_end()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_told_from_other_text() {
        for (text, is) in [
            ("b9eff11c-8129-5656-6196-2688ce930647", true),
            ("B9EFF11C-8129-5656-6196-2688CE930647", true),
            ("b9eff11c-8129-5656-6196-2688ce93064", false),
            ("b9eff11c-8129-5656-6196-2688ce9306470", false),
            ("b9eff11c081290565606196026880ce930647", false),
            ("b9eff11c-8129-5656-6196-2688ce93064g", false),
            ("b9eff11c-8129-5656-6196-2688ce93064\u{e9}", false),
            ("", false),
        ] {
            assert_eq!(is_uuid(text), is, "{text}");
        }
    }

    #[test]
    fn only_words_of_saps_base_uris_are_known() {
        for (labels, known) in [
            ("us.api", true),
            ("www-us2.api", true),
            ("emea-impl.api", true),
            ("apj1.api", true),
            ("eu3.api", true),
            ("us123.api", false),
            ("s3cr3t.api", false),
            ("us-s3cr3t.api", false),
            ("us..api", false),
            ("12.api", false),
            ("", false),
        ] {
            assert_eq!(are_known_words(labels), known, "{labels}");
        }
    }

    #[test]
    fn a_text_ends_where_it_quotes() {
        assert_eq!(unquoted("Connection refused (os error 111)"), "Connection refused (os error 111)");
        assert_eq!(unquoted("not valid for name \"x\"; only for y"), "not valid for name…");
        assert_eq!(unquoted("\u{1b}[31m"), "…");
    }
}
