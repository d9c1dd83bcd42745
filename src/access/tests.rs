use std::sync::mpsc::channel;

use super::*;

fn rule(secrets: &[&str], users: &[&str], groups: &[&str]) -> AccessRule {
    let texts = |texts: &[&str]| texts.iter().map(ToString::to_string).collect();
    AccessRule {
        secrets: texts(secrets),
        users: texts(users),
        groups: texts(groups),
    }
}

fn access(rules: Vec<AccessRule>) -> (Arc<Access>, TtlCache<Value>) {
    let cache = TtlCache::new(USER_PERMISSION);
    (Access::new(rules, cache.clone()), cache)
}

/// Over a database that knows these users.
fn access_of(rules: Vec<AccessRule>, known: &[(u32, Option<&str>, &[u32])]) -> Arc<Access> {
    let known: Vec<(u32, User)> = known
        .iter()
        .map(|(uid, name, groups)| {
            let user = User {
                name: name.map(ToOwned::to_owned),
                groups: groups.to_vec(),
            };
            (*uid, user)
        })
        .collect();
    let find = move |uid| match known.iter().find(|(known, _)| *known == uid) {
        Some((_, user)) => Ok(user.clone()),
        None => Err("it does not answer".to_owned()),
    };
    Access::with_database(rules, TtlCache::new(USER_PERMISSION), Box::new(find))
}

fn name(text: &str) -> SecretName {
    SecretName::new(text).unwrap()
}

#[test]
fn a_user_is_named_by_name_by_number_and_by_group() {
    let rules = vec![
        rule(&["HF_*"], &["trainer"], &[]),
        rule(&["WANDB"], &["2002"], &[]),
        rule(&["G_*"], &[], &["7007"]),
    ];
    let access = access_of(
        rules,
        &[
            (2001, Some("trainer"), &[100]),
            (2002, None, &[]),
            (2003, Some("member"), &[100, 7007]),
            (2004, Some("2002"), &[7]),
        ],
    );
    let may = |uid, key: &str| access.permitted(uid).unwrap().allows(&name(key));
    assert!(may(2001, "HF_TOKEN") && !may(2001, "WANDB") && !may(2001, "G_A"));
    assert!(may(2002, "WANDB") && !may(2002, "HF_TOKEN"));
    assert!(may(2003, "G_A") && !may(2003, "WANDB"));
    assert!(access.permitted(2004).unwrap().is_nothing());
}

#[test]
fn permissions_are_equal_where_the_same_may_be_read() {
    let rules = vec![
        rule(&["B", "A"], &["1001"], &[]),
        rule(&["A"], &["1001", "1002"], &[]),
        rule(&["B"], &["1002"], &[]),
    ];
    let access = access_of(rules, &[(1001, None, &[]), (1002, None, &[])]);
    let both = [1001, 1002].map(|uid| access.permitted(uid).unwrap());
    assert_eq!(both[0], both[1]);
    assert_eq!(both[0].text(), "A,B");
    assert_eq!(Permitted::from_text("A,B"), both[0]);
    assert!(Permitted::from_text("").is_nothing());
}

#[test]
fn the_answers_lie_in_the_cache_and_an_invalidation_drops_one_users() {
    let (access, cache) = access(vec![rule(&["A"], &["root"], &[])]);
    assert!(matches!(access.known(0), Known::Unknown));
    let (done, is_done) = channel();
    access.ask(0, Box::new(move || done.send(()).unwrap()));
    is_done.recv().unwrap();
    let Known::Permitted(permitted) = access.known(0) else {
        panic!("it is not known");
    };
    assert!(permitted.allows(&name("A")));
    assert_eq!(access.known_user(0).unwrap().name.as_deref(), Some("root"));
    assert_eq!(cache.get("user:0:database").unwrap()["name"], "root");
    assert_eq!(cache.get("user:0:access").unwrap()["secrets"], json!(["A"]));
    assert_eq!(cache.invalidate_prefix("user:0:"), 2);
    assert!(matches!(access.known(0), Known::Unknown));
}

#[test]
fn a_failure_of_the_database_is_told_and_held_for_a_moment_only() {
    let access = access_of(vec![rule(&["A"], &["1001"], &[])], &[]);
    assert_eq!(access.permitted(1001).unwrap_err().errno(), libc::EIO);
    assert!(access.cache.ttl_left(&access_key(1001)).unwrap() <= FAILURE_TTL);
    let Known::Failed(error) = access.known(1001) else {
        panic!("it is no failure");
    };
    assert_eq!(error.errno(), libc::EIO);
    assert!(error.to_string().contains("it does not answer"), "{error}");
    assert_eq!(access.permitted(1001).unwrap_err().errno(), libc::EIO);
}

#[test]
fn without_rules_nobody_is_asked_about() {
    let (access, cache) = access(Vec::new());
    assert!(matches!(access.known(1001), Known::Permitted(p) if p.is_nothing()));
    assert!(access.permitted(1001).unwrap().is_nothing());
    assert!(cache.is_empty());
}

#[test]
fn what_stands_for_nothing_is_complained_of() {
    let (access, _) = access(vec![
        rule(&["HF_*", "NONE_*"], &["root", "no-such-user", "4242"], &[]),
        rule(&["NONE_*"], &[], &["root", "no-such-group"]),
    ]);
    let names = [name("HF_TOKEN")];
    assert_eq!(
        access.complaints(Some(&names)),
        [
            "access: there is no user \"no-such-user\"",
            "access: no secret has a name like \"NONE_*\"",
            "access: there is no group \"no-such-group\"",
        ]
    );
    assert_eq!(access.complaints(None).len(), 2);
}
