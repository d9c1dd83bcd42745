//! New random values, from an alphabet.

use std::fmt;
use std::str::FromStr;

use zeroize::Zeroizing;

use crate::error::{Error, Result};

/// The alphabets that have a name.
const NAMED: [(&str, &str); 5] = [
    (
        "alphanumeric",
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789",
    ),
    ("hex", "0123456789abcdef"),
    (
        "base64url",
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_",
    ),
    ("digits", "0123456789"),
    (
        "printable",
        r##"!"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\]^_`abcdefghijklmnopqrstuvwxyz{|}~"##,
    ),
];
/// Before the characters of an alphabet of one's own.
const OWN: &str = "chars:";

/// Distinct characters of which a value is made: 2 to 256 of ASCII.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Alphabet(Vec<u8>);

impl Alphabet {
    /// The names of those that have one.
    pub(crate) fn names() -> impl Iterator<Item = &'static str> {
        NAMED.into_iter().map(|(name, _)| name)
    }

    /// How many bits of chance a value of this many characters has.
    pub(crate) fn bits(&self, length: usize) -> f64 {
        (self.0.len() as f64).log2() * length as f64
    }
}

impl FromStr for Alphabet {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if let Some((_, characters)) = NAMED.into_iter().find(|(name, _)| *name == text) {
            return Ok(Self(characters.as_bytes().to_vec()));
        }
        let names = Self::names().collect::<Vec<_>>().join(", ");
        let Some(own) = text.strip_prefix(OWN) else {
            return Err(format!("it must be {names}, or `{OWN}` and the characters"));
        };
        let mut distinct: Vec<u8> = own.bytes().collect();
        distinct.sort_unstable();
        distinct.dedup();
        if !own.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            return Err("the characters must be printable ASCII".to_owned());
        }
        match distinct.len() == own.len() && distinct.len() >= 2 {
            true => Ok(Self(distinct)),
            false => Err("there must be at least two characters, each of them once".to_owned()),
        }
    }
}

impl fmt::Display for Alphabet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

/// A value of this many characters, each of which is as likely as any other.
///
/// # Errors
/// [`Error::Io`] if the system has no random numbers.
pub(crate) fn generate(alphabet: &Alphabet, length: usize) -> Result<Zeroizing<Vec<u8>>> {
    let Alphabet(characters) = alphabet;
    let count = characters.len();
    // Above it, the first characters would be more likely.
    let usable = 256 - 256 % count;
    let mut value = Zeroizing::new(Vec::with_capacity(length));
    let mut random = Zeroizing::new([0; 256]);
    while value.len() < length {
        getrandom::fill(random.as_mut_slice())
            .map_err(|e| Error::io("random numbers", std::io::Error::other(e.to_string())))?;
        let drawn = random.iter().map(|byte| usize::from(*byte));
        let drawn = drawn.filter(|number| *number < usable);
        let missing = length - value.len();
        value.extend(drawn.take(missing).map(|number| characters[number % count]));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_character_is_as_likely_as_any_other() {
        for (name, characters) in NAMED {
            let alphabet: Alphabet = name.parse().unwrap();
            let each = 2000;
            let length = characters.len() * each;
            let value = generate(&alphabet, length).unwrap();
            assert_eq!(value.len(), length);
            // The chi-square statistic has the mean k - 1 and the variance 2 (k - 1).
            let square = |character: u8| {
                let found = value.iter().filter(|byte| **byte == character).count() as f64;
                (found - each as f64).powi(2) / each as f64
            };
            let statistic: f64 = characters.bytes().map(square).sum();
            let free = (characters.len() - 1) as f64;
            assert!(
                (statistic - free).abs() < 8.0 * (2.0 * free).sqrt(),
                "{name}: {statistic}"
            );
        }
    }

    #[test]
    fn an_alphabet_has_distinct_printable_characters() {
        let own: Alphabet = "chars:ba".parse().unwrap();
        assert!(
            generate(&own, 50)
                .unwrap()
                .iter()
                .all(|byte| b"ab".contains(byte))
        );
        assert_eq!(own.bits(50), 50.0);
        for wrong in [
            "",
            "ab",
            "chars:",
            "chars:a",
            "chars:aa",
            "chars:aba",
            "chars:a\n",
            "chars:ä",
        ] {
            assert!(wrong.parse::<Alphabet>().is_err(), "{wrong}");
        }
        assert_eq!(generate(&own, 0).unwrap().len(), 0);
    }
}
