//! Bytes of files and backends as text. Accepts only UTF-8, and names what other bytes are: UTF-16, or a file that another
//! program has encrypted. Knows no format.

mod printable;
mod shell;

pub(crate) use printable::printable;
pub(crate) use shell::{as_root, shell_path, shell_word};

/// A count with its noun: `1 row`, `2 rows`, `2 entries`.
pub(crate) fn counted(count: u64, noun: &str) -> String {
    match (count, noun.strip_suffix('y')) {
        (1, _) => format!("1 {noun}"),
        (_, Some(stem)) => format!("{count} {stem}ies"),
        (_, None) => format!("{count} {noun}s"),
    }
}

const BOM: &str = "\u{feff}";

/// The first bytes of files that a program has encrypted whole.
const ENCRYPTED_MAGIC: [(&[u8], &str); 5] = [
    (b"\0GITCRYPT\0", "git-crypt"),
    (b"$ANSIBLE_VAULT;", "ansible-vault"),
    (b"age-encryption.org/", "age"),
    (b"-----BEGIN AGE ENCRYPTED FILE-----", "age"),
    (b"-----BEGIN PGP MESSAGE-----", "gpg"),
];

/// The text, without the byte order mark that it may begin with.
///
/// # Errors
/// What the bytes are instead, without quoting them.
pub(crate) fn text_of(bytes: &[u8]) -> Result<&str, String> {
    if let Some((_, by)) = ENCRYPTED_MAGIC
        .iter()
        .find(|(magic, _)| bytes.starts_with(magic))
    {
        return Err(encrypted_by(by));
    }
    // No text begins with a NUL, and none of this program's formats has one behind its first character.
    let is_wide = matches!(
        bytes,
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, ..] | [_, 0, ..]
    );
    if is_wide {
        return Err("it is UTF-16 or UTF-32; save it as UTF-8".to_owned());
    }
    let text = std::str::from_utf8(bytes)
        .map_err(|error| format!("not UTF-8 at byte {}", error.valid_up_to()))?;
    Ok(text.strip_prefix(BOM).unwrap_or(text))
}

/// Why a file that another program has encrypted is refused.
pub(crate) fn encrypted_by(program: &str) -> String {
    format!("it is encrypted by {program}, and neither read nor written here; decrypt it first")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_has_its_noun_in_the_right_number() {
        let shown = [
            (0, "row"),
            (1, "row"),
            (7, "row"),
            (1, "entry"),
            (2, "entry"),
        ];
        assert_eq!(
            shown.map(|(count, noun)| counted(count, noun)),
            ["0 rows", "1 row", "7 rows", "1 entry", "2 entries"]
        );
    }

    #[test]
    fn what_is_not_utf_8_is_refused_with_its_name() {
        let wide = |text: &str, bom: bool, order: fn(u16) -> [u8; 2]| -> Vec<u8> {
            let bom = bom.then_some('\u{feff}').into_iter();
            let text: String = bom.chain(text.chars()).collect();
            text.encode_utf16().flat_map(order).collect()
        };
        for text in ["{\"A\": \"hunter2\"}", "A: hunter2\r\n"] {
            assert_eq!(text_of(text.as_bytes()), Ok(text));
            assert_eq!(text_of(format!("\u{feff}{text}").as_bytes()), Ok(text));
            for bom in [true, false] {
                for order in [u16::to_le_bytes, u16::to_be_bytes] {
                    let reason = text_of(&wide(text, bom, order)).unwrap_err();
                    assert!(reason.contains("UTF-16"), "{reason}");
                }
            }
        }
        assert_eq!(text_of(b"A: \xff").unwrap_err(), "not UTF-8 at byte 3");
        for (bytes, word) in [
            (&b"\0GITCRYPT\0\x01\x02"[..], "git-crypt"),
            (b"$ANSIBLE_VAULT;1.1;AES256\n6231", "ansible-vault"),
            (b"age-encryption.org/v1\n", "age"),
            (b"-----BEGIN PGP MESSAGE-----\n", "gpg"),
        ] {
            let reason = text_of(bytes).unwrap_err();
            assert!(reason.contains(word), "{reason}");
        }
        assert_eq!(text_of(b""), Ok(""));
    }
}
