//! Whether two processes have the same variables for the backends. Only the process that was given them first compares: it
//! answers names, and nothing that is derived from a value.

use std::collections::BTreeMap;

use zeroize::Zeroizing;

use super::path_variables;

type Variables = BTreeMap<String, Zeroizing<String>>;

/// The variables of this process that the backends and their libraries read, and those that `named` has, to be compared by
/// another process: `NAME=VALUE`, each followed by a zero byte.
pub fn backend_variables(named: &[String]) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(Vec::new());
    for (name, value) in of_this_process(named) {
        // A vector that grows leaves a copy, which ends with this command.
        for part in [name.as_bytes(), b"=", value.as_bytes(), b"\0"] {
            bytes.extend_from_slice(part);
        }
    }
    bytes
}

/// The names of those that the other process has and this one has not, or has with another value. `None`: they are not what
/// [`backend_variables`] gives.
pub fn differing_variables(of_other: &[u8], named: &[String]) -> Option<Vec<String>> {
    differing(of_other, &of_this_process(named), named)
}

fn differing(of_other: &[u8], here: &Variables, named: &[String]) -> Option<Vec<String>> {
    let text = std::str::from_utf8(of_other).ok()?;
    let pairs = text.split_terminator('\0');
    let pairs: Option<Vec<_>> = pairs.map(|pair| pair.split_once('=')).collect();
    let differs = |(name, value): &(&str, &str)| {
        is_of_backends(name, named) && here.get(*name).map(|here| here.as_str()) != Some(*value)
    };
    let names = pairs?
        .into_iter()
        .filter(differs)
        .map(|(name, _)| name.to_owned());
    Some(names.collect())
}

fn of_this_process(named: &[String]) -> Variables {
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    of_backends(std::env::vars_os().filter_map(text), named)
}

fn of_backends(variables: impl Iterator<Item = (String, String)>, named: &[String]) -> Variables {
    let paths = path_variables();
    let absolute = |(name, value): (String, String)| {
        // The daemon has made its paths absolute.
        let value = match paths.contains(&name.as_str()) && !value.starts_with('~') {
            true => std::path::absolute(&value).map_or(value, |path| path.display().to_string()),
            false => value,
        };
        (name, Zeroizing::new(value))
    };
    variables
        .filter(|(name, value)| is_of_backends(name, named) && !value.is_empty())
        .map(absolute)
        .collect()
}

/// Whether a backend, its library, or a program that `named` is for reads the variable.
fn is_of_backends(name: &str, named: &[String]) -> bool {
    let proxies = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"];
    let prefixes = ["AWS_", "VAULT_", "SIMPLETUNER_AWS_", "SIMPLETUNER_VAULT_"];
    proxies.contains(&name.to_ascii_uppercase().as_str())
        || prefixes.iter().any(|prefix| name.starts_with(prefix))
        || named.iter().any(|named| named == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_that_are_new_or_changed_are_named() {
        let named = ["BW_SESSION".to_owned()];
        let set = |variables: &[(&str, &str)]| {
            let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
            of_backends(variables.iter().map(owned), &named)
        };
        let there = set(&[
            ("AWS_PROFILE", "hunter2"),
            ("VAULT_TOKEN", "hunter2"),
            ("AWS_REGION", "r"),
            ("HOME", "/a"),
            ("no_proxy", "*"),
            ("VAULT_CACERT", "/a/../ca.pem"),
        ]);
        let here = set(&[
            ("AWS_PROFILE", "hunter2"),
            ("VAULT_TOKEN", "other=1"),
            ("AWS_REGION", ""),
            ("VAULT_ADDR", "new"),
            ("BW_SESSION", "new"),
            ("HOME", "/b"),
            ("no_proxy", "*"),
            ("VAULT_CACERT", "/a/../ca.pem"),
        ]);
        let given: String = here
            .iter()
            .map(|(name, value)| format!("{name}={}\0", value.as_str()))
            .collect();
        let changed = differing(given.as_bytes(), &there, &named).unwrap();
        assert_eq!(changed, ["BW_SESSION", "VAULT_ADDR", "VAULT_TOKEN"]);
        assert_eq!(differing(b"", &there, &named), Some(Vec::new()));
        for odd in [&b"\xff=x\0"[..], b"AWS_PROFILE\0"] {
            assert_eq!(differing(odd, &there, &named), None);
        }
    }
}
