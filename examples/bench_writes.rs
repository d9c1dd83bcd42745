//! The writing half of `scripts/bench`: stale looks after a close, many writers, many files, large files. Prints plain
//! numbers, one line for each thing measured; the script makes the table.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const USAGE: &str = "usage:
  bench_writes stale TIMES FILE        how many looks after a close were stale, by this process and by another one that
                                       looked between the write and the close, too
  bench_writes churn TIMES FOLDER      makes and removes files, each before the next
  bench_writes series TIMES FOLDER     files made one after another: seconds of the first and of the last fifth, and of all
  bench_writes writers COUNT FOLDER    milliseconds until the last of so many who close at once is done
  bench_writes sizes FOLDER MIB...     median seconds for a file of each size, in writes of 8 KiB
  bench_writes large FOLDER FILE OTHER MIB...
                                       the same beside reads; and p99 in microseconds of reading FILE alone and beside the
                                       writes, and OTHER, of another filesystem, alone and beside them";

type Done = Result<(), Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["stale", times, file] => stale(times, file),
        ["look", file] => look(file),
        ["churn", times, folder] => churn(times, Path::new(folder)),
        ["series", times, folder] => series(times, Path::new(folder)),
        ["writers", count, folder] => writers(count, Path::new(folder)),
        ["sizes", folder, ref sizes @ ..] => sizes_alone(Path::new(folder), sizes),
        ["large", folder, file, other, ref sizes @ ..] => {
            large(Path::new(folder), [file, other], sizes)
        }
        _ => Err(USAGE.into()),
    };
    if let Err(error) = done {
        eprintln!("bench_writes: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Answers each line with the file's content and its size.
fn look(file: &str) -> Done {
    for line in std::io::stdin().lines() {
        line?;
        let value = fs::read_to_string(file)?;
        println!("{value} {}", fs::metadata(file)?.len());
    }
    Ok(())
}

fn stale(times: &str, file: &str) -> Done {
    let mut other = Command::new(std::env::current_exe()?)
        .args(["look", file])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut ask = other.stdin.take().ok_or("no pipe")?;
    let mut answers = BufReader::new(other.stdout.take().ok_or("no pipe")?);
    let mut other_sees = || -> Result<String, Box<dyn std::error::Error>> {
        ask.write_all(b"\n")?;
        let mut answer = String::new();
        answers.read_line(&mut answer)?;
        Ok(answer.trim_end().to_owned())
    };
    fs::write(file, "before")?;
    let (mut here, mut there) = (0, 0);
    for round in 0..times.parse::<usize>()? {
        let value = format!("{round}{}", "x".repeat(round % 7 * 500));
        let mut writer = File::create(file)?;
        writer.write_all(value.as_bytes())?;
        // From here on the name holds, with the old value, until something changes.
        other_sees()?;
        drop(writer);
        there += usize::from(other_sees()? != format!("{value} {}", value.len()));
        let size = fs::metadata(file)?.len();
        here += usize::from(fs::read_to_string(file)? != value || size != value.len() as u64);
    }
    drop(ask);
    other.wait()?;
    println!("stale {here} {there}");
    Ok(())
}

fn churn(times: &str, folder: &Path) -> Done {
    for number in 0..times.parse::<usize>()? {
        let path = folder.join(format!("CHURN_{number}"));
        fs::write(&path, "x".repeat(1000))?;
        fs::remove_file(path)?;
    }
    Ok(())
}

fn series(times: &str, folder: &Path) -> Done {
    let times: usize = times.parse()?;
    let (begun, mut fifths) = (Instant::now(), Vec::new());
    for number in 0..times {
        if number % (times / 5).max(1) == 0 {
            fifths.push(begun.elapsed());
        }
        fs::write(
            folder.join(format!("SERIES_{number}")),
            format!("value {number}"),
        )?;
    }
    fifths.push(begun.elapsed());
    let last = fifths.len() - 1;
    println!(
        "series {:.3} {:.3} {:.3}",
        (fifths[1] - fifths[0]).as_secs_f64(),
        (fifths[last] - fifths[last - 1]).as_secs_f64(),
        fifths[last].as_secs_f64()
    );
    Ok(())
}

fn writers(count: &str, folder: &Path) -> Done {
    let count: usize = count.parse()?;
    let barrier = Barrier::new(count + 1);
    let begun = std::thread::scope(|scope| {
        for number in 0..count {
            let (barrier, path) = (&barrier, folder.join(format!("AT_ONCE_{number}")));
            scope.spawn(move || {
                let mut file = File::create(path).expect("it can be created");
                file.write_all(b"value").expect("it can be written");
                barrier.wait();
            });
        }
        barrier.wait();
        Instant::now()
    });
    println!("writers {:.1}", begun.elapsed().as_secs_f64() * 1e3);
    for number in 0..count {
        let value = fs::read_to_string(folder.join(format!("AT_ONCE_{number}")))?;
        if value != "value" {
            return Err(format!("of the value of writer {number} there is {value:?}").into());
        }
    }
    Ok(())
}

/// Reads until it is asked to end; the times of its reads.
fn reads(file: &str, ended: &AtomicBool) -> std::io::Result<Vec<Duration>> {
    let (mut times, mut buffer) = (Vec::new(), [0; 4096]);
    while !ended.load(Ordering::Relaxed) || times.len() < 100 {
        let begun = Instant::now();
        std::hint::black_box(File::open(file)?.read(&mut buffer)?);
        times.push(begun.elapsed());
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(times)
}

fn p99(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() * 99 / 100].as_secs_f64() * 1e6
}

/// So many files of each size are written beside the reads of each file.
const LARGE_FILES: usize = 15;

/// How long it takes to write a file of so many MiB in pieces of 8 KiB.
fn write_pieces(path: &Path, mib: usize) -> std::io::Result<Duration> {
    let begun = Instant::now();
    let mut file = File::create(path)?;
    for _ in 0..mib * 128 {
        file.write_all(&[b'x'; 8192])?;
    }
    Ok(begun.elapsed())
}

/// All sizes in turn, so that what else runs on the machine meets all of them.
fn sizes_alone(folder: &Path, sizes: &[&str]) -> Done {
    let path = folder.join(".bench");
    let mut all_took = vec![Vec::new(); sizes.len()];
    for _ in 0..LARGE_FILES {
        for (size, took) in sizes.iter().zip(&mut all_took) {
            took.push(write_pieces(&path, size.parse()?)?);
            fs::remove_file(&path)?;
        }
    }
    for (size, mut took) in sizes.iter().zip(all_took) {
        took.sort();
        println!("size {size} {:.4}", took[LARGE_FILES / 2].as_secs_f64());
    }
    Ok(())
}

fn large(folder: &Path, files: [&str; 2], sizes: &[&str]) -> Done {
    let path = folder.join(".bench");
    for mib in sizes {
        let size = mib.parse()?;
        let (mut all_took, mut beside) = (Vec::new(), [Vec::new(), Vec::new()]);
        // The two files in turn: one is read while a file is written, the other while the next one is.
        for number in 0..2 * LARGE_FILES {
            let which = number % 2;
            let ended = AtomicBool::new(false);
            let (took, reads) = std::thread::scope(|scope| {
                let reader = scope.spawn(|| reads(files[which], &ended));
                let took = write_pieces(&path, size);
                ended.store(true, Ordering::Relaxed);
                (took, reader.join().expect("the reader does not panic"))
            });
            fs::remove_file(&path)?;
            all_took.push(took?);
            beside[which].extend(reads?);
        }
        all_took.sort();
        print!("large {mib} {:.4}", all_took[LARGE_FILES].as_secs_f64());
        for (file, beside) in files.into_iter().zip(beside) {
            // As many reads alone as there were beside the writes.
            let mut alone = Vec::new();
            while alone.len() < beside.len() {
                alone.extend(reads(file, &AtomicBool::new(true))?);
            }
            print!(" {:.1} {:.1}", p99(alone), p99(beside));
        }
        println!();
    }
    Ok(())
}
