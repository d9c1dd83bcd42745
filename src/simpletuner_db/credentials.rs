//! The credentials of SimpleTuner's users, in SimpleTuner's own database: only how many of them a key decrypts, because a rotation
//! of the key does not change that database.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::credential::{CredentialCipher, is_encrypted};
use crate::error::Result;
use crate::settings::Settings;
use crate::sqlite::{Mode, connect, from_sqlite, has_table, identify};

const TABLE: &str = "provider_credentials";
/// How long another program's lock is waited for.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

/// How many credentials this cipher decrypts in each of SimpleTuner's databases that has some.
///
/// # Errors
/// [`Error::Database`](crate::error::Error::Database).
pub(crate) fn credentials_under(
    settings: &Settings,
    cipher: &CredentialCipher,
) -> Result<Vec<(PathBuf, usize)>> {
    let mut databases = vec![
        settings.state_dir.join("cloud/jobs.db"),
        settings.base_dir.join("config/cloud/jobs.db"),
    ];
    databases.dedup();
    let mut found = Vec::new();
    for database in databases {
        let count = count(&database, cipher)?;
        if count > 0 {
            found.push((database, count));
        }
    }
    Ok(found)
}

fn count(path: &Path, cipher: &CredentialCipher) -> Result<usize> {
    if identify(path)?.is_none() {
        return Ok(0);
    }
    let database = connect(path, Mode::Read, LOCK_TIMEOUT)?;
    if !has_table(&database, path, TABLE)? {
        return Ok(0);
    }
    let select = || -> rusqlite::Result<usize> {
        let mut statement =
            database.prepare("SELECT credential_value FROM provider_credentials")?;
        let mut rows = statement.query([])?;
        let mut count = 0;
        while let Some(row) = rows.next()? {
            database.restart_clock();
            let stored = row.get_ref(0)?.as_str().unwrap_or_default();
            count += usize::from(is_encrypted(stored) && cipher.try_decrypt(stored).is_ok());
        }
        Ok(count)
    };
    select().map_err(|error| from_sqlite(path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::SecretValue;
    use rusqlite::Connection;

    #[test]
    fn only_the_credentials_that_the_key_decrypts_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("jobs.db");
        let [ours, other] = ["one", "other"].map(CredentialCipher::derive);
        assert_eq!(count(&path, &ours).unwrap(), 0, "there is no file");
        let database = Connection::open(&path).unwrap();
        assert_eq!(count(&path, &ours).unwrap(), 0, "there is no table");
        let create = "CREATE TABLE provider_credentials (credential_value TEXT)";
        database.execute(create, []).unwrap();
        let value = SecretValue::new("v");
        for stored in [ours.encrypt(&value), other.encrypt(&value), "plain".into()] {
            let insert = "INSERT INTO provider_credentials VALUES (?)";
            database.execute(insert, [stored]).unwrap();
        }
        assert_eq!(count(&path, &ours).unwrap(), 1);
    }
}
