//! Three kinds of readers beside several kinds of writers: no reader gets a mix of two values.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};

use super::*;
use support::alone;

const LEN: usize = 20_000;

/// The two values that are alternated: each of one letter, so that a mix shows.
fn value(letter: u8) -> Vec<u8> {
    vec![letter; LEN]
}

/// What is wrong with a value that was read, if anything.
fn flaw(bytes: &[u8]) -> Option<String> {
    let first = bytes.first().copied();
    let whole = bytes.len() == LEN
        && matches!(first, Some(b'a' | b'b'))
        && bytes.iter().all(|&b| Some(b) == first);
    (!whole).then(|| {
        let kinds: std::collections::BTreeSet<u8> = bytes.iter().copied().collect();
        format!("{} bytes, of {kinds:?}", bytes.len())
    })
}

fn read_at_once(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut buffer = vec![0; 65536];
    let mut file = File::open(path)?;
    let mut len = 0;
    loop {
        match file.read(&mut buffer[len..])? {
            0 => break,
            count => len += count,
        }
    }
    buffer.truncate(len);
    Ok(buffer)
}

fn read_in_pieces(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let (mut all, mut piece) = (Vec::new(), [0; 1000]);
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(all),
            count => all.extend_from_slice(&piece[..count]),
        }
        std::thread::yield_now();
    }
}

fn read_mapped(path: &Path) -> std::io::Result<Vec<u8>> {
    use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
    let file = File::open(path)?;
    let len = file.metadata()?.len() as usize;
    if len == 0 {
        return Ok(Vec::new());
    }
    // SAFETY: a private mapping of our own, of which each byte is copied before it is unmapped.
    unsafe {
        let start = mmap(
            std::ptr::null_mut(),
            len,
            ProtFlags::READ,
            MapFlags::PRIVATE,
            &file,
            0,
        )?;
        std::thread::yield_now();
        let bytes = std::slice::from_raw_parts(start.cast::<u8>(), len).to_vec();
        munmap(start, len)?;
        Ok(bytes)
    }
}

/// Eight readers of all three kinds look while `change` runs; gives how many reads there were.
fn readers_look_while(path: &Path, change: impl FnOnce()) -> usize {
    let ended = Arc::new(AtomicBool::new(false));
    let flaws: Arc<Mutex<Vec<String>>> = Arc::default();
    let reads = Arc::new(AtomicUsize::new(0));
    let readers: Vec<_> = (0..8)
        .map(|number| {
            let (path, ended) = (path.to_owned(), ended.clone());
            let (flaws, reads) = (flaws.clone(), reads.clone());
            std::thread::spawn(move || {
                let (kind, read): (_, fn(&Path) -> _) = [
                    (
                        "at once",
                        read_at_once as fn(&Path) -> std::io::Result<Vec<u8>>,
                    ),
                    ("in pieces", read_in_pieces),
                    ("mapped", read_mapped),
                ][number % 3];
                while !ended.load(Ordering::Relaxed) {
                    let found = match read(&path) {
                        Ok(bytes) => flaw(&bytes),
                        Err(error) => Some(error.to_string()),
                    };
                    reads.fetch_add(1, Ordering::Relaxed);
                    if let Some(found) = found {
                        flaws.lock().unwrap().push(format!("read {kind}: {found}"));
                    }
                }
            })
        })
        .collect();
    change();
    ended.store(true, Ordering::Relaxed);
    readers
        .into_iter()
        .for_each(|reader| reader.join().unwrap());
    let (flaws, reads) = (flaws.lock().unwrap(), reads.load(Ordering::Relaxed));
    assert!(
        flaws.is_empty(),
        "{} of {reads} reads: {:?}",
        flaws.len(),
        &flaws[..flaws.len().min(10)]
    );
    assert!(reads > 0);
    reads
}

fn write_in_pieces(path: &Path, letter: u8) {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)
        .unwrap();
    for piece in value(letter).chunks(3000) {
        file.write_all(piece).unwrap();
        std::thread::yield_now();
    }
}

fn in_threads(count: usize, work: impl Fn(usize) + Send + Sync) {
    std::thread::scope(|scope| {
        for number in 0..count {
            let work = &work;
            scope.spawn(move || work(number));
        }
    });
}

fn letter(number: usize) -> u8 {
    if number.is_multiple_of(2) { b'a' } else { b'b' }
}

fn started(mode: Mode) -> (Live, PathBuf) {
    let live = mounted(mode);
    let path = live.path("secrets/K");
    fs::write(&path, value(b'a')).unwrap();
    (live, path)
}

#[test]
fn readers_see_whole_values_beside_writers_that_write_in_pieces() {
    let _alone = alone();
    for mode in MODES {
        let (_live, path) = started(mode);
        readers_look_while(&path, || {
            in_threads(4, |writer| {
                (0..60).for_each(|round| write_in_pieces(&path, letter(writer + round)))
            });
        });
    }
}

#[test]
fn readers_see_whole_values_beside_renames_over_the_name_and_truncating_writers() {
    let _alone = alone();
    for mode in MODES {
        let (_live, path) = started(mode);
        readers_look_while(&path, || {
            in_threads(4, |writer| {
                for round in 0..60 {
                    if writer < 2 {
                        let beside = path.with_file_name(format!(".new{writer}"));
                        write_in_pieces(&beside, letter(writer + round));
                        fs::rename(&beside, &path).unwrap();
                    } else {
                        write_in_pieces(&path, letter(writer + round));
                    }
                }
            });
        });
    }
}

