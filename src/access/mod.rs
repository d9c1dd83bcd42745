//! Who else than the mounting user may read which secrets: the settings' `access`, by what the system's user database
//! says of a caller. Both answers lie in the cache `user_permission`, under `user:{id}:database` and `user:{id}:access`.
//! Knows no file and no secret's value.

mod asking;
mod pattern;

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use serde_json::{Value, json};

use crate::cache::{TtlCache, USER_PERMISSION};
use crate::error::{Error, Result};
use crate::provider::Done;
use crate::secret::SecretName;
use crate::settings::AccessRule;
use crate::users::{self, User};
use asking::Asked;

/// For how long a failure of the user database is its answer. Until then nobody asks again, however many wait.
const FAILURE_TTL: Duration = Duration::from_secs(1);

/// The cache of the chain that is one for the whole process ([`SecretsManager::global`]), keys `user:{id}:...`: 60 s, 500
/// entries.
///
/// [`SecretsManager::global`]: crate::manager::SecretsManager::global
pub fn user_permission_cache() -> &'static TtlCache<Value> {
    static CACHE: OnceLock<TtlCache<Value>> = OnceLock::new();
    CACHE.get_or_init(|| TtlCache::new(USER_PERMISSION))
}

/// Drops a user's entries from [`user_permission_cache`]; how many there were.
pub fn invalidate_user_cache(uid: u32) -> usize {
    user_permission_cache().invalidate_prefix(&format!("user:{uid}:"))
}

/// The rules, and what is known of whom they are for.
pub struct Access {
    rules: Vec<AccessRule>,
    cache: TtlCache<Value>,
    database: Database,
    asked: Mutex<Asked>,
}

/// Where a user is asked for by his number; the reason where it gives no answer.
type Database = Box<dyn Fn(u32) -> Result<User, String> + Send + Sync>;

/// What is known of a user's permissions without waiting.
#[derive(Debug)]
pub enum Known {
    /// What he may read.
    Permitted(Permitted),
    /// The user database could not be asked.
    Failed(Error),
    /// It must be asked first ([`Access::ask`]).
    Unknown,
}

/// The secrets that somebody may read: those whose names match one of these patterns. Two who may read the same are equal.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Permitted(Arc<str>);

impl Permitted {
    fn of<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Self {
        let mut patterns: Vec<&str> = patterns.into_iter().collect();
        patterns.sort_unstable();
        patterns.dedup();
        Self(patterns.join(",").into())
    }

    /// The permission that [`Permitted::text`] stands for.
    pub fn from_text(text: &str) -> Self {
        Self::of(text.split(',').filter(|pattern| !pattern.is_empty()))
    }

    /// The patterns in order, with a `,` between them, which no name and no pattern holds.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// Whether no secret may be read.
    pub fn is_nothing(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this secret may be read.
    pub fn allows(&self, name: &SecretName) -> bool {
        let mut patterns = self.0.split(',');
        patterns.any(|pattern| pattern::matches(pattern, name.as_str()))
    }
}

impl fmt::Debug for Permitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Permitted({})", self.0)
    }
}

fn database_key(uid: u32) -> String {
    format!("user:{uid}:database")
}

fn access_key(uid: u32) -> String {
    format!("user:{uid}:access")
}

impl Access {
    /// These rules, over the cache `user_permission`.
    pub fn new(rules: Vec<AccessRule>, cache: TtlCache<Value>) -> Arc<Self> {
        Self::with_database(rules, cache, Box::new(users::by_id))
    }

    fn with_database(
        rules: Vec<AccessRule>,
        cache: TtlCache<Value>,
        database: Database,
    ) -> Arc<Self> {
        Arc::new(Self {
            rules,
            cache,
            database,
            asked: Mutex::default(),
        })
    }

    /// Whether anybody is named at all.
    pub fn has_rules(&self) -> bool {
        !self.rules.is_empty()
    }

    /// What is known of a user's permissions, without waiting.
    pub fn known(&self, uid: u32) -> Known {
        if !self.has_rules() {
            return Known::Permitted(Permitted::of([]));
        }
        match self.cache.get(&access_key(uid)) {
            None => Known::Unknown,
            Some(held) => match read_access(&held) {
                Ok(permitted) => Known::Permitted(permitted),
                Err(reason) => Known::Failed(failed(uid, &reason)),
            },
        }
    }

    /// Asks the user database in the background; `done` is called when [`known`](Self::known) has an answer.
    pub fn ask(self: &Arc<Self>, uid: u32, done: Done) {
        asking::ask(self, uid, done);
    }

    /// A user's permissions; waits for the user database, as long as that takes.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be asked.
    pub fn permitted(&self, uid: u32) -> Result<Permitted> {
        if !self.has_rules() {
            return Ok(Permitted::of([]));
        }
        let answer = || {
            self.judge(uid)
                .map(|permitted| json!({ "secrets": patterns(&permitted) }))
        };
        self.remembered(uid, &access_key(uid), answer)
            .and_then(|held| read_access(&held))
            .map_err(|reason| failed(uid, &reason))
    }

