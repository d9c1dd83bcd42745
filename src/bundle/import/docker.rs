//! The files of `docker run --env-file`: all behind the `=` is the value. Podman reads them in the same way.

use super::Raw;
use super::cursor::Fault;
use crate::secret::SecretValue;

pub(super) fn read(text: &str) -> Result<Vec<Raw>, Vec<Fault>> {
    let (mut raw, mut faults) = (Vec::new(), Vec::new());
    for (at, line) in text.split('\n').enumerate() {
        let number = at + 1;
        let line = line.strip_suffix('\r').unwrap_or(line);
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match line.split_once('=') {
            None => faults.push(Fault::new(number, "there is no `=`")),
            Some(("", _)) => faults.push(Fault::new(number, "there is no name before the `=`")),
            Some((name, _)) if name.contains(char::is_whitespace) => {
                faults.push(Fault::new(number, "there is a blank before the `=`"));
            }
            Some((name, value)) => raw.push(Raw {
                name: name.to_owned(),
                value: SecretValue::new(value),
                line: number,
            }),
        }
    }
    match faults.is_empty() {
        true => Ok(raw),
        false => Err(faults),
    }
}