#[test]
fn readers_see_whole_values_beside_edits_of_the_secrets_file() {
    let _alone = alone();
    for mode in MODES {
        let (live, path) = started(mode);
        let file = live.home(".simpletuner/secrets.json");
        readers_look_while(&path, || {
            for round in 0..150 {
                let text = String::from_utf8(value(letter(round))).unwrap();
                let beside = file.with_extension("new");
                fs::write(&beside, format!("{{\"K\": \"{text}\"}}")).unwrap();
                fs::rename(&beside, &file).unwrap();
            }
            for round in 0..60 {
                write_in_pieces(&path, letter(round));
            }
        });
    }
}

#[test]
fn readers_see_whole_values_beside_shells() {
    let _alone = alone();
    for mode in MODES {
        let (live, path) = started(mode);
        let a = String::from_utf8(value(b'a')).unwrap();
        let b = String::from_utf8(value(b'b')).unwrap();
        fs::write(live.home("a"), &a).unwrap();
        fs::write(live.home("b"), &b).unwrap();
        readers_look_while(&path, || {
            in_threads(4, |writer| {
                let script = match writer {
                    // A builtin, whose descriptor the shell closes before and after the write.
                    0 => {
                        "for i in {1..25}; do printf %s \"$(<~/a)\" > secrets/K; printf %s \"$(<~/b)\" > secrets/K; done"
                    }
                    // Several children write by one descriptor that the shell holds.
                    1 => {
                        "for i in {1..25}; do { head -c 7000 ~/a; tail -c 13000 ~/a; } > secrets/K; done"
                    }
                    2 => {
                        "for i in {1..25}; do cp ~/b secrets/.c; mv secrets/.c secrets/K; dd if=~/a of=secrets/K bs=3000 status=none; done"
                    }
                    // Writers that are killed half way leave nothing behind.
                    _ => {
                        "for i in {1..25}; do { head -c 9000 ~/b; kill -9 $BASHPID; } > secrets/K & wait $! 2>/dev/null; done 2>/dev/null; true"
                    }
                };
                live.sh(script);
            });
        });
    }
}

#[test]
fn a_reader_that_opens_after_a_writers_close_sees_what_was_written() {
    let _alone = alone();
    for mode in MODES {
        let live = mounted(mode);
        in_threads(4, |thread| {
            let path = live.path(&format!("secrets/K{thread}"));
            for round in 0..1200 {
                let text = format!("{}{}", "x".repeat(round % 7), round);
                fs::write(&path, &text).unwrap();
                assert_eq!(fs::metadata(&path).unwrap().len(), text.len() as u64);
                assert_eq!(fs::read_to_string(&path).unwrap(), text, "round {round}");
            }
        });
    }
}

#[test]
fn the_next_command_of_a_shell_sees_the_value_that_it_wrote() {
    let _alone = alone();
    for mode in MODES {
        let live = mounted(mode);
        let said = live.sh(
        "for i in {1..100}; do echo v$i > secrets/K; [ \"$(<secrets/K)\" = v$i ] || echo builtin $i; \
         { echo -n w; printf %s $i; } > secrets/K; [ \"$(cat secrets/K)\" = w$i ] || echo group $i; \
         (printf %s x; sh -c \"printf %s $i\") > secrets/K; [ \"$(cat secrets/K)\" = x$i ] || echo subshell $i; done",
    );
        assert_eq!(said, "");
    }
}

#[test]
fn a_writer_that_is_killed_half_way_changes_nothing() {
    let _alone = alone();
    for mode in MODES {
        let live = mounted(mode);
        live.write("secrets/K", "old");
        for signal in ["KILL", "TERM", "SEGV"] {
            live.try_sh(&format!(
                "{{ printf half; kill -{signal} $BASHPID; }} > secrets/K & wait"
            ));
            assert_eq!(live.read("secrets/K"), "old", "SIG{signal}");
            live.try_sh(&format!(
                "{{ printf half; kill -{signal} $BASHPID; }} > secrets/NEW & wait"
            ));
            assert!(!live.path("secrets/NEW").exists(), "SIG{signal}");
        }
        live.write("secrets/K", "new");
        assert_eq!(live.read("secrets/K"), "new");
    }
}

#[test]
fn an_open_file_keeps_the_value_it_was_opened_on() {
    let _alone = alone();
    for mode in MODES {
        let live = mounted(mode);
        live.write("secrets/K", "first");
        let mut old = File::open(live.path("secrets/K")).unwrap();
        live.write("secrets/K", "the second, longer one");
        let mut text = String::new();
        old.read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), old.metadata().unwrap().len()), ("first", 5));
        assert_eq!(live.read("secrets/K"), "the second, longer one");
        let mut old = File::open(live.path("secrets/K")).unwrap();
        fs::remove_file(live.path("secrets/K")).unwrap();
        text.clear();
        old.read_to_string(&mut text).unwrap();
        assert_eq!(text, "the second, longer one");
    }
}