    /// What the user database says of a user; waits for it, as long as that takes.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be asked.
    pub fn user(&self, uid: u32) -> Result<User> {
        self.record(uid).map_err(|reason| failed(uid, &reason))
    }

    /// What is held of a user, without waiting.
    pub fn known_user(&self, uid: u32) -> Option<User> {
        serde_json::from_value(self.cache.get(&database_key(uid))?).ok()
    }

    fn record(&self, uid: u32) -> Result<User, String> {
        let ask = || (self.database)(uid).map(|user| json!(user));
        let held = self.remembered(uid, &database_key(uid), ask)?;
        serde_json::from_value(held).map_err(|error| error.to_string())
    }

    /// The held answer, or a new one; a failure is held, too, for a moment.
    fn remembered(
        &self,
        uid: u32,
        key: &str,
        ask: impl FnOnce() -> Result<Value, String>,
    ) -> Result<Value, String> {
        let answer = self.cache.get_or_set(key, ask);
        if let Err(reason) = &answer {
            tracing::warn!("{}", failed(uid, reason));
            self.cache
                .set_with_ttl(key, json!({ "error": reason }), FAILURE_TTL);
        }
        let held = answer?;
        match held["error"].as_str() {
            Some(reason) => Err(reason.to_owned()),
            None => Ok(held),
        }
    }

    fn judge(&self, uid: u32) -> Result<Permitted, String> {
        // Asked anew, lest the answer be as old as both times to live together.
        self.cache.delete(&database_key(uid));
        let user = self.record(uid)?;
        let mut patterns = Vec::new();
        let mut failed = None;
        for rule in &self.rules {
            let is_named = names_user(rule, uid, &user)
                || names_group(rule, &user).unwrap_or_else(|reason| {
                    failed = Some(reason);
                    false
                });
            if is_named {
                patterns.extend(rule.secrets.iter().map(String::as_str));
            }
        }
        match failed {
            // A group that cannot be asked for takes nothing from whom another rule names.
            Some(reason) if patterns.is_empty() => Err(reason),
            _ => Ok(Permitted::of(patterns)),
        }
    }

    /// What in the rules stands for nobody, or for nothing: for who mounts, to be told once. `names` are the secrets that
    /// are there; `None` where they are not known. Waits for the user database.
    pub fn complaints(&self, names: Option<&[SecretName]>) -> Vec<String> {
        let mut complaints = Vec::new();
        let mut complain = |text: String| {
            if !complaints.contains(&text) {
                complaints.push(text);
            }
        };
        for rule in &self.rules {
            for user in rule.users.iter().filter(|user| number(user).is_none()) {
                match users::user_id(user) {
                    Ok(Some(_)) => {}
                    Ok(None) => complain(format!("access: there is no user {user:?}")),
                    Err(reason) => complain(format!(
                        "access: whether there is a user {user:?} is not known: {reason}"
                    )),
                }
            }
            for group in rule.groups.iter().filter(|group| number(group).is_none()) {
                match users::group_id(group) {
                    Ok(Some(_)) => {}
                    Ok(None) => complain(format!("access: there is no group {group:?}")),
                    Err(reason) => complain(format!(
                        "access: whether there is a group {group:?} is not known: {reason}"
                    )),
                }
            }
            for pattern in &rule.secrets {
                let matches = |name: &SecretName| pattern::matches(pattern, name.as_str());
                if names.is_some_and(|names| !names.iter().any(matches)) {
                    complain(format!("access: no secret has a name like {pattern:?}"));
                }
            }
        }
        complaints
    }
}

/// A user or group that is given by its number.
fn number(text: &str) -> Option<u32> {
    text.parse().ok()
}

fn names_user(rule: &AccessRule, uid: u32, user: &User) -> bool {
    rule.users.iter().any(|named| match number(named) {
        Some(number) => number == uid,
        None => user.name.as_ref() == Some(named),
    })
}

fn names_group(rule: &AccessRule, user: &User) -> Result<bool, String> {
    for named in &rule.groups {
        let gid = match number(named) {
            Some(number) => Some(number),
            None => users::group_id(named)?,
        };
        if gid.is_some_and(|gid| user.groups.contains(&gid)) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn patterns(permitted: &Permitted) -> Vec<&str> {
    let patterns = permitted.text().split(',');
    patterns.filter(|pattern| !pattern.is_empty()).collect()
}

fn read_access(held: &Value) -> Result<Permitted, String> {
    if let Some(reason) = held["error"].as_str() {
        return Err(reason.to_owned());
    }
    let listed = held["secrets"].as_array().ok_or("it holds no answer")?;
    Ok(Permitted::of(listed.iter().filter_map(Value::as_str)))
}

fn failed(uid: u32, reason: &str) -> Error {
    // Of no errno: whatever the user database's was, the caller is told EIO.
    let reason = std::io::Error::other(reason.to_owned());
    Error::io(
        format!("the user database cannot be asked about user {uid}"),
        reason,
    )
}

#[cfg(test)]
mod tests;
