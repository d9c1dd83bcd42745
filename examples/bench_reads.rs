//! The timing half of `scripts/bench`: reads of several files in turn, the cache, a command's run time. Prints plain
//! numbers, one line for each thing measured; the script makes the table.

use std::fs::File;
use std::hint::black_box;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use simpletuner_live::cache::{CacheOptions, TtlCache};
use simpletuner_live::provider::aws::{AwsBackend, AwsOptions};
use simpletuner_live::provider::backend::Backend;
use simpletuner_live::secret::SecretValue;

const USAGE: &str = "usage:
  bench_reads reads ROUNDS READS NAME=FILE...   p50 and p99 of open+read+close in microseconds (medians of the rounds)
  bench_reads command TIMES COMMAND...          median run time in milliseconds; its output is thrown away
  bench_reads cold TIMES CLEAR FILE SECRET      p50 in milliseconds of reading the file after a write to CLEAR, and of
                                                the same call to AWS by the same client without the mount
  bench_reads waits TIMES MOUNT FILE [COMMAND...]
                                                median and worst of the longest open+read+close of a reader beside each
                                                change of the server, in milliseconds: the server is killed, or the
                                                command has another one come. With a folder, all its files in turn
  bench_reads rotations TIMES LIVE VIEW         median in milliseconds from before a write of LIVE until VIEW shows it, and
                                                how many opens of VIEW after the close had the old value
  bench_reads neighbour KIND FOLDER             until it is killed: opens files and keeps 50,000, or as many as it may (opens), lists (lists),
                                                or looks for names that are not there (probes)
  bench_reads cache GETS                        TtlCache::get, millions a second on one thread (median of 5)";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match args.first().map(String::as_str) {
        Some("reads") => reads(&args[1..]),
        Some("command") => command(&args[1..]),
        Some("cold") => cold(&args[1..]),
        Some("waits") => waits(&args[1..]),
        Some("rotations") => rotations(&args[1..]),
        Some("neighbour") => neighbour(&args[1..]),
        Some("cache") => cache(&args[1..]),
        _ => Err(USAGE.into()),
    };
    if let Err(error) = done {
        eprintln!("bench_reads: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

type Done = Result<(), Box<dyn std::error::Error>>;

fn median<T: PartialOrd + Copy>(values: &mut [T]) -> T {
    values.sort_by(|a, b| a.partial_cmp(b).expect("no NaN is measured"));
    values[values.len() / 2]
}

/// The files take turns in each round, so that whatever disturbs the machine disturbs them alike.
fn reads(args: &[String]) -> Done {
    let [rounds, reads, targets @ ..] = args else {
        return Err(USAGE.into());
    };
    let (rounds, reads): (usize, usize) = (rounds.parse()?, reads.parse()?);
    let mut targets: Vec<_> = targets
        .iter()
        .map(|target| {
            let (name, path) = target.split_once('=').ok_or(USAGE)?;
            Ok::<_, &str>((name, path, Vec::new(), Vec::new()))
        })
        .collect::<Result<_, _>>()?;
    if targets.is_empty() || rounds == 0 || reads == 0 {
        return Err(USAGE.into());
    }
    let mut buffer = [0; 4096];
    let mut times = Vec::with_capacity(reads);
    for round in 0..=rounds {
        for (_, path, p50, p99) in &mut targets {
            times.clear();
            for _ in 0..reads {
                let start = Instant::now();
                let mut file = File::open(*path)?;
                let got = file.read(&mut buffer)?;
                drop(file);
                times.push(start.elapsed());
                if got == 0 {
                    return Err(format!("{path} is empty").into());
                }
            }
            // The first round warms up.
            if round > 0 {
                p50.push(median(&mut times));
                p99.push(times[times.len() * 99 / 100]);
            }
        }
    }
    let microseconds = |time: Duration| time.as_secs_f64() * 1e6;
    for (name, _, mut p50, mut p99) in targets {
        let (p50, p99) = (median(&mut p50), median(&mut p99));
        println!("{name} {:.2} {:.2}", microseconds(p50), microseconds(p99));
    }
    Ok(())
}

fn command(args: &[String]) -> Done {
    let [times, program, arguments @ ..] = args else {
        return Err(USAGE.into());
    };
    let mut taken = Vec::new();
    for _ in 0..times.parse::<usize>()?.max(1) {
        let mut command = Command::new(program);
        command.args(arguments).stdout(Stdio::null());
        let start = Instant::now();
        let status = command.status()?;
        taken.push(start.elapsed().as_secs_f64() * 1e3);
        if !status.success() {
            return Err(format!("{program}: {status}").into());
        }
    }
    println!("{:.2}", median(&mut taken));
    Ok(())
}

/// The two take turns, so that whatever disturbs the machine or the server disturbs them alike.
fn cold(args: &[String]) -> Done {
    let [times, clear, file, secret] = args else {
        return Err(USAGE.into());
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let backend = AwsBackend::new(AwsOptions {
        secret_name: secret.clone(),
        region: None,
        ca_bundle: None,
        connect_timeout: Duration::from_secs(3),
        total_timeout: Duration::from_secs(10),
    });
    let (mut mounted, mut direct) = (Vec::new(), Vec::new());
    // The first calls make the clients.
    for time in 0..=times.parse::<usize>()?.max(1) {
        std::fs::write(clear, "")?;
        let start = Instant::now();
        std::fs::read(file)?;
        let read = start.elapsed().as_secs_f64() * 1e3;
        let start = Instant::now();
        runtime
            .block_on(backend.fetch())
            .map_err(|error| error.reason)?;
        let called = start.elapsed().as_secs_f64() * 1e3;
        if time > 0 {
            mounted.push(read);
            direct.push(called);
        }
    }
    println!("mount {:.2}", median(&mut mounted));
    println!("direct {:.2}", median(&mut direct));
    Ok(())
}

/// One reader reads on and on; the longest it took while the server was changed counts.
fn waits(args: &[String]) -> Done {
    let [times, mount, file, command @ ..] = args else {
        return Err(USAGE.into());
    };
    let server = || -> Result<i32, Box<dyn std::error::Error>> {
        let status: serde_json::Value =
            serde_json::from_slice(&std::fs::read(format!("{mount}/status"))?)?;
        let pid = status["server_pid"].as_i64().ok_or("it has no server")?;
        Ok(i32::try_from(pid)?)
    };
    let files = match std::fs::metadata(file)?.is_dir() {
        true => files_in(file)?,
        false => vec![file.into()],
    };
    let expected: Vec<Vec<u8>> = files.iter().map(std::fs::read).collect::<Result<_, _>>()?;
    let at_least = files.len().max(100) as u64;
    let (longest, ended) = (AtomicU64::new(0), AtomicBool::new(false));
    let (reads, failed) = (AtomicU64::new(0), AtomicU64::new(0));
    let mut waits = Vec::new();
    let done = std::thread::scope(|scope| -> Done {
        scope.spawn(|| {
            for (file, expected) in files.iter().zip(&expected).cycle() {
                if ended.load(Ordering::Relaxed) {
                    break;
                }
                let start = Instant::now();
                if std::fs::read(file).ok().as_ref() != Some(expected) {
                    failed.fetch_add(1, Ordering::Relaxed);
                }
                let took = start.elapsed().as_micros() as u64;
                longest.fetch_max(took, Ordering::Relaxed);
                reads.fetch_add(1, Ordering::Relaxed);
            }
        });
        let measured = (|| {
            for _ in 0..times.parse::<usize>()?.max(1) {
                let before = server()?;
                longest.store(0, Ordering::Relaxed);
                match command {
                    [] => {
                        let pid = rustix::process::Pid::from_raw(before).ok_or("no process")?;
                        rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
                    }
                    [program, arguments @ ..] => {
                        let mut command = Command::new(program);
                        command
                            .args(arguments)
                            .stdout(Stdio::null())
                            .stderr(Stdio::null());
                        let status = command.status()?;
                        if !status.success() {
                            return Err(format!("{program}: {status}").into());
                        }
                    }
                }
                while server()? == before {
                    std::thread::sleep(Duration::from_millis(1));
                }
                // What the change held up has been read by then.
                let enough = reads.load(Ordering::Relaxed) + at_least;
                while reads.load(Ordering::Relaxed) < enough {
                    std::thread::sleep(Duration::from_millis(1));
                }
                waits.push(longest.load(Ordering::Relaxed) as f64 / 1e3);
            }
            Ok(())
        })();
        ended.store(true, Ordering::Relaxed);
        measured
    });
    done?;
    let worst = waits.iter().copied().fold(0.0, f64::max);
    println!("waits {:.1} {worst:.1}", median(&mut waits));
    let (reads, failed) = (reads.into_inner(), failed.into_inner());
    println!("reads {reads} {failed}");
    if failed > 0 {
        return Err(format!("{failed} of {reads} reads failed or read something else").into());
    }
    Ok(())
}

fn files_in(dir: &str) -> std::io::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(dir)?;
    entries.map(|entry| Ok(entry?.path())).collect()
}

/// Somebody opens the name just before each write, so that the kernel has it.
fn rotations(args: &[String]) -> Done {
    let [times, live, view] = args else {
        return Err(USAGE.into());
    };
    let (mut seen, mut stale) = (Vec::new(), 0);
    for time in 0..=times.parse::<usize>()?.max(1) {
        let value = format!("value {time}");
        let _ = std::fs::read(view)?;
        let start = Instant::now();
        std::fs::write(live, &value)?;
        while std::fs::read_to_string(view)? != value {
            stale += 1;
            if stale > 1_000_000 {
                return Err(format!("{view} never shows what was written to {live}").into());
            }
        }
        // The first round warms up.
        if time > 0 {
            seen.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    println!("visible {:.2}", median(&mut seen));
    println!("stale {stale}");
    Ok(())
}

fn neighbour(args: &[String]) -> Done {
    const MAX_OPEN: usize = 50_000;
    let [kind, dir] = args else {
        return Err(USAGE.into());
    };
    match kind.as_str() {
        "opens" => {
            use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
            let most = getrlimit(Resource::Nofile).maximum;
            let limit = Rlimit {
                current: most,
                maximum: most,
            };
            setrlimit(Resource::Nofile, limit)?;
            let spare = most.map_or(MAX_OPEN, |most| most as usize - 50);
            let files = files_in(dir)?;
            let mut open = std::collections::VecDeque::new();
            for file in files.iter().cycle() {
                if open.len() >= MAX_OPEN.min(spare) {
                    open.pop_front();
                }
                open.push_back(File::open(file)?);
            }
        }
        "lists" => loop {
            black_box(std::fs::read_dir(dir)?.count());
        },
        "probes" => {
            for number in 0_u64.. {
                let found = std::fs::metadata(format!("{dir}/nothing_{number}"));
                if found.is_ok() {
                    return Err("a name is there that nobody made".into());
                }
            }
        }
        _ => return Err(USAGE.into()),
    }
    Ok(())
}

fn cache(args: &[String]) -> Done {
    let gets: usize = args.first().ok_or(USAGE)?.parse()?;
    let cache = TtlCache::new(CacheOptions {
        default_ttl: Duration::from_secs(300),
        max_size: 1000,
        cleanup_interval: None,
    });
    let keys: Vec<String> = (0..1000).map(|i| format!("secret:KEY_{i}")).collect();
    for key in &keys {
        cache.set(key, SecretValue::new("value"));
    }
    let mut rates = Vec::new();
    for _ in 0..5 {
        let start = Instant::now();
        let mut hits = 0;
        for i in 0..gets {
            hits += usize::from(black_box(cache.get(&keys[i % keys.len()])).is_some());
        }
        if hits != gets {
            return Err("a value went missing from the cache".into());
        }
        rates.push(gets as f64 / start.elapsed().as_secs_f64() / 1e6);
    }
    println!("{:.1}", median(&mut rates));
    Ok(())
}
