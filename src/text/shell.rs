//! Texts as words of a command that a message tells somebody to type.

use std::borrow::Cow;
use std::path::Path;

/// The path as one word of a shell's command.
pub(crate) fn shell_path(path: &Path) -> String {
    shell_word(&path.to_string_lossy()).into_owned()
}

/// The text as one word of a shell's command: as it is where no shell could read it otherwise, else in quotes.
pub(crate) fn shell_word(text: &str) -> Cow<'_, str> {
    let is_safe = |c: char| {
        c.is_ascii_alphanumeric()
            || matches!(c, '_' | '-' | '.' | '/' | ':' | '@' | '%' | '+' | '=' | ',')
    };
    if !text.is_empty() && text.chars().all(is_safe) {
        return text.into();
    }
    if !text.chars().any(super::printable::is_hidden) {
        return format!("'{}'", text.replace('\'', r"'\''")).into();
    }
    // A line end would break the message apart, and other characters would not show.
    let mut word = String::from("$'");
    for c in text.chars() {
        match c {
            '\'' | '\\' => word.extend(['\\', c]),
            '\n' => word.push_str("\\n"),
            c if super::printable::is_hidden(c) => {
                let mut bytes = [0; 4];
                for byte in c.encode_utf8(&mut bytes).bytes() {
                    word.push_str(&format!("\\x{byte:02x}"));
                }
            }
            c => word.push(c),
        }
    }
    word.push('\'');
    word.into()
}

/// The command of root's as this user types it.
pub(crate) fn as_root(command: &str) -> String {
    match rustix::process::geteuid().is_root() {
        // A container may have no sudo.
        true => command.to_owned(),
        false => format!("sudo {command}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_shell_reads_a_quoted_word_as_the_text_that_it_was() {
        assert_eq!(shell_word("/home/a_b/.x-1"), "/home/a_b/.x-1");
        assert_eq!(shell_word("/home/a b"), "'/home/a b'");
        for text in [
            "",
            "/a b/c",
            "it's",
            "a\"b$HOME`id`\\",
            "~",
            "*",
            "a\nb'\\c\t",
            "ä 猫",
            "a\u{202e}b",
            "-x",
            "#a",
            "{a,b}",
        ] {
            let script = format!("printf %s {}", shell_word(text));
            let output = Command::new("bash").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), text, "{script}");
            assert!(!script.contains('\n'), "{script}");
        }
    }
}
