//! Several managers of one store, in one process and in several: a write returns once all their listeners have run.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use simpletuner_live::manager::SecretsManager;

use crate::{Home, another_process, name};

/// The values of the key `K` that a listener has seen.
#[derive(Clone, Default)]
struct Notified(Arc<(Mutex<Option<String>>, AtomicUsize)>);

impl Notified {
    fn by(manager: &SecretsManager) -> Self {
        let notified = Self::default();
        let ear = notified.clone();
        manager.on_change(Box::new(move |changes| {
            let version = changes.snapshot.find(&name("K")).fresh();
            *ear.0.0.lock().unwrap() = version.map(|v| v.value().as_str().to_owned());
            ear.0.1.fetch_add(1, Ordering::Relaxed);
        }));
        notified
    }

    fn last(&self) -> Option<String> {
        self.0.0.lock().unwrap().clone()
    }
}

#[test]
fn a_write_returns_once_all_managers_of_the_store_have_seen_it() {
    let home = Home::make();
    // An encrypted value is in a snapshot only after a reader has asked for it.
    home.write("live.yaml", "encrypt: false\n");
    let managers = [(); 3].map(|()| home.manager());
    let notified = managers.each_ref().map(|manager| Notified::by(manager));
    let all = |value: Option<&str>| {
        notified
            .iter()
            .all(|notified| notified.last().as_deref() == value)
    };
    for round in 0..60 {
        let value = format!("{round}");
        managers[round % 3].set("K", &value).unwrap();
        assert!(all(Some(&value)), "round {round}");
        managers[(round + 1) % 3].delete("K").unwrap();
        assert!(all(None), "round {round}");
    }
    // A manager without listeners waits for those with listeners.
    home.manager().set("K", "last").unwrap();
    assert!(all(Some("last")));
}

#[test]
fn writers_in_several_processes_have_seen_each_others_writes() {
    let home = Home::make();
    home.write("live.yaml", "encrypt: false\n");
    let manager = home.manager();
    let notified = Notified::by(&manager);
    let mut others = [(); 2].map(|()| {
        let mut command = another_process(
            "peers::the_other_process_writes_what_it_is_asked_for",
            &home,
        );
        command.arg("--nocapture");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        (child, output.lines())
    });
    let mut ask = |who: usize, what: &str| {
        use std::io::Write;
        let (child, lines) = &mut others[who];
        writeln!(child.stdin.as_mut().unwrap(), "{what}").unwrap();
        let answer =
            lines.find_map(|line| Some(line.unwrap().strip_prefix("answer: ")?.to_owned()));
        answer.unwrap()
    };
    for who in 0..2 {
        ask(who, "last");
    }
    for round in 0..30 {
        let value = format!("{round}");
        match round % 3 {
            2 => drop(manager.set("K", &value).unwrap()),
            who => assert_eq!(ask(who, &value), value),
        }
        assert_eq!(notified.last().as_ref(), Some(&value));
        for who in 0..2 {
            assert_eq!(ask(who, "last"), value, "{who} in round {round}");
        }
    }
    for (child, _) in &mut others {
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
    }
}

#[test]
#[ignore = "the other process of a test"]
fn the_other_process_writes_what_it_is_asked_for() {
    let manager = SecretsManager::open().unwrap();
    let notified = Notified::by(&manager);
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        if line != "last" {
            manager.set("K", &line).unwrap();
        }
        println!("\nanswer: {}", notified.last().unwrap_or_default());
    }
}
